"""Training stages as notebooks use them: set up by preset, watch, export. The work is in
cinelab.train.

    stage = stages.teacher_forcing("results/tf", "results/store", preset="toy")
    stage.watch()
    stage.export("results/tf/checkpoint")

Settings, checkpoints and the run's folder are checked when a stage is set up; a store named by its
folder is made and opened when the training begins.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from torch import nn

from cinelab.config import override, to_dict
from cinelab.data.toybox import build_toybox
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_text
from cinelab.flow.sampler import Sampling
from cinelab.lab.reports.plots import loss_curve, write_html
from cinelab.lab.training import samples
from cinelab.lab.training.panel import counted, watch
from cinelab.lab.training.samples import Sample
from cinelab.latent.checkpoint import as_dtype
from cinelab.latent.store import Store
from cinelab.metrics.card import HELD_OUT
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.model.wan import CausalWan, init_toy
from cinelab.readable import Made, Readable
from cinelab.runs import Run, read_state
from cinelab.train import bidirectional as stage0
from cinelab.train import codec as codec_stage
from cinelab.train import presets
from cinelab.train import recogniser as reader_stage
from cinelab.train import teacher_forcing as stage1
from cinelab.train.losses import with_loss
from cinelab.train.trained_policy import trained_under
from cinelab.weights.load import DTYPES, dtype_of
from cinelab.world.render import FPS, HEIGHT, WIDTH
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle


@dataclass
class Stage(Readable):
    """One training run ready to go. `rows()` trains; `describe()` is what its checkpoint's
    config.json says."""

    config: Any
    run: Run
    model: nn.Module
    rows: Callable[[], Iterator[dict]]
    describe: Callable[[], dict]
    # a sample by a model with the weights saved at a step
    film: Callable[[nn.Module, int], Sample] | None = None

    def train(self) -> Iterator[dict]:
        """Train (or resume, or do nothing if done), a row a step."""
        if not self.run.done:
            yield from self.rows()

    def watch(
        self,
        draw: Callable[[list[dict]], go.Figure] = loss_curve,
        alarms: Callable[[list[dict]], list[str]] = lambda rows: [],
    ) -> list[dict]:
        """Train under a live panel (see `lab.panel`); returns the whole log, that of earlier
        sittings included."""
        sample = self.sample if self.film else None
        return watch(
            self.train(),
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
        """The run's best checkpoint where exams were sat, else its last."""
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
                name: as_dtype(value, dtype_of(dtype), f"{path}: {name}")
                for name, value in values.items()
            },
            path,
        )

    def kept(self) -> dict:
        """Which step's weights were kept, and what they scored, where exams chose."""
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
        record = {"training": to_dict(self.config), "run": self.run.done_info, **self.kept()}
        zoo.save_checkpoint(folder, self.averaged(dtype), self.describe() | record, DTYPES[dtype])
        write_text(folder / "log.jsonl", thin_log(self.run.rows))
        write_html(loss_curve(self.run.rows), self.run.folder / "curve.html")
        return Made(folder)


def thin_log(rows: list[dict], keep: int = 600) -> str:
    """A log short enough to ship: every nth row."""
    every = max(1, len(rows) // keep)
    return "".join(to_json(row) + "\n" for row in rows[::every])


def codec(
    run_dir: str | Path, preset: str = "toy", seed: int = 0, changes: dict | None = None
) -> Stage:
    """The toy codec's training."""
    config = override(presets.codec(preset, seed), changes or {})
    run = Run(run_dir, config)
    model = codec_stage.ToyCodec(config.codec)

    def rows() -> Iterator[dict]:
        with counted(config.clips, "clips") as tell:
            clips = codec_stage.pool(config, tell)
        return codec_stage.train(config, run, clips)

    film = lambda model, step: samples.through_codec(model, codec_stage.clip(HELD_OUT, 0, 8), step)  # noqa: E731
    return Stage(config, run, model, rows, lambda: {"codec": to_dict(config.codec)}, film)


def recogniser(
    run_dir: str | Path, preset: str = "toy", seed: int = 0, changes: dict | None = None
) -> Stage:
    """The reader behind the scores; its checkpoint says how well it reads held-out shots."""
    config = override(presets.recogniser(preset, seed), changes or {})
    torch.manual_seed(seed)
    run = Run(run_dir, config)
    model = Recogniser()

    def rows() -> Iterator[dict]:
        with counted(config.clips, "clips") as tell:
            clips = reader_stage.pool(config, run.folder, tell)
        return reader_stage.train(config, model, clips, run)

    return Stage(config, run, model, rows, lambda: reader_stage.measure(config, model))


def film_store(
    folder: str | Path,
    preset: str = "toy",
    codec_name: str = "toybox-codec",
    tell: Callable[[int], None] | None = None,
) -> Store:
    """Render and encode the training films once; finished shards are kept. `tell` hears how many
    are done (None: a bar)."""
    encoder = zoo.toy_encoder()
    config = presets.store(preset)
    with counted(config.films, "films") as bar:
        for _ in build_toybox(
            Path(folder),
            config,
            zoo.load_codec(codec_name),
            encoder,
            zoo.fingerprint(codec_name),
            tell=tell or bar,
        ):
            pass
    return Store(Path(folder), encoder)


def opened(store: Store | str | Path, preset: str) -> Store:
    """A store as it is, or the one in a folder, made there where it is missing."""
    return film_store(store, preset) if isinstance(store, (str, Path)) else store


def bidirectional(
    run_dir: str | Path,
    store: Store | str | Path,
    preset: str = "toy",
    init: str | None = None,
    seed: int = 0,
    changes: dict | None = None,
    loss: str | Callable | None = None,
) -> Stage:
    """Stage 0 from scratch, or a longer-sighted one from a checkpoint (name or folder)."""
    config = override(presets.bidirectional(preset, seed), with_loss(changes, loss))
    return _stage(stage0, config, run_dir, (store, preset), init, seed, 1, max(config.lengths))


def teacher_forcing(
    run_dir: str | Path,
    store: Store | str | Path,
    preset: str = "toy",
    init: str | None = "toybox-bidirectional",
    seed: int = 0,
    changes: dict | None = None,
    loss: str | Callable | None = None,
) -> Stage:
    """Stage 1, from a stage 0 checkpoint (name or folder) or from scratch (None)."""
    config = override(presets.teacher_forcing(preset, seed), with_loss(changes, loss))
    return _stage(
        stage1, config, run_dir, (store, preset), init, seed, config.chunk, max(config.curriculum)
    )


def _stage(module, config, run_dir, store, init, seed, chunk, span) -> Stage:
    torch.manual_seed(seed)
    run = Run(run_dir, config)
    model = init_toy(CausalWan(config.model))
    if init is not None:
        zoo.load_weights(model, zoo.find(init)).requires_grad_(True)
    model.train()
    describe = lambda: zoo.model_config(
        config.model,
        zoo.toy_encoder(),
        "toybox-codec",
        Sampling(),
        chunk,
        span,
        FPS,  # noqa: E731
        (HEIGHT, WIDTH),
        stage=module.__name__.rsplit(".", 1)[-1],
        init=init,
        **trained_under(config),
    )

    def film(trained: nn.Module, step: int) -> Sample:
        bundle = Bundle(
            "sample",
            trained,
            zoo.load_codec(),
            zoo.toy_encoder(),
            Sampling(),
            chunk,
            span,
            FPS,
            (HEIGHT, WIDTH),
            {},
            lambda: "",
        )
        return (samples.held_out_clip if module is stage0 else samples.held_out_film)(bundle, step)

    return Stage(
        config, run, model, lambda: module.train(config, model, opened(*store), run), describe, film
    )
