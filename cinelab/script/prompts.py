"""Prompts to vectors: the word encoder of the toybox; UMT5 goes behind the same members for Wan.

S prompts   L words   E width; unused places are zero, and so is the whole empty prompt
"""

import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cinelab.script.hints import Hints
from cinelab.seeds import rng_at


class TextEncoder(Protocol):
    width: int
    length: int

    def encode(self, prompts: Sequence[str]) -> Tensor: ...  # (S, L, E)

    def prepare(self, prompts: Sequence[str]) -> None: ...  # these will be encoded, one by one


# Words that carry nothing the toybox shows; they are passed over without a warning.
LITTLE = frozenset(
    "an on at and with its his her their it is are he she they then again now some by".split()
)


class UnknownWords(UserWarning):
    """A prompt has words that the encoder has never seen; they are left out."""


@dataclass(frozen=True)
class WordEncoderConfig:
    width: int = 64
    length: int = 24
    seed: int = 0


class WordEncoder:
    """Every known word is a fixed random direction, plus a small code of its place. Nothing is
    trained.

    `families` are the vocabulary's phrases by what they say (see `Hints`), from which unknown words
    get a hint.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        config: WordEncoderConfig,
        families: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ):
        self.vocabulary = tuple(vocabulary)
        self.config = config
        self.hints = Hints(families or {}, LITTLE)
        self.width = config.width
        self.length = config.length
        self.index = {word: number for number, word in enumerate(self.vocabulary)}
        rng = rng_at(config.seed, "words")
        self.codes = torch.randn(len(self.vocabulary), self.width, generator=rng)
        self.codes = self.codes / self.codes.std(dim=1, keepdim=True)
        place = torch.arange(self.length)[:, None] / 10000 ** (
            torch.arange(0, self.width, 2) / self.width
        )
        self.places = 0.2 * torch.cat([place.sin(), place.cos()], dim=1)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Do nothing: words are looked up when they are encoded."""

    def ids(self, words: Sequence[str]) -> list[int]:
        """Numbers of the known words, cut to the length; unknown words warn by name, with a hint
        where there is one."""
        unknown = {
            word: place
            for place, word in reversed(list(enumerate(words)))
            if not taken(word, self.index)
        }
        if unknown:
            listed = ", ".join(
                f"{word!r}{self.hints.of(words, place)}"
                for word, place in reversed(unknown.items())
            )
            warnings.warn(
                f"The toybox does not know {listed}; left out of the prompt.",
                UnknownWords,
                stacklevel=3,
            )
        known = [self.index[word] for word in words if word in self.index]
        if len(known) > self.length:
            warnings.warn(
                f"The prompt has {len(known)} known words; only the first {self.length} are read.",
                UnknownWords,
                stacklevel=3,
            )
        return known[: self.length]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(S, L, E); an empty prompt is all zeros."""
        return torch.stack([self.embed(self.ids(split_words(prompt))) for prompt in prompts])

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Word numbers -> (L, E)."""
        out = torch.zeros(self.length, self.width)
        if ids:
            out[: len(ids)] = self.codes[list(ids)] + self.places[: len(ids)]
        return out

    def decode(self, text: Tensor) -> str:
        """Return the known words of one prompt (L, E) as `encode` gives it, in their order."""
        used = text[text.abs().sum(-1) > 0].float().cpu()
        numbers = torch.cdist(used - self.places[: len(used)], self.codes).argmin(-1)
        return " ".join(self.vocabulary[number] for number in numbers.tolist())


def taken(word: str, vocabulary: Container[str]) -> bool:
    """Whether a word encoder of this vocabulary takes a word: it knows it, or passes over it
    because it shows nothing."""
    return word in vocabulary or word in LITTLE


def unknown_words(prompt: str, vocabulary: Container[str]) -> list[str]:
    """The words of a prompt that a word encoder of this vocabulary does not take, each once, in
    order."""
    return [word for word in dict.fromkeys(split_words(prompt)) if not taken(word, vocabulary)]


def split_words(prompt: str) -> list[str]:
    """Lower-case words; punctuation separates."""
    return "".join(c.lower() if c.isalnum() else " " for c in prompt).split()
