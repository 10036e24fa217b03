"""Odd input, a little of everything: taken, or refused with one short sentence.
`benchmarks/fuzz.py` does it by the thousand.

An example is a number, from which `benchmarks/fuzz_kinds.py` makes its files.
"""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_kinds
from benchmarks.fuzz_kinds import (
    COMMANDS,
    JOBS,
    KINDS,
    PLAYS,
    QUESTIONS,
    SWEEPS,
    attempt,
    fields_of,
    made,
    settings_classes,
)
from cinelab.config import from_dict
from cinelab.errors import LONGEST, CinelabError, brief
from cinelab.limits import RANGES

MANY = {
    "screenplay": 40,
    "sweep": 40,
    "job": 30,
    "settings": 150,
    "session": 10,
    "commands": 12,
    "message": 60,
    "checkpoint": 15,
    "wan_settings": 40,
    "run_folder": 20,
    "store": 20,
    "listing": 25,
    "results": 2,
    "cells": 6,
    "report": 1,
    "card": 10,
    "question": 8,
    "arguments": 8,
}


def tried(name: str, files: dict[str, bytes]) -> bool:
    with TemporaryDirectory() as folder:
        return attempt(name, files, Path(folder))


@pytest.mark.parametrize("name", MANY)
def test_anything_is_taken_or_refused_with_a_sentence(name):
    @settings(
        max_examples=MANY[name],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def odd(number):
        tried(name, KINDS[name].make(Random(f"{name} {number}")))

    odd()


def test_every_kind_is_tried():
    assert MANY.keys() == KINDS.keys()


def test_what_is_mutated_is_good():
    """Else every mutation would be refused at the same place."""
    for name, file, texts in (
        ("screenplay", "film.yaml", PLAYS),
        ("sweep", "sweep.yaml", SWEEPS),
        ("job", "run.yaml", JOBS),
    ):
        assert all(tried(name, {file: text}) for text in texts), name
    for name, build in (
        ("session", fuzz_kinds.build_session),
        ("run_folder", fuzz_kinds.build_run),
        ("store", fuzz_kinds.build_store),
    ):
        assert tried(name, made(build)), name
    for question in QUESTIONS[:3]:
        assert tried(
            "question",
            {
                "question.txt": question.encode(),
                "how.txt": b"sql" if question.startswith("select") else b"where",
            },
        )
    assert {command for command, _ in COMMANDS} > {"prompt", "cut", "retake", "branch", "undo"}


# ---- settings


SETTINGS = (
    "cinelab.data.settings",
    "cinelab.flow.sampler",
    "cinelab.latent.codec",
    "cinelab.latent.store",
    "cinelab.memory.policy",
    "cinelab.model.wan",
    "cinelab.metrics.card",
    "cinelab.metrics.toybox.validation",
    "cinelab.bench.wan_speed",
    "cinelab.train",
)
# checked where they are used with others, or of any size
FREE = {"levels", "at", "counts", "shots", "ratio", "light", "contrast", "blur", "shift", "reward"}


def test_all_settings_are_found():
    names = {path.rpartition(":")[2] for path in settings_classes()}
    assert {
        "DataConfig",
        "Sampling",
        "Job",
        "Lora",
        "Layout",
        "WanConfig",
        "WanSettings",
        "CAMR",
        "Settings",
        "DmdTraining",
        "OdeTraining",
        "CardConfig",
    } <= names


def test_every_number_of_settings_has_a_range():
    import dataclasses
    from typing import get_args, get_type_hints

    def counts(hint) -> bool:
        return hint in (int, float) or any(map(counts, get_args(hint)))

    for path, cls in settings_classes().items():
        if path.startswith(SETTINGS):
            hints = get_type_hints(cls)
            free = [
                field.name
                for field in dataclasses.fields(cls)
                if field.init and counts(hints[field.name]) and field.name not in {*RANGES, *FREE}
            ]
            assert not free, f"{path} has {free}, for which cinelab.limits.RANGES has no range"


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda more: st.lists(more) | st.dictionaries(st.text(), more),
        max_leaves=8,
    )
)
def test_any_json_makes_settings_or_a_sentence(value):
    for cls in settings_classes().values():
        for given_value in (value, dict.fromkeys(fields_of(cls, Random(0)), value)):
            try:
                from_dict(cls, given_value)
            except CinelabError as error:
                assert len(str(error)) <= LONGEST


# ---- sentences stay short


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**5,
        "a b " * 10**5,
        "\x1b[31m" * 10**4,
        "it's " * 10**4,
        'say "x" ' * 10**4,
        "[/b]" * 10**4,
    ],
)
def test_a_very_long_value_is_cut_wherever_it_is_quoted(value):
    for said in (
        f"policy is {value!r}; use one of camr, full.",
        f"{value} cannot be read; check the path.",
        f"Setting {value!r} is {value!r}; change it.",
    ):
        assert len(brief(said)) <= LONGEST and len(str(CinelabError(said))) <= LONGEST
    assert (
        str(CinelabError(f"policy is {'x' * 500!r}; use one of camr."))
        == f"policy is '{'x' * 57}...'; use one of camr."
    )


def test_a_sentence_of_usual_length_is_left_as_it_is():
    said = "store.kind is 'films'; run `cinelab sweep 'a folder/x.yaml'`, don't \"guess\". " * 3
    assert brief(said) == said
