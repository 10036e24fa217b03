"""Which checkpoints teach in the initialisation study, by kind: one for all trainings, or one a
seed.

    {"autoregressive": ["a0", "a1", "a2"], "bidirectional": "toybox-bidirectional-24"}

A list has one checkpoint a training seed, from seed 0: then base model, teacher, pairs and scores
are trainings of their own, and an interval over seeds speaks for them too. One checkpoint is shared
by all seeds, and the study's tables state that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cinelab.errors import CinelabError
from cinelab.train.true_past import TRUE_PAST
from cinelab.zoo import checkpoints as zoo

AUTOREGRESSIVE = "autoregressive"
BIDIRECTIONAL = "bidirectional"
SHIPPED = {AUTOREGRESSIVE: "toybox-base", BIDIRECTIONAL: "toybox-bidirectional-24"}
KINDS = (AUTOREGRESSIVE, BIDIRECTIONAL, TRUE_PAST)
# what the trainings have in common where they share a teacher of that kind
SHARED_WITH = {
    AUTOREGRESSIVE: ("base model", "autoregressive teacher", "its ODE pairs"),
    BIDIRECTIONAL: ("bidirectional teacher", "its ODE pairs", "real score", "critic's start"),
    TRUE_PAST: ("teacher given the true past", "its ODE pairs"),
}

Named = str | Sequence[str]


@dataclass(frozen=True)
class Teachers:
    """The teachers of a study by kind. `changed` are those that are not the shipped ones."""

    changed: Mapping[str, Named]

    def __post_init__(self) -> None:
        for kind, named in self.changed.items():
            if kind not in KINDS:
                raise CinelabError(f"teachers has {kind!r}; its kinds are {', '.join(KINDS)}.")
            if not named or not all(isinstance(one, str) for one in _listed(named)):
                raise CinelabError(
                    f"teachers.{kind} is {named!r}; give a checkpoint, or a list with one for each "
                    "seed."
                )

    def of(self, kind: str, seed: int) -> str:
        """Return the checkpoint that teaches under a seed."""
        named = self.changed.get(kind, SHIPPED.get(kind, ""))
        if not named:
            raise CinelabError(
                f"No checkpoint of the kind {kind} is shipped; train one with "
                f"`cinelab sweep experiments/teachers.yaml` and name it in teachers.{kind}."
            )
        if isinstance(named, str):
            return named
        if seed >= len(named):
            raise CinelabError(
                f"teachers.{kind} lists {len(named)} checkpoints and the seed is {seed}; list one "
                "for each seed, from seed 0."
            )
        return named[seed]

    def shared(self, kind: str) -> bool:
        """Whether all seeds have one teacher of that kind."""
        return isinstance(self.changed.get(kind, ""), str)

    def in_common(self, kinds: Sequence[str]) -> list[str]:
        """Return what trainings that take teachers of these kinds share."""
        found = [part for kind in kinds if self.shared(kind) for part in SHARED_WITH[kind]]
        return list(dict.fromkeys(found))

    def check(self, seed: int, kinds: Sequence[str]) -> None:
        """Raise CinelabError where a teacher of one of these kinds is not there."""
        for kind in kinds:
            zoo.find(self.of(kind, seed))


def _listed(named: Any) -> Sequence[Any]:
    return [named] if isinstance(named, str) else list(named)
