"""Names for things that users add: policies, metrics, losses, rewards, solvers, training stages,
backbones, codecs, worlds.

    from cinelab import register

    @register.policy("last_of_shots")
    class LastOfShots(Policy): ...

A registered name is known in the process that registered it. Another process (a cell of a sweep,
the command line, a resumed session) finds the same thing in one of two ways:

    "my_things:LastOfShots"    the import path of a class or function works wherever a name works
    CINELAB_IMPORT=my_things   these modules (with commas) are imported first, so that the names
                               that they register are known; `cinelab --import my_things` sets it

Modules are looked for as Python does, then in the folder where the command was started.
"""

import os
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module, invalidate_caches
from typing import Any

from cinelab.errors import CinelabError

IMPORT = "CINELAB_IMPORT"  # modules that register names, with commas
FOLDERS = "CINELAB_PATH"  # folders in which they are looked for after Python's own path
HOMES = {
    "policy": "cinelab.memory.policy_registry:POLICIES",
    "solver": "cinelab.flow.sampler:SOLVERS",
    "metric": "cinelab.metrics.metric:METRICS",
    "loss": "cinelab.train.losses:LOSSES",
    "reward": "cinelab.train.rewards:REWARDS",
    "stage": "cinelab.train.stage:STAGES",
    "backbone": "cinelab.model.backbone:BACKBONES",
    "codec": "cinelab.latent.codecs:CODECS",
    "world": "cinelab.world.worlds:WORLDS",
}
_imported: set[str] = set()


class Registry:
    """Names of one kind and what they stand for. Built-in ones are added by the module that holds
    it, and by the `builtin` modules, which are imported when a name is first looked up."""

    def __init__(self, kind: str, builtin: tuple[str, ...] = ()):
        self.kind = kind
        self._builtin = builtin
        self._things: dict[str, Any] = {}

    def add(self, name: str, thing: Any = None) -> Any:
        """Give `thing` a name and return it; without a thing this is a decorator.

        A taken name is refused, unless the same class or function is registered again, as when a
        notebook cell is run twice: then the newer definition counts.
        """
        if thing is None:
            return lambda thing: self.add(name, thing)
        self._check(name, thing)
        self._things[name] = thing
        return thing

    def _check(self, name: str, thing: Any) -> None:
        if not isinstance(name, str) or not name.strip() or ":" in name:
            raise CinelabError(
                f"The {self.kind}'s name is {name!r}; give a text without a colon, "
                "which is for import paths."
            )
        if not callable(thing):
            raise CinelabError(
                f"The {self.kind} {name!r} is {thing!r:.60}; register a class or a function."
            )
        if name in self._things and self.origin(thing) != (
            there := self.origin(self._things[name])
        ):
            raise CinelabError(
                f"The {self.kind} {name!r} is there already ({there}); register "
                f"{self.origin(thing)} under another name."
            )

    def origin(self, thing: Any) -> str:
        """What tells whether two things are the same one, defined twice."""
        return path_of(thing)

    def get(self, name: str) -> Any:
        """What a name or an import path stands for. An unknown one is refused with the nearest
        known."""
        if not isinstance(name, str):
            raise CinelabError(
                f"{self.kind} is {name!r:.60}; give a name: {', '.join(self.names())}."
            )
        if ":" in name:
            return resolve(name)
        self._import()
        if name not in self._things:
            raise CinelabError(self._unknown(name))
        return self._things[name]

    def _unknown(self, name: str) -> str:
        if not self._things:
            return f"{self.kind} is {name!r}; none is registered, so give an import path."
        near = get_close_matches(name, self._things, n=1)
        hint = f"did you mean {near[0]!r}? Known are" if near else "use one of"
        return (
            f"{self.kind} is {name!r}; {hint} {', '.join(self._things)}, or the import path of "
            "your "
            "own, such as my_module:MyOwn."
        )

    def name_of(self, thing: Any) -> str:
        """The name that a thing was registered under, else its import path."""
        return next((name for name, one in self._things.items() if one is thing), None) or path_of(
            thing
        )

    def names(self) -> list[str]:
        """Every known name, in the order in which they were added."""
        self._import()
        return list(self._things)

    def _import(self) -> None:
        """Import what adds names: the built-in modules and those of the environment."""
        for module in self._builtin:
            import_module(module)
        import_named()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()


class Register:
    """`register.policy(name)` and so on: decorators that add to the registries, which are opened
    when first used."""

    def __getattr__(self, kind: str) -> Callable:
        if kind not in HOMES:
            raise AttributeError(f"register has no {kind!r}; it takes {', '.join(HOMES)}")
        return resolve(HOMES[kind]).add

    def __dir__(self) -> list[str]:
        return list(HOMES)


register = Register()


def path_of(thing: Any) -> str:
    """The import path of a class or function: "package.module:Name"."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}:{kind.__qualname__}"


def resolve(path: str) -> Any:
    """What stands at "package.module:Name". Raises CinelabError where there is no such thing."""
    module, _, name = path.partition(":")
    found = _module(module, path)
    for part in name.split("."):
        if not part or not hasattr(found, part):
            raise CinelabError(
                f"{path!r} cannot be found: {module} has no {name!r}. " + _remedy(module, name)
            )
        found = getattr(found, part)
    return found


def _remedy(module: str, name: str) -> str:
    if module == "__main__":
        return f"Run the cell that defines {name} first, or move it to a module of its own."
    return "Correct the name, or define it there."


def _module(name: str, path: str) -> Any:
    if not all(part.isidentifier() for part in name.split(".")):
        raise CinelabError(f"{path!r} is no import path; write package.module:Name.")
    for folder in [*os.environ.get(FOLDERS, "").split(os.pathsep), os.getcwd()]:
        if folder and folder not in sys.path:
            sys.path.append(folder)  # behind all others, so that nothing is hidden by it
    invalidate_caches()  # the file may have been written a moment ago
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise CinelabError(
            f"{path!r} cannot be found: there is no module {error.name!r} in {os.getcwd()} or "
            "on Python's path; go to its folder, or correct the name."
        ) from error
    except CinelabError:
        raise
    except Exception as error:
        raise CinelabError(
            f"{path!r} cannot be found: its module fails with {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct {name}."
        ) from error


def import_named() -> None:
    """Import the modules that CINELAB_IMPORT names, each once a process."""
    for name in os.environ.get(IMPORT, "").split(","):
        if (name := name.strip()) and name not in _imported:
            _imported.add(name)  # before: it asks the registries itself
            try:
                _module(name, name)
            except CinelabError:
                _imported.discard(name)
                raise


def elsewhere(environment: dict[str, str]) -> dict[str, str]:
    """What a process that works in another folder must have in its environment to find the same
    modules."""
    folders = [folder for folder in environment.get(FOLDERS, "").split(os.pathsep) if folder]
    return {FOLDERS: os.pathsep.join(dict.fromkeys([*folders, os.getcwd()]))}
