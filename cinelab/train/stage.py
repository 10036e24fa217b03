"""A stage of the training as one registered object: its settings and presets, the networks that it
takes, what it draws from, its learners, and what its result is.

    @register.stage("mine")
    class Mine(Stage):
        config = BidirectionalTraining

        def presets(self, seed):
            return {"toy": BidirectionalTraining(TOY, steps=200, seed=seed)}

        def learners(self, config, data, networks):
            def loss(model, step, micro_batch, rng):
                clips = data.clips(8, 4, fork_rng(rng, micro_batch))
                return my_loss(model, clips, rng), {}

            return [Learner(networks["student"], loss, config.optim)]

The name is then known wherever a stage is: in `cinelab.lab.training.stages.train_stage`, in a job
of `cinelab train` (another process finds it by its import path, `my_module:Mine`), to the planner
and to the exporter.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.latent.placed import placed
from cinelab.registry import Registry
from cinelab.runs import Run
from cinelab.train.compiled import with_compiled_blocks
from cinelab.train.computing import is_compiled
from cinelab.train.loop import Columns, Learner, Validator
from cinelab.train.loop import train as run_loop
from cinelab.train.precision import require_full_precision
from cinelab.train.provenance import check_fits, data_of
from cinelab.train.rewards import Reward
from cinelab.train.trained_policy import trained_under

# Imported when a stage is first looked up: each registers its own.
BUILT_IN = ("bidirectional", "teacher_forcing", "ode", "consistency", "dmd", "forward_process")
STAGES = Registry("stage", builtin=tuple(f"cinelab.train.{name}" for name in BUILT_IN))
# What a stage draws from: clips of a store, or ODE pairs that a teacher has made of them.
CLIPS = "clips"
PAIRS = "ODE pairs"
# Where a network's weights come from: the entries of a job (and arguments of a notebook).
INIT = "init"
TEACHER = "teacher"

T = TypeVar("T")
Networks = Mapping[str, Any]  # the networks of a stage by their roles


@dataclass(frozen=True)
class Role:
    """A network that a stage takes: what the stage calls it, whose weights it begins with, and
    whether it is trained or frozen."""

    name: str
    start: str = INIT
    trained: bool = True
    title: str = "initial checkpoint"  # of the weights it begins with, in messages


STUDENT = Role("student")


class Stage:
    """A stage of the training. One of your own gives `config`, `presets` and `learners`; the rest
    has defaults."""

    config: type  # of its settings: a frozen dataclass with model, optim, steps, seed, bf16, ...
    roles: tuple[Role, ...] = (STUDENT,)  # the first is what is exported
    draws_from: str = CLIPS
    causal: bool = True  # whether its result makes films, or short clips only
    validated: bool = False  # whether a notebook validates it and exports its best checkpoint
    # What a step costs (see `cinelab.scale.cost`): whether the clip is shown twice, [clean |
    # noisy], and whether the student rolls out chunk by chunk.
    doubled: bool = False
    rolls_out: bool = False
    # whether its steps are so small that weights in bf16 would not move
    full_precision: bool = False

    def __init__(self, name: str):
        self.name = name  # as it is exported

    def presets(self, seed: int) -> dict[str, Any]:
        """Return the stage's named settings."""
        raise NotImplementedError(f"{type(self).__name__} has no presets; add presets(self, seed).")

    def learners(self, config: Any, data: Any, networks: Networks) -> list[Learner]:
        """Return the networks under training with the losses they descend. `data` is what the
        stage draws from, a store or ODE pairs."""
        raise NotImplementedError(f"{type(self).__name__} has no learners; add learners(...).")

    def preset(self, name: str, seed: int = 0) -> Any:
        """Return the settings of a preset. CinelabError names the known ones."""
        return pick_preset(self.presets(seed), name)

    def check(self, config: Any, *, processes: int) -> None:
        """Raise CinelabError where so many processes cannot train the stage together."""

    def fitted(self, config: Any, changes: Mapping[str, Any], init: Any, teacher: Any) -> Any:
        """Return the settings fitted to the checkpoints that the networks begin with, each of which
        has span and max_distance (None: from scratch). What the user set, `changes`, stays."""
        return config

    def train(
        self,
        config: Any,
        data: Any,
        networks: Networks,
        *,
        run: Run,
        validator: Validator | None = None,
        reward: Reward | None = None,
    ) -> Iterator[Columns]:
        """Yield one log row per step; resumes. Clips are drawn where the first network is.

        `reward` computes the rewards that the settings name; learners find it as
        networks["reward"].
        """
        self.note_data(run, data, config)
        for role in self.roles if self.full_precision else ():
            require_full_precision(networks[role.name], self.name, role.name)
        device = next(networks[self.roles[0].name].parameters()).device
        if is_compiled(config, device.type, run.parallel.world if run.parallel else 1):
            for network in networks.values():
                with_compiled_blocks(network)
        if reward is not None:
            networks = {**networks, "reward": reward}
        learners = self.learners(config, placed(data, device), networks)
        return run_loop(learners, config, run, validator)

    def note_data(self, run: Run, data: Any, config: Any) -> None:
        """Note in the run what it draws from. CinelabError where the data do not fit the model, or
        are of another content than the run has had."""
        check_fits(data.store if self.draws_from == PAIRS else data, config.model)
        run.trains_on(data_of(data))

    # What the result is: the entries of its config.json.

    def sampling(self, config: Any, many_steps: Sampling) -> Sampling:
        """Return how the result is sampled; `many_steps` is the sampling of a model that is no
        few-step student."""
        return replace(many_steps, shift=getattr(config, "shift", many_steps.shift))

    def chunk(self, config: Any) -> int:
        """Return the latent frames of the result's chunks."""
        return int(getattr(config, "chunk", 1))

    def span(self, config: Any) -> int:
        """Return the latent frames of the longest clip it is trained on."""
        return int(config.frames)

    def trained_under(self, config: Any) -> dict[str, Any]:
        """Return the policy (and max_distance) under which training attended to the history."""
        return trained_under(config)

    # What it costs.

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher has to be named."""
        return self.draws_from == PAIRS or any(role.start == TEACHER for role in self.roles)

    def passes(self, back: float, chunks: int) -> float:
        """Return the forward passes over a clip that a step takes, as the stage shows the clip;
        `back` of them is a differentiated pass with its backward. `chunks` are in a clip."""
        return back


def stage(name: str) -> Callable[[type[Stage]], type[Stage]]:
    """Register a stage: a decorator for its class."""
    decorate: Callable[[type[Stage]], type[Stage]] = STAGES.add(name)
    return decorate


def stage_named(name: str) -> Stage:
    """Return the stage of a registered name or an import path; CinelabError gives the nearest
    name."""
    kind = STAGES.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise CinelabError(
            f"stage is {name!r}, which is no class below cinelab.train.stage.Stage; derive it from "
            "that class."
        )
    return kind(name)


def pick_preset(presets: Mapping[str, T], preset: str) -> T:
    """Return the settings of a preset; CinelabError names the known ones."""
    if preset not in presets:
        raise CinelabError(f"Preset {preset!r} is unknown here; use one of {', '.join(presets)}.")
    return presets[preset]
