"""Scores and studies on a GPU: what the recogniser reads there is what it reads on the CPU."""

import numpy as np
import pytest

from cinelab import CAMR, load
from cinelab.lab.studies import injectivity
from cinelab.metrics.toybox.attributes import encode_plans
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.stream.batch import decode
from cinelab.world.worlds import world_named

pytestmark = pytest.mark.gpu


def test_frames_are_coded_and_read_as_on_the_cpu(gpu):
    plans = [world_named().cast_film(50_000, index, 4, shot_latents=(4, 4)) for index in range(2)]
    shown = {}
    for device in ("cpu", gpu):
        bundle = load("toybox-1step", device)
        batch = encode_plans(bundle, plans)
        assert batch.latents.device.type == bundle.device.type
        shown[device] = decode(bundle, batch.latents)
    assert np.abs(shown["cpu"].astype(int) - shown[gpu]).max() <= 4
    cut = shown["cpu"][:, : load_recogniser().config.frames]
    here = load_recogniser(device="cpu").probabilities(cut)
    there = load_recogniser(device=gpu).probabilities(cut)
    assert all(np.allclose(here[name], there[name], atol=1e-3) for name in here)


def test_a_training_is_validated_on_the_gpu(gpu):
    small = ValidationConfig(films=1, latents=3, shot_latents=(3, 3), recalls=1, away=1)
    bundle = load("toybox-1step")
    metrics = Validator(bundle, load_recogniser(), CAMR(budget=2), small)(bundle.model)
    assert 0 <= metrics["score"] <= 1


def test_injectivity_is_measured_on_the_gpu(gpu):
    setting = injectivity.SMOKE
    clips = injectivity.held_out(load("toybox-base"), setting)
    cases = {"causal": injectivity.Case("toybox-base", "truth")}
    rows = injectivity.measure_cases(cases, clips, setting)
    assert np.isfinite(rows["value"]).all()
    assert (rows[rows["what"] == "control"]["value"] < 1e-6).all()
