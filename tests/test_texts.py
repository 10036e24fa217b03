"""One guard for every text and table that is handed to us: bounds, encodings, shapes, and that
nothing reads beside it."""

import json
import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cinelab.config import mapping, read_as, read_mapping
from cinelab.errors import CinelabError
from cinelab.files import append_line, read_lines
from cinelab.limits import DEPTH, DIGITS, VALUES
from cinelab.tables import read_frame
from cinelab.texts import (
    CAPTIONS,
    RECORD,
    SWEEP,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
)

PACKAGE = Path(__file__).parents[1] / "cinelab"


def refusal(read, *words) -> str:
    with pytest.raises(CinelabError) as caught:
        read(*words)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700
    return said


# ---- text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("title".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("title".encode("utf-32"), "is UTF-32 text"),
        ("a\nb\u00e4".encode("latin-1"), ":2: this is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", ":1: this is not UTF-8 text"),
        (
            "a\nred cat".encode("utf-16-le"),
            ":1: a zero byte stands there, so this is a binary or UTF-16 text",
        ),
        (b"a\n\0\0", ":2: a zero byte"),
    ],
)
def test_text_is_utf8_and_other_encodings_are_named(tmp_path, data, said):
    (tmp_path / "x.txt").write_bytes(data)
    assert said in refusal(read_text, tmp_path / "x.txt", CAPTIONS)


def test_a_byte_order_mark_is_no_text(tmp_path):
    for read, text in ((read_json, '{"a": 1}'), (lambda path: read_yaml(path, SWEEP), "a: 1")):
        (tmp_path / "x").write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read(tmp_path / "x") == {"a": 1}


def test_size_comes_first_and_is_said(tmp_path):
    small = replace(RECORD, most=10)
    (tmp_path / "x.json").write_text('{"a": 12345}')
    assert "above 10 bytes, the most that a record may have; restore it" in refusal(
        read_json, tmp_path / "x.json", small
    )
    assert "No such file" in refusal(
        read_json, tmp_path / "y.json"
    ) and "Is a directory" in refusal(read_json, tmp_path)
    assert "null" in refusal(read_json, "a\0b") and len(refusal(read_json, "x" * 10**5)) < 400


# ---- JSON and YAML


NOT_JSON = [
    ("", "is empty"),
    (" \n", "is empty"),
    ('{"a": 1, "a": 2}', "'a' is given twice"),
    ('{"b": [{"a": 1, "a": 1}]}', "'a' is given twice"),
    ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested too deeply"),
    ("[" * 10**5, "nested too deeply"),
    ('{"a":' * 10**5, "nested too deeply"),
    ("9" * (DIGITS + 50), "more than 300 digits"),
    ("[-" + "9" * 10**5 + "]", "more than 300 digits"),
    ('"\\ud83e"', "half of a character pair"),
    ('{"\\udd8a": 1}', "half of a character pair"),
    ("{", "not valid JSON"),
    ('"a\0b"', "a zero byte"),
    ("{'a': 1}", "not valid JSON"),
    ("[1] [2]", "Extra data"),
]


@pytest.mark.parametrize(("text", "said"), NOT_JSON)
def test_json_out_of_bounds_is_one_sentence(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    assert said in refusal(read_json, tmp_path / "x.json")


def test_json_within_bounds_is_read_and_what_is_no_number_is_null():
    assert parse_json('[NaN, -Infinity, 1e999, {"a": Infinity}, 1.5, "\\ud83e\\udd8a", true]') == [
        None,
        None,
        None,
        {"a": None},
        1.5,
        "\U0001f98a",
        True,
    ]
    assert (
        parse_json("[" * DEPTH + "]" * DEPTH)
        and parse_json("9" * DIGITS) == int("9" * DIGITS)
        and parse_json("NaN") is None
    )


NOT_YAML = [
    ("a: 1\na: 2", "line 1: not valid YAML ('a' is given twice"),
    ("[" * 10**5, "nested too deeply"),
    ("a: " + "- " * 10**5, "not valid YAML"),
    ("- 1\n" * (VALUES + 1), f"more than {VALUES} values"),
    ("a: 1" + ":10" * 10**5, "more than 300 digits"),
    ("a: 0x" + "f" * 400, "more than 300 digits"),
    ("a: &b [x]\nc: [" + "*b, " * VALUES + "]", "more than"),
    ("a: &a [*a]", "unfold to more than"),
    ('a: "\\ud83e"', "half of a character pair"),
    ("- &a x\n- &a y", "duplicate anchor"),
    ("a: \x01", "line 1: not valid YAML (character 0x1 is not text"),
    ("a: !!python/object:os.system x", "not valid YAML"),
    ("a: !!int x", "not valid YAML"),
    ("a: !!timestamp 2026-13-45", "not valid YAML"),
    ("{[a]: 1}", "not valid YAML"),
    ('a: "\\U99999999"', "not valid YAML"),
]


@pytest.mark.parametrize(("text", "said"), NOT_YAML)
def test_yaml_out_of_bounds_is_one_sentence(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    assert said in refusal(read_yaml, tmp_path / "x.yaml", SWEEP)


def test_many_keys_are_counted_in_one_pass_and_pairs_are_joined():
    assert len(parse_yaml("".join(f"k{i}: 1\n" for i in range(5000)))) == 5000
    assert parse_yaml('a: "\\ud83e\\udd8a"\n? "\\ud83e\\udd8a"\n: 1e3') == {
        "a": "\U0001f98a",
        "\U0001f98a": 1000.0,
    }


def test_a_line_is_refused_before_it_is_written_where_nobody_could_read_it(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"a": float("nan")})
    for odd in ({"a": "\ud83e"}, {"a": 10**400}, json.loads("[" * 70 + "]" * 70)):
        assert "cannot be written" in refusal(append_line, path, odd)
    assert read_lines(path) == [{"a": None}]
    path.write_text('{"a": 1}\n{"a": 1, "a": 2}\n')
    assert "line 2 ('a' is given twice" in refusal(read_lines, path)


# ---- shapes


@dataclass(frozen=True)
class Part:
    steps: int = 1
    name: str = ""


def test_a_file_of_another_shape_names_itself_and_the_field(tmp_path):
    path = tmp_path / "state.json"
    for value, said in (
        (None, "holds null, but a mapping of a, b is expected"),
        ([1], "holds a list"),
        (5, "holds 5"),
        ({}, "lacks 'a'"),
        ({"a": 1, "b": "2"}, "'b' is '2'"),
        ({"a": 1, "b": {"x": 3}}, "'b.x' is 3, but a str is wanted; restore it"),
        ({"a": True, "b": {}}, "'a' is True"),
        ({"a": 2**70, "b": {}}, "'a' is"),
    ):
        path.write_text(json.dumps(value))
        told = refusal(lambda: read_mapping(path, a=int, b=dict[str, str]))
        assert told.startswith(str(path)) and said in told
    assert mapping({"a": 1, "c": None}, "x", a=float, b=str | None, c=int | None) == {"a": 1.0}
    for value, said in (
        ("[]", "Part' is []"),
        ('{"steps": 0}', "'steps' is 0"),
        ('{"step": 1}', "did you mean 'steps'"),
        ("{", "not valid JSON"),
    ):
        path.write_text(value)
        told = refusal(read_as, Part, path)
        assert told.startswith(str(path)) and said in told and told.count(str(path)) == 1


# ---- tables


def test_a_table_that_is_none_is_one_sentence(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1, 2]}).to_parquet(path)
    good = path.read_bytes()
    assert list(read_frame(path, "make it again", ["a"])["a"]) == [1, 2]
    assert "has no column 'b'; make it again" in refusal(read_frame, path, "make it again", ["b"])
    for data in (
        b"",
        b"PAR1",
        b"text\n" * 50,
        good[:-20],
        good[: len(good) // 2],
        good[:100] + bytes(8) + good[108:-8] + b"\xff" * 8,
    ):
        path.write_bytes(data)
        assert "cannot be read as a table" in refusal(read_frame, path, "make it again")
    assert "no such file" in refusal(read_frame, tmp_path / "gone.parquet", "make it again").lower()
    pq.write_table(
        pa.table(
            {"a": pa.DictionaryArray.from_arrays(pa.nulls(6_000_000, pa.int8()), pa.array(["x"]))}
        ),
        path,
    )
    assert path.stat().st_size < 10**6 and "has 6000000 rows" in refusal(
        read_frame, path, "make it again"
    )


# ---- nothing reads beside the guard


BESIDE = re.compile(
    r"json\.loads?\(|yaml\.(safe_|full_|unsafe_)?load|(?<!_)read_csv\(|(?<!_)read_parquet\(|pq\.read_|ParquetFile\(|\.read_text\(|encoding=\"utf-8-sig\""
)
ALLOWED = {  # file: (how often, why)
    "texts.py": (1, "the guard"),
    "tables.py": (1, "the guard"),
    "threads.py": (2, "the kernel's own files"),
    "devices.py": (1, "the kernel's own files"),
    "config.py": (1, "a value that we have just written"),
    "lab/sweeps/cluster.py": (1, "a value that we have just written"),
    "lab/reports/templates.py": (1, "the package's templates"),
    "lab/reports/query.py": (1, "a column that we have just written"),
    "lab/sweeps/notebook.py": (1, "what nbformat has just written"),
    "lab/sweeps/server.py": (3, "pipes and files between our own two processes"),
    "lab/reports/reference.py": (1, "a text that came through the guard"),
    "lab/training/launch.py": (1, "a log that is shown and not understood"),
    "metrics/external/environments.py": (1, "a log that is shown and not understood"),
    "metrics/external/workers/vbench_worker.py": (
        1,
        "runs in an environment of its own, without cinelab",
    ),
    "metrics/external/workers/plumbing.py": (
        1,
        "runs in an environment of its own, without cinelab",
    ),
    "data/toybox_jobs.py": (1, "the words of the process that started it"),
    "lab/desk/demo.py": (1, "the package's page"),
    "lab/desk/page.py": (2, "the package's page"),
    "lab/desk/messages.py": (1, "messages have a guard of their own"),
    "lab/plain_notebook.py": (1, "passes on what it cannot read"),
}


def test_every_file_is_read_through_the_guard():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        lines = [
            line
            for line in path.read_text().splitlines()
            if BESIDE.search(line.partition("#")[0]) and "def " not in line
        ]
        found |= {path.relative_to(PACKAGE).as_posix(): len(lines)} if lines else {}
    more = {name: count for name, count in found.items() if count > ALLOWED.get(name, (0,))[0]}
    assert not more, (
        f"read these through cinelab.texts or cinelab.tables, or say here why not: {more}"
    )


@pytest.mark.parametrize(
    "read",
    [
        "read_bytes",
        "open_parquet",
        "VideoReader",
        "read_weights",
        "open_source",
        "read_state",
        "checksum",
        "read_arrays",
        "read_chunk",
        "read_picture",
    ],
)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
def test_a_pipe_a_socket_and_a_device_are_no_files(read, kind, tmp_path, monkeypatch):
    from cinelab.checksums import checksum, read_arrays
    from cinelab.latent.checkpoint import read_weights
    from cinelab.states import read_state
    from cinelab.stream.chunk_file import read_chunk
    from cinelab.stream.reader import VideoReader
    from cinelab.stream.video import read_image
    from cinelab.tables import open_parquet
    from cinelab.weights.tensor_files import file_kind

    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("x.mp4")
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        socket.socket(socket.AF_UNIX).bind("x.mp4")
    readers = {
        "read_bytes": lambda: read_bytes(path, RECORD),
        "open_parquet": lambda: open_parquet(path, "x"),
        "VideoReader": lambda: list(VideoReader(path).frames()),
        "read_weights": lambda: read_weights(path),
        "open_source": lambda: file_kind(path),
        "read_state": lambda: read_state(path),
        "checksum": lambda: checksum(path),
        "read_arrays": lambda: read_arrays(path, ["a"], "x"),
        "read_chunk": lambda: read_chunk(path),
        "read_picture": lambda: read_image(path, (8, 8)),
    }
    with pytest.raises(CinelabError, match=f"x.mp4 is {kind} and no file"):
        readers[read]()
