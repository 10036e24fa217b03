"""Rewards: what each says of made-up clips, how they are taken in by both methods, that they are
exact on true films, and that bad input is one sentence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_students import DMD, FakeStore, net
from test_train import parts_of, rows_of, same

from cinelab import register
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.jobs import worker
from cinelab.jobs.job import Data, Job
from cinelab.lab.studies import reward_cell
from cinelab.lab.studies import reward_study as study
from cinelab.lab.studies.initialisation_cell import film_clips, planned
from cinelab.lab.training import students
from cinelab.memory.policy import CAMR
from cinelab.metrics.rows import Row, clip_of, row_table
from cinelab.metrics.toybox.attributes import encode_plans
from cinelab.metrics.toybox.clip_rewards import ClipRewards
from cinelab.runs import Run
from cinelab.script.shotlist import ListedShot
from cinelab.seeds import rng_at
from cinelab.train import dmd, forward_process, presets, rewards
from cinelab.train.rewards import REWARDS, ShownClips
from cinelab.world.worlds import world_named
from cinelab.zoo.checkpoints import load, toy_encoder

WORLD = world_named()
CAT = {"kind": "cat", "colour": "red", "setting": "beach", "action": "wave"}
ROBOT = {"kind": "robot", "colour": "blue", "setting": "city", "action": "jump"}
LOOK = {"pattern": "dots", "accessory": "hat", "second": "pink"}
LOOK |= {"landmark": "house", "side": "left"}
OTHER = {"pattern": "half", "accessory": "crown", "second": "teal"}
OTHER |= {"landmark": "windmill", "side": "right"}
FORWARD = replace(
    presets.forward_process("smoke"),
    model=presets.SMOKE,
    bf16=False,
    known=0.0,
    policy=CAMR(budget=2),
    reward={"action": 1.0},
)


def film(*parts):
    """Shots of 4 frames that name some attributes."""
    return tuple(ListedShot(4 * i, 4 * i + 4, shows=named) for i, named in enumerate(parts))


def clips(looks, shots=None, *, moving=True, made=None):
    """Made-up clips of cat, robot, cat: a film a list of looks, one a shot."""
    shots = shots or [film(CAT, ROBOT, CAT)] * len(looks)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (len(looks), 12, 4, 4, 3)).astype(np.uint8)
    frames = truth if moving else np.repeat(truth[:, ::4], 4, axis=1)
    seen = tuple(
        tuple(named.shows | look for named, look in zip(one, each, strict=True))
        for one, each in zip(shots, looks, strict=True)
    )
    made = np.ones(12, bool) if made is None else made
    return ShownClips(frames, tuple(shots), made, truth, seen, WORLD)


def value(name, shown):
    return REWARDS.term(name).values(shown)


# What each reward says


def test_identity_counts_the_looks_that_a_return_keeps():
    half = LOOK | {"accessory": "crown", "second": "teal"}
    found = value(
        "identity", clips([[LOOK, OTHER, LOOK], [LOOK, OTHER, OTHER], [LOOK, LOOK, half]])
    )
    assert torch.allclose(found, torch.tensor([1.0, 0.0, 1 / 3]))


def test_a_clip_in_which_nobody_returns_or_only_a_true_beginning_does_is_no_occasion():
    alone = film(CAT, ROBOT, CAT | {"colour": "green"})
    assert value("identity", clips([[LOOK, OTHER, LOOK]], [alone])).isnan().all()
    given = np.zeros(12, bool)
    assert value("identity", clips([[LOOK, OTHER, LOOK]], made=given)).isnan().all()
    given[8:] = True  # the return alone is made: what it keeps is recalled
    assert value("identity", clips([[LOOK, OTHER, LOOK]], made=given)).tolist() == [1.0]


def test_a_figure_that_freezes_keeps_its_looks_and_loses_the_guard():
    frozen = clips([[LOOK, OTHER, LOOK]], moving=False)
    assert value("identity", frozen) == 1 and value("motion", frozen) == 0
    assert value("motion", clips([[LOOK, OTHER, LOOK]])) == 1
    shaking = clips([[LOOK, OTHER, LOOK]])
    wild = replace(shaking, frames=255 * (shaking.truth > 127).astype(np.uint8))
    assert value("motion", wild) == 1, "more motion than the truth's gains nothing"


def test_a_model_of_one_look_keeps_all_and_has_no_diversity():
    collapsed = clips([[LOOK, LOOK, LOOK]] * 3)
    assert value("identity", collapsed).tolist() == [1, 1, 1]
    assert value("diversity", collapsed).tolist() == [0, 0, 0]
    varied = clips([[LOOK, LOOK, LOOK], [OTHER, OTHER, OTHER]])
    assert value("diversity", varied).tolist() == [1, 1]
    assert value("diversity", clips([[LOOK, LOOK, LOOK]])).isnan().all(), "one clip has none"


def test_what_the_prompt_names_is_compared_with_what_is_read():
    still = [LOOK | {"action": "stand"}, OTHER, LOOK]
    shown = clips([still, [LOOK, OTHER, LOOK]])
    assert torch.allclose(value("action", shown), torch.tensor([2 / 3, 1.0]))
    assert torch.allclose(value("prompt", shown), torch.tensor([11 / 12, 1.0]))


def test_cuts_that_are_missed_lower_the_reward():
    flat = np.repeat(np.array([20, 200, 90], np.uint8), 4)[None, :, None, None, None]
    frames = np.broadcast_to(flat, (1, 12, 8, 8, 3)).copy()
    shown = replace(clips([[LOOK, OTHER, LOOK]]), frames=frames)
    assert value("cuts", shown) == 1
    assert value("cuts", replace(shown, frames=np.full_like(frames, 90))) == 0


# How they are put together


def test_what_gives_no_occasion_is_neutral():
    values = {"a": torch.tensor([1.0, float("nan"), 0.0]), "b": torch.tensor([0.5, 0.5, 0.5])}
    found = rewards.advantage(values, {"a": 1.0, "b": 1.0}, 3)
    assert torch.equal(found, torch.tensor([1.0, 0.0, -1.0]))
    assert torch.equal(rewards.advantage(values, {"a": 0.0, "b": 0.0}, 3), torch.zeros(3))
    nowhere = {"a": torch.full((3,), float("nan"))}
    assert torch.equal(rewards.advantage(nowhere, {"a": 1.0}, 3), torch.zeros(3))
    columns = rewards.reward_columns(values | {"c": nowhere["a"]}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert columns["reward"] == columns["reward_a"] == 0.5 and np.isnan(columns["reward_c"])


def test_rewards_are_compared_within_a_prompt():
    total = {"a": torch.tensor([0.0, 0.2, 0.8, 1.0])}  # an easy prompt and a hard one
    r = rewards.optimality(rewards.advantage(total, {"a": 1.0}, 2))
    assert torch.allclose(r, torch.tensor([0.0, 1.0, 0.0, 1.0]), atol=1e-5)
    whole = rewards.optimality(rewards.advantage(total, {"a": 1.0}, 4))
    assert (whole[1:] >= whole[:-1]).all() and 0 <= whole.min() and whole.max() <= 1


def test_a_guard_counts_whatever_its_spread():
    loud = torch.tensor([1.0, 0.0, 1.0, 0.0])
    quiet = 0.3 * (1 - loud)
    both = rewards.advantage({"a": loud, "b": quiet}, {"a": 1.0, "b": 1.0}, 4)
    assert both.abs().max() < 1e-3, "one is worth as much as the other"
    heavy = rewards.advantage({"a": loud, "b": quiet}, {"a": 1.0, "b": 2.0}, 4)
    assert (heavy[1] > heavy[0]) and (heavy[3] > heavy[2])


def test_weights_rise_with_the_reward_and_their_mean_is_1():
    weights = rewards.exponential_weights(torch.tensor([-1.0, 0.0, 0.5]), 2.0)
    assert (weights.diff() > 0).all() and torch.isclose(weights.mean(), torch.tensor(1.0))
    assert torch.equal(rewards.exponential_weights(torch.tensor([0.3, -0.3]), 0.0), torch.ones(2))


# Reward-weighted distribution matching


def constant(number):
    return lambda sample, clips, made: {"action": torch.full((len(sample),), number)}


def brightness(sample, clips, made):
    """A reward that any latent has."""
    return {"action": sample[:, made].mean((1, 2, 3, 4)).sigmoid()}


def student_error(reward, config):
    batch = FakeStore().clips(2, 4, rng_at(3))
    scores = (net(1).requires_grad_(False), net(2).requires_grad_(False))
    return dmd.student_loss(net(), batch, *scores, config, rng_at(4), reward=reward)


def test_rewards_that_are_alike_leave_the_loss_as_it_is():
    plain, _ = student_error(None, DMD)
    config = replace(DMD, reward={"action": 1.0})
    alike, columns = student_error(constant(0.7), config)
    assert torch.allclose(plain, alike) and columns["reward_action"] == pytest.approx(0.7)
    measured, _ = student_error(brightness, replace(DMD, reward={"action": 0.0}))
    assert torch.allclose(plain, measured), "a weight of 0 only measures"


def test_the_better_clip_weighs_more():
    config = replace(DMD, reward={"action": 1.0}, beta=1.0)
    first, _ = student_error(lambda *_: {"action": torch.tensor([1.0, 0.0])}, config)
    second, _ = student_error(lambda *_: {"action": torch.tensor([0.0, 1.0])}, config)
    plain, _ = student_error(None, DMD)
    assert not torch.allclose(first, second)
    assert torch.allclose((first + second) / 2, plain)


# The forward process


def test_at_even_odds_the_old_policy_is_the_minimum_whatever_the_target_is():
    old, target = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    v = old.clone().requires_grad_()
    even = torch.full((2,), 0.5)
    forward_process.contrastive_loss(v, old, target, r=even, mixture=1.0).backward()
    assert v.grad.abs().max() < 1e-7


@pytest.mark.parametrize("mixture", [0.5, 1.0])
def test_the_gradient_at_the_old_policy_is_the_papers(mixture):
    old, target = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    v = old.clone().requires_grad_()
    r = torch.tensor([1.0, 0.2])
    forward_process.contrastive_loss(v, old, target, r=r, mixture=mixture).backward()
    toward = 2 * mixture * (2 * r - 1)[:, None, None, None, None] * (old - target)
    assert torch.allclose(v.grad, toward / old.numel(), atol=1e-7)


def test_only_the_students_levels_are_drawn_one_a_chunk():
    config = replace(FORWARD, chunk=2, lengths=(4,), sampling=Sampling(3, "consistency", 1.0))
    x0 = torch.randn(8, 4, 2, 2, 2)
    x, t, v = forward_process.noised_at_levels(x0, config, rng_at(0))
    assert set(t.unique().tolist()) <= set(config.sampling.levels()[:-1].float().tolist())
    assert torch.equal(t[:, 0], t[:, 1]) and not torch.equal(t[:, 1], t[:, 2])
    assert torch.allclose(x - t[..., None, None, None] * v, x0, atol=1e-5)


def test_a_training_makes_its_own_clips_worth_more(tmp_path):
    config = replace(
        FORWARD,
        steps=8,
        batch=8,
        group=4,
        optim=replace(FORWARD.optim, lr=3e-3, warmup=0),
        save_every=99,
        validate_every=99,
    )
    run = Run(tmp_path, config)
    rows = list(forward_process.train(config, net(), FakeStore(), reward=brightness, run=run))
    assert rows[0]["apart"] == 0 and rows[0]["reward"] == rows[0]["reward_action"]
    assert np.mean([row["reward"] for row in rows[-3:]]) > rows[0]["reward"] + 0.02


def test_killed_and_resumed_equals_uninterrupted_with_the_old_policy(tmp_path):
    config = replace(FORWARD, steps=3, rise=0.2)

    def start(folder):
        run = Run(tmp_path / folder, config)
        return forward_process.train(config, net(), FakeStore(), reward=brightness, run=run)

    list(start("whole"))
    broken = start("broken")
    for row in broken:
        if row["step"] == 1:
            break
    broken.close()
    list(start("broken"))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "broken")
    parts = parts_of(tmp_path / "broken")
    assert same(parts_of(tmp_path / "whole"), parts) and parts["old"]["count"] == 2


# On true films


def test_the_word_encoder_reads_its_own_prompts_back():
    encoder = toy_encoder()
    for number in range(4):
        for shot in WORLD.cast_film(3, number, 6).shots:
            words = encoder.decode(encoder.encode([shot.caption])[0]).split()
            assert [encoder.index[word] for word in words] == encoder.ids(words)
            assert words == "".join(c if c.isalnum() else " " for c in shot.caption).lower().split()
    assert encoder.decode(encoder.encode([""])[0]) == ""


def test_true_films_have_the_rewards_of_truth():
    bundle = load("toybox-1step")
    films = encode_plans(bundle, planned(bundle, 5, 3, 12))
    names = [name for name in REWARDS if ":" not in name]
    judged = ClipRewards(bundle.codec, bundle.encoder, names, world=bundle.world)
    made = torch.ones(12, dtype=torch.bool)
    found = judged(films.latents, film_clips(bundle, films), made)
    shown = judged.listed(film_clips(bundle, films))
    for plan, shots in zip(films.plans, shown, strict=True):
        named = [
            {name: one.attributes[name] for name in bundle.world.prompted} for one in plan.shots
        ]
        assert [one.shows for one in shots] == named
    assert found["motion"].nan_to_num(1.0).tolist() == [1, 1, 1]
    assert found["prompt"].mean() > 0.9 and found["identity"].nanmean() > 0.8
    still = films.latents[:, :1].expand_as(films.latents)
    frozen = judged(still, film_clips(bundle, films), made)
    assert frozen["motion"].nanmean() < 0.5 and frozen["cuts"].mean() < found["cuts"].mean()


# Names, refusals, and where rewards come from


def test_a_reward_of_ones_own_is_a_function():
    try:

        @register.reward("darkness of films", range=(0, 1))
        def darkness(shown):
            return 1 - shown.frames.mean((1, 2, 3, 4)) / 255

        shown = clips([[LOOK, OTHER, LOOK]])
        assert 0 < value("darkness of films", shown) < 1
        path = {f"{__name__}:cells_of_two": 1.0}
        rewards.check_rewards({"darkness of films": 1.0} | path)
        with pytest.raises(CinelabError, match="gives 2, outside its range 0 to 1"):
            value(f"{__name__}:cells_of_two", shown)
    finally:
        REWARDS._things.pop("darkness of films", None)


def cells_of_two(shown):
    return [2.0] * len(shown.frames)


@pytest.mark.parametrize(
    "weights, said",
    [
        ({"identty": 1.0}, "reward is 'identty'; did you mean 'identity'"),
        ({"identity": -1.0}, r"reward.identity is -1.0; give a weight of at least 0"),
        ({}, "reward names none"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, said):
    with pytest.raises(CinelabError, match=said):
        replace(DMD, reward=weights)
    with pytest.raises(CinelabError, match=said):
        replace(FORWARD, reward=weights)


def test_a_wrong_answer_or_need_is_refused():
    with pytest.raises(CinelabError, match=r"gives \(2,\) for 1 clips; return one number a clip"):
        rewards.RewardTerm("short", lambda shown: [1.0, 0.0]).values(clips([[LOOK, OTHER, LOOK]]))
    with pytest.raises(CinelabError, match="needs 'critic'; known needs are truth, reader"):
        rewards.RewardTerm("odd", len, needs=("critic",))
    with pytest.raises(CinelabError, match="batch is 6 clips, which groups of 4 do not fill"):
        replace(FORWARD, batch=6, group=4)
    with pytest.raises(CinelabError, match="group is 1; rewards are compared within a prompt"):
        replace(FORWARD, group=1)


def test_a_training_without_what_computes_rewards_is_refused(tmp_path):
    config = replace(DMD, reward={"identity": 1.0})
    with pytest.raises(CinelabError, match="given nothing that computes rewards"):
        dmd.train(config, net(), net(1), net(2), FakeStore(), Run(tmp_path, config))
    with pytest.raises(CinelabError, match="begins from a student, whose clips are rewarded"):
        students.forward_process(tmp_path / "fp", tmp_path, None, "smoke")


def test_a_job_of_other_clips_has_no_exact_rewards(tmp_path):
    job = Job(
        "forward_process", str(tmp_path / "run"), Data("noise", "6x8x24"), init="toybox-2step"
    )
    with pytest.raises(CinelabError, match="holds no films of the toybox"):
        list(worker.train(job, worker.Parallel.here(job.layout)))


# The study


def made_rows():
    """Rows of three trainings in which identity alone is hacked, and guards cure it."""
    values = {
        "none": {"identity above chance": 0.1, "motion": 1.0, "diversity of identity": 0.7},
        "identity": {"identity above chance": 0.15, "motion": 0.6, "diversity of identity": 0.4},
        "identity+guards": {
            "identity above chance": 0.3,
            "motion": 0.99,
            "diversity of identity": 0.7,
        },
    }
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(3):
        for arm, found in values.items():
            rows = [
                Row(clip_of(i), 0, name, x + 0.01 * rng.normal(), protocol=protocol)
                for i in range(12)
                for name, x in ({"prompt": 0.9} | found).items()
                for protocol in ["kept" if "chance" in name else ""]
            ]
            about = {"arm": arm, "method": "forward_process", "seed": seed, "stage": "after"}
            parts.append(row_table(rows, **about))
    return study.pd.concat(parts, ignore_index=True)


def test_the_claims_find_hacking_and_its_cure():
    table = study.reward_claims(made_rows())
    assert len(table) == 6 and set(table.verdict) == {"confirmed"}
    swapped = made_rows()
    swapped["arm"] = swapped.arm.replace({"identity": "identity+guards", "identity+guards": "x"})
    hacked = study.reward_claims(swapped)
    assert set(hacked[hacked.claim.str.contains("gains|motion is")].verdict) == {"refuted"}
    assert len(study.reward_table(made_rows())) == 12


@pytest.mark.parametrize("method", reward_cell.METHODS)
def test_an_arm_weighs_what_counts_and_measures_the_rest(method, tmp_path):
    setting = {"student": "toybox-2step", "preset": "smoke", "seed": 1}
    made = reward_cell.reward_training(tmp_path, tmp_path, method=method, arm="identity", **setting)
    weights = made.config.reward
    assert weights["identity"] == 1 and set(weights.values()) == {0.0, 1.0}
    assert set(reward_cell.MEASURED_REWARDS) == set(weights)
    student = load("toybox-2step")
    assert made.config.sampling == student.sampling and made.config.seed == 1
    assert made.config.max_distance == student.max_distance


def test_an_unknown_arm_or_method_is_refused():
    with pytest.raises(CinelabError, match="arm is 'all'; use one of none, identity"):
        reward_cell.reward_weights("all")
    with pytest.raises(CinelabError, match="method is 'grpo'; use one of weighted_dmd"):
        reward_cell.check_method_changes("grpo", {}, "smoke")
    with pytest.raises(CinelabError, match="Unknown setting 'beta'"):
        reward_cell.check_method_changes("forward_process", {"forward_process": {"beta": 1}}, "toy")
