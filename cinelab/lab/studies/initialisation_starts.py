"""Stage 2 of a cell of the initialisation study: the start that DMD is given, and what it cost.

none                  the autoregressive base model itself
bidirectional_ode     ODE pairs of the bidirectional teacher, noisy history, a level a chunk
                      (Self Forcing, CausVid)
bidirectional_clean   the same pairs, the past's end points as history (no paper's); differs
                      from causal_ode by the teacher, by that teacher's quality, and by a
                      history that was made instead of true
bidirectional_true_past
                      ODE pairs of a bidirectional teacher that is given the true past, as the
                      autoregressive one is: differs from causal_ode by the noisy future alone
                      (no paper's; experiments/teachers.yaml trains a teacher of the kind)
causal_ode            ODE pairs of the autoregressive teacher, true history (Causal Forcing)
consistency           causal consistency distillation (Causal Forcing++)
consistency_equal_seconds
                      the same for as many steps as take causal_ode's seconds, pairs included
score                 causal score distillation: DMD by autoregressive scores under the true
                      history, at 4 levels
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from cinelab.config import override
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_json
from cinelab.lab.studies.teachers import AUTOREGRESSIVE, BIDIRECTIONAL, Teachers
from cinelab.lab.training import students
from cinelab.lab.training.run import StageRun
from cinelab.latent.store import Store
from cinelab.seeds import rng_at
from cinelab.texts import read_json
from cinelab.train import pairs as ode_pairs
from cinelab.train import presets
from cinelab.train.true_past import TRUE_PAST
from cinelab.zoo import checkpoints as zoo

CONSISTENCIES = ("consistency", "consistency_equal_seconds")
INITS = (
    "none",
    "bidirectional_ode",
    "bidirectional_clean",
    TRUE_PAST,
    "causal_ode",
    *CONSISTENCIES,
    "score",
)
HISTORIES = {
    "causal_ode": "truth",
    TRUE_PAST: "truth",
    "bidirectional_ode": "noisy",
    "bidirectional_clean": "clean",
}
ROUNDS = 5  # turns in which seconds are measured


@dataclass(frozen=True)
class CellPlan:
    """What a cell trains: a start under a seed, and what with. `changes` are dotted overrides by
    stage; `stage2_steps` are those of ODE and consistency (None: as their settings have it)."""

    init: str
    seed: int
    store: Store
    pairs: str | Path
    preset: str = "toy"
    changes: dict = field(default_factory=dict)
    teachers: Teachers = field(default_factory=lambda: Teachers({}))
    stage2_steps: int | None = None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise CinelabError(f"init is {self.init!r}; use one of {', '.join(INITS)}.")
        check_changes(self.changes, self.preset)
        self.teachers.check(self.seed, self.kinds)

    @property
    def kinds(self) -> list[str]:
        """The kinds of teachers that the cell takes: of its base model, its start, and DMD."""
        taken = (AUTOREGRESSIVE, teacher_of(self.init) or AUTOREGRESSIVE, BIDIRECTIONAL)
        return list(dict.fromkeys(taken))

    @property
    def base(self) -> str:
        """The autoregressive base model that students begin as."""
        return self.teachers.of(AUTOREGRESSIVE, self.seed)

    @property
    def real(self) -> str:
        """The real score of DMD."""
        return self.teachers.of(BIDIRECTIONAL, self.seed)

    def recipe(self, stage: str) -> dict:
        """The overrides of a stage."""
        steps = {"steps": self.stage2_steps} if self.stage2_steps else {}
        return self.changes.get(stage, {}) | (steps if stage in ("ode", "consistency") else {})

    @property
    def nominal_steps(self) -> int:
        """Steps of stage 2 at equal clips, 0 where there is no such stage."""
        if self.init in ("none", "score"):
            return 0
        stage = "ode" if self.init in HISTORIES else "consistency"
        return override(getattr(presets, stage)(self.preset), self.recipe(stage)).steps


def check_changes(changes: dict, preset: str = "toy") -> None:
    """Refuse changes by stage that a cell could only refuse hours later: unknown stages and
    settings."""
    makers = {name: getattr(presets, name) for name in ("ode", "consistency", "pairs", "dmd")}
    makers["score"] = presets.dmd
    for stage, settings in changes.items():
        if stage not in makers:
            raise CinelabError(f"changes has {stage!r}; its stages are {', '.join(makers)}.")
        override(makers[stage](preset), settings)


def teacher_of(init: str) -> str | None:
    """The kind of teacher that an initialisation learns from; None where it learns from none."""
    if init in (*CONSISTENCIES, "causal_ode", "score"):
        return AUTOREGRESSIVE
    if init == TRUE_PAST:
        return TRUE_PAST
    return BIDIRECTIONAL if init in HISTORIES else None


def stage_two(folder: Path, plan: CellPlan) -> tuple[str | Path, dict]:
    """The checkpoint that DMD starts from, and what it cost.

    The cost has `stage 2 seconds`, `pairs seconds`, `stored bytes`, `clips seen` and, at equal
    seconds, the `turns` that these were measured by.
    """
    nothing = {"stage 2 seconds": 0.0, "clips seen": 0, "pairs seconds": 0.0, "stored bytes": 0}
    if plan.init == "none":
        return plan.base, nothing
    regressed = plan.init in HISTORIES
    make = _regressed if regressed else _scored if plan.init == "score" else _consistent
    stage, cost = make(folder, plan)
    for _ in stage.train():
        pass
    clips = stage.config.pairs.batch if regressed else stage.config.batch
    seen = {"clips seen": clips * stage.config.steps}
    took = {"stage 2 seconds": stage.run.done_info["seconds"]}
    return stage.export(folder / "checkpoint"), nothing | cost | seen | took


def _regressed(folder: Path, plan: CellPlan) -> tuple[StageRun, dict]:
    """ODE regression to the end points of a teacher's pairs."""
    made = cell_pairs(plan, teacher_of(plan.init) or "")
    recipe = {"history": HISTORIES[plan.init], "levels": "chunk"} | plan.recipe("ode")
    about = (plan.base, plan.preset, plan.seed, recipe)
    stage = students.ode(folder, made, *about, validate=False)
    return stage, {"pairs seconds": made.seconds, "stored bytes": made.bytes}


def _scored(folder: Path, plan: CellPlan) -> tuple[StageRun, dict]:
    """DMD under the true history, by autoregressive scores, at 4 levels."""
    recipe = {"known": 0.0, "score": "autoregressive", "history": "truth"}
    recipe |= {"sampling": students.few_steps(4)} | plan.recipe("score")
    about = (plan.store, plan.base, plan.base, plan.preset, plan.seed, recipe)
    return students.dmd(folder, *about, validate=False), {}


def _consistent(folder: Path, plan: CellPlan) -> tuple[StageRun, dict]:
    """Consistency distillation, for its own number of steps or for causal ODE's seconds."""
    recipe = plan.recipe("consistency")
    cost = {}
    if plan.init == "consistency_equal_seconds":
        turns = taken_turns(folder.parent / "turns", plan, cell_pairs(plan, AUTOREGRESSIVE))
        steps = override(presets.consistency(plan.preset), recipe).steps
        recipe = recipe | {"steps": equal_seconds(turns, steps)}
        cost = {"turns": turns}
    about = (plan.store, plan.base, plan.preset, plan.seed, recipe)
    return students.consistency(folder, *about, validate=False), cost


def cell_pairs(plan: CellPlan, kind: str) -> ode_pairs.Pairs:
    """The ODE pairs of a kind of teacher. Cells with one teacher and one recipe share them."""
    teacher = plan.teachers.of(kind, plan.seed)
    more = plan.changes.get("pairs")
    shipped = kind not in plan.teachers.changed and not more
    name = kind if shipped else _mark(kind, teacher, more)
    return students.build_pairs(
        Path(plan.pairs) / name, plan.store, teacher, plan.preset, kind, more
    )


def _mark(kind: str, teacher: str, changes: dict | None) -> str:
    """A folder's name for the pairs of a teacher under a recipe of their own."""
    text = to_json([str(zoo.find(teacher)), changes or {}])
    return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def equal_seconds(turns: list[dict], steps: int) -> int:
    """Steps of consistency in causal ODE's seconds, where `steps` take what `turns` measured."""
    ratio = sum(turn["causal_ode"] for turn in turns) / sum(turn["consistency"] for turn in turns)
    return max(1, round(steps * ratio))


def taken_turns(folder: Path, plan: CellPlan, made: ode_pairs.Pairs) -> list[dict]:
    """Seconds that causal ODE (pairs included) and consistency take, in ROUNDS turns.

    In a turn a shard of pairs, a few ODE steps and a few consistency steps run one after the other,
    and each is scaled to its whole recipe: both meet the same machine, and the turns' spread is the
    noise of timing. Kept in turns.json, so that a cell that is resumed trains as many steps.
    """
    if (folder / "turns.json").exists():
        return read_json(folder / "turns.json")
    about: dict[str, Any] = {"preset": plan.preset, "seed": plan.seed, "validate": False}
    ode_recipe = plan.recipe("ode")
    trained = (
        students.ode(folder / "ode", made, plan.base, changes=ode_recipe, **about),
        students.consistency(
            folder / "consistency",
            plan.store,
            plan.base,
            changes=plan.recipe("consistency"),
            **about,
        ),
    )
    rounds, each = (1, 1) if plan.preset == "smoke" else (ROUNDS, 2)
    turns = list(_turns(plan, made, trained, rounds=rounds, each=each))
    write_json(folder / "turns.json", turns)
    return turns


def _turns(
    plan: CellPlan, made: ode_pairs.Pairs, trained: tuple, *, rounds: int, each: int
) -> Iterator[dict]:
    """Seconds of the whole recipes of causal ODE and consistency, a turn at a time."""
    teacher = zoo.load(plan.base)
    config = made.config
    clips = ode_pairs.clips_of(config, plan.store, 0).to(teacher.device)
    rng = rng_at(config.seed, "turn")
    noise = torch.randn(clips.latents.shape, generator=rng).to(clips.latents.device)
    running = [stage.train() for stage in trained]
    for steps in running:
        next(steps)  # the first step also sets up
    for _ in range(rounds):
        shard = _seconds(lambda: ode_pairs.trajectories(teacher.model, clips, config, noise))
        ode, consistency = (_seconds(partial(_advance, steps, each)) / each for steps in running)
        whole = shard * config.shards + ode * trained[0].config.steps
        yield {"causal_ode": whole, "consistency": consistency * trained[1].config.steps}
    for steps in running:
        steps.close()


def _advance(steps: Iterator, count: int) -> None:
    """Run so many steps of a training."""
    for _ in range(count):
        next(steps)


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
