"""Watching a distillation: four panels while it runs, and an alarm when DMD does what people
complain about.

losses    what the student and the critic descend
gap       how far real and fake score are apart: the only number of DMD that should fall
showing   prompt, action, identity and cuts of the exam, and the score that decides which weights are kept
picture   motion, colour, contrast and detail as shares of the truth's: 1 is right, for all four
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.reports.plots import INK, PALETTE, QUIET, TEMPLATE, centred_mean, thinned

PANELS = {
    "loss": ("loss", "critic_loss"),
    "distance of the scores": ("gap",),
    "exam": ("score", "prompt", "action", "identity", "cuts"),
    "share of the truth's": ("motion", "saturation", "contrast", "sharpness"),
}
LOWEST_MOTION = 0.6  # of the truth's, below which motion is dying
HIGHEST = {"saturation": 1.25, "contrast": 1.25}  # of the truth's, above which colours burn
DIVERGING = 2.0  # times its own best mean


def alarms(rows: Sequence[dict]) -> list[str]:
    """What is wrong at the end of the log, one sentence each with the remedy; nothing if all is
    well."""
    found = []
    exams = [row for row in rows if "motion" in row]
    if exams and exams[-1]["motion"] < LOWEST_MOTION:
        found.append(
            f"Motion is {exams[-1]['motion']:.2f} of the truth's: it is dying. Stop early or "
            "lower optim.lr; "
            "the best weights are kept."
        )
    for name, most in HIGHEST.items():
        if exams and exams[-1].get(name, 0) > most:
            found.append(
                f"{name.capitalize()} is {exams[-1][name]:.2f} of the truth's: colours burn. "
                "Lower guidance, or "
                "stop early; the best weights are kept."
            )
    for name, remedy in (
        ("critic_loss", "lower critic.lr or raise critic_updates"),
        ("gap", "raise critic_updates"),
    ):
        means = _means([row[name] for row in rows if name in row])
        if len(means) > 1 and means[-1] > DIVERGING * means.min():
            found.append(
                f"{name} is {means[-1]:.3f}, {means[-1] / means.min():.1f} times its lowest: the "
                "critic diverges; "
                f"{remedy}."
            )
    return found


def _means(values: list[float], parts: int = 8) -> np.ndarray:
    """Means of up to `parts` equal stretches, so that single noisy steps raise no alarm."""
    if len(values) < 2 * parts:
        return np.array([])
    return np.array([np.mean(part) for part in np.array_split(values, parts)])


def distillation_curves(rows: Sequence[dict], title: str = "Distillation") -> go.Figure:
    """The panels that the log has something for, two in a row; alarms stand above them."""
    panels = {
        name: [key for key in keys if any(key in row for row in rows)]
        for name, keys in PANELS.items()
    }
    panels = {name: keys for name, keys in panels.items() if keys}
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
            steps, values = zip(
                *((row["step"], row[key]) for row in rows if key in row), strict=True
            )
            few = len(values) < 30
            some = thinned(len(values))
            # of a thirtieth
            means = (
                np.array(values) if few else centred_mean(values, max(1, len(values) // 60) * 2 + 1)
            )
            fig.add_scatter(
                x=np.array(steps)[some],
                y=means[some],
                name=key,
                mode="lines+markers" if few else "lines",
                line={"color": PALETTE[number], "width": 2.5},
                legend=f"legend{place}",
                **cell,
                hovertemplate=f"step %{{x}}: {key} %{{y:.3f}}<extra></extra>",
            )
        if name == "share of the truth's":
            fig.add_hline(y=1, line={"dash": "dash", "color": QUIET}, **cell)
        x, y = (fig.layout[f"{axis}axis{place if place > 1 else ''}"].domain for axis in "xy")
        fig.update_layout(
            {f"legend{place}": {"x": x[1] + 0.005, "y": y[1], "xanchor": "left", "yanchor": "top"}}
        )
    told = "".join(
        f"<br><span style='font-size:14px;color:#D55E00'>⚠ {text}</span>" for text in alarms(rows)
    )
    room = 24 * told.count("<br>")
    fig.update_layout(
        template=TEMPLATE,
        title=title + told,
        height=340 * lines + 60 + room,
        margin={"t": 100 + room},
        font={"color": INK},
    )
    return fig.update_xaxes(title="step", row=lines)
