"""Metrics that cannot be gamed: what never listened, froze, or drew all alike has the value of
chance, and a claim of memory passes five boxes or says which one it does not."""

from itertools import pairwise
from math import exp

import numpy as np
import pandas as pd
import pytest
import torch

from cinelab import CAMR, load
from cinelab.errors import CinelabError
from cinelab.lab.reports.memory_boxes import box_table
from cinelab.lab.reports.sweep_cells import Cells
from cinelab.lab.studies.tasks import answer_tasks, export_tasks, tasks_of
from cinelab.latent.codec import to_uint8
from cinelab.memory.policy import Full, Window
from cinelab.metrics.card import CardConfig, absences_of, relative_diversity_rows
from cinelab.metrics.memory_card import BOXES, box_lines, memory_card, verdict_of
from cinelab.metrics.metric import labelled
from cinelab.metrics.rows import Row, row_table
from cinelab.metrics.toybox.attributes import diversity_rows, make_frames
from cinelab.metrics.toybox.held_films import held_latents, held_plans
from cinelab.metrics.toybox.paired_histories import (
    GAP,
    PAIRS,
    PRECONDITION,
    cache_of_histories,
    follow_rows,
    made_again,
    paired_batch,
    paired_plans,
    paired_rows,
)
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.cut_timing import cut_error, floors, shot_cut_accuracy
from cinelab.metrics.video.evaluate import boxes_of_videos, evaluate
from cinelab.metrics.video.held_shot import held_rows
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.world.worlds import world_named

WORLD = world_named()
READS = dict.fromkeys(WORLD.identity, 0.99)


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


# SCA


def test_a_film_that_cuts_where_it_was_planned_has_one_and_any_other_has_less():
    planned = [10, 20, 35]
    assert shot_cut_accuracy(planned, planned, 48) == 1
    late = [shot_cut_accuracy(planned, [cut + late for cut in planned], 48) for late in range(6)]
    assert all(near > far for near, far in pairwise(late))
    more = [shot_cut_accuracy(planned, [*planned, *range(1, extra)], 48) for extra in (2, 6, 9)]
    assert 1 > more[0] > more[1] > more[2]


def test_what_never_listened_has_the_floor_that_is_printed():
    assert shot_cut_accuracy([12, 24, 36], [], 48) == pytest.approx(exp(-3 / 4))
    found = floors([10, 30, 40], 48)
    assert found["no cuts"] == shot_cut_accuracy([10, 30, 40], [], 48)
    assert found["no cuts"] < found["even cuts"] < 1
    assert floors([], 48) == {"no cuts": 1.0, "even cuts": 1.0}
    assert shot_cut_accuracy([], [7], 48) == pytest.approx(exp(-1)), "the whole shot is the penalty"


def test_the_matching_is_the_one_with_the_least_error():
    """Against every matching in order, tried one by one."""

    def least(due, found, lengths):
        if not due or not found:
            return sum(lengths[cut] for cut in due) + sum(lengths[cut] for cut in found)
        return min(
            abs(due[0] - found[0]) + least(due[1:], found[1:], lengths),
            lengths[due[0]] + least(due[1:], found, lengths),
            lengths[found[0]] + least(due, found[1:], lengths),
        )

    rng = np.random.default_rng(0)
    for _ in range(20):
        due, found = (sorted(rng.choice(np.arange(1, 40), 4, replace=False)) for _ in range(2))
        edges = [0, *due, 40]
        lengths = {
            cut: end - start
            for start, end in pairwise(edges)
            for cut in range(start, end)  # a missed cut opens its shot, an extra one falls into it
        }
        assert cut_error(due, found, 40) == least(due, found, lengths)


# Paired histories


def test_a_pair_differs_in_one_look_of_the_character_that_returns_and_in_nothing_else():
    for number in range(6):
        (one, other), (fact, _) = paired_plans(WORLD.absence(60_010, number, 2), number)
        assert [shot.caption for shot in one.shots] == [shot.caption for shot in other.shots]
        before = WORLD.render(one)
        after = WORLD.render(other)
        shows = np.array(
            [one.shots[shot].character == one.shots[-1].character for shot in before.shot_of_frame]
        )
        alike = (before.frames == after.frames).all((1, 2, 3))
        assert alike[~shows].all() and not alike[shows].any()
        changed = {
            name
            for a, b in zip(one.shots, other.shots, strict=True)
            for name in a.attributes
            if a.attributes[name] != b.attributes[name]
        }
        assert changed == {fact.name} and fact.own != fact.other


@pytest.mark.parametrize("always", ["hat", "crown", "scarf"])
def test_whoever_ignores_the_history_has_exactly_one_half(always):
    _, facts = paired_plans(WORLD.absence(60_011, 0, 1), 1)
    assert facts[0].name == "accessory"
    rows = follow_rows([{"accessory": always}] * 2, facts, "away=1")
    assert sum(row.value for row in rows) / 2 == 0.5
    right = follow_rows([{"accessory": fact.own} for fact in facts], facts, "away=1")
    assert [row.value for row in right] == [1, 1]


def test_a_window_has_no_gap_to_bridge_nor_does_full_attention_have_one(bundle):
    """Once the evidence has left a window, the pair's films are the same film; full attention never
    lets it leave."""
    paired = paired_batch(bundle, 60_012, range(1), away=3, shot_latents=1)
    reader = load_recogniser()
    for policy, gap in ((Window(window=2), 1.0), (Full(), 0.0), (CAMR(budget=4), 1.0)):
        rows = row_table(
            paired_rows(bundle, reader, policy, paired=paired, seeds=[0], protocol="away=3")
        )
        made = rows[rows.source == "model"].set_index(["metric", "protocol"]).value
        assert (made[GAP, "away=3"] == gap).all()
        assert made[PAIRS, "away=3 erased"].groupby(level=0).mean().eq(0.5).all()
        if isinstance(policy, Window):
            assert made[PAIRS, "away=3"].mean() == 0.5
        assert (rows[rows.source == "chance"].value == 0.5).all()


def test_a_return_from_a_copied_cache_is_the_film_in_one_piece_to_the_bit(bundle):
    batch = paired_batch(bundle, 60_013, range(1), away=1, shot_latents=1).batch
    cache = cache_of_histories(bundle, batch, CAMR(budget=3), [5, 5])
    length = cache.length
    _, latents = made_again(bundle, batch, cache, seeds=[5, 5])
    _, again = made_again(bundle, batch, cache, seeds=[5, 5])
    assert torch.equal(latents, again) and cache.length == length
    whole, _ = make_frames(bundle, batch, CAMR(budget=3), [5, 5], known=batch.last_shot)
    known = batch.latents[:, : batch.last_shot]
    frames = bundle.codec.decode(torch.cat([known, latents], 1))[0]
    assert np.array_equal(to_uint8(frames), whole)


# Absences in the trained span


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_an_absence_in_span_fits_into_what_the_model_was_trained_on(chunk):
    for span in (12, 24, 48):
        for one in absences_of(CardConfig(in_span=(1, 5, 9, 40)), span, chunk):
            if one.in_span:
                assert (one.away + 3) * one.shot_latents <= span
                assert "in span" in one.protocol
            assert one.shot_latents % chunk == 0


# Held shots


def shot_of(count, fade=1.0, step=1):
    """A shot of noise that moves `step` pixels a frame and fades to `fade` of its contrast."""
    still = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(float)
    shares = np.linspace(1, fade, count)[:, None, None, None]
    moved = np.stack([np.roll(still, step * frame, axis=1) for frame in range(count)])
    return (128 + (moved - 128) * shares).astype(np.uint8)


def held(frames):
    clip = Clip("film", frames, 8.0, ShotList((ListedShot(0, len(frames)),)))
    return {row.metric: row.value for row in held_rows(clip) if not row.protocol}


def test_a_shot_that_melts_is_seen_and_one_that_freezes_moves_no_more():
    steady = held(shot_of(48))
    assert steady["held sharpness"] == pytest.approx(1, abs=0.01)
    assert steady["held motion"] == pytest.approx(1, abs=0.02)
    assert held(shot_of(48, fade=0.5))["held sharpness"] < 0.7
    frozen = held(shot_of(48, step=0))
    assert frozen["held sharpness"] == 1 and frozen["held motion"] == 0
    assert held(shot_of(24)) == {}, "3 s are not held"


def test_a_held_film_is_one_shot_in_which_nobody_leaves():
    plans = held_plans(WORLD, 60_014, 3, held_latents(WORLD, 6, 2))
    assert [len(plan.shots) for plan in plans] == [1] * 3
    assert all(plan.shots[0].attributes["camera"] == "static" for plan in plans)
    assert len(WORLD.render(plans[0]).frames) >= 6 * WORLD.fps


# Diversity against the truth's


def test_drawing_all_alike_has_no_share_of_the_truths_diversity():
    plans = [WORLD.cast_film(60_015, index, 12, shot_latents=(3, 3)) for index in range(4)]
    true = diversity_rows([[shot.attributes for shot in plan.shots] for plan in plans], plans)
    alike = dict(plans[0].shots[0].attributes)
    made = diversity_rows([[alike] * len(plan.shots) for plan in plans], plans)
    assert {row.value for row in relative_diversity_rows(made, true)} == {0.0}
    found = [r for r in relative_diversity_rows(true, true) if r.metric.endswith("identity")]
    assert np.mean([row.value for row in found]) == pytest.approx(1)


# Five boxes


def evidence_rows(follow, erased, others, gap=1.0, shown=1.0, pairs=30):
    """Rows of pairs, whose two returns follow their history with the given values."""
    values = {
        (PAIRS, "away=5"): follow,
        (PAIRS, "away=5 erased"): erased,
        (PAIRS, "away=5 others erased"): others,
        (GAP, "away=5"): (gap, gap),
        (PRECONDITION, "away=5"): (shown, shown),
    }
    return row_table(
        [
            Row(f"{pair:04d}", 0, metric, value, protocol=protocol)
            for pair in range(pairs)
            for (metric, protocol), both in values.items()
            for value in both
        ],
        seed=0,
    )


def states(rows, reads=READS):
    boxes = memory_card(rows, reads, READS)["away=5"]
    return {name: boxes[name]["state"] for name in BOXES}


RIGHT = {"follow": (1, 1), "erased": (1, 0), "others": (1, 1)}


def test_a_memory_that_is_shown_passes_all_five_boxes():
    card = memory_card(evidence_rows(**RIGHT), READS, READS)
    assert verdict_of(card["away=5"]) == "shown"
    assert card["away=5"]["pair"]["p"] < 0.01 and card["away=5"]["pair"]["n"] == 30
    assert box_lines(card)[0][:2] == ["away=5", "shown"]


@pytest.mark.parametrize(
    "box, wrong",
    [
        ("gap", {"gap": 0.0}),
        ("pair", {"follow": (1, 0)}),
        ("precondition", {"shown": 0.0}),
        ("intervention", {"erased": (1, 1)}),
        ("intervention", {"others": (1, 0)}),
    ],
)
def test_each_box_fails_by_itself(box, wrong):
    found = states(evidence_rows(**{**RIGHT, **wrong}))
    assert found.pop(box) == "failed" and set(found.values()) == {"passed"}


def test_a_bad_reader_and_few_pairs_are_said():
    assert states(evidence_rows(**RIGHT), READS | {WORLD.identity[-1]: 0.7})["reader"] == "failed"
    assert states(evidence_rows(**RIGHT), {})["reader"] == "not measured"
    assert states(evidence_rows(**RIGHT, pairs=2))["pair"] == "undecided"


def test_what_needs_the_cache_is_open_and_never_passed():
    rows = evidence_rows(**RIGHT)
    files = rows[(rows.protocol == "away=5") & (rows.metric != GAP)]
    card = memory_card(files, READS, READS)["away=5"]
    for name in ("gap", "intervention"):
        assert card[name]["state"] == "not measured" and card[name]["needs"] == "needs the cache"
    assert card["pair"]["state"] == "passed" and verdict_of(card) == "not shown"
    assert memory_card(rows[rows.metric == GAP], READS, READS) == {}


def test_a_report_has_the_boxes_of_every_setting():
    rows = pd.concat(
        [
            labelled(evidence_rows(**RIGHT)).assign(policy="camr"),
            labelled(evidence_rows(**RIGHT | {"follow": (1, 0)})).assign(policy="window"),
        ]
    )
    table = pd.DataFrame({"info": [{"recogniser": READS}]})
    found = box_table(Cells((), table, rows, ["policy"], trained=False)).set_index("policy")
    assert found["memory"].tolist() == ["shown", "not shown"]
    assert found.loc["window", "pair"].startswith("failed 0.500")
    assert box_table(Cells((), table, rows[:0], ["policy"], trained=False)).empty


# The tasks as files


def test_pairs_are_judged_from_files(tmp_path):
    config = CardConfig(seeds=(0,), films=2, away=(1,), in_span=(), pairs=1, held_seconds=4)
    assert export_tasks(tmp_path, config) == len(tasks_of(config)) == 2 + 1 + 2 + 2
    names = [name for name in tasks_of(config) if name.startswith("paired")]

    def alike(plan, given):
        """The first film's frames for both: a model that ignores its history."""
        first = tasks_of(config)[names[0]].plan
        return np.concatenate([given, WORLD.render(first).frames[len(given) :]])

    answer_tasks(tmp_path, alike, config, 8.0, names)
    rows = evaluate([tmp_path / "paired"], ("toybox",))
    made = rows[(rows.metric == PAIRS) & (rows.source == "model")]
    assert sorted(made.value) == [0, 1] and set(made.protocol) == {"away=1"}
    assert set(made["clip"]) == {"a1-s0-f00"}, "a pair is one unit"
    boxes = boxes_of_videos(rows)["away=1"]
    assert boxes["pair"]["state"] == "failed" and boxes["precondition"]["state"] == "passed"
    assert boxes["gap"]["needs"] == "needs the cache"
    assert boxes_of_videos(rows[rows.metric != PAIRS]) == {}


def test_a_held_shot_has_a_least_length():
    with pytest.raises(CinelabError, match="held_seconds is 1; a shot is held from 4 s"):
        CardConfig(held_seconds=1)
