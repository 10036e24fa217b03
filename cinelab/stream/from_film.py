"""A film that was written becomes a session: it can be looked into, and directed on from any of its
chunks."""

from collections.abc import Callable
from pathlib import Path

from cinelab.config import from_dict, read_mapping
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.memory.policy import BUILT_IN, Policy, budget_of, name_of
from cinelab.memory.policy_io import policy_from_dict
from cinelab.script.screenplay import Screenplay
from cinelab.script.timeline import plan, with_caption
from cinelab.stream.batch import policy_for
from cinelab.stream.commands import Settings, checked
from cinelab.stream.director import asks_of
from cinelab.stream.generator import ChunkRequest
from cinelab.stream.session import Node, Session
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

# what of film.json a session needs
FILM = {
    "model": str,
    "seed": int,
    "policy": dict | None,
    "sampling": dict | None,
    "bf16": bool | None,
}


def session_from_film(
    play: Screenplay,
    folder: str | Path,
    bundle: Bundle,
    settings: Settings,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Session:
    """Make a screenplay's film chunk by chunk in a new session; `settings` hold until the
    screenplay says otherwise.

    The chunks are those of a `Director` with the same seed, policy and levels, bit for bit.
    """
    line = plan(play, bundle.fps, bundle.codec.stride, bundle.chunk)
    settings = checked(settings)
    opening = ChunkRequest(
        "",
        seed=settings.seed,
        policy=policy_for(bundle, settings.policy, settings.budget),
        sampling=bundle.levels(settings.steps),
    )
    asks = asks_of(line, opening, bundle)
    session = Session.create(folder, bundle, settings, bf16)
    steps = settings.steps
    prompt = ""
    for slot, ask in zip(line.slots, asks, strict=True):
        if slot.turn is not None:
            prompt = with_caption(play.caption, slot.turn.prompt)
            steps = steps if slot.turn.steps is None else slot.turn.steps or None
        said = Settings(
            prompt, ask.seed, *_said(ask.policy, bundle, settings.budget), steps, settings.switch
        )
        session.make(
            Node(
                slot.index,
                session.desk.head,
                slot.shot,
                slot.cut,
                said,
                line.prompts[slot.prompt],
                ask.recache,
                slot.index,
            )
        )
        if progress:
            progress(slot.index + 1, len(line.slots))
    session.do("branch", chunk=line.slots[-1].index)  # from here on it is directed as any other
    return session


def follow_run(
    run: str | Path, folder: str | Path, progress: Callable[[int, int], None] | None = None
) -> Session:
    """The film of a run (`cinelab direct`, or a desk's export) as a session. Raises CinelabError
    where it was made as none can."""
    run = Path(run)
    if not (run / "film.json").exists() or not (run / "screenplay.yaml").exists():
        raise CinelabError(
            f"{run} is no film's folder: it lacks film.json or screenplay.yaml. Name one that "
            "`cinelab direct` or the desk wrote, or a session's."
        )
    told = read_mapping(run / "film.json", **FILM)
    play = Screenplay.load(run / "screenplay.yaml")
    bundle = load(told["model"])
    settings = Settings(
        seed=told["seed"],
        **_policy(told.get("policy"), bundle),
        steps=_steps(told.get("sampling"), bundle),
    )
    return session_from_film(play, folder, bundle, settings, told.get("bf16", False), progress)


def _said(policy: Policy, bundle: Bundle, unlimited: int) -> tuple[str | Policy, int]:
    """A policy as a session's settings say it: name and budget where these are all of it, else the
    policy itself."""
    name = name_of(policy)
    budget = budget_of(policy, unlimited)
    whole = name in BUILT_IN and budget >= 3 and policy_for(bundle, name, budget) == policy
    return (name if whole else policy), budget


def _policy(told: dict | None, bundle: Bundle) -> dict:
    """The policy that a film was made under, as settings."""
    if told is None:
        return {}
    return dict(
        zip(
            ("policy", "budget"),
            _said(policy_from_dict(told, "film.json"), bundle, Settings().budget),
            strict=True,
        )
    )


def _steps(told: dict | None, bundle: Bundle) -> int | Sampling | None:
    """The levels that a film was made at: None for the model's own, their number where that is all
    of it, else all settings."""
    sampling = bundle.sampling if told is None else from_dict(Sampling, told)
    if sampling == bundle.sampling:
        return None
    return sampling.steps if sampling == bundle.levels(sampling.steps) else sampling
