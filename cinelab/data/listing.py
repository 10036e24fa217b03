"""A folder or a table of videos becomes a list of films to read, each a list of videos with what
is stated about their shots.

    table (CSV, parquet)   video   start end (seconds, optional)   caption   film   shot
    beside a video         <name>.shots.json (our shot list)   <name>.txt   <name>.json

A caption in a parquet table may be a list of texts: one a shot of a video that has a single row.

Shots come from the table, else from the shot list, else from a detector. Captions come from the
table, else from the shot list, else from <name>.txt (a caption a line) or <name>.json (a text or a
list of texts, bare or under `caption`): one for the whole, or one a shot.
"""

import csv
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from io import StringIO
from itertools import groupby
from pathlib import Path

from cinelab.errors import CinelabError
from cinelab.files import composed, exists
from cinelab.metrics.video.clips import Tell, find_videos
from cinelab.script.shotlist import ListedShot, ShotList, shot_list_path
from cinelab.tables import open_parquet, reading
from cinelab.texts import CAPTIONS, TABLE, read_json, read_text

COLUMNS = ("video", "start", "end", "caption", "film", "shot")
NOTHING = ("nan", "none", "null", "<na>")  # what tables write where no caption stands
TABLES = {".csv": "CSV", ".tsv": "CSV", ".parquet": "parquet"}


@dataclass(frozen=True)
class ListedVideo:
    """A video and what is stated about it. `problem` is why it cannot be used, in a sentence."""

    path: str  # relative to the folder or table that lists it
    # seconds of its shots, from the table; None = its end
    spans: tuple[tuple[float, float | None], ...] = ()
    listed: tuple[ListedShot, ...] = ()  # its shots in frames, from a shot list
    captions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class FilmSource:
    """The videos of one film, or of several if they are long."""

    name: str
    videos: tuple[ListedVideo, ...]


def list_films(videos: str | Path, tell: Tell = print) -> tuple[Path, list[FilmSource]]:
    """Return the folder that video paths are relative to, and every film listed. Raise CinelabError
    if there is none.

    `tell` is called with what was passed over in a folder.
    """
    path = Path(videos)
    if path.is_dir():
        listed = [
            ListedVideo(file.relative_to(path).as_posix()) for file in find_videos([path], tell)
        ]
        return path, [FilmSource(video.path, (_with_sidecars(path, video),)) for video in listed]
    if path.suffix.lower() not in TABLES:
        what = (
            "is neither a folder nor a .csv, .tsv or .parquet table"
            if path.exists()
            else "no such folder or table"
        )
        raise CinelabError(
            f"{path}: {what}; give a folder of videos or a table with a column `video`."
        )
    return path.parent, _films(path.parent, _rows(path))


def _rows(path: Path) -> list[dict]:
    """The table's rows as texts, "" where nothing stands; captions as a tuple of texts, () where
    there is none."""
    kind = TABLES[path.suffix.lower()]
    try:
        names, rows = _read_csv(path) if kind == "CSV" else _read_parquet(path)
    except (ValueError, csv.Error) as error:
        raise CinelabError(
            f"{path}: cannot be read as a {kind} table ({str(error).splitlines()[0]}); correct it "
            "or write it again."
        ) from error
    _check_columns(path, names)
    if not rows:
        raise CinelabError(f"{path}: has no rows; list at least one video.")
    found = []
    for number, row in enumerate(rows, 2 if kind == "CSV" else 1):
        where = f"{path.name}, row {number}"
        found.append({name: _cell(where, name, row.get(name)) for name in COLUMNS} | {"row": where})
    return found


def _check_columns(path: Path, names: list[str]) -> None:
    for name in COLUMNS:
        alike = [other for other in names if other.strip().casefold() == name]
        if name in alike and len(alike) > 1:
            raise CinelabError(
                f"{path}: has {len(alike)} columns named {name!r} ({', '.join(map(repr, alike))}); "
                "keep one."
            )
    absent = [name for name in COLUMNS if name not in names]
    if "video" in absent:
        raise CinelabError(
            f"{path}: has the columns {', '.join(names)} and none named `video`; add it."
        )
    for name in names:
        if name not in COLUMNS and (
            near := get_close_matches(name.strip().lower(), absent, n=1, cutoff=0.8)
        ):
            raise CinelabError(
                f"{path}: column {name!r} is not known; rename it to {near[0]!r}, or to something "
                "unlike it."
            )


def _cell(where: str, name: str, value) -> str | tuple[str, ...]:
    """Return a cell as text; a caption as texts. Raise CinelabError for a value that its
    column cannot mean."""
    if name == "caption":
        return _captions(where, value)
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if value is None or (number and value != value):
        return ""
    if isinstance(value, str | bytes):
        return _text(where, name, value)
    if number and name != "video":
        return str(int(value)) if value == value // 1 else str(value)
    wanted = {"video": "a path", "film": "a name"}.get(name, "a number")
    raise CinelabError(
        f"{where}: {name} is {str(value)!r:.60} ({type(value).__name__}); give {wanted}."
    )


def _captions(where: str, value) -> tuple[str, ...]:
    """The captions of a cell: a text, or a list of texts (one a shot). Nothing, NaN and what tables
    write for it are none."""
    if isinstance(value, list):
        texts = tuple("" if _nothing(item) else _text(where, "caption", item) for item in value)
        return texts if any(texts) else ()
    if _nothing(value):
        return ()
    text = _text(where, "caption", value)
    return (text,) if text and text.lower() not in NOTHING else ()


def _nothing(value) -> bool:
    return value is None or (isinstance(value, float | Decimal) and value != value)


def _text(where: str, name: str, value) -> str:
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise CinelabError(
            f"{where}: {name} is {value!r:.60}, bytes that are no UTF-8; write it as text."
        ) from error
    if not isinstance(text, str):
        raise CinelabError(
            f"{where}: {name} is {str(value)!r:.60} ({type(value).__name__}); give a text, or a "
            "list of texts, one a shot."
        )
    return text.strip()


def _read_parquet(path: Path) -> tuple[list[str], list[dict]]:
    """(all column names, the rows with those that are known), as plain values. Of two columns of
    one name none is read."""
    again = "correct it or write it again"
    file = open_parquet(path, again)
    with reading(path, again):
        names = file.schema_arrow.names
        once = [name for name in COLUMNS if names.count(name) == 1]
        return names, file.read(columns=once).to_pylist()


def _read_csv(path: Path) -> tuple[list[str], list[dict]]:
    """(column names, rows), all cells as texts. A row with more fields than columns is an error:
    mostly a caption with a comma and no quotes."""
    lines = StringIO(read_text(path, TABLE), newline="")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [row for row in csv.reader(lines, strict=True, delimiter=delimiter) if row]
    if not rows:
        raise ValueError("it is empty")
    for number, row in enumerate(rows, 1):
        if len(row) > len(rows[0]):
            raise ValueError(
                f"row {number} has {len(row)} fields for {len(rows[0])} columns, quote texts that "
                "hold a comma"
            )
    names = [name.strip() for name in rows[0]]
    return names, [dict(zip(names, row, strict=False)) for row in rows[1:]]


def _films(root: Path, rows: list[dict]) -> list[FilmSource]:
    """Rows of one film (by default: of one video) together, in the order of their shot numbers."""
    films: dict[str, list[dict]] = {}
    for row in rows:
        films.setdefault(row["film"] or row["video"] or row["row"], []).append(row)
    return [
        FilmSource(name, tuple(_videos_of(root, sorted(film, key=_shot_number))))
        for name, film in films.items()
    ]


def _shot_number(row: dict) -> float:
    number = _number(row["shot"])
    return math.inf if number is None else number


def _videos_of(root: Path, rows: list[dict]) -> Iterable[ListedVideo]:
    """Runs of rows of one video whose spans go forward."""
    run = 0
    until = 0.0
    keys = []
    for before, row in zip([None, *rows], rows, strict=False):
        start, end = _number(row["start"]), _number(row["end"])
        if before and (
            before["video"] != row["video"] or (start is not None and start < until - 1e-6)
        ):
            run = run + 1
            until = 0.0
        until = max(until, start or 0.0, end or 0.0)
        keys.append(run)
    for _, part in groupby(zip(keys, rows, strict=True), key=lambda pair: pair[0]):
        yield _video_of(root, [row for _, row in part])


def _video_of(root: Path, rows: list[dict]) -> ListedVideo:
    video = ListedVideo(_found(root, rows[0]["video"]))
    try:
        if not video.path:
            raise CinelabError(f"{rows[0]['row']}: names no video; fill in its column `video`.")
        spans = [_span(row) for row in rows]
        timed = tuple(span for span in spans if span is not None)
        if timed and len(timed) < len(spans):
            row = rows[spans.index(None)]["row"]
            raise CinelabError(
                f"{row}: has neither start nor end while other rows of {video.path} have; give it "
                "both."
            )
        captions = _of_rows(rows, video.path, bool(timed))
        video = replace(
            video,
            spans=timed,
            captions=captions if any(captions) else (),
        )
    except CinelabError as error:
        return replace(video, problem=str(error))
    return _with_sidecars(root, video)


def _of_rows(rows: list[dict], video: str, timed: bool) -> tuple[str, ...]:
    """The captions of a video's rows: those of a list for its single row without start and end,
    else one a row."""
    if len(rows) == 1 and not timed:
        return rows[0]["caption"]
    if many := next((row for row in rows if len(row["caption"]) > 1), None):
        raise CinelabError(
            f"{many['row']}: caption is a list of {len(many['caption'])} texts, and the row is one "
            f"shot of {video}; give it one text."
        )
    return tuple(row["caption"][0] if row["caption"] else "" for row in rows)


def _found(root: Path, video: str) -> str:
    """A video's path as the disk spells it, where only the composition of accents differs."""
    there = composed(root / video) if video else root
    return video if not video or there == root / video else os.path.relpath(there, root)


def _span(row: dict) -> tuple[float, float | None] | None:
    """(start, end) in seconds; None where the row gives neither."""
    for name in ("start", "end", "shot"):
        if row[name] and _number(row[name]) is None:
            raise CinelabError(
                f"{row['row']}: {name} is {row[name]!r}; give a "
                f"number{'' if name == 'shot' else ' of seconds'}."
            )
    start, end = _number(row["start"]), _number(row["end"])
    if start is None and end is None:
        return None
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise CinelabError(
            f"{row['row']}: start is {row['start'] or 0} and end {row['end']} s; the end must come "
            "after the start."
        )
    return start or 0.0, end


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _with_sidecars(root: Path, video: ListedVideo) -> ListedVideo:
    """Return the video with what its sidecar files state, where the table states nothing."""
    file = root / video.path
    try:
        if not video.spans and exists(listed := composed(shot_list_path(file))):
            shots = ShotList.load(listed).shots
            prompts = tuple(shot.prompt for shot in shots)
            video = replace(
                video, listed=shots, captions=video.captions or (prompts if any(prompts) else ())
            )
        return video if video.captions else replace(video, captions=_sidecar(file))
    except CinelabError as error:
        return replace(video, problem=str(error))


def _sidecar(video: Path) -> tuple[str, ...]:
    """Captions from <name>.txt or <name>.json; none if neither is there."""
    text = composed(video.with_suffix(".txt"))
    values = composed(video.with_suffix(".json"))
    if exists(text):
        return tuple(
            line.strip() for line in read_text(text, CAPTIONS).splitlines() if line.strip()
        )
    if not exists(values):
        return ()
    found = read_json(values, CAPTIONS)
    found = found.get("captions", found.get("caption", found)) if isinstance(found, dict) else found
    found = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise CinelabError(
            f"{values}: holds {str(found)!r:.60}; give a caption, a list of captions (one a shot), "
            "or either under the key `caption`."
        )
    return tuple(caption.strip() for caption in found)
