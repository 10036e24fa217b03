"""The shot list of a video: what was planned, so that what was made can be measured against it.

It lies beside the video as `<name>.shots.json` (any tool can write one) and counts in pixel
frames:

    {"shots": [{"start": 0, "end": 15, "prompt": "...", "characters": ["anna"],
                "places": ["kitchen"]}, ...],
     "chunks": [0, 3, 5]}

`characters` and `places` name who and what comes back, `shows` what is true of the frames beyond
the prompt (attribute -> value, for worlds with ground truth), `cut: false` a prompt change without
a cut; `chunks` (first frame of every chunk) lets seams between chunks be measured; the first
`given` frames are no answer but a history that was given; `world` names the made world in whose
words the prompts are. All but start and end may be left out.
"""

from dataclasses import dataclass, field
from pathlib import Path

from cinelab.config import from_dict, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.script.timeline import Span, Timeline
from cinelab.texts import read_json

SUFFIX = ".shots.json"


@dataclass(frozen=True)
class ListedShot:
    """Frames start .. end (excluded) and what was meant to be in them."""

    start: int
    end: int
    prompt: str = ""
    characters: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    shows: dict = field(default_factory=dict)
    cut: bool = True  # False: the prompt changes, the video goes on

    @property
    def span(self) -> Span:
        return self.start, self.end


@dataclass(frozen=True)
class ShotList:
    """Shots in order, without gaps, and where chunks begin."""

    shots: tuple[ListedShot, ...]
    chunks: tuple[int, ...] = ()
    given: int = 0
    world: str = ""  # "" = not stated

    def __post_init__(self):
        if not self.shots:
            raise CinelabError("shots is empty; list at least one shot with start and end.")
        for number, shot in enumerate(self.shots, 1):
            before = self.shots[number - 2].end if number > 1 else 0
            if shot.start != before or shot.end <= shot.start:
                raise CinelabError(
                    f"shot {number} has start {shot.start} and end {shot.end}; it must start at "
                    f"{before}, where the one before ends, and end later."
                )

        if not 0 <= self.given < self.frames:
            raise CinelabError(
                f"given is {self.given}; of {self.frames} frames at least one must have been made."
            )

    @property
    def frames(self) -> int:
        return self.shots[-1].end

    @property
    def cuts(self) -> list[int]:
        """First frame of every shot that opens with a cut."""
        return [shot.start for shot in self.shots[1:] if shot.cut]

    @property
    def spans(self) -> list[Span]:
        return [shot.span for shot in self.shots]

    @classmethod
    def of(cls, line: Timeline, world: str | None = None) -> "ShotList":
        """What a timeline planned: one listed shot for every stretch under one prompt, in the words
        of a made world (None: of none)."""
        shots: list[ListedShot] = []
        for slot in line.slots:
            start, end = (
                line.pixel_span(slot.first)[0],
                line.pixel_span(slot.first + slot.frames - 1)[1],
            )
            prompt = line.prompts[slot.prompt]
            opens = slot.cut or not shots
            if shots and not opens and shots[-1].prompt == prompt:
                shots[-1] = ListedShot(shots[-1].start, end, prompt, cut=shots[-1].cut)
            else:
                shots.append(ListedShot(start, end, prompt, cut=opens))
        chunks = tuple(line.pixel_span(slot.first)[0] for slot in line.slots)
        return cls(tuple(shots), chunks, world=world or "")

    @classmethod
    def load(cls, path: str | Path) -> "ShotList":
        values = read_json(Path(path))
        try:
            if not isinstance(values, dict) or not isinstance(values.get("shots"), list):
                raise CinelabError(
                    "it is not a mapping with a list `shots`; see docs/benchmark.md for the layout."
                )
            shots = tuple(_shot(shot, f"shots[{i}]") for i, shot in enumerate(values["shots"]))
            return from_dict(cls, values | {"shots": shots})
        except CinelabError as error:
            raise CinelabError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        entries = to_dict(self)
        if not self.world:
            del entries["world"]
        write_json(path, entries)


def _shot(values: dict, where: str) -> ListedShot:
    if not isinstance(values, dict) or not {"start", "end"} <= values.keys():
        raise CinelabError(f"{where} is {values!r:.60}; give it a start and an end, in frames.")
    return from_dict(ListedShot, values, f"{where}.")


def shot_list_path(video: Path) -> Path:
    """Where the shot list of a video stands."""
    return video.with_name(video.stem + SUFFIX)
