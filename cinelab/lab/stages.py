"""Training stages as notebooks use them: set up by preset, watch, export. The work is in cinelab.train.

    stage = stages.teacher_forcing("results/tf", preset="toy")
    watch(stage.train())
    stage.export("results/tf/checkpoint")
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import nn

from cinelab.config import override, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.flow.sampler import Sampling
from cinelab.lab.plots import loss_curve, write_html
from cinelab.latent.store import Store, build
from cinelab.model import zoo
from cinelab.model.wan import CausalWan, init_toy
from cinelab.runs import Run
from cinelab.score.recogniser import Recogniser
from cinelab.train import bidirectional as stage0
from cinelab.train import codec as codec_stage
from cinelab.train import presets
from cinelab.train import recogniser as reader_stage
from cinelab.train import teacher_forcing as stage1
from cinelab.train.losses import with_loss
from cinelab.train.memory import trained_under
from cinelab.world.render import FPS, HEIGHT, WIDTH


@dataclass
class Stage:
    """One training run ready to go. `rows()` trains; `describe()` is what its checkpoint's config.json says."""

    config: Any
    run: Run
    model: nn.Module
    rows: Callable[[], Iterator[dict]]
    describe: Callable[[], dict]

    def train(self) -> Iterator[dict]:
        """Train (or resume, or do nothing if done), a row a step."""
        if not self.run.done:
            yield from self.rows()

    @property
    def weights(self) -> Path:
        """The run's best checkpoint where exams were sat, else its last."""
        best, last = (self.run.folder / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
        if not last.exists():
            raise CinelabError(f"Run {self.run.folder} has no checkpoint yet; train first.")
        return best if best.exists() else last

    def averaged(self) -> nn.Module:
        """The model with the averaged weights of that checkpoint."""
        path = self.weights
        values = torch.load(path, map_location="cpu", weights_only=True)["parts"]["ema"]["values"]
        return zoo.fill(self.model, {name: value.bfloat16() for name, value in values.items()}, path)  # as they are stored

    def kept(self) -> dict:
        """Which step's weights were kept, and what they scored, where exams chose."""
        if self.weights.name != "best.pt":
            return {}
        state = torch.load(self.weights, map_location="cpu", weights_only=True)
        return {"kept": {"step": state["step"], "score": state["score"]}}

    def export(self, folder: str | Path) -> Path:
        """Write the averaged weights with config, log and loss curve as a checkpoint folder."""
        folder = Path(folder)
        record = {"training": to_dict(self.config), "run": self.run.done_info, **self.kept()}
        zoo.save(folder, self.averaged(), self.describe() | record)
        write_text(folder / "log.jsonl", thin_log(self.run.rows))
        write_html(loss_curve(self.run.rows), self.run.folder / "curve.html")
        return folder


def thin_log(rows: list[dict], keep: int = 600) -> str:
    """A log short enough to ship: every nth row."""
    import json

    every = max(1, len(rows) // keep)
    return "".join(json.dumps(row) + "\n" for row in rows[::every])


def codec(run_dir: str | Path, preset: str = "toy", seed: int = 0, changes: dict | None = None) -> Stage:
    """The toy codec's training."""
    config = override(presets.codec(preset, seed), changes or {})
    run, model = Run(run_dir, config), codec_stage.ToyCodec(config.codec)
    return Stage(config, run, model, lambda: codec_stage.train(config, run, codec_stage.pool(config)),
                 lambda: {"codec": to_dict(config.codec)})


def recogniser(run_dir: str | Path, preset: str = "toy", seed: int = 0, changes: dict | None = None) -> Stage:
    """The reader behind the scores; its checkpoint says how well it reads held-out shots."""
    config = override(presets.recogniser(preset, seed), changes or {})
    torch.manual_seed(seed)
    run, model = Run(run_dir, config), Recogniser()
    rows = lambda: reader_stage.train(config, model, reader_stage.pool(config, run.folder), run)  # noqa: E731
    return Stage(config, run, model, rows, lambda: reader_stage.measure(config, model))


def film_store(folder: str | Path, preset: str = "toy", codec_name: str = "toybox-codec",
               tell: Callable[[str], None] = print) -> Store:
    """Render and encode the training films once; finished shards are kept."""
    encoder, config = zoo.toy_encoder(), presets.store(preset)
    for done in build(Path(folder), config, zoo.load_codec(codec_name), encoder, zoo.fingerprint(codec_name)):
        tell(f"{done} of {config.films} films encoded")
    return Store(Path(folder), encoder)


def bidirectional(run_dir: str | Path, store: Store, preset: str = "toy", init: str | None = None, seed: int = 0,
                  changes: dict | None = None, loss: str | Callable | None = None) -> Stage:
    """Stage 0 from scratch, or a longer-sighted one from a checkpoint (name or folder)."""
    config = override(presets.bidirectional(preset, seed), with_loss(changes, loss))
    return _stage(stage0, config, run_dir, store, init, seed, 1, max(config.lengths))


def teacher_forcing(run_dir: str | Path, store: Store, preset: str = "toy", init: str | None = "toybox-bidirectional",
                    seed: int = 0, changes: dict | None = None, loss: str | Callable | None = None) -> Stage:
    """Stage 1, from a stage 0 checkpoint (name or folder) or from scratch (None)."""
    config = override(presets.teacher_forcing(preset, seed), with_loss(changes, loss))
    return _stage(stage1, config, run_dir, store, init, seed, config.chunk, max(config.curriculum))


def _stage(module, config, run_dir, store, init, seed, chunk, span) -> Stage:
    torch.manual_seed(seed)
    run, model = Run(run_dir, config), init_toy(CausalWan(config.model))
    if init is not None:
        folder = zoo.find(init)
        zoo.fill(model, zoo.read_weights(folder / zoo.WEIGHTS), folder / zoo.WEIGHTS).requires_grad_(True)
    model.train()
    describe = lambda: zoo.model_config(config.model, zoo.toy_encoder(), "toybox-codec", Sampling(), chunk, span, FPS,  # noqa: E731
                                        (HEIGHT, WIDTH), stage=module.__name__.rsplit(".", 1)[-1], init=init,
                                        **trained_under(config))
    return Stage(config, run, model, lambda: module.train(config, model, store, run), describe)


def watch(rows: Iterator[dict], every: int = 50, draw: Callable[[list[dict]], go.Figure] = loss_curve,
          alarms: Callable[[list[dict]], list[str]] = lambda rows: []) -> list[dict]:
    """Drain a training; a live figure in a notebook, a plain line elsewhere, and each alarm once. Returns the rows seen."""
    seen: list[dict] = []
    shown, told = _display(draw), set()
    for row in rows:
        seen.append(row)
        if len(seen) % every == 0 or "score" in row:
            shown(seen, _line(seen[-every:]))
            for text in alarms(seen):
                if text.split()[0] not in told:
                    told.add(text.split()[0])
                    print(f"ALARM: {text}", flush=True)
    if seen:
        shown(seen, f"{_line(seen[-every:])}, done")
    return seen


def _line(rows: list[dict]) -> str:
    """The end of a log in one line."""
    losses = [row["loss"] for row in rows if "loss" in row]
    marks = [f"{name} {rows[-1][name]:.3f}" for name in ("score", "prompt", "identity", "motion") if name in rows[-1]]
    return f"step {rows[-1]['step'] + 1}: " + ", ".join([f"loss {np.mean(losses):.4f}"] * bool(losses) + marks)


def _display(draw: Callable[[list[dict]], go.Figure]) -> Callable:
    """A live plotly figure under JupyterLab; lines under papermill and in a terminal."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return lambda seen, line: print(line, flush=True)
    if get_ipython() is None:
        return lambda seen, line: print(line, flush=True)
    handle = display({"text/plain": "training"}, raw=True, display_id=True)

    def show(seen: list[dict], line: str) -> None:
        print(line, flush=True)
        handle.update(draw(seen))

    return show
