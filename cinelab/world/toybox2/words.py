"""The words of Toybox 2: every attribute a prompt may name, how it is put into words, and how it is
read back.

*Prompted* attributes are named in the caption. *Unprompted* ones never are: they are fixed by the
first shot in which a character or a place appears and must be remembered from then on. The partner
is a second figure, behind the first; most shots have none.
"""

import re
from collections.abc import Mapping
from random import Random

from cinelab.world.wording import Wording, words

NONE = "none"  # the value of a partner's attributes in a shot without one
# attribute -> value -> phrases; the first phrase is the plain one, the others are paraphrases
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "size": {
        "wide": ("wide shot", "long shot", "far view"),
        "medium": ("medium shot", "waist shot", "middle view"),
        "close": ("close shot", "close up", "near view"),
    },
    "colour": {
        "red": ("red", "scarlet", "crimson"),
        "orange": ("orange", "amber", "tangerine"),
        "yellow": ("yellow", "golden", "lemon"),
        "green": ("green", "emerald", "olive"),
        "blue": ("blue", "azure", "indigo"),
        "purple": ("purple", "violet", "lilac"),
    },
    "kind": {
        "cat": ("cat", "kitten"),
        "rabbit": ("rabbit", "bunny"),
        "robot": ("robot", "android"),
        "ghost": ("ghost", "spirit"),
        "bear": ("bear", "cub"),
    },
    "action": {
        "stand": ("stands still", "waits", "is standing"),
        "walk left": ("walks left", "strolls to the left", "is walking left"),
        "walk right": ("walks right", "strolls to the right", "is walking right"),
        "jump": ("jumps", "hops", "is jumping"),
        "wave": ("waves", "greets us", "is waving"),
        "dance": ("dances", "sways", "is dancing"),
    },
    "setting": {
        "meadow": ("meadow", "field", "grassland"),
        "beach": ("beach", "seaside", "bay"),
        "desert": ("desert", "dunes", "sands"),
        "city": ("city", "town", "streets"),
        "forest": ("forest", "woods", "pines"),
        "snow": ("snow", "snowy mountains", "ice"),
    },
    "time": {
        "day": ("by day", "in sunshine", "at noon"),
        "night": ("at night", "under the stars", "by moonlight"),
    },
    "camera": {
        "static": ("static camera", "the camera rests", "fixed camera"),
        "pan left": ("pan left", "the camera pans left", "panning left"),
        "pan right": ("pan right", "the camera pans right", "panning right"),
        "zoom in": ("zoom in", "the camera moves closer", "zooming in"),
        "zoom out": ("zoom out", "the camera moves away", "zooming out"),
    },
}
# what stands before a setting's phrase, where it is not "in the"
BEFORE = {
    "beach": "on the",
    "seaside": "at the",
    "dunes": "among the",
    "sands": "on the",
    "ice": "on the",
    "pines": "among the",
}
PARTNER = {"partner colour": "colour", "partner kind": "kind"}  # whose phrases they share
BESIDE = ("beside", "next to", "along with")
UNPROMPTED: dict[str, tuple[str, ...]] = {
    "pattern": ("stripes", "dots", "belly", "half", "checks"),
    "accessory": ("hat", "crown", "scarf", "balloon", "glasses"),
    "second": ("white", "black", "pink", "teal"),
    "landmark": ("house", "lighthouse", "windmill", "blossom", "tower", "tent"),
    "side": ("left", "right"),
}
# the plainest shot
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
    "partner kind": NONE,
    "partner colour": NONE,
}
IDENTITY = ("pattern", "accessory", "second")  # what a character keeps
SCENERY = ("landmark", "side")  # what a place keeps
# where a family of phrases is not its attribute with an s
FAMILY = {"setting": "places", "camera": "camera moves"}

TEMPLATES = (
    "{size} of {a} {colour} {kind} that {action} {setting} {time}{beside}, {camera}",
    "{size}, {time} {setting}: {a} {colour} {kind} {action}{beside}, {camera}",
    "{setting} {time} {a} {colour} {kind} {action}{beside}; {size}, {camera}",
    "{camera}, {size}: the {colour} {kind} {action}{beside} {setting} {time}",
    "{a} {colour} {kind} {action}{beside}, {size} {setting} {time}, {camera}",
)


class PartnerWording(Wording):
    """Phrases and sentences that may name a second figure: "a cat waves beside an orange bear"."""

    @property
    def prompted(self) -> dict[str, tuple[str, ...]]:
        """The attributes that a prompt names, with their values; a partner may be none."""
        return super().prompted | {
            name: (NONE, *self.phrases[shared]) for name, shared in PARTNER.items()
        }

    def caption(self, attributes: Mapping[str, str], rng: Random | None = None) -> str:
        """Return one sentence that names every prompted attribute; paraphrased when an `rng` is
        given."""
        pick = rng.choice if rng else lambda options: options[0]
        phrases = {name: pick(self.phrases[name][attributes[name]]) for name in self.phrases}
        setting = phrases["setting"]
        phrases["setting"] = f"{BEFORE.get(setting, 'in the')} {setting}"
        beside = ""
        if attributes["partner kind"] != NONE:
            colour, kind = (
                pick(self.phrases[shared][attributes[name]]) for name, shared in PARTNER.items()
            )
            beside = f" {pick(BESIDE)} {article(colour)} {colour} {kind}"
        sentence = pick(self.templates)
        return sentence.format(a=article(phrases["colour"]), beside=beside, **phrases)

    def known_words(self) -> list[str]:
        """Return every word that a caption can contain, sorted."""
        joined = " ".join([*BESIDE, *BEFORE.values(), "in a an the"])
        return sorted({*super().known_words(), *words(joined)})

    def read_prompt(self, prompt: str) -> dict[str, str]:
        """Return the attributes that a prompt names, by longest phrase first; what it leaves open
        is absent.

        What follows "beside", "next to" or "along with" is the partner; a prompt that names a kind
        and no partner has none.
        """
        text = " ".join(words(prompt))
        found = re.search(rf"\b(?:{'|'.join(BESIDE)}) (?:(?:a|an|the) )?(\w+(?: \w+)?)", text)
        partner = self._partner(found.group(1)) if found else {}
        if found and partner:
            taken = " ".join(found.group(1).split()[: len(partner)])
            end = found.start(1) + len(taken)
            text = f"{text[: found.start()]} {text[end:]}"
        named = super().read_prompt(text)
        if "kind" in named and not partner:
            partner = dict.fromkeys(PARTNER, NONE)
        return named | partner

    def _partner(self, text: str) -> dict[str, str]:
        """Return the partner's attributes that the first words after "beside" name."""
        named = super().read_prompt(text)
        return {name: named[shared] for name, shared in PARTNER.items() if shared in named}


def article(word: str) -> str:
    """Return "a" or "an", as the word wants it."""
    return "an" if word[0] in "aeiou" else "a"


WORDING = PartnerWording(PHRASES, TEMPLATES, FAMILY)
PROMPTED = WORDING.prompted
ATTRIBUTES = PROMPTED | UNPROMPTED
caption = WORDING.caption
