"""Two things at once: the same films, with errors and early ends where they belong."""

import threading
import time

import numpy as np
import pytest
import torch

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR, Full
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.stream import batch as engine
from cinelab.stream import generator as reel
from cinelab.stream.batch import check_room, empty_cache, policy_for
from cinelab.stream.director import Director
from cinelab.stream.overlap import prefetch

CAT = "wide shot of a red cat that waves in the meadow by day, static camera"
ROBOT = "close shot of a blue robot that dances in the city at night, zoom in"
PLAY = Screenplay(
    "Two",
    (
        Shot(CAT, 1.0, changes=(PromptChange(0.5, CAT.replace("waves", "jumps")),)),
        Shot(ROBOT, 0.75),
        Shot(CAT, 0.75, changes=(PromptChange(0.5, CAT, recache=True),)),
    ),
    seed=4,
)


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-2step")


@pytest.fixture(scope="module")
def plain(bundle):
    return Director(bundle).render(PLAY)


def test_decoding_beside_the_model_gives_the_same_bits(bundle, plain):
    film = Director(bundle, overlap=True).render(PLAY)
    assert np.array_equal(film.frames, plain.frames)
    assert film.routing.equals(plain.routing) and list(film.timings.columns) == list(
        plain.timings.columns
    )


@pytest.mark.parametrize("policy", [CAMR(budget=3), Full()], ids=repr)
def test_a_fused_film_is_the_same_to_rounding(bundle, policy):
    calls = []

    def count(*_):
        calls.append(1)

    hook = bundle.model.register_forward_hook(count)
    apart = Director(bundle, policy).render(PLAY)
    alone = len(calls)
    fused = Director(bundle, policy, fused=True, overlap=True).render(PLAY)
    hook.remove()
    assert np.abs(apart.frames.astype(int) - fused.frames).max() <= 2
    columns = ["chunk", "layer", "head", "kept_chunk"]
    assert (
        fused.routing.sort_values(columns)[columns].values.tolist()
        == apart.routing.sort_values(columns)[columns].values.tolist()
    )
    chunks = len(apart.timings)
    # all but the first, two cuts and a re-cache join
    assert len(calls) - alone == alone - (chunks - 1 - 3)


def test_a_many_step_model_keeps_its_clean_pass(plain):
    base = load("toybox-base")
    play = Screenplay("One", (Shot(CAT, 0.75),), seed=1)
    assert np.array_equal(
        Director(base, fused=True).render(play).frames, Director(base).render(play).frames
    )


def test_a_film_that_is_left_early_ends_its_thread(bundle):
    made = Director(bundle, overlap=True).stream(PLAY)
    next(made)
    made.close()
    assert not any(thread.name == "cinelab-ahead" for thread in threading.enumerate())


def test_an_error_comes_out_where_the_items_are_read():
    def items():
        yield 1
        raise CinelabError("The disk is full.")

    seen = []
    with pytest.raises(CinelabError, match="disk is full"):
        for item in prefetch(items()):
            seen.append(item)
    assert seen == [1]


def test_it_is_never_more_than_its_room_ahead():
    made = []
    items = (made.append(n) or n for n in range(10))
    for read in prefetch(items, room=2):
        time.sleep(0.02)
        # what is read, the room, and the one that waits to be put there
        assert len(made) <= read + 1 + 2 + 1
    assert made == list(range(10))


def test_a_film_that_cannot_fit_is_refused_before_it_begins(bundle, monkeypatch):
    need = check_room(bundle, CAMR(budget=6), 200)
    assert 0 < need.attended < need.stored < 2**30 and need.weights == 0
    monkeypatch.setattr(engine, "free_bytes", lambda device: 2**20)
    with pytest.raises(
        CinelabError, match=r"A film of \d+ chunks under camr needs 0\.\d GiB on the device"
    ):
        Director(bundle).render(PLAY)


def test_a_models_memory_settings_reach_its_films(bundle):
    from dataclasses import replace

    kept = replace(bundle, memory={"place": "host", "packing": "int8", "slots": 4, "summary": 6})
    assert (
        policy_for(kept, "camr", 5).summary == 6
        and policy_for(kept, "full", 5) == Full()
        and policy_for(bundle, "camr", 5).summary == 3
    )
    memory = empty_cache(kept, policy_for(kept, "camr", 5))
    assert (memory.storage.place, memory.storage.packing, memory.storage.slots) == (
        "host",
        "int8",
        4,
    )
    film = Director(kept).render(PLAY)
    assert (
        torch.isfinite(torch.tensor(film.frames.astype(float))).all()
        and film.info["policy"]["summary"] == 6
    )


def test_a_device_that_runs_out_of_memory_is_one_sentence(bundle, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(reel, "make_chunk", full)
    with pytest.raises(
        CinelabError,
        match=r"^Chunk 1 ran out of memory on the device "
        r"\(CUDA out of memory. Tried to allocate 2.00 GiB.\); keep",
    ):
        Director(bundle, overlap=True).render(PLAY)


def test_a_film_that_ran_out_of_memory_goes_on_where_it_was(bundle, monkeypatch, tmp_path):
    whole = Director(bundle).render(PLAY).frames
    make = reel.make_chunk

    def full_at_the_third(model, state, requests, **more):
        if state.index == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made.append(state.index)
        return make(model, state, requests, **more)

    made = []
    monkeypatch.setattr(reel, "make_chunk", full_at_the_third)
    said = "^Chunk 3 ran out of memory on the device .*; the 2 chunks that are finished are on the"
    with pytest.raises(CinelabError, match=said):
        Director(bundle).render(PLAY, keep=tmp_path / "film")
    assert made == [0, 1]
    monkeypatch.setattr(reel, "make_chunk", make)
    assert (Director(bundle).render(PLAY, keep=tmp_path / "film").frames == whole).all()


def test_decoding_that_runs_out_of_memory_is_one_sentence(bundle, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(bundle.codec, "decode", full)
    with pytest.raises(CinelabError, match="^Decoding chunk 1 ran out of memory on the device"):
        Director(bundle).render(PLAY)
