"""Policies by name, and as plain values: what menus, settings, sessions and runs hold of them."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from cinelab.config import from_kind, to_kind
from cinelab.errors import CinelabError
from cinelab.memory.policy import (
    CAMR,
    CausalCine,
    Full,
    Oracle,
    Policy,
    RandomTopK,
    ShotSink,
    Sink,
    Window,
)
from cinelab.registry import Registry, path_of

POLICIES = Registry("policy")
BUDGET = 6  # pages, where none is stated

for _name, _maker in {
    "full": lambda budget: Full(),
    "window": lambda budget: Window(window=budget),
    "sink": lambda budget: Sink(sink=1, window=budget - 1),
    "shot_sink": lambda budget: ShotSink(sink=1, shot_sink=1, window=budget - 2),
    "camr": lambda budget: CAMR(budget=budget),
    "causalcine": lambda budget: (
        CausalCine()
    ),  # the paper's own 14 latent frames, whatever is asked
    "random": lambda budget: RandomTopK(budget=budget),
    "random_shared": lambda budget: RandomTopK(budget=budget, shared=True),
}.items():
    POLICIES.add(_name, _maker)
# whose settings are a paper's: neither a budget beside the name nor a model changes them
PUBLISHED = ("causalcine",)
BUILT_IN = (*POLICIES, "oracle")  # the last one is in no menu


def policy_named(policy: "str | Policy | Mapping", budget: int = BUDGET, **more: Any) -> Policy:
    """Return the policy of a name that attends to at most `budget` pages (`full` attends to all,
    and `causalcine` to the paper's 14 latent frames), with further settings.

    A name of one's own (see `cinelab.registry`) or an import path stands for a class, which is
    given `budget` if it takes one, or for a function of the budget. A Policy has a budget already
    and stays as it is; a dictionary is one that `policy_dict` wrote down. `oracle`, which must be
    given its `shots`, is for tests whose truth is known.
    """
    if isinstance(policy, str):
        made = _of_name(policy, budget)
    else:
        made = policy_from(policy) if isinstance(policy, Mapping) else policy
    if not isinstance(made, Policy):
        raise CinelabError(
            f"policy is {policy!r:.80}; give a name ({', '.join(POLICIES)}), an import path or a "
            "Policy, "
            "such as CAMR(budget=6)."
        )
    if odd := [name for name in more if name not in {one.name for one in fields(made)}]:
        raise CinelabError(
            f"Policy {name_of(made)} has no {odd[0]!r}; leave it out, or give it that field."
        )
    return checked_policy(replace(made, **more) if more else made)


def _of_name(name: str, budget: int) -> Policy:
    if name in BUILT_IN and budget < 3:
        raise CinelabError(f"budget is {budget}; the compared policies need at least 3 pages.")
    if name == "oracle":
        return Oracle(budget=budget)
    maker = POLICIES.get(name)
    if isinstance(maker, Policy):
        return maker
    of_ours = isinstance(maker, type) and issubclass(maker, Policy)
    # whatever else stands there is not called
    if not of_ours and path_of(maker) == POLICIES.name_of(maker):
        raise CinelabError(
            f"policy {name!r} is {maker!r:.60}; name a class of policies, or register the "
            "function that makes one."
        )
    try:
        known = inspect.signature(maker).parameters
    except ValueError as error:
        raise CinelabError(
            f"policy {name!r} cannot be made ({error}); register a class of policies."
        ) from error
    if "budget" in known or any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return maker(budget=budget)
    takes = not isinstance(maker, type) and any(one.default is one.empty for one in known.values())
    return maker(budget) if takes else maker()


def checked_policy(policy: Policy) -> Policy:
    """Return a policy as it is; one of a user's class is called once, so that a mistake is a
    sentence before any work is done."""
    if type(policy).__module__ == Policy.__module__:
        return policy
    name = name_of(policy)
    shots = torch.tensor([[0, 0, 1], [0, 1, 1]])
    settings = {
        one for one, hint in type(policy).__annotations__.items() if "ClassVar" not in str(hint)
    }
    if not is_dataclass(policy) or settings - {one.name for one in fields(policy)}:
        raise CinelabError(
            f"Policy {name} has settings that are no fields; put @dataclass(frozen=True) above "
            "its class."
        )
    if taken := {"kind", "name"} & {one.name for one in fields(policy)}:
        raise CinelabError(
            f"Policy {name} has a field {taken.pop()!r}, which is the word for its class on the "
            "disk; rename it."
        )
    try:
        count = policy.budget_at(3)
        ranks = policy.priority(shots, torch.tensor([1, 2]))
    except NotImplementedError as error:
        raise CinelabError(
            f"Policy {name} lacks budget_at(count) or priority(shots, shot); write both."
        ) from error
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
        raise CinelabError(
            f"Policy {name}: budget_at(3) is {count!r}; return how many of 3 finished pages a "
            "chunk attends to, a whole number."
        )
    if not isinstance(ranks, Tensor) or ranks.shape != shots.shape:
        found = tuple(ranks.shape) if isinstance(ranks, Tensor) else type(ranks).__name__
        raise CinelabError(
            f"Policy {name}: priority gives {found} for 2 films of 3 pages; return a number for "
            "every page, (2, 3)."
        )
    return policy


def name_of(policy: Policy) -> str:
    """Return the name by which `policy_named` knows a policy: a built-in or registered one, else
    the import path of its class."""
    if type(policy) is RandomTopK:
        return "random_shared" if policy.shared else "random"
    kinds = {
        Full: "full",
        Window: "window",
        Sink: "sink",
        ShotSink: "shot_sink",
        CAMR: "camr",
        CausalCine: "causalcine",
        Oracle: "oracle",
    }
    return kinds.get(type(policy)) or POLICIES.name_of(type(policy))


def seeded(policy: Policy, seed: int) -> Policy:
    """Return the policy with another seed, where it draws at all: every evaluation seed has random
    choices of its own."""
    if not any(part.name == "seed" for part in fields(policy)):
        return policy
    return replace(policy, seed=seed)  # type: ignore[call-arg]  # it has the field


def label_of(policy: "str | Policy | Mapping") -> str:
    """Return what tables and figures call a policy: its name, or its class with the settings that
    are no defaults."""
    if isinstance(policy, str):
        return policy
    policy = policy_named(policy)
    if (name := name_of(policy)) in BUILT_IN:
        return name
    name = name.rpartition(":")[2].rpartition(".")[2]
    values = {one.name: getattr(policy, one.name) for one in fields(policy)}
    own = [one.name for one in fields(policy) if values[one.name] != one.default]
    if not own:
        return name
    return f"{name}({', '.join(f'{one}={values[one]}' for one in own)})"


def policy_dict(policy: Policy) -> dict:
    """Return a policy as plain values, with its class as `name`: the bare name of a built-in one,
    else its import path."""
    return to_kind(policy, Policy, "name")


def policy_from(values: Mapping) -> Policy:
    """Return the policy that `policy_dict` wrote, or that settings with their class as `kind` give.
    CinelabError where the class is not there."""
    key = next((key for key in ("name", "kind") if key in values), None)
    if key is None:
        raise CinelabError(
            f"policy is {dict(values)!r:.80}; name its class as kind, such as kind: CAMR."
        )
    return from_kind(values, Policy, "policy", key)


def with_budget(policy: Policy, budget: int) -> Policy:
    """Return the policy with another budget, in pages."""
    if (name := name_of(policy)) in BUILT_IN and not hasattr(policy, "budget"):
        return policy_named(name, budget, positions=policy.positions, unit=policy.unit)
    if "budget" not in {one.name for one in fields(policy)}:
        raise CinelabError(
            f"budget is {budget}, but policy {name} has no budget that can be set; leave it out."
        )
    return replace(policy, budget=budget)  # type: ignore[call-arg]  # it has the field


def budget_of(policy: Policy, unlimited: int = BUDGET) -> int:
    """Return how many pages of a long film a policy attends to; `unlimited` for one that attends to
    ever more."""
    attended = policy.budget_at(10**9)
    return unlimited if attended > 10**6 else attended
