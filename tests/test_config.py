"""Overrides: dotted, typed, made all at once, refused by name."""

import pytest

from cinelab.config import override
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.train import presets


def test_changes_that_only_fit_together_are_made_together():
    config = presets.dmd("toy")
    assert override(config, {"chunk": 5, "lengths": [10]}).lengths == (10,)
    assert override(config, {"lengths": [10], "chunk": 5}).chunk == 5
    with pytest.raises(CinelabError, match="12 latent frames, which chunk=5"):
        override(config, {"chunk": 5})


def test_a_part_and_its_fields_may_both_change():
    changed = override(
        presets.dmd("toy"),
        {"sampling": Sampling(3, "consistency", 1.0), "sampling.shift": 5, "optim.lr": 1},
    )
    assert (changed.sampling.steps, changed.sampling.shift, changed.optim.lr) == (3, 5.0, 1.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optim.lrr": 1e-3}, "Unknown setting 'optim.lrr': did you mean 'lr'"),
        ({"stepps": 3}, "did you mean 'steps'"),
        ({"steps.deep": 3}, "Unknown setting 'steps.deep'"),
        ({"steps": "many"}, "Setting 'steps' is 'many', but a int"),
    ],
)
def test_wrong_names_and_types_are_refused(change, message):
    with pytest.raises(CinelabError, match=message):
        override(presets.dmd("toy"), change)
