"""The one reader of videos: time stamps, edit lists, turned and stretched pictures, light, damage,
memory, whatever the container."""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from cinelab.data.reader import ClipReader
from cinelab.errors import CinelabError
from cinelab.metrics.external.clip_files import FilmFile, frames_and_rate, lay_out
from cinelab.metrics.video.clips import load_clip
from cinelab.metrics.video.evaluate import evaluate
from cinelab.metrics.video.pixels import cut_rows
from cinelab.script.shotlist import ListedShot, ShotList, shot_list_path
from cinelab.stream import decoded_video, reader
from cinelab.stream.decoded_video import DecodedVideo, constant_rate, finest_rate, pick
from cinelab.stream.video import read_video

PLAN = "title: p\nshots:\n  - {prompt: bars, seconds: 1}\n  - {prompt: fractal, seconds: 1}\n"


def ffmpeg(*arguments) -> None:
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Two seconds at 12 a second, 80 x 48, a hard cut at one second, B-frames and a key frame a
    second."""
    path = tmp_path_factory.mktemp("base") / "base.mp4"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=80x48:rate=12:duration=1",
        "-f",
        "lavfi",
        "-i",
        "mandelbrot=size=80x48:rate=12",
        "-filter_complex",
        "[1:v]trim=duration=1,setpts=PTS-STARTPTS[b];[0:v][b]concat=n=2:v=1:a=0",
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-crf",
        12,
        "-g",
        12,
        "-movflags",
        "+faststart",
        path,
    )
    return path


def coded(
    path: Path, form: str, planes: np.ndarray, count: int = 2, codec: str = "ffv1", **tags
) -> Path:
    """A video of `count` frames that hold exactly `planes`, in any pixel format, tagged."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        frame = av.VideoFrame.from_ndarray(planes, format=form)
        stream.width = frame.width
        stream.height = frame.height
        stream.pix_fmt = form
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
            setattr(frame, name, value)
        for number in range(count):
            frame.pts = number
            frame.time_base = Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_an_edit_list_is_no_damage(base, tmp_path):
    # keeps the lead-in and hides it
    ffmpeg("-ss", 0.7, "-i", base, "-c", "copy", tmp_path / "trimmed.mp4")
    film = DecodedVideo(tmp_path / "trimmed.mp4")
    whole = read_video(base)[0]
    assert film.changes == (decoded_video.HIDDEN,) and frames_and_rate(
        tmp_path / "trimmed.mp4"
    ) == (
        len(film),
        12,
    )
    assert np.array_equal(list(film), whole[-len(film) :]) and len(film) < 20
    (tmp_path / "out").mkdir()
    (clip,) = lay_out(
        FilmFile(tmp_path / "trimmed.mp4"), tmp_path / "out", lambda shot, prompt: "a.mp4"
    )
    # written: other tools may show it
    assert not clip.file.is_symlink() and np.array_equal(read_video(clip.file)[0], list(film))


def test_a_variable_rate_counts_in_seconds(base, tmp_path):
    ffmpeg(
        "-i",
        base,
        "-vf",
        "select='lt(n,12)+not(mod(n,2))'",
        "-fps_mode",
        "vfr",
        "-c:v",
        "libx264",
        tmp_path / "vfr.mp4",
    )
    film = DecodedVideo(tmp_path / "vfr.mp4")
    assert (len(film), film.fps, film.decoded) == (23, 12, 18) and film.changes == (
        decoded_video.VARIES,
    )
    (tmp_path / "plan.yaml").write_text(PLAN)
    clip = load_clip(tmp_path / "vfr.mp4", tmp_path / "plan.yaml")
    assert clip.planned.spans == [(0, 12), (12, 23)]
    assert [row.value for row in cut_rows(clip, 0) if row.metric == "cut accuracy"] == [1, 1]
    # counts decoded frames
    ShotList((ListedShot(0, 14, "a"), ListedShot(14, 18, "b"))).save(
        shot_list_path(tmp_path / "vfr.mp4")
    )
    assert load_clip(tmp_path / "vfr.mp4").planned.spans == [(0, 16), (16, 23)]
    (tmp_path / "out").mkdir()
    clips = lay_out(
        FilmFile(tmp_path / "vfr.mp4", spans=((0, 14), (14, 18))),
        tmp_path / "out",
        lambda shot, prompt: f"{shot}.mp4",
        True,
    )
    assert [clip.frames for clip in clips] == [23, 16, 7]
    pictures = [read_video(clip.file)[0] for clip in clips]
    assert np.array_equal(pictures[0], np.concatenate(pictures[1:]))


@pytest.mark.parametrize(
    "stamps, stated, rate",
    [
        (np.round(np.arange(50) / 24, 3), (24.0,), 24.0),  # milliseconds
        # a telephone
        (
            np.arange(50) / 30
            + np.random.default_rng(0).uniform(-0.004, 0.004, 50) * (np.arange(50) > 0),
            (30.0,),
            30.0,
        ),
        (np.arange(50) / 25, (600.0, 25.0), 25.0),
        (np.arange(50) / 12.5, (90000.0,), 12.5),
        (np.cumsum([0, *[1 / 24] * 24, *[1 / 12] * 12]), (18.0, 24.0), None),
        (np.zeros(1), (8.0,), 8.0),
    ],
)
def test_a_rate_is_constant_if_every_stamp_says_so(stamps, stated, rate):
    assert constant_rate(stamps, stated) == pytest.approx(rate)


@pytest.mark.parametrize(
    "steps, rate",
    [([1 / 24] * 24 + [1 / 12] * 40, 24), ([5, 3, 7], 8), ([1 / 30, 1 / 30, 0.4, 1 / 30], 30)],
)
def test_a_varying_rate_is_read_at_its_finest(steps, rate):
    assert finest_rate(np.cumsum([0, *steps]), ()) == pytest.approx(rate)


@pytest.mark.parametrize(
    "turn",
    [
        [90],
        [180],
        [270],
        [-90],
        [0, "-display_hflip"],
        [0, "-display_vflip"],
        [90, "-display_hflip"],
    ],
)
def test_scores_see_what_training_sees_upright(base, tmp_path, turn):
    ffmpeg("-display_rotation", *turn, "-i", base, "-c", "copy", tmp_path / "turned.mp4")
    # as ffmpeg's players show it
    ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", 2, "-c:v", "ffv1", tmp_path / "shown.mkv")
    film = DecodedVideo(tmp_path / "turned.mp4")
    shown = read_video(tmp_path / "shown.mkv")[0]
    assert film.size == shown.shape[1:3] == (
        (80, 48) if turn[0] % 180 else (48, 80)
    ) and film.changes == ("it is turned",)
    ways = [
        np.rot90(side, quarter)
        for side in (next(iter(film)), next(iter(film))[:, ::-1])
        for quarter in range(4)
    ]
    apart = [
        np.abs(way.astype(int) - shown[0]).mean() if way.shape == shown[0].shape else 255
        for way in ways
    ]
    assert apart[0] < 10 and min(apart[1:]) > 30
    assert np.array_equal(ClipReader(12, film.size).read(film.path, 0, 1)[0], next(iter(film)))
    (tmp_path / "out").mkdir()
    spans = FilmFile(film.path, spans=((0, 12), (12, 24)))
    for clip in lay_out(spans, tmp_path / "out", lambda shot, prompt: f"{shot}.mp4", whole=True):
        assert DecodedVideo(clip.file).size == film.size and not DecodedVideo(clip.file).changes


def test_pixels_become_square(base, tmp_path):
    ffmpeg(
        "-i", base, "-vf", "setsar=2/1", "-frames:v", 3, "-c:v", "libx264", tmp_path / "wide.mp4"
    )
    assert DecodedVideo(tmp_path / "wide.mp4").shape == (3, 48, 160, 3)
    rows = evaluate([tmp_path / "wide.mp4"], ("colour",)).set_index("metric")["value"]
    assert rows["width"] == 160 and rows["height"] == 48


@pytest.mark.parametrize(
    "ending", ["mp4", "mov", "mkv", "webm", "avi", "ts", "mpg", "flv", "gif", "wmv"]
)
def test_every_container_is_whole_or_cut_short(base, tmp_path, ending):
    codec = {
        "webm": ["libvpx", "-deadline", "realtime"],
        "avi": ["mpeg4"],
        "mpg": ["mpeg2video"],
        "flv": ["flv"],
        "wmv": ["wmv2"],
        "gif": ["gif"],
    }.get(ending, ["copy"])
    rate = ["-r", 24] if ending == "mpg" else []
    ffmpeg(
        "-i",
        base,
        "-c:v",
        *codec,
        *rate,
        *(["-movflags", "+faststart"] if ending in ("mp4", "mov") else []),
        tmp_path / f"whole.{ending}",
    )
    film = DecodedVideo(tmp_path / f"whole.{ending}")
    data = (tmp_path / f"whole.{ending}").read_bytes()
    assert abs(len(film) / film.fps - 2) < 0.13 and film.changes == ()
    (tmp_path / f"cut.{ending}").write_bytes(data[: int(len(data) * 0.55)])
    with pytest.raises(CinelabError, match="is cut short|is damaged"):
        DecodedVideo(tmp_path / f"cut.{ending}")


def test_frames_of_avi_are_in_order_although_it_has_no_time_stamps(base, tmp_path):
    ffmpeg("-i", base, "-c:v", "libx264", "-bf", 3, "-qp", 0, tmp_path / "b.avi")
    film = DecodedVideo(tmp_path / "b.avi")
    assert (
        film.shape == (24, 48, 80, 3)
        and film.fps == 12
        and np.array_equal(list(film), read_video(base)[0])
    )
    assert np.array_equal(list(film), ClipReader(12, (48, 80)).read(film.path, 0, 24))


def test_a_film_may_begin_late_or_be_joined(base, tmp_path):
    ffmpeg("-itsoffset", 2, "-i", base, "-c", "copy", tmp_path / "late.mkv")
    ffmpeg("-i", base, "-c", "copy", tmp_path / "one.ts")
    # its time stamps begin anew
    (tmp_path / "two.ts").write_bytes(2 * (tmp_path / "one.ts").read_bytes())
    assert (
        len(DecodedVideo(tmp_path / "late.mkv")) == 24
        and len(DecodedVideo(tmp_path / "two.ts")) == 48
    )


def paper(code: int) -> np.ndarray:
    """A grey sheet of one 10-bit code, yuv420p10le as PyAV wants it."""
    return np.concatenate(
        [np.full(32 * 32, code, np.uint16), np.full(2 * 16 * 16, 512, np.uint16)]
    ).reshape(48, 32)


@pytest.mark.parametrize(
    "transfer, code, least, most",
    [
        (16, 573, 247, 255),
        (18, 721, 247, 255),
        (16, 940, 255, 255),
        (16, 64, 0, 1),
        (16, 440, 110, 150),
        (1, 573, 146, 150),
    ],
)
def test_light_of_high_range_is_mapped(tmp_path, transfer, code, least, most):
    path = coded(
        tmp_path / "a.mkv",
        "yuv420p10le",
        paper(code),
        color_trc=transfer,
        color_primaries=9,
        colorspace=9,
        color_range=1,
    )
    film = next(iter(DecodedVideo(path)))
    assert least <= film.mean() <= most and film.std() < 1
    # training sees the same
    assert np.abs(ClipReader(8, (32, 32)).read(path, 0, 1)[0].astype(int) - film).max() <= 1


def test_a_container_that_knows_of_high_range_is_heard(tmp_path):
    path = coded(tmp_path / "a.mkv", "yuv420p10le", paper(573), colorspace=9)
    ffmpeg("-i", path, "-c:v", "libx265", "-x265-params", "log-level=error", tmp_path / "plain.mp4")
    ffmpeg(
        "-i",
        tmp_path / "plain.mp4",
        "-c",
        "copy",
        "-color_trc",
        "smpte2084",
        "-color_primaries",
        "bt2020",
        "-colorspace",
        "bt2020nc",
        tmp_path / "tagged.mp4",
    )
    assert next(iter(DecodedVideo(tmp_path / "tagged.mp4"))).mean() > 246


@pytest.mark.parametrize(
    "tags, said", [({"colorspace": 14}, "ICtCp"), ({"color_trc": 8}, "linear")]
)
def test_colours_that_cannot_be_converted_are_left_out(tmp_path, tags, said):
    path = coded(tmp_path / "a.mkv", "yuv420p10le", paper(573), **tags)
    for read in (lambda: DecodedVideo(path), lambda: ClipReader(8, (32, 32)).read(path, 0, 1)):
        with pytest.raises(CinelabError, match=f"coded as {said}"):
            read()


@pytest.mark.parametrize(
    "form, planes, ending",
    [
        ("gray", np.full((48, 64), 128, np.uint8), "mkv"),
        ("gray10le", np.full((48, 64), 512, np.uint16), "mkv"),
        ("rgba", np.full((48, 64, 4), 128, np.uint8), "mov"),
        ("yuv420p", np.full((72, 64), 128, np.uint8), "mkv"),
        ("rgb24", np.full((33, 47, 3), 128, np.uint8), "mov"),
    ],
)
def test_any_pixels_are_read_and_cut_out(tmp_path, form, planes, ending):
    path = coded(tmp_path / f"a.{ending}", form, planes, 6, "png" if ending == "mov" else "ffv1")
    film = DecodedVideo(path)
    assert abs(next(iter(film)).astype(int).mean() - 128) < 4
    (tmp_path / "out").mkdir()
    for clip in lay_out(
        FilmFile(path, spans=((0, 3), (3, 6))), tmp_path / "out", lambda shot, prompt: f"{shot}.mp4"
    ):
        assert (
            DecodedVideo(clip.file).shape == (3, *film.size, 3)
            and np.abs(next(iter(DecodedVideo(clip.file))).astype(int) - next(iter(film))).max() < 4
        )


def test_a_picture_that_changes_its_size_is_fitted(base, tmp_path):
    for name, size in (("a", "80x48"), ("b", "40x24")):
        ffmpeg(
            "-i",
            base,
            "-frames:v",
            4,
            "-s",
            size,
            "-c:v",
            "libx264",
            "-bsf:v",
            "h264_mp4toannexb",
            tmp_path / f"{name}.ts",
        )
    (tmp_path / "both.ts").write_bytes(
        (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    )
    film = DecodedVideo(tmp_path / "both.ts")
    assert {frame.shape for frame in film} == {
        (48, 80, 3)
    } and "its frames differ in size" in film.changes


def test_interlaced_and_covered_films_are_read(base, tmp_path):
    ffmpeg(
        "-i",
        base,
        "-frames:v",
        6,
        "-c:v",
        "libx264",
        "-flags",
        "+ildct+ilme",
        "-x264opts",
        "interlaced=1",
        tmp_path / "i.mp4",
    )
    assert DecodedVideo(tmp_path / "i.mp4").shape[1:] == (48, 80, 3)
    ffmpeg("-i", base, "-frames:v", 1, tmp_path / "cover.png")
    ffmpeg(
        "-i",
        tmp_path / "cover.png",
        "-i",
        base,
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "c.mp4",
    )
    assert len(DecodedVideo(tmp_path / "c.mp4")) == 24


def test_what_does_not_fit_is_read_again_and_is_the_same(base, monkeypatch):
    opened = []
    monkeypatch.setattr(
        reader.VideoReader,
        "__init__",
        lambda self, path, old=reader.VideoReader.__init__: (opened.append(path), old(self, path))[
            1
        ],
    )
    kept = DecodedVideo(base)
    streamed = DecodedVideo(base, keep=5 * 48 * 80 * 3)
    assert (
        np.array_equal(list(kept), list(streamed))
        and np.array_equal(list(kept), list(streamed))
        and len(opened) == 4
    )
    assert streamed._stored is None  # nothing is held
    assert [number for number, _ in pick(streamed, [7, 3, 7])] == [3, 7]


def test_measures_do_not_depend_on_what_fits(base, monkeypatch):
    ShotList(
        (
            ListedShot(0, 12, "bars", ("a",)),
            ListedShot(12, 18, "b", ("b",)),
            ListedShot(18, 24, "bars", ("a",), cut=True),
        ),
        (0, 6, 12, 18),
    ).save(shot_list_path(base))
    whole = evaluate([base], ("colour",))
    monkeypatch.setattr(DecodedVideo.__init__, "__defaults__", (0,))
    parts = evaluate([base], ("colour",))
    shot_list_path(base).unlink()
    assert whole.equals(parts) and set(whole[whole["status"] == "ok"]["metric"]) > {
        "identity",
        "chunk discontinuity",
    }


def test_a_metric_of_ones_own_is_handed_all_frames_or_is_absent(base, monkeypatch):
    from cinelab.metrics import registered as metrics
    from cinelab.metrics.metric import Metrics

    own = Metrics({})
    own.add("brightness", lambda frames, shots: frames.mean((1, 2, 3, 4)))
    monkeypatch.setattr(metrics, "METRICS", own)
    film = DecodedVideo(base, keep=0)
    (row,) = metrics.registered_clip_rows("a", film, (ListedShot(0, 24),))
    assert row.value == pytest.approx(read_video(base)[0].mean())
    monkeypatch.setattr(decoded_video, "free_bytes", lambda device: 0)
    (row,) = metrics.registered_clip_rows("a", film, (ListedShot(0, 24),))
    assert row.status == "absent" and "GiB at once, which are not free" in row.detail


def test_memory_or_a_library_that_fails_costs_one_video(base, tmp_path, monkeypatch):
    from cinelab.metrics.video import evaluate as room

    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(base.read_bytes())

    def rows(clip, *_, old=room.clip_rows):
        if clip.name == "a":
            raise MemoryError("Unable to allocate 9 GiB")
        if clip.name == "b":
            raise ValueError("zip() argument 2 is shorter")
        return old(clip, ("colour",))

    monkeypatch.setattr(room, "clip_rows", rows)
    found = evaluate([tmp_path], ("colour",))
    why = found[found["status"] == "failed"].set_index("clip")["detail"]
    assert (
        set(why.index) == {"a", "b"}
        and "takes more memory than is free" in why["a"]
        and "ValueError: zip()" in why["b"]
    )
    assert set(found[found["status"] == "ok"]["clip"]) == {"c"}
