"""The build step that pyproject.toml cannot express: a wheel carries the files of the repository's
root that the package needs (cinelab/assets.py), as cinelab/_assets."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ASSETS = (
    "notebooks/*.ipynb",
    "experiments/**/*.yaml",
    "experiments/**/*.json",
    "results/README.md",
    "results/reference/**/*",
    "environment*.yml",
    "constraints.txt",
)


class BuildWithAssets(build_py):
    """Copy the assets beside the modules, except in an editable install, which reads them where
    they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            packed = Path(self.build_lib, "cinelab", "_assets")
            shutil.rmtree(packed, ignore_errors=True)  # a build folder may be an older build's
            for name in asset_names():
                target = packed / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)


def asset_names() -> list[str]:
    """Return the assets' paths below the repository's root, sorted."""
    found = {path for pattern in ASSETS for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


setup(cmdclass={"build_py": BuildWithAssets})
