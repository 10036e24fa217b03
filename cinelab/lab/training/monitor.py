"""A distillation while it runs: up to five panels, and an alarm for each known failure of DMD.

loss                    what the student and the critic descend
distance of the scores  how far real and fake score are apart: the only number of DMD that should
                        fall
logits of the head      of real and of made clips, where DMD has its adversarial head
validation              the metrics that the list marks for it, and the score that selects the
                        weights
share of the truth's    those of them that are relative to the truth: 1 is right
"""

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.reports.plots import INK, PALETTE, QUIET, TEMPLATE, centred_mean, thinned
from cinelab.metrics.legacy import modern_log
from cinelab.metrics.metric import METRICS

TRUTH = "share of the truth's"
PANELS = {
    "loss": ("loss", "critic_loss"),
    "distance of the scores": ("gap",),
    "logits of the adversarial head": ("critic_real", "critic_made"),
}
LOWEST_MOTION = 0.6  # of the truth's, below which motion is dying
HIGHEST = {"saturation": 1.25, "contrast": 1.25}  # of the truth's, above which colours burn
FEW = 30  # values, below which a curve has markers and is not smoothed
DIVERGING = 2.0  # times its own best mean
DIVERGENCE_REMEDIES = {
    "critic_loss": "lower critic.lr or raise critic_updates",
    "gap": "raise critic_updates",
}


def alarms(rows: Sequence[dict]) -> list[str]:
    """Return what is wrong at the end of the log, one sentence each with the remedy."""
    validations = [row for row in rows if "motion" in row]
    last = validations[-1] if validations else {}
    return [*_frame_alarms(last), *_critic_alarms(rows)]


def _frame_alarms(last: dict) -> Iterator[str]:
    """Yield what is wrong with the frames of the last validation."""
    if last and last["motion"] < LOWEST_MOTION:
        yield (
            f"Motion is {last['motion']:.2f} of the truth's: it is dying. Stop early or lower "
            "optim.lr; the best weights are saved."
        )
    for name, most in HIGHEST.items():
        if last.get(name, 0) > most:
            yield (
                f"{name.capitalize()} is {last[name]:.2f} of the truth's: colours burn. Lower "
                "guidance, or stop early; the best weights are saved."
            )


def _critic_alarms(rows: Sequence[dict]) -> Iterator[str]:
    """Yield which of the critic's numbers has grown."""
    for name, remedy in DIVERGENCE_REMEDIES.items():
        means = _means([row[name] for row in rows if name in row])
        if len(means) > 1 and means[-1] > DIVERGING * means.min():
            yield (
                f"{name} is {means[-1]:.3f}, {means[-1] / means.min():.1f} times its lowest: the "
                f"critic diverges; {remedy}."
            )


def _means(values: list[float], parts: int = 8) -> np.ndarray:
    """Return the means of `parts` equal stretches, so that single noisy steps raise no alarm."""
    if len(values) < 2 * parts:
        return np.array([])
    return np.array([np.mean(part) for part in np.array_split(values, parts)])


def distillation_curves(rows: Sequence[dict], title: str = "Distillation") -> go.Figure:
    """Draw the panels that the log has values for, two in a row; alarms stand above them."""
    rows = modern_log(rows)
    panels = _panels(rows)
    lines = max(1, -(-len(panels) // 2))
    fig = make_subplots(
        lines,
        2,
        subplot_titles=list(panels) or None,
        horizontal_spacing=0.27,
        vertical_spacing=0.16,
    )
    for place, (name, keys) in enumerate(panels.items(), 1):
        cell = {"row": (place + 1) // 2, "col": 2 - place % 2}
        for number, key in enumerate(keys):
            curve = _curve(
                rows, key, colour=PALETTE[number % len(PALETTE)], legend=f"legend{place}"
            )
            fig.add_trace(curve, **cell)
        if name == TRUTH:
            fig.add_hline(y=1, line={"dash": "dash", "color": QUIET}, **cell)
        _place_legend(fig, place)
    return _titled(fig, title, alarms(rows), lines=lines)


def _panels(rows: Sequence[dict]) -> dict[str, list[str]]:
    """Return the keys of each panel that some row has."""
    known = set().union(*rows)
    metrics = METRICS.validated()
    own = {
        "validation": ("score", *(one.name for one in metrics if not one.relative)),
        TRUTH: [one.name for one in metrics if one.relative],
    }
    panels = {name: [key for key in keys if key in known] for name, keys in (PANELS | own).items()}
    return {name: keys for name, keys in panels.items() if keys}


def _curve(rows: Sequence[dict], key: str, *, colour: str, legend: str) -> go.Scatter:
    """Draw a key over the steps; a long curve is smoothed over a thirtieth of its length."""
    steps = np.array([row["step"] for row in rows if key in row])
    values = np.array([row[key] for row in rows if key in row])
    few = len(values) < FEW
    some = thinned(len(values))
    means = values if few else centred_mean(values.tolist(), max(1, len(values) // 60) * 2 + 1)
    return go.Scatter(
        x=steps[some],
        y=means[some],
        name=key,
        mode="lines+markers" if few else "lines",
        line={"color": colour, "width": 2.5},
        legend=legend,
        hovertemplate=f"step %{{x}}: {key} %{{y:.3f}}<extra></extra>",
    )


def _place_legend(fig: go.Figure, place: int) -> None:
    """Put the legend of a panel to its right."""
    number = place if place > 1 else ""
    right = fig.layout[f"xaxis{number}"].domain[1]
    top = fig.layout[f"yaxis{number}"].domain[1]
    legend = {"x": right + 0.005, "y": top, "xanchor": "left", "yanchor": "top"}
    fig.update_layout({f"legend{place}": legend})


def _titled(fig: go.Figure, title: str, warnings: list[str], *, lines: int) -> go.Figure:
    """Set the title and the warnings below it, and make room for them."""
    marked = [
        f"<br><span style='font-size:14px;color:#D55E00'>⚠ {text}</span>" for text in warnings
    ]
    room = 24 * len(marked)
    fig.update_layout(
        template=TEMPLATE,
        title=title + "".join(marked),
        height=340 * lines + 60 + room,
        margin={"t": 100 + room},
        font={"color": INK},
    )
    return fig.update_xaxes(title="step", row=lines)
