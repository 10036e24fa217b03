"""What can be said to a session: the settings of the next chunk, and the commands that change them
or where the film stands.

A command takes the session, which it only reads, and the desk, and returns the desk after it with
one line that says what happened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cinelab.config import from_dict, to_dict
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.limits import BUDGET, LEAST_BUDGET, SEED, STEPS, check_number, short
from cinelab.memory.policy import BUILT_IN, Policy, budget_of, name_of, policy_named, with_budget
from cinelab.script.screenplay import check_text

if TYPE_CHECKING:
    from cinelab.stream.session import Session

SET = ("policy", "budget", "steps")  # what a screenplay holds beside prompts and seeds
# what a changed prompt does: nothing else, KV re-encoded, a new shot
SWITCHES = ("keep", "recache", "cut")


@dataclass(frozen=True)
class Settings:
    """What the next chunk is made with. `steps` None = the model's own levels; else a number, a
    list of levels, or a Sampling.

    `policy` is the name of a built-in one with `budget`, or a Policy; on the disk, its own settings
    and class.
    """

    prompt: str = ""
    seed: int = 0
    policy: str | Policy = "camr"
    budget: int = 6
    steps: int | tuple[float, ...] | Sampling | None = None
    switch: str = "keep"


@dataclass(frozen=True)
class Desk:
    """All that a command may change. Frozen, so that undo is the desk before."""

    settings: Settings = Settings()
    head: int | None = None
    cut: bool = False  # the next chunk opens a shot
    recache: bool = False
    playing: bool = False
    again: tuple[Settings, ...] = ()  # a retake goes through its shot's directions once more


def checked(settings: Settings) -> Settings:
    """The settings with a policy of one's own as an object. Refuses what no chunk could be made
    with."""
    if settings.prompt != "":
        check_text("prompt", settings.prompt, "say what the shot shows")
    if settings.switch not in SWITCHES:
        raise CinelabError(f"switch is {settings.switch!r}; use one of {', '.join(SWITCHES)}.")
    check_number("seed", settings.seed, 0, below=SEED)
    settings = replace(settings, steps=_levels(settings.steps))
    named = isinstance(settings.policy, str) and settings.policy in BUILT_IN
    # a policy of one's own may keep fewer
    check_number("budget", settings.budget, LEAST_BUDGET if named else 0, BUDGET)
    policy = policy_named(settings.policy, settings.budget)
    if isinstance(settings.policy, str) and settings.policy in BUILT_IN:
        return settings
    to_dict(policy)  # refuses what the log could not hold
    return replace(settings, policy=policy, budget=budget_of(policy, settings.budget))


def _levels(
    steps: int | Sequence[float] | Sampling | Mapping | None,
) -> int | tuple[float, ...] | Sampling | None:
    """A session's `steps`, checked; settings as a command's text has them become a Sampling."""
    if isinstance(steps, (list, tuple)) and steps:
        return Sampling(at=tuple(steps)).at
    if isinstance(steps, Mapping):
        steps = from_dict(Sampling, steps, "sampling.")
    if steps == Sampling():
        return None  # it asks for nothing but the model's own
    if steps is None or isinstance(steps, Sampling) or (type(steps) is int and 1 <= steps <= STEPS):
        return steps
    raise CinelabError(
        f"levels is {short(steps)}; give 1 to {STEPS}, a list of levels, or none for the model's "
        "own."
    )


def asked(said: Settings) -> tuple:
    """What a screenplay holds of a chunk's settings."""
    return said.prompt, said.seed, *(getattr(said, name) for name in SET)


def news(said: Settings, before: Settings | None) -> dict:
    """Settings that are not as before; at the film's beginning all but the seed, which the
    screenplay has."""
    if before is None:
        return {name: getattr(said, name) for name in SET}
    found = {
        name: getattr(said, name)
        for name in ("seed", *SET)
        if getattr(said, name) != getattr(before, name)
    }
    if "budget" in found and isinstance(said.policy, Policy):
        # beside it the budget may be smaller than that of a named one
        found["policy"] = said.policy
    return found | ({"steps": 0} if "steps" in found and found["steps"] is None else {})


def policy_label(settings: Settings) -> str:
    """The policy's name, for reading."""
    return settings.policy if isinstance(settings.policy, str) else name_of(settings.policy)


def _changed(desk: Desk, **changes) -> Desk:
    if (
        "budget" in changes
        and isinstance(changes["budget"], int)
        and isinstance(desk.settings.policy, Policy)
    ):
        changes["policy"] = with_budget(desk.settings.policy, changes["budget"])
    return replace(desk, settings=checked(replace(desk.settings, **changes)), again=())


def prompt(
    session: "Session", desk: Desk, text: str, switch: str | None = None
) -> tuple[Desk, str]:
    """From the next chunk on; `switch` says what happens to the cache, or that it is a cut."""
    check_text("prompt", text, "say what the shot shows")
    text = " ".join(text.split())
    how = switch or desk.settings.switch
    desk = _changed(desk, prompt=text, switch=how)
    return replace(
        desk, cut=desk.cut or how == "cut", recache=how == "recache"
    ), "The prompt holds from the next chunk on."


def cut(session: "Session", desk: Desk, text: str | None = None) -> tuple[Desk, str]:
    """The next chunk opens a new shot, with a new prompt if one is given."""
    if desk.head is None:
        raise CinelabError("There is nothing to cut from yet; play the first shot.")
    if text is not None:
        desk, _ = prompt(session, desk, text, "keep")
    return replace(desk, cut=True, recache=False, again=()), "A cut comes with the next chunk."


def retake(session: "Session", desk: Desk, seed: int | None = None) -> tuple[Desk, str]:
    """Back to where the running shot began: the same directions, another seed."""
    if desk.head is None and not desk.again:
        raise CinelabError("There is no shot to take again yet; play the first one.")
    # a retake that has not begun: only its seed changes
    if desk.again and (desk.cut or desk.head is None):
        said = list(desk.again)
        back = desk
        shot = 1 if desk.head is None else session.nodes[desk.head].shot + 2
    else:
        made = [session.nodes[number] for number in session.shot_nodes(desk.head)]
        said = [*(node.said for node in made), *desk.again]
        back = replace(desk, head=made[0].parent, cut=made[0].cut)
        shot = made[0].shot + 1
    new = desk.settings.seed + 1 if seed is None else seed
    again = tuple(replace(one, seed=new) for one in said)
    back = _changed(replace(back, settings=again[-1]), seed=new)
    return replace(back, recache=False, again=again), f"Shot {shot} again, with seed {new}."


def branch(session: "Session", desk: Desk, chunk: int) -> tuple[Desk, str]:
    """Go on from any chunk of the tree; what was made after it stays."""
    if type(chunk) is not int or chunk not in session.nodes:
        raise CinelabError(
            f"chunk is {short(chunk)}; the session has chunks 0 to {len(session.nodes) - 1}."
        )
    node = session.nodes[chunk]
    return Desk(
        node.said, chunk, playing=desk.playing
    ), f"Going on from shot {node.shot + 1}, chunk {node.index + 1}."


def setting(name: str, label: str) -> Callable:
    def change(session: "Session", desk: Desk, value) -> tuple[Desk, str]:
        desk = _changed(desk, **{name: value})
        shown = policy_label(desk.settings) if name == "policy" else value
        return desk, f"{label} is {shown} from the next chunk on."

    return change


def pause(session: "Session", desk: Desk) -> tuple[Desk, str]:
    return replace(desk, playing=False), "Paused."


def resume(session: "Session", desk: Desk) -> tuple[Desk, str]:
    if not desk.settings.prompt:
        raise CinelabError("There is no prompt yet; say what the first shot shows.")
    return replace(desk, playing=True), "Playing."


COMMANDS: dict[str, Callable] = {
    "prompt": prompt,
    "cut": cut,
    "retake": retake,
    "branch": branch,
    "pause": pause,
    "resume": resume,
    "undo": lambda *_: None,
    "seed": setting("seed", "The seed"),
    "policy": setting("policy", "The memory policy"),
    "budget": setting("budget", "The budget"),
    "levels": setting("steps", "The number of levels"),
    "switch": setting("switch", "A changed prompt's effect on the cache"),
}
