"""Trained weights from another machine: checked, scored, compared with the shipped ones, and put in
their place.

    report = adopt("results/gpu", install=True)

Nothing is installed before everything that came back was checked and scored. Of each checkpoint the
old files stay until all new ones are on the disk (`cinelab.outputs.together`).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cinelab.checksums import write_checksums
from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.recipe.checking import MODEL, Checked, check_returned, without_places
from cinelab.lab.recipe.comparing import as_rows, compare_with_shipped
from cinelab.lab.recipe.returned import Returned, returned
from cinelab.lab.reports.origin import made
from cinelab.outputs import together
from cinelab.zoo import checkpoints as zoo

REPORT = "adopted.json"
# beside weights and settings, what is installed of a checkpoint
BESIDE = ("log.jsonl",)
SPARE = 1.5  # times the bytes to be installed that have to be free


def adopt(
    folder: str | Path,
    output: str | Path = "results/adopted",
    *,
    only: tuple[str, ...] = (),
    names: dict[str, str] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    films: int = 32,
    score: bool = True,
    install: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Check what a folder holds, compare each checkpoint with the shipped one of its name, and
    return the report, which is written to OUTPUT/adopted.json.

    `only` are the names that are taken (none: all). `names` says by which shipped name one goes.
    With `install` the sound ones take the place of the shipped ones, unless one of them was
    refused. Raises CinelabError where there is nothing, or where what would be installed does not
    belong together.
    """
    output = Path(output)
    with returned(folder) as found:
        taken = chosen_of(found, only)
        codecs = {one.name: zoo.fingerprint(one.folder) for one in found if _is_codec(one)}
        rows = [_report_of(one, (names or {}).get(one.name), codecs) for one in taken]
        sound = [one for one, _ in rows if one is not None]
        for one, row in rows:
            if one is not None and score:
                row["metrics"] = as_rows(
                    compare_with_shipped(one, output, seeds=seeds, films=films, tell=tell)
                )
        report: dict[str, Any] = {"checkpoints": [row for _, row in rows], "installed": []}
        report |= {"made": made(folder=str(folder), seeds=list(seeds), films=films)}
        write_json(output / REPORT, report)
        if install:
            _refuse_parts(rows)
            check_together(sound)
            check_disk(sound)
            report["installed"] = [str(install_one(one)) for one in sound]
            write_json(output / REPORT, report)
    return report


def chosen_of(found: list[Returned], only: tuple[str, ...]) -> list[Returned]:
    """Return the checkpoints of these names. Raises CinelabError for a name that is none."""
    known = [one.name for one in found]
    if odd := [name for name in only if name not in known]:
        raise CinelabError(f"--only names {odd[0]!r}; there are {', '.join(known)}.")
    return [one for one in found if not only or one.name in only]


def _is_codec(one: Returned) -> bool:
    config = one.folder / zoo.CONFIG
    return config.is_file() and "codec" in (read := read_mapping(config)) and MODEL not in read


def _report_of(
    one: Returned, name: str | None, codecs: dict[str, str]
) -> tuple[Checked | None, dict[str, Any]]:
    """Return a checkpoint and its row of the report; None in place of one that is refused."""
    row: dict[str, Any] = {"came as": one.name, "refused": ""}
    try:
        sound = check_returned(one, name, codecs)
    except CinelabError as error:
        return None, row | {"refused": str(error)}
    return sound, row | {
        "name": sound.name,
        "kind": sound.kind,
        "weights": zoo.fingerprint(one.folder),
        "replaces": zoo.fingerprint(sound.name) if sound.name in zoo.shipped() else None,
        "preset": sound.preset,
        "differs": {key: list(pair) for key, pair in sound.differs.items()},
        "lineage": one.lineage,
    }


def _refuse_parts(rows: list[tuple[Checked | None, dict[str, Any]]]) -> None:
    """Raise CinelabError where one of what would be installed was refused."""
    for one, row in rows:
        if one is None:
            raise CinelabError(
                f"Nothing is installed, for {row['came as']} is refused: {row['refused']}"
            )


def check_together(sound: list[Checked]) -> None:
    """Raise CinelabError where a new codec would be installed without every model of the old one,
    or two checkpoints would go by one name."""
    names = [one.name for one in sound]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CinelabError(
            f"Two checkpoints would be installed as {twice[0]}; choose with --only, or give one "
            "another name with --name."
        )
    for one in sound:
        old = zoo.shipped()
        if one.kind != "codec" or one.name not in old:
            continue
        if zoo.fingerprint(one.returned.folder) == zoo.fingerprint(one.name):
            continue
        left = [name for name in old if _codec_of(name) == one.name and name not in names]
        if left:
            raise CinelabError(
                f"{one.name} is another codec than the one that {', '.join(left)} were trained "
                "with; install these with it, or give it another name with --name."
            )


def check_disk(sound: list[Checked]) -> None:
    """Raise CinelabError where the disk does not hold the new files beside the old ones."""
    needed = sum((one.returned.folder / zoo.WEIGHTS).stat().st_size for one in sound)
    free = shutil.disk_usage(zoo.SHIPPED).free
    if free < SPARE * needed:
        raise CinelabError(
            f"{needed / 2**20:.0f} MiB are to be installed in {zoo.SHIPPED}, and "
            f"{free / 2**20:.0f} MiB are free there; free some space."
        )


def _codec_of(name: str) -> str | None:
    entry = read_mapping(zoo.SHIPPED / name / zoo.CONFIG).get("codec")
    return entry if isinstance(entry, str) else None


def install_one(one: Checked) -> Path:
    """Put a checkpoint in the place of the shipped one of its name, with its lineage; whole or not
    at all. Return its folder."""
    source = one.returned.folder
    target = zoo.SHIPPED / one.name
    config = read_mapping(source / zoo.CONFIG)
    beside = [name for name in BESIDE if (source / name).is_file()]
    before = {path.name for path in target.glob("*")} if target.is_dir() else set()
    with together(target, zoo.CONFIG) as scratch:
        for name in (zoo.WEIGHTS, *beside):
            shutil.copyfile(source / name, scratch / name)
        stated = config | {"lineage": one.returned.lineage}
        write_json(scratch / zoo.CONFIG, without_places(stated))
        write_checksums(scratch, (zoo.WEIGHTS, zoo.CONFIG))
        new = {path.name for path in scratch.iterdir()}
    for name in before - new:
        # what the old training left: its log, its card
        (target / name).unlink(missing_ok=True)
    return target


def report_lines(report: dict[str, Any]) -> list[list[str]]:
    """Return the comparison of a report as lines of a table."""
    lines = []
    for row in report["checkpoints"]:
        for one in row.get("metrics", []):
            known = one["low"] is not None
            lines.append(
                [
                    row["name"],
                    one["metric"],
                    f"{one['value']:.3f}",
                    "" if one["shipped"] is None else f"{one['shipped']:.3f}",
                    f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
                    if known
                    else "",
                    "" if one["p"] is None else f"{one['p']:.3f}",
                    one["verdict"],
                ]
            )
    return lines


def sentence_of(row: dict[str, Any]) -> str:
    """Return what a report says of one checkpoint, in a sentence."""
    if row["refused"]:
        return f"{row['came as']} is refused: {row['refused']}"
    differs = row["differs"]
    said = ", ".join(f"{key} {new!r} (not {old!r})" for key, (old, new) in differs.items())
    preset = f"preset {row['preset']}" if row["preset"] else "settings of no known preset"
    where = f"; it differs in {said}" if said else ""
    verdicts = [one["verdict"] for one in row.get("metrics", [])]
    count = {kind: verdicts.count(kind) for kind in dict.fromkeys(verdicts)}
    counted = ", ".join(f"{number} {kind}" for kind, number in count.items())
    judged = counted or "not scored"
    return f"{row['came as']} as {row['name']}: {preset}{where}. Metrics: {judged}."
