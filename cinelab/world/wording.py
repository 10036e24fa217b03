"""How the attributes of a world are put into words, and read back.

phrases     attribute -> value -> the phrases that name it; the first is the plain one
templates   sentences with the attributes' names in braces
family      where a family is not called as its attribute with an s
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from cinelab.script.timeline import CONTINUE


@dataclass(frozen=True)
class Wording:
    """The phrases and sentences of a world's prompts."""

    phrases: Mapping[str, Mapping[str, tuple[str, ...]]]
    templates: tuple[str, ...]
    family: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompted(self) -> dict[str, tuple[str, ...]]:
        """The attributes that a prompt names, with their values."""
        return {name: tuple(values) for name, values in self.phrases.items()}

    def caption(self, attributes: Mapping[str, str], rng: Random | None = None) -> str:
        """Return one sentence that names every prompted attribute; paraphrased when an `rng` is
        given."""
        pick = rng.choice if rng else lambda options: options[0]
        phrases = {name: pick(self.phrases[name][attributes[name]]) for name in self.phrases}
        return pick(self.templates).format(**phrases)

    def known_words(self) -> list[str]:
        """Return every word that a caption can contain, sorted."""
        spoken = [phrase for _, _, phrase in self._named()]
        return sorted(
            {
                word
                for text in (*spoken, *self.templates, CONTINUE)
                for word in words(re.sub(r"{\w+}", "", text))
            }
        )

    def families(self) -> dict[str, list[tuple[str, ...]]]:
        """Return the phrases of every value by their family, as `cinelab.script.hints` names
        families."""
        return {
            self.family.get(name, f"{name}s"): list(values.values())
            for name, values in self.phrases.items()
        }

    def read_prompt(self, prompt: str) -> dict[str, str]:
        """Return the attributes that a prompt names, by longest phrase first; what it leaves open
        is absent.

        A prompt that names two values of one attribute keeps the first one.
        """
        text = " " + " ".join(words(prompt)) + " "
        found: dict[str, tuple[int, str]] = {}
        for attribute, value, phrase in sorted(self._named(), key=lambda row: -len(row[2])):
            place = text.find(f" {phrase} ")
            if place >= 0 and place < found.get(attribute, (len(text), ""))[0]:
                found[attribute] = (place, value)
        return {attribute: value for attribute, (_, value) in found.items()}

    def _named(self) -> Iterator[tuple[str, str, str]]:
        for attribute, values in self.phrases.items():
            for value, phrases in values.items():
                for phrase in phrases:
                    yield attribute, value, phrase


def words(text: str) -> list[str]:
    """Return the lower-case words of a prompt, in order; punctuation is dropped."""
    return re.findall(r"[^\W_]+", text.lower())
