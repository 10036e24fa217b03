"""Policies as dictionaries: every one comes back, and a strange one is one sentence."""

import json

import pytest

from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR, Full, RandomTopK, Sink
from cinelab.memory.policy_io import policy_from_dict, policy_to_dict

POLICIES = [
    Full(),
    Sink(sink=2, window=1, positions="packed"),
    CAMR(budget=3, summary=8),
    RandomTopK(seed=4),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_comes_back_from_its_dictionary(policy):
    stored = json.loads(json.dumps(policy_to_dict(policy)))
    assert stored["name"] == type(policy).__name__
    assert policy_from_dict(stored, "config.json") == policy


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"name": "Unheard"}, "config.json names the policy 'Unheard'; known are CAMR, "),
        ({}, "names the policy None"),
        ("camr", "names the policy 'camr'; known are CAMR, "),
        (None, "names the policy None"),
        ({"name": "Full", "window": 3}, "config.json, policy Full: Unknown setting 'window'"),
        ({"name": "CAMR", "budget": "six"}, "'budget' is 'six'"),
        ({"name": "CAMR", "budget": 0}, "CAMR budget is 0"),
    ],
    ids=str,
)
def test_a_policy_nobody_knows_is_refused_by_name(stored, said):
    with pytest.raises(CinelabError, match=said):
        policy_from_dict(stored, "config.json")
