"""The adversarial head of stage 3: it changes nothing where it is not asked for, its two losses are
those of the paper, its student's side teaches the student alone, and a training with it
resumes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_students import DMD, Fake, FakeStore, net
from test_train import parts_of, rows_of, same

from cinelab.config import from_dict, override, to_dict
from cinelab.errors import CinelabError
from cinelab.runs import Run
from cinelab.scale.cost import Plan, memory, step_flops
from cinelab.seeds import rng_at
from cinelab.train import dmd, gan, presets
from cinelab.train.loop import Learner
from cinelab.train.optim import set_learning_rate
from cinelab.train.stage import stage_named

HEAD = gan.GanConfig(clips=2, steps=2, width=8)
WITH = replace(DMD, gan=HEAD)


def adversary(config=WITH, critic=None):
    networks = {"critic": critic or net(2), "teacher": net(1).requires_grad_(False)}
    return gan.adversary_of(config.gan, config, networks, FakeStore())


def clip_of(seed=0, frames=4):
    return Fake().clips(2, frames, rng_at(seed))


def judged(config, critic, clips):
    made = adversary(config, critic)
    t = torch.full((2, 4), 0.5)
    velocity = partial(dmd.score_velocity, critic, clips.latents, clips.latents, t, clips, config)
    return made, made.judge(critic, velocity), velocity()


def start(folder, config=WITH):
    networks = (net(), net(1).requires_grad_(False), net(2))
    return dmd.train(config, *networks, FakeStore(), Run(folder, config))


# The head


@pytest.mark.parametrize("score", dmd.TEACHERS)
def test_the_head_leaves_the_critics_velocity_as_it_is_and_begins_undecided(score):
    critic = net(2)
    _, with_head, alone = judged(replace(WITH, score=score), critic, clip_of())
    assert torch.equal(with_head.velocity, alone)
    assert with_head.logits.shape == (2, 4) and not with_head.logits.any()
    assert not any(block._forward_hooks for block in critic.blocks)


def test_the_losses_are_the_logistic_ones():
    undecided = torch.zeros(2, 3)
    sure = torch.full((2, 3), 30.0)
    log2 = torch.tensor(2.0).log()
    assert torch.isclose(gan.critic_term(undecided, undecided), 2 * log2)
    assert torch.isclose(gan.student_term(undecided), log2)
    assert gan.critic_term(sure, -sure) < 1e-6 < gan.critic_term(-sure, sure)
    assert gan.student_term(sure) < 1e-6 < gan.student_term(-sure)


def test_the_head_knows_where_a_token_stands():
    head = gan.AdversarialHead(4, 1, 8)
    torch.nn.init.normal_(head.out.weight)
    states = torch.zeros(1, 1, 12, 4)
    states[:, :, 0, 0] = 5.0  # something in a corner, then in the middle
    moved = states.roll(5, dims=2)
    assert not torch.isclose(head([states], (3, 4)), head([moved], (3, 4)))


def test_the_heads_gradient_reaches_the_student_and_not_the_critic():
    student = net()
    critic = net(2)
    made = adversary(WITH, critic)
    torch.nn.init.normal_(made.head.out.weight)
    clips = clip_of(5)
    loss, columns = dmd.student_loss(student, clips, net(1), critic, WITH, rng_at(6), gan=made)
    plain, _ = dmd.student_loss(student, clips, net(1), critic, WITH, rng_at(6))
    assert torch.isclose(loss, plain + HEAD.weight * columns["adversarial"])
    own = torch.autograd.grad(
        loss - plain, student.parameters(), allow_unused=True, retain_graph=True
    )
    assert sum(g.abs().sum() for g in own if g is not None) > 0
    loss.backward()
    assert all(weight.grad is None for weight in [*critic.parameters(), *made.head.parameters()])
    assert all(weight.requires_grad for weight in [*critic.parameters(), *made.head.parameters()])


def test_the_critics_side_teaches_head_and_critic_to_tell_real_from_made():
    config = replace(WITH, gan=replace(HEAD, real="data"))
    student = net()
    made = adversary(config, critic := net(2))
    apart = Learner(
        critic,
        dmd.critic_loss,
        config.critic,
        name="critic",
        averaged=False,
        heads={"head": made.head},
        head_rate=5.0,
    )
    clips = clip_of(3)
    found = []
    for step in range(12):
        apart.optimizer.zero_grad()
        set_learning_rate(apart.optimizer, 2e-3)
        loss, columns = dmd.critic_loss(critic, student, clips, config, rng_at(step), gan=made)
        loss.backward()
        apart.optimizer.step()
        found.append(float(columns["real"] - columns["made"]))
    assert found[0] == 0 and found[-1] > 0.05


# Its teacher's clips


def test_a_teachers_clips_are_addressed_and_made_once():
    config = replace(WITH, gan=replace(HEAD, clips=4))
    calls = []

    def counted(*inputs):
        calls.append(1)
        return teacher(*inputs)

    teacher = net(1).requires_grad_(False)
    counted.encode_text = teacher.encode_text
    networks = {"critic": net(2), "teacher": counted}
    draws = [gan.adversary_of(config.gan, config, networks, FakeStore()).reals for _ in range(2)]
    some = [draws[0](clip_of(), rng_at(n)) for n in range(6)]
    assert len(calls) == 2 * HEAD.steps  # two shards, each sampled once
    again = [draws[1](clip_of(), rng_at(n)) for n in range(5, -1, -1)][::-1]
    for one, other in zip(some, again, strict=True):
        assert torch.equal(one.latents, other.latents) and torch.equal(one.text, other.text)
    assert draws[0](clip_of(frames=6), rng_at(0)).latents.shape[1] == 6


# The training


def test_without_a_head_a_step_has_the_same_bits_and_columns(tmp_path):
    rows = list(start(tmp_path / "without", DMD))
    assert not {"adversarial", "critic_real"} & set(rows[0])
    assert {"adversarial", "critic_real", "critic_made"} <= set(list(start(tmp_path / "with"))[0])
    old = to_dict(DMD)
    old.pop("gan")  # a run of before the head
    assert from_dict(dmd.DmdTraining, old) == DMD


@pytest.mark.parametrize("real", gan.REALS)
def test_killed_and_resumed_equals_uninterrupted_bitwise_with_the_head(real, tmp_path):
    config = replace(WITH, gan=replace(HEAD, real=real, clips=4))
    list(start(tmp_path / "whole", config))
    broken = start(tmp_path / "broken", config)
    next(row for row in broken if row["step"] == 2)
    broken.close()
    list(start(tmp_path / "broken", config))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "broken")
    parts = parts_of(tmp_path / "whole")
    assert "critic_head" in parts and same(parts, parts_of(tmp_path / "broken"))


def test_a_setting_of_the_head_alone_turns_it_on():
    assert override(DMD, {"gan.weight": 0.2}).gan == gan.GanConfig(weight=0.2)
    assert override(WITH, {"gan": None}).gan is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gan.real": "films"}, "gan.real is 'films'; use one of teacher, data"),
        ({"gan.depths": [0.0, 1.0]}, r"shares of the depth within \(0, 1\]"),
        ({"gan.weigth": 1.0}, "did you mean 'weight'"),
        ({"gan.weight": -1.0}, "weight"),
    ],
)
def test_contradictions_of_the_head_are_refused(change, message):
    with pytest.raises(CinelabError, match=message):
        override(DMD, change)


def test_the_head_is_for_one_process_and_for_networks_with_blocks():
    stage = stage_named("dmd")
    stage.check(WITH, processes=1)
    stage.check(DMD, processes=2)
    with pytest.raises(CinelabError, match="gan is set for 2 processes"):
        stage.check(WITH, processes=2)
    with pytest.raises(CinelabError, match="Linear has no blocks"):
        gan.blocks_at(torch.nn.Linear(2, 2), (1.0,))


def test_the_planner_counts_the_heads_passes():
    plain = Plan(presets.SMOKE, "dmd", gpus=1)
    headed = replace(plain, gan=True)
    assert 1.3 < step_flops(headed) / step_flops(plain) < 2.0
    assert memory(headed)["activations"] == 2 * memory(plain)["activations"]
