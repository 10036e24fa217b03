"""Under which memory policy a training attends to the history.

config.json states it, and films are made under it unless their user chooses another.
"""

from typing import Any

from cinelab.memory.policy import FULL, Policy
from cinelab.memory.policy_io import policy_to_dict


def trained_under(config: Any) -> dict[str, Any]:
    """Return the entries `policy` and, where a stage has one, `max_distance` of a checkpoint's
    config.json.

    A stage without a memory (the bidirectional one, the codec) has neither.
    """
    entries: dict[str, Any] = {}
    if (policy := policy_of(config)) is not None:
        entries["policy"] = policy_to_dict(policy)
    if hasattr(config, "max_distance"):
        entries["max_distance"] = config.max_distance
    return entries


def policy_of(config: Any) -> Policy | None:
    """Return the policy of a stage's settings, or None where it has no memory.

    That is the policy of its roll-outs, or the one of the share of its steps that are routed.
    """
    policy: Policy | None = getattr(config, "policy", None)
    if policy is not None or not hasattr(config, "camr"):
        return policy
    return config.camr if config.camr_share > 0 else FULL
