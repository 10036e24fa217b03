"""The sections, in their order of worth: what is left out for want of time stands last."""

from dataclasses import dataclass

from cinelab.errors import CinelabError

TRAINING = "training"


@dataclass(frozen=True)
class Section:
    """A part of the sitting that runs in a process of its own."""

    name: str
    modules: tuple[str, ...]  # of this package, each with run(task)
    expected: float  # seconds on an H100
    limit: float  # seconds after which it is stopped
    writes: str
    quiet: bool = False  # nothing else may use the cores meanwhile
    needs: str = ""  # an option without which it is left out

    def spans(self, *, rehearsed: bool) -> tuple[float, float]:
        """Return the expected seconds and the limit; in a rehearsal those of a laptop."""
        return (6.0, 200.0) if rehearsed else (self.expected, self.limit)


SECTIONS = (
    Section(
        "ceilings",
        ("ceilings",),
        30,
        60,
        "products in bf16 and fp8, attention kernels, copies, launch and synchronisation",
        quiet=True,
    ),
    Section(
        "correctness",
        ("parity", "films", "noise", "kernels"),
        100,
        190,
        "CPU against GPU, exact twice, overlap, fused, histories, noise floors, kernels, VAE",
    ),
    Section(
        "speed",
        ("first_frame", "speed"),
        100,
        180,
        "1.3B chunk-wise and frame-wise, policies, histories to 200, decoders apart and beside",
        quiet=True,
    ),
    Section(
        "official",
        ("official",),
        35,
        90,
        "Self-Forcing's CausalWanModel in turns with ours",
        quiet=True,
        needs="official",
    ),
    Section("profile", ("profiling",), 50, 100, "top kernels, launches, waits; exact and compiled"),
    Section(
        "options", ("options",), 170, 260, "exact, compiled, fast; linears, histories, kernels"
    ),
    Section("large", ("large",), 40, 90, "14B: what fits, and its chunk"),
    Section("tests", ("marked_tests",), 60, 150, "pytest -m gpu"),
    Section(
        TRAINING,
        ("training",),
        240,
        3600,
        "the queue: weights, log.jsonl, run.json, a card where time is left",
    ),
)


def section_named(name: str) -> Section:
    """Return a section; CinelabError names the known ones."""
    for section in SECTIONS:
        if section.name == name:
            return section
    known = ", ".join(one.name for one in SECTIONS)
    raise CinelabError(f"Section {name!r} is unknown; use one of {known}.")
