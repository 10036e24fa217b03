"""The recogniser: windows lie where they should, bad input is refused, the shipped one reads."""

import numpy as np
import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.lab.training import stages
from cinelab.metrics.toybox.recogniser import (
    WINDOW,
    Recogniser,
    RecogniserConfig,
    load_recogniser,
    windows,
)
from cinelab.train import recogniser as training
from cinelab.zoo import checkpoints as zoo


@pytest.fixture(scope="module")
def reader():
    return load_recogniser()


def test_the_shipped_one_reads_held_out_shots(reader):
    """On shots of another seed than the one its card was measured on."""
    seen = training.accuracy(reader, seed=4321, count=250)
    assert set(seen) == set(reader.attributes)
    assert np.mean(list(seen.values())) > 0.97
    assert min(seen.values()) > 0.93


def test_its_card_says_how_well_it_reads(reader):
    assert set(reader.accuracy) == set(reader.accuracy_codec) == set(reader.attributes)
    assert min(reader.accuracy.values()) >= 0.98


def test_the_last_window_of_a_span():
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    cut = windows(frames, [(0, 10), (10, 13)])
    assert cut[0, :, 0, 0, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert cut[1, :, 0, 0, 0].tolist() == [10, 11, 12, 12, 12, 12], (
        "a short span is filled up with its last frame"
    )


@pytest.mark.parametrize("span", [(3, 3), (-1, 4), (0, 21)])
def test_a_span_outside_the_film_is_refused(span):
    frames = np.zeros((20, 1, 1, 3), np.uint8)
    with pytest.raises(CinelabError, match="does not lie in a film of 20 frames"):
        windows(frames, [span])


def test_a_wrong_window_is_refused():
    with pytest.raises(CinelabError, match="found uint8"):
        Recogniser().read(np.zeros((1, WINDOW, 40, 64, 3), np.uint8))


def test_looks_outside_the_window_are_refused():
    with pytest.raises(CinelabError, match="looks"):
        RecogniserConfig(looks=(0, 6))


def test_probabilities_sum_to_one():
    shown = np.random.default_rng(0).integers(0, 255, (3, WINDOW, 48, 64, 3), dtype=np.uint8)
    for values in Recogniser().probabilities(shown).values():
        np.testing.assert_allclose(values.sum(1), 1, rtol=1e-5)


def test_training_makes_a_checkpoint_that_loads(tmp_path):
    stage = stages.recogniser(tmp_path / "run", "smoke", changes={"codec": None})
    first = [row["loss"] for row in stage.train()]
    stage.export(tmp_path / "reader")
    again = load_recogniser(tmp_path / "reader")
    assert len(first) == 4 and np.isfinite(first).all()
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), stage.model.state_dict().values(), strict=True)
    )
    assert set(again.accuracy) == set(again.attributes)


def test_a_reader_of_other_attributes_is_refused(tmp_path):
    model = Recogniser()
    zoo.save_checkpoint(tmp_path, model, model.card() | {"attributes": {"colour": ["red"]}})
    with pytest.raises(CinelabError, match="taught other values of .*colour"):
        load_recogniser(tmp_path)
