"""The bounds of numbers that people give, each in one place, and the check that every reader of
them shares.

They agree with each other: what a session may hold can be exported, read as a screenplay and
rendered again.
"""

from collections.abc import Sequence
from math import isfinite
from numbers import Real
from typing import Any

from cinelab.errors import CinelabError

# latent frames of a film; the history of a longer one would fill the memory of a laptop
LATENTS = 4000
CHUNKS = LATENTS  # of a film, each at least one latent frame
SHOTS = 200  # entries of a screenplay
# shots of a session: each may become two entries of the screenplay that is exported
DIRECTED = SHOTS // 2
SECONDS = 600  # of a shot
STEPS = 1000  # sampling steps of a chunk, and of what it is compared with
BUDGET = 10**6  # history chunks seen at once
LEAST_BUDGET = 3  # of the compared policies: a sink, a chunk to retrieve, the last one
SEED = 2**63  # seeds lie below: a signed integer of 64 bits in files, tables and torch
CARD_SEED = 10**9  # seeds of an evaluation lie below: a thousand seeds of films are made from each
FILMS = 100_000  # of an evaluation, a seed and test
WORKERS = 1024  # processes or cells at once
VISITORS = 1000
PORT = 65_535
SIDE = 16_384  # pixels
# values of a YAML file, aliases unfolded: seeds of a sweep, words of a job, fields of a screenplay
VALUES = 60_000
DEPTH = 64  # lists and mappings inside each other, in any file
DIGITS = 300  # of a number in a file
ROWS = 5_000_000  # of a table
WHOLE = 2**63  # whole numbers of settings lie below in magnitude: larger ones fit into no table

RATE = 1000  # frames per second
LARGE = 10**6  # widths, dimensions and other sizes of a network, of a batch
LAYERS = 200
TRAINED = 10**9  # steps of a training, films and clips of its data
MINUTES = (0.01, 10**6)  # that a training may take

# What a setting of a file or notebook may be, by its name, whatever group of settings it stands in:
# (least, most).
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("steps", "save_every", "validate_every", "films", "clips", "held_out"), (1, TRAINED)
    ),
    **dict.fromkeys(
        (
            "batch",
            "frames",
            "frames_per_batch",
            "latents",
            "shortest",
            "longest",
            "chunk",
            "span",
            "grain",
            "shard",
            "group",
            "shard_mib",
            "critic_updates",
            "lengths",
            "curriculum",
            "grid",
            "channels",
            "width",
            "deep",
            "judged",
            "fold",
            "fine",
            "blocks",
            "deep_blocks",
            "stride",
            "attention_head_dim",
            "ffn_dim",
            "in_channels",
            "out_channels",
            "text_dim",
            "freq_dim",
            "patch_size",
            "length",
            "summary",
            "rank",
            "parts",
            "micro_batches",
            "sequence",
            "shot_latents",
            "absence_latents",
            "repeats",
            "words",
            "gpus",
            "slots",
            "least_shot",
            "look",
            "motion",
            "where",
            "what",
            "features",
            "candidates",
            "scale",
            "lora",
        ),
        (1, LARGE),
    ),
    **dict.fromkeys(("num_layers", "num_attention_heads", "layers"), (1, LAYERS)),
    **dict.fromkeys(
        (
            "warmup",
            "counted",
            "max_distance",
            "recalls",
            "ema_from",
            "frame",
            "away",
            "reframed_away",
            "in_span",
            "pairs",
            "held",
            "history",
        ),
        (0, TRAINED),
    ),
    **dict.fromkeys(("budget", "sink", "shot_sink", "window"), (0, BUDGET)),
    "routed_layers": (0, LAYERS - 1),  # numbers of layers, from 0
    **dict.fromkeys(
        (
            "camr_share",
            "other_shots_share",
            "codec_share",
            "images_until",
            "drop_text",
            "known",
            "true_past",
            "ema",
            "floor",
            "betas",
            "t_range",
            "routed_from",
            "cut_short",
            "share",
            "past_noise",
            "depths",
            "eps",
            "rise",
            "most",
        ),
        (0, 1),
    ),
    **dict.fromkeys(
        (
            "guidance",
            "shift",
            "lr",
            "weight_decay",
            "clip",
            "alpha",
            "noise",
            "perceptual",
            "weight",
            "critic_weight",
            "rate",
        ),
        (0, LARGE),
    ),
    # of exp(beta r): larger weights are one clip's alone
    "beta": (0, 20),
    "mixture": (0, LARGE),
    "size": (1, SIDE),
    "first_steps": (1, STEPS),
    "seeds": (0, SEED - 1),
    "fps": (1e-3, RATE),
    "held_seconds": (4, SECONDS),
    "minutes": MINUTES,
    "seed": (0, SEED - 1),
}


def check_range(name: str, value: Any, path: str) -> None:
    """Raise a CinelabError that names `path` if a setting of this name cannot be `value`."""
    least, most = RANGES.get(name, (None, None))
    level = isinstance(value, float) and least == 1  # such as `steps: [1.0, 0.6, 0.3]`: no count
    if least is not None and not level:
        check_number(f"Setting {path!r}", value, least, most, whole=isinstance(value, int))


def check_number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    whole: bool = True,
) -> None:
    """Raise a CinelabError unless `value` is a finite number within the bounds, and whole if
    required."""
    kinds = (int,) if whole else (int, float)
    good = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and (isinstance(value, int) or isfinite(value))
    )
    good = good and (least is None or value >= least) and (most is None or value <= most)
    if not (good and (above is None or value > above) and (below is None or value < below)):
        raise CinelabError(
            f"{name} is {short(value)}; give {wanted(least, most, above, below, whole)}."
        )


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_levels(levels: Sequence[float], name: str) -> None:
    """Few-step levels fall strictly and lie in (0, 1]."""
    levels = list(levels)
    if wrong := [level for level in levels if not is_number(level)]:
        raise CinelabError(
            f"{name} holds {short(wrong[0])}; give numbers that fall strictly and lie in (0, 1], "
            "like [1.0, 0.75, 0.5, 0.25]."
        )
    check_number(f"The number of levels in {name}", len(levels), 0, STEPS)
    falls = all(a > b for a, b in zip(levels, levels[1:], strict=False))
    if not levels or not falls or not all(0 < level <= 1 for level in levels):
        raise CinelabError(
            f"{name} is {list(levels)}; give levels that fall strictly and lie in (0, 1], like "
            "[1.0, 0.75, 0.5, 0.25]."
        )


def wanted(
    least: float | None,
    most: float | None,
    above: float | None = None,
    below: float | None = None,
    whole: bool = True,
) -> str:
    """The bounds in words, such as "a whole number from 1 to 4000"."""
    kind = "a whole number" if whole else "a number"
    if least is not None and most is not None:
        return f"{kind} from {number_text(least)} to {number_text(most)}"
    parts = [
        f"{word} {number_text(bound)}"
        for word, bound in (
            ("above", above),
            ("of at least", least),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    return " ".join([kind, " and ".join(parts)]).strip()


def number_text(bound: float) -> str:
    """A bound as a person writes it."""
    if bound == 2**63 - 1:
        return "2**63 - 1"
    return "2**63" if bound == 2**63 else str(int(bound)) if bound == int(bound) else str(bound)


def short(value: Any, most: int = 60) -> str:
    """A value on one line, cut where it would fill the sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an int of more than 4300 digits
        return "a huge number"
    return truncated(text, most)


def truncated(text: str, most: int, end: str = "...") -> str:
    """A text of at most `most` characters, which ends in `end` where more was there."""
    return text if len(text) <= most else text[: most - len(end)] + end


def shown_path(path: Any, most: int = 300) -> str:
    """A path as it was typed, cut in the middle where it would fill the sentence: its end tells
    most."""
    # a name that is no UTF-8 fits into no table
    text = str(path).encode(errors="backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
