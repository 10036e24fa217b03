"""Which initialisation should a few-step student start DMD from? One cell: one initialisation under one seed.

Everything else is fixed: base model, films, the number of DMD updates, the real score, the critic's start, the levels, and
the weights that are judged (the last average; no exam picks a lucky one). The seed moves stage 2, DMD and the judged films.

    none                  the autoregressive base model itself
    bidirectional_ode     ODE pairs of the bidirectional teacher, noisy history, a level a chunk (Self Forcing, CausVid)
    bidirectional_clean   the same pairs, the past's end points as history (no paper's); differs from causal_ode by the
                          teacher, by that teacher's quality, and by a history that was made instead of true
    causal_ode            ODE pairs of the autoregressive teacher, true history (Causal Forcing)
    consistency           causal consistency distillation (Causal Forcing++)
    score                 causal score distillation: DMD by autoregressive scores under the true history, at 4 levels
"""

from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.lab import students
from cinelab.latent.store import Store
from cinelab.memory.policy import CAMR
from cinelab.model import zoo
from cinelab.model.zoo import Bundle
from cinelab.runs import hardware
from cinelab.score.card import HELD_OUT
from cinelab.score.exam import film_marks, seeds_for
from cinelab.score.recogniser import Recogniser, load_recogniser
from cinelab.score.toybox import absence_batch, encode_plans, recall
from cinelab.stream.engine import decode
from cinelab.world import casting

INITS = ("none", "bidirectional_ode", "bidirectional_clean", "causal_ode", "consistency", "score")
TEACHERS = {"autoregressive": "toybox-base", "bidirectional": "toybox-bidirectional-24"}
BASE = TEACHERS["autoregressive"]
SMOKE = {"films": 2, "latents": 6, "away": 1}


def stage_two(folder: Path, init: str, seed: int, store: Store, pairs: str | Path, preset: str,
              changes: dict) -> tuple[str | Path, dict]:
    """The checkpoint that DMD starts from, and what it cost: seconds (pairs included) and bytes stored."""
    if init not in INITS:
        raise CinelabError(f"init is {init!r}; use one of {', '.join(INITS)}.")
    if init == "none":
        return BASE, {"stage 2 seconds": 0.0, "pairs seconds": 0.0, "stored bytes": 0}
    cost = {"pairs seconds": 0.0, "stored bytes": 0}
    if init == "consistency":
        stage = students.consistency(folder, store, BASE, preset, seed, changes.get("consistency"), exam=False)
    elif init == "score":
        recipe = {"score": "autoregressive", "history": "truth", "sampling": students.few_steps(4)}
        stage = students.dmd(folder, store, BASE, BASE, preset, seed, {"known": 0.0} | recipe | changes.get("score", {}),
                             exam=False)
    else:
        kind = "autoregressive" if init == "causal_ode" else "bidirectional"
        made = students.build_pairs(Path(pairs) / kind, store, TEACHERS[kind], preset, kind, changes.get("pairs"))
        history = {"causal_ode": "truth", "bidirectional_ode": "noisy", "bidirectional_clean": "clean"}[init]
        stage = students.ode(folder, made, BASE, preset, seed, {"history": history} | changes.get("ode", {}), exam=False)
        cost = {"pairs seconds": made.seconds, "stored bytes": made.bytes}
    for _ in stage.train():
        pass
    return stage.export(folder / "checkpoint"), {"stage 2 seconds": stage.run.done_info["seconds"], **cost}


def judge(bundle: Bundle, reader: Recogniser, seed: int, films: int, latents: int = 24, away: int = 3) -> pd.DataFrame:
    """Rows (film, metric, value) of held-out films and absence tests."""
    plans = [casting.film(HELD_OUT + seed, i, latents, (3, 6), bundle.chunk) for i in range(films)]
    batch = encode_plans(bundle, plans)
    rows = film_marks(bundle, reader, batch, decode(bundle, batch.latents), CAMR())
    absences = absence_batch(bundle, HELD_OUT + seed, range(films), away)
    recalled, _ = recall(bundle, reader, absences, CAMR(), seeds_for(films))
    return pd.concat([rows, recalled[recalled.metric == "identity"]], ignore_index=True)[["film", "metric", "value"]]


def initialisation_cell(run_dir: str | Path, store: Store, pairs: str | Path, init: str, seed: int,
                        levels: tuple[int, ...] = (1, 2, 4), films: int = 32, preset: str = "toy",
                        changes: dict | None = None) -> pd.DataFrame:
    """Measure one initialisation before and after DMD at every number of levels; writes rows.parquet and cell.json.

    `changes` are dotted overrides by stage: {"ode": {...}, "consistency": {...}, "pairs": {...}, "dmd": {...}}.
    """
    folder, changes, reader = Path(run_dir), changes or {}, load_recogniser()
    asked = SMOKE if preset == "smoke" else {"films": films}
    start, cost = stage_two(folder / "stage2", init, seed, store, pairs, preset, changes)
    parts = []
    for steps in levels:
        sampling = students.few_steps(steps)
        bundle = replace(zoo.load(start), sampling=sampling)
        parts.append(judge(bundle, reader, seed, **asked).assign(steps=steps, stage="before DMD"))
        stage = students.dmd(folder / f"dmd-{steps}", store, start, TEACHERS["bidirectional"], preset, seed,
                             changes.get("dmd", {}) | {"sampling": sampling}, exam=False)
        began = perf_counter()
        for _ in stage.train():
            pass
        cost[f"DMD seconds, {steps} levels"] = round(stage.run.done_info["seconds"], 1)
        bundle = replace(bundle, model=stage.averaged())
        parts.append(judge(bundle, reader, seed, **asked).assign(steps=steps, stage="after DMD"))
        print(f"{init}, {steps} levels: judged {perf_counter() - began:.0f} s after DMD began", flush=True)
    rows = pd.concat(parts, ignore_index=True).assign(init=init, seed=seed)
    write_atomic(folder / "rows.parquet", lambda path: rows.to_parquet(path))
    write_json(folder / "cell.json", {"init": init, "seed": seed, **cost, **hardware()})
    return rows
