"""A toybox store that does not fit into memory: built by several processes, read clip by clip."""

import os

import numpy as np
import pytest
import torch

from cinelab.checksums import write_arrays, write_sealed
from cinelab.data import toybox_jobs
from cinelab.data.toybox import build_toybox, claim_store, missing_shards, of_latents
from cinelab.errors import CinelabError, Failed
from cinelab.jobs.job import Data
from cinelab.latent.mixed import MixedStore
from cinelab.latent.shards import stored_arrays
from cinelab.latent.store import Store, StoreConfig
from cinelab.script.prompts import WordEncoder, WordEncoderConfig
from cinelab.seeds import CounterGenerator, rng_at
from cinelab.train import provenance
from cinelab.train.provenance import data_of
from cinelab.world.worlds import world_named
from cinelab.zoo import checkpoints as zoo

ENCODER = WordEncoder(("a", "b"), WordEncoderConfig())


def numbers(n, frames, value=0.0):
    """Arrays of n films, every latent number different."""
    latents = np.arange(n * frames * 6, dtype=np.float16).reshape(n, frames, 3, 1, 2) + value
    slot = np.repeat(np.arange(frames)[None] // 2, n, 0).astype(np.int16)
    return {
        "latents": latents.astype(np.float16),
        "words": np.zeros((n, frames, ENCODER.length), np.int16),
        "slot": slot,
        "shot": slot,
        "who": slot % 2,
        "where": slot % 3,
    }


def write_store(folder, sizes=(3, 2), frames=6, recipe=None, without=()):
    """A store of shards of so many films."""
    folder.mkdir()
    write_sealed(folder / "store.json", recipe or {"films": sum(sizes), "codec": "c"})
    for number, n in enumerate(sizes):
        arrays = numbers(n, frames, 100.0 * number)
        write_arrays(
            folder / f"{number:06d}.npz", {k: v for k, v in arrays.items() if k not in without}
        )
    return folder


def test_clips_read_from_shards_are_those_of_a_store_in_memory(tmp_path):
    store = Store(write_store(tmp_path / "s"), ENCODER)
    whole = Store(tmp_path / "s", ENCODER)
    whole.latents = store.latents.whole()
    assert whole.latents.shape == store.latents.shape == (5, 6, 3, 1, 2)
    for kind in (torch.Generator, CounterGenerator):
        ours = store.clips(16, 4, rng_at(0, kind=kind))
        theirs = whole.clips(16, 4, rng_at(0, kind=kind))
        assert torch.equal(ours.latents, theirs.latents)
        assert torch.equal(ours.who, theirs.who) and torch.equal(ours.where, theirs.where)


def test_nothing_of_the_latents_is_read_before_a_clip_is(tmp_path):
    store = Store(write_store(tmp_path / "s"), ENCODER)
    with open(tmp_path / "s" / "000001.npz", "r+b") as file:
        file.seek(stored_arrays(tmp_path / "s" / "000001.npz")["latents"].offset)
        file.write(b"\xff")
    first = store.latents.gather(torch.tensor([0, 2]), torch.tensor([0, 2]), 4)
    assert torch.equal(first[1], torch.from_numpy(store.latents.parts[0].whole())[2, 2:6])
    with pytest.raises(CinelabError, match="000001.npz has changed since it was written: latents"):
        store.latents.gather(torch.tensor([3]), torch.tensor([0]), 4)


def test_a_shard_cut_short_is_one_sentence(tmp_path):
    store = Store(write_store(tmp_path / "s"), ENCODER)
    path = tmp_path / "s" / "000000.npz"
    os.truncate(path, 200)
    with pytest.raises(CinelabError, match="000000.npz is cut short or broken; remove it"):
        store.clips(8, 4, rng_at(0))
    with pytest.raises(CinelabError, match="000000.npz is cut short or broken"):
        Store(tmp_path / "s", ENCODER)


def test_a_store_without_truth_gives_clips_without_it(tmp_path):
    old = Store(write_store(tmp_path / "s", without=("who", "where")), ENCODER)
    clips = old.clips(2, 4, rng_at(0))
    assert clips.who is None and clips.where is None and clips.to("cpu").who is None


def test_shards_of_other_latents_or_counts_are_refused(tmp_path):
    folder = write_store(tmp_path / "s", sizes=(2,))
    write_arrays(folder / "000002.npz", numbers(2, 5))
    with pytest.raises(CinelabError, match="holds latents .5, 3, 1, 2. of float16"):
        Store(folder, ENCODER)
    write_arrays(folder / "000002.npz", numbers(2, 6) | {"slot": np.zeros((1, 6), np.int16)})
    with pytest.raises(CinelabError, match="latents of 4 films and slot of 3"):
        Store(folder, ENCODER)
    np.savez_compressed(folder / "000002.npz", **numbers(2, 6))
    with pytest.raises(CinelabError, match="000002.npz is compressed"):
        Store(folder, ENCODER)


def test_the_mark_of_a_large_store_is_that_of_its_checksums(tmp_path, monkeypatch):
    a = Store(write_store(tmp_path / "a"), ENCODER)
    b = Store(write_store(tmp_path / "b"), ENCODER)
    c = Store(write_store(tmp_path / "c", sizes=(2, 2)), ENCODER)
    small = data_of(a)["mark"]
    monkeypatch.setattr(provenance, "HASHED", 0)
    assert data_of(a)["mark"] == data_of(b)["mark"] != data_of(c)["mark"]
    assert data_of(a)["mark"] != small


def test_a_mixed_store_gives_the_shares_and_the_long_clips_of_the_long_films(tmp_path):
    shares = {write_store(tmp_path / "a"): 0.75, write_store(tmp_path / "b", frames=8): 0.25}
    store = MixedStore(shares, ENCODER)
    clips = store.clips(400, 6, rng_at(0))
    again = store.clips(400, 6, rng_at(0))
    assert torch.equal(clips.latents, again.latents) and len(clips.who) == 400
    long = store.clips(8, 8, rng_at(0)).latents.half()
    films = store.stores[1].latents.whole()
    assert all(any(torch.equal(clip, film) for film in films) for clip in long)
    of_first = {tuple(film[:, 0, 0, 0].tolist()) for film in store.stores[0].latents.whole()}
    count = sum(tuple(clip[:, 0, 0, 0].tolist()) in of_first for clip in clips.latents.half())
    assert 260 <= count <= 340
    assert (
        data_of(store)["mark"] != data_of(MixedStore(dict.fromkeys(shares, 0.5), ENCODER))["mark"]
    )
    with pytest.raises(CinelabError, match="longest|films of 6 latent frames"):
        store.clips(2, 99, rng_at(0))


def test_stores_of_two_codecs_are_not_mixed(tmp_path):
    a = write_store(tmp_path / "a")
    b = write_store(tmp_path / "b", recipe={"codec": "d"})
    with pytest.raises(CinelabError, match="has codec 'd', and .* 'c'; mix stores of one codec"):
        MixedStore({a: 0.5, b: 0.5}, ENCODER)
    with pytest.raises(CinelabError, match="more than 0, at most 1"):
        MixedStore({a: 0.0}, ENCODER)


def test_a_job_names_further_stores_and_their_shares(tmp_path):
    with pytest.raises(CinelabError, match="add up to 1; more than 0 and less than 1"):
        Data("toybox", "a", also={"b": 1.0})
    with pytest.raises(CinelabError, match="of kind toybox alone"):
        Data("films", "a", also={"b": 0.5})


def test_character_and_place_of_latent_frames_are_the_plans():
    plan = world_named().cast_film(2, 0, 24)
    who = of_latents(plan, "character")
    assert len(who) == 24
    changes = [i for i in range(1, 24) if plan.shot_of_latent[i] != plan.shot_of_latent[i - 1]]
    assert all(i in changes for i in range(1, 24) if who[i] != who[i - 1])


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """A store that two processes built, and its recipe."""
    folder = tmp_path_factory.mktemp("store")
    config = StoreConfig(seed=3, films=4, latents=4, shortest=2, longest=4, shard=2)
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toybox_jobs, "WORTH", 2)
        toybox_jobs.build_at_once(folder, config, "toybox-codec", jobs=2, tell=counts.append)
    assert counts == [0, 1, 2, 3, 4]
    return folder, config


def test_several_processes_build_what_one_builds(two_by_two, tmp_path):
    folder, config = two_by_two
    mark = zoo.fingerprint("toybox-codec")
    codec = zoo.load_codec("toybox-codec", "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    list(build_toybox(tmp_path, config, codec, zoo.toy_encoder(), mark))
    torch.set_num_threads(threads)
    for name in ("000000.npz", "000002.npz", "store.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_finished_store_starts_no_process_and_another_recipe_is_refused(two_by_two, monkeypatch):
    folder, config = two_by_two
    assert missing_shards(folder, config) == []
    monkeypatch.setattr(toybox_jobs.subprocess, "Popen", None)
    toybox_jobs.build_at_once(folder, config, "toybox-codec", jobs=2)
    other = StoreConfig(seed=4, films=4, latents=4, shortest=2, longest=4, shard=2)
    with pytest.raises(CinelabError, match="was built with seed=3, not 4; remove it or name"):
        toybox_jobs.build_at_once(folder, other, "toybox-codec")


def test_a_worker_that_dies_or_is_refused_is_one_sentence(tmp_path, monkeypatch):
    config = StoreConfig(films=4, shard=2)
    monkeypatch.setattr(toybox_jobs, "WORTH", 2)
    monkeypatch.setattr(toybox_jobs.zoo, "fingerprint", lambda name: "c")
    for code, kind, said in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Failed, "2 of 2 processes"),
        ("print('cinelab: no such codec.'); raise SystemExit(2)", CinelabError, "no such codec"),
    ):
        start = toybox_jobs.subprocess.Popen
        with monkeypatch.context() as patch:
            patch.setattr(
                toybox_jobs.subprocess,
                "Popen",
                lambda command, code=code, start=start, **given: start(
                    [command[0], "-c", code], **given
                ),
            )
            with pytest.raises(kind, match=said):
                toybox_jobs.build_at_once(tmp_path, config, "toybox-codec", jobs=2)


def test_films_are_not_encoded_by_another_worlds_codec(tmp_path):
    config = StoreConfig(films=2, latents=4, world="toybox-2")
    with pytest.raises(CinelabError, match="codec toybox-codec is of the world 'toybox-1', and"):
        toybox_jobs.build_at_once(tmp_path / "store", config, "toybox-codec")
    assert not (tmp_path / "store").exists()


def test_a_store_of_the_other_toybox_is_refused_by_its_world(tmp_path):
    claim_store(tmp_path, StoreConfig(films=2, latents=4, longest=9, world="toybox-2"), "a")
    with pytest.raises(CinelabError, match="built with world='toybox-2', not 'toybox-1'"):
        claim_store(tmp_path, StoreConfig(films=2, latents=4), "b")
