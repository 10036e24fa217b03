"""How objects show themselves: what they hold by name, arrays by their size, on lines that fit.

    class Bundle(Readable): ...      # a dataclass; its repr, and in notebooks a table
    return Made(folder)              # a path, in notebooks a link to it or to the files in it

An array is "uint8 (43, 48, 64, 3)", a table "12 rows of chunk, text", a network its class and how
many weights it has.
"""

import dataclasses
import html
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

WIDTH = 100  # characters of a line, where parts can be put on lines of their own
LONGEST = 120  # characters of a value that is shown whole
MOST = 12  # values of a list or mapping that are shown


# paths of this system: `Path` itself cannot be derived from before Python 3.12
_OwnPath: Any = type(Path())


class Readable:
    """A dataclass with a repr to be read; a class is given it before the dataclass makes one."""

    def __init_subclass__(cls, **more: Any):
        super().__init_subclass__(**more)
        if "__repr__" not in vars(cls):
            setattr(cls, "__repr__", _own_repr)  # noqa: B010, a method is no plain attribute

    def _repr_html_(self) -> str:
        cells = ((html.escape(name), html.escape(text)) for name, text in _flat(self))
        rows = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in cells)
        return f"<b>{html.escape(type(self).__name__)}</b><table>{rows}</table>"


class Made(_OwnPath):
    """A path of something that was made; in a notebook a link that JupyterLab opens below its
    root."""

    def __repr__(self) -> str:
        return f"Made({str(self)!r})"

    def _repr_html_(self) -> str:
        if not self.is_dir():
            return _link(self, str(self))
        shown = (one for one in self.iterdir() if not one.name.startswith("."))
        files = sorted(one for one in shown if one.is_file())
        more = f" and {len(files) - MOST} more" if len(files) > MOST else ""
        links = ", ".join(_link(one, one.name) for one in files[:MOST])
        return f"{html.escape(str(self))}: {links or 'no files'}{more}"


def _link(path: Path, text: str) -> str:
    """Relative to where the notebook runs: JupyterLab knows nothing of the disk beyond its root."""
    where = quote(os.path.relpath(path).replace(os.sep, "/"))
    return f'<a href="{html.escape(where)}" target="_blank">{html.escape(text)}</a>'


def _own_repr(self: Any) -> str:
    return readable(self)


def readable(value: Any, indent: str = "", taken: int = 0) -> str:
    """A value as text; `taken` characters of its first line stand before it.

    A dataclass is on one line if that fits, else its fields follow on lines, as many on each as
    fit.
    """
    if not _is_part(value):
        return brief_text(value)
    deeper = f"{indent}    "
    parts = [f"{name}={readable(part, deeper, len(name) + 2)}" for name, part in _fields(value)]
    line = f"{type(value).__name__}({', '.join(parts)})"
    if len(indent) + taken + len(line) <= WIDTH and "\n" not in line:
        return line
    lines = [""]
    for part in parts:
        together = f"{lines[-1]} {part}," if lines[-1] else f"{part},"
        if lines[-1] and (len(deeper) + len(together) > WIDTH or "\n" in together):
            lines.append(f"{part},")
        else:
            lines[-1] = together
    inner = "".join(f"{deeper}{line}\n" for line in lines)
    return f"{type(value).__name__}(\n{inner}{indent})"


def _flat(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of everything that a dataclass holds."""
    for name, part in _fields(value):
        if _is_part(part) and _fields(part):
            yield f"{where}{name}", type(part).__name__
            yield from _flat(part, f"{where}{name}.")
        else:
            yield f"{where}{name}", readable(part)


def _is_part(value: Any) -> bool:
    """A dataclass that has no repr of its own making."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    made = f"{type(value).__qualname__}.__repr__" == type(value).__repr__.__qualname__
    return isinstance(value, Readable) or (getattr(value, "__dataclass_params__").repr and made)  # noqa: B009


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value) if one.repr]


def brief_text(value: Any) -> str:
    """Anything that may be large by what it is: arrays, tables, networks, long lists and texts."""
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        return f"{len(value)} rows of {_listed(map(str, value.columns))}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "state_dict") and hasattr(value, "parameters"):
        count = sum(one.numel() for one in value.parameters())
        return f"{type(value).__name__} of {count:,} weights"
    if isinstance(value, (list, tuple, Mapping, set, frozenset)):
        return _several(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = f"{value:.6g}" if isinstance(value, float) and len(repr(value)) > 12 else repr(value)
    if text.startswith("<") and " object at 0x" in text:  # one that says nothing of itself
        return type(value).__name__
    if len(text) <= LONGEST and "\n" not in text:
        return text
    return f"{' '.join(text.split())[: LONGEST - 3]}..."


def _several(values: Any) -> str:
    """A list or mapping with its values, or how many there are."""
    if len(values) <= MOST and len(text := _written(values)) <= LONGEST:
        return text
    kinds = sorted({type(value).__name__ for value in values})
    return f"{type(values).__name__} of {len(values)} ({_listed(kinds)})"


def _written(values: Any) -> str:
    """A list or mapping in brackets of its kind."""
    if isinstance(values, Mapping):
        pairs = (f"{brief_text(key)}: {brief_text(part)}" for key, part in values.items())
        return f"{{{', '.join(pairs)}}}"
    inner = ", ".join(map(brief_text, values))
    if isinstance(values, tuple):
        return f"({inner},)" if len(values) == 1 else f"({inner})"
    return f"[{inner}]" if isinstance(values, list) else f"{{{inner}}}"


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
