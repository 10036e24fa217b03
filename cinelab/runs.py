"""A run is a directory of files, written atomically: config.json, log.jsonl, checkpoints/, done.json.

Starting the same run again resumes it from its last checkpoint; a finished one says so.
"""

import os
import platform
import time
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from cinelab.config import mapping, read_mapping, to_dict
from cinelab.errors import CinelabError
from cinelab.files import append_line, read_lines, to_json, write_atomic, write_json, write_text
from cinelab.limits import short

DATA = dict[str, Any] | None  # what a run says of its data
MAY_CHANGE = ("steps", "save_every", "exam_every", "threads", "device")  # settings a resumed run may change
MAY_TUNE = ("optim", "critic")  # these too, after a run that diverged; changes.jsonl says what was changed where


def hardware() -> dict:
    """What a measured figure has to be read beside: processor or GPU, cores, torch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"device": gpu or _processor(), "cores": os.cpu_count(), "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read_state(path: Path, mapped: bool = False) -> dict:
    """What `Run.save` wrote; `mapped` = its tensors stay on the disk until they are used."""
    again = "remove it to start this run afresh"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise CinelabError(f"Checkpoint {path} cannot be read ({type(error).__name__}); {again}.") from error
    return mapping(state, f"Checkpoint {path}", again, step=int, parts=dict)


def part_of(state: dict, name: str, path: Path) -> Any:
    """A part of what `read_state` returned. Raises CinelabError where the checkpoint has none of that name."""
    if name not in state["parts"]:
        raise CinelabError(f"Checkpoint {path} holds no {name!r} ({short(list(state['parts']))}); remove it to start this run afresh.")
    return state["parts"][name]


def with_defaults(config: Any, old: Any) -> Any:
    """Return an older run's settings with those it did not know yet, at their defaults.

    A field whose meaning was another before it had a name says so in its metadata, as `before`.
    """
    if not is_dataclass(config) or not isinstance(old, dict):
        return old
    filled = dict(old)
    for one in fields(config):
        if one.name in old:
            filled[one.name] = with_defaults(getattr(config, one.name), old[one.name])
        elif (default := one.metadata.get("before", one.default)) is not MISSING:
            filled[one.name] = default
    return filled


class Run:
    """One training run in `folder`. `step` is where it stands; parts are anything with a state_dict."""

    parallel: Any = None  # the processes that train it together, if there are several (see train.checkpoint)

    def __init__(self, folder: str | Path, config: Any):
        self.folder, self.config = Path(folder), config
        self.step, self.seconds = 0, 0.0
        self._began = time.perf_counter()
        self._check_config(to_dict(config))

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").exists() and self.done_info["steps"] >= self.config.steps

    @property
    def done_info(self) -> dict:
        return read_mapping(self.folder / "done.json", steps=int)

    @property
    def rows(self) -> list[dict]:
        """The log so far, one row a step; rows past the last checkpoint of a killed run are dropped on resume."""
        return log_rows(self.folder)

    def _check_config(self, new: dict) -> None:
        path, old = self.folder / "config.json", {}
        if path.exists():
            old = with_defaults(self.config, read_mapping(path, data=DATA))
            changed = [k for k in new if new[k] != old.get(k) and k not in MAY_CHANGE]
            if tuned := {k: [old.get(k), new[k]] for k in changed if k in MAY_TUNE and len(changed) == 1}:
                append_line(self.folder / "changes.jsonl", {"rows": len(self.rows), **tuned})
            elif changed:
                key = changed[0]
                raise CinelabError(f"Run {self.folder} was started with {key}={old.get(key)!r}, not {new[key]!r}; "
                                   "use the old setting to resume it, or another run folder.")
        write_json(path, ({"data": old["data"]} if "data" in old else {}) | new)

    @property
    def data(self) -> dict | None:
        """What `trains_on` noted: the data of this run, or None."""
        path = self.folder / "config.json"
        data = read_mapping(path, data=DATA).get("data") if path.exists() else None
        return data and mapping(data, f"{path}: data", mark=str)

    def trains_on(self, data: dict | None) -> None:
        """Note the data that this run draws from (`cinelab.train.provenance.data_of`); data of another content than it has
        had so far are refused. None, of data that cannot be told apart, notes nothing."""
        if data is None:
            return
        if (old := self.data) is not None and old.get("mark") != data["mark"]:
            raise CinelabError(f"Run {self.folder} was trained on {_named(old)}, and {_named(data)} has another content; give it the "
                               "data it was started with, or name another run folder.")
        write_json(self.folder / "config.json", read_mapping(self.folder / "config.json") | {"data": data})

    def restore(self, **parts: Any) -> None:
        """Load every part from the last checkpoint, if there is one; else leave them as they are."""
        path = self.folder / "checkpoints" / "last.pt"
        if not path.exists():
            self._truncate_log(0)
            return
        state = read_state(path)
        for name, part in parts.items():
            _load_into(part, part_of(state, name, path), name, path)
        self.step, self.seconds = state["step"], mapping(state, path, seconds=float)["seconds"]
        self._began = time.perf_counter()
        self._truncate_log(self.step)

    def save(self, step: int, **parts: Any) -> None:
        """Write the state after `step` finished steps."""
        self.step = step
        state = {"step": step, "seconds": self.wall, "parts": {k: part.state_dict() for k, part in parts.items()}}
        write_atomic(self.folder / "checkpoints" / "last.pt", lambda path: torch.save(state, path))

    def save_best(self, step: int, score: float, **parts: Any) -> None:
        """Keep the weights that did best so far, beside the state to resume from."""
        state = {"step": step, "score": score, "parts": {k: part.state_dict() for k, part in parts.items()}}
        write_atomic(self.folder / "checkpoints" / "best.pt", lambda path: torch.save(state, path))

    @property
    def wall(self) -> float:
        """Seconds of training so far, over all resumed sittings."""
        return self.seconds + time.perf_counter() - self._began

    def log(self, **row: Any) -> dict:
        append_line(self.folder / "log.jsonl", row, sync=False)  # a checkpoint is what a run goes on from
        return row

    def finish(self) -> None:
        data = {"data": self.data} if self.data else {}
        write_json(self.folder / "done.json", {"steps": self.step, "seconds": round(self.wall, 1), **hardware(), **data})

    def _truncate_log(self, step: int) -> None:
        rows = [row for row in self.rows if row["step"] < step]
        if (self.folder / "log.jsonl").exists():
            write_text(self.folder / "log.jsonl", "".join(to_json(row) + "\n" for row in rows))


def _load_into(part: Any, state: Any, name: str, path: Path) -> None:
    """Put a part's state in place. Raises CinelabError where it is of another training, or damaged."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        said = short(" ".join(str(error).split()), 200)
        raise CinelabError(f"Checkpoint {path} cannot be read into this training: its {name!r} does not fit ({said}); remove it to start this "
                           "run afresh.") from error


def log_rows(folder: str | Path) -> list[dict]:
    """A run's log so far, one row a step. A number that was not finite is null in the file, and NaN here."""
    path = Path(folder) / "log.jsonl"
    rows = [mapping(row, f"{path}, line {number}", step=int) for number, row in enumerate(read_lines(path), 1)]
    return [{key: float("nan") if value is None else value for key, value in row.items()} for row in rows]


def _named(data: dict) -> str:
    """Data in a sentence: where they lie, how many they are, their mark."""
    films = f"{data['films']} films, " if "films" in data else ""
    return f"{data.get('path', 'the data given')} ({films}mark {data['mark']})"
