"""The messages of a browser: typed, or refused with one short sentence; never another error, never
a print."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cinelab.lab.desk.messages import (
    ARGUMENTS,
    MESSAGE,
    Do,
    Export,
    FramesDrawn,
    Hello,
    InvalidMessage,
    parse_message,
    read_message,
)
from cinelab.stream.commands import COMMANDS

DO = {"kind": "do", "id": 3, "command": "seed", "value": {"value": 1}}


def test_every_command_of_a_session_can_be_sent_and_no_other():
    assert set(ARGUMENTS) == set(COMMANDS)


def test_messages_become_typed_things():
    assert parse_message({"kind": "hello", "id": 1}) == Hello(1)
    assert parse_message({"kind": "drawn", "number": 7}) == FramesDrawn(7)
    assert parse_message({"kind": "export", "id": 2}) == Export(2)
    assert read_message(json.dumps(DO)) == Do(3, "seed", {"value": 1})
    assert parse_message(DO | {"command": "resume", "value": {}, "play": True}) == Do(
        3, "resume", {}, True
    )


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"kind": "shout"}, "kind is 'shout'"),
        ({"kind": ["do"]}, "kind is a list"),
        ({"kind": None}, "kind is None"),
        ({"command": "x" * 10**6}, "is unknown"),
        ({"command": {}}, "Command an object"),
        ({"command": None}, "Command None"),
        ({"value": []}, "is a list"),
        ({"value": {"value": True}}, "seed is True"),
        ({"value": {"value": 0.0}}, "seed is 0.0"),
        ({"value": {"value": 10**4000}}, "seed is"),
        ({"value": {}}, "seed has no value"),
        ({"value": {"value": 1, "x": 1}}, "has no 'x'"),
        ({"command": "retake", "value": {"seed": True}}, "seed is True"),
        ({"command": "branch", "value": {"chunk": 0.0}}, "chunk is 0.0"),
        ({"command": "branch", "value": {"chunk": "0"}}, "chunk is '0'"),
        ({"command": "prompt", "value": {"text": 5}}, "text is 5"),
        ({"command": "prompt", "value": {"text": "\ud83e"}}, "text is"),
        ({"command": "prompt", "value": {"text": "x" * 10**5}}, "text is"),
        ({"command": "cut", "value": {"text": {}}}, "text is an object"),
        ({"command": "levels", "value": {"value": [float("nan")]}}, "levels is a list"),
        ({"command": "levels", "value": {"value": {"at": [1]}}}, "levels is an object"),
        ({"play": 1}, "play is 1"),
        ({"command": "policy", "value": {"value": {"kind": "os:system"}}}, "policy is an object"),
    ],
)
def test_what_is_no_message_is_one_short_sentence_with_its_number(change, sentence):
    with pytest.raises(InvalidMessage) as caught:
        parse_message(DO | change)
    assert sentence in str(caught.value) and caught.value.id == 3 and len(str(caught.value)) < 250


@pytest.mark.parametrize("id", [None, "3", 3.0, True, {}, [], -1, 2**60])
def test_a_number_that_is_none_is_not_answered(id):
    with pytest.raises(InvalidMessage, match="id is") as caught:
        parse_message(DO | {"id": id})
    assert caught.value.id is None


def test_optional_values_may_be_left_out_or_null():
    for command, value in (
        ("cut", {}),
        ("cut", {"text": None}),
        ("retake", {"seed": None}),
        ("prompt", {"text": "a", "switch": None}),
    ):
        assert parse_message(DO | {"command": command, "value": value}).value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[" * 200_000,
        '{"a":' * 100_000,
        "NaN",
        '{"id": Infinity}',
        "null",
        "3",
        "[]",
        b"{}",
        "1" * 5000,
        json.dumps(DO | {"more": "x" * MESSAGE}),
    ],
)
def test_texts_that_hold_no_message(text):
    with pytest.raises(InvalidMessage):
        read_message(text)


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    some.dictionaries(
        some.sampled_from(["kind", "id", "command", "value", "play", "number"]), VALUES
    )
    | VALUES,
    some.sampled_from(["do", "hello", "drawn", "export"]),
    some.sampled_from(sorted(ARGUMENTS)),
)
def test_any_value_is_a_message_or_refused(content, kind, command):
    for tried in (
        (content, DO | content, DO | content | {"kind": kind, "command": command})
        if isinstance(content, dict)
        else (content,)
    ):
        try:
            assert isinstance(parse_message(tried), (Hello, Do, FramesDrawn, Export))
        except InvalidMessage as error:
            assert len(str(error)) < 250 and "\n" not in str(error)
