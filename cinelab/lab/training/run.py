"""A training as a notebook uses it: train, watch, sample, export."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from torch import nn

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_text
from cinelab.lab.reports.plots import loss_curve, write_html
from cinelab.lab.training.panel import watch
from cinelab.lab.training.samples import Sample
from cinelab.latent.checkpoint import as_dtype
from cinelab.readable import Made, Readable
from cinelab.runs import Run
from cinelab.states import read_state
from cinelab.train.time_limit import TimeLimit
from cinelab.weights.load import DTYPES, dtype_of
from cinelab.zoo import checkpoints as zoo


@dataclass
class StageRun(Readable):
    """One training ready to go. `rows()` trains; `describe()` returns what its checkpoint's
    config.json states."""

    config: Any
    run: Run
    model: nn.Module
    rows: Callable[[], Iterator[dict]]
    describe: Callable[[], dict]
    # a sample by a model with the weights saved at a step
    film: Callable[[nn.Module, int], Sample] | None = None

    def train(self, minutes: float | None = None) -> Iterator[dict]:
        """Train (or resume, or do nothing if done); yields a row a step. When the `minutes` are up
        the training is validated and saved, and ends: it can be exported, and goes on when it is
        called again (None: to its last step)."""
        if not self.run.done:
            self.run.time_limit = TimeLimit(minutes)
            yield from self.rows()

    def watch(
        self,
        draw: Callable[[list[dict]], go.Figure] = loss_curve,
        alarms: Callable[[list[dict]], list[str]] = lambda rows: [],
        *,
        minutes: float | None = None,
    ) -> list[dict]:
        """Train under a live panel (see `lab.training.panel`), for so many minutes; returns the
        whole log, that of earlier sessions included."""
        sample = self.sample if self.film else None
        return watch(
            self.train(minutes),
            self.config,
            draw=draw,
            alarms=alarms,
            sample=sample,
            earlier=self.run.rows,
        )

    def sample(self, since: int = 0) -> Sample | None:
        """A film by the averaged weights last saved, or None where none were saved after step
        `since`.

        The training's random numbers and weights are left as they are.
        """
        step = self.run.done_info["steps"] if self.run.done else self.run.step
        if self.film is None or step <= since:
            return None
        state = read_state(self.run.folder / "checkpoints" / "last.pt", mapped=True)
        model = deepcopy(self.model).eval().requires_grad_(False)
        # frozen weights are not averaged
        model.load_state_dict(state["parts"]["ema"]["values"], strict=False)
        with torch.random.fork_rng(devices=[]):
            return self.film(model, state["step"])

    @property
    def weights(self) -> Path:
        """The run's best checkpoint where it was validated, else its last."""
        best, last = (self.run.folder / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
        if not last.exists():
            raise CinelabError(f"Run {self.run.folder} has no checkpoint yet; train first.")
        return best if best.exists() else last

    def averaged(self, dtype: str = "bf16") -> nn.Module:
        """The model with the averaged weights of that checkpoint, rounded to `dtype`, in which they
        are stored."""
        path = self.weights
        values = read_state(path)["parts"]["ema"]["values"]
        return zoo.fill(
            self.model,
            {
                name: as_dtype(value, dtype_of(dtype) or torch.bfloat16, f"{path}: {name}")
                for name, value in values.items()
            },
            path,
        )

    def best(self) -> dict:
        """Return the step of the exported weights and their score, where validation chose them. The
        entry is called as in checkpoints of the first release."""
        if self.weights.name != "best.pt":
            return {}
        state = read_state(self.weights)
        return {"kept": {"step": state["step"], "score": state["score"]}}

    def export(self, folder: str | Path, dtype: str = "bf16") -> Path:
        """Write the averaged weights with config, log and loss curve as a checkpoint folder;
        `dtype` is fp32, bf16 or fp16."""
        folder = Path(folder)
        if dtype not in DTYPES:
            raise CinelabError(f"dtype is {dtype!r}; export as one of {', '.join(DTYPES)}.")
        record = {"training": to_dict(self.config), "run": self.run.done_info, **self.best()}
        zoo.save_checkpoint(folder, self.averaged(dtype), self.describe() | record, DTYPES[dtype])
        write_text(folder / "log.jsonl", thin_log(self.run.rows))
        write_html(loss_curve(self.run.rows), self.run.folder / "curve.html")
        return Made(folder)


def thin_log(rows: list[dict], keep: int = 600) -> str:
    """A log short enough to ship: every nth row."""
    every = max(1, len(rows) // keep)
    return "".join(to_json(row) + "\n" for row in rows[::every])
