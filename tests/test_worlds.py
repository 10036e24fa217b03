"""What every made world promises: the same film for an address, exact truth, words that can be
read back; and that what belongs to two worlds is refused."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from cinelab import load, register
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.lab.training import stages
from cinelab.latent.codec import ToyCodec, ToyCodecConfig
from cinelab.latent.store import StoreConfig, world_of_store
from cinelab.metrics.card import CardConfig
from cinelab.metrics.metric import METRICS
from cinelab.metrics.toybox.attributes import encode_plans, film_rows, read_shots
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.model.wan import CausalWan
from cinelab.train import recogniser as training
from cinelab.train.presets import SMOKE
from cinelab.world.plans import FilmPlan, Rendered, ShotPlan, frames_of, rng_for, shot_lengths
from cinelab.world.wording import Wording, words
from cinelab.world.worlds import WORLDS, World, prompted_names, world_named, world_of
from cinelab.zoo import checkpoints as zoo


@pytest.fixture(params=list(WORLDS), scope="module")
def world(request):
    return world_named(request.param)


@pytest.fixture(scope="module")
def films(world):
    return [world.cast_film(5, index, 24, shot_latents=(2, 4)) for index in range(60)]


def test_a_film_is_a_function_of_its_address(world, films):
    again = world.cast_film(5, 7, 24, shot_latents=(2, 4))
    assert again == films[7] != films[8]
    assert np.array_equal(world.render(again).frames, world.render(films[7]).frames)


def test_a_plan_names_the_world_that_draws_it(world, films):
    assert world_of(films[0]) is world and world.name == films[0].world
    assert world.absence(5, 0, 1).world == world.name


@pytest.mark.parametrize("shots", [1, 4, 12])
def test_films_of_one_to_a_dozen_shots(world, shots):
    plan = world.cast_film(1, shots, 3 * shots, shot_latents=(3, 3))
    film = world.render(plan)
    assert len(plan.shots) == shots
    assert film.frames.shape == (
        frames_of(plan.latents, world.stride, first=True),
        *world.size,
        3,
    )
    assert film.frames.dtype == np.uint8


def test_lengths_fill_the_film_exactly():
    for seed in range(50):
        lengths = shot_lengths(Random(seed), 24, 2, 4)
        assert sum(lengths) == 24 and max(lengths) <= 4


def test_shots_last_whole_multiples_of_the_grain(world):
    plan = world.cast_film(5, 0, 24, shot_latents=(3, 6), grain=3)
    assert plan.latents == 24 and all(shot.latents % 3 == 0 for shot in plan.shots)


def test_a_caption_names_what_is_prompted_and_nothing_else(world, films):
    hidden = {value for name in world.identity for value in world.unprompted[name]}
    for plan in films[:20]:
        for shot in plan.shots:
            prompted = {name: shot.attributes[name] for name in world.prompted}
            assert world.read_prompt(shot.caption) == prompted
            assert not set(words(shot.caption)) & hidden


def test_every_word_of_a_caption_is_known(world, films):
    used = {word for plan in films for shot in plan.shots for word in words(shot.caption)}
    assert used <= set(world.known_words())


def test_paraphrases_are_used_and_mean_the_same(world, films):
    shot = films[0].shots[0]
    texts = {world.caption(shot.attributes, Random(i)) for i in range(40)}
    assert len(texts) > 20
    meant = world.read_prompt(shot.caption)
    assert all(world.read_prompt(text) == meant for text in texts)


def test_a_prompt_that_names_two_values_keeps_the_first(world):
    assert world.read_prompt("a red cat and a blue cat")["colour"] == "red"


def test_who_comes_back_looks_as_before(world, films):
    """Identity and scenery are fixed by first appearance, whatever the prompt says of the rest."""
    for plan in films:
        cast = {}
        places = {}
        for shot in plan.shots:
            who = tuple(shot.attributes[name] for name in world.who)
            looks = tuple(shot.attributes[name] for name in world.identity)
            where = tuple(shot.attributes[name] for name in world.where)
            scene = tuple(shot.attributes[name] for name in world.scenery)
            assert cast.setdefault(shot.character, (who, looks)) == (who, looks)
            seen = (where, scene, shot.scenery_seed)
            assert places.setdefault(shot.place, seen) == seen
        assert len({who for who, _ in cast.values()}) == len(cast), "a prompt tells the cast apart"
        assert len({where for where, *_ in places.values()}) == len(places)


def test_returns_after_absence_are_common(films):
    """Without returns there is nothing to remember."""
    returns = 0
    for plan in films:
        order = [shot.character for shot in plan.shots if not shot.continues]
        returns += any(
            order[i] in order[: i - 1] and order[i] != order[i - 1] for i in range(2, len(order))
        )
    assert returns > 0.5 * len(films)


def test_identity_is_balanced(world):
    """A skewed identity would let a model guess."""
    ends = [world.absence(3, index, 1).shots[-1] for index in range(400)]
    for name, values in world.unprompted.items():
        counts = Counter(shot.attributes[name] for shot in ends)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.4 * 400 / len(values)


@pytest.mark.parametrize("away", [1, 5])
def test_an_absence_is_an_absence(world, away):
    for index in range(30):
        opening, first, *between, again = world.absence(2, index, away).shots
        assert len(between) == away
        assert (first.character, first.place) == (again.character, again.place)
        for shot in (opening, *between):
            assert shot.character != first.character and shot.place != first.place
            for names in (world.who, world.where):
                assert [shot.attributes[n] for n in names] != [first.attributes[n] for n in names]
        kept = (*world.identity, *world.scenery, "size")
        assert all(first.attributes[name] == again.attributes[name] for name in kept)
        first, *_, again = world.absence(2, index, away, reframed=True).shots[1:]
        assert first.attributes["size"] != again.attributes["size"]


def test_the_truth_of_a_rendered_film(world, films):
    plan = next(plan for plan in films if any(shot.continues for shot in plan.shots))
    film = world.render(plan)
    line = world.timeline(plan)
    assert film.cuts == line.cuts
    assert len(film.shot_of_frame) == len(film.frames) == len(film.boxes) == line.pixel_frames
    shots = film.shot_of_frame
    assert [i for i in range(1, len(shots)) if shots[i] != shots[i - 1]] == film.cuts
    assert (film.boxes[:, 2] > film.boxes[:, 0]).all()
    assert (film.boxes[:, 3] > film.boxes[:, 1]).all()


def test_a_cut_is_a_jump_and_a_continuation_is_not(world, films):
    cuts = []
    flows = []
    for plan in films[:25]:
        frames = world.render(plan).frames.astype(int)
        spans = world.timeline(plan).entry_spans
        for (start, _), shot in zip(spans[1:], plan.shots[1:], strict=True):
            jump = np.abs(frames[start] - frames[start - 1]).mean()
            (flows if shot.continues else cuts).append(jump)
    assert len(flows) > 5 and np.median(cuts) > 5 * np.median(flows)


def test_a_timeline_needs_chunks_that_fit(world):
    plan = world.cast_film(1, 0, 9, shot_latents=(3, 3))
    with pytest.raises(CinelabError, match="3 latent frames, which chunk=2 does not divide"):
        world.timeline(plan, chunk=2)


def test_a_random_shot_has_the_frames_that_are_wanted(world):
    frames, attributes = world.random_shot(4, 2, 13)
    assert frames.shape == (13, *world.size, 3) and attributes.keys() == world.attributes.keys()
    assert np.array_equal(frames, world.random_shot(4, 2, 13)[0])


# ------------------------------------------------------------------ a world of one's own


class Squares(World):
    """A square of a colour on a ground that no prompt names."""

    size = (32, 32)
    fps = 4.0
    stride = 2
    wording = Wording(
        {
            "colour": {"red": ("red",), "blue": ("blue",)},
            "kind": {"square": ("square",), "disc": ("disc",)},
            "setting": {"room": ("room",), "hall": ("hall",)},
            "weight": {"light": ("light",), "heavy": ("heavy",)},
        },
        ("a {weight} {colour} {kind} in the {setting}",),
    )
    unprompted = {"edge": ("thin", "thick"), "floor": ("tiles", "wood")}
    identity = ("edge",)
    scenery = ("floor",)
    moving = ()
    codec = "toybox-codec"

    def cast_film(self, seed, index, latents, *, shot_latents=(2, 4), grain=1):
        rng = rng_for(seed, index)
        low, high = (max(1, length // grain) for length in shot_latents)
        lengths = shot_lengths(rng, latents // grain, low, high)
        shots = [
            self.one_shot(rng, grain * length, place % 2) for place, length in enumerate(lengths)
        ]
        return FilmPlan(tuple(shots), (seed, index), self.name)

    def absence(self, seed, index, away, *, shot_latents=3, reframed=False):
        rng = rng_for(seed, index, away)
        cast = [1, 0, *(1 for _ in range(away)), 0]
        shots = [self.one_shot(rng, shot_latents, who) for who in cast]
        return FilmPlan(tuple(shots), (seed, index, away), self.name)

    def one_shot(self, rng, latents, who):
        values = {name: known[who % len(known)] for name, known in self.attributes.items()}
        values["weight"] = rng.choice(self.prompted["weight"])
        return ShotPlan(values, self.caption(values), latents, who, who, 0)

    def render(self, plan):
        line = self.timeline(plan)
        frames = np.zeros((line.pixel_frames, *self.size, 3), np.uint8)
        for shot, (start, end) in zip(plan.shots, line.entry_spans, strict=True):
            frames[start:end, 8:24, 8:24, 0 if shot.attributes["colour"] == "red" else 2] = 255
        boxes = np.tile([8, 8, 24, 24], (len(frames), 1)).astype(float)
        numbers = [n for n, (a, b) in enumerate(line.entry_spans) for _ in range(b - a)]
        return Rendered(frames, plan, numbers, boxes, line.cuts)


@pytest.fixture
def squares(monkeypatch):
    """A world that is registered for one test."""
    monkeypatch.setattr(WORLDS, "_things", {name: WORLDS.get(name) for name in WORLDS})
    register.world("squares")(Squares)
    return world_named("squares")


def small_model(folder, world, codec=None):
    """A tiny model of a world, saved."""
    torch.manual_seed(0)
    codec = codec or str(folder.parent / "codec")
    config = replace(SMOKE, in_channels=4, out_channels=4)
    entries = zoo.model_config(
        config,
        zoo.toy_encoder(world=world),
        codec,
        Sampling(),
        1,
        6,
        world.fps,
        world.size,
        world=world.name,
    )
    zoo.save_checkpoint(folder, CausalWan(config), entries, torch.float32)
    return folder


def small_codec(folder, world):
    """A tiny codec of a world, saved."""
    torch.manual_seed(0)
    config = ToyCodecConfig(channels=4, width=8, deep=8)
    about = {"codec": {"channels": 4, "width": 8, "deep": 8}, "world": world.name}
    zoo.save_checkpoint(folder, ToyCodec(config), about, torch.float32)


def test_a_world_of_ones_own_is_drawn_and_measured(squares, tmp_path):
    small_codec(tmp_path / "codec", squares)
    bundle = load(small_model(tmp_path / "model", squares))
    assert bundle.world is squares and bundle.world_name == "squares"
    plans = [bundle.world.cast_film(0, index, 6, shot_latents=(2, 2)) for index in range(2)]
    batch = encode_plans(bundle, plans)
    assert batch.latents.shape == (2, 6, 4, 4, 4)
    assert batch.timelines[0].fps == 4
    reader = Recogniser(world="squares")
    rows, _ = film_rows(reader, np.stack([squares.render(plan).frames for plan in plans]), plans)
    measured = {row.metric for row in rows}
    assert {"weight", "colour", "kind", "setting"} <= measured


def test_its_recogniser_learns_and_is_loaded_by_its_world(squares, tmp_path):
    stage = stages.recogniser(tmp_path / "run", "smoke", changes={"codec": None}, world="squares")
    for _ in stage.train():
        pass
    stage.export(tmp_path / "reader")
    again = load_recogniser(tmp_path / "reader")
    assert again.world is squares and set(again.accuracy) == set(squares.attributes)
    with pytest.raises(CinelabError, match="recogniser is of the world 'squares', and .*toybox-1"):
        load_recogniser(tmp_path / "reader", world="toybox-1")


def test_an_attribute_that_the_catalogue_does_not_know_has_a_row(squares):
    assert "weight" in prompted_names()
    metric = METRICS.of("weight")
    assert (metric.range, metric.backend) == ((0.0, 1.0), "toybox") and metric.source
    assert METRICS.of("no attribute").source == ""


# ------------------------------------------------------------------ two worlds are not mixed


def test_a_codec_of_another_world_is_refused(squares, tmp_path):
    small_codec(tmp_path / "codec", world_named("toybox-1"))
    folder = small_model(tmp_path / "model", squares)
    with pytest.raises(CinelabError, match="Codec .* is of the world 'toybox-1', and .*'squares'"):
        load(folder)


def test_a_model_of_an_unknown_world_is_refused(squares, tmp_path):
    small_codec(tmp_path / "codec", squares)
    folder = small_model(tmp_path / "model", squares)
    path = folder / zoo.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world": "toybox-9"}))
    with pytest.raises(CinelabError, match="config.json: world is 'toybox-9'; did you mean"):
        load(folder)


def test_a_store_of_another_world_is_refused(squares, tmp_path):
    stages.film_store(tmp_path / "store", "smoke", tell=lambda done: None)
    assert world_of_store(tmp_path / "store") == "toybox-1" == StoreConfig().world
    small_codec(tmp_path / "codec", squares)
    folder = small_model(tmp_path / "model", squares)
    with pytest.raises(
        CinelabError, match="Store .*store is of the world 'toybox-1', and .*squares"
    ):
        stages.opened(tmp_path / "store", "smoke", load(folder).world_name)


def test_films_of_another_world_are_not_read(squares):
    plan = squares.cast_film(0, 0, 4)
    reader = Recogniser(world="toybox-1")
    with pytest.raises(CinelabError, match="recogniser is of the world 'toybox-1', and the films"):
        read_shots(reader, squares.render(plan).frames[None], [plan])


def test_a_checkpoint_that_names_no_world_is_of_the_first(tmp_path):
    bundle = load("toybox-1step")
    assert "world" not in bundle.config and bundle.world is world_named("toybox-1")


@pytest.mark.parametrize(
    "thing, refusal",
    [
        (lambda: None, "give a class below cinelab.world.worlds.World"),
        (type("Bare", (World,), {}), "has no size; a world states size, fps"),
    ],
)
def test_what_is_no_world_is_refused(thing, refusal):
    with pytest.raises(CinelabError, match=refusal):
        register.world("another")(thing)


def test_a_card_is_measured_on_films_of_the_worlds_own_lengths(world):
    config = CardConfig.of(world, films=2)
    assert (config.latents, config.shot_latents) == (world.film_latents, world.film_shots)
    plans = [
        world.cast_film(0, i, config.latents, shot_latents=config.shot_latents) for i in range(40)
    ]
    orders = [[shot.character for shot in plan.shots if not shot.continues] for plan in plans]
    again = [any(who in order[: n - 1] for n, who in enumerate(order) if n > 1) for order in orders]
    assert sum(again) > len(plans) / 2, "most films have a return after an absence"


def test_the_second_worlds_recogniser_says_how_well_it_reads():
    reader = load_recogniser(world="toybox-2")
    assert set(reader.accuracy) == set(reader.accuracy_codec) == set(reader.attributes)
    assert min(reader.accuracy.values()) >= 0.98 and min(reader.accuracy_codec.values()) >= 0.97
    seen = training.accuracy(reader, seed=4321, count=150, frames=9)
    assert np.mean(list(seen.values())) > 0.98 and min(seen.values()) > 0.93
