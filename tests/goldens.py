"""What test_golden.py compares: films, sessions, training steps and scores.

    PYTHONPATH=. python tests/goldens.py --record           write tests/golden/<group>.json
    PYTHONPATH=. python tests/goldens.py --record films     the same for one group

An *entry* is a function that returns named results: arrays, weights, or lists of numbers or texts.
All of the package that the entries use is imported here and in golden_training.py, so that a
renamed function is adapted in these two files alone. What an entry stores names no column, setting
or class of the package: rows are stored as their numbers, sorted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from fingerprints import numbers_of_rows, present_conditions, rounded, summary, weights_summary
from golden_training import TRAINING

from cinelab.flow.sampler import Sampling
from cinelab.memory.policy import CAMR, FULL, Oracle, RandomTopK, ShotSink, Sink, Window
from cinelab.metrics.card import CardConfig, measure_card
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.script.screenplay import Screenplay
from cinelab.stream.batch import make
from cinelab.stream.director import Director
from cinelab.stream.session import Session, Settings
from cinelab.zoo.checkpoints import load

FOLDER = Path(__file__).parent / "golden"
SCREENPLAYS = Path(__file__).parent.parent / "experiments" / "screenplays"
Results = dict[str, object]
Entry = Callable[[Path], Results]


# Films


def film_of(director: Director, play: Screenplay, **options) -> Results:
    """Return the frames (F, H, W, 3), fp32 latents (F', C, h, w) and retrieved pages of a film."""
    latents = []
    film = director.render(
        play, show=lambda chunk: latents.append(chunk.latents[0].float()), **options
    )
    routing = film.routing.select_dtypes("number").round(5).to_dict("records")
    return {
        "frames": film.frames,
        "latents": torch.cat(latents),
        "routing": numbers_of_rows(routing),
    }


def first_film(path: Path, folder: Path) -> Results:
    """Return a film of experiments/screenplays as `cinelab film` makes it."""
    return film_of(Director(load("toybox-2step")), Screenplay.load(path))


FILMS = {path.stem: partial(first_film, path) for path in sorted(SCREENPLAYS.iterdir())}


# Checkpoints under policies


CAT = "wide shot of a red cat that waves in the meadow by day"
ROBOT = "close shot of a blue robot that dances in the city at night"
JUMP = "wide shot of a red cat that jumps in the meadow by day"


@cache
def short_play(seconds: float, first: str = CAT) -> Screenplay:
    """Return three shots; the third shows the first character again and changes its prompt."""
    change = {"at": seconds / 2, "prompt": JUMP}
    prompts = ({"prompt": first}, {"prompt": ROBOT}, {"prompt": CAT, "changes": [change]})
    shots = [shot | {"seconds": seconds} for shot in prompts]
    return Screenplay.parse(json.dumps({"title": "short", "seed": 5, "shots": shots}))


SECONDS = {"toybox-chunk-4step": 2.25}  # of a shot, where a chunk has three latent frames
CHECKPOINTS = ("toybox-1step", "toybox-2step", "toybox-4step", "toybox-chunk-4step", "toybox-base")
LONGER = {"shot_sink": 4 / 3, "camr_sinks": 4 / 3}  # so that a shot outgrows its sink and window
STEPS = {"toybox-base": 3}  # of a teacher, whose own number takes long
POLICIES = {
    "full": "full",
    "window": Window(window=3),
    "sink": Sink(sink=1, window=2),
    "shot_sink": ShotSink(sink=1, shot_sink=1, window=1),
    "camr": CAMR(budget=3),
    "camr_mean": CAMR(budget=3, score="mean"),
    "camr_per_head": CAMR(budget=3, per_head=True),
    "camr_packed": CAMR(budget=3, positions="packed"),
    "camr_sinks": CAMR(budget=4, sink=1, shot_sink=1),
    "camr_frame": CAMR(budget=4, unit="frame"),
    "window_packed": Window(window=3, positions="packed"),
    "random": RandomTopK(budget=3),
    "random_shared": RandomTopK(budget=3, shared=True),
    "oracle": Oracle(budget=3, shots=(0,)),
}


@cache
def checkpoint(name: str):
    return load(name)


def director_of(name: str, policy: object, memory: dict | None = None, **options) -> Director:
    bundle = checkpoint(name)
    if memory:
        bundle = replace(bundle, memory=dict(bundle.memory) | memory)
    return Director(bundle, policy, sampling=STEPS.get(name), **options)


def under_policy(name: str, policy: str, folder: Path) -> Results:
    play = short_play(SECONDS.get(name, 0.75) * LONGER.get(policy, 1))
    return film_of(director_of(name, POLICIES[policy]), play)


def with_options(name: str, options: dict, folder: Path) -> Results:
    return film_of(director_of(name, CAMR(budget=3), **options), short_play(0.75))


def from_frame(folder: Path) -> Results:
    """Return a film that begins with a given frame."""
    bundle = checkpoint("toybox-2step")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*bundle.size, 3), dtype=np.uint8)
    return film_of(director_of("toybox-2step", CAMR(budget=3)), short_play(0.75), first=frame)


def guided_batch(policy: object, folder: Path) -> Results:
    """Return the latents (2, F, C, h, w) of two films that a guided teacher makes together."""
    director = director_of("toybox-base", policy)
    lines = [director.timeline(short_play(0.75, first)) for first in (CAT, ROBOT)]
    sampling = Sampling(3, guidance=3.0)
    latents, _ = make(director.bundle, lines, policy, [1, 2], sampling, bf16=False)
    return {"latents": latents}


OPTIONS = {
    "host": {"memory": {"place": "host", "slots": 4}},
    "int8": {"memory": {"packing": "int8"}},
    "host_int8": {"memory": {"place": "host", "packing": "int8", "slots": 4}},
    "bf16": {"bf16": True},
    "fused": {"fused": True},
    "overlap": {"overlap": True},
    "seed": {"seed": 11},
}
STUDENTS = {
    f"{name}-{policy}": partial(under_policy, name, policy)
    for name in CHECKPOINTS
    for policy in POLICIES
}
STUDENTS |= {
    f"toybox-2step-{name}": partial(with_options, "toybox-2step", options)
    for name, options in OPTIONS.items()
}
STUDENTS |= {
    "toybox-2step-first-frame": from_frame,
    "toybox-base-guided-batch-camr": partial(guided_batch, CAMR(budget=3)),
    "toybox-base-guided-batch-full": partial(guided_batch, FULL),
}


# Sessions


def play(session: Session, chunks: int) -> None:
    for _ in range(chunks):
        session.step()


def directed(session: Session) -> None:
    """Prompt changes in mid-shot, cuts, a retake, policies, levels, a branch and an undo."""
    play(session, 3)
    session.do("prompt", text=JUMP, switch="recache")
    play(session, 2)
    session.do("cut", text=ROBOT)
    play(session, 2)
    session.do("retake")
    play(session, 3)
    session.do("policy", value="window")
    session.do("budget", value=4)
    play(session, 1)
    session.do("policy", value="camr")
    session.do("prompt", text=CAT, switch="keep")
    session.do("levels", value=2)
    play(session, 2)
    session.do("cut")
    session.do("seed", value=11)
    play(session, 2)
    session.do("branch", chunk=4)
    play(session, 1)
    session.do("seed", value=12)
    session.do("undo")
    session.do("prompt", text=JUMP, switch="cut")
    play(session, 2)


def recached_under_another_policy(session: Session) -> None:
    """A shot's chunks are cached once more under the policy of the next chunk."""
    play(session, 4)
    session.do("policy", value="sink")
    session.do("budget", value=3)
    session.do("prompt", text=JUMP, switch="recache")
    play(session, 3)


def results_of(session: Session) -> Results:
    """Return the latents of all chunks, the frames up to the head, and the list of chunks."""
    nodes = session.nodes.values()
    chunks = [
        [n.number, n.parent, n.shot, n.cut, n.recache, n.index, n.settings.seed, n.model_prompt]
        for n in nodes
    ]
    latents = [session.latents(number) for number in session.nodes]
    return {
        "chunks": chunks,
        "latents": torch.cat(latents),
        "frames": session.frames(),
        "path": session.path(),
    }


def session_of(name: str, commands: Callable, policy: str, folder: Path) -> Results:
    settings = Settings(CAT, seed=3, policy=policy, budget=3)
    with Session.create(folder / "session", checkpoint(name), settings) as session:
        commands(session)
        return results_of(session)


def session_resumed(folder: Path) -> Results:
    """Return a session that is read from its folder again, retakes its last shot and goes on."""
    session_of("toybox-1step", directed, "camr", folder)
    with Session.resume(folder / "session", checkpoint("toybox-1step")) as session:
        session.do("retake", seed=21)
        play(session, 2)
        return results_of(session)


SESSIONS = {
    "directed": partial(session_of, "toybox-2step", directed, "camr"),
    "directed-chunks": partial(session_of, "toybox-chunk-4step", directed, "camr"),
    "recache": partial(session_of, "toybox-1step", recached_under_another_policy, "full"),
    "resumed": session_resumed,
}


# Scores


# what joined them after they were recorded
JOINED = ("framing offset", "framing drift", "at the edge")
LOGGED = (*JOINED, "identity above chance", "diversity of identity")


def card_scores(name: str, folder: Path) -> Results:
    """Return every value of a small score card, sorted."""
    config = CardConfig(
        seeds=(0,), films=2, latents=6, shot_latents=(2, 3), away=(1,), reframed_away=1
    )
    rows = measure_card(checkpoint(name), load_recogniser(), CAMR(budget=3), config)
    rows = rows[~rows["metric"].isin(JOINED)]
    return {"values": rounded(rows.value.dropna()), "rows": [len(rows)]}


def validation_scores(folder: Path) -> Results:
    """Return the metrics by which a training chooses its best weights, sorted."""
    config = ValidationConfig(films=2, latents=6, shot_latents=(2, 3), recalls=2, away=1)
    bundle = checkpoint("toybox-2step")
    found = Validator(bundle, load_recogniser(), CAMR(budget=3), config)(bundle.model)
    return {"values": rounded(value for name, value in found.items() if name not in LOGGED)}


SCORES = {"card": partial(card_scores, "toybox-2step"), "validation": validation_scores}

GROUPS: dict[str, dict[str, Entry]] = {
    "films": FILMS,
    "students": STUDENTS,
    "sessions": SESSIONS,
    "training": TRAINING,
    "scores": SCORES,
}


# Recording


def computed(group: str, name: str, folder: Path) -> dict[str, dict]:
    """Return the summaries of all results of an entry."""
    results = GROUPS[group][name](folder)
    return {
        key: weights_summary(result.values()) if isinstance(result, dict) else summary(result)
        for key, result in results.items()
    }


def recorded(group: str) -> dict:
    """Return what was recorded of a group: its conditions and entries."""
    return json.loads((FOLDER / f"{group}.json").read_text())


def record(group: str) -> None:
    entries = {}
    for name in GROUPS[group]:
        with tempfile.TemporaryDirectory() as folder:
            entries[name] = computed(group, name, Path(folder))
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()
    )
    text = f'{{"conditions": {json.dumps(present_conditions())},\n"entries": {{\n{lines}\n}}}}\n'
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{group}.json").write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Record the golden results.")
    parser.add_argument(
        "--record", nargs="*", choices=GROUPS, required=True, help="groups; default: all"
    )
    torch.set_num_threads(1)
    for group in parser.parse_args().record or GROUPS:
        record(group)
        print(f"Recorded {len(GROUPS[group])} entries of {group}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
