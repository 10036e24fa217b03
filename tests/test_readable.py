"""Objects show themselves in a few lines: arrays by size, networks by class, settings on lines that
fit."""

import dataclasses
import importlib
import pkgutil
import re

import numpy as np
import pytest
import torch

import cinelab
from cinelab import Director, Screenplay, Shot, load
from cinelab.readable import Readable, brief_text, readable
from cinelab.train import presets
from cinelab.zoo.wan import WanSettings

PLAY = Screenplay("One", [Shot("wide shot of a red cat that waves in the forest by day", 0.5)])
HEAVY = re.compile(r"\b(Tensor|ndarray|DataFrame|Module|CausalWan|Codec|Bundle|KVCache|Batch)\b")


def test_a_chunk_a_bundle_and_a_director_are_short():
    director = Director("toybox-1step", seed=3)
    chunk = next(iter(director.stream(PLAY)))
    assert "frames=uint8 (1, 1, 48, 64, 3)" in repr(chunk) and len(repr(chunk)) < 300
    assert (
        "model=CausalWan of 6,200,672 weights" in repr(director.bundle)
        and len(repr(director.bundle)) < 900
    )
    assert repr(director) == "Director(toybox-1step, camr, steps 1, seed 3)"
    assert (
        repr(PLAY) == "Screenplay('One': 1 shot, 0.5 s, seed 0)" and "red cat" in PLAY._repr_html_()
    )
    assert len(repr(director.timeline(PLAY))) < 200


@pytest.mark.parametrize(
    "config",
    [
        presets.teacher_forcing("toy"),
        presets.dmd("toy"),
        presets.pairs("toy"),
        presets.consistency("toy"),
        WanSettings(),
    ],
)
def test_settings_are_on_lines_that_fit_and_name_every_field(config):
    text = repr(config)
    assert max(map(len, text.splitlines())) <= 100 and 2 < len(text.splitlines()) < 30
    names = {field.name for field in dataclasses.fields(config)}
    assert all(f"{name}=" in text for name in names)
    assert all(f"<td>{name}" in config._repr_html_() for name in names)


def test_large_values_are_shown_by_what_they_are():
    assert (
        brief_text(np.zeros((2, 3), np.uint8)) == "uint8 (2, 3)"
        and brief_text(torch.zeros(4)) == "float32 (4,)"
    )
    assert (
        brief_text(list(range(1000))) == "list of 1000 (int)"
        and brief_text([1, 2]) == "[1, 2]"
        and brief_text((1,)) == "(1,)"
    )
    assert (
        brief_text({"a": np.zeros(9)}) == "{'a': float64 (9,)}" and brief_text(0.1 + 0.2) == "0.3"
    )
    assert len(brief_text("x" * 10_000)) <= 120 and brief_text(load) == "load"
    assert readable({"a": 1}) == "{'a': 1}"


def test_what_holds_arrays_or_networks_is_readable():
    found = []
    for module in pkgutil.walk_packages(cinelab.__path__, "cinelab."):
        if "worker" in module.name or module.name.endswith("__main__"):
            continue
        for thing in vars(importlib.import_module(module.name)).values():
            if not (
                isinstance(thing, type)
                and dataclasses.is_dataclass(thing)
                and thing.__module__ == module.name
            ):
                continue
            heavy = HEAVY.search(" ".join(str(field.type) for field in dataclasses.fields(thing)))
            if (
                heavy
                and not issubclass(thing, Readable)
                and "__repr__" in vars(thing)
                and thing.__dataclass_params__.repr
            ):
                own = (
                    getattr(thing.__repr__, "__wrapped__", None) is None
                )  # one that it was given by hand
                found += [] if own else [f"{module.name}.{thing.__name__}"]
    assert found == []
