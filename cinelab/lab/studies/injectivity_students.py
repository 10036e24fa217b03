"""The regression students of the injectivity study: one of each teacher, trained on its pairs."""

from dataclasses import replace
from pathlib import Path

from cinelab.lab.studies.injectivity import Case
from cinelab.lab.studies.teachers import SHIPPED
from cinelab.lab.training.students import build_pairs, ode
from cinelab.latent.store import Store


def with_students(
    folder: str | Path,
    cases: dict[str, Case],
    store: Store,
    pairs: str | Path,
    preset: str,
    seed: int,
    *,
    steps: int | None = None,
) -> dict[str, Case]:
    """The cases, each with a student: one trained here on its teacher's pairs where it has none,
    for so many `steps` (None: the preset's).

    Students learn from the films of `store`; they are measured on others (`held_out`).
    """
    return {
        label: _with_student(
            Path(folder) / f"student-{n}",
            case,
            store,
            pairs=pairs,
            preset=preset,
            seed=seed,
            steps=steps,
        )
        for n, (label, case) in enumerate(cases.items())
    }


def _with_student(
    folder: Path,
    case: Case,
    store: Store,
    *,
    pairs: str | Path,
    preset: str,
    seed: int,
    steps: int | None,
) -> Case:
    if case.student:
        return case
    ours = case.teacher == SHIPPED.get(case.kind)
    where = Path(pairs) / (case.kind if ours else f"{case.kind}-{Path(case.teacher).name}")
    made = build_pairs(where, store, case.teacher, preset, case.kind)  # every chunk counts
    recipe = {"history": case.given} | ({"steps": steps} if steps else {})
    stage = ode(folder, made, preset=preset, seed=seed, changes=recipe, validate=False)
    for _ in stage.train():
        pass
    return replace(case, student=stage.export(folder / "checkpoint"))
