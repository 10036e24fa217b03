"""Executed notebooks as pages: figures drawn without Jupyter, nothing from a network, bounded."""

import nbformat
import plotly.graph_objects as go
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.reports.pages import figure_html, page, pages, shorten


def executed(tmp_path):
    """An executed notebook with a figure, a picture in two forms, and an output of 3 MiB."""
    figure = {
        "application/vnd.plotly.v1+json": go.Figure(
            go.Scatter(y=[1, 2], name="</script>")
        ).to_plotly_json()
    }
    picture = {"image/png": "iVBORw0KGgo=" * 9, "image/jpeg": "/9j/4AAQ"}
    outputs = [nbformat.v4.new_output("display_data", data) for data in (figure, picture)]
    outputs.append(nbformat.v4.new_output("stream", text="x" * 3_000_000))
    injected = nbformat.v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    cells = [
        nbformat.v4.new_markdown_cell("# A tour"),
        injected,
        nbformat.v4.new_code_cell("draw()", outputs=outputs),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_page_draws_its_figures_and_asks_no_network(tmp_path):
    text = page(executed(tmp_path))
    assert 'Plotly.newPlot("figure-0"' in text and '<script src="plotly.min.js">' in text
    assert (
        "seed = 1" not in text
        and "A tour" in text
        and "image/jpeg" in text
        and "iVBORw0KGgo=" not in text
    )
    assert 'src="http' not in text and "<link" not in text.split("</head>")[0]


def test_the_largest_outputs_are_left_out_and_say_so(tmp_path):
    cells = nbformat.read(executed(tmp_path), as_version=4).cells
    shorten(cells, 100_000)
    left = cells[2].outputs[2]
    assert (
        left["data"]["text/plain"].startswith("An output of 2.9 MiB is left out")
        and "text" not in left
    )
    assert "application/vnd.plotly.v1+json" in cells[2].outputs[0]["data"]


def test_text_in_a_figure_ends_no_script():
    assert "</script>" not in figure_html(
        {"data": [{"name": "</script>"}], "layout": {}}, "f"
    ).removesuffix("</script>")


def test_a_notebook_that_is_not_here_is_refused(tmp_path):
    with pytest.raises(CinelabError, match="99_none.ipynb is expected in"):
        pages({"99_none": {}}, tmp_path)
    with pytest.raises(CinelabError, match="it is called 61_report now"):
        pages({"50_report": {}}, tmp_path)
