"""What is evaluated: any video with, where there is one, the list of the shots that were planned.

A clip comes from a video file, a folder of them, or the folder of a run (film.mp4 with
film.shots.json). Without a shot list the cuts that are seen make the shots, and what needs a plan
is reported as absent.
"""

import os
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError, reason
from cinelab.files import composed
from cinelab.limits import shown_path
from cinelab.metrics.video.cuts import CutDetector, Seen, frame_difference, look_for_cuts
from cinelab.readable import Readable
from cinelab.script.prompts import split_words, unknown_words
from cinelab.script.screenplay import Screenplay
from cinelab.script.shotlist import SUFFIX, ListedShot, ShotList, shot_list_path
from cinelab.stream.decoded_video import DecodedVideo
from cinelab.tables import read_frame
from cinelab.texts import HALF_PAIR, check_name
from cinelab.world.worlds import World, called, world_named

VIDEOS = tuple(
    f".{name}"
    for name in (
        "mp4 m4v mov qt webm mkv mk3d avi gif ts mts m2ts mpg mpeg m2v vob wmv asf flv f4v ogv "
        "ogm 3gp 3g2 mxf y4m divx"
    ).split()
)
TIMINGS = "timings.parquet"
NAMED = 6  # of what is passed over, the rest is counted
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Clip(Readable):
    """A video to measure. `frames` are uint8 (F, H, W, 3), as an array or a Film that is read in
    passes; `planned` None = no shot list was given."""

    name: str
    frames: np.ndarray | DecodedVideo
    fps: float
    planned: ShotList | None = None
    run: str = ""
    timings: pd.DataFrame | None = None  # seconds a chunk, where a run recorded them

    @property
    def world(self) -> World:
        """The made world in whose words its prompts are: the one that its shot list names, else the
        default one. CinelabError where that is unknown."""
        return world_named((self.planned and self.planned.world) or None)

    @property
    def shots(self) -> tuple[ListedShot, ...]:
        """The planned shots, or those between the cuts that are seen."""
        if self.planned:
            return self.planned.shots
        edges = [0, *self.seen_cuts, len(self.frames)]
        return tuple(ListedShot(a, b) for a, b in zip(edges, edges[1:], strict=False))

    @cached_property
    def seen(self) -> Seen:
        """What one pass in search of cuts found; a clip of one frame has none."""
        return look_for_cuts(self.frames, self.fps)

    @property
    def seen_cuts(self) -> list[int]:
        """First frame of every shot that is seen to begin."""
        return self.seen.cuts(CutDetector.at(self.fps))

    @cached_property
    def steps(self) -> np.ndarray:
        """Mean absolute change of a pixel from each frame to the next, (F - 1,) in 0..1."""
        if "seen" in vars(self) or not isinstance(self.frames, np.ndarray):
            return self.seen.steps
        return frame_difference(self.frames)

    def parts(self) -> Iterator[tuple[int, ListedShot, Iterator[np.ndarray]]]:
        """(number from 1, shot, its frames (H, W, 3) one by one) of every shot, in one pass over
        the video."""
        frames = iter(self.frames)
        for number, shot in enumerate(self.shots, 1):
            part = islice(frames, shot.end - shot.start)
            yield number, shot, part
            deque(part, maxlen=0)  # what was not looked at


def find_videos(paths: Sequence[str | Path], tell: Tell = print) -> list[Path]:
    """Every video that `paths` name: files, and folders at any depth, each once. Raises
    CinelabError.

    Linked folders are followed, hidden ones are not; `tell` hears in one line what was passed over.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        check_name(path)
        if not path.exists():
            raise CinelabError(f"{path}: no such file or folder; check the path.")
        videos, passed = ([path], []) if path.is_file() else _below(path)
        if not videos:
            also = f"; passed over: {_listed(passed)}" if passed else ""
            raise CinelabError(
                f"{path}: holds no video ({', '.join(VIDEOS)}){also}; name a folder that does."
            )
        if passed:
            tell(f"{path}: passed over {_listed(passed)}.")
        found += videos
    first: dict[str, Path] = {}
    for video in found:
        first.setdefault(os.path.abspath(video), video)
    return list(first.values())


def _below(folder: Path) -> tuple[list[Path], list[str]]:
    """The videos below a folder, sorted, and what was passed over: hidden, linked twice, broken
    links, lists without a video."""
    videos: list[Path] = []
    passed: list[str] = []
    root = folder.resolve()
    seen = {root}

    def unread(error: OSError) -> None:
        passed.append(f"{error.filename} ({reason(error)})")

    for place, folders, files in os.walk(folder, onerror=unread, followlinks=True):
        here = Path(place)
        folders[:] = sorted(name for name in folders if _entered(here / name, root, seen, passed))
        names = set()
        for name in sorted(files):
            if Path(name).suffix.lower() not in VIDEOS:
                continue
            if HALF_PAIR.search(name):
                passed.append(f"{shown_path(here / name)} (its name is not UTF-8, rename it)")
            elif name.startswith("."):
                passed.append(f"{here / name} (hidden)")
            elif not (here / name).is_file():
                passed.append(
                    f"{here / name} (a broken link)"
                    if (here / name).is_symlink()
                    else f"{here / name} (no file)"
                )
            else:
                videos.append(here / name)
                names.add(_plain(Path(name).stem))
        passed += [
            f"{here / name} (a shot list without its video)"
            for name in sorted(files)
            if name.endswith(SUFFIX)
            and not name.startswith(".")
            and _plain(name.removesuffix(SUFFIX)) not in names
        ]
    return sorted(videos), passed


def _entered(folder: Path, root: Path, seen: set[Path], passed: list[str]) -> bool:
    """Whether to look into a folder below `root`; what is not looked into and may hold videos is
    added to `passed`."""
    if folder.name.startswith("."):
        if any(path.suffix.lower() in VIDEOS for path in folder.rglob("*")):
            passed.append(f"{folder} (hidden)")
        return False
    if HALF_PAIR.search(folder.name):
        passed.append(f"{shown_path(folder)} (its name is not UTF-8, rename it)")
        return False
    target = folder.resolve()
    if folder.is_symlink() and (target == root or root.is_relative_to(target)):
        passed.append(f"{folder} (a link to a folder that it is in)")
        return False
    if (
        folder.is_symlink()
        and target.is_relative_to(root)
        and not _hidden(target.relative_to(root))
    ):
        return False  # it is found under its own name
    if target in seen:
        passed.append(f"{folder} (a second link to {target})")
        return False
    seen.add(target)
    return True


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _plain(name: str) -> str:
    """A name with its accents composed one way."""
    return unicodedata.normalize("NFC", name)


def load_clip(
    video: Path, plan: Path | None = None, name: str = "", *, world: str | None = None
) -> Clip:
    """Open a video and the shot list beside it (or `plan`: a shot list, or a screenplay in
    seconds). `world` is the one that its prompts are read in, where the shot list names none."""
    film = DecodedVideo(video)
    if not film.fps > 0:
        raise CinelabError(f"{video}: does not say its frame rate; write it again with one.")
    listed = composed(shot_list_path(video))
    where = plan or (listed if listed.exists() else None)
    planned = read_plan(where, film) if where else None
    if planned and world and not planned.world:
        planned = replace(planned, world=world)
    timings = video.parent / TIMINGS
    times = (
        read_frame(timings, "make the film again, or remove it")
        if video.stem == "film" and timings.exists()
        else None
    )
    return Clip(
        name or clip_label(video),
        film,
        film.fps,
        planned and with_cast(planned),
        str(video.parent),
        times,
    )


def why_failed(video: Path, error: Exception) -> str:
    """What a failed row states of its video."""
    if isinstance(error, CinelabError):
        return str(error)
    # threads need memory too
    if isinstance(error, MemoryError | BlockingIOError) or "memory" in str(error).lower():
        why = str(error) or "no more is known"
        return f"{video}: takes more memory than is free ({why}); give a smaller video."
    return (
        f"{video}: cannot be measured ({type(error).__name__}: {error}); check that it plays, or "
        "make it again."
    )


def clip_label(video: Path) -> str:
    """What a clip is called: our own films, which are all `film.mp4`, by their folder."""
    return Path(os.path.abspath(video)).parent.name if video.stem == "film" else video.stem


def labels(videos: Sequence[Path]) -> dict[Path, str]:
    """What every clip is called; of those in one folder that would share a name, each has its whole
    file name."""
    shared = Counter((video.parent, clip_label(video).casefold()) for video in videos)
    return {
        video: clip_label(video)
        if shared[video.parent, clip_label(video).casefold()] == 1
        else video.name
        for video in videos
    }


def read_plan(path: Path, film: DecodedVideo) -> ShotList:
    """The shots of a film: a shot list counts its decoded frames, a screenplay seconds (the last
    shot takes up the rounding)."""
    if is_shot_list(path):
        return plan_as_shown(ShotList.load(path), film, path)
    play = Screenplay.load(path)
    frames = len(film)
    ends = np.cumsum([shot.seconds for shot in play.shots]) * film.fps
    if abs(ends[-1] - frames) > max(2.0, 0.5 * film.fps):
        raise CinelabError(
            f"{path}: plans {ends[-1] / film.fps:.2f} s, the video lasts {frames / film.fps:.2f} "
            "s; give the right "
            "screenplay."
        )
    edges = [0, *(int(round(end)) for end in ends[:-1]), frames]
    return ShotList(
        tuple(
            ListedShot(a, b, shot.prompt, cut=shot.cut == "cut")
            for a, b, shot in zip(edges, edges[1:], play.shots, strict=False)
        )
    )


def is_shot_list(path: Path) -> bool:
    """Whether a plan is a shot list, and no screenplay, by its name."""
    return path.name.endswith(SUFFIX) or path.suffix == ".json"


def plan_as_shown(planned: ShotList, film: DecodedVideo, where: Path) -> ShotList:
    """A shot list in the shown frames of `film` instead of its decoded frames."""
    if planned.frames != film.decoded:
        raise CinelabError(
            f"{film.path}: has {film.decoded} frames, but its shots in {where} end at "
            f"{planned.frames}; "
            "correct the list or make the video again."
        )
    if film.constant:
        return planned
    try:
        shots = [
            replace(shot, start=film.place(shot.start), end=film.place(shot.end))
            for shot in planned.shots
        ]
        chunks = tuple(map(film.place, planned.chunks))
        return ShotList(tuple(shots), chunks, film.place(planned.given), planned.world)
    except CinelabError as error:
        raise CinelabError(f"{where}: at {film.fps:g} frames a second, {error}") from None


def with_cast(planned: ShotList) -> ShotList:
    """Shots that name nobody, in the words of their world: their kind and colour is who, their
    setting is where. As they are where their world is not known here."""
    try:
        world = world_named(planned.world or None)
    except CinelabError:
        return planned
    return replace(planned, shots=tuple(_cast(shot, world) for shot in planned.shots))


def _cast(shot: ListedShot, world: World) -> ListedShot:
    if shot.characters or shot.places or not speaks_toybox(shot.prompt, world):
        return shot
    named = world.read_prompt(shot.prompt)
    return replace(shot, characters=_called(named, world.who), places=_called(named, world.where))


def _called(named: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """What a prompt calls a character or a place; nothing where it names only a part."""
    return (called(named, names),) if named.keys() >= set(names) else ()


def speaks_toybox(prompt: str, world: World | None = None) -> bool:
    """Whether every word is one that the prompts of a world (None: the default one) may hold."""
    return bool(split_words(prompt)) and not foreign_words(prompt, world)


def foreign_words(prompt: str, world: World | None = None) -> list[str]:
    """The words of a prompt that no prompt of a world (None: the default one) holds."""
    return unknown_words(prompt, _known(world_named(world)))


@cache
def _known(world: World) -> frozenset[str]:
    return frozenset(world.known_words())


def returns(shots: Sequence[ListedShot], what: str) -> Iterator[tuple[int, int, str]]:
    """(shot, first shot, name) for every character or place (`what`) that comes back after a
    cut."""
    first: dict[str, int] = {}
    for number, shot in enumerate(shots):
        for name in getattr(shot, what):
            begin = first.setdefault(name, number)
            if begin != number and shot.cut:
                yield number, begin, name


def strangers(shots: Sequence[ListedShot], what: str) -> Iterator[tuple[int, int]]:
    """Pairs of shots that both name somebody and share nobody: what chance resemblance is measured
    on."""
    for late in range(len(shots)):
        for early in range(late):
            one, other = set(getattr(shots[late], what)), set(getattr(shots[early], what))
            if one and other and not one & other:
                yield late, early
