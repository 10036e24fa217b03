"""Under which memory a training shows a student its history: what config.json says, and films are made under by default."""

from typing import Any

from cinelab.memory.policy import FULL, Policy
from cinelab.memory.policy_io import policy_to_dict


def trained_under(config: Any) -> dict[str, Any]:
    """Return the entries `policy` and, where the stage has one, `reach` of a checkpoint's config.json.

    A stage without a memory (the bidirectional one, the codec) has neither.
    """
    policy = policy_of(config)
    said = {} if policy is None else {"policy": policy_to_dict(policy)}
    return said | ({"reach": config.reach} if hasattr(config, "reach") else {})


def policy_of(config: Any) -> Policy | None:
    """Return the policy of a stage's settings: that of its roll-outs, or what a share of its steps is shown through."""
    if hasattr(config, "policy"):
        return config.policy
    if not hasattr(config, "camr"):
        return None
    return config.camr if config.camr_share > 0 else FULL
