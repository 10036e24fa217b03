"""Films to mp4 and back: faithful, atomic, and clear about every broken file."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.stream import video
from cinelab.stream.video import VideoWriter, pick_encoder, read_image, read_video, write_mp4


def ball_film(count: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A red ball that crosses a coloured gradient, uint8 (F, H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    sky = np.stack([columns * 2 + 40, rows * 3, np.full_like(rows, 120)], axis=-1).astype(float)
    frames = []
    for i in range(count):
        inside = np.clip(8.5 - np.hypot(rows - 24, columns - 12 - 3 * i), 0, 1)[..., None]
        frames.append(sky * (1 - inside) + np.array([230, 60, 50]) * inside)
    return np.array(frames).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_round_trip_keeps_frames_rate_and_colours(tmp_path):
    film = ball_film()
    assert write_mp4(tmp_path / "film.mp4", film, fps=8, scale=1) == (48, 64)
    found, rate = read_video(tmp_path / "film.mp4")
    assert found.shape == film.shape and found.dtype == np.uint8 and rate == 8
    assert psnr(found, film) > 30  # chroma at half resolution limits so small a film
    assert psnr(found, film) > psnr(np.roll(found, 1, axis=0), film) + 5  # and in the right order


def test_plain_colours_survive(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [250, 200, 30]])
    film = np.broadcast_to(colours[:, None, None], (5, 48, 64, 3)).astype(np.uint8)
    write_mp4(tmp_path / "film.mp4", film, fps=8)
    found, _ = read_video(tmp_path / "film.mp4")
    assert np.abs(found.astype(int).mean((1, 2)) - colours).max() < 3


@pytest.mark.parametrize(
    "size, scale, wanted",
    [((48, 64), None, (384, 512)), ((48, 64), 2, (96, 128)), ((47, 63), None, (470, 630))],
)
def test_small_films_are_made_watchable(tmp_path, size, scale, wanted):
    assert write_mp4(tmp_path / "film.mp4", ball_film(3, *size), 8, scale) == wanted
    assert read_video(tmp_path / "film.mp4")[0].shape == (3, *wanted, 3)


def test_upscaling_is_smooth_and_in_place(tmp_path):
    film = ball_film(3)
    write_mp4(tmp_path / "film.mp4", film, fps=8)
    found = read_video(tmp_path / "film.mp4")[0].astype(float)
    blocks = found.reshape(3, 48, 8, 64, 8, 3)
    assert psnr(blocks.mean((2, 4)), film) > 28  # each block still has its pixel's colour
    assert np.abs(np.diff(found[0], axis=1)).max() < 120  # no hard steps between blocks


def test_wan_sized_films_keep_their_size():
    assert video.watchable_scale(480, 832) == 1


def test_streaming_equals_writing_at_once(tmp_path):
    film = ball_film(9)
    write_mp4(tmp_path / "once.mp4", film, fps=8)
    with VideoWriter(tmp_path / "parts.mp4", 8, (48, 64)) as writer:
        for start in range(0, 9, 4):
            writer.add(film[start : start + 4])
    once, parts = (read_video(tmp_path / name)[0] for name in ("once.mp4", "parts.mp4"))
    assert np.array_equal(once, parts)


def test_file_is_tagged_and_starts_with_its_index(tmp_path):
    write_mp4(tmp_path / "film.mp4", ball_film(), fps=8)
    with av.open(str(tmp_path / "film.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 1, 1)
    data = (tmp_path / "film.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "film.mp4"
    write_mp4(path, ball_film(), fps=8)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="the model stopped"):
        with VideoWriter(path, 8, (48, 64)) as writer:
            writer.add(ball_film(4))
            raise ValueError("the model stopped")
    with pytest.raises(CinelabError, match="no frames"):
        with VideoWriter(path, 8, (48, 64)):
            pass
    with pytest.raises(CinelabError, match="48x32 pixels in a film of 48x64"):
        with VideoWriter(path, 8, (48, 64)) as writer:
            writer.add(ball_film()[:, :, :32])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["film.mp4"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def full(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VideoWriter, "_finish", full)
    with pytest.raises(CinelabError, match="film.mp4: cannot be written .no space left"):
        write_mp4(path, ball_film(), fps=8)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["film.mp4"]


def test_the_encoder_reports_a_write_that_really_fails(tmp_path):
    """The operating system refuses to let files grow: the muxer, not a stub, meets the error."""
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    script = (
        "import resource, sys, numpy as np\n"
        "from cinelab.errors import CinelabError\n"
        "from cinelab.stream.video import write_mp4\n"
        "noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n"
        "try:\n    write_mp4(sys.argv[1], noise, 8)\n"
        "except CinelabError as error:\n    print(error)\n"
    )
    root = str(Path(video.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=root, capture_output=True, text=True
    )
    assert "film.mp4: cannot be written (file too large" in done.stdout, done.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["film.mp4"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CinelabError, match="cannot be written"):
        write_mp4(tmp_path / "file" / "film.mp4", ball_film(), fps=8)


@pytest.mark.parametrize(
    "frames, said",
    [
        (np.zeros((0, 48, 64, 3), np.uint8), "no frames"),
        (np.zeros((4, 48, 64, 3), np.float32), "uint8.*float32"),
        (np.zeros((4, 3, 48, 64), np.uint8), r"\(F, H, W, 3\).*\(4, 3, 48, 64\)"),
        (np.zeros((48, 64, 3), np.uint8), r"\(48, 64, 3\)"),
        ([[1, 2]], "list"),
    ],
)
def test_wrong_frames(tmp_path, frames, said):
    with pytest.raises(CinelabError, match=said):
        write_mp4(tmp_path / "film.mp4", frames, fps=8)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), "8"])
def test_wrong_rates(tmp_path, fps):
    with pytest.raises(CinelabError, match="fps: "):
        write_mp4(tmp_path / "film.mp4", ball_film(), fps)


@pytest.mark.parametrize("scale, said", [(0, "scale: 0"), (1.5, "1.5"), (1, "use scale=2")])
def test_wrong_scales(tmp_path, scale, said):
    with pytest.raises(CinelabError, match=said):
        write_mp4(tmp_path / "film.mp4", ball_film(2, 47, 64), 8, scale)


def test_a_missing_encoder_is_named():
    assert pick_encoder(("no-such-encoder", "mpeg4")) == "mpeg4"
    with pytest.raises(CinelabError, match="none of no-such-encoder, h263x .*pip install"):
        pick_encoder(("no-such-encoder", "h263x"))


def test_every_encoder_we_would_fall_back_to_works(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "pick_encoder", lambda: "mpeg4")
    write_mp4(tmp_path / "film.mp4", ball_film(), fps=8, scale=1)
    assert psnr(read_video(tmp_path / "film.mp4")[0], ball_film()) > 30


def test_broken_files(tmp_path):
    path = tmp_path / "film.mp4"
    with pytest.raises(CinelabError, match="no such video file"):
        read_video(path)
    path.write_bytes(b"")
    with pytest.raises(CinelabError, match="is empty"):
        read_video(path)
    path.write_text("shots:\n  - prompt: a cat\n")
    with pytest.raises(CinelabError, match="damaged or not a video"):
        read_video(path)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.7, 0.97])
def test_a_truncated_film(tmp_path, share):
    path = tmp_path / "film.mp4"
    write_mp4(path, ball_film(24), fps=8)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CinelabError, match="film.mp4: (is damaged|is cut short|the video stream)"):
        read_video(path)


def test_sound_alone_is_no_film(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(CinelabError, match="no video stream"):
        read_video(path)


def test_a_picture_is_cropped_and_resized_and_a_text_is_refused(tmp_path):
    from PIL import Image

    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200  # what a crop in the middle keeps
    Image.fromarray(picture).save(tmp_path / "wide.png")
    read = read_image(tmp_path / "wide.png", (20, 20))
    assert read.shape == (20, 20, 3) and read.dtype == np.uint8 and (read[:, 3:-3] > 190).all()
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "absent.png"):
        with pytest.raises(CinelabError, match="no image that can be read"):
            read_image(tmp_path / name, (20, 20))
