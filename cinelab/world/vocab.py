"""The words of the toybox: every attribute a prompt may name, how it is put into words, and how it
is read back.

Knows: attribute names, their values, and the phrases that name them. Does not know pixels.

*Prompted* attributes are named in the caption. *Unprompted* ones are never named: they are fixed by
the first shot in which a character or a place appears and must be remembered from then on.
"""

import re
from collections.abc import Iterator
from random import Random

from cinelab.script.timeline import CONTINUE

# attribute -> value -> phrases; the first phrase is the plain one, the others are paraphrases.
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "size": {
        "wide": ("wide shot", "long shot"),
        "medium": ("medium shot", "waist shot"),
        "close": ("close shot", "close up"),
    },
    "colour": {
        "red": ("red", "scarlet"),
        "orange": ("orange", "amber"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "blue": ("blue", "azure"),
        "purple": ("purple", "violet"),
    },
    "kind": {
        "cat": ("cat", "kitten"),
        "rabbit": ("rabbit", "bunny"),
        "robot": ("robot", "android"),
        "ghost": ("ghost", "spirit"),
    },
    "action": {
        "stand": ("stands still", "waits"),
        "walk left": ("walks left", "strolls to the left"),
        "walk right": ("walks right", "strolls to the right"),
        "jump": ("jumps", "hops"),
        "wave": ("waves", "greets us"),
        "dance": ("dances", "sways"),
    },
    "setting": {
        "meadow": ("meadow", "field"),
        "beach": ("beach", "seaside"),
        "desert": ("desert", "dunes"),
        "city": ("city", "town"),
        "forest": ("forest", "woods"),
        "snow": ("snow", "snowy mountains"),
    },
    "time": {
        "day": ("by day", "in sunshine"),
        "night": ("at night", "under the stars"),
    },
    "camera": {
        "static": ("static camera", "the camera rests"),
        "pan left": ("pan left", "the camera pans left"),
        "pan right": ("pan right", "the camera pans right"),
        "zoom in": ("zoom in", "the camera moves closer"),
        "zoom out": ("zoom out", "the camera moves away"),
    },
}
PROMPTED: dict[str, tuple[str, ...]] = {name: tuple(values) for name, values in PHRASES.items()}
UNPROMPTED: dict[str, tuple[str, ...]] = {
    "pattern": ("stripes", "dots", "belly", "half"),
    "accessory": ("hat", "crown", "scarf", "balloon"),
    "second": ("white", "black", "pink", "teal"),
    "landmark": ("house", "lighthouse", "windmill", "blossom"),
    "side": ("left", "right"),
}
ATTRIBUTES = PROMPTED | UNPROMPTED
# where a family is not its attribute with an s
FAMILY = {"setting": "places", "camera": "camera moves"}
IDENTITY = ("pattern", "accessory", "second")  # what a character keeps
SCENERY = ("landmark", "side")  # what a place keeps

TEMPLATES = (
    "{size} of a {colour} {kind} that {action} in the {setting} {time}, {camera}",
    "{size}, {time} in the {setting}: the {colour} {kind} {action}, {camera}",
    "in the {setting} {time} a {colour} {kind} {action}; {size}, {camera}",
)


def caption(attributes: dict[str, str], rng: Random | None = None) -> str:
    """One sentence that names every prompted attribute; paraphrased when an `rng` is given."""
    pick = rng.choice if rng else lambda options: options[0]
    phrases = {name: pick(PHRASES[name][attributes[name]]) for name in PHRASES}
    return pick(TEMPLATES).format(**phrases)


def words(text: str) -> list[str]:
    """Lower-case words of a prompt, in order; punctuation is dropped."""
    return re.findall(r"[^\W_]+", text.lower())


def known_words() -> list[str]:
    """Every word a toybox caption can contain, sorted."""
    spoken = [phrase for _, _, phrase in _phrases()]
    return sorted(
        {
            word
            for text in (*spoken, *TEMPLATES, CONTINUE)
            for word in words(re.sub(r"{\w+}", "", text))
        }
    )


def families() -> dict[str, list[tuple[str, ...]]]:
    """The phrases of every value by their family, as `cinelab.script.hints` names families."""
    return {FAMILY.get(name, f"{name}s"): list(values.values()) for name, values in PHRASES.items()}


def read_prompt(prompt: str) -> dict[str, str]:
    """The attributes a prompt names, by longest phrase first; what it leaves open is absent.

    A prompt that names two values of one attribute keeps the first one.
    """
    text = " " + " ".join(words(prompt)) + " "
    found: dict[str, tuple[int, str]] = {}
    for attribute, value, phrase in sorted(_phrases(), key=lambda row: -len(row[2])):
        place = text.find(f" {phrase} ")
        if place >= 0 and place < found.get(attribute, (len(text), ""))[0]:
            found[attribute] = (place, value)
    return {attribute: value for attribute, (_, value) in found.items()}


def _phrases() -> Iterator[tuple[str, str, str]]:
    for attribute, values in PHRASES.items():
        for value, phrases in values.items():
            for phrase in phrases:
                yield attribute, value, phrase
