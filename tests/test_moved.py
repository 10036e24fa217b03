"""Weights that stand still are noticed: the share that has moved is logged and warned of, and
stages of small steps refuse weights in bf16."""

import warnings

import pytest
import torch
from test_students import CD, DMD, FakeStore, net
from test_train import rows_of

from cinelab.errors import CinelabError
from cinelab.runs import Run
from cinelab.train import consistency, dmd
from cinelab.train.loop import Learner, OneProcess, moved_columns
from cinelab.train.optim import Optim


@pytest.mark.parametrize("stage", [consistency, dmd], ids=["consistency", "dmd"])
def test_weights_in_bf16_are_refused_where_steps_are_small(stage, tmp_path):
    config = CD if stage is consistency else DMD
    networks = [net().bfloat16(), net(1).requires_grad_(False)]
    networks += [] if stage is consistency else [net(2)]
    with pytest.raises(CinelabError, match="student of .* has weights in bfloat16.*float32"):
        list(stage.train(config, *networks, FakeStore(), Run(tmp_path, config)))


def share_after(dtype, lr):
    """The share that has moved after 12 updates of real weights, and what was warned of."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64).to(dtype)
    torch.nn.init.normal_(model.weight, std=0.02)
    optim = Optim(lr=lr, warmup=0, weight_decay=0.0)
    learner = Learner(model, dmd.student_loss, optim)
    for _ in range(12):
        learner.optimizer.zero_grad()
        model(torch.randn(8, 64, dtype=dtype)).pow(2).sum().backward()
        learner.optimizer.step()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        columns = [moved_columns([learner], 12, OneProcess()) for _ in range(2)]
    assert columns[0] == columns[1]
    return columns[0]["moved"], [str(one.message) for one in said]


def test_bf16_weights_that_do_not_move_raise_the_alarm_once_and_fp32_ones_move():
    share, said = share_after(torch.bfloat16, 2e-6)
    assert share < 0.5 and len(said) == 1
    assert "weights have moved" in said[0] and "bfloat16" in said[0] and "float32" in said[0]
    share, said = share_after(torch.float32, 2e-6)
    assert share > 0.95 and said == []


def test_the_share_that_moved_is_logged_at_validations_and_survives_a_resumption(tmp_path):
    def run(folder, stop=None):
        networks = (net(), net(1).requires_grad_(False), net(2))
        rows = dmd.train(DMD, *networks, FakeStore(), Run(folder, DMD), lambda model: {"score": 1})
        for row in rows:
            if row["step"] == stop:
                break
        rows.close()
        return rows_of(folder)

    whole = run(tmp_path / "whole")
    assert whole[0]["moved"] == whole[0]["critic_moved"] == 0
    assert whole[-1]["moved"] > 0.5 and "moved" not in whole[1]
    run(tmp_path / "broken", stop=1)
    assert run(tmp_path / "broken") == whole
