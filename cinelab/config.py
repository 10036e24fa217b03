"""Settings as frozen dataclasses: to and from plain dictionaries, dotted overrides, clear refusals.

Every default stands in exactly one dataclass. Unknown keys are answered with the known ones.

A part may be of another class than its field has by default: a policy of one's own in place of CAMR. Its
dictionary then says so by `kind`: an import path, or the bare name of a class of the same module.
"""

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cinelab.errors import CinelabError
from cinelab.registry import path_of, resolve

T = TypeVar("T")
KIND = "kind"  # the key of a part's class


def to_dict(config: Any) -> dict:
    """A dataclass (nested) as plain JSON types; tuples become lists. See the head of the file for `kind`."""
    try:
        return json.loads(json.dumps(_values(config)))
    except (TypeError, ValueError) as error:
        raise CinelabError(f"{type(config).__name__} cannot be written down ({error}); keep its fields to numbers, "
                           "texts, true or false, and lists of these.") from error


def _values(config: Any) -> dict:
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain = _values(value) if _is_config(value) else _copied(value)
        if _is_config(value) and type(value) not in (usual := _usual(type(config), field)):
            plain = {KIND: kind_of(type(value), next(iter(usual), type(value)))} | plain
        values[field.name] = plain
    return values


def _copied(value: Any) -> Any:
    """Configurations inside lists and mappings as dictionaries."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return _values(value) if _is_config(value) else value


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _usual(cls: type, field: dataclasses.Field) -> list[type]:
    """The classes that a field's part has where nothing is said: its default's, else those of its type."""
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if _is_config(default):
        return [type(default)]
    return _options(get_type_hints(cls)[field.name])


def _options(hint: Any) -> list[type]:
    """The dataclasses that a type allows."""
    many = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [one for one in many if dataclasses.is_dataclass(one)]


def kind_of(cls: type, near: type) -> str:
    """What `kind` says of a class: its name beside `near`, else its import path."""
    return cls.__qualname__ if cls.__module__ == near.__module__ else path_of(cls)


def described(value: Any, near: type | None = None, key: str = KIND) -> dict:
    """A dataclass as a dictionary that says its class too; `from_kind` makes it again."""
    return {key: kind_of(type(value), near or type(None))} | to_dict(value)


def from_kind(values: Mapping[str, Any], near: type | tuple[type, ...], where: str = "", key: str = KIND) -> Any:
    """What `described` wrote, a `near` or a class below it. Raises CinelabError where the class is not there."""
    kind, allowed = values[key], near if isinstance(near, tuple) else (near,)
    near = allowed[-1]
    cls = resolve(kind) if ":" in str(kind) else getattr(sys.modules[near.__module__], str(kind), None)
    if not (isinstance(cls, type) and issubclass(cls, allowed) and dataclasses.is_dataclass(cls)):
        raise CinelabError(f"{where or near.__name__} is of kind {kind!r}, which is no {near.__name__}; give the import path "
                           f"of one, such as my_module:My{near.__name__}.")
    return from_dict(cls, {name: value for name, value in values.items() if name != key}, where and f"{where}.")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from plain values. Unknown keys and wrong types are refused by name."""
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in values:
        if key not in names:
            raise CinelabError(unknown(f"{where}{key}", names, key))
    return cls(**{key: _part(cls, hints[key], key, value, f"{where}{key}") for key, value in values.items()})


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
            new[head] = _part(type(config), get_type_hints(type(config))[head], head, value, f"{where}{path}")
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


def _part(cls: type, hint: Any, name: str, value: Any, path: str) -> Any:
    """A field's value. A dictionary makes the class that it names, else the one that the field has by default."""
    kinds = _options(hint)
    if isinstance(value, Mapping) and kinds:
        if KIND in value and not any(KIND in names_of(kind) for kind in kinds):
            return from_kind(value, tuple(kinds), path)
        usual = _usual(cls, cls.__dataclass_fields__[name])
        return from_dict(usual[0], value, f"{path}.") if len(usual) == 1 else _coerce(hint, value, path)
    return _coerce(hint, value, path)


def names_of(cls: type) -> list[str]:
    """The names of a dataclass' fields."""
    return [field.name for field in dataclasses.fields(cls)]


def _coerce(hint: Any, value: Any, path: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return _coerce_union(hint, value, path)
    if dataclasses.is_dataclass(hint):
        return _config(hint, value, path)
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        kinds = [inner[0]] * len(value) if Ellipsis in inner else list(inner)
        return tuple(_coerce(kind, item, path) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise CinelabError(f"Setting {path!r} is {value!r}, but a {hint.__name__} is wanted; change its type.")
    return value


def _config(hint: type[T], value: Any, path: str) -> T:
    """A dataclass as it is, of its settings, or of a name where its class knows names (`of_name`)."""
    if isinstance(value, hint):
        return value
    if isinstance(value, str) and hasattr(hint, "of_name"):
        return hint.of_name(value)
    if not isinstance(value, Mapping):
        raise CinelabError(f"Setting {path!r} is {value!r:.80}, but a {hint.__name__} or its settings are wanted; "
                           f"give {path}: {{...}} or an object.")
    return from_dict(hint, value, f"{path}.")


def _coerce_union(hint: Any, value: Any, path: str) -> Any:
    for option in get_args(hint):
        try:
            return None if option is type(None) and value is None else _coerce(option, value, path)
        except (CinelabError, TypeError):
            continue
    raise CinelabError(f"Setting {path!r} is {value!r}, which is none of {hint}; change its type.")
