"""What version 0.1 called otherwise goes on working, or says in one sentence what it is called."""

import ast
import importlib
import json
import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from cinelab import renamed

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cinelab"
# module -> its public classes and functions, as of version 0.1
OLD = json.loads((Path(__file__).parent / "golden" / "public_names_0_1.json").read_text())


def path_of(module: str) -> Path | None:
    stem = PACKAGE / module.replace(".", "/")
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()), None)


def names_of(module: str) -> set[str]:
    """The names at the top level of a module's source."""
    found = set()
    for node in ast.parse(path_of(module).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return found


def fresh(code: str, *options: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_every_module_of_version_0_1_is_there_or_has_a_new_name():
    lost = [old for old in OLD if not path_of(old) and not path_of(renamed.MODULES.get(old, old))]
    assert lost == [], "add them to cinelab/renamed.py"


def test_the_table_of_modules_leads_from_what_is_gone_to_what_is_there():
    assert [old for old in renamed.MODULES if path_of(old)] == []
    assert [new for new in renamed.MODULES.values() if not path_of(new)] == []


def test_every_public_name_of_version_0_1_is_there_or_has_a_new_name():
    lost = []
    for old, names in OLD.items():
        module = renamed.MODULES.get(old, old)
        known = names_of(module) | set(renamed.NAMES.get(module, ()))
        lost += [f"{module}.{name} (in {old})" for name in names if name not in known]
    assert lost == [], "add them to cinelab/renamed.py"


def test_the_table_of_names_leads_from_what_is_gone_to_what_is_there():
    for module, names in renamed.NAMES.items():
        for old, new in names.items():
            home, _, leaf = new.rpartition(".")
            assert path_of(module), module
            assert leaf in names_of(home or module), f"{module}.{old} -> {new}"
            assert old not in names_of(module), f"{module}.{old} is there"


def test_an_old_module_is_the_new_one():
    with pytest.warns(FutureWarning, match="^cinelab.model.zoo is cinelab.zoo.checkpoints now"):
        sys.modules.pop("cinelab.model.zoo", None)
        old = importlib.import_module("cinelab.model.zoo")
    new = importlib.import_module("cinelab.zoo.checkpoints")
    assert old is new and new.__spec__.name == new.__name__ == "cinelab.zoo.checkpoints"


def test_an_old_module_can_be_imported_from_its_package():
    done = fresh("from cinelab.score import rows; print(rows.__name__)", "-W", "ignore")
    assert done.stdout == "cinelab.metrics.rows\n", done.stderr


def test_no_module_is_loaded_twice_through_an_old_package():
    done = fresh("import cinelab.score.metric, sys; print('cinelab.metrics.metric' in sys.modules)")
    assert done.stdout.strip() in ("True", "") and "cinelab/metrics" not in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("cinelab.score.no_such_module")


def test_an_old_module_can_be_run():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    old, new = (
        subprocess.run([sys.executable, "-m", name, "-h"], env=env, capture_output=True, text=True)
        for name in ("cinelab.train.worker", "cinelab.jobs.worker")
    )
    assert old.returncode == new.returncode and old.stdout == new.stdout
    assert "cinelab.train.worker is cinelab.jobs.worker now." in old.stderr


def test_a_renamed_class_says_its_name():
    with pytest.raises(ImportError, match="^cinelab.memory.cache.Memory is called KVCache now"):
        from cinelab.memory.cache import Memory  # noqa: F401


def test_a_moved_name_of_other_arguments_is_no_alias():
    with pytest.raises(ImportError, match="is cinelab.flow.rollout.denoise now, with other arg"):
        from cinelab.flow.sampler import denoise  # noqa: F401
    assert all(set(names) <= set(renamed.NAMES[one]) for one, names in renamed.CHANGED.items())


def test_a_moved_name_works_and_says_where_it_is():
    with pytest.warns(FutureWarning, match="desk is cinelab.lab.desk.widget.desk now"):
        from cinelab.lab.desk import desk
    from cinelab.lab.desk.widget import desk as moved

    assert desk is moved


def test_a_name_that_never_was_is_none():
    import cinelab.memory.cache as module

    assert not hasattr(module, "never_was")
    assert find_spec("cinelab.memory.never_was") is None
