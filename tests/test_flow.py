"""The path, the solvers and guidance, against what mathematics says."""

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.rollout import noise_for
from cinelab.flow.sampler import Sampling
from cinelab.flow.solvers import solve


def test_the_path_runs_from_data_to_noise_and_back():
    x0 = torch.randn(2, 3, 4, 2, 2)
    eps = torch.randn(2, 3, 4, 2, 2)
    t = torch.rand(2, 3)
    xt = path.noised(x0, eps, t)
    assert torch.allclose(path.clean(xt, path.velocity(x0, eps), t), x0, atol=1e-6)
    assert torch.equal(path.noised(x0, eps, torch.zeros(2, 3)), x0)
    assert torch.equal(path.noised(x0, eps, torch.ones(2, 3)), eps)


def test_shift_is_wans_formula_and_keeps_the_ends():
    t = torch.linspace(0, 1, 5)
    assert torch.allclose(path.shifted(t, 8.0), 8 * t / (1 + 7 * t))
    assert torch.allclose(
        path.shifted(torch.tensor([0.25, 0.5, 0.75, 1.0]), 8.0),
        torch.tensor([0.727, 0.889, 0.96, 1.0]),
        atol=1e-3,
    )
    assert torch.equal(path.shifted(t, 1.0), t)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("ab2", 2)])
def test_solvers_converge_at_their_order(solver, order):
    # dx/dt = -x from x(1) = 1 to t = 0 gives e
    truth = torch.e ** torch.tensor(1.0, dtype=torch.float64)
    start = torch.ones(1, dtype=torch.float64)

    def error(steps):
        levels = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return abs(solve(lambda x, t: -x, start, levels, solver).item() - truth.item())

    rate = torch.log2(torch.tensor(error(40) / error(80)))
    assert abs(rate - order) < 0.15


def test_guidance_of_one_is_the_conditional_prediction():
    c = torch.randn(3)
    u = torch.randn(3)
    assert torch.allclose(path.guided(c, u, 1.0), c, atol=1e-6) and torch.equal(
        path.guided(c, u, 0.0), u
    )


def test_noise_of_a_film_does_not_depend_on_its_batch():
    alone = noise_for([4], 2, (1, 3, 2, 2))
    together = noise_for([9, 4], 2, (1, 3, 2, 2))
    assert torch.equal(alone[0], together[1]) and not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    "bad, words",
    [({"steps": 0}, "steps is 0"), ({"solver": "heun"}, "'heun'"), ({"shift": 0.0}, "shift")],
)
def test_bad_sampling_is_refused(bad, words):
    with pytest.raises(CinelabError, match=words):
        Sampling(**bad)
