"""A teacher for the control of the initialisation study: bidirectional, given the true past, and
trained until its end points follow their prompts as well as the autoregressive teacher's do.

A control whose teacher is the weaker model isolates nothing. So a round trains on (stage 0 with
`true_past`, at a constant rate), measures the prompt of both teachers' end points on the same
held-out films, and the rounds end when this one's is as high, or after the most that are allowed;
the table says which.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.plots import TEMPLATE
from cinelab.lab.studies.initialisation_cell import SMOKE, teacher_rows
from cinelab.lab.training import stages
from cinelab.latent.store import Store
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.texts import read_json
from cinelab.train import presets
from cinelab.train.true_past import TRUE_PAST
from cinelab.zoo import checkpoints as zoo

CHOSEN_ON = 20_000  # added to the held-out seeds: no card and no student is measured on these films
RECIPE = {"true_past": 0.9, "images_until": 0.0, "optim.floor": 1.0, "optim.lr": 2e-4}
FILE = "rounds.json"


@dataclass(frozen=True)
class Rounds:
    """How a teacher is trained: `steps` a round, at most `most` rounds, each ended by a measurement
    on `films` held-out films. `changes` are of stage 0."""

    steps: int = 500
    most: int = 8
    films: int = 24
    seed: int = 0
    preset: str = "toy"
    changes: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.steps, self.most) < 1 or self.films < 2:
            raise CinelabError(
                f"steps is {self.steps}, most is {self.most} and films is {self.films}; give at "
                "least 1, 1 and 2."
            )

    def prompt(self, reader: Recogniser, teacher: str | Path, kind: str) -> float:
        """The share of prompted attributes that the end points of a teacher show."""
        sizes = SMOKE if self.preset == "smoke" else {"films": self.films, "latents": 24}
        rows = teacher_rows(
            reader,
            teacher,
            CHOSEN_ON + self.seed,
            films=sizes["films"],
            config=presets.pairs(self.preset, kind),
            latents=sizes["latents"],
        )
        return round(float(rows[rows.metric == "prompt"].value.mean()), 4)


def train_until_level(
    run_dir: str | Path,
    store: Store,
    rounds: Rounds,
    *,
    init: str | Path,
    against: str | Path,
) -> pd.DataFrame:
    """Train the teacher; returns a row a round: round, steps, prompt, against, level. Resumable.
    The checkpoint is <run_dir>/checkpoint, of the last round.

    `init` is the bidirectional checkpoint that it begins as, `against` the autoregressive teacher.
    """
    folder = Path(run_dir)
    record = folder / FILE
    reader = load_recogniser(world=zoo.world_in(against))
    found: list[dict] = read_json(record) if record.exists() else []
    goal = found[0]["against"] if found else rounds.prompt(reader, against, "autoregressive")
    while len(found) < rounds.most and not (found and found[-1]["level"]):
        number = len(found) + 1
        made = _trained(folder, store, rounds, init=init, steps=number * rounds.steps)
        prompt = rounds.prompt(reader, made, TRUE_PAST)
        about = {"round": number, "steps": number * rounds.steps, "prompt": prompt}
        found.append(about | {"against": goal, "level": prompt >= goal})
        write_json(record, found)
    return pd.DataFrame(found)


def _trained(folder: Path, store: Store, rounds: Rounds, *, init: str | Path, steps: int) -> Path:
    """The checkpoint after so many steps; a later call continues the run."""
    model = zoo.load(init).model.config  # of the checkpoint that it goes on from
    recipe = RECIPE | rounds.changes | {"steps": steps, "model": model}
    run = stages.bidirectional(folder / "run", store, rounds.preset, str(init), rounds.seed, recipe)
    for _ in run.train():
        pass
    return run.export(folder / "checkpoint")


def rounds_figure(rounds: pd.DataFrame) -> go.Figure:
    """The prompt of both teachers' end points over the steps."""
    fig = go.Figure(layout={"template": TEMPLATE, "title": "Prompt of the teachers' end points"})
    fig.add_scatter(
        x=rounds.steps, y=rounds.prompt, name="given the true past", mode="lines+markers"
    )
    fig.add_scatter(x=rounds.steps, y=rounds.against, name="autoregressive", mode="lines")
    return fig.update_xaxes(title="steps")
