"""The words of the toybox: every attribute a prompt may name, how it is put into words, and how it
is read back.

Knows: attribute names, their values, and the phrases that name them. Does not know pixels.

*Prompted* attributes are named in the caption. *Unprompted* ones are never named: they are fixed by
the first shot in which a character or a place appears and must be remembered from then on.
"""

from cinelab.world.wording import Wording

HEIGHT = 48
WIDTH = 64
FPS = 8.0
STRIDE = 2
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
PLAIN = {
    "kind": "cat",
    "colour": "red",
    "pattern": "belly",
    "accessory": "hat",
    "second": "white",
    "setting": "meadow",
    "landmark": "house",
    "side": "left",
    "time": "day",
    "size": "medium",
    "action": "stand",
    "camera": "static",
}
IDENTITY = ("pattern", "accessory", "second")  # what a character keeps
SCENERY = ("landmark", "side")  # what a place keeps

TEMPLATES = (
    "{size} of a {colour} {kind} that {action} in the {setting} {time}, {camera}",
    "{size}, {time} in the {setting}: the {colour} {kind} {action}, {camera}",
    "in the {setting} {time} a {colour} {kind} {action}; {size}, {camera}",
)
WORDING = Wording(PHRASES, TEMPLATES, FAMILY)
caption = WORDING.caption
known_words = WORDING.known_words
families = WORDING.families
read_prompt = WORDING.read_prompt
