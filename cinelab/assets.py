"""Files that go with the package: notebooks, experiments, environment lists, reference results.

A checkout has them at its root. A wheel carries the same files as `cinelab/_assets`, where setup.py
puts them when it is built; the repository holds no second copy.
"""

from pathlib import Path

from cinelab.errors import CinelabError

PACKAGE = Path(__file__).parent
PACKED = PACKAGE / "_assets"


def assets_root() -> Path:
    """Return the folder of the files that go with the package: `cinelab/_assets` of a wheel, else
    the root of the checkout."""
    return PACKED if PACKED.is_dir() else PACKAGE.parent


def is_checkout() -> bool:
    """Whether the package is imported from a checkout of the repository."""
    return not PACKED.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file()


def asset(name: str) -> Path:
    """Return the path of a file or folder that goes with the package.

    Args:
        name: path below the root, with forward slashes, such as "notebooks/00_first_film.ipynb".

    Raises:
        CinelabError: the file is not there.
    """
    path = assets_root() / name
    if not path.exists():
        raise CinelabError(
            f"{name} is expected in {assets_root()} and is not there; install cinelab again, or "
            "check the repository out in full."
        )
    return path


def local_or_asset(name: str) -> Path:
    """Return `name` in the current folder where it is there, else the one that goes with the
    package: what a user has changed comes first. Raises CinelabError where neither is there."""
    local = Path(name)
    return local if local.exists() else asset(name)
