"""What to say instead of a word that a closed vocabulary does not have.

A hint is a known word that differs by a slip of the hand or by its ending, else the words of the
family that the sentence needs at this place (in "a dog waves" a kind is needed, in "at dusk"
a time). Where neither is clear there is no hint: a wrong one misleads.
"""

from collections.abc import Iterator, Mapping, Sequence

ENDINGS = ("ing", "ies", "es", "ed", "er", "ly", "s")
ARTICLES = frozenset("a an the his her its their my our this that one two three some".split())
WHERE = frozenset("in on near into inside through across over along behind beside at by".split())
WHEN = frozenset("at by during before after until till towards".split())
WHO = frozenset("that who which he she it they".split())
SHORTEST = 4  # letters of a known word that a slip may have changed; shorter ones resemble too much
FAMILIES = ("sizes", "kinds", "colours", "actions", "places", "times", "camera moves")
SIZES, KINDS, COLOURS, ACTIONS, PLACES, TIMES, CAMERA = FAMILIES


class Hints:
    """Hints from families of phrases, named as in FAMILIES: {"kinds": [("cat",), ("rabbit",
    "hare")]}.

    Each value has one or more phrases: hints show the first, and all are recognised. `little` are
    words that carry no meaning.
    """

    def __init__(
        self, families: Mapping[str, Sequence[Sequence[str]]], little: frozenset[str] = frozenset()
    ):
        self.shown = {name: [phrases[0] for phrases in values] for name, values in families.items()}
        self.family: dict[str, str] = {}  # word -> the first family in whose phrases it stands
        silent = little | ARTICLES | WHERE
        for name, values in families.items():
            for word in _words(values):
                if len(word) > 2 and word not in silent:
                    self.family.setdefault(word, name)

    def of(self, words: Sequence[str], place: int) -> str:
        """The hint for the unknown word at `place`, ready to stand behind it; "" where there is
        none."""
        word = words[place]
        needed = self._needed(words, place)
        known = [one for one, name in self.family.items() if needed in (None, name)]
        if near := similar(word, known):
            return f" (did you mean {near!r}?)"
        return f" ({needed} are {', '.join(self.shown[needed])})" if needed in self.shown else ""

    def _needed(self, words: Sequence[str], place: int) -> str | None:
        """The family of which the sentence wants a word at `place`; None = not clear."""
        two = _at(words, place - 2)
        one = _at(words, place - 1)
        after = _at(words, place + 1)
        if after == "shot":
            return SIZES
        if "camera" in (one, after):
            return CAMERA
        if one in ("the", "a", "an") and two in WHERE and after not in self.family:
            return PLACES
        if one in WHEN and after not in self.family:
            return TIMES
        if one in WHO or (self._is_kind(words, place - 1) and _verbal(words[place])):
            return ACTIONS
        return KINDS if self._is_kind(words, place) else None

    def _is_kind(self, words: Sequence[str], place: int) -> bool:
        """Whether a kind stands at `place`, or an unknown word where one would.

        Such places are in "a dog that", "a red dog" and "a dog runs".
        """
        word = _at(words, place)
        one = _at(words, place - 1)
        after = _at(words, place + 1)
        if not word or word in self.family:
            return self.family.get(word) == KINDS
        if self.family.get(one) == COLOURS:
            return self.family.get(after) not in (KINDS, COLOURS)
        does = after in ("that", "who") or self.family.get(after) == ACTIONS or _verbal(after)
        return does and (one in ARTICLES or not one) and _at(words, place - 2) not in WHERE


def _words(values: Sequence[Sequence[str]]) -> Iterator[str]:
    """Every word of every phrase."""
    for phrases in values:
        yield from " ".join(phrases).split()


def _at(words: Sequence[str], place: int) -> str:
    return words[place] if 0 <= place < len(words) else ""


def _verbal(word: str) -> bool:
    """Whether a word may be what somebody does: runs, running (not ran, which looks like
    anything)."""
    third_person = word.endswith("s") and not word.endswith(("ss", "us"))
    return len(word) > 3 and (word.endswith("ing") or third_person)


def similar(word: str, known: Sequence[str]) -> str | None:
    """The known word of which this is another form or a slip (see `_slip`), or None."""
    forms = [other for other in known if _stems(word) & _stems(other)]
    near = [other for other in known if len(other) >= SHORTEST and other[0] == word[0]]
    return next(iter(forms + [other for other in near if _slip(word, other)]), None)


def _stems(word: str) -> set[str]:
    """The word, and what is left of it without an ending; hopping and hop share a stem."""
    ends = [end for end in ENDINGS if word.endswith(end) and len(word) - len(end) > 2]
    cut = {word, *(word.removesuffix(end) for end in ends)}
    return cut | {stem[:-1] for stem in cut if stem[-1:] == stem[-2:-1] and len(stem) > 3}


def _slip(word: str, known: str) -> bool:
    """Whether one letter is swapped with the next, left out, put in or (in long words) another."""
    if len(word) == len(known):
        wrong = [place for place, (a, b) in enumerate(zip(word, known, strict=True)) if a != b]
        return _swapped(word, known, wrong) or (len(wrong) == 1 and len(word) > 5)
    short, long = sorted((word, known), key=len)
    shorter = (long[:place] + long[place + 1 :] for place in range(len(long)))
    return len(long) - len(short) == 1 and short in shorter


def _swapped(word: str, known: str, wrong: list[int]) -> bool:
    """Whether the letters at the places `wrong` are two neighbours that have changed places."""
    if len(wrong) != 2 or wrong[1] != wrong[0] + 1:
        return False
    first, second = wrong
    return (word[first], word[second]) == (known[second], known[first])
