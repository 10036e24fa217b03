"""The word encoder: unknown words are named, with a hint where one is clear; nothing else changes
the numbers."""

import re
import warnings

import pytest
import torch

from cinelab.script.prompts import UnknownWords
from cinelab.zoo.checkpoints import toy_encoder


def test_unknown_words_are_named_with_the_nearest_known():
    with pytest.warns(UnknownWords, match="'rabit'.*'rabbit'"):
        toy_encoder().encode(["a red rabit in the meadow"])


def hint(prompt: str, word: str) -> str:
    """What the warning says behind an unknown word of a prompt."""
    with pytest.warns(UnknownWords) as caught:
        toy_encoder().encode([prompt])
    return re.search(rf"'{word}'( \(.*?\))?[,;]", str(caught[0].message))[1] or ""


@pytest.mark.parametrize(
    "words, near",
    [
        ("walk walking walked strolling", "walk"),
        ("jump jumping jumped jumpps", "jumps"),
        ("dance dancing danced", "dances"),
        ("waving wave waeves", "waves"),
        ("mountain montains", "mountains"),
        ("cats catt", "cat"),
        ("rabit rabbits rabbitt", "rabbit"),
        ("forrest forests", "forest"),
        ("meadwo meddow", "meadow"),
        ("yelow", "yellow"),
        ("purpel", "purple"),
        ("nigth", "night"),
    ],
)
def test_another_form_or_a_slip_gets_the_word_that_was_meant(words, near):
    found = [hint(word, word) for word in words.split()]
    assert all(near in text or ("stroll" in text and near == "walk") for text in found), found


def test_a_word_alone_that_resembles_by_chance_gets_no_hint():
    plain = (
        "dog runs dusk establishing woman man horse bear fox knight sand bench car cart hat house "
        "tree river sea ocean sunset dawn "
        "evening morning sleeps eats flies sits smiles pink black brown white grey aerial drone "
        "hope light big old happy"
    ).split()
    assert [word for word in plain if hint(word, word)] == []


@pytest.mark.parametrize(
    "prompt, word, family",
    [
        ("a dog runs at dusk", "dog", "cat, rabbit"),
        ("a dog runs at dusk", "runs", "jumps"),
        ("a dog runs at dusk", "dusk", "by day, at night"),
        ("establishing shot of a red cat", "establishing", "wide shot"),
        ("a woman walks in the park", "woman", "rabbit"),
        ("a woman walks in the park", "park", "meadow"),
        ("a red dog that sleeps by the river", "sleeps", "dances"),
        ("a red dog that sleeps by the river", "river", "beach"),
        ("a cat, handheld camera", "handheld", "static camera"),
        ("a blue knight that waves", "knight", "ghost"),
        ("a cat that waves in the woods at knight", "knight", "at night"),
    ],
)
def test_a_place_in_the_sentence_asks_for_a_family(prompt, word, family):
    assert family in hint(prompt, word)


def test_an_adjective_is_not_taken_for_what_it_stands_before():
    for prompt, word in (
        ("a big cat that waves", "big"),
        ("a cat that waves in the dark forest", "dark"),
        ("a cat with glasses", "glasses"),
    ):
        assert hint(prompt, word) == ""


def test_known_prompts_warn_of_nothing_and_little_words_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = toy_encoder()
        plain = encoder.encode(
            ["Wide shot of a red CAT that waves in the beach by day, static camera!"]
        )
        assert torch.equal(
            plain,
            encoder.encode(["wide shot of a red cat that waves in the beach by day static camera"]),
        )
        encoder.encode(["an orange cat waves on the beach"])


def test_the_empty_prompt_is_all_zeros_and_words_differ():
    text = toy_encoder().encode(["", "red cat", "cat red"])
    assert (text[0] == 0).all() and not torch.equal(text[1], text[2])
    assert text.shape == (3, 24, 64)


def test_encoding_is_the_same_in_every_process():
    a, b = toy_encoder(), toy_encoder()
    assert torch.equal(a.codes, b.codes) and a.vocabulary == b.vocabulary


def test_a_prompt_too_long_says_how_much_was_read():
    with pytest.warns(UnknownWords, match="only the first 24"):
        toy_encoder().encode(["red cat " * 20])
