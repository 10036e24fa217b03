"""Settings as frozen dataclasses: to and from plain dictionaries, dotted overrides, clear refusals.

Every default stands in exactly one dataclass. Unknown keys are answered with the known ones.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cinelab.errors import CinelabError

T = TypeVar("T")


def to_dict(config: Any) -> dict:
    """A dataclass (nested) as plain JSON types; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from plain values. Unknown keys and wrong types are refused by name."""
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in values:
        if key not in names:
            raise CinelabError(unknown(f"{where}{key}", names, key))
    return cls(**{key: _coerce(hints[key], value, f"{where}{key}") for key, value in values.items()})


def override(config: T, changes: Mapping[str, Any], where: str = "") -> T:
    """`config` with dotted changes, e.g. {"optim.lr": 1e-3}; the type of each field is kept. All are made at once, so
    that only what they make together must be free of contradictions."""
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    new, inner = {}, {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        if head not in names:
            raise CinelabError(unknown(f"{where}{path}", names, head))
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            new[head] = _coerce(get_type_hints(type(config))[head], value, f"{where}{path}")
    for head, deeper in inner.items():
        new[head] = override(new.get(head, getattr(config, head)), deeper, f"{where}{head}.")
    return dataclasses.replace(config, **new)


def unknown(path: str, known: list[str], key: str) -> str:
    """The sentence for a name nobody knows: nearest first, else all."""
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
    return f"Unknown setting {path!r}: {hint}"


def read_json(path: Path) -> Any:
    """Parse a JSON file; a missing or broken one is one sentence."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise CinelabError(f"Cannot read {path}: {error.strerror}; check the path.") from error
    except ValueError as error:
        raise CinelabError(f"{path} is not valid JSON ({error}); restore it or remove it.") from error


def _coerce(hint: Any, value: Any, path: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return _coerce_union(hint, value, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{path}.")
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        kinds = [inner[0]] * len(value) if Ellipsis in inner else list(inner)
        return tuple(_coerce(kind, item, path) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise CinelabError(f"Setting {path!r} is {value!r}, but a {hint.__name__} is wanted; change its type.")
    return value


def _coerce_union(hint: Any, value: Any, path: str) -> Any:
    for option in get_args(hint):
        try:
            return None if option is type(None) and value is None else _coerce(option, value, path)
        except (CinelabError, TypeError):
            continue
    raise CinelabError(f"Setting {path!r} is {value!r}, which is none of {hint}; change its type.")
