"""Cuts: both detectors find those of synthetic films, and planned and detected are paired
fairly."""

import itertools

import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.metrics.video.cuts import (
    CutDetector,
    CutMatch,
    colour_difference,
    detect_cuts,
    detect_cuts_pyscenedetect,
    frame_difference,
    match_cuts,
    usual_change,
)

HEIGHT = 48
WIDTH = 64


def world(seed: int) -> np.ndarray:
    """A wide smooth picture with a palette of its own, float (96, 160, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :160] / 32
    base = rng.uniform(60, 190, 3)
    swing = rng.uniform(30, 60, 3)
    waves = rng.uniform(0.6, 2.0, (3, 2))
    return np.stack(
        [
            b + s * np.sin(u * rows + v * columns)
            for b, s, (u, v) in zip(base, swing, waves, strict=True)
        ],
        axis=-1,
    )


def shot(seed: int, count: int, move: str = "static") -> np.ndarray:
    """`count` frames that pan over or zoom into world `seed`, with a ball that always moves."""
    picture = world(seed)
    frames = []
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for i in range(count):
        step = 1 + 0.06 * (count - i) / count if move == "zoom" else 1.0
        left = 3 * i if move == "pan" else 0
        seen = picture[(rows * step).astype(int), ((columns + left) * step).astype(int) % 160]
        ball = np.clip(7 - np.hypot(rows - 26, columns - 14 - 2 * i), 0, 1)[..., None]
        frames.append(seen * (1 - ball) + np.array([240, 70, 60]) * ball)
    return np.clip(frames, 0, 255).astype(np.uint8)


def film(*parts: tuple[int, int, str]) -> tuple[np.ndarray, list[int]]:
    """Shots of (seed, count, move) one after the other, and the cuts between them."""
    ends = list(itertools.accumulate(count for _, count, _ in parts))
    return np.concatenate([shot(*part) for part in parts]), ends[:-1]


FILMS = {
    "static": film((1, 12, "static"), (2, 12, "static"), (3, 12, "static")),
    "pans": film((1, 12, "pan"), (4, 8, "pan"), (5, 16, "pan"), (1, 12, "pan")),
    "mixed": film((6, 13, "zoom"), (7, 8, "pan"), (8, 12, "static"), (6, 9, "zoom")),
    "short": film((1, 8, "static"), (2, 5, "pan"), (3, 5, "static"), (4, 8, "zoom")),
}


@pytest.mark.parametrize("name", FILMS)
def test_our_detector_finds_exactly_the_cuts(name):
    frames, cuts = FILMS[name]
    assert detect_cuts(frames) == cuts


@pytest.mark.parametrize("name", FILMS)
def test_pyscenedetect_finds_the_cuts(name):
    frames, cuts = FILMS[name]
    assert detect_cuts_pyscenedetect(frames, fps=8) == cuts


def test_pyscenedetects_fixed_threshold_finds_hard_cuts_only():
    bright = np.full((6, HEIGHT, WIDTH, 3), 230, np.uint8)
    frames = np.concatenate([bright, bright // 8, bright])
    assert detect_cuts_pyscenedetect(frames, fps=8, kind="content") == [6, 12]
    assert detect_cuts_pyscenedetect(shot(1, 24), fps=8, kind="content") == []


@pytest.mark.parametrize("detect", [detect_cuts, lambda film: detect_cuts_pyscenedetect(film, 8)])
@pytest.mark.parametrize("move", ["static", "pan", "zoom"])
def test_a_single_moving_shot_has_no_cut(detect, move):
    assert detect(shot(1, 24, move)) == []


def test_a_camera_that_starts_to_pan_is_no_cut():
    still = shot(1, 1)
    moving = shot(1, 10, "pan")
    assert detect_cuts(np.concatenate([np.repeat(still, 10, axis=0), moving])) == []


def test_the_livelier_side_of_a_step_is_its_measure():
    steps = np.array([0] * 6 + [0.1] * 4 + [0.5] + [0.1] * 4)  # a pan starts, then a cut
    assert usual_change(steps, window=3) == pytest.approx([0] * 4 + [0.1] * 11)
    assert usual_change(np.array([0.4]), window=3) == [0]


def test_a_jolt_right_after_a_cut_is_no_second_cut():
    levels = [40] * 8 + [220] + [150] * 8
    frames = np.stack([np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in levels])
    assert detect_cuts(frames) == [8]
    assert detect_cuts(frames, CutDetector(least_shot=1)) == [8, 9]


def test_cuts_survive_noise_and_large_frames():
    frames, cuts = FILMS["mixed"]
    rng = np.random.default_rng(0)
    noisy = np.clip(frames + rng.normal(0, 4, frames.shape), 0, 255).astype(np.uint8)
    assert detect_cuts(noisy) == cuts
    large = noisy.repeat(8, axis=1).repeat(8, axis=2)  # 384 x 512
    assert detect_cuts(large) == cuts == detect_cuts_pyscenedetect(large, fps=16)


def test_the_last_shot_may_be_short():
    frames, cuts = film((1, 12, "static"), (2, 4, "static"))
    assert detect_cuts(frames) == cuts == detect_cuts_pyscenedetect(frames, fps=8)
    frames, cuts = film((1, 12, "static"), (2, 2, "static"))
    assert detect_cuts(frames) == cuts == detect_cuts_pyscenedetect(frames, fps=8)


def test_thresholds_are_obeyed():
    frames, cuts = FILMS["static"]
    assert detect_cuts(frames, CutDetector(floor=0.99)) == []
    assert detect_cuts(frames, CutDetector(ratio=1e6)) == []
    assert len(detect_cuts(FILMS["pans"][0], CutDetector(floor=1e-4, ratio=1, least_shot=1))) > 5


def test_differences_have_their_units():
    frames = np.stack(
        [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (0, 255, 255, 204)]
    )
    assert frame_difference(frames) == pytest.approx([1, 0, 0.2])
    assert colour_difference(frames)[:2] == pytest.approx([1, 0])
    pan = shot(1, 6, "pan")
    assert colour_difference(pan).max() < frame_difference(pan[::5]).min()


@pytest.mark.parametrize("detect", [detect_cuts, lambda film: detect_cuts_pyscenedetect(film, 8)])
def test_films_of_one_or_two_frames(detect):
    assert detect(shot(1, 1)) == []
    assert detect(shot(1, 2)) == []


def test_two_frames_can_hold_a_cut():
    assert detect_cuts(film((1, 1, "static"), (2, 1, "static"))[0]) == [1]


@pytest.mark.parametrize(
    "planned, detected, tolerance, counts",
    [
        ([10, 20], [10, 20], 1, (2, 0, 0)),
        ([10, 20], [11, 19], 1, (2, 0, 0)),
        ([10, 20], [12, 20], 1, (1, 1, 1)),
        ([10], [9, 10, 11], 1, (1, 0, 2)),  # one planned cut is hit once
        ([10, 11], [10], 1, (1, 1, 0)),
        ([10, 12], [11, 13], 1, (2, 0, 0)),  # a nearest-first pairing would lose one
        ([10, 12], [9, 11], 1, (2, 0, 0)),
        ([10], [11], 0, (0, 1, 1)),
        ([], [5], 1, (0, 0, 1)),
        ([5], [], 1, (0, 1, 0)),
        ([], [], 1, (0, 0, 0)),
    ],
)
def test_matching_is_one_to_one(planned, detected, tolerance, counts):
    found = match_cuts(planned, detected, tolerance)
    assert (found.hits, found.missed, found.spurious) == counts


def test_matching_finds_as_many_pairs_as_any_pairing():
    rng = np.random.default_rng(0)
    for _ in range(200):
        plan = rng.choice(14, rng.integers(0, 5), replace=False).tolist()
        seen = rng.choice(14, rng.integers(0, 5), replace=False).tolist()
        short, long = sorted([plan, seen], key=len)
        best = max(
            sum(abs(a - b) <= 1 for a, b in zip(short, order, strict=False))
            for order in itertools.permutations(long)
        )
        assert match_cuts(plan, seen).hits == best


def test_rates():
    found = CutMatch(hits=6, missed=2, spurious=4)
    assert found.accuracy == 0.5 and found.precision == 0.6 and found.recall == 0.75
    assert found.f1 == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))
    assert match_cuts([], []).accuracy == match_cuts([], []).f1 == 1


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: detect_cuts(np.zeros((4, 48, 64, 3))), "frames: expected uint8.*float64"),
        (lambda: detect_cuts(np.zeros((0, 48, 64, 3), np.uint8)), "F >= 1"),
        (lambda: detect_cuts_pyscenedetect(shot(1, 4), 0), "fps: 0"),
        (lambda: detect_cuts_pyscenedetect(shot(1, 4), 8, kind="magic"), "kind: 'magic'"),
        (lambda: CutDetector(ratio=0.5), "ratio"),
        (lambda: CutDetector(window=0), "window"),
        (lambda: match_cuts([1], [1], tolerance=-1), "tolerance: -1"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(CinelabError, match=said):
        call()
