"""The commands of a session: they change the settings of the next chunk, or where the film
stands.

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
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import BUILT_IN, budget_of, name_of, policy_named, with_budget
from cinelab.script.fields import check_text

if TYPE_CHECKING:
    from cinelab.stream.session import Session

STATED = ("policy", "budget", "steps")  # what a screenplay states beside prompts and seeds
# what a changed prompt does: nothing else, KV re-encoded, a new shot
SWITCHES = ("keep", "recache", "cut")


@dataclass(frozen=True)
class Settings:
    """The settings of the next chunk. `steps` None are the model's own levels; else a number, a
    list of levels, or a Sampling.

    `policy` is the name of a built-in one with `budget`, or a Policy, which is stored with its own
    settings and class.
    """

    prompt: str = ""
    seed: int = 0
    policy: str | Policy = "camr"
    budget: int = 6
    steps: int | tuple[float, ...] | Sampling | None = None
    switch: str = "keep"


@dataclass(frozen=True)
class DeskState:
    """All that a command may change. Frozen, so that undo returns to the state before."""

    settings: Settings = Settings()
    head: int | None = None
    cut: bool = False  # the next chunk opens a shot
    recache: bool = False
    playing: bool = False
    again: tuple[Settings, ...] = ()  # the settings of a retake's chunks that are still to be made


def checked_settings(settings: Settings) -> Settings:
    """Return the settings with a policy of one's own as an object. Refuse what no chunk could be
    made with."""
    if settings.prompt != "":
        check_text("prompt", settings.prompt, "say what the shot shows")
    if settings.switch not in SWITCHES:
        raise CinelabError(f"switch is {settings.switch!r}; use one of {', '.join(SWITCHES)}.")
    check_number("seed", settings.seed, 0, below=SEED)
    settings = replace(settings, steps=_levels(settings.steps))
    named = isinstance(settings.policy, str) and settings.policy in BUILT_IN
    # a policy of one's own may retrieve fewer
    check_number("budget", settings.budget, LEAST_BUDGET if named else 0, BUDGET)
    policy = policy_named(settings.policy, settings.budget)
    if isinstance(settings.policy, str) and settings.policy in BUILT_IN:
        return settings
    to_dict(policy)  # refuses what the log could not hold
    return replace(settings, policy=policy, budget=budget_of(policy, settings.budget))


def _levels(
    steps: int | Sequence[float] | Sampling | Mapping | None,
) -> int | tuple[float, ...] | Sampling | None:
    """Return a session's `steps`, checked; settings as a command's text has them become a
    Sampling."""
    if isinstance(steps, (list, tuple)) and steps:
        return Sampling(at=tuple(steps)).at
    if isinstance(steps, Mapping):
        steps = from_dict(Sampling, steps, "sampling.")
    if steps == Sampling():
        return None  # it changes nothing of the model's own
    if steps is None or isinstance(steps, Sampling) or (type(steps) is int and 1 <= steps <= STEPS):
        return steps
    raise CinelabError(
        f"levels is {short(steps)}; give 1 to {STEPS}, a list of levels, or none for the model's "
        "own."
    )


def screenplay_settings(settings: Settings) -> tuple:
    """Return what a screenplay states of a chunk's settings."""
    return settings.prompt, settings.seed, *(getattr(settings, name) for name in STATED)


def changed_settings(settings: Settings, before: Settings | None) -> dict:
    """Return the settings that differ from those `before`; at the film's beginning all but the
    seed, which the screenplay states."""
    if before is None:
        return {name: getattr(settings, name) for name in STATED}
    found = {
        name: getattr(settings, name)
        for name in ("seed", *STATED)
        if getattr(settings, name) != getattr(before, name)
    }
    if "budget" in found and isinstance(settings.policy, Policy):
        # beside it the budget may be smaller than that of a named one
        found["policy"] = settings.policy
    return found | ({"steps": 0} if "steps" in found and found["steps"] is None else {})


def policy_label(settings: Settings) -> str:
    """Return the policy's name, for display."""
    return settings.policy if isinstance(settings.policy, str) else name_of(settings.policy)


def _changed(desk: DeskState, **changes) -> DeskState:
    if (
        "budget" in changes
        and isinstance(changes["budget"], int)
        and isinstance(desk.settings.policy, Policy)
    ):
        changes["policy"] = with_budget(desk.settings.policy, changes["budget"])
    return replace(desk, settings=checked_settings(replace(desk.settings, **changes)), again=())


def prompt(
    session: "Session", desk: DeskState, text: str, switch: str | None = None
) -> tuple[DeskState, str]:
    """Change the prompt from the next chunk on; `switch` is what happens to the KV cache, or a
    cut."""
    check_text("prompt", text, "say what the shot shows")
    text = " ".join(text.split())
    how = switch or desk.settings.switch
    desk = _changed(desk, prompt=text, switch=how)
    return replace(
        desk, cut=desk.cut or how == "cut", recache=how == "recache"
    ), "The prompt holds from the next chunk on."


def cut(session: "Session", desk: DeskState, text: str | None = None) -> tuple[DeskState, str]:
    """Open a new shot with the next chunk, with a new prompt if one is given."""
    if desk.head is None:
        raise CinelabError("There is nothing to cut from yet; play the first shot.")
    if text is not None:
        desk, _ = prompt(session, desk, text, "keep")
    return replace(desk, cut=True, recache=False, again=()), "A cut comes with the next chunk."


def retake(session: "Session", desk: DeskState, seed: int | None = None) -> tuple[DeskState, str]:
    """Go back to where the running shot began: the same directions, another seed."""
    if desk.head is None and not desk.again:
        raise CinelabError("There is no shot to take again yet; play the first one.")
    if desk.head is None or (desk.again and desk.cut):
        # a retake that has not begun: only its seed changes
        directions = list(desk.again)
        back = desk
        shot = 1 if desk.head is None else session.nodes[desk.head].shot + 2
    else:
        made = [session.nodes[number] for number in session.shot_nodes(desk.head)]
        directions = [*(node.settings for node in made), *desk.again]
        back = replace(desk, head=made[0].parent, cut=made[0].cut)
        shot = made[0].shot + 1
    new = desk.settings.seed + 1 if seed is None else seed
    again = tuple(replace(one, seed=new) for one in directions)
    back = _changed(replace(back, settings=again[-1]), seed=new)
    return replace(back, recache=False, again=again), f"Shot {shot} again, with seed {new}."


def branch(session: "Session", desk: DeskState, chunk: int) -> tuple[DeskState, str]:
    """Go on from any chunk of the tree; what was made after it stays."""
    if type(chunk) is not int or chunk not in session.nodes:
        raise CinelabError(
            f"chunk is {short(chunk)}; the session has chunks 0 to {len(session.nodes) - 1}."
        )
    node = session.nodes[chunk]
    return DeskState(
        node.settings, chunk, playing=desk.playing
    ), f"Going on from shot {node.shot + 1}, chunk {node.index + 1}."


def setting_command(name: str, label: str) -> Callable:
    """Return the command that changes one setting."""

    def change(session: "Session", desk: DeskState, value) -> tuple[DeskState, str]:
        desk = _changed(desk, **{name: value})
        shown = policy_label(desk.settings) if name == "policy" else value
        return desk, f"{label} is {shown} from the next chunk on."

    return change


def pause(session: "Session", desk: DeskState) -> tuple[DeskState, str]:
    """Make no further chunk until `resume`."""
    return replace(desk, playing=False), "Paused."


def resume(session: "Session", desk: DeskState) -> tuple[DeskState, str]:
    """Make chunks, one after another."""
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
    "seed": setting_command("seed", "The seed"),
    "policy": setting_command("policy", "The memory policy"),
    "budget": setting_command("budget", "The budget"),
    "levels": setting_command("steps", "The number of levels"),
    "switch": setting_command("switch", "A changed prompt's effect on the cache"),
}
