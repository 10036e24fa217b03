"""The exam, its pictures' measures and the alarms."""

import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.training.monitor import alarms, distillation_curves
from cinelab.metrics.metric import METRICS
from cinelab.metrics.rows import row_table
from cinelab.metrics.stats import nested_bootstrap
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.metrics.video.appearance import (
    appearance_rows,
    contrast,
    motion,
    saturation,
    sharpness,
)
from cinelab.zoo.checkpoints import load


def film(seed=0, frames=8):
    return np.random.default_rng(seed).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)


def test_motion_does_not_count_cuts():
    still = np.concatenate([np.zeros((4, 8, 8, 3), np.uint8), np.full((4, 8, 8, 3), 200, np.uint8)])
    assert motion(still, [(0, 4), (4, 8)]) == 0
    assert motion(still, [(0, 8)]) == pytest.approx(200 / 7)


def test_blur_lowers_detail_and_grey_lowers_saturation():
    frames = film()
    blurred = ((frames[:, :-1].astype(int) + frames[:, 1:]) // 2).astype(np.uint8)
    grey = np.repeat(frames.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    assert sharpness(blurred) < 0.8 * sharpness(frames)
    assert saturation(grey) == 0 < saturation(frames)
    assert contrast(np.full_like(frames, 90)) == 0


def test_the_truth_has_a_share_of_one():
    truth = np.stack([film(0), film(1)])
    rows = row_table(appearance_rows(truth, truth, [[(0, 8)], [(0, 3), (3, 8)]]))
    assert rows.groupby("metric").value.mean().round(6).tolist() == [1, 1, 1, 1]


def test_an_exam_is_the_same_every_time_and_marks_a_ruined_model_down():
    bundle = load("toybox-base")
    bundle.sampling = bundle.levels(2)
    validate = Validator(
        bundle, load_recogniser(), config=ValidationConfig(films=2, latents=6, recalls=2, away=1)
    )
    marks = validate(bundle.model)
    assert marks == validate(bundle.model)
    assert {
        "score",
        "prompt",
        "action",
        "identity",
        "cut accuracy",
        "motion",
        "saturation",
        "contrast",
        "sharpness",
        "diversity of identity",
        "framing offset",
        "at the edge",
    } <= set(marks)
    # where a character comes back in so few shots
    assert set(marks) <= {one.name for one in METRICS.validated()} | {"score"}
    for weight in bundle.model.proj_out.parameters():
        weight.zero_()
    assert validate(bundle.model)["prompt"] < marks["prompt"]


def log(motion=1.0, saturation=1.0, critic=0.3, gap=0.5):
    rows = [{"step": i, "loss": 0.3, "gap": 0.5, "critic_loss": 0.3} for i in range(80)]
    rows += [{"step": 80 + i, "loss": 0.3, "gap": gap, "critic_loss": critic} for i in range(20)]
    return [
        *rows,
        {
            "step": 100,
            "score": 0.9,
            "motion": motion,
            "saturation": saturation,
            "contrast": 1.0,
            "sharpness": 1.0,
        },
    ]


@pytest.mark.parametrize(
    "change, word",
    [
        ({"motion": 0.3}, "dying"),
        ({"saturation": 1.4}, "burn"),
        ({"critic": 0.9}, "critic diverges"),
        ({"gap": 1.5}, "diverges"),
    ],
)
def test_alarms_name_what_is_wrong_and_the_remedy(change, word):
    assert alarms(log()) == []
    [text] = alarms(log(**change))
    assert word in text and ("lower" in text.lower() or "raise" in text)


def test_the_curves_show_what_the_log_has_and_the_alarms():
    figure = distillation_curves(log(motion=0.2))
    names = {trace.name for trace in figure.data}
    assert {"loss", "critic_loss", "gap", "score", "motion"} <= names and "prompt" not in names
    assert "dying" in figure.layout.title.text
    assert len(distillation_curves([]).data) == 0


def test_trainings_that_disagree_widen_the_interval():
    films = np.random.default_rng(0).normal(size=90)
    seeds = np.repeat([0, 1, 2], 30)
    calm = nested_bootstrap(films, seeds)
    torn = nested_bootstrap(films + seeds, seeds)
    assert torn.high - torn.low > 1.5 * (calm.high - calm.low)
    assert torn.low < torn.value < torn.high
    with pytest.raises(CinelabError, match="give one each"):
        nested_bootstrap(films, seeds[:5])
