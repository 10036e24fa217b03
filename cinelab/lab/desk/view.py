"""What a desk shows, as plain values: the facts that never change, and the parts of its view."""

import re
from collections.abc import Sequence

from cinelab.flow.sampler import Steps
from cinelab.memory.policy_registry import POLICIES
from cinelab.script.prompts import LITTLE
from cinelab.stream.commands import DeskState as DeskState
from cinelab.stream.commands import policy_label
from cinelab.stream.film_tree import FilmTree
from cinelab.stream.readout import Readout
from cinelab.stream.session import Session
from cinelab.zoo.bundle import Bundle

EXAMPLES = {  # the first stands in the prompt box of a new film
    "cat, meadow": "medium shot of a red cat that waves in the meadow by day",
    "rabbit, snow": "medium shot of a yellow rabbit that jumps in the snow by day",
    "robot, city": "close shot of a blue robot that dances in the city at night",
    "ghost, forest": "medium shot of a purple ghost that walks right in the forest at night, pan "
    "right",
    "cat, beach": "wide shot of an orange cat that walks left on the beach by day",
}
SWITCHES = {
    "keep": "The KV cache stays as it is: the change comes gently, and what was seen before "
    "lingers.",
    "recache": "The running shot is put into the KV cache again under the new prompt: the change "
    "comes at once.",
    "cut": "The new prompt opens a new shot.",
}
# labels of the read-out's causes
CAUSES = {"text": "text", "dit": "model", "memory": "memory", "decode": "decode"}
FIRST_WORD = re.compile(r"[a-z]+[ :]")  # and no file's name


def desk_facts(session: Session) -> dict:
    """Return what the browser needs to know once."""
    bundle: Bundle = session.generator.bundle
    families = bundle.world.families() if bundle.world_name else {}
    phrases = [phrase for values in families.values() for forms in values for phrase in forms]
    known = set(getattr(bundle.encoder, "vocabulary", ()))  # empty: the encoder reads any word
    return {
        "model": bundle.name,
        "size": list(bundle.size),
        "fps": bundle.fps,
        "steps": bundle.sampling.steps,
        "chunk_seconds": bundle.chunk * bundle.codec.stride / bundle.fps,
        "trained_seconds": bundle.span * bundle.codec.stride / bundle.fps,
        "examples": examples(known),
        "policies": policy_menu(session),
        "switches": SWITCHES,
        "words": sorted(known),
        "phrases": [phrase for phrase in phrases if known.issuperset(phrase.split())],
        "little": sorted(LITTLE),
    }


def examples(known: set[str]) -> list[dict]:
    """Return example prompts; under a closed vocabulary those whose words the model knows."""
    understood = known | LITTLE
    return [
        {"name": name, "text": text}
        for name, text in EXAMPLES.items()
        if not known or understood.issuperset(text.replace(",", "").split())
    ]


def policy_menu(session: Session) -> list[str]:
    """Return the policies of the menu: all known ones, and those of the session itself."""
    settings = [session.desk.settings, *(node.settings for node in session.nodes.values())]
    return list(dict.fromkeys([*POLICIES, *map(policy_label, settings)]))


def next_retake(now: DeskState, board: FilmTree) -> dict | None:
    """Return the shot that a retake would make again, counted from 1, and its seed; None where
    there is none."""
    # a retake was commanded and has not begun
    pending = bool(now.again) and (now.head is None or now.cut)
    if now.head is None and not pending:
        return None
    before = -1 if now.head is None else board.nodes[now.head].shot
    return {"shot": before + (2 if pending else 1), "seed": now.settings.seed + 1}


def step_count(steps: Steps) -> int | None:
    """Return what the box for the number of denoising steps shows."""
    if isinstance(steps, int):
        return steps
    named = getattr(steps, "steps", None)
    return named or (len(steps) if isinstance(steps, Sequence) and steps else None)


def readout_line(now: Readout) -> str:
    """Return the read-out in one line; `rest` is mostly the disk."""
    if not now.causes:
        return "nothing made since the desk was opened"
    shares = [f"{CAUSES[cause]} {share:.0%}" for cause, share in now.causes.items()]
    first = "" if now.first_frame is None else f"first frame {now.first_frame:.2f} s, "
    rest = max(0.0, 1 - sum(now.causes.values()))
    line = f"{first}{now.rate:.0f} frames/s, {', '.join(shares)}, rest {rest:.0%}"
    return line.replace("%", " %")


def memory_strip(layers: dict[int, dict[int, float]], shots: int) -> dict:
    """Return rows of shares of heads: a row a layer, a column a shot."""
    columns = max([shots, *(shot + 1 for row in layers.values() for shot in row)], default=0)
    rows = [[round(row.get(shot, 0.0), 3) for shot in range(columns)] for row in layers.values()]
    return {"rows": rows}


def sentence(text: str) -> str:
    """Begin a refusal that begins with the name of a value with a capital."""
    return text[:1].upper() + text[1:] if FIRST_WORD.match(text) else text
