"""A finished film becomes a session: it can be inspected, and directed on from any of its
chunks."""

from collections.abc import Callable
from pathlib import Path

from cinelab.config import from_dict, read_mapping
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.memory.policy import Policy
from cinelab.memory.policy_io import policy_from_dict
from cinelab.memory.policy_registry import BUILT_IN, budget_of, name_of
from cinelab.script.screenplay import Screenplay
from cinelab.script.timeline import plan, with_caption
from cinelab.stream.batch import policy_for
from cinelab.stream.commands import Settings, checked_settings
from cinelab.stream.director import requests_of
from cinelab.stream.generator import ChunkRequest
from cinelab.stream.session import Node, Session
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

# what a session needs of film.json
FILM = {
    "model": str,
    "seed": int,
    "policy": dict | None,
    "sampling": dict | None,
    "bf16": bool | None,
}


def session_from_screenplay(
    play: Screenplay,
    folder: str | Path,
    bundle: Bundle,
    *,
    settings: Settings,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Session:
    """Make a screenplay's film chunk by chunk in a new session; `settings` hold until the
    screenplay states others.

    The chunks are those of a `Director` with the same seed, policy and levels, bit for bit.
    """
    line = plan(play, bundle.fps, bundle.codec.stride, bundle.chunk)
    settings = checked_settings(settings)
    opening = ChunkRequest(
        "",
        seed=settings.seed,
        policy=policy_for(bundle, settings.policy, settings.budget),
        sampling=bundle.levels(settings.steps),
    )
    requests = requests_of(line, opening, bundle)
    session = Session.create(folder, bundle, settings, bf16=bf16)
    steps = settings.steps
    prompt = ""
    for slot, request in zip(line.slots, requests, strict=True):
        if slot.turn is not None:
            prompt = with_caption(play.caption, slot.turn.prompt)
            steps = steps if slot.turn.steps is None else slot.turn.steps or None
        policy, budget = _stated_policy(request.policy, bundle, settings.budget)
        stated = Settings(prompt, request.seed, policy, budget, steps, settings.switch)
        session.make(
            Node(
                slot.index,
                session.desk.head,
                slot.shot,
                slot.cut,
                stated,
                line.prompts[slot.prompt],
                request.recache,
                slot.index,
            )
        )
        if progress:
            progress(slot.index + 1, len(line.slots))
    session.do("branch", chunk=line.slots[-1].index)  # from here on it is directed as any other
    return session


def session_from_run(
    run: str | Path, folder: str | Path, progress: Callable[[int, int], None] | None = None
) -> Session:
    """Return the film of a run (`cinelab direct`, or a desk's export) as a session. Raise
    CinelabError where no session can make it."""
    run = Path(run)
    if not (run / "film.json").exists() or not (run / "screenplay.yaml").exists():
        raise CinelabError(
            f"{run} is no film's folder: it lacks film.json or screenplay.yaml. Name one that "
            "`cinelab direct` or the desk wrote, or a session's."
        )
    stated = read_mapping(run / "film.json", **FILM)
    play = Screenplay.load(run / "screenplay.yaml")
    bundle = load(stated["model"])
    settings = Settings(
        seed=stated["seed"],
        **_policy(stated.get("policy"), bundle),
        steps=_steps(stated.get("sampling"), bundle),
    )
    return session_from_screenplay(
        play,
        folder,
        bundle,
        settings=settings,
        bf16=stated.get("bf16", False),
        progress=progress,
    )


def _stated_policy(policy: Policy, bundle: Bundle, unlimited: int) -> tuple[str | Policy, int]:
    """Return a policy as a session's settings state it: name and budget where these are all of it,
    else the policy itself."""
    name = name_of(policy)
    budget = budget_of(policy, unlimited)
    whole = name in BUILT_IN and budget >= 3 and policy_for(bundle, name, budget) == policy
    return (name if whole else policy), budget


def _policy(stored: dict | None, bundle: Bundle) -> dict:
    """Return the policy that a film was made under, as settings."""
    if stored is None:
        return {}
    unlimited = Settings().budget
    policy, budget = _stated_policy(policy_from_dict(stored, "film.json"), bundle, unlimited)
    return {"policy": policy, "budget": budget}


def _steps(stored: dict | None, bundle: Bundle) -> int | Sampling | None:
    """Return the levels that a film was made at: None for the model's own, their number where that
    is all of it, else all settings."""
    sampling = bundle.sampling if stored is None else from_dict(Sampling, stored)
    if sampling == bundle.sampling:
        return None
    return sampling.steps if sampling == bundle.levels(sampling.steps) else sampling
