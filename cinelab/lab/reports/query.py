"""Questions to the index of results: `cinelab results "policy = 'camr' and away = 9"`.

`wide` joins the index's two tables to a row a run, a column for every parameter and metric. A
question is a condition on it, or one SELECT over runs, measures and wide.
"""

import json
import re
import threading
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.lab.reports.index import Found, index
from cinelab.limits import short, truncated
from cinelab.metrics.legacy import current_labels
from cinelab.metrics.metric import METRICS

MOST_SECONDS = 60  # of a question
READ_ONLY: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # of a database of questions
    "python_enable_replacements": False,
    "memory_limit": "2GB",
    "temp_directory": "",
}


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

    def number(value: object) -> object:
        return value if type(value) in (int, float) else None

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
    shown = sql if sql is not None else str(where)
    runs, measured = index(results)
    found = wide(runs, measured)
    question = _current(
        sql if sql is not None else f"select * from wide where (\n{where}\n)", found
    )
    numbers = _numbers(runs, found)
    _only_reads(question, shown)
    try:
        return _ask(question, shown, runs, measured=measured, found=found)
    except CinelabError as error:
        if not (numbers and isinstance(error.__cause__, _type_errors())):
            raise
        first = error
    try:
        return _ask(question, shown, runs, measured=measured, found=found.assign(**numbers))
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


def _current(question: str, found: pd.DataFrame) -> str:
    """The question with earlier names of metrics in quotes ("identity kept") as present labels."""

    def name(match: re.Match) -> str:
        return f'"{current_labels([match[1]], found)[0]}"'

    return re.sub(r'"([^"]+)"', name, question)


def _ask(
    question: str, shown: str, runs: pd.DataFrame, *, measured: pd.DataFrame, found: pd.DataFrame
) -> pd.DataFrame:
    import duckdb

    with duckdb.connect(config=READ_ONLY) as database:
        for name, table in (("runs", runs), ("measures", measured), ("wide", found)):
            database.register(name, table)
        database.execute("set lock_configuration = true")
        late = threading.Timer(MOST_SECONDS, database.interrupt)
        late.start()
        try:
            return database.sql(question).df()
        except duckdb.Error as error:
            raise _misunderstood(shown, error) from error
        finally:
            late.cancel()


def _only_reads(question: str, shown: str) -> None:
    """Refuse everything but a single SELECT."""
    import duckdb

    try:
        kinds = [statement.type for statement in duckdb.extract_statements(question)]
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
    message = str(error).split("\n")[0].rstrip(".")
    return CinelabError(
        f"The question {short(shown, 200)} was not understood: {message}. Quote names as "
        '"identity (kept)", '
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
    """The named columns; else the sweep, the settings in which the rows differ and the first
    headline metrics."""
    if names:
        names = current_labels(names, found)
        if strange := [name for name in names if name not in found]:
            raise CinelabError(
                f"Column {strange[0]!r} is unknown; `cinelab results --columns` lists them."
            )
        return found[names]
    own = [name for name in Found.__dataclass_fields__ if name in found]
    metrics = [name for name in METRICS.headlines(found) if found[name].notna().any()][:4]
    own_names = [one.name for one in METRICS.measured()]
    metrics += [name for name in own_names if name in found and name not in metrics]
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
        and not METRICS.of(name).headline
        and name not in metrics
        and pd.api.types.is_float_dtype(found[name])
        and (found[name].dropna() % 1 == 0).all()
        and found[name].nunique() > 1
    ]
    # cells differ by their settings
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
    return truncated(next(iter(part.dropna().astype(str)), ""), 60)


def save_answer(found: pd.DataFrame, path: Path) -> None:
    """A whole answer as .csv or .parquet."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise CinelabError(f"--output is {path}; name a .csv or a .parquet file.")
    write = (
        found.to_parquet
        if path.suffix.lower() == ".parquet"
        else lambda to: found.to_csv(to, index=False)
    )
    write_atomic(path, write)
