"""The index of everything below `results/`, rebuilt from the folders at any time, and questions to
it.

Two tables. **runs**: a row a run (path, kind, sweep, name, status, seed, parameters, seconds,
memory, git, hardware). **measures**: a row for every run and metric (path, metric, value, low,
high, n). `wide` joins the two, a column for every parameter and metric, which is what `cinelab
results "policy = 'camr' and away = 9"` looks through.
"""

import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from cinelab.config import mapping, read_mapping
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_atomic
from cinelab.lab.sweeps.measured import read_done, read_rows
from cinelab.limits import short, shortened, shown_path
from cinelab.metrics import rows as rows_room
from cinelab.metrics.metric import METRICS
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.tables import read_frame
from cinelab.texts import HALF_PAIR, read_json

SCHEMA = 1
RESAMPLES = 500  # of an interval in the index; reports take more
FINISHED = "done.json"
CELL = "cell.json"
MOST_SECONDS = 60  # of a question
READ_ONLY = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # of a database of questions
    "python_enable_replacements": False,
    "memory_limit": "2GB",
    "temp_directory": "",
}
# what a score card must say
CARD = {
    "model": str,
    "policy": dict,
    "sampling": dict,
    "metrics": dict[str, dict],
    "own": dict | None,
}
# and of a metric; null: no bound
NUMBERS = {"value": float, "low": float | None, "high": float | None, "n": int}
MEASURED = ("path", "metric", "value", "low", "high", "n")
HEADLINES = (
    "identity",
    "identity kept",
    "prompt",
    "scenery",
    "scenery kept",
    "action",
    "cuts",
    "sharpness of truth",
    "motion of truth",
    "saturation of truth",
    "drift",
    "dynamic degree",
    "temporal flickering",
    "drift of brightness",
    "drift of saturation",
    "drift of contrast",
    "drift of sharpness",
)


@dataclass
class Found:
    """One run, as its folder tells it. `status`: done, running, unfinished or unreadable (`detail`
    says why)."""

    path: str
    kind: str  # cell, training, film, card or evaluation; folder where it could not be looked into
    sweep: str
    name: str
    status: str
    seed: int | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    git: str | None = None
    device: str | None = None
    torch: str | None = None
    finished: str | None = None
    detail: str = ""
    parameters: dict = field(default_factory=dict)
    stamp: int = 0  # when its folder last changed, in nanoseconds


def scan(results: str | Path = "results") -> list[Found]:
    """Every run below `results`; a broken one is listed as unreadable, with the reason."""
    root = Path(results)
    if not root.is_dir():
        raise CinelabError(
            f"{root}: no such folder; run a sweep or make a film first, or name another with "
            "--folder."
        )
    found = []
    for folder, inner, files in os.walk(root):
        # what is unfinished is hidden
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in [name for name in inner if HALF_PAIR.search(name)]:
            inner.remove(name)
            place = shown_path((Path(folder) / name).relative_to(root).as_posix())
            found.append(
                Found(
                    place,
                    "folder",
                    "",
                    shown_path(name),
                    "unreadable",
                    detail=f"{place} has a name that is not UTF-8; rename it.",
                )
            )
        for kind, look in (
            ("cell", _cell),
            ("training", _training),
            ("film", _film),
            ("evaluation", _evaluation),
        ):
            if run := _careful(look, kind, Path(folder), set(files), root):
                found.append(run)
                break
        found += filter(
            None,
            (
                _careful(_card, "card", Path(folder) / name, set(), root)
                for name in sorted(files)
                if name.endswith(".json") and Path(folder).name == "reference"
            ),
        )
    return found


def _careful(look, kind: str, path: Path, files: set[str], root: Path) -> Found | None:
    try:
        return look(path, files, root)
    except (CinelabError, AttributeError, KeyError, TypeError, ValueError) as error:
        return Found(
            path.relative_to(root).as_posix(),
            kind,
            _sweep(path, root),
            path.name,
            "unreadable",
            detail=str(error),
        )


def _cell(folder: Path, files: set[str], root: Path) -> Found | None:
    if not {"config.json", "output.txt"} <= files:
        return None
    done = read_done(folder / FINISHED) if FINISHED in files else {}
    parameters = done.get("parameters") or read_mapping(folder / "config.json")
    status = "done" if done else "running" if ".lock" in files else "unfinished"
    return _found(folder, root, "cell", status, done, parameters)


def _training(folder: Path, files: set[str], root: Path) -> Found | None:
    if not {"config.json", "log.jsonl"} <= files:
        return None
    done = read_done(folder / FINISHED) if FINISHED in files else {}
    return _found(
        folder,
        root,
        "training",
        "done" if done else "unfinished",
        done,
        _flat(read_mapping(folder / "config.json")),
    )


def _film(folder: Path, files: set[str], root: Path) -> Found | None:
    if "film.json" not in files:
        return None
    info = read_mapping(folder / "film.json")
    return _found(
        folder,
        root,
        "film",
        "done",
        {"seconds": _making(folder / "timings.parquet")},
        _flat({k: v for k, v in info.items() if k != "cuts"}),
    )


def _making(timings: Path) -> float | None:
    """Seconds that the chunks of a film took; None where that was not kept, or cannot be read."""
    try:
        table = read_frame(timings, "make the film again")
    except CinelabError:
        return None
    return float(table.drop(columns="chunk", errors="ignore").sum(numeric_only=True).sum())


def _evaluation(folder: Path, files: set[str], root: Path) -> Found | None:
    if "rows.parquet" not in files or FINISHED in files or CELL in files:
        return None
    rows_room.load(folder / "rows.parquet")
    return _found(folder, root, "evaluation", "done", {}, {})


def _card(path: Path, _: set[str], root: Path) -> Found | None:
    record = read_json(path)
    if not isinstance(record, dict) or "metrics" not in record:
        return None
    record = mapping(record, path, **CARD)
    parameters = {
        "model": record["model"],
        "policy": record["policy"].get("name"),
        "steps": record["sampling"].get("steps"),
    }
    return _found(path, root, "card", "done", record, parameters)


def _found(path: Path, root: Path, kind: str, status: str, done: dict, parameters: dict) -> Found:
    machine = done.get("hardware") or done
    seed = parameters.get("seed")
    stamp = path.stat().st_mtime_ns
    when = datetime.fromtimestamp(stamp / 1e9).isoformat(sep=" ", timespec="minutes")
    return Found(
        path.relative_to(root).as_posix(),
        kind,
        _sweep(path, root),
        path.name,
        status,
        seed if isinstance(seed, int) else None,
        done.get("seconds"),
        done.get("peak_memory_mb"),
        done.get("git"),
        machine.get("device"),
        machine.get("torch"),
        when,
        "",
        parameters,
        stamp,
    )


def _sweep(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _flat(values: dict, where: str = "") -> dict:
    """Nested settings with dotted names."""
    flat = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
        )
    return flat


def measures(run: Found, results: Path) -> Iterator[dict]:
    """What a run measured: metric, value, low, high, n. Nothing where it measured nothing."""
    path = Path(results) / run.path
    if run.kind == "card":
        for metric, row in read_mapping(path, **CARD)["metrics"].items():
            row = mapping(row, f"{path}: {metric}", **NUMBERS)
            yield {"path": run.path, "metric": metric} | {
                key: row.get(key) for key in ("value", "low", "high", "n")
            }
        return
    if run.status != "done" or not (path / "rows.parquet").exists():
        return
    rows = read_rows(path / "rows.parquet")
    unit = "film" if "film" in rows else "clip"
    for column, good in (("source", "model"), ("status", "ok")):
        rows = rows[rows[column] == good] if column in rows else rows
    rows = with_prompt(rows)
    for metric, part in rows.groupby("metric", sort=False):
        e = bootstrap(part["value"].tolist(), groups=part[unit].tolist(), resamples=RESAMPLES)
        yield {
            "path": run.path,
            "metric": metric,
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
        }


def index(results: str | Path = "results") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, measures), freshly read, and kept as parquet in `<results>/index`. Unchanged runs are
    not measured again."""
    results = Path(results)
    found = scan(results)
    old_runs, old = _kept(results)
    good = old_runs[old_runs["status"] != "unreadable"]
    known = set(zip(good["path"], good["stamp"], strict=True))
    same = {run.path for run in found if (run.path, run.stamp) in known}
    lines = [line for run in found if run.path not in same for line in _measured(run, results)]
    fresh = pd.DataFrame(lines, columns=list(MEASURED))
    measured = pd.concat(
        [table for table in (old[old["path"].isin(same)], fresh) if len(table)] or [fresh],
        ignore_index=True,
    )
    runs = pd.DataFrame(
        [asdict(run) | {"parameters": to_json(run.parameters, sort_keys=True)} for run in found],
        columns=list(Found.__dataclass_fields__),
    )
    for name, table in (("runs", runs), ("measures", measured)):
        with suppress(CinelabError):  # it only saves time: the folder may not be ours to write to
            write_atomic(
                results / "index" / f"{name}-{SCHEMA}.parquet",
                lambda path, t=table: t.to_parquet(path),
            )
    return runs, measured


def _measured(run: Found, results: Path) -> list[dict]:
    """What a run measured; one whose table is broken or of an older version is marked, and the
    others go on."""
    try:
        return list(measures(run, results))
    except (CinelabError, KeyError, OSError, ValueError) as error:
        run.status = "unreadable"
        run.detail = f"rows.parquet: {error}; run it again"
        return []


def _kept(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last index of this schema, or empty tables; whatever is wrong with it, the folders know
    better."""
    paths = [results / "index" / f"{name}-{SCHEMA}.parquet" for name in ("runs", "measures")]
    try:
        return tuple(
            read_frame(path, "it is made again", needed)
            for path, needed in zip(paths, (("path", "stamp", "status"), MEASURED), strict=True)
        )
    except CinelabError:
        return pd.DataFrame(columns=["path", "stamp", "status"]), pd.DataFrame(
            columns=list(MEASURED)
        )


def wide(runs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """A row a run, a column for every parameter and every metric; a parameter that is named like a
    column gets `param_`."""
    base = runs.drop(columns=["parameters", "stamp"])
    values = _values(runs)
    for name in _mixed(values):  # a number here, a word there: text, which every engine takes
        values[name] = values[name].map(
            lambda value: None if value is None or value != value else str(value)
        )
    scores = measured.pivot_table(index="path", columns="metric", values="value", aggfunc="first")
    scores = scores.drop(columns=[name for name in scores if name in base or name in values])
    return base.join(values).join(scores, on="path")


def _values(runs: pd.DataFrame) -> pd.DataFrame:
    """Every run's parameters, as they were given."""
    return pd.DataFrame(
        [
            {
                _column(key, runs): _scalar(value)
                for key, value in json.loads(text).items()
                if key != "seed"
            }
            for text in runs["parameters"]
        ],
        index=runs.index,
    )


def _mixed(values: pd.DataFrame) -> list[str]:
    """The columns whose values have several types."""
    kinds = {
        name: {type(value) for value in part if value is not None and value == value}
        for name, part in values.items()
    }
    return [name for name, found in kinds.items() if len(found) > 1 and found - {int, float}]


def _numbers(runs: pd.DataFrame, found: pd.DataFrame) -> dict[str, pd.Series]:
    """Of the columns of `wide` that hold numbers and texts, the numbers."""
    values = _values(runs)
    number = lambda value: value if type(value) in (int, float) else None  # noqa: E731
    numbers = {
        name: values[name].map(number).astype(float) for name in _mixed(values) if name in found
    }
    return {name: part for name, part in numbers.items() if part.notna().any()}


def _column(key: str, base: pd.DataFrame) -> str:
    return f"param_{key}" if key in base and key not in ("parameters", "stamp") else key


def _scalar(value):
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def query(
    results: str | Path = "results", where: str | None = None, sql: str | None = None
) -> pd.DataFrame:
    """Rows of `wide` that fulfil a condition, or the answer to one SELECT over runs, measures and
    wide (DuckDB's dialect).

    A query only reads these tables: no file, no setting, no second statement. Where a column holds
    numbers and texts, a comparison with a text is one of texts, and a comparison with a number is
    one of its numbers. Raises CinelabError.
    """
    asked, shown = (
        (sql, sql) if sql is not None else (f"select * from wide where (\n{where}\n)", where)
    )
    runs, measured = index(results)
    found = wide(runs, measured)
    numbers = _numbers(runs, found)
    _only_reads(asked, shown)
    try:
        return _ask(asked, shown, runs, measured, found)
    except CinelabError as error:
        if not (numbers and isinstance(error.__cause__, _type_errors())):
            raise
        first = error
    try:
        return _ask(asked, shown, runs, measured, found.assign(**numbers))
    except CinelabError as error:
        if not isinstance(first.__cause__, _type_errors()[:1]):
            raise first from error
        names = " and ".join(f'"{name}"' for name in numbers)
        raise CinelabError(
            f"The question {short(shown)} compares numbers with texts: {names} "
            f"hold{'s' * (len(numbers) == 1)} both. Write a number for "
            f"numbers ({next(iter(numbers))} > 5), a text in quotes for texts "
            f"({next(iter(numbers))} in ('6', 'all')), "
            "not both at once."
        ) from error


def _ask(
    asked: str, shown: str, runs: pd.DataFrame, measured: pd.DataFrame, found: pd.DataFrame
) -> pd.DataFrame:
    import duckdb

    with duckdb.connect(config=READ_ONLY) as database:
        for name, table in (("runs", runs), ("measures", measured), ("wide", found)):
            database.register(name, table)
        database.execute("set lock_configuration = true")
        late = threading.Timer(MOST_SECONDS, database.interrupt)
        late.start()
        try:
            return database.sql(asked).df()
        except duckdb.Error as error:
            raise _misunderstood(shown, error) from error
        finally:
            late.cancel()


def _only_reads(asked: str, shown: str) -> None:
    """Refuse everything but a single SELECT."""
    import duckdb

    try:
        kinds = [statement.type for statement in duckdb.extract_statements(asked)]
    except duckdb.Error as error:
        raise _misunderstood(shown, error) from error
    if kinds != [duckdb.StatementType.SELECT]:
        raise CinelabError(
            f"The question {short(shown)} is not a single SELECT; questions only read the tables "
            "runs, measures and wide "
            "(-o FILE writes the answer)."
        )


def _misunderstood(shown: str, error: Exception) -> CinelabError:
    import duckdb

    if isinstance(error, duckdb.InterruptException):
        return CinelabError(
            f"The question {short(shown, 200)} took more than {MOST_SECONDS} seconds and was "
            "stopped; ask for less."
        )
    if isinstance(error, duckdb.PermissionException):
        return CinelabError(
            f"The question {short(shown, 200)} asks for a file or an extension; questions only "
            "read the tables runs, measures "
            "and wide."
        )
    if lacking := re.search(r'Referenced column "([^"]+)" not found', str(error)):
        return CinelabError(
            f"The question {short(shown, 200)} asks for {lacking[1]!r}, which no run here has as "
            "a setting or a metric; run the "
            "sweep that has it, or ask for another: `cinelab results --columns` lists them."
        )
    said = str(error).split("\n")[0].rstrip(".")
    return CinelabError(
        f"The question {short(shown, 200)} was not understood: {said}. Quote names with blanks as "
        '"identity kept", '
        "texts as 'camr'; `cinelab results --columns` lists the columns."
    )


def _type_errors() -> tuple[type, ...]:
    """What DuckDB raises where a text is taken for a number."""
    import duckdb

    return duckdb.ConversionException, duckdb.BinderException, duckdb.InvalidInputException


def overview(runs: pd.DataFrame) -> pd.DataFrame:
    """A line for every folder of runs: how many of which kind, how many done, how long, when last.
    A run that lies in no folder of runs has a line of its own."""
    found = []
    places = runs["sweep"].where(runs["sweep"] != "", runs["path"])
    for (sweep, kind), part in runs.groupby([places, "kind"], sort=True):
        counts = part["status"].value_counts()
        found.append(
            {
                "folder": sweep,
                "kind": kind,
                "runs": len(part),
                "done": int(counts.get("done", 0)),
                "other": ", ".join(
                    f"{n} {status}" for status, n in counts.items() if status != "done"
                ),
                "seconds": round(float(part["seconds"].sum()), 1)
                if part["seconds"].notna().any()
                else None,
                "last": part["finished"].max(),
            }
        )
    return pd.DataFrame(found)


def telling(found: pd.DataFrame, names: list[str] | None = None) -> pd.DataFrame:
    """The columns asked for; else the sweep, the settings in which the rows differ and the first
    headline metrics."""
    if names:
        if strange := [name for name in names if name not in found]:
            raise CinelabError(
                f"Column {strange[0]!r} is unknown; `cinelab results --columns` lists them."
            )
        return found[names]
    own = [name for name in Found.__dataclass_fields__ if name in found]
    metrics = [name for name in HEADLINES if name in found and found[name].notna().any()][:4]
    metrics += [name for name in METRICS if name in found and name not in metrics]
    differ = [
        name
        for name in found
        if name not in own
        and name not in metrics
        and not pd.api.types.is_float_dtype(found[name])
        and found[name].astype(str).nunique() > 1
    ]
    numbers = [
        name
        for name in found
        if name not in own
        and name not in HEADLINES
        and name not in metrics
        and pd.api.types.is_float_dtype(found[name])
        and (found[name].dropna() % 1 == 0).all()
        and found[name].nunique() > 1
    ]
    # cells are told apart by their settings
    named = ["name"] if (found["kind"] != "cell").any() else []
    return found[["sweep", *named, *differ[:3], *numbers[:3], "seed", *metrics]]


def column_table(found: pd.DataFrame) -> pd.DataFrame:
    """Every column, how many runs have it, and an example."""
    lines = [
        {"column": name, "runs": int(part.notna().sum()), "example": _example(part)}
        for name, part in found.items()
    ]
    return pd.DataFrame(lines)


def _example(part: pd.Series) -> str:
    """The first value of a column, with dots where it is cut."""
    return shortened(next(iter(part.dropna().astype(str)), ""), 60)


def save(found: pd.DataFrame, path: Path) -> None:
    """A whole answer as .csv or .parquet."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise CinelabError(f"--output is {path}; name a .csv or a .parquet file.")
    write = (
        found.to_parquet
        if path.suffix.lower() == ".parquet"
        else lambda to: found.to_csv(to, index=False)
    )
    write_atomic(path, write)


def text_of(value) -> str:
    """A value in a table: numbers to three places and never as -0, what is missing or endless as
    nothing."""
    if not pd.api.types.is_scalar(value):  # such as the lists and structs of an SQL answer
        return str(value.tolist() if hasattr(value, "tolist") else value)
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return "" if math.isinf(value) else f"{rounded(value)}".rstrip("0").rstrip(".")
    return str(value)


def rounded(value: float) -> str:
    """A number to three places, zero without a sign."""
    return f"{round(float(value), 3) + 0:.3f}"


def interval(low: float, high: float) -> str:
    """An interval as it stands behind its value, " [0.437, 0.523]"; nothing where it is not
    known."""
    return (
        f" [{rounded(low)}, {rounded(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    )


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, numbers to four places: zero without a sign, and what is not known (an
    endless interval) as nothing."""
    numbers = table.select_dtypes("number").replace([math.inf, -math.inf], math.nan).round(4) + 0
    return table.assign(**{name: numbers[name] for name in numbers}).to_csv(index=False)
