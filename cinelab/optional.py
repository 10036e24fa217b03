"""Packages that only a part of cinelab needs: each belongs to an extra of pyproject.toml.

    av = need("av", extra="lab", what="Writing film.mp4")

`import cinelab`, `load` and `Director.render` work without any of them.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from cinelab.errors import CinelabError

# import name -> the extra that brings it; of several, the one that most commands need
EXTRA_OF = {
    "IPython": "lab",
    "anywidget": "lab",
    "comm": "lab",
    "ipykernel": "lab",
    "ipywidgets": "lab",
    "jupyterlab": "lab",
    "matplotlib": "lab",
    "nbclient": "lab",
    "nbformat": "lab",
    "papermill": "lab",
    "plotly": "lab",
    "tornado": "lab",
    "traitlets": "lab",
    "av": "lab",
    "cv2": "lab",
    "duckdb": "lab",
    "pyarrow": "lab",
    "scenedetect": "lab",
    "diffusers": "wan",
    "peft": "wan",
    "transformers": "wan",
    "submitit": "cluster",
    "torchao": "fp8",
}


class MissingExtra(CinelabError):
    """A package of an extra is not installed."""


def need(module: str, *, extra: str, what: str) -> ModuleType:
    """Import and return a module of an extra.

    Args:
        module: its import name, such as "av".
        extra: the extra that brings it, such as "lab".
        what: what needs it; the message begins with it.

    Raises:
        MissingExtra: it is not installed. A module that is installed and fails to import another
            one raises that error, since no extra would help.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtra(_sentence(what, error.name, extra)) from error


class Later:
    """A module of an extra that is imported when something of it is first used, and then refused
    in one sentence where it is not installed: so that what does not need it works without."""

    def __init__(self, module: str, *, extra: str, what: str):
        """Arguments as in `need`."""
        self._given = {"module": module, "extra": extra, "what": what}

    def __getattr__(self, name: str) -> Any:
        return getattr(need(**self._given), name)


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the sentence for an import that failed for want of an extra, None for any other."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    return _sentence("This", package, extra) if extra else None


def _sentence(what: str, package: str, extra: str) -> str:
    return f"{what} needs {package}, which is not installed; run `pip install 'cinelab[{extra}]'`."
