"""Few-step students: the training roll-out is the live stream, equal scores pull nowhere, pairs are
what streaming makes, killed and resumed equals uninterrupted, and bad input is one sentence."""

from dataclasses import replace

import pytest
import torch
from test_train import Fake, model, parts_of, rows_of, same

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import (
    ChunkModel,
    MadeChunk,
    NumberedPrompts,
    RolloutState,
    append_chunk,
    denoise,
    rollout,
    velocity_of,
)
from cinelab.flow.sampler import Sampling
from cinelab.lab.training import students
from cinelab.memory.cache import KVCache
from cinelab.memory.context import FULL_HISTORY
from cinelab.memory.policy import CAMR, Full
from cinelab.runs import Run
from cinelab.seeds import rng_at
from cinelab.stream.batch import embed, make, requests_of_films
from cinelab.train import consistency, dmd, ode, pairs, presets, self_rollout
from cinelab.train.optim import Ema
from cinelab.world.worlds import world_named
from cinelab.zoo.checkpoints import load

TWO = Sampling(2, "consistency", guidance=1.0, first_steps=3)


class FakeStore(Fake):
    recipe = {"films": "random"}


def net(seed=0):
    """A smoke-sized network whose output is not zero."""
    made = model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return made


DMD = replace(
    presets.dmd("smoke"), model=presets.SMOKE, bf16=False, known=0.0, batch=2, policy=CAMR(budget=2)
)


# The one roll-out


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_differentiable_rollout_is_the_live_stream_bit_for_bit(bf16):
    bundle = load("toybox-base")
    world = world_named()
    plans = [world.absence(5, i, away=1, shot_latents=2) for i in range(2)]
    lines = [world.timeline(plan) for plan in plans]
    streamed, _ = make(bundle, lines, CAMR(budget=3), [1, 2], TWO, bf16=bf16)
    bundle.model.requires_grad_(True)
    slot = torch.zeros(2, 1, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        condition = Condition(embed(bundle, lines), slot).encoded(bundle.model)
        shape = (1, *bundle.latent_shape)
        maker = ChunkModel(bundle.model, NumberedPrompts(condition, 1), shape, sampling=TWO)
        cache = KVCache(CAMR(budget=3), 1, bundle.max_distance)
        chunks = rollout(maker, RolloutState(0, cache), requests_of_films(lines, [1, 2]))
        made = torch.cat([chunk.latents.float() for chunk in chunks], 1)
    assert made.requires_grad and torch.equal(made.detach(), streamed)


def test_only_the_exit_level_keeps_its_graph():
    network = net()
    clips = Fake().clips(1, 3, rng_at(0))
    calls = []

    def counted(*inputs):
        out = network(*inputs)
        calls.append(out.requires_grad)
        return out

    table = NumberedPrompts(clips.condition.encoded(network), 1)
    sampling = Sampling(4, "consistency", 1.0)
    rolled = rollout(
        ChunkModel(counted, table, (1, 24, 6, 8), sampling=sampling),
        RolloutState(0, KVCache(Full(), 1)),
        self_rollout.clip_requests(clips, [0], 1),
        exit_at=0.6,
    )
    first, second, _ = (chunk.latents for chunk in rolled)
    # exit at the third of four levels, then the clean pass
    assert calls == 3 * [False, False, True, False]
    # nothing flows through the memory
    assert torch.autograd.grad(second.sum(), first, allow_unused=True) == (None,)


def test_first_chunk_may_take_more_levels():
    assert TWO.levels(first=True).numel() == 4 and TWO.levels().numel() == 3
    assert Sampling(2, "consistency", shift=1.0, at=(1.0, 0.25)).levels().tolist() == [
        1.0,
        0.25,
        0.0,
    ]


@pytest.mark.parametrize(
    "levels", [(0.5, 0.75), (1.0, 1.0), (1.2, 0.5), (1.0, 0.0), (1.0, -0.5)], ids=str
)
def test_levels_must_fall_within_0_and_1(levels):
    with pytest.raises(CinelabError, match=r"fall strictly and lie in \(0, 1\]"):
        Sampling(2, "consistency", at=levels)
    with pytest.raises(CinelabError, match=r"fall strictly and lie in \(0, 1\]"):
        replace(presets.pairs("smoke"), levels=levels)


def test_levels_and_steps_must_agree():
    with pytest.raises(CinelabError, match="has 2 levels, but sampling.steps is 3"):
        Sampling(3, "consistency", at=(1.0, 0.5))


# Stage 2a: ODE pairs


def test_causal_pairs_are_what_streaming_the_teacher_with_the_true_history_makes():
    teacher = net().requires_grad_(False)
    clips = Fake().clips(2, 4, rng_at(1))
    config = replace(presets.pairs("toy"), frames=4, steps=4, bf16=False)
    noise = torch.randn(clips.latents.shape)
    states, end = pairs.trajectories(teacher, clips, config, noise)
    assert torch.equal(states[:, 0], noise)
    field = pairs.teacher_velocity(teacher, clips, "autoregressive", 2.0, 1)
    cache = KVCache(Full(), 1)
    condition = clips.condition.encoded(teacher)
    for i in range(4):
        part = slice(i, i + 1)
        opened = cache.open(i, clips.shot[:, i])
        words = condition.frames(part)
        with torch.no_grad():
            velocity = velocity_of(teacher, words, opened, 2.0)
            alone = denoise(velocity, lambda level, part=part: noise[:, part], config.sampling)
        torch.testing.assert_close(end[:, part], alone, atol=1e-4, rtol=1e-3)
        append_chunk(teacher, cache, MadeChunk(opened, words, clips.latents[:, part]))
    with torch.no_grad():
        assert field(noise, 1.0).shape == noise.shape


def build_pairs(folder, config, mark="abc"):
    return list(
        pairs.integrate_pairs(folder, config, net().requires_grad_(False), mark, FakeStore())
    )


def test_pairs_are_resumable_and_belong_to_one_teacher(tmp_path):
    config = presets.pairs("smoke")
    unfinished = pairs.integrate_pairs(tmp_path, config, net(), "abc", FakeStore())
    next(unfinished)
    unfinished.close()
    with pytest.raises(
        CinelabError, match=r"cut short: 1 of 2 shards are missing \(first: 00001.npz\)"
    ):
        pairs.Pairs(tmp_path, config, "abc", FakeStore())
    kept = (tmp_path / "00000.npz").stat().st_mtime_ns
    assert build_pairs(tmp_path, config) == [2]
    assert (tmp_path / "00000.npz").stat().st_mtime_ns == kept
    with pytest.raises(CinelabError, match="are of another teacher"):
        pairs.Pairs(tmp_path, config, "xyz", FakeStore())
    with pytest.raises(CinelabError, match="guidance=2.0"):
        pairs.Pairs(tmp_path, replace(config, guidance=3.0), "abc", FakeStore())
    for place in tmp_path.glob("*.npz"):
        place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(CinelabError, match="remove it and build the pairs again"):
        pairs.Pairs(tmp_path, config, "abc", FakeStore()).batch(rng_at(0))


def test_kept_levels_must_lie_on_the_teachers_steps():
    with pytest.raises(CinelabError, match="0.75, which is no place among 6 even steps"):
        replace(presets.pairs("smoke"), steps=6)


# Stage 2b: consistency


def test_the_boundary_condition_holds_by_construction():
    network = net()
    clips = Fake().clips(1, 3, rng_at(2))
    x = torch.randn_like(clips.latents)
    assert torch.equal(consistency.predict(network, x, torch.zeros(1, 3), clips, 1), x)


def test_a_perfect_flow_has_no_consistency_loss():
    """A constant velocity is its own consistency function: student and target must agree
    exactly."""
    network = net()
    clips = Fake().clips(2, 3, rng_at(3))
    with torch.no_grad():
        network.proj_out.weight.zero_()
        network.scale_shift_table.zero_()
    config = replace(presets.consistency("smoke"), model=presets.SMOKE, frames=3, bf16=False)
    loss = consistency.loss(
        network,
        Ema(network, 0.9),
        network,
        clips,
        consistency.grid_at(config, 0),
        config,
        FULL_HISTORY,
        rng_at(0),
    )
    assert loss.item() < 1e-10


# Stage 3: DMD


@pytest.mark.parametrize("score", dmd.TEACHERS)
def test_equal_scores_pull_nowhere(score):
    judge = net()
    clips = Fake().clips(2, 4, rng_at(4))
    config = replace(DMD, score=score, guidance=1.0)
    gradient, gap = dmd.dmd_gradient(clips.latents, clips, judge, judge, config, rng_at(0))
    assert not gradient.any() and not gap.any()
    other, _ = dmd.dmd_gradient(clips.latents, clips, judge, net(1), config, rng_at(0))
    assert other.abs().mean() > 1e-3


def test_the_loss_has_exactly_the_matching_gradient():
    student = net()
    clips = Fake().clips(2, 4, rng_at(5))
    sample, _ = self_rollout.self_rollout(student, clips, DMD, rng_at(6))
    loss, _ = dmd.student_loss(student, clips, net(1), net(2), DMD, rng_at(6))
    rng = rng_at(6)
    self_rollout.self_rollout(student, clips, DMD, rng)
    gradient, _ = dmd.dmd_gradient(sample.detach(), clips, net(1), net(2), DMD, rng)
    weights = list(student.parameters())
    ours = torch.autograd.grad(loss, weights, allow_unused=True)
    theirs = torch.autograd.grad(
        (sample * gradient).sum() / sample.numel(), weights, allow_unused=True
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-6))


def test_a_known_beginning_is_kept_and_not_judged():
    clips = Fake().clips(2, 6, rng_at(7))
    made, own = self_rollout.self_rollout(net(), clips, replace(DMD, known=1.0), rng_at(0))
    assert own.tolist() == 3 * [False] + 3 * [True]
    assert torch.equal(made[:, :3], clips.latents[:, :3]) and not torch.equal(
        made[:, 3:], clips.latents[:, 3:]
    )


def test_score_distillation_remembers_the_truth():
    config = replace(DMD, history="truth", score="autoregressive")
    clips = Fake().clips(2, 4, rng_at(8))
    network = net()
    made, own = self_rollout.self_rollout(network, clips, config, rng_at(0))
    assert own.all() and not torch.equal(made[:, 0], clips.latents[:, 0])
    far = replace(clips, latents=clips.latents.flip(0))  # another past, the same prompts and noise
    other, _ = self_rollout.self_rollout(network, far, config, rng_at(0))
    assert torch.equal(made[:, 0], other[:, 0]) and not torch.equal(made[:, 1], other[:, 1])
    gradient, _ = dmd.dmd_gradient(
        made.detach(), clips, net(1), net(1), replace(config, guidance=1.0), rng_at(0)
    )
    assert not gradient.any()


# Runs

ODE = replace(presets.ode("smoke"), model=presets.SMOKE)
CD = replace(presets.consistency("smoke"), model=presets.SMOKE)
BIDIRECTIONAL = replace(presets.ode("smoke", "bidirectional"), model=presets.SMOKE)


def start(kind, folder, tmp_path, validate=None):
    store = FakeStore()
    teacher = net(1).requires_grad_(False)
    if kind == "consistency":
        return consistency.train(CD, net(), teacher, store, Run(folder, CD), validate)
    if kind == "dmd":
        return dmd.train(DMD, net(), teacher, net(2), store, Run(folder, DMD), validate)
    config = ODE if kind == "ode" else BIDIRECTIONAL
    list(pairs.integrate_pairs(tmp_path / "pairs", config.pairs, teacher, "abc", store))
    return ode.train(
        config,
        net(),
        pairs.Pairs(tmp_path / "pairs", config.pairs, "abc", store),
        Run(folder, config),
        validate,
    )


@pytest.mark.parametrize("kind", ["ode", "bidirectional", "consistency", "dmd"])
def test_killed_and_resumed_equals_uninterrupted_bitwise(kind, tmp_path):
    whole = list(start(kind, tmp_path / "whole", tmp_path))
    broken = start(kind, tmp_path / "broken", tmp_path)
    next(row for row in broken if row["step"] == 2)
    broken.close()
    list(start(kind, tmp_path / "broken", tmp_path))
    assert len(whole) == 3 and rows_of(tmp_path / "whole") == rows_of(tmp_path / "broken")
    parts = parts_of(tmp_path / "whole")
    assert same(parts, parts_of(tmp_path / "broken"))
    wanted = {"model", "ema", "optimiser"} | (
        {"critic_model", "critic_optimiser"} if kind == "dmd" else set()
    )
    assert parts.keys() == wanted


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    scores = iter([0.5, 0.9, 0.1])
    rows = list(
        start("dmd", tmp_path / "run", tmp_path, validate=lambda network: {"score": next(scores)})
    )
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    # the last row holds the final exam
    assert [row.get("score") for row in rows] == [0.5, None, 0.1]
    assert (best["step"], best["score"]) == (2, 0.9)


def test_a_critic_gone_wrong_stops_the_run_which_resumes_after_the_fix(tmp_path):
    run = tmp_path / "run"
    rows = start("dmd", run, tmp_path)
    next(row for row in rows if row["step"] == 1)
    rows.close()
    state = run / "checkpoints" / "last.pt"
    saved = state.read_bytes()
    critic = net(2)
    with torch.no_grad():
        critic.proj_out.bias.fill_(float("nan"))
    broken = dmd.train(DMD, net(), net(1), critic, FakeStore(), Run(tmp_path / "other", DMD))
    with pytest.raises(
        CinelabError, match="critic's score is not finite any more; lower critic.lr"
    ):
        list(broken)
    calmer = replace(DMD, critic=replace(DMD.critic, lr=1e-5))
    assert state.read_bytes() == saved
    assert [
        row["step"]
        for row in dmd.train(calmer, net(), net(1), net(2), FakeStore(), Run(run, calmer))
    ] == [2]
    assert "1e-05" in (run / "changes.jsonl").read_text()


def test_teacher_and_student_must_fit():
    with pytest.raises(
        CinelabError,
        match="teacher toybox-base has num_attention_heads=8, the student num_attention_heads=2",
    ):
        students.fitting("toybox-base", presets.SMOKE, "teacher")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"score": "both"}, "score is 'both'"),
        ({"critic_updates": 0}, "critic_updates is 0"),
        ({"history": "truth"}, "goes with score='autoregressive'"),
        ({"t_range": (0.9, 0.1)}, "rise within"),
        ({"chunk": 3}, "lengths has 4 latent frames, which chunk=3"),
        ({"sampling": Sampling()}, "samples by 'consistency'"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(CinelabError, match=message):
        replace(DMD, **change)


def test_a_blend_is_the_mean_of_its_parts(tmp_path):
    one, other = "toybox-base", "toybox-bidirectional-24"
    made = load(students.blend([one, other], tmp_path / "blend"))
    parts = [load(name) for name in (one, other)]
    mean = (parts[0].model.proj_out.weight + parts[1].model.proj_out.weight) / 2
    # stored in half precision
    torch.testing.assert_close(made.model.proj_out.weight, mean, atol=1e-2, rtol=1e-2)
    assert made.sampling == parts[0].sampling and len(made.config["blend"]) == 2
    assert made.config["run"]["steps"] == sum(part.config["run"]["steps"] for part in parts)
