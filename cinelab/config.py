"""Settings as frozen dataclasses: to and from plain dictionaries, dotted overrides, clear refusals.

Every default stands in exactly one dataclass. Unknown keys are answered with the known ones.

A part may be of another class than its field has by default: a policy of one's own in place of
CAMR. Its dictionary then says so by `kind`: an import path, or the bare name of a class of the same
module.
"""

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from cinelab.errors import CinelabError
from cinelab.limits import WHOLE, check_range, short, shown_path
from cinelab.registry import path_of, resolve
from cinelab.texts import RECORD, Kind, read_json

T = TypeVar("T")
KIND = "kind"  # the key of a part's class


def to_dict(config: Any) -> dict:
    """A dataclass (nested) as plain JSON types; tuples become lists. See the head of the file for
    `kind`."""
    try:
        return json.loads(json.dumps(_values(config)))
    except (TypeError, ValueError) as error:
        raise CinelabError(
            f"{type(config).__name__} cannot be written down ({error}); keep its fields to "
            "numbers, texts, true or false, and lists of these."
        ) from error


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
    """The classes that a field's part has where none is stated: its default's, else those of its
    type."""
    default = (
        field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    )
    if _is_config(default):
        return [type(default)]
    return _options(get_type_hints(cls)[field.name])


def _options(hint: Any) -> list[type]:
    """The dataclasses that a type allows."""
    many = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [one for one in many if isinstance(one, type) and dataclasses.is_dataclass(one)]


def kind_of(cls: type, near: type) -> str:
    """What `kind` says of a class: its name beside `near`, else its import path."""
    return cls.__qualname__ if cls.__module__ == near.__module__ else path_of(cls)


def to_kind(value: Any, near: type | None = None, key: str = KIND) -> dict:
    """A dataclass as a dictionary that says its class too; `from_kind` makes it again."""
    return {key: kind_of(type(value), near or type(None))} | to_dict(value)


def from_kind(
    values: Mapping[str, Any], near: type | tuple[type, ...], where: str = "", key: str = KIND
) -> Any:
    """What `to_kind` wrote, a `near` or a class below it. Raises CinelabError where the class is
    not there."""
    kind = values[key]
    allowed = near if isinstance(near, tuple) else (near,)
    near = allowed[-1]
    cls = None
    if isinstance(kind, str):
        cls = resolve(kind) if ":" in kind else getattr(sys.modules[near.__module__], kind, None)
    if not (isinstance(cls, type) and issubclass(cls, allowed) and dataclasses.is_dataclass(cls)):
        raise CinelabError(
            f"{where or near.__name__} is of kind {short(kind)}, which is no {near.__name__}; give "
            f"the import path of one, such as my_module:My{near.__name__}."
        )
    return from_dict(
        cls, {name: value for name, value in values.items() if name != key}, where and f"{where}."
    )


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from plain values. Unknown and missing keys, wrong types, lengths and numbers are
    refused by name."""
    if not isinstance(values, Mapping):
        what = where.rstrip(".") or cls.__name__
        raise CinelabError(
            f"Setting {what!r} is {short(values)}; give a mapping of {', '.join(_names(cls))}."
        )
    hints = get_type_hints(cls)
    names = _names(cls)
    values = renamed(cls, values)
    for key in values:
        if key not in names:
            raise CinelabError(unknown(f"{where}{key}", names, str(key)))
    if absent := [
        field.name
        for field in fields_of(cls)
        if field.init and _needed(field) and field.name not in values
    ]:
        raise CinelabError(
            f"Setting {where + absent[0]!r} is missing; {cls.__name__} needs {', '.join(absent)}."
        )
    return cls(
        **{
            key: _part(cls, hints[key], key, value, f"{where}{key}")
            for key, value in values.items()
        }
    )


def fields_of(cls: Any) -> tuple[dataclasses.Field, ...]:
    """Return the fields of a dataclass, or of an object of one."""
    return dataclasses.fields(cls)


def former_names(cls: type) -> dict[str, str]:
    """Return today's name of every field that had another one: metadata `{"was": "old name"}`."""
    return {
        one.metadata["was"]: one.name for one in dataclasses.fields(cls) if "was" in one.metadata
    }


def renamed(cls: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return values of `cls` under today's names of its fields, so that older files go on
    working."""
    was = former_names(cls)
    return {was.get(key, key): value for key, value in values.items()} if was else values


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def override(config: T, changes: Mapping[str, Any], where: str = "") -> T:
    """`config` with dotted changes, e.g. {"optim.lr": 1e-3}; the type of each field is kept. All
    are made at once, so that only what they make together must be free of contradictions.

    A part that is None begins with the defaults of its class.
    A part that leaves fields unsaid (it has `filled`, as Sampling has) takes them from the part
    whose place it takes; a class whose fields depend on each other says by `altered(changes)` what
    a change of some means for the others.
    """
    names = [field.name for field in fields_of(config)] if dataclasses.is_dataclass(config) else []
    new: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    was = former_names(type(config)) if names else {}
    for path, value in changes.items():
        head, _, rest = str(path).partition(".")
        head = was.get(head, head)
        if head not in names:
            raise CinelabError(unknown(f"{where}{path}", names, head))
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            part = _part(
                type(config), get_type_hints(type(config))[head], head, value, f"{where}{path}"
            )
            old = getattr(config, head)
            new[head] = (
                part.filled(old) if hasattr(part, "filled") and type(part) is type(old) else part
            )
    for head, deeper in inner.items():
        part = new.get(head, getattr(config, head))
        options = _options(get_type_hints(type(config))[head])
        if part is None and options:
            new[head] = from_dict(options[0], deeper, f"{where}{head}.")
        else:
            new[head] = override(part, deeper, f"{where}{head}.")
    whole: Any = config
    return whole.altered(new) if hasattr(whole, "altered") else dataclasses.replace(whole, **new)


def unknown(path: str, known: list[str], key: str) -> str:
    """The sentence for a name nobody knows: nearest first, else all."""
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
    return f"Unknown setting {path!r}: {hint}"


def read_mapping(path: str | Path, kind: Kind = RECORD, /, **wanted: Any) -> dict:
    """Return a JSON file's mapping in which the `wanted` keys stand, each of its type, beside
    whatever else stands there.

    A key whose type allows None may be absent, and is where null stands. A file of another shape is
    a CinelabError that names it and the key.
    """
    return mapping(read_json(path, kind), path, kind.remedy, **wanted)


def mapping(values: Any, where: str | Path, remedy: str = RECORD.remedy, /, **wanted: Any) -> dict:
    """Return `values`, read from `where`, if they are a mapping with the `wanted` keys (see
    `read_mapping`)."""
    what = shown_path(where)
    if not isinstance(values, dict):
        raise CinelabError(
            f"{what} holds {_kind(values)}, but a mapping {of_names(wanted)}is expected; {remedy}."
        )
    found = dict(values)
    for key, hint in wanted.items():
        if key not in values and not _allows_none(hint):
            raise CinelabError(f"{what} lacks {key!r}; {remedy}.")
        if values.get(key) is None and _allows_none(hint):
            found.pop(key, None)
            continue
        try:
            found[key] = _coerce(hint, values[key], key)
        except CinelabError as error:
            raise CinelabError(
                f"{what}: {str(error).removesuffix('; change it.')}; {remedy}."
            ) from None
    return found


def _kind(value: Any) -> str:
    """What a value is, in a sentence."""
    return {list: "a list", type(None): "null"}.get(type(value)) or short(value)


def of_names(wanted: Mapping[str, Any]) -> str:
    """The names of the wanted keys, in a sentence."""
    return f"of {', '.join(wanted)} " if wanted else ""


def _allows_none(hint: Any) -> bool:
    return hint is Any or type(None) in get_args(hint)


def read_as(cls: type[T], path: str | Path, kind: Kind = RECORD) -> T:
    """Return the dataclass `cls` from a JSON file. What does not fit is a CinelabError that names
    file and field."""
    try:
        return from_dict(cls, read_json(path, kind))
    except CinelabError as error:
        message = str(error)
        raise (
            error
            if message.startswith(shown_path(path))
            else CinelabError(f"{shown_path(path)}: {message}")
        ) from error


def _part(cls: type, hint: Any, name: str, value: Any, path: str) -> Any:
    """A field's value. A dictionary makes the class that it names, else the one that the field has
    by default."""
    kinds = _options(hint)
    if isinstance(value, Mapping) and kinds:
        if KIND in value and not any(KIND in field_names(kind) for kind in kinds):
            return from_kind(value, tuple(kinds), path)
        usual = _usual(cls, next(field for field in fields_of(cls) if field.name == name))
        return (
            from_dict(usual[0], value, f"{path}.")
            if len(usual) == 1
            else _coerce(hint, value, path)
        )
    return _coerce(hint, value, path)


def field_names(cls: type) -> list[str]:
    """The names of a dataclass' fields."""
    return [field.name for field in dataclasses.fields(cls)]


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type of a field: what it cannot be is refused with the field's dotted name."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return _coerce_union(hint, value, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _config(hint, value, path)
    if origin is Literal:
        return (
            value
            if value in get_args(hint)
            else _refuse(path, value, f"one of {', '.join(map(str, get_args(hint)))} is wanted")
        )
    if origin in (tuple, list):
        return origin(_coerce_items(hint, value, path))
    if origin in (dict, Mapping):
        return _coerce_mapping(hint, value, path)
    return _coerce_plain(hint, value, path)


def _coerce_mapping(hint: Any, value: Any, path: str) -> Mapping:
    if not isinstance(value, Mapping):
        return _refuse(path, value, "a mapping of names and values is wanted")
    kinds = get_args(hint)
    return (
        {key: _coerce(kinds[1], item, f"{path}.{key}") for key, item in value.items()}
        if kinds
        else value
    )


def _coerce_items(hint: Any, value: Any, path: str) -> list:
    inner = get_args(hint)
    open_ended = not inner or Ellipsis in inner or get_origin(hint) is list
    wanted = "a list" if open_ended else f"a list of {len(inner)} values"
    if not isinstance(value, (list, tuple)) or not (open_ended or len(value) == len(inner)):
        return _refuse(path, value, f"{wanted} is wanted")
    kinds = [inner[0] if inner else Any] * len(value) if open_ended else inner
    return [
        _coerce(kind, item, f"{path}[{place}]")
        for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]


def _coerce_plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < WHOLE else value
    if hint in (int, float, str, bool) and type(value) is not hint:
        return _refuse(path, value, f"a {hint.__name__} is wanted")
    if hint is float and not isfinite(value):
        return _refuse(path, value, "a finite number is wanted")
    if hint is int and abs(value) >= WHOLE:
        return _refuse(path, value, "a whole number below 2**63 is wanted")
    if hint in (int, float):
        check_range(path.rpartition(".")[2].partition("[")[0], value, path)
    return value


def _config(hint: Any, value: Any, path: str) -> Any:
    """A dataclass as it is, of its settings, or of a name where its class knows names
    (`of_name`)."""
    if isinstance(value, hint):
        return value
    if isinstance(value, str) and hasattr(hint, "of_name"):
        return hint.of_name(value)
    if not isinstance(value, Mapping):
        raise CinelabError(
            f"Setting {path!r} is {value!r:.80}, but a {hint.__name__} or its settings are wanted; "
            f"give {path}: {{...}} or an object."
        )
    return from_dict(hint, value, f"{path}.")


def _coerce_union(hint: Any, value: Any, path: str) -> Any:
    """The first of the alternatives that takes the value; None only where it is one of them."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if value is None and len(options) < len(get_args(hint)):
        return None
    if len(options) == 1:
        return _coerce(options[0], value, path)
    for option in options:
        with suppress(CinelabError, TypeError):
            return _coerce(option, value, path)
    return _refuse(
        path,
        value,
        f"{' or '.join(getattr(option, '__name__', str(option)) for option in options)} is wanted",
    )


def _refuse(path: str, value: Any, wanted: str) -> NoReturn:
    raise CinelabError(f"Setting {path!r} is {short(value)}, but {wanted}; change it.")
