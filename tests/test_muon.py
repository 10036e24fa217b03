"""Muon beside AdamW: who steps what, and that a resumed training ends with the same bits."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from cinelab.errors import CinelabError
from cinelab.latent.residual_codec import ResidualCodec, ResidualCodecConfig
from cinelab.model.backbone import initialised
from cinelab.runs import Run
from cinelab.train.loop import Learner, train
from cinelab.train.muon import MuonAdamW, hidden_matrices
from cinelab.train.optim import Optim, optimizer_of, set_learning_rate
from cinelab.train.sizes import SMOKE
from cinelab.train.teacher_forcing import TeacherForcing

MUON = Optim(lr=1e-2, method="muon", warmup=1)


def test_muon_steps_the_blocks_matrices_and_adamw_all_else():
    model = initialised(SMOKE)
    optimizer = optimizer_of(model, MUON)
    assert isinstance(optimizer, MuonAdamW)
    stepped = {id(w) for group in optimizer.muon.param_groups for w in group["params"]}
    rest = {id(w) for group in optimizer.rest.param_groups for w in group["params"]}
    for name, weight in model.named_parameters():
        wanted = name.startswith("blocks.") and weight.ndim == 2
        assert (id(weight) in stepped, id(weight) in rest) == (wanted, not wanted), name


def test_a_step_of_muon_moves_all_directions_alike():
    """The update of a matrix has singular values about 1, times the rate and its size's factor."""
    torch.manual_seed(0)
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(32, 64, bias=False)])
    model.head = nn.Linear(4, 4)
    optimizer = optimizer_of(model, MUON)
    before = model.blocks[0].weight.detach().clone()
    # a gradient of which one direction is 100 times as long as another
    gradient = torch.diag(torch.logspace(0, 2, 32))
    model.blocks[0].weight.grad = torch.cat([gradient, torch.zeros(32, 32)])
    optimizer.step()
    moved = torch.linalg.svdvals(before - model.blocks[0].weight.detach())
    assert moved.max() / moved.min() < 3


def test_one_rate_for_both():
    optimizer = optimizer_of(initialised(SMOKE), MUON)
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_a_network_names_its_own_matrices():
    codec = ResidualCodec(ResidualCodecConfig(channels=8, fine=8, width=16, deep=16, blocks=1))
    names = set(hidden_matrices(codec))
    assert "deep.0.body.2.weight" in names
    assert not any(name.startswith(("stem.0.", "head.4.", "from_latent.")) for name in names)


def test_a_network_without_matrices_is_refused_in_a_sentence():
    with pytest.raises(CinelabError, match="use 'adamw'"):
        optimizer_of(nn.Linear(2, 2), MUON)
    with pytest.raises(CinelabError, match="optim.method is 'sgd'; use one of adamw, muon"):
        Optim(method="sgd")


def decay(model, step, micro_batch, rng):
    return sum(w.square().mean() for w in model.parameters()), {}


def test_a_resumed_training_under_muon_ends_with_the_same_bits(tmp_path):
    smoke = TeacherForcing("teacher_forcing").preset("smoke", 0)
    config = replace(smoke, optim=MUON, steps=4, save_every=2)

    def trained(folder, stops):
        """The weights after a training that is taken up again after every stop."""
        for stop in stops:
            torch.manual_seed(0)
            learner = Learner(initialised(SMOKE), decay, MUON)
            list(islice(train([learner], config, Run(tmp_path / folder, config)), stop))
        return learner.model.state_dict()

    whole = trained("whole", [4])
    resumed = trained("resumed", [2, 2])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
