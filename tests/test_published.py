"""The published recipes: what the presets and the stages share with Self Forcing and Causal
Forcing, in numbers."""

import json
from dataclasses import replace

import pytest
import torch
from test_students import FakeStore, net
from test_train import Fake

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import MadeChunk, append_chunk, denoise, velocity_of
from cinelab.flow.sampler import Sampling
from cinelab.jobs import worker
from cinelab.jobs.job import Data, Job
from cinelab.jobs.stores import open_store
from cinelab.latent.store import compared_with
from cinelab.memory.cache import KVCache
from cinelab.memory.context import (
    FULL_HISTORY,
    BidirectionalContext,
    HistoryPolicy,
    TeacherForcingContext,
)
from cinelab.memory.policy import CAMR, FULL
from cinelab.runs import Run
from cinelab.scale.parallel import Parallel
from cinelab.script.unconditional import NAME, PUBLISHED
from cinelab.seeds import rng_at
from cinelab.train import consistency, dmd, ode, pairs, presets, teacher_forcing
from cinelab.train.optim import Ema, Optim
from cinelab.train.trained_policy import policy_of

WAN = ("wan-1.3b", "wan-14b")


class Seen:
    """A network that answers with zeros and keeps the times that it was asked at."""

    def __init__(self):
        self.times = []

    def __call__(self, x, t, *rest):
        self.times.append(t[:, -FRAMES:])  # of the noisy half, where the clean one goes before it
        return torch.zeros_like(x)


FRAMES = 24
CHUNK = 3


def ode_times(history, levels="chunk"):
    """The times (B, F) of the noisy frames in one step of ODE regression."""
    teacher = "autoregressive" if history == "truth" else "bidirectional"
    pairs = replace(presets.pairs("toy", teacher), frames=FRAMES, chunk=CHUNK)
    config = replace(presets.ode("toy", teacher), pairs=pairs, history=history, levels=levels)
    clips = Fake().clips(4, FRAMES, rng_at(0))
    seen = Seen()
    states = torch.zeros(4, 4, FRAMES, 24, 6, 8)
    ode.loss(seen, clips, states, states[:, 0], config, rng_at(1))
    return seen.times[0]


# Stage 2a: who draws a level


@pytest.mark.parametrize("history", ode.HISTORIES)
def test_every_chunk_of_an_ode_step_has_a_level_of_its_own(history):
    """Self Forcing's `uniform_timestep=False`: a noisy history holds pasts less noisy than the
    chunk, too."""
    chunks = ode_times(history)[:, ::CHUNK]
    # one level inside a chunk
    assert torch.equal(chunks.repeat_interleave(CHUNK, 1), ode_times(history))
    assert all(len(set(clip.tolist())) > 1 for clip in chunks)
    steps = chunks.diff(dim=1)
    assert (steps > 0).any() and (steps < 0).any()


@pytest.mark.parametrize("history", ode.HISTORIES)
def test_one_level_a_clip_is_asked_for_by_name(history):
    times = ode_times(history, "clip")
    assert (
        all(len(set(clip.tolist())) == 1 for clip in times) and len(set(times[:, 0].tolist())) > 1
    )


def test_all_kept_levels_are_drawn_by_chunks():
    config = presets.ode("toy", "bidirectional")
    assert config.levels == "chunk" and set(ode_times("noisy").flatten().tolist()) == set(
        config.pairs.times().float().tolist()
    )


@pytest.mark.parametrize(
    "config", [presets.ode("smoke"), presets.consistency("smoke")], ids=["ode", "consistency"]
)
def test_an_unknown_drawing_is_refused(config):
    with pytest.raises(CinelabError, match="levels is 'film'; use one of chunk, clip"):
        replace(config, levels="film")


# Stage 2b: the grid


def consistency_times(**changes):
    """The upper and lower times that 200 steps of consistency distillation ask for, and the
    grid."""
    config = replace(
        presets.consistency("smoke"),
        frames=FRAMES,
        chunk=CHUNK,
        grid=(6,),
        guidance=1.0,
        bf16=False,
        **changes,
    )
    clips = Fake().clips(1, FRAMES, rng_at(0))
    grid = consistency.grid_at(config, 0)
    uppers = []
    lowers = []
    frozen = Ema(torch.nn.Linear(1, 1), 0.9)
    for step in range(60):
        seen = Seen()
        seen.encode_text = lambda text: text
        frozen.applied_to = lambda model: torch.no_grad()
        consistency.loss(seen, frozen, seen, clips, grid, config, FULL_HISTORY, rng_at(step))
        uppers.append(seen.times[-1]), lowers.append(seen.times[-2])
    return torch.cat(uppers), torch.cat(lowers), grid


def test_the_papers_consistency_draws_one_level_a_clip_and_leaves_out_the_last_interval():
    upper, lower, grid = consistency_times(levels="clip", last_interval=False)
    assert all(len(set(clip.tolist())) == 1 for clip in upper)
    assert set(upper.flatten().tolist()) == set(grid[:-2].tolist()) and lower.min() == grid[-2] > 0


def test_the_toyboxs_consistency_draws_a_level_a_chunk_from_the_whole_grid():
    upper, lower, grid = consistency_times()
    assert any(len(set(clip.tolist())) > 1 for clip in upper)
    assert set(upper.flatten().tolist()) == set(grid[:-1].tolist()) and lower.min() == grid[-1] == 0


# The guided teacher is the streaming teacher

ROUTED = [
    CAMR(budget=2, window=1),
    CAMR(budget=2, window=1, per_head=False),
    CAMR(budget=2, window=1, summary=4),
    CAMR(budget=2, sink=1, window=0, score="mean"),
]


def streamed(teacher, clips, noise, sampling, policy):
    """What a guided teacher makes of each chunk (a frame) after the true ones before it, one after
    the other."""
    cache = KVCache(policy, 1)
    condition = clips.condition.encoded(teacher)
    for i in range(clips.slot.shape[1]):
        part = slice(i, i + 1)
        words = condition.frames(part)
        opened = cache.open(i, clips.shot[:, i])
        velocity = velocity_of(teacher, words, opened, sampling.guidance)
        yield denoise(velocity, lambda level, part=part: noise[:, part], sampling)
        append_chunk(teacher, cache, MadeChunk(opened, words, clips.latents[:, part]))


@pytest.mark.parametrize("policy", ROUTED, ids=["heads", "layer", "pooled", "mean"])
def test_a_guided_teacher_routes_as_streaming_does(policy):
    """Both halves of a guided call see what the conditional half's queries look for; so one step is
    the same."""
    teacher = net().requires_grad_(False)
    clips = Fake().clips(2, 6, rng_at(1))
    noise = torch.randn(clips.latents.shape, generator=rng_at(2))
    sampling = Sampling(1, "euler", 2.0, 2.0)
    with torch.no_grad():
        field = pairs.teacher_velocity(
            teacher, clips, "autoregressive", 2.0, 1, HistoryPolicy(policy)
        )
        whole = noise - field(noise, 1.0)
        made = torch.cat(list(streamed(teacher, clips, noise, sampling, policy)), 1)
        torch.testing.assert_close(whole, made, atol=2e-5, rtol=1e-5)
        full = noise - pairs.teacher_velocity(teacher, clips, "autoregressive", 2.0, 1)(noise, 1.0)
    assert (full - made).abs().max() > 1e-3  # what is retrieved matters here


def test_a_doubled_clip_in_a_guided_call_routes_by_its_first_half():
    """[clean | noisy] shown with its prompts and without: the second row of each film sees what its
    first one retrieves."""
    teacher = net().requires_grad_(False)
    clips = Fake().clips(2, 6, rng_at(1))
    policy = CAMR(budget=2, window=1)
    seen = []
    for slot in (clips.slot, torch.full_like(clips.slot, clips.null)):
        sight = TeacherForcingContext(policy, clips.shot, 1)
        inner = sight._routed
        sight._routed = lambda *args, inner=inner: seen.append(inner(*args)) or seen[-1]
        x = clips.latents.repeat(1, 2, 1, 1, 1)
        t = torch.rand(2, 6, generator=rng_at(3))
        both = torch.cat([clips.slot, slot])
        with torch.no_grad():
            teacher(
                x.repeat(2, 1, 1, 1, 1),
                torch.cat([torch.zeros_like(t), t], 1).repeat(2, 1),
                Condition(clips.text.repeat(2, 1, 1, 1), both.repeat(1, 2)),
                sight,
            )
    assert all(one.shape[0] == 4 and torch.equal(one[:2], one[2:]) for one in seen)
    half = len(seen) // 2
    assert torch.equal(seen[0], seen[half])  # in the first layer the prompts have not been read yet


# Guidance, and what it compares with


@pytest.mark.parametrize("preset", [*WAN, *(f"{name}-camr" for name in WAN)])
def test_the_real_scores_guidance_is_the_papers(preset):
    """Theirs is c + 3 (c - u) (`model/dmd.py`); the teachers of stage 2 are u + 3 (c - u)
    (`model/naive_consistency.py`)."""
    c, u = torch.randn(2, 4, 5, generator=rng_at(0))
    torch.testing.assert_close(path.guided(c, u, presets.dmd(preset).guidance), c + 3 * (c - u))
    torch.testing.assert_close(
        path.guided(c, u, presets.consistency(preset).guidance), u + 3 * (c - u)
    )


def test_the_distribution_matching_gradient_is_the_papers():
    """Written out once more as they have it: predictions of x0, guidance 3 on the conditional one,
    mean |x - real|."""
    config = replace(presets.dmd("wan-1.3b"), model=presets.SMOKE, bf16=False)
    real = net(1)
    fake = net(2)
    clips = Fake().clips(2, 4, rng_at(0))
    sample = torch.randn(clips.latents.shape, generator=rng_at(2))
    gradient, _ = dmd.dmd_gradient(sample, clips, real, fake, config, rng_at(1))
    rng = rng_at(1)
    u = torch.rand((2, 1), generator=rng)
    t = (5 * u / (1 + 4 * u)).clamp(0.02, 0.98).expand(2, 4)
    t_ = t[..., None, None, None]
    noise = torch.randn(sample.shape, generator=rng)
    x = (1 - t_) * sample + t_ * noise
    every = BidirectionalContext(torch.arange(4))
    with torch.no_grad():
        said = clips.slot
        unsaid = torch.full_like(clips.slot, clips.null)
        c, u, f = (
            x - t_ * who(x, t, Condition(clips.text, slot), every)
            for who, slot in ((real, said), (real, unsaid), (fake, said))
        )
    wanted = c + 3 * (c - u)
    theirs = (f - wanted) / (sample - wanted).abs().mean((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(gradient, theirs, atol=1e-4, rtol=1e-3)


class Opened(Fake):
    """A store of a user's own, without the verb that encodes a prompt."""

    def __init__(self, path):
        self.path = path


class Worded(FakeStore):
    """A store that encodes a prompt as its length in every place."""

    def text(self, caption):
        return torch.full((24, 64), float(len(caption)))


def test_guidance_compares_with_the_prompt_that_the_stage_names():
    clips = Fake().clips(2, 4, rng_at(0))
    assert compared_with(clips, Fake(), "") is clips  # the toybox's: as the store has it
    for said, length in ((NAME, len(PUBLISHED)), ("blurred", 7)):
        other = compared_with(clips, Worded(), said)
        assert (other.text[:, other.null] == length).all() and torch.equal(
            other.text[:, :-1], clips.text[:, :-1]
        )
    with pytest.raises(CinelabError, match=r"Fake has no text\(caption\) to encode it"):
        compared_with(clips, Fake(), NAME)


def test_every_stage_with_guidance_asks_its_store_for_that_prompt(tmp_path):
    """Pairs, consistency and DMD change with it, and what is not guided does not."""
    teacher = net(1).requires_grad_(False)
    small = {"model": presets.SMOKE, "bf16": False}
    made = {}
    for said in ("", "blurred"):
        config = replace(presets.pairs("smoke"), bf16=False, unconditional=said)
        folder = tmp_path / f"pairs{said}"
        list(pairs.integrate_pairs(folder, config, teacher, "abc", Worded()))
        stage = replace(presets.consistency("smoke"), **small, unconditional=said, steps=1)
        cd = next(
            consistency.train(stage, net(), teacher, Worded(), Run(tmp_path / f"cd{said}", stage))
        )
        stage = replace(presets.dmd("smoke"), **small, unconditional=said, steps=1)
        game = next(
            dmd.train(stage, net(), teacher, net(2), Worded(), Run(tmp_path / f"dmd{said}", stage))
        )
        made[said] = (
            pairs.Pairs(folder, config, "abc", Worded()).shard(0)[2],
            cd["loss"],
            game["gap"],
            game["critic_loss"],
        )
    plain = made[""]
    named = made["blurred"]
    assert not torch.equal(plain[0], named[0]) and plain[1] != named[1] and plain[2] != named[2]


def test_pairs_of_before_the_prompt_had_a_setting_are_still_taken(tmp_path):
    config = replace(presets.pairs("smoke"), bf16=False)
    list(pairs.integrate_pairs(tmp_path, config, net(), "abc", FakeStore()))
    note = json.loads((tmp_path / "pairs.json").read_text())
    del note["unconditional"], note["seal"]
    (tmp_path / "pairs.json").write_text(json.dumps(note))
    pairs.Pairs(tmp_path, config, "abc", FakeStore())
    (tmp_path / "pairs.json").write_text(json.dumps(note))
    with pytest.raises(CinelabError, match="are of unconditional=''"):
        pairs.Pairs(tmp_path, replace(config, unconditional="blurred"), "abc", Worded())


def test_a_store_without_that_prompt_is_refused_before_networks_are_made(tmp_path):
    rehearsal = open_store(Data("noise", "4x6x5"), presets.dmd("wan-1.3b"))
    assert rehearsal.text(NAME).shape == (5, 4096) and torch.equal(
        rehearsal.text(NAME), rehearsal.text(NAME)
    )
    job = Job(
        "dmd",
        str(tmp_path / "run"),
        Data("test_published:Opened", str(tmp_path)),
        "wan-1.3b",
        init="random",
        teacher="random",
    )
    with pytest.raises(CinelabError, match="unconditional is 'published', but Opened has no text"):
        next(worker.train(job, Parallel.here()))


# Optimiser and loss


def test_the_bell_is_the_training_weight_of_wans_scheduler():
    """Numbers of their FlowMatchScheduler (shift 5, 1,000 times): the times of steps 0, 100, 500,
    833 and 999."""
    t = torch.tensor([1.0, 0.9782609, 0.8333333, 0.5005996, 0.0049801])
    theirs = torch.tensor([0.0, 0.1390749, 1.0248619, 2.0764003, 0.0318790])
    torch.testing.assert_close(teacher_forcing.bell(t, 5.0), theirs, atol=2e-5, rtol=1e-4)
    drawn = path.draw_t((200000,), 5.0, rng_at(0))
    assert abs(teacher_forcing.bell(drawn, 5.0).mean().item() - 1) < 0.01


def test_teacher_forcing_weighs_frames_by_the_bell_where_asked():
    config = replace(presets.teacher_forcing("smoke"), model=presets.SMOKE)
    clips = Fake().clips(2, 4, rng_at(0))

    def flat(x, *rest):
        return torch.zeros_like(x)

    even, bell = (
        teacher_forcing.loss(flat, clips, replace(config, weight=how), FULL_HISTORY, rng_at(1))
        for how in teacher_forcing.WEIGHTS
    )
    rng = rng_at(1)
    t = path.draw_t((2, 4), config.shift, rng)
    error = (
        (torch.randn(clips.latents.shape, generator=rng) - clips.latents).square().mean((2, 3, 4))
    )
    torch.testing.assert_close(even, error.mean())
    torch.testing.assert_close(bell, (error * teacher_forcing.bell(t, config.shift)).mean())
    with pytest.raises(CinelabError, match="weight is 'min-snr'; use one of even, bell"):
        replace(config, weight="min-snr")


def averages(optim, steps):
    """The averaged weight after each of some steps of a training whose weight is the step's
    number."""
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, optim.ema, warm=optim.ema_warm, start=optim.ema_from)
    values = []
    for step in range(steps):
        model.weight.data.fill_(float(step))
        ema.update(model, step)
        values.append(ema.values["weight"].item())
    return values


def test_an_average_may_begin_at_a_step_and_at_its_full_decay():
    theirs = averages(replace(presets.dmd("wan-1.3b").optim, ema_from=3), 5)
    assert theirs[:3] == [0.0, 1.0, 2.0] and theirs[3:] == pytest.approx([2.01, 2.0299])
    warm = averages(Optim(ema=0.99), 3)
    assert warm[1] == pytest.approx(warm[0] + (1 - 3 / 12) * (1 - warm[0]))
    # their first stage keeps no average
    assert averages(presets.teacher_forcing("wan-1.3b").optim, 3) == [0.0, 1.0, 2.0]
    assert (
        presets.dmd("wan-14b").optim.ema_from,
        presets.consistency("wan-14b").optim.ema_from,
    ) == (200, 0)
    for wrong in ({"ema": 1.0}, {"ema": -0.1}, {"ema_from": -1}):
        with pytest.raises(CinelabError, match=next(iter(wrong))):
            Optim(**wrong)


# The presets


@pytest.mark.parametrize("name", WAN)
def test_the_wan_presets_are_the_papers_and_ours(name):
    for stage in (presets.teacher_forcing, presets.consistency):
        papers = stage(name)
        ours = stage(f"{name}-camr")
        assert (
            policy_of(papers) == FULL
            and papers.other_shots_share == 0
            and papers.optim.clip == 10
            and not papers.optim.ema_warm
        )
        assert (
            policy_of(ours) == presets.WAN_CAMR
            and replace(ours, camr=papers.camr, camr_share=0.0) == papers
        )
    papers = presets.dmd(name)
    ours = presets.dmd(f"{name}-camr")
    assert (
        policy_of(papers) == FULL
        and policy_of(ours) == presets.WAN_CAMR
        and replace(ours, policy=FULL) == papers
    )
    assert presets.WAN_CAMR.positions == "absolute"  # as films are made
    assert (
        papers.unconditional == presets.consistency(name).unconditional == NAME
        and presets.dmd("toy").unconditional == ""
    )
