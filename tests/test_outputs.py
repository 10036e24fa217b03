"""Places to write are proved and locked before any work, and what belongs together is there whole
or not at all."""

import os
import signal
from pathlib import Path

import pytest
from kills import killed_at_every_operation
from writers import child_refuses

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.outputs import (
    HOST,
    finish,
    half_saved,
    ready_file,
    ready_folder,
    together,
    writing,
    writing_file,
)


def held(tmp_path: Path) -> dict[str, Path]:
    """Places in which nothing can be made."""
    (tmp_path / "file").write_text("x")
    return {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "a" / "b",
        "too long": tmp_path / ("x" * 300),
        "a zero byte": tmp_path / "a\0b",
        "of the system": Path("/proc/x"),
        "a device": Path("/dev/null"),
    }


@pytest.mark.parametrize(
    "kind", ["a file", "below a file", "too long", "a zero byte", "of the system", "a device"]
)
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, kind):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CinelabError, match="cannot be written to .*; "):
        ready_folder(held(tmp_path)[kind])
    assert sorted(os.listdir(tmp_path)) in (before, ["file"])


@pytest.mark.parametrize(
    "kind", ["below a file", "too long", "a zero byte", "of the system", "a device"]
)
def test_a_file_that_cannot_be_made_is_one_sentence(tmp_path, kind):
    with pytest.raises(CinelabError, match="^Output "):
        ready_file(held(tmp_path)[kind])


def test_a_file_is_no_folder_and_has_its_ending(tmp_path):
    with pytest.raises(CinelabError, match="is a folder; name a file"):
        ready_file(tmp_path)
    with pytest.raises(CinelabError, match="ends in '.csv'; name a file that ends in .parquet"):
        ready_file(tmp_path / "a.csv", (".parquet",))
    assert (
        ready_file(tmp_path / "new" / "a.PARQUET", (".parquet",))
        and not (tmp_path / "new").exists()
    )


def test_a_second_writer_is_told_who_writes(tmp_path):
    child = os.fork()
    if child == 0:
        with writing(tmp_path / "out"):
            signal.pause()
    try:
        while not (tmp_path / "out" / ".lock").exists() or not (
            tmp_path / "out" / ".lock"
        ).read_text().endswith("\n"):
            pass
        with (
            pytest.raises(CinelabError, match=f"out is written by process {child} on {HOST}"),
            writing(tmp_path / "out", 0),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with writing(tmp_path / "out"):  # a dead writer's lock is taken over
        pass


def test_nothing_written_leaves_nothing_behind(tmp_path):
    with (
        writing(tmp_path / "a" / "b", tidy=True),
        pytest.raises(CinelabError),
        writing_file(tmp_path / "c" / "d.json", (".csv",)),
    ):
        pass
    with writing_file(tmp_path / "c" / "d.json"):
        assert os.listdir(tmp_path / "c") != []
    assert os.listdir(tmp_path) == []


# ---- together


FILES = ("film.mp4", "storyboard.png", "film.json")


def save(folder: Path, word: str) -> None:
    with together(folder, FILES[-1]) as scratch:
        for name in FILES:
            write_text(scratch / name, word)


def words(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")
    }


@pytest.mark.parametrize("old", [False, True])
def test_a_kill_at_any_file_operation_is_recovered(tmp_path, old):
    """The next save ends as an undisturbed one, and before it the folder is as it was, or known to
    be half and then finished."""
    words_of = {"old": dict.fromkeys(FILES, "old"), "new": dict.fromkeys(FILES, "new")}

    def again(folder: Path) -> None:
        if half_saved(folder, FILES[-1]):
            assert finish(folder, FILES[-1]) and words(folder) == words_of["new"]
        assert words(folder) in ([words_of["old"]] if old else [{}]) + [words_of["new"]]
        save(folder, "new")

    before = (lambda folder: save(folder, "old")) if old else None
    assert killed_at_every_operation(again, tmp_path, before=before) == []


def test_a_failure_leaves_what_was_there(tmp_path):
    save(tmp_path, "old")
    with pytest.raises(ZeroDivisionError), together(tmp_path, FILES[-1]) as scratch:
        write_text(scratch / FILES[0], "new")
        raise ZeroDivisionError
    assert words(tmp_path) == dict.fromkeys(FILES, "old") and sorted(
        os.listdir(tmp_path)
    ) == sorted(FILES)


def test_two_writers_of_one_set_do_not_mix(tmp_path):
    with together(tmp_path, "a.json") as scratch:
        write_text(scratch / "a.json", "{}")
        assert child_refuses(lambda: together(tmp_path, "a.json").__enter__())


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    for prove, path in (
        (ready_folder, tmp_path / name),
        (ready_folder, tmp_path / name / "x"),
        (ready_file, tmp_path / f"{name}.csv"),
    ):
        with pytest.raises(
            CinelabError, match=r"\\udcff\\udcfe.* has a name that is not UTF-8; rename it"
        ):
            prove(path)
    assert list(tmp_path.iterdir()) == []
