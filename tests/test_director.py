"""The director and its roll-out: the same seed is the same film; a branch goes on as if nothing had
happened."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cinelab import CAMR, Director, Full, Screenplay, Shot, Window, load
from cinelab.errors import CinelabError
from cinelab.flow.rollout import Chunk
from cinelab.memory.cache import KVCache
from cinelab.outputs import finish
from cinelab.stream.batch import TimedChunk, make, stream
from cinelab.stream.director import MARK, require_new_folder, saved_as

SHOTS = (
    Shot("wide shot of a red cat that waves in the meadow by day, static camera", 1.0),
    Shot("medium shot of a blue robot that jumps in the city at night, zoom in", 1.0),
    Shot("close shot of a red cat that dances in the meadow by day, static camera", 1.0),
)
PLAY = Screenplay(title="Three", shots=SHOTS, seed=4)


@pytest.fixture(scope="module")
def bundle():
    bundle = load("toybox-base")
    return replace(bundle, sampling=replace(bundle.sampling, steps=3))


@pytest.fixture(scope="module")
def film(bundle):
    return Director(bundle, policy=CAMR(budget=4)).render(PLAY)


def test_a_film_is_complete(film, bundle):
    assert film.frames.dtype == np.uint8 and film.frames.shape[1:] == (*bundle.size, 3)
    assert (
        len(film.frames)
        == film.timeline.pixel_frames
        == len(film.timings) * bundle.codec.stride - 1
    )
    assert len(film.cuts) == 2
    assert {"chunk", "layer", "kept_chunk", "kept_shot", "score", "kind"} <= set(
        film.routing.columns
    )
    assert (film.timings[["dit", "memory", "decode"]] > 0).all().all()


def test_a_film_shows_itself(film, bundle):
    assert (
        repr(film).startswith("Film(")
        and f"{len(film.frames)} frames of 64 x 48" in repr(film)
        and "\n" not in repr(film)
    )
    page = film._repr_html_()
    assert "data:video/mp4;base64," in page and repr(film).replace("'", "&#x27;") in page
    assert (
        len(repr(TimedChunk(0, film.frames[None], torch.zeros(1)))) < 100
        and len(repr(Chunk(0, torch.zeros(1, 999)))) < 80
    )


def test_the_same_seed_is_the_same_film(film, bundle):
    again = Director(bundle, policy=CAMR(budget=4)).render(PLAY)
    other = Director(bundle, policy=CAMR(budget=4), seed=5).render(PLAY)
    assert np.array_equal(film.frames, again.frames)
    assert not np.array_equal(film.frames, other.frames)


def test_the_stream_is_the_film(film, bundle):
    chunks = [timed.frames[0] for timed in Director(bundle, policy=CAMR(budget=4)).stream(PLAY)]
    assert np.array_equal(np.concatenate(chunks), film.frames)


def test_a_changed_last_prompt_leaves_the_earlier_shots_alone(film, bundle):
    """Earlier shots are not made again."""
    other = replace(PLAY, shots=(*SHOTS[:2], replace(SHOTS[2], prompt=SHOTS[1].prompt)))
    changed = Director(bundle, policy=CAMR(budget=4)).render(other)
    cut = film.cuts[1]
    assert np.array_equal(changed.frames[:cut], film.frames[:cut])
    assert not np.array_equal(changed.frames[cut:], film.frames[cut:])


@pytest.mark.parametrize(
    "policy", [Full(), Window(window=3), CAMR(budget=4)], ids=lambda p: type(p).__name__
)
def test_a_film_that_goes_on_from_a_snapshot_equals_the_uninterrupted_one(bundle, policy):
    director = Director(bundle, policy)
    line = director.timeline(PLAY)
    memory = KVCache(policy, bundle.chunk, bundle.max_distance)
    whole = []
    saved = None
    for timed in stream(bundle, [line], memory, [4], decode=False):
        whole.append(timed.latents)
        if timed.index == 5:
            saved = memory.snapshot()
    rest = [timed.latents for timed in stream(bundle, [line], saved, [4], decode=False)]
    assert len(rest) == len(whole) - 6
    assert all(torch.equal(a, b) for a, b in zip(whole[6:], rest, strict=True))


def test_a_film_is_the_same_alone_and_in_a_batch(bundle):
    line = Director(bundle, CAMR(budget=4)).timeline(PLAY)
    pair, _ = make(bundle, [line, line], CAMR(budget=4), [4, 9], bf16=False)
    alone, _ = make(bundle, [line], CAMR(budget=4), [9], bf16=False)
    torch.testing.assert_close(pair[1:], alone, rtol=0, atol=1e-3)


def test_a_film_can_be_saved_and_read_again(film, tmp_path):
    from cinelab.stream.video import read_video

    film.save(tmp_path)
    frames, fps = read_video(tmp_path / "film.mp4")
    assert len(frames) == len(film.frames) and float(fps) == film.fps
    assert Screenplay.load(tmp_path / "screenplay.yaml") == PLAY
    with pytest.raises(CinelabError, match="already holds a film"):
        require_new_folder(tmp_path)


def test_a_film_whose_saving_was_killed_is_finished_and_never_measured_as_whole(
    bundle, film, tmp_path
):
    from cinelab.metrics.video.evaluate import evaluate

    director = Director(bundle, policy=CAMR(budget=4))
    scratch = tmp_path / f".partial-{MARK}.d"
    film.save(tmp_path, lambda film, folder: (folder / "routing.html").write_text("x"))
    scratch.mkdir()
    for name in ("storyboard.png", MARK):  # as a kill leaves it: these were not moved yet
        (tmp_path / name).rename(scratch / name)
    failed = evaluate([tmp_path], ("colour",))
    assert failed["status"].tolist() == ["failed"] and "half-saved film" in failed["detail"][0]
    assert finish(tmp_path, MARK) and (tmp_path / "routing.html").exists() and not scratch.exists()
    assert saved_as(tmp_path, PLAY, director) and not saved_as(
        tmp_path, PLAY, Director(bundle, policy=CAMR(budget=5))
    )
    assert "failed" not in set(evaluate([tmp_path], ("colour",))["status"])


def test_a_film_without_its_mark_is_called_half_saved(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(CinelabError, match=r"half-saved film \(film.mp4 without film.json\)"):
        require_new_folder(tmp_path)


@pytest.mark.parametrize("fused", [False, True])
def test_a_film_that_was_stopped_goes_on_from_its_last_chunk(bundle, film, tmp_path, fused):
    director = Director(bundle, policy=CAMR(budget=4), fused=fused)

    def stop(done, _of):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        director.render(PLAY, stop, keep=tmp_path)
    made = []
    again = director.render(PLAY, show=made.append, keep=tmp_path)
    assert np.array_equal(again.frames, film.frames) and again.routing.equals(film.routing)
    assert [timed.index for timed in made] == list(range(len(again.timings)))
    other = Director(bundle, policy=CAMR(budget=4), seed=9).render(PLAY, keep=tmp_path)
    assert not np.array_equal(other.frames, film.frames)
    again.save(tmp_path)
    assert not list(tmp_path.glob(".making*"))


@pytest.mark.parametrize("damaged", ["00003.safetensors", "log.jsonl"])
def test_a_kept_chunk_that_has_changed_is_made_again(bundle, film, tmp_path, damaged):
    director = Director(bundle, policy=CAMR(budget=4))
    director.render(PLAY, keep=tmp_path)
    path = next(tmp_path.glob(f".making*/{damaged}"))
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 4]) + data[201:])
    with pytest.warns(UserWarning, match="are made again|is made from its first chunk"):
        again = director.render(PLAY, keep=tmp_path)
    assert np.array_equal(again.frames, film.frames) and again.routing.equals(film.routing)


def test_what_a_later_shot_asks_for_is_refused_before_the_first_chunk(bundle):
    for wrong in ({"policy": "camrr"}, {"policy": "sink", "budget": 10**6 + 1}):
        with pytest.raises(CinelabError, match="camrr|budget"):
            next(
                Director(bundle).stream(
                    replace(PLAY, shots=(*SHOTS[:2], replace(SHOTS[2], **wrong)))
                )
            )


def test_a_film_that_is_too_long_is_refused(bundle):
    long = replace(PLAY, shots=tuple(Shot(SHOTS[i % 3].prompt, 20.0) for i in range(60)))
    with pytest.raises(CinelabError, match="split the film"):
        Director(bundle).timeline(long)
