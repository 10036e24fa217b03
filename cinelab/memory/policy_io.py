"""Policies as plain dictionaries: what config.json, film.json and run descriptions say of a policy.

{"name": "CAMR", "budget": 6, ...}

The class stands there by its name (a user's own by its import path), beside its fields.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import policy_dict, policy_from


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Return a policy as plain JSON types: the name of its class (see the head of the file), and
    its fields."""
    return policy_dict(policy)


def policy_from_dict(values: Mapping[str, Any], where: str) -> Policy:
    """Return the policy that `policy_to_dict` wrote; fields that are not named keep their defaults.

    A built-in policy is known by its name, any other by its import path. `where` says in an error
    whose dictionary it is. Raises CinelabError for an unknown class or field.
    """
    known = {kind.__name__: kind for kind in kinds(Policy) if kind.__module__ == Policy.__module__}
    name = values.get("name") if isinstance(values, Mapping) else values
    if isinstance(name, str) and ":" in name:
        try:
            return policy_from(values)
        except CinelabError as error:
            raise CinelabError(f"{where}: {error}") from error
    if name not in known:
        raise CinelabError(
            f"{where} names the policy {name!r}; known are "
            f"{', '.join(sorted(known))}, and classes of your own by their import "
            "path, such as my_module:MyPolicy."
        )
    fields = {key: value for key, value in values.items() if key != "name"}
    try:
        return from_dict(known[name], fields)
    except CinelabError as error:
        raise CinelabError(f"{where}, policy {name}: {error}") from error


def kinds(base: type) -> Iterator[type]:
    """Yield every subclass of a class that is imported, at any depth."""
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)
