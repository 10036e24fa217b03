"""The study of CausalCine's memory: what differs between its arms is the memory alone, what is
retrieved is judged by what is truly shown, and claims are decided when they should be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import Fake, model

from cinelab.errors import CinelabError
from cinelab.lab.studies import memory_training as study
from cinelab.lab.studies.memory_verdicts import memory_claims, memory_table, swept_table
from cinelab.lab.training import stages
from cinelab.latent.store import Clips
from cinelab.memory.cache import KVCache
from cinelab.memory.context import TeacherForcingContext, sample_history_policy
from cinelab.memory.policy import CAMR, CausalCine, Full, Oracle, RandomTopK
from cinelab.metrics.rows import clip_of
from cinelab.metrics.toybox.retrieval import hit_rows, retrieval_by_layer, retrieval_rows
from cinelab.seeds import rng_at
from cinelab.train import presets, teacher_forcing
from cinelab.train.shown import numbers_of


def test_every_memory_attends_to_as_many_latent_frames():
    assert {one.budget_at(99) for one in study.MEMORIES.values()} == {14}
    assert {one.unit for one in study.MEMORIES.values()} == {"frame"}


@pytest.mark.parametrize("name", ["causalcine", "ours"])
def test_a_variant_changes_one_thing(name):
    own = study.MEMORIES[name]
    made = study.variants(own, 3, 6)
    assert own not in made.values() and len({repr(one) for one in made.values()}) == len(made)
    assert all(made[f"k={k}"].budget - own.window == k for k in (0, 1, 2, 3, 8))
    alike = [one for key, one in made.items() if key.startswith(("layers", "score", "per", "pos"))]
    assert len(alike) == 6 and {one.budget for one in alike} == {14}
    layers = [one.routed_layers for key, one in made.items() if key.startswith("layers")]
    assert layers == [(0, 1), (2, 3), (4, 5)]
    assert made["unit=chunk"].budget * 3 >= 14 and made["unit=chunk"].unit == "chunk"


def test_other_memories_are_varied_only_as_a_whole():
    assert set(study.variants(study.MEMORIES["random"], 3, 6)) == {"under full", "under causalcine"}
    with pytest.raises(CinelabError, match="memory is 'best'; use one of causalcine, ours"):
        study.memory_named("best")


def test_the_papers_preset_routes_always_and_draws_one_timestep_a_clip(monkeypatch):
    config = presets.teacher_forcing("causalcine")
    assert (config.chunk, config.camr, config.levels) == (3, CausalCine(), "clip")
    assert all(
        teacher_forcing.history_at(config, step).policy == CausalCine()
        for step in range(0, 5000, 500)
    )
    drawn = []
    monkeypatch.setattr(
        teacher_forcing, "given_history", lambda *a, **more: drawn.append(a[3]) or a[2]
    )
    small = replace(config, model=presets.SMOKE, curriculum=(6,), camr=Full())
    for levels, different in (("clip", 1), ("chunk", 2)):
        clips = Fake().clips(2, 6, rng_at(0))
        changed = replace(small, levels=levels)
        teacher_forcing.loss(
            model(), clips, changed, sample_history_policy(0, 0, Full(), camr_share=1), rng_at(1)
        )
        assert [len(set(row.tolist())) for row in drawn[-1]] == [different] * 2
    with pytest.raises(CinelabError, match="levels is 'film'"):
        replace(config, levels="film")


def test_a_random_control_draws_anew_in_every_step():
    policy = RandomTopK(budget=3)
    drawn = [sample_history_policy(0, step, policy, camr_share=1.0).policy for step in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert sample_history_policy(0, 1, CAMR(), camr_share=1.0).policy == CAMR()


def test_an_oracle_is_trained_on_the_frames_that_show_the_running_character():
    who = torch.tensor([[0, 0, 1, 1, 0, 0, 2, 2, 1, 1]])
    oracle = Oracle(budget=4, window=1, shown="who", unit="frame")
    clips = SimpleNamespace(shot=torch.zeros(1, 10), who=who, where=None)
    context = TeacherForcingContext(oracle, numbers_of(clips, oracle), 2, copies=1)
    retrieved = context._retrieved(0, torch.empty(1, 10, 1, 1), torch.empty(1, 10, 1, 1))[0, 0]
    assert retrieved[4].nonzero().flatten().tolist() == [2, 3, 6, 7]
    assert retrieved[2].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert numbers_of(clips, CAMR()) is clips.shot
    with pytest.raises(CinelabError, match="does not state 'where'"):
        numbers_of(clips, replace(oracle, shown="where"))
    with pytest.raises(CinelabError, match="Oracle shown is 'face'"):
        Oracle(shown="face")


def decided(layer, picks, fixed):
    """What a layer retrieved for chunk 2, a group a row."""
    return {"chunk": 2, "clean": False, "layer": layer, "picks": picks[None], "fixed": fixed[None]}


def test_precision_is_the_share_of_retrieved_frames_that_show_who_returns():
    cast = [SimpleNamespace(character=number) for number in (1, 0, 2, 0)]
    plan = SimpleNamespace(shots=cast)
    cache = KVCache(CAMR(budget=3, window=1, unit="frame"), 3)
    cache.page_shots = torch.tensor([[0, 0, 1, 1, 2, 2]])
    cache.page_chunks = (0, 0, 0, 1, 1, 1)
    one = torch.tensor([[0, 3, 5], [2, 3, 5]])
    pinned = torch.tensor([[False, False, True]] * 2)
    cache.decisions = (decided(0, one, pinned), decided(1, one[:1], pinned[:1] | True))
    table = retrieval_by_layer(cache, [plan], 2)
    assert table.layer.tolist() == [0, 0, 1] and table.group.tolist() == [0, 1, 0]
    assert table.precision.tolist()[:2] == [0.5, 1.0] and np.isnan(table.precision[2])
    assert table.precision_by_chance.tolist()[:2] == [0.4, 0.4]  # 2 right ones of 5 that compete
    assert table.hit.tolist() == [1.0, 1.0, 1.0]
    assert table.hit_by_chance.tolist() == [pytest.approx(0.7), pytest.approx(0.7), 1.0]
    rows = retrieval_rows(cache, [plan], 2)
    precise = [row.value for row in rows if row.metric == "retrieval precision"]
    assert precise == [0.5, 0.4, 1.0, 0.4]
    made, chance = hit_rows(cache, [plan], 2)
    assert [row.value for row in made] == [1.0] * 3 and len(chance) == 3


TRUE = {"causalcine": 0.7, "ours": 0.72, "oracle": 0.9, "random": 0.4, "window": 0.3}


def invented(true, seeds=(0, 1, 2), films=60):
    """Rows of recall under every memory; a film's luck is the same under all."""
    parts = []
    for seed in seeds:
        clips = [clip_of(film) for film in range(films)]
        luck = np.random.default_rng(seed).random(films)
        settings = [(name, study.OWN, share) for name, share in true.items()]
        settings += [("causalcine", "k=0", 0.3), ("causalcine", "k=8", 0.71)]
        for memory, variant, share in settings:
            for source, level in (("model", share), ("truth", 0.99), ("chance", 0.25)):
                about = {"memory": memory, "variant": variant, "source": source, "seed": seed}
                values = (luck < level) * 1.0
                parts.append(pd.DataFrame({"value": values, **about}).assign(clip=clips))
    about = {"metric": "identity", "protocol": "recalled", "backend": "toybox", "away": 5}
    return pd.concat(parts, ignore_index=True).assign(shot=7, run="", status="ok", **about)


def verdict_of(claims, text):
    return claims[claims.claim.str.contains(text, regex=False)].verdict.iloc[0]


def test_claims_are_decided_over_trainings():
    claims = memory_claims(invented(TRUE))
    assert verdict_of(claims, "causalcine is ahead of window") == "confirmed"
    assert verdict_of(claims, "causalcine is ahead of random") == "confirmed"
    assert verdict_of(claims, "oracle is ahead of causalcine") == "confirmed"
    assert verdict_of(claims, "ours is ahead of causalcine").startswith("undecided")
    assert verdict_of(claims, "itself with k=0") == "confirmed"
    assert verdict_of(claims, "itself with k=8") == "confirmed"
    assert verdict_of(claims, "whole films: causalcine is ahead of window") == "not measured"
    assert (claims.trainings.dropna() == 3).all()
    worse = memory_claims(invented(TRUE | {"causalcine": 0.2}))
    assert verdict_of(worse, "causalcine is ahead of window") == "refuted"


def test_one_training_decides_nothing():
    claims = memory_claims(invented(TRUE, seeds=(0,)))
    assert verdict_of(claims, "causalcine is ahead of window") == "undecided: 1 training"


def test_tables_have_nested_intervals_and_variants():
    table = memory_table(invented(TRUE))
    assert set(table.trainings) == {3} and (table.low <= table.value).all()
    assert set(swept_table(table, "causalcine").variant) == {"own", "k=0", "k=8"}


class Characters(Fake):
    """Random clips whose frames show two characters by turns."""

    recipe = {"films": "random"}

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        who = torch.arange(frames).expand(count, -1) // 3 % 2
        return replace(super().clips(count, frames, rng), who=who)


def test_a_cell_goes_on_where_it_stopped(tmp_path, monkeypatch):
    few = study.Measured(2, (1,), None, steps=1)
    recipe = {"init": None, "preset": "smoke"}
    done = study.training_cell(tmp_path, Characters(), "oracle", 0, measured=few, **recipe)
    assert {"identity", "hit rate"} <= set(done.metric) and set(done.away) == {0, 1}
    monkeypatch.setattr(study, "_measure", None)  # nothing is measured again
    monkeypatch.setattr(stages.Stage, "train", None)  # nor trained
    again = study.training_cell(tmp_path, Characters(), "oracle", 0, measured=few, **recipe)
    pd.testing.assert_frame_equal(done, again)
    more = replace(few, films=3)
    with pytest.raises(CinelabError, match="holds measurements with films=2, not 3"):
        study.training_cell(tmp_path, Characters(), "oracle", 0, measured=more, **recipe)


def test_a_film_is_numbered_by_what_it_shows_for_an_oracle():
    from cinelab.script.timeline import Slot, Timeline

    slots = tuple(Slot(i, i, i, i, 3 * i, 3, i > 0) for i in range(4))
    cast = [SimpleNamespace(character=number, place=9) for number in (1, 0, 2, 0)]
    batch = SimpleNamespace(
        timelines=[Timeline(slots, ("",) * 4, 8.0, 2)], plans=[SimpleNamespace(shots=cast)]
    )
    (line,) = study.numbered_timelines(batch, "who")
    assert [slot.shot for slot in line.slots] == [1, 0, 2, 0]
    assert study.numbered_timelines(batch, None) is batch.timelines
