"""Levels that are replayed, by a stand-in for CUDA's graphs: the same operations on the same memory
once more."""

import pytest
import torch

from cinelab import load
from cinelab.bench.speed import endless
from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR, Window
from cinelab.scale.acceleration import Speed, accelerate
from cinelab.scale.graphs import replay_levels
from cinelab.stream.batch import empty_cache, stream

CHUNKS = 9
CAMERA = CAMR(budget=3)


class Graphs:
    """Counts what is captured and replayed; refuses memory that has moved since."""

    def __init__(self):
        self.captured = 0
        self.replayed = 0

    def __call__(self, run):
        self.captured += 1
        out = run().clone()
        x, t, *_ = run.args
        places = [part.data_ptr() for part in (x, t)]

        def replay():
            self.replayed += 1
            assert [part.data_ptr() for part in (x, t)] == places
            out.copy_(run())

        return replay, out


def latents(bundle, policy, seed=1):
    """Yield a film's latents chunk by chunk."""
    film = [endless(bundle, CHUNKS, seed=seed)]
    for made in stream(bundle, film, empty_cache(bundle, policy), [seed], decode=False):
        yield made.latents


@pytest.fixture(scope="module")
def plain():
    bundle = load("toybox-4step")
    return {
        (policy, seed): list(latents(bundle, policy, seed))
        for policy, seed in ((CAMERA, 1), (CAMERA, 2), (Window(window=3), 1))
    }


@pytest.fixture
def replayed():
    """A model whose later levels are replayed, and the counts."""
    bundle = load("toybox-4step")
    graphs = Graphs()
    replay_levels(bundle.model, graphs)
    return bundle, graphs


def test_replayed_levels_are_the_plain_ones_to_the_bit(plain, replayed):
    bundle, graphs = replayed
    made = list(latents(bundle, CAMERA))
    assert all(map(torch.equal, made, plain[CAMERA, 1]))
    # captured once, when two chunks in a row had the shapes; then three of four levels a chunk
    late = CHUNKS - 5
    assert (graphs.captured, graphs.replayed) == (1, 3 * late)


def test_another_film_takes_the_same_graph(plain, replayed):
    bundle, graphs = replayed
    for seed in (1, 2):
        made = list(latents(bundle, CAMERA, seed))
        assert all(map(torch.equal, made, plain[CAMERA, seed]))
    assert graphs.captured <= 3 and graphs.replayed > 3 * (CHUNKS - 5)


def test_films_that_take_turns_do_not_share_memory(plain, replayed):
    bundle, _ = replayed
    films = [latents(bundle, CAMERA, seed) for seed in (1, 2)]
    turns = list(zip(*films, strict=True))
    for place, seed in enumerate((1, 2)):
        assert all(map(torch.equal, [turn[place] for turn in turns], plain[CAMERA, seed]))


def test_pages_attended_to_in_the_store_are_not_replayed(plain, replayed):
    bundle, graphs = replayed
    made = list(latents(bundle, Window(window=3)))
    assert all(map(torch.equal, made, plain[Window(window=3), 1]))
    assert graphs.captured == 0


def test_graphs_need_a_gpu():
    bundle = load("toybox-4step")
    if next(bundle.model.parameters()).is_cuda:
        pytest.skip("the model is on a GPU")
    with pytest.raises(CinelabError, match="CUDA graphs, and the model is not on a GPU"):
        accelerate(bundle.model, Speed(graphs=True))
