"""A training step on a GPU: the CPU's random numbers and clips, the same losses, and nothing that
is waited for."""

from dataclasses import replace

import pytest
import torch
from test_train import Fake, model

from cinelab.latent.placed import placed
from cinelab.memory.context import FULL_HISTORY, HistoryPolicy
from cinelab.memory.policy import CAMR
from cinelab.runs import Run
from cinelab.seeds import CounterGenerator, integers, normal, rng_at, uniform
from cinelab.train import loop, presets, teacher_forcing
from cinelab.train.compiled import with_compiled_blocks
from cinelab.train.loop import Learner
from cinelab.train.stage import stage_named

pytestmark = pytest.mark.gpu
CONFIG = replace(presets.teacher_forcing("smoke"), bf16=False, draws="device")
POLICIES = {"full": FULL_HISTORY, "camr": HistoryPolicy(CAMR(budget=2))}


def counters(*place):
    return rng_at(5, *place, kind=CounterGenerator)


def test_a_counter_draws_the_cpus_numbers(gpu):
    for draw in (lambda *at: integers(1000, *at), uniform):
        here, there = draw((501,), counters("a")), draw((501,), counters("a"), gpu)
        assert torch.equal(here, there.cpu())
    here, there = normal((501, 7), counters("a")), normal((501, 7), counters("a"), gpu)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


def seeded():
    net = model()
    for weight in net.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=rng_at(2)))
    return net


def loss_on(device, history, net=None):
    net = (net or seeded()).to(device)
    clips = placed(Fake(), device).clips(3, 8, rng_at(1))
    loss = teacher_forcing.loss(net, clips, CONFIG, history, counters("loss"))
    loss.backward()
    norm = torch.cat([weight.grad.flatten() for weight in net.parameters()]).norm()
    return [loss.item(), norm.item()]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_that_draws_on_the_device_has_the_cpus_loss(gpu, policy):
    here, there = loss_on("cpu", POLICIES[policy]), loss_on(gpu, POLICIES[policy])
    assert there == pytest.approx(here, rel=2e-3)


def test_compiled_blocks_have_the_plain_ones_loss(cuda):
    plain = loss_on(cuda, FULL_HISTORY)
    assert loss_on(cuda, FULL_HISTORY, with_compiled_blocks(seeded())) == pytest.approx(
        plain, rel=2e-3
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_waits_for_nothing(cuda, policy):
    data = placed(Fake(), cuda)

    def loss(net, step, micro_batch, rng):
        clips = data.clips(3, 8, rng)
        return teacher_forcing.loss(net, clips, CONFIG, POLICIES[policy], rng), {}

    learner = Learner(seeded().to(cuda), loss, CONFIG.optim)
    how = loop.Launching(loop.OneProcess(), CounterGenerator, late=True)
    loop.optimization_step(learner, 0, CONFIG, how)  # sets up what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        columns = loop.optimization_step(learner, 1, CONFIG, how)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert columns["loss"].is_cuda and learner.optimizer.param_groups[0]["fused"]


def trained(device, folder, until=None):
    stage = stage_named("teacher_forcing")
    run = Run(folder, CONFIG)
    run.device = str(device)
    rows = []
    for row in stage.train(CONFIG, Fake(), {"student": seeded().to(device)}, run=run):
        rows.append(row)
        if row["step"] == until:
            break
    return rows


@pytest.mark.filterwarnings("ignore:Run .* was begun with device")
def test_a_run_of_the_gpu_goes_on_on_the_cpu(gpu, tmp_path):
    """Its rows are whole and in order there, though each is read a step late."""
    whole = trained("cpu", tmp_path / "whole")
    trained(gpu, tmp_path / "moved", until=1)  # saved after it
    moved = trained("cpu", tmp_path / "moved")
    assert [row["step"] for row in moved] == [2, 3]
    assert [row["loss"] for row in moved] == pytest.approx(
        [row["loss"] for row in whole[2:]], rel=2e-3
    )
