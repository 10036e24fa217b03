"""Under which memory a training shows a student its history.

config.json says it, and films are made under it unless their user says otherwise.
"""

from typing import Any

from cinelab.memory.policy import FULL, Policy
from cinelab.memory.policy_io import policy_to_dict


def trained_under(config: Any) -> dict[str, Any]:
    """Return the entries `policy` and, where a stage has one, `max_distance` of a checkpoint's
    config.json.

    A stage without a memory (the bidirectional one, the codec) has neither.
    """
    policy = policy_of(config)
    said = {} if policy is None else {"policy": policy_to_dict(policy)}
    return said | ({"max_distance": config.max_distance} if hasattr(config, "max_distance") else {})


def policy_of(config: Any) -> Policy | None:
    """Return the policy of a stage's settings, or None where it has no memory.

    That is the policy of its roll-outs, or the one that a share of its steps is shown through.
    """
    if hasattr(config, "policy"):
        return config.policy
    if not hasattr(config, "camr"):
        return None
    return config.camr if config.camr_share > 0 else FULL
