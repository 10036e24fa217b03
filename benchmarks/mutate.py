"""Mutations for `benchmarks/fuzz.py`: of bytes, of parsed values, of whole folders. All draw from
one `random.Random`."""

import json
import re
from random import Random
from typing import Any

import yaml

FRAGMENTS = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b":",
    b": ",
    b"- ",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"'",
    b"#",
    b"&a ",
    b"*a",
    b"!!python/object:x ",
    b"!!int ",
    b"<<: ",
    b"? ",
    b"|",
    b">",
    b"---\n",
    b"...",
    b"%YAML 9.9\n",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b".nan",
    b".inf",
    b"1e999",
    b"9" * 400,
    b"-1",
    b"0x" + b"f" * 400,
    b"1:30:59",
    b"2026-13-45",
    b"\\ud83e",
    b"\\u0000",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\xa6\x8a",
    b"\xe2\x80\xae",
    b"\x1b[31m",
    b"[/b]",
    b":smile:",
    b"[" * 300,
    b'{"a":' * 200,
    b"x" * 5000,
    b"../../etc/passwd",
    b"/dev/zero",
    b"%s%n",
    b"';--",
    b"<script>",
]
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    10**6,
    2**31,
    2**62,
    2**63,
    2**70,
    10**290,
    0.5,
    1.0,
    -0.0,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "a b",
    "a:b",
    "1",
    "null",
    "camr",
    "full",
    "cinelab.memory.policy:CAMR",
    "os:nothing",
    "\0",
    "\n",
    "\u202e",
    "[/b]",
    ":x:",
    "\U0001f98a",
    "../x",
    "/nowhere",
    "x" * 3000,
    [],
    {},
    [None],
    [[]],
    {"": 1},
    {"a": {}},
    {"kind": "x"},
    {"name": None},
    [1, 2],
    [0.5, 0.2],
    ["a", 1],
    {"value": True},
]
WORDS = re.compile(rb"[\w.]+|\s+|.", re.DOTALL)


def spoilt_bytes(data: bytes, rng: Random, most: int = 4) -> bytes:
    """Bytes with one to `most` small damages."""
    for _ in range(rng.randint(1, most)):
        data = rng.choice(
            (_flip, _cut_out, _put_in, _put_in, _double, _truncate, _exchange, _exchange)
        )(data, rng)
    return data[:200_000]


def _span(data: bytes, rng: Random, most: int = 40) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.randint(1, most))


def _flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return b"?"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _cut_out(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _put_in(data: bytes, rng: Random) -> bytes:
    start, _ = _span(data, rng)
    return data[:start] + rng.choice(FRAGMENTS) + data[start:]


def _double(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng, 200)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3, 300)) + data[end:]


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _exchange(data: bytes, rng: Random) -> bytes:
    """A word for a fragment, or for another word of the text."""
    words = WORDS.findall(data)
    if words:
        words[rng.randrange(len(words))] = rng.choice(FRAGMENTS if rng.random() < 0.5 else words)
    return b"".join(words)


def spoilt_value(value: Any, rng: Random, most: int = 3) -> Any:
    """A copy of plain values with one to `most` of its parts changed."""
    value = json.loads(json.dumps(value, default=str))
    for _ in range(rng.randint(1, most)):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        return _changed_mapping(value, rng)
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return (
            value[:place]
            + rng.choice(
                (
                    [],
                    [value[place]] * 2,
                    [_changed(value[place], rng)],
                    [_changed(value[place], rng)],
                )
            )
            + value[place + 1 :]
        )
    return rng.choice((junk(rng), junk(rng), [value], {"a": value}, _near(value, rng)))


def _changed_mapping(value: dict, rng: Random) -> dict:
    key = rng.choice(list(value))
    act = rng.random()
    if act < 0.15:
        return {name: item for name, item in value.items() if name != key}
    if act < 0.25:
        return value | {
            rng.choice(["x", "kind", "name", "", key + "s", "seed", "steps", "policy"]): junk(rng)
        }
    if act < 0.3:
        return value | {key: value[rng.choice(list(value))]}
    return value | {key: _changed(value[key], rng)}


def junk(rng: Random) -> Any:
    """Any value that JSON or YAML can hold."""
    return rng.choice(JUNK)


def _near(value: Any, rng: Random) -> Any:
    """Something like the value."""
    if isinstance(value, bool) or value is None:
        return rng.choice(("yes", 1, "None"))
    if isinstance(value, (int, float)):
        return rng.choice(
            (-value, value * 10, value + 1, value / 3, str(value), float(value), value * 10**6)
        )
    return rng.choice(
        (
            str(value)[::-1],
            f"{value} {value}",
            str(value)[:1],
            f" {value}",
            str(value).upper(),
            [str(value)],
        )
    )


def as_text(value: Any, rng: Random) -> bytes:
    """A value as JSON or YAML, in one of several ways of writing."""
    way = rng.randrange(4)
    if way < 2:
        return json.dumps(
            value, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5
        ).encode("utf-8", "surrogatepass")
    return yaml.safe_dump(
        value, default_flow_style=way == 2, allow_unicode=rng.random() < 0.5, sort_keys=False
    ).encode("utf-8", "surrogatepass")


def spoilt_text(data: bytes, rng: Random) -> bytes:
    """A YAML or JSON text, damaged as bytes or as the value that it holds."""
    if rng.random() < 0.5:
        return spoilt_bytes(data, rng)
    return as_text(spoilt_value(yaml.safe_load(data), rng), rng)


def spoilt_file(name: str, data: bytes, rng: Random) -> bytes:
    """A file of a folder, damaged as what it is: JSON, JSON lines, YAML, or bytes."""
    if rng.random() < 0.4 or not data:
        return spoilt_bytes(data, rng)
    try:
        return _spoilt_by_name(name, data, rng)
    except (ValueError, RecursionError, yaml.YAMLError):  # it was damaged before
        return spoilt_bytes(data, rng)


def _spoilt_by_name(name: str, data: bytes, rng: Random) -> bytes:
    if name.endswith(".jsonl"):
        return _spoilt_lines(data, rng)
    if name.endswith(".json"):
        return json.dumps(spoilt_value(json.loads(data), rng)).encode()
    return spoilt_text(data, rng) if name.endswith((".yaml", ".yml")) else spoilt_bytes(data, rng)


def _spoilt_lines(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")[:-1]
    place = rng.randrange(len(lines))
    new = json.dumps(spoilt_value(json.loads(lines[place]), rng)).encode()
    changed = rng.choice(
        ([], [new], [new], [new], [lines[place]] * 2, [lines[rng.randrange(len(lines))]], [b""])
    )
    return b"\n".join([*lines[:place], *changed, *lines[place + 1 :]]) + rng.choice(
        (b"\n", b"\n", b"")
    )


def spoilt_folder(
    files: dict[str, bytes], rng: Random, *, keep: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """A folder's files with one or two of them damaged, emptied, left out, or exchanged. Those in
    `keep` stay as they are."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice([name for name in files if name not in keep] or list(files))
        act = rng.random()
        if act < 0.08 and len(files) > 1:
            del files[name]
        elif act < 0.16:
            files[name] = rng.choice(
                (
                    b"",
                    b"null",
                    b"[]",
                    b"{}",
                    b"5",
                    b'"x"',
                    b"[" * 5000,
                    b"\x80\x00",
                    b"PAR1",
                    b"x" * 100,
                )
            )
        elif act < 0.22:
            files[name] = files[rng.choice(list(files))]
        else:
            files[name] = spoilt_file(name, files[name], rng)
    return files
