"""A run is a directory of files, written atomically: config.json, conditions.json, log.jsonl,
checkpoints/, done.json.

Starting the same run again resumes it from its last checkpoint; a finished one says so. One process
writes in a run at a time, and in that process the object that was made last. Checkpoints hold a
checksum of each of their tensors.

The bits of a training depend on what `conditions` names: resumed under the same ones it ends with
the bits of one that was never interrupted; under others there is a warning.
"""

import os
import time
import warnings
import weakref
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from cinelab.config import mapping, read_mapping, renamed, to_dict
from cinelab.devices import device_name, hardware_name
from cinelab.errors import CinelabError
from cinelab.files import append_line, read_lines, to_json, write_atomic, write_json, write_text
from cinelab.limits import short
from cinelab.outputs import AT_ONCE, Claim, claim_folder, writing
from cinelab.states import part_of, read_state, save_pickle, sealed_state
from cinelab.threads import TRAINING

DATA = dict[str, Any] | None  # what a run says of its data
# settings a resumed run may change
MAY_CHANGE = ("steps", "save_every", "validate_every", "threads", "device", "draws", "compiled")
NOTED = ("data", "drawn_at")  # what a run's config.json says beside its settings
CONDITIONS = "conditions"  # a file of a run, and a part of its done.json
# these too, after a run that diverged; changes.jsonl says what was changed where
MAY_TUNE = ("optim", "critic")


def hardware(device: str | torch.device | None = None) -> dict:
    """What a measured figure has to be read beside: processor or GPU (that of `device`; None: of
    the chosen one), cores, torch."""
    return {
        "device": hardware_name(device),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def take_threads() -> None:
    """Train on as many threads as a sweep asks for, whatever its cells have otherwise."""
    if (chosen := os.environ.get(TRAINING, "")).isdigit() and int(chosen) > 0:
        torch.set_num_threads(int(chosen))


def conditions(device: str | torch.device | None = None) -> dict:
    """What the bits of a training on `device` (None: the chosen one) depend on beside its settings
    and data."""
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "device": device_name(device),
    }


def with_defaults(config: Any, old: Any) -> Any:
    """Return an older run's settings with those it did not know yet, at their defaults.

    A field whose meaning was another before it had a name says so in its metadata, as `before`.
    """
    if not is_dataclass(config) or not isinstance(old, dict):
        return old
    filled = dict(renamed(type(config), old))
    for one in fields(config):
        if one.name in filled:
            filled[one.name] = with_defaults(getattr(config, one.name), filled[one.name])
        elif (default := one.metadata.get("before", one.default)) is not MISSING:
            filled[one.name] = default
    return filled


_WRITERS: dict[Path, int] = {}  # by lock: which object of this process writes in a run


class Run:
    """One training run in `folder`. `step` is where it stands; parts are anything with a
    state_dict."""

    # the processes that train it together, if there are several (see train.checkpoint)
    parallel: Any = None
    # the minutes that this sitting may take, if they are limited (see train.time_limit)
    time_limit: Any = None
    # where it is trained; None = on the chosen device
    device: str | None = None

    def __init__(self, folder: str | Path, config: Any):
        self.folder = Path(folder)
        self.config = config
        self.step = 0
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._claim: Claim | None = None
        self._check_config(to_dict(config))

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").exists() and self.done_info["steps"] >= self.config.steps

    @property
    def ended(self) -> bool:
        """Whether the run is done, or ended at the step where it stands because its time was up."""
        there = (self.folder / "done.json").exists()
        return self.done or (there and self.done_info["steps"] == self.step > 0)

    @property
    def done_info(self) -> dict:
        return read_mapping(self.folder / "done.json", steps=int)

    @property
    def rows(self) -> list[dict]:
        """The log so far, one row a step; rows past the last checkpoint of a killed run are dropped
        on resume."""
        return log_rows(self.folder)

    # ---- one writer

    def claim(self) -> None:
        """Be the one that writes in this run until `leave`, `finish`, or the end of this object.
        CinelabError where another process is. Of the objects of one process the latest counts."""
        if self._claim is None:
            self._claim = claim_folder(self.folder, AT_ONCE, again=True)
            self._let_go = weakref.finalize(self, self._claim.release)
        _WRITERS[self._claim.lock] = id(self)

    def leave(self) -> None:
        """Let others write in this run."""
        if self._claim is not None:
            self._let_go()
            self._claim = None

    def _check_writer(self) -> None:
        """Refuse to write where another object of this process has taken the run up since."""
        if self._claim is None:
            self.claim()
        elif _WRITERS.get(self._claim.lock) != id(self):
            raise CinelabError(
                f"Run {self.folder} was taken up again in this process, so this training of it has "
                "ended; go on with the later one."
            )

    def _check_config(self, new: dict) -> None:
        with writing(self.folder, AT_ONCE, again=True):
            self._compare_config(new)

    def _compare_config(self, new: dict) -> None:
        path = self.folder / "config.json"
        old = {}
        if path.exists():
            old = with_defaults(self.config, read_mapping(path, data=DATA))
            changed = [k for k in new if new[k] != old.get(k) and k not in MAY_CHANGE]
            if tuned := {
                k: [old.get(k), new[k]] for k in changed if k in MAY_TUNE and len(changed) == 1
            }:
                append_line(self.folder / "changes.jsonl", {"rows": len(self.rows), **tuned})
            elif changed:
                key = changed[0]
                raise CinelabError(
                    f"Run {self.folder} was started with {key}={old.get(key)!r}, not {new[key]!r}; "
                    "use the old setting to resume it, or another run folder."
                )
        write_json(path, {name: old[name] for name in NOTED if name in old} | new)

    @property
    def data(self) -> dict | None:
        """What `trains_on` noted: the data of this run, or None."""
        path = self.folder / "config.json"
        data = read_mapping(path, data=DATA).get("data") if path.exists() else None
        return data and mapping(data, f"{path}: data", mark=str)

    def trains_on(self, data: dict | None) -> None:
        """Note the data that this run draws from (`cinelab.train.provenance.data_of`); data of
        another content than it has had so far are refused. None, of data that have no fingerprint,
        notes nothing."""
        if data is None:
            return
        if (old := self.data) is not None and old.get("mark") != data["mark"]:
            raise CinelabError(
                f"Run {self.folder} was trained on {_named(old)}, and {_named(data)} has another "
                "content; give it the data it was started with, or name another run folder."
            )
        with writing(self.folder, AT_ONCE, again=True):
            write_json(
                self.folder / "config.json",
                read_mapping(self.folder / "config.json") | {"data": data},
            )

    def draws_at(self, wanted: str, here: str) -> str:
        """Return where this run draws its random numbers, and note it: where it began to, else as
        `wanted`, else (auto) `here`. Raises CinelabError where it began elsewhere than is
        wanted."""
        path = self.folder / "config.json"
        noted = read_mapping(path)
        # a run of before it was noted drew on the host
        began = noted.get("drawn_at", "host") if self.step else None
        if began is not None and wanted not in ("auto", began):
            raise CinelabError(
                f"Run {self.folder} has drawn its random numbers on the {began} so far, and draws "
                f"is {wanted!r}; set it to 'auto' to go on as it began, or name another run folder."
            )
        place = began or (here if wanted == "auto" else wanted)
        with writing(self.folder, AT_ONCE, again=True):
            write_json(path, noted | {"drawn_at": place})
        return place

    @property
    def conditions(self) -> dict:
        """What the bits of this run depend on: under which conditions its last sitting began."""
        path = self.folder / f"{CONDITIONS}.json"
        return read_mapping(path) if path.exists() else {}

    def _note_conditions(self, resumed: bool, processes: int = 1) -> None:
        """Note what the bits depend on; say it where a run goes on under other conditions than it
        has had so far."""
        now = conditions(self.device) | {"processes": processes}
        old = self.conditions
        if resumed and (odd := [name for name in now if old.get(name, now[name]) != now[name]]):
            what = ", ".join(f"{name} {old[name]} (now {now[name]})" for name in odd)
            warnings.warn(
                f"Run {self.folder} was begun with {what}: it goes on, and will not have the bits "
                "of a run that was never interrupted.",
                stacklevel=5,
            )
        write_json(self.folder / f"{CONDITIONS}.json", now)

    def restore(self, **parts: Any) -> None:
        """Load every part from the last checkpoint, if there is one; else leave them as they are.
        From now on this is the run's writer (see `claim_folder`)."""
        self.claim()
        take_threads()
        path = self.folder / "checkpoints" / "last.pt"
        self._note_conditions(path.exists())
        if not path.exists():
            self._truncate_log(0)
            return
        state = read_state(path)
        for name, part in parts.items():
            _load_into(part, part_of(state, name, path), name, path)
        self.step = state["step"]
        self.seconds = mapping(state, path, seconds=float)["seconds"]
        self._began = time.perf_counter()
        self._truncate_log(self.step)

    def save(self, step: int, **parts: Any) -> None:
        """Write the state after `step` finished steps."""
        self._check_writer()
        self.step = step
        state = sealed_state(
            {
                "step": step,
                "seconds": self.wall,
                "parts": {k: part.state_dict() for k, part in parts.items()},
            }
        )
        write_atomic(self.folder / "checkpoints" / "last.pt", lambda path: save_pickle(state, path))

    def save_best(self, step: int, score: float, **parts: Any) -> None:
        """Keep the weights that did best so far, beside the state to resume from."""
        self._check_writer()
        state = sealed_state(
            {
                "step": step,
                "score": score,
                "parts": {k: part.state_dict() for k, part in parts.items()},
            }
        )
        write_atomic(self.folder / "checkpoints" / "best.pt", lambda path: save_pickle(state, path))

    @property
    def wall(self) -> float:
        """Seconds of training so far, over all resumed sittings."""
        return self.seconds + time.perf_counter() - self._began

    def log(self, **row: Any) -> dict:
        self._check_writer()
        # a checkpoint is what a run goes on from
        append_line(self.folder / "log.jsonl", row, sync=False)
        return row

    def finish(self) -> None:
        """Write done.json: of all steps, or of those taken and how many were planned."""
        self._check_writer()
        data: dict[str, Any] = {"data": self.data} if self.data else {}
        data |= {CONDITIONS: self.conditions or conditions(self.device)}
        planned = getattr(self.config, "steps", self.step)
        data |= {"planned": planned} if self.step < planned else {}
        write_json(
            self.folder / "done.json",
            {"steps": self.step, "seconds": round(self.wall, 1), **hardware(self.device), **data},
        )
        self.leave()

    def _truncate_log(self, step: int) -> None:
        rows = [row for row in self.rows if row["step"] < step]
        if (self.folder / "log.jsonl").exists():
            write_text(self.folder / "log.jsonl", "".join(to_json(row) + "\n" for row in rows))


def _load_into(part: Any, state: Any, name: str, path: Path) -> None:
    """Put a part's state in place. Raises CinelabError where it is of another training, or
    damaged."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        problem = short(" ".join(str(error).split()), 200)
        raise CinelabError(
            f"Checkpoint {path} cannot be read into this training: its {name!r} does not fit "
            f"({problem}); remove it to start this run afresh."
        ) from error


def log_rows(folder: str | Path) -> list[dict]:
    """A run's log so far, one row a step. A number that was not finite is null in the file, and NaN
    here."""
    path = Path(folder) / "log.jsonl"
    rows = [
        mapping(row, f"{path}, line {number}", step=int)
        for number, row in enumerate(read_lines(path), 1)
    ]
    return [
        {key: float("nan") if value is None else value for key, value in row.items()}
        for row in rows
    ]


def _named(data: dict) -> str:
    """Data in a sentence: where they lie, how many they are, their mark."""
    films = f"{data['films']} films, " if "films" in data else ""
    return f"{data.get('path', 'the data given')} ({films}mark {data['mark']})"
