"""What there is: a folder or a table of videos becomes films to read, each a list of reels with what is said about their shots.

    table (CSV, parquet)   video   start end (seconds, optional)   caption   film   shot
    beside a video         <name>.shots.json (our shot list)   <name>.txt   <name>.json

Shots come from the table, else from the shot list, else from a detector. Captions come from the table, else from the shot
list, else from <name>.txt (a caption a line) or <name>.json (a text or a list of texts, bare or under `caption`): one for the whole, or one a shot.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

import pandas as pd

from cinelab.config import read_json
from cinelab.errors import CinelabError
from cinelab.score.footage import find_videos
from cinelab.script.shotlist import ListedShot, ShotList, beside

COLUMNS = ("video", "start", "end", "caption", "film", "shot")
TABLES = {".csv": "CSV", ".tsv": "CSV", ".parquet": "parquet"}


@dataclass(frozen=True)
class Reel:
    """A video and what is said about it. `problem` is why it cannot be used, in a sentence."""

    video: str  # relative to the folder or table it was listed in
    spans: tuple[tuple[float, float | None], ...] = ()  # seconds of its shots, from the table; None = its end
    listed: tuple[ListedShot, ...] = ()  # its shots in frames, from a shot list
    captions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """What becomes one film, or several if it is long."""

    name: str
    reels: tuple[Reel, ...]


def find(videos: str | Path) -> tuple[Path, list[Source]]:
    """The folder that video paths are relative to, and everything listed. Raises CinelabError if nothing is."""
    path = Path(videos)
    if path.is_dir():
        found = [video for video in find_videos([path]) if not video.name.startswith(".")]
        reels = [Reel(video.relative_to(path).as_posix()) for video in found]
        return path, [Source(reel.video, (_with_sidecars(path, reel),)) for reel in reels]
    if path.suffix.lower() not in TABLES:
        what = "is neither a folder nor a .csv or .parquet table" if path.exists() else "no such folder or table"
        raise CinelabError(f"{path}: {what}; give a folder of videos or a table with a column `video`.")
    return path.parent, _films(path.parent, _rows(path))


def _rows(path: Path) -> list[dict[str, str]]:
    """The table's rows as texts, "" where nothing stands."""
    kind = TABLES[path.suffix.lower()]
    try:
        table = _read_csv(path) if kind == "CSV" else pd.read_parquet(path)
    except (OSError, ValueError, csv.Error) as error:  # what pandas and pyarrow raise are of the first two kinds
        raise CinelabError(f"{path}: cannot be read as a {kind} table ({str(error).splitlines()[0]}); correct it or write it "
                           "again.") from error
    absent = [name for name in COLUMNS if name not in table]
    if "video" in absent:
        raise CinelabError(f"{path}: has the columns {', '.join(map(str, table.columns))} and none named `video`; add it.")
    for name in map(str, table.columns):
        if name not in COLUMNS and (near := get_close_matches(name.lower(), absent, n=1, cutoff=0.8)):
            raise CinelabError(f"{path}: column {name!r} is not known; rename it to {near[0]!r}, or to something unlike it.")
    if table.empty:
        raise CinelabError(f"{path}: has no rows; list at least one video.")
    kept = table[[name for name in COLUMNS if name in table]].astype(object)
    texts = kept.where(kept.notna(), "").map(lambda value: str(value).strip())
    return [dict.fromkeys(COLUMNS, "") | row | {"row": f"{path.name}, row {i}"} for i, row in enumerate(texts.to_dict("records"), 2)]


def _read_csv(path: Path) -> pd.DataFrame:
    """All cells as texts. A row with more fields than columns is an error: mostly a caption with a comma and no quotes."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",") if row]
    if not rows:
        raise ValueError("it is empty")
    for number, row in enumerate(rows, 1):
        if len(row) > len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} fields for {len(rows[0])} columns, quote texts that hold a comma")
    return pd.DataFrame([row + [""] * (len(rows[0]) - len(row)) for row in rows[1:]], columns=[name.strip() for name in rows[0]])


def _films(root: Path, rows: list[dict[str, str]]) -> list[Source]:
    """Rows of one film (by default: of one video) together, in the order of their shot numbers."""
    films: dict[str, list[dict]] = {}
    for row in rows:
        films.setdefault(row["film"] or row["video"] or row["row"], []).append(row)
    return [Source(name, tuple(_reels(root, sorted(film, key=_shot_number)))) for name, film in films.items()]


def _shot_number(row: dict[str, str]) -> float:
    number = _number(row["shot"])
    return math.inf if number is None else number


def _reels(root: Path, rows: list[dict[str, str]]) -> Iterable[Reel]:
    """Runs of rows of one video whose spans go forward."""
    run, until = 0, 0.0
    keys = []
    for before, row in zip([None, *rows], rows, strict=False):
        start, end = _number(row["start"]), _number(row["end"])
        if before and (before["video"] != row["video"] or (start is not None and start < until - 1e-6)):
            run, until = run + 1, 0.0
        until = max(until, start or 0.0, end or 0.0)
        keys.append(run)
    for _, part in groupby(zip(keys, rows, strict=True), key=lambda pair: pair[0]):
        yield _reel(root, [row for _, row in part])


def _reel(root: Path, rows: list[dict[str, str]]) -> Reel:
    reel = Reel(rows[0]["video"])
    try:
        if not reel.video:
            raise CinelabError(f"{rows[0]['row']}: names no video; fill in its column `video`.")
        spans = [_span(row) for row in rows]
        if any(spans) and not all(spans):
            row = rows[spans.index(None)]["row"]
            raise CinelabError(f"{row}: has neither start nor end while other rows of {reel.video} have; give it both.")
        captions = tuple(row["caption"] for row in rows)
        reel = replace(reel, spans=tuple(spans) if all(spans) else (), captions=captions if any(captions) else ())
    except CinelabError as error:
        return replace(reel, problem=str(error))
    return _with_sidecars(root, reel)


def _span(row: dict[str, str]) -> tuple[float, float | None] | None:
    """(start, end) in seconds; None where the row gives neither."""
    for name in ("start", "end", "shot"):
        if row[name] and _number(row[name]) is None:
            raise CinelabError(f"{row['row']}: {name} is {row[name]!r}; give a number{'' if name == 'shot' else ' of seconds'}.")
    start, end = _number(row["start"]), _number(row["end"])
    if start is None and end is None:
        return None
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise CinelabError(f"{row['row']}: start is {row['start'] or 0} and end {row['end']} s; the end must come after the start.")
    return start or 0.0, end


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _with_sidecars(root: Path, reel: Reel) -> Reel:
    """The reel with what stands beside its video, for what the table does not say."""
    video = root / reel.video
    try:
        if not reel.spans and beside(video).exists():
            shots = ShotList.load(beside(video)).shots
            said = tuple(shot.prompt for shot in shots)
            reel = replace(reel, listed=shots, captions=reel.captions or (said if any(said) else ()))
        return reel if reel.captions else replace(reel, captions=_sidecar(video))
    except CinelabError as error:
        return replace(reel, problem=str(error))


def _sidecar(video: Path) -> tuple[str, ...]:
    """Captions from <name>.txt or <name>.json; none if neither is there."""
    text, values = video.with_suffix(".txt"), video.with_suffix(".json")
    if text.exists():
        try:
            return tuple(line.strip() for line in text.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise CinelabError(f"{text}: cannot be read as UTF-8 text ({error}); write it again.") from error
    if not values.exists():
        return ()
    found = read_json(values)
    found = found.get("captions", found.get("caption", found)) if isinstance(found, dict) else found
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise CinelabError(f"{values}: holds {str(found)!r:.60}; give a caption, a list of captions (one a shot), or "
                           "either under the key `caption`.")
    return tuple(caption.strip() for caption in found)
