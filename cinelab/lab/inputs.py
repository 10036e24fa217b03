"""A notebook's inputs, checked before any work is done: each wrong input is one sentence with its
remedy.

    check(model=model, policy=policy, screenplay=screenplay)

stands in the first cell after the parameters.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import policy_named
from cinelab.metrics.external.vbench_files import DIMENSIONS
from cinelab.metrics.video.alignment import check_backends
from cinelab.script.screenplay import Screenplay
from cinelab.zoo import checkpoints as zoo


def check(**inputs: Any) -> None:
    """Refuse the first input that is not there or not of its kind. None is not checked; lists are
    checked value by value.

    Known are the names of parameters in KINDS. Raises CinelabError, which names the parameter.
    """
    for name, value in inputs.items():
        check_value = KINDS[name]
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None:
                _check_named(name, one, check_value)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value of parameter `name` that is none of the `choices`."""
    known = list(choices)
    if value not in known:
        raise CinelabError(f"{name} is {value!r}; use one of {', '.join(map(str, known))}.")


def _check_named(name: str, value: Any, check_value: Callable[[Any], None]) -> None:
    try:
        check_value(value)
    except CinelabError as error:
        named = str(error).startswith(f"{name} ")
        raise error if named else CinelabError(f"{name}: {error}") from error


def a_checkpoint(name: str | Path) -> None:
    """A shipped name or a folder of the toybox's kind, whose config can be read."""
    read_mapping(zoo.find(name) / zoo.CONFIG)


def a_model(name: str | Path) -> None:
    """A checkpoint, or a folder of Wan's kind."""
    if not zoo.is_wan(Path(name)):
        a_checkpoint(name)


def a_file(path: str | Path) -> None:
    """A file that is there."""
    if not Path(path).is_file():
        raise CinelabError(
            f"{path} is no file here{_near(Path(path))}; paths count from the notebook's folder, "
            f"{Path.cwd()}."
        )


def a_path(path: str | Path) -> None:
    """A file or folder that is there."""
    if not Path(path).exists():
        raise CinelabError(
            f"{path} is not here{_near(Path(path))}; paths count from the notebook's folder, "
            f"{Path.cwd()}."
        )


def a_screenplay(path: str | Path) -> None:
    """A screenplay that can be read."""
    a_file(path)
    Screenplay.load(path)


def a_policy(policy: str | Policy) -> None:
    """The name of a memory policy, or an own policy."""
    if isinstance(policy, str):
        policy_named(policy, 6)


def a_backend(name: str) -> None:
    """A backend that measures alignment and consistency."""
    check_backends([name])


def a_dimension(name: str) -> None:
    """A dimension of VBench."""
    if name not in DIMENSIONS:
        raise CinelabError(
            f"VBench has no dimension {name!r}; use some of {', '.join(DIMENSIONS)}."
        )


def a_sweep(folder: str | Path) -> None:
    """Results folders of a sweep, `a+b` for two, with a measured cell in each."""
    for one in map(Path, str(folder).split("+")):
        if not any(one.glob("*/rows.parquet")):
            raise CinelabError(
                f"{one} holds no measured cell; run `cinelab sweep experiments/{one.name}.yaml` "
                "first, or name the results folder of a sweep that was run."
            )


def _near(path: Path) -> str:
    """Return the files of a similar name in the same folder."""
    there = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, there, n=2)
    return f" (there is {' and '.join(near)})" if near else ""


KINDS: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(("init", "teacher", "real", "blend_with", "checkpoints"), a_checkpoint),
    **dict.fromkeys(("sweep", "sweeps", "also"), a_sweep),
    **dict.fromkeys(("videos", "weights", "folder"), a_path),
    "backends": a_backend,
    "vbench": a_dimension,
    "model": a_model,
    "first": a_file,
    "policy": a_policy,
    "policies": a_policy,
    "screenplay": a_screenplay,
}
