"""The noise floor: what is compared, and that its figures are those of known changes."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cinelab import load
from cinelab.bench.noise import MadeFilm, difference, noise_floor, structural_similarity
from cinelab.cli.commands import app
from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR
from cinelab.scale.acceleration import Speed
from cinelab.zoo.accelerated import at_speed


def noise_frames(count=2):
    return torch.randint(0, 256, (count, 24, 32, 3), generator=torch.manual_seed(0)).to(torch.uint8)


def test_similarity_is_one_for_the_same_and_falls_with_noise():
    frames = noise_frames()
    assert structural_similarity(frames, frames) == pytest.approx(np.ones(2), abs=1e-5)
    values = [
        float(structural_similarity(frames, (frames.float() * share).to(torch.uint8)).mean())
        for share in (0.99, 0.8, 0.2)
    ]
    assert 1 > values[0] > values[1] > values[2] > 0
    other = noise_frames().flip(1)
    assert abs(float(structural_similarity(frames, other).mean())) < 0.15


def test_differences_are_in_their_units():
    frames = noise_frames().clamp(max=250)
    film = MadeFilm(torch.zeros(3, 2, 4, 4), frames)
    found = difference(film, MadeFilm(torch.full((3, 2, 4, 4), 0.5), frames + 5))
    assert (found["latents, max"], found["latents, mean"]) == (0.5, 0.5)
    assert (found["frames, max of 255"], found["frames, mean of 255"]) == (5, 5)


def test_a_film_is_compared_with_itself_and_with_exact():
    bundle = load("toybox-1step")
    table = noise_floor(bundle, Speed(fused_qkv=True), CAMR(budget=3), chunks=5)
    assert table["compared"].tolist() == ["exact, twice", "fast, twice", "fast against exact"]
    apart = table["latents, max"].tolist()
    assert apart[:2] == [0, 0] and apart[2] < 1e-3
    with pytest.raises(CinelabError, match="runs as fast already"):
        noise_floor(bundle, Speed(fused_qkv=True), CAMR(budget=3))
    with pytest.raises(CinelabError, match="runs as fast already"):
        noise_floor(bundle, Speed(), CAMR(budget=3))


def test_an_exact_way_is_compared_with_itself_alone():
    table = noise_floor(load("toybox-1step"), Speed(), CAMR(budget=3), chunks=4)
    assert table["compared"].tolist() == ["exact, twice"]


def test_the_command_writes_how_far_films_are_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cinelab.bench.noise.at_speed",
        lambda bundle, speed: at_speed(bundle, Speed(fused_qkv=True)),
    )
    path = tmp_path / "noise.json"
    command = ["bench", "--model", "toybox-1step", "--noise", "--chunks", "5", "-o", str(path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    assert record["speed"]["name"] == "compiled" and record["speed"]["mode"] == "fast"
    assert [row["compared"] for row in record["noise"]][-1] == "fast against exact"
