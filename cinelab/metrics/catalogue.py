"""Every built-in metric, stated once: direction, unit, range, protocols, chance, bound and source.

Reports, cards, tables, figures, validation and panels take order, direction and unit from here
(see `cinelab.metrics.metric.METRICS`); the order of the entries is the order in which they are
listed.
A metric of the pixels alone needs no entry: `@register.metric` states the same beside its function.

    protocols   how a value is taken, where there are several ways, in the order of reports
    headline    reports and comparisons show it unless others are named
    compared    comparisons of cards show it too
    validation  "column": in the log of a training; "selects": it also selects the best weights
    backend     what measures it by default; another one is named beside the metric
    bounds      what the value is for a random answer (chance) and for the ground truth (upper)
    source      paper and section; "ours" where no text was public, with what was inferred
"""

from typing import Any

VBENCH = "Huang et al., VBench, arXiv:2311.17982, section 3"
LONG = "Helios-Bench: the last 15 % of a film against its first; the share is theirs"
OURS = "ours; needs the toybox's plan, so that the answer is exact"
ACROSS = "HoloCine, arXiv:2510.20822 (inter-shot consistency); exact reading in place of features"
CUTS = "HoloCine, arXiv:2510.20822 (shot cut accuracy); tolerance of 1 frame inferred"
FRAMING = "ours; CausalCine, arXiv:2605.12496, shows figures at the frame's edge without its head"
DMD = "ours; what distribution matching loses first (motion), or exaggerates (colour, contrast)"

ABSENCES = ("recalled", "kept", "across_shots", "away=1", "away=3", "away=5", "away=3 reframed")
SHARE = (0.0, 1.0)
OTHER_FILM = "another film's plan"
OTHER_CHARACTERS = "looks of other films' characters, or of shots that share nobody"
RELATIVE = "relative to the truth"


def prompted_metric(**more: Any) -> dict[str, Any]:
    """An attribute that the prompt names: 1 where the recogniser reads it in the shot, else 0.

    It holds for any attribute of any world that has no entry of its own."""
    bounds = {"chance": OTHER_FILM, "upper": "the recogniser's own accuracy"}
    return {"range": SHARE, "backend": "toybox", "source": OURS, **bounds, **more}


def _across(**more: Any) -> dict[str, Any]:
    """Looks that no prompt names, compared across shots."""
    about = {"range": SHARE, "backend": "toybox", "source": ACROSS, "protocols": ABSENCES}
    return {**about, "chance": OTHER_CHARACTERS, "upper": "the true film", "headline": True, **more}


def _excess(**more: Any) -> dict[str, Any]:
    """The share of kept looks less its chance in the very films that were made."""
    about = {"range": (-1.0, 1.0), "backend": "toybox", "protocols": ("kept",), "compared": True}
    source = "ours; a collapsed model keeps all and has 0 here"
    return {**about, "chance": "0", "source": source, **more}


def _diversity(**more: Any) -> dict[str, Any]:
    """How varied first appearances are: 1 less the probability of a collision."""
    about = {"range": SHARE, "backend": "toybox", "compared": True, "upper": "the true films"}
    return {**about, "source": "ours; Simpson's index over the looks of different films", **more}


def _framing(**more: Any) -> dict[str, Any]:
    """Where the figure stands in the frame, read from its colours."""
    about = {"better": "low", "backend": "toybox", "upper": "the true films", "source": FRAMING}
    shown = {"unit": "frame widths", "validation": "column", "compared": True}
    return {**about, **shown, **more}


def _relative(**more: Any) -> dict[str, Any]:
    """A number of the pixels divided by the mean of the true films."""
    about = {"better": None, "unit": RELATIVE, "backend": "pixels", "upper": "1", "source": DMD}
    return {**about, "validation": "column", **more}


def _drift() -> dict[str, Any]:
    """The relative change of a look from the first to the last 15 % of a film."""
    about = {"better": None, "unit": "relative change, last to first 15 %", "backend": "pixels"}
    return {**about, "chance": "0", "upper": "0", "headline": True, "source": LONG}


def _features(**more: Any) -> dict[str, Any]:
    """A cosine of network features, which states its backend with every value."""
    return {"range": (-1.0, 1.0), "source": VBENCH, **more}


def _fact(unit: str) -> dict[str, Any]:
    """A fact of the file."""
    return {"better": None, "unit": unit, "backend": "file", "source": "the container"}


def _count(**more: Any) -> dict[str, Any]:
    """A number of cuts."""
    return {"unit": "cuts", "backend": "frame difference", "source": CUTS, **more}


def _outside(backend: str, source: str, **more: Any) -> dict[str, Any]:
    """A number of another project's program."""
    return {"backend": backend, "source": source, **more}


VBENCH_DIMENSIONS = (
    "subject_consistency background_consistency temporal_flickering motion_smoothness "
    "dynamic_degree aesthetic_quality imaging_quality object_class multiple_objects human_action "
    "color spatial_relationship scene appearance_style temporal_style overall_consistency"
).split()
VISIONREWARD = "Xu et al., VisionReward, arXiv:2412.21059, section 3"

CATALOGUE: dict[str, dict[str, Any]] = {
    "identity": _across(validation="selects"),
    "prompt": prompted_metric(headline=True, validation="selects"),
    "scenery": _across(),
    "action": prompted_metric(headline=True, validation="column"),
    "cut accuracy": _count(
        unit="share of cuts matched",
        range=SHARE,
        chance="another film's cuts",
        headline=True,
        validation="selects",
    ),
    "hit rate": {
        "range": SHARE,
        "backend": "toybox",
        "protocols": ABSENCES,
        "chance": "pages drawn at random at the same budget",
        "compared": True,
        "source": "ours; whether a retrieved page shows the character that returns",
    },
    "identity above chance": _excess(validation="column"),
    "scenery above chance": _excess(),
    "diversity of identity": _diversity(validation="column"),
    "diversity of scenery": _diversity(),
    "framing offset": _framing(range=(0.0, 0.5), chance="1/4, of a figure that stands anywhere"),
    "framing drift": _framing(
        better=None,
        unit="frame widths an appearance",
        range=(-0.5, 0.5),
        chance="0",
    ),
    "at the edge": _framing(unit="", range=SHARE, chance="1/3, of a figure that stands anywhere"),
    "sharpness": _relative(headline=True),
    "motion": _relative(headline=True, validation="selects"),
    "saturation": _relative(headline=True),
    "contrast": _relative(),
    "drift": {
        "better": None,
        "unit": "last minus first quarter of the shots",
        "range": (-1.0, 1.0),
        "backend": "toybox",
        "chance": "0",
        "upper": "0",
        "headline": True,
        "source": "ours; after the drift terms of Helios-Bench, of the prompt's attributes",
    },
    "dynamic degree": {
        "unit": "frame heights a second",
        "backend": "Farneback",
        "headline": True,
        "source": f"{VBENCH}; fastest 5 %, but Farneback's flow in place of RAFT's",
    },
    "temporal flickering": {
        "unit": "1 is steady",
        "range": SHARE,
        "backend": "pixels",
        "headline": True,
        "source": VBENCH,
    },
    "drift of brightness": _drift(),
    "drift of saturation": _drift(),
    "drift of contrast": _drift(),
    "drift of sharpness": _drift(),
    "size": prompted_metric(),
    "colour": prompted_metric(),
    "kind": prompted_metric(),
    "setting": prompted_metric(),
    "time": prompted_metric(),
    "camera": prompted_metric(),
    "looks": {
        "range": SHARE,
        "backend": "toybox",
        "source": "ours; every attribute that no prompt names, against the true film",
    },
    "share of the history": {
        "better": "low",
        "range": SHARE,
        "backend": "KV cache",
        "protocols": ("one layer", "all layers"),
        "source": "ours; what the last chunk attends to",
    },
    "cuts seen": _count(better=None),
    "cut F1": _count(unit="", range=SHARE),
    "missed cuts": _count(better="low"),
    "spurious cuts": _count(better="low"),
    "chunk discontinuity": {
        "better": None,
        "unit": "1 is as elsewhere",
        "backend": "pixels",
        "upper": "1",
        "source": "Forcing-KV (chunk discontinuity); frame differences in place of RAFT's flow",
    },
    "consistency in shot": _features(),
    "text alignment": _features(),
    "drift of text alignment": _features(better=None, source=LONG),
    "frames": _fact("frames"),
    "frame rate": _fact("frames a second"),
    "seconds": _fact("s"),
    "height": _fact("pixels"),
    "width": _fact("pixels"),
    "frames per second": {"unit": "frames a second", "backend": "clock", "source": "the run"},
    "first frame seconds": {
        "better": "low",
        "unit": "s",
        "backend": "clock",
        "source": "the run",
    },
    **{name: _outside("vbench", VBENCH, range=SHARE) for name in VBENCH_DIMENSIONS},
    **{
        f"{part} score": _outside("vbench", VBENCH, range=SHARE)
        for part in ("quality", "semantic", "total")
    },
    "visionreward": _outside("visionreward", VISIONREWARD),
    "instruction following": _outside(
        "visionreward",
        "Causal Forcing, arXiv:2602.02214, reports one; its procedure is inferred (yes or no)",
        range=SHARE,
    ),
}
