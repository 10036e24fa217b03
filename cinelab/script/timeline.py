"""From the screenplay's seconds to chunks: which frame shows which shot under which prompt.

Legend: latent frame = one step of the codec in time; pixel frame = one frame of the film;
`stride` = pixel frames in a latent frame, except the first, which is a single frame (Wan's
layout); chunk = the latent frames that are denoised together.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.script.screenplay import PromptChange, Screenplay, Shot

# opens a prompt that goes on without a cut, so that a model can tell the two apart
CONTINUE = "then"
Span = tuple[int, int]  # (start, stop), stop excluded


@dataclass(frozen=True)
class Slot:
    """One chunk of the film."""

    index: int  # the chunk's number
    shot: int  # number of what lies between cuts
    entry: int  # index into Screenplay.shots
    prompt: int  # index into Timeline.prompts
    first: int  # its first latent frame
    frames: int  # its latent frames
    cut: bool  # it opens a shot other than the film's first
    turn: Shot | PromptChange | None = None  # what begins here, with the settings that it changes


@dataclass(frozen=True)
class Turn:
    """What changes inside an entry of the screenplay: from which pixel frame on, so many seconds
    after the entry begins."""

    frame: int
    seconds: float
    text: str  # the new prompt, and whatever else is set

    @property
    def line(self) -> str:
        return f"at {self.seconds:.1f} s: {self.text}"


@dataclass(frozen=True)
class Timeline(Readable):
    """The film's chunks in order, with `fps` counted in pixel frames."""

    slots: tuple[Slot, ...]
    prompts: tuple[str, ...]
    fps: float
    stride: int

    @property
    def latent_frames(self) -> int:
        return sum(slot.frames for slot in self.slots)

    @property
    def pixel_frames(self) -> int:
        return self._pixel(self.latent_frames)

    @property
    def seconds(self) -> float:
        """The film's length, whole chunks and Wan's short first frame included."""
        return self.pixel_frames / self.fps

    @property
    def cuts(self) -> list[int]:
        """The first pixel frame of each shot after the first."""
        return [self._pixel(slot.first) for slot in self.slots if slot.cut]

    @property
    def shot_spans(self) -> list[Span]:
        """Pixel frames of each shot, that is between cuts."""
        return self._spans("shot")

    @property
    def entry_spans(self) -> list[Span]:
        """Pixel frames of each entry of the screenplay."""
        return self._spans("entry")

    @property
    def turns(self) -> list[list[Turn]]:
        """The changes inside each entry of the screenplay, at the frames where they take effect."""
        spans = self.entry_spans
        prompt = ""
        found: list[list[Turn]] = [[] for _ in spans]
        for slot in self.slots:
            if isinstance(slot.turn, PromptChange):
                frame = self._pixel(slot.first)
                seconds = (frame - spans[slot.entry][0]) / self.fps
                found[slot.entry].append(Turn(frame, seconds, change_text(slot.turn, prompt)))
            prompt = slot.turn.prompt if slot.turn else prompt
        return found

    @property
    def shot_of_latent(self) -> list[int]:
        """The shot of each latent frame."""
        return self._per_latent("shot")

    @property
    def prompt_of_latent(self) -> list[int]:
        """The index into `prompts` of each latent frame."""
        return self._per_latent("prompt")

    def pixel_span(self, latent_index: int) -> Span:
        """The pixel frames of one latent frame. Raises IndexError outside the film."""
        if not 0 <= latent_index < self.latent_frames:
            raise IndexError(f"latent frame {latent_index} of a film of {self.latent_frames}")
        return self._pixel(latent_index), self._pixel(latent_index + 1)

    def _pixel(self, latent: int) -> int:
        """The first pixel frame of a latent frame, which is the number of pixel frames before."""
        return 1 + self.stride * (latent - 1) if latent > 0 else 0

    def _spans(self, key: str) -> list[Span]:
        runs = [list(run) for _, run in groupby(self.slots, attrgetter(key))]
        ends = [(run[0].first, run[-1].first + run[-1].frames) for run in runs]
        return [(self._pixel(start), self._pixel(stop)) for start, stop in ends]

    def _per_latent(self, key: str) -> list[int]:
        return [getattr(slot, key) for slot in self.slots for _ in range(slot.frames)]


def plan(screenplay: Screenplay, fps: float, stride: int, chunk: int) -> Timeline:
    """Lay the screenplay out in chunks of `chunk` latent frames. Raise CinelabError where it
    cannot.

    An entry lasts round(seconds * fps / stride) latent frames, at least 1, rounded up to whole
    chunks. Inside it, latent frame m stands at m * stride / fps seconds, so that an entry is laid
    out alike wherever it stands; the film's very first latent frame is one frame, which makes
    the first entry stride - 1 frames shorter.
    """
    _check(fps, stride, chunk)
    slots: list[Slot] = []
    prompts: dict[str, int] = {}
    shot = 0
    for entry, written in enumerate(screenplay.shots):
        cut = entry > 0 and written.cut == "cut"
        shot += cut
        turns: tuple[Shot | PromptChange, ...] = (written, *written.changes)
        spoken = _turns_by_chunk(written, entry, fps / stride, chunk)
        for n, turn in enumerate(spoken):
            goes_on = written.cut == "continue" or turns[turn].prompt != written.prompt
            index = len(slots)
            text = with_caption(screenplay.caption, turns[turn].prompt, goes_on)
            prompt = prompts.setdefault(text, len(prompts))
            begins = turns[turn] if n == 0 or spoken[n - 1] != turn else None
            slots.append(
                Slot(index, shot, entry, prompt, index * chunk, chunk, cut and n == 0, begins)
            )
    return Timeline(tuple(slots), tuple(prompts), fps, stride)


def change_text(change: PromptChange, before: str = "") -> str:
    """A change in words: the prompt where it is another than `before`, and every setting that it
    sets."""
    names = ("seed", "policy", "budget", "steps")
    parts = [
        f"{name} {_named(getattr(change, name))}"
        for name in names
        if getattr(change, name) is not None
    ]
    parts += ["recache"] if change.recache else []
    return ", ".join([change.prompt, *parts] if change.prompt != before or not parts else parts)


def _named(value: Any) -> str:
    """A setting in a word or two: of an object with settings of its own, the name of its class."""
    return str(value) if isinstance(value, str | Real | list | tuple) else type(value).__name__


def _turns_by_chunk(shot: Shot, entry: int, rate: float, chunk: int) -> list[int]:
    """What each of the entry's chunks stands under: 0 the shot itself, n its n-th change; `rate` is
    latent frames a second.

    A change takes effect at the first chunk that starts at or after it, or at the entry's last
    chunk where none does. The opening prompt keeps the first chunk, since a cut shows what was
    requested at the cut; of two changes on one chunk the later wins. What is never shown is warned
    of."""
    chunks = math.ceil(max(1, round(shot.seconds * rate)) / chunk)
    spoken = [0] * chunks
    for n, change in enumerate(shot.changes, start=1):
        start = math.ceil(round(change.at * rate / chunk, 6))  # rounded: 0.3 * 10 is above 3
        start = max(1, min(start, chunks - 1))
        spoken[start:] = [n] * len(spoken[start:])
    texts = [shot.prompt, *(change.prompt for change in shot.changes)]
    for n in sorted(set(range(len(texts))) - set(spoken)):
        _warn_unseen(entry, n, texts[n], chunk / rate)
    return spoken


def _warn_unseen(entry: int, change: int, prompt: str, chunk_seconds: float) -> None:
    warnings.warn(
        f"shot {entry + 1}, change {change}: {prompt!r} is never shown, since a prompt holds for "
        f"whole chunks of {chunk_seconds:.3g} s; make the shot longer or the changes further apart",
        stacklevel=4,
    )


def with_caption(caption: str, prompt: str, goes_on: bool = False) -> str:
    """ "caption. prompt" with single spaces, or the prompt alone; marked where the video goes on
    without a cut."""
    caption, prompt = (" ".join(text.split()) for text in (caption, prompt))
    caption = caption.rstrip(". ")
    text = f"{caption}. {prompt}" if caption else prompt
    return f"{CONTINUE} {text}" if goes_on else text


def _check(fps: Any, stride: Any, chunk: Any) -> None:
    known = isinstance(fps, Real) and not isinstance(fps, bool)
    if not (known and 0 < fps < math.inf):
        raise CinelabError(f"fps is {fps!r}; give a finite number above 0.")
    for name, value in (("stride", stride), ("chunk", chunk)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise CinelabError(f"{name} is {value!r}; give a whole number of frames, 1 or more.")
