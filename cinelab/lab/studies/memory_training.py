"""CausalCine's memory against its rivals, each trained as it is tested: a cell of
experiments/causalcine.yaml trains one base model under one memory from one seed, and measures it.

    causalcine  the paper's CAMR: 5 frames by mean keys beside a window of 9, packed
    ours        CAMR by attention mass beside a window of 3 frames, at true distances
    oracle      the frames that truly show the running chunk's character, beside a window of 9
    random      5 frames at random, drawn anew in every layer and step, beside a window of 9
    window      the last 14 frames

All attend to 14 latent frames and the chunk, and begin, are fed, and last alike: the start, the
clips of a seed and the steps are the same. Every base is tested under its own memory; what an
evaluation can change without a training (k, the window, the unit, the score, heads, layers) is
varied beside it, on the very same films (`variants`).

A cell goes on where it was stopped: the training by its run, the measurements part by part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from cinelab.checksums import read_sealed
from cinelab.config import override, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Steps
from cinelab.lab.studies.film_cell import BATCH, FilmSetting, batch_of
from cinelab.lab.studies.memory_cell import absence_films, recall_and_hits
from cinelab.lab.training import stages
from cinelab.lab.training.run import StageRun
from cinelab.latent.store import AGAIN as STORE_AGAIN
from cinelab.memory.policy import CAMR, FULL, CausalCine, Oracle, Policy, RandomTopK, Window
from cinelab.memory.policy_registry import policy_dict, seeded
from cinelab.metrics.card import compare_films, seeds_of
from cinelab.metrics.rows import Row, load_rows, numbered_from, row_table, save_rows
from cinelab.metrics.toybox.attributes import Batch, decode
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.retrieval import retrieval_by_layer
from cinelab.readable import Readable
from cinelab.runs import hardware
from cinelab.script.timeline import Timeline
from cinelab.stream.batch import make
from cinelab.tables import read_frame
from cinelab.texts import read_json
from cinelab.train import presets
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import DEFAULT
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load, world_in

FRAMES: dict[str, Any] = {"unit": "frame", "positions": "packed"}
MEMORIES: dict[str, Policy] = {
    "causalcine": CausalCine(),
    "ours": CAMR(budget=14, window=3, unit="frame"),
    "oracle": Oracle(budget=14, window=9, shown="who", **FRAMES),
    "random": RandomTopK(budget=14, window=9, **FRAMES),
    "window": Window(window=14, **FRAMES),
}
OWN = "own"  # the variant that is the memory of the training
RETRIEVED = (0, 1, 2, 3, 5, 8)  # latent frames beside the window
WINDOWS = (1, 2, 3)  # chunks
PARTS_OF_LAYERS = 3
FEWEST = 2  # films: the chance of looks is taken from another one
# beside the memory, what the paper's training does: settings of stage 1
TRAINED_ALIKE: dict[str, Any] = {
    "chunk": 3,
    "camr_share": 1.0,
    "other_shots_share": 0.0,
    "routed_from": 0.0,
    "levels": "clip",
}
# a preset's sizes, where a chunk of 3 does not divide them
SMOKE: dict[str, Any] = {"curriculum": [6], "frames_per_batch": 12}
AGAIN = "remove the folder and measure again"
TIMED = 8  # steps from which the training's hours are foretold


@dataclass(frozen=True)
class Measured(Readable):
    """How much is measured of a base model.

    films      absence tests, and whole films, of a seed
    away       absences under the base's own memory, in shots
    swept      the absence of the other variants; None leaves these out
    shot       latent frames of a shot of an absence test
    latents    of a whole film
    steps      sampling steps; None takes the model's
    """

    films: int = 64
    away: tuple[int, ...] = (1, 3, 5)
    swept: int | None = 5
    shot: int = 3
    latents: int = 24
    steps: Steps = None

    def __post_init__(self) -> None:
        if self.films < FEWEST:
            raise CinelabError(
                f"films is {self.films}; the chance of looks is another film's, so give at least "
                f"{FEWEST}."
            )


def memory_named(name: str) -> Policy:
    """Return the memory of a name in MEMORIES. Raises CinelabError for any other."""
    if name not in MEMORIES:
        raise CinelabError(f"memory is {name!r}; use one of {', '.join(MEMORIES)}.")
    return MEMORIES[name]


def base_training(
    folder: str | Path,
    store: Any,
    memory: str,
    seed: int,
    *,
    init: str | None,
    preset: str = "causalcine",
    changes: dict | None = None,
) -> StageRun:
    """Set up the training of a base model under a memory, of the size of what it starts from; it
    goes on if it has begun."""
    start = {"model": load(init).model.config} if init else {}
    same = TRAINED_ALIKE | start | (SMOKE if preset == "smoke" else {}) | (changes or {})
    recipe = same | {"camr": memory_named(memory)}
    films = chunked_store(store, preset=preset, init=init, chunk=same["chunk"])
    return stages.teacher_forcing(folder, films, preset, init, seed, recipe)


def chunked_store(store: Any, *, preset: str, init: str | None, chunk: int) -> Any:
    """Return a store as it is; one of a folder is built there, of the start's world and in shots of
    whole chunks, where there is none, and a build that was stopped is finished."""
    if not isinstance(store, (str, Path)):
        return store
    kind = preset if preset in ("smoke", "h100") else "toy"
    changes = {"grain": chunk}
    world = str(world_in(init)) if init else DEFAULT
    recipe = Path(store) / "store.json"
    if recipe.exists():
        stored = read_sealed(recipe, STORE_AGAIN)
        wanted = to_dict(override(presets.store(kind, world=world), changes))
        if any(stored.get(name) != value for name, value in wanted.items()):
            return store  # somebody's own, and whole
    return stages.film_store(store, kind, changes=changes, world=world)


def trained(stage: StageRun) -> float:
    """Train to the end, saying early how long it will take; returns the seconds of all sittings."""
    left = stage.config.steps - (stage.run.step or 0)
    began = perf_counter()
    for done, _ in enumerate(stage.train(), 1):
        if done == TIMED:
            hours = (perf_counter() - began) / TIMED * left / 3600
            print(f"training: {left} steps, about {hours:.1f} hours", flush=True)
    return float(stage.run.done_info["seconds"])


def variants(policy: Policy, chunk: int, layers: int) -> dict[str, Policy]:
    """Return the memories that an evaluation puts in place of a base's own CAMR, by name: one
    setting differs in each. All but the sweeps of k and of the window, and the unit, attend to as
    many latent frames."""
    made: dict[str, Policy] = {"under full": FULL, "under causalcine": CausalCine()}
    if isinstance(policy, CAMR) and not isinstance(policy, RandomTopK):
        made |= _sizes(policy, chunk) | _ways(policy) | _layers(policy, layers)
    return {name: one for name, one in made.items() if one != policy}


def _sizes(policy: CAMR, chunk: int) -> dict[str, Policy]:
    """The sweeps of k and of the window, and whole chunks as pages: at least as many frames."""
    k = policy.budget - policy.window
    frames = {f"k={n}": replace(policy, budget=policy.window + n) for n in RETRIEVED}
    windows = {
        f"window={n}": replace(policy, window=n * chunk, budget=n * chunk + k) for n in WINDOWS
    }
    recent, others = (-(-n // chunk) for n in (policy.window, k))
    chunks = replace(policy, unit="chunk", window=recent, budget=recent + others)
    return {**frames, **windows, "unit=chunk": chunks}


def _ways(policy: CAMR) -> dict[str, Policy]:
    """The other score, the other grouping of heads, the other positions."""
    mean = replace(policy, score="mean", summary=1)
    mass = replace(policy, score="mass", summary=CAMR.summary)
    heads = {f"per_head={way}": replace(policy, per_head=way) for way in (False, True)}
    places = {f"positions={way}": replace(policy, positions=way) for way in ("absolute", "packed")}
    return {"score=mean": mean, "score=mass": mass, **heads, **places}


def _layers(policy: CAMR, layers: int) -> dict[str, Policy]:
    """Retrieval in a part of the layers alone (the question of LayerRecall, arXiv 2608.28460): the
    first, the middle and the last ones."""
    parts = np.array_split(np.arange(layers), min(PARTS_OF_LAYERS, layers))
    return {
        f"layers {part[0]} to {part[-1]}": replace(policy, routed_layers=tuple(part.tolist()))
        for part in parts
    }


def training_cell(
    run_dir: str | Path,
    store: Any,
    memory: str,
    seed: int,
    *,
    init: str | None,
    preset: str = "causalcine",
    changes: dict | None = None,
    measured: Measured | None = None,
) -> pd.DataFrame:
    """Train one base model and measure it; returns its rows.

    Writes rows.parquet, layers.parquet (what every layer retrieved) and cell.json to `run_dir`, and
    the base model to its folder `checkpoint`.
    """
    folder = Path(run_dir)
    how = measured or Measured()
    about = {"memory": memory, "seed": seed}
    stage = base_training(
        folder / "run", store, memory, seed, init=init, preset=preset, changes=changes
    )
    seconds = trained(stage)
    bundle = load(stage.export(folder / "checkpoint"))
    began = perf_counter()
    rows, layers = measure_base(folder / "parts", bundle, memory, seed=seed, how=how)
    save_rows(rows.assign(**about), folder / "rows.parquet")
    table = layers.assign(**about)
    write_atomic(folder / "layers.parquet", lambda path: table.to_parquet(path))
    cost = {
        "training seconds": round(seconds, 1),
        "measuring seconds": round(perf_counter() - began, 1),
    }
    own = {
        "policy": policy_dict(memory_named(memory)),
        "init": init and str(init),
        "preset": preset,
    }
    write_json(folder / "cell.json", {**about, **own, **cost, **hardware()})
    return rows.assign(**about)


def measure_base(
    folder: Path, bundle: Bundle, memory: str, *, seed: int, how: Measured
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure a base under its own memory and its variants, part by part: its rows, and what every
    layer retrieved. A part that is there is not measured again."""
    reader = load_recogniser(world=bundle.world)
    own = memory_named(memory)
    plan = list(_parts(own, bundle, how))
    _same_measurements(folder / "measured.json", how)
    rows, layers = [], []
    began = perf_counter()
    for number, (variant, policy, away) in enumerate(plan):
        place = folder / f"{number:02d}"
        if not (place / "rows.parquet").exists():
            _measure(place, bundle, reader, policy=policy, away=away, seed=seed, how=how)
            hours = (perf_counter() - began) / (number + 1) * (len(plan) - number - 1) / 3600
            print(f"{memory}, {variant}: measured, about {hours:.2f} hours left", flush=True)
        settings = {"variant": variant, "away": away}
        rows.append(load_rows(place / "rows.parquet").assign(**settings))
        layers.append(read_frame(place / "layers.parquet", AGAIN).assign(**settings))
    return pd.concat(rows, ignore_index=True), pd.concat(layers, ignore_index=True)


def _same_measurements(path: Path, how: Measured) -> None:
    """Write down what is measured. Raises CinelabError where parts of other measurements are
    there."""
    mine = to_dict(how)
    if path.exists() and (old := read_json(path)) != mine:
        key = next(key for key in mine if mine[key] != old.get(key))
        raise CinelabError(
            f"{path.parent} holds measurements with {key}={old.get(key)!r}, not {mine[key]!r}; "
            "remove the folder, or name another run_dir."
        )
    write_json(path, mine)


def _parts(own: Policy, bundle: Bundle, how: Measured) -> Iterator[tuple[str, Policy, int]]:
    """Yield what is measured: the variant's name, its policy, and the shots away, 0 = whole
    films."""
    yield OWN, own, 0
    # at the absence of the variants too, so that each has what it differs from
    for away in sorted({*how.away, *(() if how.swept is None else (how.swept,))}):
        yield OWN, own, away
    if how.swept is not None:
        layers = bundle.model.config.num_layers
        for name, policy in variants(own, bundle.chunk, layers).items():
            yield name, policy, how.swept


def _measure(
    place: Path,
    bundle: Bundle,
    reader: Recogniser,
    *,
    policy: Policy,
    away: int,
    seed: int,
    how: Measured,
) -> None:
    """Write the rows of one part, and what its layers retrieved."""
    rule = seeded(policy, seed)
    measure = _absences if away else _films
    rows, layers = [], []
    for start, found, table in measure(bundle, reader, rule, away=away, seed=seed, how=how):
        rows.append(row_table(numbered_from(start, found)))
        layers.append(table.assign(film=table.film + start))
    table = pd.concat(layers, ignore_index=True)
    write_atomic(place / "layers.parquet", lambda path: table.to_parquet(path))
    save_rows(pd.concat(rows, ignore_index=True), place / "rows.parquet")  # last: it says "done"


Part = tuple[int, list[Row], pd.DataFrame]


def _absences(
    bundle: Bundle, reader: Recogniser, policy: Policy, *, away: int, seed: int, how: Measured
) -> Iterator[Part]:
    """Yield the first film of a batch of absence tests, its rows and what its layers retrieved."""
    # a test states the shots that show what returns
    rule = replace(policy, shown=None) if isinstance(policy, Oracle) else policy
    tests: dict[str, Any] = {"away": away, "seed": seed, "films": how.films, "steps": how.steps}
    made = absence_films(bundle, rule, shot_latents=how.shot, reframed=False, **tests)
    for start, batch, frames, cache in made:
        truth = decode(bundle, batch.latents)
        rows = recall_and_hits(reader, cache, frames, truth=truth, batch=batch)
        yield start, rows, retrieval_by_layer(cache, batch.plans, batch.last_shot)


def _films(
    bundle: Bundle, reader: Recogniser, policy: Policy, *, away: int, seed: int, how: Measured
) -> Iterator[Part]:
    """Yield the first film of a batch of whole films, its rows, and no layers."""
    setting = FilmSetting(latents=how.latents, grain=bundle.chunk, films=how.films, seed=seed)
    nothing = pd.DataFrame({"film": pd.Series(dtype="int64")})
    starts = range(0, how.films, BATCH)
    for start in starts:
        count = min(BATCH, how.films - start)
        batch = batch_of(bundle, setting, start, count)
        lines = numbered_timelines(batch, policy.shown)
        noise = seeds_of(seed, count, start)
        latents, _ = make(bundle, lines, policy, noise, bundle.levels(how.steps))
        frames = decode(bundle, latents)
        yield start, compare_films(reader, frames, decode(bundle, batch.latents), batch), nothing


def numbered_timelines(batch: Batch, shown: str | None) -> Sequence[Timeline]:
    """Return the timelines of planned films; for an oracle, with the number of what each chunk
    shows ("who" or "where") in place of its shot, as its training had it."""
    if shown is None:
        return batch.timelines
    return [
        _numbered(line, plan, shown)
        for line, plan in zip(batch.timelines, batch.plans, strict=True)
    ]


def _numbered(line: Timeline, plan: FilmPlan, shown: str) -> Timeline:
    """A timeline whose chunks have the number of their character or place for a shot."""
    name = {"who": "character", "where": "place"}[shown]
    slots = (replace(slot, shot=getattr(plan.shots[slot.entry], name)) for slot in line.slots)
    return replace(line, slots=tuple(slots))
