"""The bidirectional teacher that is given the true past: what it is given stays, what it attends to
beside that is the future alone, and only chunks of its own ODE are regressed on."""

from dataclasses import replace

import pytest
import torch
from test_students import FakeStore, net

from cinelab.errors import CinelabError
from cinelab.lab.training import students
from cinelab.seeds import rng_at
from cinelab.train import bidirectional, ode, pairs, presets
from cinelab.train.true_past import TRUE_PAST, counted_chunks, draw_true_past, mean_over

CONFIG = pairs.PairsConfig(
    teacher=TRUE_PAST, steps=4, levels=(1.0, 0.5), frames=4, batch=2, clips=2, bf16=False
)


@pytest.fixture(scope="module")
def teacher():
    return net().requires_grad_(False)


@pytest.fixture(scope="module")
def clips():
    return FakeStore().clips(2, 4, rng_at(0))


def ends(teacher, clips, noise, config=CONFIG):
    return pairs.trajectories(teacher, clips, config, noise)[1]


def test_a_chunk_depends_on_the_true_past_its_own_noise_and_the_future(teacher, clips):
    noise = torch.randn(clips.latents.shape, generator=rng_at(1))
    end = ends(teacher, clips, noise)
    other = torch.randn(clips.latents.shape, generator=rng_at(2))
    past, future = noise.clone(), noise.clone()
    past[:, :2] = other[:, :2]  # the past's noise: it is the truth there, whatever the noise
    future[:, 3:] = other[:, 3:]
    assert torch.equal(ends(teacher, clips, past)[:, 2:], end[:, 2:])
    assert not torch.allclose(ends(teacher, clips, future)[:, 2], end[:, 2])
    truth = clips.latents.clone()
    truth[:, 2:] += 1  # of itself and of the future the truth is not given
    later = replace(clips, latents=truth)
    assert torch.equal(ends(teacher, later, noise)[:, 2], end[:, 2])
    truth[:, :2] += 1
    earlier = replace(clips, latents=truth)
    assert not torch.allclose(ends(teacher, earlier, noise)[:, 2], end[:, 2])


def test_without_a_past_it_is_the_bidirectional_teacher(teacher, clips):
    noise = torch.randn(clips.latents.shape, generator=rng_at(1))
    plain = ends(teacher, clips, noise, replace(CONFIG, teacher="bidirectional"))
    torch.testing.assert_close(ends(teacher, clips, noise)[:, :1], plain[:, :1])


def test_the_chunks_that_count_are_drawn_for_each_shard():
    drawn = [counted_chunks(24, 4, 0, shard) for shard in range(20)]
    assert all(len(set(one)) == 4 and one == sorted(one) for one in drawn)
    assert {chunk for one in drawn for chunk in one} >= set(range(19))
    assert counted_chunks(6, 0, 0, 0) == list(range(6))
    config = replace(CONFIG, frames=6, chunk=3, counted=1)
    assert pairs.counted_frames(config, 0).tolist() in (
        [True] * 3 + [False] * 3,
        [False] * 3 + [True] * 3,
    )
    assert pairs.counted_frames(CONFIG, 0) is None


@pytest.mark.parametrize("kind", ["autoregressive", TRUE_PAST])
def test_only_what_counts_is_regressed_on(kind, teacher, clips, tmp_path):
    config = replace(CONFIG, teacher=kind, counted=2)
    store = FakeStore()
    assert list(pairs.integrate_pairs(tmp_path, config, teacher, "abc", store)) == [2]
    made = pairs.Pairs(tmp_path, config, "abc", store)
    given, states, end = made.shard(0)
    counted = pairs.counted_frames(config, 0)
    training = ode.OdeTraining(model=teacher.config, pairs=config, history="truth", bf16=False)

    def loss(end):
        rng = rng_at(3)
        return ode.loss(teacher, given, states, end, training, rng, counted=counted)

    other = end.clone()
    other[:, ~counted] += 9
    assert torch.equal(loss(other), loss(end)) and loss(end) > 0
    other[:, counted] += 9
    assert loss(other) > loss(end)
    with pytest.raises(CinelabError, match="are of counted=2, not of 0"):
        pairs.Pairs(tmp_path, replace(config, counted=0), "abc", store)


def test_pairs_of_before_count_every_chunk(teacher, tmp_path):
    config = replace(CONFIG, teacher="autoregressive")
    store = FakeStore()
    list(pairs.integrate_pairs(tmp_path, config, teacher, "abc", store))
    from cinelab.checksums import read_sealed, write_sealed

    path = tmp_path / "pairs.json"
    old = {k: v for k, v in read_sealed(path, "").items() if k != "counted"}
    write_sealed(path, old)
    assert pairs.Pairs(tmp_path, config, "abc", store).shard(0)[2].shape[1] == 4


def test_training_gives_a_prefix_and_has_no_loss_there(monkeypatch):
    config = replace(presets.bidirectional("smoke"), true_past=1.0, bf16=False)
    clips = FakeStore().clips(16, 5, rng_at(0))
    seen = {}

    def watched(x, t, condition, context):
        seen.update(x=x, t=t)
        return torch.zeros_like(x).requires_grad_()

    got = {}
    monkeypatch.setattr(
        bidirectional, "error", lambda *a: got.update(weight=a[4]) or torch.zeros(())
    )
    bidirectional.loss(watched, clips, config, rng_at(1))
    known = seen["t"] == 0
    assert torch.equal(seen["x"][known], clips.latents[known])
    assert not (known[:, 1:] & ~known[:, :-1]).any() and not known[:, -1].any()
    assert known.any() and (got["weight"][known] == 0).all()
    assert got["weight"].mean() == pytest.approx(1.0)


def test_the_share_of_clips_that_are_given_a_past():
    known = draw_true_past((4000, 8), 0.5, rng_at(0), "cpu")
    assert known.any(1).float().mean() == pytest.approx(0.5 * 7 / 8, abs=0.03)
    assert not draw_true_past((9, 8), 0.0, rng_at(0), "cpu").any()
    assert mean_over(torch.zeros(2, 3, dtype=torch.bool)).sum() == 0


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"counted": 5}, "counted is 5, but a clip has 4 chunks"),
        ({"counted": 2, "teacher": "bidirectional"}, "whose clips follow one ODE; use 0"),
        ({"teacher": "both"}, "teacher is 'both'; use one of autoregressive, bidirectional, "),
    ],
)
def test_what_does_not_go_together_is_refused(changes, sentence):
    with pytest.raises(CinelabError, match=sentence):
        replace(CONFIG, **changes)


def test_its_student_is_given_the_truth():
    assert presets.ode("toy", TRUE_PAST).history == "truth"
    with pytest.raises(CinelabError, match="bidirectional_true_past go with 'truth'"):
        replace(presets.ode("toy", TRUE_PAST), history="noisy")
    assert (
        students.plan_pairs("x", "y", "toybox-bidirectional-24", kind=TRUE_PAST).config.counted == 0
    )
