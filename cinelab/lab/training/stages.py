"""Training stages as notebooks use them: set up by preset, watch, export. The work is in
`cinelab.train`.

    run = stages.teacher_forcing("results/tf", "results/store", preset="toy")
    run.watch()
    run.export("results/tf/checkpoint")

A stage of one's own, registered in a cell, trains in the same way:

    run = stages.train_stage("mine", "results/mine", "results/store", preset="toy")

Settings, checkpoints and the run's folder are checked when a stage is set up; a store named by its
folder is made and opened when the training begins.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cinelab.config import override
from cinelab.data.toybox_jobs import build_at_once
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.lab.training import samples
from cinelab.lab.training.panel import counted
from cinelab.lab.training.run import StageRun
from cinelab.lab.training.samples import Sample
from cinelab.latent.codecs import codec_entry, made_codec
from cinelab.latent.store import Store, world_of_store
from cinelab.metrics.card import HELD_OUT
from cinelab.metrics.toybox.clip_rewards import ClipRewards
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.model.backbone import initialised, model_to_dict
from cinelab.runs import Run
from cinelab.script.prompts import WordEncoder
from cinelab.train import codec as codec_stage
from cinelab.train import presets
from cinelab.train import recogniser as reader_stage
from cinelab.train.losses import with_loss
from cinelab.train.stage import INIT, TEACHER, Role, Stage, stage_named
from cinelab.train.trained_policy import policy_of
from cinelab.world.worlds import DEFAULT, WORLD, check_same_world, world_named
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

SMOKE_VALIDATION = ValidationConfig(films=2, latents=6, recalls=2, away=1)


def train_stage(
    name: str,
    run_dir: str | Path,
    store: Any,
    *,
    preset: str = "toy",
    init: str | Path | None = None,
    teacher: str | Path | None = None,
    seed: int = 0,
    changes: dict | None = None,
    loss: str | Callable | None = None,
    sampling: Sampling | None = None,
    validate: bool = True,
    device: str | None = None,
    codec: str | Path | None = None,
    reader: str | Path | None = None,
) -> StageRun:
    """Set up the training of a registered stage, or of one named by its import path, on `device`
    (None: the chosen one, see `cinelab.devices`).

    `store` is a store or its folder; of a stage that draws ODE pairs, these pairs or their plan.
    `init` and `teacher` are checkpoints (None: from scratch). `sampling` is how the result is
    sampled, where that is not what the stage says. `validate`: whether a stage that is validated
    (every `validate_every` steps) exports its best weights, and not its last. `codec` is the one
    that a result has which begins with no checkpoint, `reader` the recogniser that validates (None:
    the shipped ones); the result is to lie beside a codec that is named by its folder.
    """
    stage = stage_named(name)
    config = override(stage.preset(preset, seed), with_loss(changes, loss))
    device = chosen_device(device)
    starts = _starts(stage, config, {INIT: init, TEACHER: teacher}, device)
    config = stage.fitted(config, changes or {}, starts[INIT], starts[TEACHER])
    torch.manual_seed(seed)
    run = placed_run(run_dir, config, device)
    networks = {
        role.name: _network(role, config, starts[role.start]).to(device) for role in stage.roles
    }
    model = networks[stage.roles[0].name]
    world = _world_to_train(starts, store)
    own = None if codec is None else Path(codec)
    bundle = _result(stage, config, model, starts[INIT], sampling=sampling, world=world, codec=own)
    about = {"stage": name, "init": init and str(init)}
    about |= {"teacher": str(teacher)} if teacher is not None else {}

    def rows() -> Iterator[dict]:
        validator = None
        if validate and stage.validated:
            settings = SMOKE_VALIDATION if preset == "smoke" else None
            judge = load_recogniser(reader, device, world=bundle.world)
            validator = Validator(bundle, judge, policy_of(config), settings)
        more: dict[str, Any] = {}
        if weights := getattr(config, "reward", None):
            judge = load_recogniser(reader, device, world=bundle.world)
            parts = (bundle.codec, bundle.encoder, list(weights))
            more["reward"] = ClipRewards(*parts, world=bundle.world, reader=judge)
        data = getattr(store, "made", opened(store, preset, bundle.world_name))
        return stage.train(config, data, networks, run=run, validator=validator, **more)

    def film(trained: Any, step: int) -> Sample:
        sample = samples.held_out_film if stage.causal else samples.held_out_clip
        return sample(replace(bundle, model=trained), step)

    entries = about | stage.trained_under(config)
    describe = partial(_description, config, bundle, entries)
    return StageRun(config, run, model, rows, describe, film)


def _description(config: Any, bundle: Bundle, entries: dict) -> dict:
    """Return what the result's config.json states."""
    if not isinstance(bundle.encoder, WordEncoder):
        raise CinelabError(
            f"{bundle.name} has a text encoder that is no toybox's, which a notebook's checkpoint "
            "cannot name; train it as a job, with `cinelab train`."
        )
    return zoo.model_config(
        config.model,
        bundle.encoder,
        bundle.config["codec"],
        bundle.sampling,
        bundle.chunk,
        bundle.span,
        bundle.fps,
        bundle.size,
        world=bundle.world.name,
        **entries,
    )


def _world_to_train(starts: Mapping[str, Bundle | None], store: Any) -> str | None:
    """Return the name of the world that a training is of: that of the checkpoints that it begins
    with, else that of its store, else the default one; None for a model of other videos.
    CinelabError where these are of several."""
    bundles = [start for start in starts.values() if start is not None]
    for bundle in bundles[1:]:
        check_same_world(
            str(bundle.world_name),
            str(bundles[0].world_name),
            what=bundle.name,
            whose=bundles[0].name,
            remedy="give checkpoints of one world",
        )
    own = bundles[0].world_name if bundles else None
    stored = stored_world(getattr(store, "store", store))
    if bundles and stored is not None:
        check_store(store, stored, own)
    return own if bundles else stored or DEFAULT


def stored_world(store: Any) -> str | None:
    """Return the name of the world of a store or of the one in a folder; None where it is of other
    videos, or not there yet."""
    if isinstance(store, (str, Path)):
        return world_of_store(store)
    return getattr(store, "world", None)


def check_store(store: Any, found: str, expected: str | None) -> None:
    """Raise CinelabError for a store of another world than that of the model to train on it."""
    where = store if isinstance(store, (str, Path)) else getattr(store, "folder", "of the films")
    check_same_world(
        found,
        str(expected),
        what=f"Store {where}",
        whose="the model",
        remedy="name a store of the model's world, or another folder, where one is built",
    )


def _starts(
    stage: Stage, config: Any, places: dict[str, str | Path | None], device: str
) -> dict[str, Bundle | None]:
    """Return the checkpoints that the networks of a stage begin with; None is from scratch."""
    titles = {role.start: role.title for role in stage.roles}
    starts: dict[str, Bundle | None] = {INIT: None, TEACHER: None}
    for start, place in places.items():
        if place is not None and start in titles:
            starts[start] = fitting(place, config.model, titles[start], device=device)
        elif start == TEACHER and start in titles:
            raise CinelabError(f"Stage {stage.name} needs a teacher; name a checkpoint.")
    return starts


def _network(role: Role, config: Any, start: Bundle | None) -> Any:
    """Return a network to train, or a frozen one as it was loaded."""
    if start is None:
        return initialised(config.model).train()
    return trainable(start.model) if role.trained else start.model


def _result(
    stage: Stage,
    config: Any,
    model: Any,
    start: Bundle | None,
    *,
    sampling: Sampling | None,
    world: str | None,
    codec: Path | None,
) -> Bundle:
    """Return what the stage makes of its first network, to sample it: the other parts are those of
    the checkpoint it begins with, else those of its world."""
    sampling = sampling or stage.sampling(config, Sampling())
    chunk = stage.chunk(config)
    if start is not None and stage.needs_teacher:
        # distilled: the student keeps the span, and so the distances, of what it begins with
        return replace(start, sampling=sampling, chunk=chunk)
    drawn = world_named(world)
    device = str(next(model.parameters()).device)
    return Bundle(
        "sample",
        model,
        start.codec if start else zoo.load_codec(codec or drawn.codec, device),
        start.encoder if start else zoo.toy_encoder(world=drawn),
        sampling,
        chunk,
        stage.span(config),
        start.fps if start else drawn.fps,
        start.size if start else drawn.size,
        {
            "codec": start.config["codec"] if start else codec.name if codec else drawn.codec,
            WORLD: world,
        },
        lambda: "",
    )


def fitting(name: str | Path, model: Any, role: str, *, device: str | None = None) -> Bundle:
    """Load a checkpoint that is to teach or start a student of shape `model`. CinelabError where
    its shape is another."""
    bundle = zoo.load(name, device)
    theirs = model_to_dict(bundle.model.config)
    ours = model_to_dict(model)
    if odd := [key for key in ours if ours[key] != theirs.get(key)]:
        raise CinelabError(
            f"The {role} {name} has {odd[0]}={theirs.get(odd[0])!r}, the student "
            f"{odd[0]}={ours[odd[0]]!r}; train the student with the {role}'s model settings."
        )
    return bundle


def trainable(model: Any) -> Any:
    """Return a copy to train."""
    return deepcopy(model).requires_grad_(True).train()


def placed_run(folder: str | Path, config: Any, device: str) -> Run:
    """Return the run of a training on a device, which its conditions name."""
    run = Run(folder, config)
    run.device = device
    return run


def codec(
    run_dir: str | Path,
    preset: str = "toy",
    seed: int = 0,
    changes: dict | None = None,
    *,
    world: str = DEFAULT,
    device: str | None = None,
) -> StageRun:
    """The training of a world's codec."""
    config = override(presets.codec(preset, seed, world), changes or {})
    device = chosen_device(device)
    run = placed_run(run_dir, config, device)
    model = made_codec(config.codec).to(device)
    judge = load_recogniser(config.judge, device, world=config.world) if config.judge else None

    def rows() -> Iterator[dict]:
        with counted(config.clips, "clips") as tell:
            clips = codec_stage.render_clips(config, tell)
        maps = judge.requires_grad_(False).feature_maps if judge else None
        return codec_stage.train(config, run, clips, maps=maps, device=device)

    def film(model: Any, step: int) -> Sample:
        clip = codec_stage.clip(HELD_OUT, 0, 8, config.world)
        return samples.through_codec(model, clip, step, fps=world_named(config.world).fps)

    about = {"codec": codec_entry(config.codec), WORLD: config.world}
    return StageRun(config, run, model, rows, lambda: about, film)


def recogniser(
    run_dir: str | Path,
    preset: str = "toy",
    seed: int = 0,
    changes: dict | None = None,
    *,
    world: str = DEFAULT,
    device: str | None = None,
) -> StageRun:
    """The reader behind the scores; its checkpoint says how well it reads held-out shots."""
    config = override(presets.recogniser(preset, seed, world), changes or {})
    device = chosen_device(device)
    torch.manual_seed(seed)
    run = placed_run(run_dir, config, device)
    model = Recogniser(world=config.world).to(device)
    codec = zoo.load_codec(config.codec, device) if config.codec else None
    mark = zoo.fingerprint(config.codec) if config.codec else None

    def rows() -> Iterator[dict]:
        with counted(config.clips, "clips") as tell:
            clips = reader_stage.labelled_shots(config, run.folder, codec, mark=mark, progress=tell)
        return reader_stage.train(config, model, clips, run)

    return StageRun(
        config, run, model, rows, lambda: reader_stage.measure_accuracy(config, model, codec)
    )


def film_store(
    folder: str | Path,
    preset: str = "toy",
    codec_name: str | None = None,
    tell: Callable[[int], None] | None = None,
    *,
    jobs: int | None = None,
    changes: dict | None = None,
    world: str = DEFAULT,
) -> Store:
    """Render and encode the training films of a world once, with its codec unless another is named,
    by `jobs` processes (None: one a core); finished shards are not made again. `tell` is called
    with the number of films done (None: a bar)."""
    codec_name = codec_name or world_named(world).codec
    config = override(presets.store(preset, world=world), changes or {})
    with counted(config.films, "films") as bar:
        build_at_once(folder, config, codec_name, jobs=jobs, tell=tell or bar)
    return Store(Path(folder), zoo.toy_encoder(world=world))


def opened(store: Any, preset: str, world: str | None = None) -> Any:
    """Return a store as it is, or the one in a folder, made there where it is missing, of `world`
    (None: the default one). Presets but smoke and toy take whatever films there are; where there
    are none, a preset of one's own takes the toybox's. CinelabError for a store of another
    world."""
    found = stored_world(store)
    if found is not None and world is not None:
        check_store(store, found, world)
    if not isinstance(store, (str, Path)):
        return store
    world = found or world or DEFAULT
    if preset not in ("smoke", "toy") and (Path(store) / "store.json").exists():
        return Store(Path(store), zoo.toy_encoder(world=world))
    return film_store(store, preset if preset in ("smoke", "h100") else "toy", world=world)


def bidirectional(
    run_dir: str | Path,
    store: Store | str | Path,
    preset: str = "toy",
    init: str | None = None,
    seed: int = 0,
    changes: dict | None = None,
    loss: str | Callable | None = None,
) -> StageRun:
    """Set up stage 0, from scratch or from a checkpoint of shorter clips (name or folder)."""
    return train_stage(
        "bidirectional",
        run_dir,
        store,
        preset=preset,
        init=init,
        seed=seed,
        changes=changes,
        loss=loss,
    )


def teacher_forcing(
    run_dir: str | Path,
    store: Store | str | Path,
    preset: str = "toy",
    init: str | None = "toybox-bidirectional",
    seed: int = 0,
    changes: dict | None = None,
    loss: str | Callable | None = None,
) -> StageRun:
    """Set up stage 1, from a stage 0 checkpoint (name or folder) or from scratch (None)."""
    return train_stage(
        "teacher_forcing",
        run_dir,
        store,
        preset=preset,
        init=init,
        seed=seed,
        changes=changes,
        loss=loss,
    )
