"""Outputs of a running cell that are replaced in place: text, HTML, or a plotly figure."""

import os

import plotly.graph_objects as go
import plotly.io as pio

from cinelab.lab.reports.plots import svg

CURVES = "the training's curves"  # where no figure can be shown
GREY = "#767e8b"
CLEAR = "rgba(0,0,0,0)"


def in_notebook() -> bool:
    """Whether outputs can be replaced in place: a kernel runs this, not a terminal."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def in_jupyter() -> bool:
    """Whether a Jupyter server started this kernel, so that a browser shows its outputs; under
    papermill there is none."""
    return in_notebook() and "JPY_SESSION_NAME" in os.environ


class CellOutput:
    """One output of the running cell, empty at first, replaced in place by everything that is shown
    in it."""

    def __init__(self):
        from IPython.display import display

        self._handle = display({"text/plain": "", "text/html": ""}, raw=True, display_id=True)

    def show(self, bundle: dict) -> None:
        """Show a MIME bundle (type -> data) in place of the one before."""
        # raw: a plotly figure would show itself again, in another output
        self._handle.update(bundle, raw=True)


class LiveFigure:
    """A plotly figure in one output: a widget while a browser watches it grow, and the plain figure
    at the end.

    JupyterLab's renderer of plain plotly figures draws once and ignores what is sent later.
    """

    def __init__(self) -> None:
        self._output = CellOutput()
        self._shape = ""
        self._widget: go.FigureWidget | None = go.FigureWidget() if in_jupyter() else None

    def show(self, figure: go.Figure, *, last: bool) -> None:
        """Show a figure in place of the one before; the last one is stored with the notebook."""
        figure = themed(figure)
        if last or self._widget is None:
            self._show_plain(figure)
        else:
            self._show_live(figure, self._widget)

    def _show_plain(self, figure: go.Figure) -> None:
        page = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
        if self._widget is not None:
            self._widget.close()  # first: two figures would stand there for an instant
        self._output.show(page | {"image/svg+xml": svg(figure), "text/plain": CURVES})

    def _show_live(self, figure: go.Figure, widget: go.FigureWidget) -> None:
        is_first = not self._shape
        shape = _shape_of(figure)
        if shape == self._shape:
            _move_points(widget, figure)
        else:
            _rebuild(widget, figure)
        self._shape = shape
        if is_first:
            page = widget._repr_mimebundle_()
            bundle = page[0] if isinstance(page, tuple) else page
            self._output.show(bundle | {"text/plain": CURVES})


def _move_points(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Give the widget's traces their new points."""
    with widget.batch_update():
        for old, new in zip(widget.data, figure.data, strict=True):
            old.update(x=new.x, y=new.y)


def _rebuild(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Give the same widget other panels and traces: JupyterLab loses a widget that replaces another
    one."""
    widget.data = ()
    widget.update_layout(figure.layout, overwrite=True)
    widget.add_traces(figure.data)


def themed(figure: go.Figure) -> go.Figure:
    """Return a figure without background, in a grey that can be read on white and on black."""
    lines = {"gridcolor": "rgba(128,128,128,0.25)", "linecolor": GREY}
    figure.update_layout(
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, legend_bgcolor=CLEAR, font_color=GREY
    )
    figure.update_layout(uirevision="panel")  # a reader's zoom stays
    return figure.update_xaxes(lines).update_yaxes(lines)


def _shape_of(figure: go.Figure) -> str:
    """Return all of a figure but its points: two of one shape differ in the traces' x and y
    alone."""
    traces = [trace.to_plotly_json() | {"x": None, "y": None} for trace in figure.data]
    return repr((traces, figure.layout.to_plotly_json()))
