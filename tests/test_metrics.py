"""Metrics of any video: known pictures give known numbers; what cannot be measured is said, and is
never zero."""

import json
import random
import subprocess

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scenedetect

from cinelab.errors import CinelabError
from cinelab.lab.studies.tasks import answer_tasks, export_tasks
from cinelab.metrics.card import CardConfig
from cinelab.metrics.metric import labelled
from cinelab.metrics.rows import COLUMNS, Row, absent, load_rows, row_table, save_rows
from cinelab.metrics.video.alignment import alignment_rows, steadiness
from cinelab.metrics.video.clips import Clip, find_videos, load_clip, returns, strangers
from cinelab.metrics.video.cuts import match_cuts
from cinelab.metrics.video.evaluate import clip_digest, evaluate
from cinelab.metrics.video.pixels import dynamic_degree, pixel_rows, temporal_flickering
from cinelab.script.screenplay import Screenplay
from cinelab.script.shotlist import ListedShot, ShotList, shot_list_path
from cinelab.script.timeline import plan
from cinelab.stream.video import read_video, write_mp4
from cinelab.world.worlds import world_named, world_of

FPS = 8.0


def other_film(index):
    """The frames of film `index` of a seed that no task has."""
    world = world_named()
    return world.render(world.cast_film(1, index, 24, shot_latents=(3, 6))).frames


def noise(count, seed=0, height=48, width=64):
    """A still of coloured noise, smooth enough to be tracked, `count` times."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3))
    return np.repeat(np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)[None], count, axis=0)


def moving(count, step, seed=0):
    return np.stack(
        [np.roll(frame, i * step, axis=1) for i, frame in enumerate(noise(count, seed))]
    )


def values(rows, metric, **where):
    return [
        row.value
        for row in rows
        if row.metric == metric and all(getattr(row, k) == v for k, v in where.items())
    ]


def two_shots(**more):
    shots = (
        ListedShot(0, 10, "a", ("anna",), ("kitchen",)),
        ListedShot(10, 20, "b", ("bob",), ("park",)),
    )
    return ShotList(shots, **more)


def test_cut_metrics_count_what_was_planned_and_what_is_seen():
    frames = np.concatenate([noise(10), noise(10, 1)])
    rows = list(pixel_rows(Clip("film", frames, FPS, two_shots())))
    for backend in ("frame difference", "PySceneDetect"):
        assert values(rows, "cut accuracy", backend=backend) == [1]
    late = ShotList((ListedShot(0, 15), ListedShot(15, 20)))
    rows = list(pixel_rows(Clip("film", frames, FPS, late)))
    assert (
        values(rows, "missed cuts", backend="frame difference")
        == values(rows, "spurious cuts", backend="frame difference")
        == [1]
    )
    near = ShotList((ListedShot(0, 12), ListedShot(12, 20)))
    accuracy = [
        values(
            pixel_rows(Clip("f", frames, FPS, near), tolerance=t),
            "cut accuracy",
            backend="frame difference",
        )
        for t in (1, 2)
    ]
    assert accuracy == [[0], [1]]


def test_a_cut_does_not_count_as_flicker_or_motion():
    still = np.concatenate([noise(10), noise(10, 1)])
    rows = list(pixel_rows(Clip("film", still, FPS, two_shots())))
    assert values(rows, "temporal flickering") == [1, 1]
    assert max(values(rows, "dynamic degree")) < 0.01  # picture heights a second
    assert temporal_flickering(still) < 0.99  # across the cut it would


def test_dynamic_degree_is_speed():
    slow, fast = (dynamic_degree(moving(6, step), FPS) for step in (1, 2))
    assert slow == pytest.approx(1 * FPS / 48, rel=0.35) and fast == pytest.approx(
        2 * slow, rel=0.35
    )


def test_seams_between_chunks_are_seen():
    frames = noise(12).astype(int)
    frames += 8 * (np.arange(12) // 4)[:, None, None, None] + np.arange(12)[:, None, None, None]
    frames = (frames // 2).astype(np.uint8)
    listed = ShotList((ListedShot(0, 12),), chunks=(0, 4, 8))
    assert values(pixel_rows(Clip("film", frames, FPS, listed)), "chunk discontinuity")[0] > 5
    smooth = moving(12, 1)
    assert values(pixel_rows(Clip("film", smooth, FPS, listed)), "chunk discontinuity")[
        0
    ] == pytest.approx(1, abs=0.05)


def test_drift_of_a_film_that_fades():
    frames = (noise(40) * np.linspace(1, 0.5, 40)[:, None, None, None]).astype(np.uint8)
    rows = list(pixel_rows(Clip("film", frames, FPS)))
    assert values(rows, "drift of brightness")[0] == pytest.approx(-0.46, abs=0.03)
    assert values(list(pixel_rows(Clip("film", noise(40), FPS))), "drift of brightness") == [0]


def test_one_frame_has_no_motion_and_says_so():
    rows = list(pixel_rows(Clip("film", noise(1), FPS))) + list(
        alignment_rows(Clip("film", noise(1), FPS), ("colour",))
    )
    missing = {row.metric: row for row in rows if row.status == "absent"}
    for metric in ("cut accuracy", "dynamic degree", "temporal flickering", "consistency in shot"):
        assert "at least 2 frames" in missing[metric].detail and np.isnan(missing[metric].value)


def test_without_a_shot_list_the_seen_cuts_make_the_shots():
    clip = Clip("film", np.concatenate([noise(10), noise(10, 1)]), FPS)
    assert [shot.span for shot in clip.shots] == [(0, 10), (10, 20)]
    rows = [*pixel_rows(clip), *alignment_rows(clip, ("toybox", "colour"))]
    absent_rows = [row for row in rows if row.status == "absent"]
    why = {(row.metric, row.protocol): row.detail for row in absent_rows}
    assert ".shots.json" in why["cut accuracy", ""]
    assert ".shots.json" in why["identity", "across_shots"]
    assert len(values(rows, "consistency in shot")) == 2


def test_only_shots_that_share_somebody_are_compared():
    who = [("anna",), ("bob",), ("anna", "bob"), ("carl",)]
    shots = [ListedShot(10 * i, 10 * i + 10, characters=names) for i, names in enumerate(who)]
    assert list(returns(shots, "characters")) == [(2, 0, "anna"), (2, 1, "bob")]
    assert sorted(strangers(shots, "characters")) == [(1, 0), (3, 0), (3, 1), (3, 2)]


def test_colour_features_know_who_comes_back():
    frames = np.concatenate([noise(10), noise(10, 1), noise(10)])
    shots = [
        ListedShot(10 * i, 10 * i + 10, "x", (name,))
        for i, name in enumerate(("anna", "bob", "anna"))
    ]
    rows = list(alignment_rows(Clip("film", frames, FPS, ShotList(tuple(shots))), ("colour",)))
    found = {row.source: row.value for row in rows if row.metric == "identity"}
    assert found["model"] == pytest.approx(1)
    assert found["chance"] < 0.9, "what shots that share nobody come to"
    assert {row.protocol for row in rows if row.metric == "identity"} == {"across_shots"}


def test_steadiness_is_one_for_equal_looks():
    looks = np.eye(3)[[0, 0, 0]]
    assert steadiness(looks) == 1 and steadiness(np.eye(3)) == 0


def test_true_toybox_films_score_as_truth_and_a_history_is_no_answer(tmp_path):
    config = CardConfig(seeds=(0,), films=2, away=(1,))
    assert export_tasks(tmp_path, config) == 4
    answer_tasks(tmp_path, lambda film, given: world_of(film).render(film).frames, config, FPS)
    rows = evaluate([tmp_path], ("toybox",))
    mean = labelled(rows[rows["status"] == "ok"]).groupby("metric")["value"].mean()
    assert mean["identity (recalled)"] == mean["scenery (recalled)"] == 1
    assert mean["cut accuracy"] > 0.9
    assert mean["text alignment (toybox)"] > 0.95
    returned = rows[rows["run"].str.endswith("absence") & (rows["metric"] == "text alignment")]
    assert set(returned["shot"]) == {4}  # three shots were given


def test_another_films_pictures_score_low(tmp_path):
    config = CardConfig(seeds=(0,), films=3, away=())
    export_tasks(tmp_path, config)
    answer_tasks(
        tmp_path,
        lambda film, given: other_film(film.seed[1]),
        config,
        FPS,
    )
    mean = evaluate([tmp_path], ("toybox",)).groupby("metric")["value"].mean()
    assert mean["text alignment"] < 0.5


def test_a_films_folder_carries_its_plan(tmp_path):
    shots = [{"prompt": "wide shot of a red cat that waves in the meadow by day", "seconds": 1}]
    play = Screenplay.parse(json.dumps({"title": "t", "seed": 1, "shots": shots}))
    line = plan(play, FPS, 2, 1)
    write_mp4(tmp_path / "film.mp4", noise(line.pixel_frames), FPS)
    ShotList.of(line).save(shot_list_path(tmp_path / "film.mp4"))
    clip = load_clip(tmp_path / "film.mp4")
    assert clip.name == tmp_path.name and clip.planned.shots[0].characters == ("red cat",)
    play.save(tmp_path / "play.yaml")
    other = load_clip(tmp_path / "film.mp4", tmp_path / "play.yaml")
    assert other.planned.spans == [(0, line.pixel_frames)] and other.planned.shots[0].places == (
        "meadow",
    )


def test_broken_videos_are_rows_and_the_others_are_measured(tmp_path):
    write_mp4(tmp_path / "good.mp4", moving(20, 1), FPS)
    data = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "none.mp4").write_bytes(b"")
    write_mp4(tmp_path / "listed.mp4", moving(20, 1), FPS)
    two_shots().save(tmp_path / "listed.shots.json")
    ShotList((ListedShot(0, 7),)).save(tmp_path / "good.shots.json")
    rows = evaluate([tmp_path], ("colour",))
    said = rows[rows["status"] == "failed"].set_index("clip")["detail"]
    assert set(said.index) == {"short", "none", "good"}
    assert "20 frames" in said["good"] and "end at 7" in said["good"]
    assert set(rows[rows["status"] == "ok"]["clip"]) == {"listed"}


@pytest.mark.parametrize("size", [(96, 128), (384, 512)])
def test_enlarged_toybox_films_are_read(tmp_path, size):
    film = world_named().cast_film(50_000, 0, 12)
    config = CardConfig(seeds=(0,), films=2, away=())
    export_tasks(tmp_path, config)
    from cinelab.lab.studies.film_cell import listed

    write_mp4(tmp_path / "big.mp4", world_of(film).render(film).frames, FPS, size[0] // 48)
    listed(film).save(tmp_path / "big.shots.json")
    rows = evaluate([tmp_path / "big.mp4"], ("toybox",))
    assert rows[rows["metric"] == "text alignment"]["value"].mean() > 0.9


def test_a_picture_of_another_shape_is_not_read_as_a_toybox():
    words = "wide shot of a red cat that waves in the meadow by day"
    clip = Clip("film", noise(10, width=80), FPS, ShotList((ListedShot(0, 10, words),)))
    rows = list(alignment_rows(clip, ("toybox",)))
    assert {row.status for row in rows} == {"absent"} and "80x48" in rows[0].detail
    other = Clip("film", noise(10), FPS, ShotList((ListedShot(0, 10, "a knight on a horse"),)))
    assert "use clip" in next(alignment_rows(other, ("toybox",))).detail


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(CinelabError, match="no such file"):
        find_videos([tmp_path / "nope.mp4"])
    with pytest.raises(CinelabError, match="holds no video"):
        find_videos([tmp_path])
    for name in "ab":
        write_mp4(tmp_path / f"{name}.mp4", noise(4), FPS)
    with pytest.raises(CinelabError, match="fits one video"):
        evaluate([tmp_path], plan=tmp_path / "a.shots.json")
    with pytest.raises(CinelabError, match="'dinosaur' is unknown; use some of toybox"):
        evaluate([tmp_path], ("dinosaur",))


@pytest.mark.parametrize(
    "bad, said",
    [
        ({}, "mapping with a list"),
        ({"shots": []}, "at least one shot"),
        ({"shots": [{"start": 0}]}, "give it a start and an end"),
        ({"shots": [{"start": 0, "end": 5}, {"start": 6, "end": 8}]}, "must start at 5"),
        ({"shots": [{"start": 0, "end": 5, "promt": "x"}]}, "did you mean 'prompt'"),
        ({"shots": [{"start": 0, "end": "5"}]}, "int is wanted"),
        ({"shots": [{"start": 0, "end": 5}], "given": 5}, "given is 5"),
    ],
)
def test_shot_lists_that_make_no_sense(tmp_path, bad, said):
    path = tmp_path / "x.shots.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(CinelabError, match=said):
        ShotList.load(path)


def test_a_shot_list_comes_back_as_it_was(tmp_path):
    two_shots(chunks=(0, 5, 10, 15), given=10).save(tmp_path / "x.shots.json")
    assert ShotList.load(tmp_path / "x.shots.json") == two_shots(chunks=(0, 5, 10, 15), given=10)


def test_tables_carry_their_schema(tmp_path):
    rows = row_table([Row("a", 1, "m", 0.5), absent("a", "n", "install x")])
    save_rows(rows, tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(load_rows(tmp_path / "rows.parquet"), rows)
    assert list(row_table([])) == list(COLUMNS)
    pq.write_table(
        pq.read_table(tmp_path / "rows.parquet").replace_schema_metadata({b"cinelab.rows": b"0"}),
        tmp_path / "old.parquet",
    )
    with pytest.raises(CinelabError, match="schema 0, this version reads 2"):
        load_rows(tmp_path / "old.parquet")
    (tmp_path / "no.parquet").write_text("x")
    with pytest.raises(CinelabError, match="cannot be read as a table"):
        load_rows(tmp_path / "no.parquet")


def test_a_digest_never_takes_absent_for_zero():
    rows = row_table(
        [
            Row("a", 1, "m", 0.5),
            Row("b", 1, "m", 1.0),
            absent("c", "m", "install x", "pixels"),
            absent("a", "n", "install y"),
        ]
    )
    found = clip_digest(rows).set_index("metric")
    assert found.loc["m", "value"] == 0.75 and found.loc["m", "n"] == 2
    assert np.isnan(found.loc["n", "value"]) and found.loc["n", "absent"] == "install y"


SOURCES = (
    "testsrc2",
    "mandelbrot",
    "smptehdbars",
    "gradients=seed=4:speed=0.01",
    "rgbtestsrc",
    "yuvtestsrc",
    "sierpinski=seed=7",
)


def ffmpeg(*arguments):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)],
        check=True,
    )


def concatenated(folder, lengths, picks):
    """A film of ffmpeg's own sources, each encoded alone, joined by its concat demuxer without
    encoding again."""
    names = []
    for number, (length, pick) in enumerate(zip(lengths, picks, strict=True)):
        source = SOURCES[pick]
        source += (":" if "=" in source else "=") + "s=320x180:r=24"
        names.append(folder / f"{number}.mp4")
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            source,
            "-frames:v",
            length,
            "-pix_fmt",
            "yuv420p",
            "-c:v",
            "libx264",
            names[-1],
        )
    (folder / "list.txt").write_text("".join(f"file '{name}'\n" for name in names))
    ffmpeg("-f", "concat", "-safe", 0, "-i", folder / "list.txt", "-c", "copy", folder / "film.mp4")
    return folder / "film.mp4"


def test_our_cuts_agree_with_pyscenedetects_own_on_films_cut_by_ffmpeg(tmp_path):
    rng = random.Random(0)
    hits = 0
    missed = 0
    spurious = 0
    for _ in range(5):
        lengths = [rng.randint(20, 50) for _ in range(5)]
        picks = rng.sample(range(len(SOURCES)), 5)
        film = concatenated(tmp_path, lengths, picks)
        own = [
            scene[0].frame_num
            for scene in scenedetect.detect(
                str(film), scenedetect.AdaptiveDetector(min_scene_len=2)
            )[1:]
        ]
        assert own == list(np.cumsum(lengths[:-1])), (
            "the reference itself must be right, or this test says nothing"
        )
        frames, fps = read_video(film)
        match = match_cuts(own, Clip("film", frames, fps).seen_cuts, tolerance=0)
        hits = hits + match.hits
        missed = missed + match.missed
        spurious = spurious + match.spurious
    assert 2 * hits / (2 * hits + missed + spurious) >= 0.98
