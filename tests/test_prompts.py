"""The word encoder: unknown words are named with the nearest known one; nothing else changes the numbers."""

import warnings

import pytest
import torch

from cinelab.model.zoo import toy_encoder
from cinelab.script.prompts import UnknownWords


def test_unknown_words_are_named_with_the_nearest_known():
    with pytest.warns(UnknownWords, match="'rabit'.*'rabbit'"):
        toy_encoder().encode(["a red rabit in the meadow"])


def test_known_prompts_warn_of_nothing_and_little_words_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = toy_encoder()
        plain = encoder.encode(["Wide shot of a red CAT that waves in the beach by day, static camera!"])
        assert torch.equal(plain, encoder.encode(["wide shot of a red cat that waves in the beach by day static camera"]))
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
