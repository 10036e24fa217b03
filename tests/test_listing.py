"""What is found in folders and tables of videos, under which names, and what is said of the
rest."""

import os
import unicodedata
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cinelab.cli import commands as cli
from cinelab.cli import evaluation as cli_eval
from cinelab.data import listing
from cinelab.data.cutting import find_shots
from cinelab.data.settings import DataConfig
from cinelab.errors import CinelabError
from cinelab.metrics.external import clip_files
from cinelab.metrics.external.clip_files import assign, read_prompts
from cinelab.metrics.rows import absent, failed, row_table
from cinelab.metrics.video.alignment import toybox_rows
from cinelab.metrics.video.clips import Clip, find_videos, labels, load_clip, speaks_toybox
from cinelab.metrics.video.evaluate import clip_digest, evaluate, unmeasured
from cinelab.script.prompts import LITTLE
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.stream.video import write_mp4
from cinelab.world.worlds import world_named
from cinelab.zoo.checkpoints import toy_encoder

GIVEN = DataConfig.toybox(cuts="given")


def drawn_film():
    """The frames of a short film of the default world."""
    world = world_named()
    return world.render(world.cast_film(0, 0, 12)).frames


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A toybox film of twelve latent frames, 64 x 48."""
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write_mp4(path, drawn_film(), world_named().fps, scale=1)
    return path


@pytest.fixture
def tree(tmp_path, film) -> Path:
    """Videos in a folder, a hidden one, a linked one, and links that go in circles."""
    data = tmp_path / "data"
    for name in (
        "data/plain/near.mp4",
        "data/plain/x.m4v",
        "data/.hidden/h.mp4",
        "data/plain/._near.mp4",
        "real/far.mp4",
        "data/odd.mp4/in.ts",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(film.read_bytes())
    (data / "linked").symlink_to(tmp_path / "real")
    (data / "again").symlink_to(tmp_path / "real")
    (data / "up").symlink_to(tmp_path)
    (data / "own").symlink_to(data / "plain")
    (data / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (data / "plain" / "lost.shots.json").write_text("{}")
    return data


def test_training_and_scores_find_the_same_videos(tree):
    said = []
    found = [path.relative_to(tree).as_posix() for path in find_videos([tree], said.append)]
    assert found == ["again/far.mp4", "odd.mp4/in.ts", "plain/near.mp4", "plain/x.m4v"]
    assert [source.name for source in listing.list_films(tree, said.append)[1]] == found
    assert len(said) == 2 and said[0] == said[1]
    for part in (
        ".hidden (hidden)",
        "._near.mp4 (hidden)",
        "linked (a second link",
        "up (a link to a folder that it is in)",
        "gone.mp4 (a broken link)",
        "lost.shots.json (a shot list without its video)",
    ):
        assert part in said[0]
    (tree / "empty").mkdir()
    (tree / "empty" / ".h").symlink_to(tree / "plain")
    with pytest.raises(CinelabError, match="holds no video"):
        find_videos([tree / "empty"])


def test_a_video_is_listed_once_and_names_stay_apart(tree, film, monkeypatch):
    for name in ("near.mkv", "Near.mov", "film.mp4", "plain.mp4"):
        (tree / "plain" / name).write_bytes(film.read_bytes())
    monkeypatch.chdir(tree)
    found = find_videos(
        [Path("plain"), tree / "plain" / "near.mp4", Path("plain/../plain/near.mp4")]
    )
    names = labels(found)
    assert len(found) == 6 and len(set(names.values())) == 6
    assert {"near.mp4", "near.mkv", "Near.mov", "x", "film.mp4", "plain.mp4"} == set(names.values())
    assert labels([Path("film.mp4")]) == {Path("film.mp4"): tree.name}


def test_two_takes_of_one_name_are_two_clips_and_both_are_measured(tmp_path, film):
    for name in ("one/a.mp4", "two/a.mp4", "two/a.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(film.read_bytes())
    rows = evaluate([tmp_path], ("colour",))
    assert len(rows[["run", "clip"]].drop_duplicates()) == 3
    assert clip_digest(rows).set_index("metric").loc["frames", ["clips", "n"]].tolist() == [3, 3]
    videos = clip_files.find_film_files([tmp_path])
    assert len({(video.run, video.clip) for video in videos}) == 3


# Tables


def parquet(folder: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def captions(path: Path) -> list[tuple[str, ...]]:
    return [source.videos[0].captions for source in listing.list_films(path)[1]]


def test_captions_are_texts_however_they_are_stored(tmp_path):
    two = ["a.mp4", "b.mp4"]
    assert captions(parquet(tmp_path, video=two, caption=[b"a red cat", "é".encode()])) == [
        ("a red cat",),
        ("é",),
    ]
    lists = [["a red cat", "a blue dog"], None]
    assert captions(parquet(tmp_path, video=two, caption=lists)) == [
        ("a red cat", "a blue dog"),
        (),
    ]
    assert captions(
        parquet(tmp_path, video=two, caption=pa.array(["x", "y"]).dictionary_encode())
    ) == [("x",), ("y",)]
    assert captions(parquet(tmp_path, video=two, caption=[None, " NaN "])) == [(), ()]
    assert captions(parquet(tmp_path, video=two, caption=[float("nan")] * 2)) == [(), ()]
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,None\nb.mp4,nan\n")
    assert captions(tmp_path / "t.csv") == [(), ()]
    numbers = parquet(
        tmp_path,
        video=["a.mp4"],
        caption=["x"],
        start=[Decimal("0.5")],
        end=[2],
        film=[7],
        shot=pa.array([None], pa.int64()),
    )
    (source,) = listing.list_films(numbers)[1]
    assert source.name == "7" and source.videos[0].spans == ((0.5, 2.0),)


@pytest.mark.parametrize(
    "columns, said",
    [
        ({"caption": [{"en": "a cat"}]}, r"row 1: caption is .*dict"),
        ({"caption": [3.5]}, r"row 1: caption is '3.5' \(float"),
        ({"caption": [True]}, "row 1: caption is 'True'"),
        ({"caption": [b"\xff\xfe"]}, "row 1: caption is .* no UTF-8"),
        ({"caption": [[1, 2]]}, "row 1: caption is '1'"),
        ({"start": [True]}, "row 1: start is 'True'"),
        ({"start": [{"s": 1}]}, "row 1: start is"),
        ({"film": [["a"]]}, "row 1: film is"),
        ({"Caption": ["y"], "caption": ["x"]}, "2 columns named 'caption'"),
    ],
)
def test_cells_that_mean_nothing_are_refused_by_column_and_row(tmp_path, columns, said):
    with pytest.raises(CinelabError, match=said):
        listing.list_films(parquet(tmp_path, video=["a.mp4"], **columns))


def test_of_two_columns_of_one_name_none_is_taken(tmp_path):
    both = pa.Table.from_arrays(
        [pa.array(["a.mp4"]), pa.array(["x"]), pa.array(["y"])], ["video", "caption", "caption"]
    )
    pq.write_table(both, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("video,caption,caption\na.mp4,x,y\n")
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(CinelabError, match="has 2 columns named 'caption'"):
            listing.list_films(tmp_path / name)


def test_a_number_is_no_path(tmp_path):
    with pytest.raises(CinelabError, match="row 1: video is '7'"):
        listing.list_films(parquet(tmp_path, video=[7]))


def test_a_list_of_captions_is_one_a_shot(tmp_path, film):
    (tmp_path / "a.mp4").write_bytes(film.read_bytes())
    rows = {
        "video": ["a.mp4"] * 2,
        "caption": [["x", "y"], ["z"]],
        "start": [0.0, 1.0],
        "end": [1.0, 2.0],
    }
    (source,) = listing.list_films(parquet(tmp_path, **rows))[1]
    assert "row 1: caption is a list of 2 texts" in source.videos[0].problem
    (source,) = listing.list_films(parquet(tmp_path, video=["a.mp4"], caption=[["x", "y"]]))[1]
    with pytest.raises(CinelabError, match="2 captions and 1 shots"):
        find_shots(source.videos[0], 0, tmp_path / "a.mp4", GIVEN)


def test_accents_are_matched_however_they_are_composed(tmp_path, film):
    name = unicodedata.normalize("NFD", "café")
    (tmp_path / f"{name}.mp4").write_bytes(film.read_bytes())
    (tmp_path / unicodedata.normalize("NFC", "café.txt")).write_text("a red cat")
    composed = f"{name}.mp4"
    _, sources = listing.list_films(
        parquet(tmp_path, video=[unicodedata.normalize("NFC", composed)])
    )
    assert sources[0].videos[0].path == composed and sources[0].videos[0].captions == ("a red cat",)
    ShotList((ListedShot(0, 23),)).save(tmp_path / unicodedata.normalize("NFC", "café.shots.json"))
    assert load_clip(tmp_path / composed).planned is not None
    assert (
        clip_files.find_film_files(
            [tmp_path], prompts={unicodedata.normalize("NFC", "café.mp4"): "x"}
        )[0].prompt
        == "x"
    )


# Prompts


def test_keys_of_a_prompt_table_fit_one_video_or_are_named(tmp_path, film, capsys):
    for name in ("a/0001.mp4", "b/0001.mp4", "take/film.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(film.read_bytes())
    prompts = {"a/0001.mp4": "A person is running", "typo.mp4": "x", "b/0001": "y", "take": "z"}
    found = {
        video.path.parent.name: video.prompt
        for video in clip_files.find_film_files([tmp_path], prompts=prompts)
    }
    assert (
        found == {"a": "A person is running", "b": "y", "take": "z"}
        and "'typo.mp4' fits none of the 3 videos" in capsys.readouterr().out
    )
    files = find_videos([tmp_path])
    for table_, said in [
        ({"0001": "x"}, "'0001' fits 2 videos"),
        ({"0001.mp4": "x"}, "fits 2 videos"),
        ({"a/0001.mp4": "x", "a/0001": "y"}, "with different prompts"),
    ]:
        with pytest.raises(CinelabError, match=said):
            assign(files, table_)
    assert assign(files, {str(files[0]): "x"}) == ({files[0]: "x"}, [])


@pytest.mark.parametrize(
    "text, said",
    [('{"a": "x", "a": "y"}', "'a' is given twice"), ('{"a": 3}', "'a' has 3"), ("[]", "no table")],
)
def test_prompt_tables_that_make_no_sense(tmp_path, text, said):
    (tmp_path / "p.json").write_text("\ufeff" + text, encoding="utf-8")
    with pytest.raises(CinelabError, match=said):
        read_prompts(tmp_path / "p.json")


# Words


def test_every_word_of_the_encoder_is_a_word_for_the_scores():
    for word in (*LITTLE, *toy_encoder().vocabulary):
        assert speaks_toybox(f"{word} cat")
    assert not speaks_toybox("a knight") and not speaks_toybox(" ")


def test_an_unknown_word_leaves_out_its_shot_and_the_table_says_so(film):
    frames = drawn_film()
    prompts = (
        "an orange cat in the meadow by day",
        "a knight in the meadow",
        "the orange cat waves",
        "",
    )
    shots = [ListedShot(5 * i, 5 * i + 5, prompt, ("cat",)) for i, prompt in enumerate(prompts)]
    clip = Clip("a", frames[:20], 8.0, ShotList(tuple(shots)))
    rows = list(toybox_rows(clip))
    said = {
        row.shot: row.detail
        for row in rows
        if row.status == "absent" and row.metric == "text alignment"
    }
    assert (
        said.keys() == {2, 4}
        and "'knight', no word of the toybox" in said[2]
        and "no prompt" in said[4]
    )
    assert {row.shot for row in rows if row.metric == "text alignment" and row.status == "ok"} == {
        1,
        3,
    }
    # shot 2 is nobody's
    identity = [
        row.shot for row in rows if (row.metric, row.protocol) == ("identity", "across_shots")
    ]
    assert identity == [3]
    found = unmeasured(row_table(rows)).set_index("why")
    assert found.loc[said[2], ["clips", "of", "shots"]].tolist() == [1, 1, 1]


def test_a_metric_that_some_films_lack_is_said_beside_its_mean():
    rows = row_table(
        [
            absent("a", "m", "no words"),
            absent("b", "m", "no words", shot=2),
            absent("b", "m", "no words", shot=3),
            failed("c", "broken"),
        ]
    )
    found = unmeasured(rows).iloc[0]
    assert (found["metrics"], found["clips"], found["of"], found["shots"]) == ("m", 2, 2, 2)


# Exit codes


def run(*words) -> int:
    return CliRunner().invoke(cli.app, list(map(str, words))).exit_code


def test_what_failed_or_measured_nothing_exits_with_1_and_keeps_the_rest(tmp_path, film):
    (tmp_path / "good.mp4").write_bytes(film.read_bytes())
    assert run("eval", "videos", tmp_path, "--backends", "colour") == 0
    (tmp_path / "zero.mp4").write_bytes(b"")
    assert (
        run("eval", "videos", tmp_path, "--backends", "colour", "-o", tmp_path / "r.parquet") == 1
        and (tmp_path / "r.parquet").exists()
    )
    cli_eval.exit_with(["ok", "absent"])
    for states in (["ok", "failed"], ["absent"], []):
        with pytest.raises(cli_eval.typer.Exit):
            cli_eval.exit_with(states)


def test_clips_exits_with_1_where_a_video_failed_or_nothing_was_kept(tmp_path, film):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "good.mp4").write_bytes(film.read_bytes())
    # no caption: nothing is kept
    assert run("clips", tmp_path / "v", tmp_path / "s0", "--set", "cuts=given") == 1
    (tmp_path / "v" / "good.txt").write_text("a red cat")
    assert run("clips", tmp_path / "v", tmp_path / "s1", "--set", "cuts=given") == 0
    (tmp_path / "v" / "zero.mp4").write_bytes(b"")
    done = CliRunner().invoke(
        cli.app, ["clips", str(tmp_path / "v"), str(tmp_path / "s2"), "--set", "cuts=given"]
    )
    assert (
        done.exit_code == 1
        and "1 video could not be taken" in done.output
        and list((tmp_path / "s2").glob("0*-*.safetensors"))
    )


def test_a_plan_that_is_not_there_is_said_before_the_work(film):
    with pytest.raises(CinelabError, match="nowhere.shots.json"):
        evaluate([film], ("colour",), plan=Path("nowhere.shots.json"))


def test_names_that_are_not_utf8_are_passed_over_by_name(tmp_path):
    odd = os.fsdecode(b"b\xff")
    (tmp_path / odd).mkdir()
    for name in ("a.mp4", f"{odd}.mp4", f"{odd}/c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    said = []
    assert find_videos([tmp_path], said.append) == [tmp_path / "a.mp4"]
    assert said[0].count("its name is not UTF-8, rename it") == 2 and said[0].isascii()
    with pytest.raises(CinelabError, match="not UTF-8"):
        find_videos([tmp_path / f"{odd}.mp4"])
