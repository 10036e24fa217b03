"""Films to mp4 and back. Frames are uint8 (F, H, W, 3) RGB everywhere in the package."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from cinelab.errors import CinelabError
from cinelab.files import replacing
from cinelab.optional import Later
from cinelab.stream.decoded_video import DecodedVideo
from cinelab.stream.frames import check_frames
from cinelab.texts import check_regular

if TYPE_CHECKING:
    import av
    from av.video import reformatter
else:
    av = Later("av", extra="lab", what="Reading and writing videos")
    reformatter = Later("av.video.reformatter", extra="lab", what="Reading and writing videos")

# Tried in this order, each with the options that make it look about as good as crf 14.
ENCODERS = {
    "libx264": {"crf": "14", "preset": "medium"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"qmin": "2", "qmax": "3"},
}
# to embed
SMALL = {
    "libx264": {"crf": "27", "preset": "slow"},
    "libopenh264": {"b": "400k"},
    "mpeg4": {"qmin": "8", "qmax": "12"},
}
WATCHABLE_HEIGHT = 384  # a toybox film of 48 rows is shown eight times larger


def pick_encoder(names: tuple[str, ...] = tuple(ENCODERS)) -> str:
    """The first of `names` that this build of PyAV can encode with."""
    for name in names:
        with suppress(ValueError):  # av.codec.codec.UnknownCodecError is one
            return av.Codec(name, "w").name
    raise CinelabError(
        f"video encoder: none of {', '.join(names)} is in this build of PyAV; install the wheel "
        "again with: pip install --force-reinstall av"
    )


def watchable_scale(height: int, width: int) -> int:
    """The smallest integer factor that gives >= 384 rows and sides that are even (yuv420p)."""
    scale = max(1, math.ceil(WATCHABLE_HEIGHT / height))
    odd = (height * scale) % 2 or (width * scale) % 2
    return scale + 1 if odd else scale


def _check_rate(fps: float) -> Fraction:
    if not (isinstance(fps, int | float | Fraction) and math.isfinite(fps) and fps > 0):
        raise CinelabError(f"fps: {fps!r} is not a frame rate, give a number above 0")
    return Fraction(fps).limit_denominator(1001)


def _check_scale(scale: int | None, height: int, width: int) -> int:
    if scale is None:
        return watchable_scale(height, width)
    if not isinstance(scale, int) or scale < 1:
        raise CinelabError(f"scale: {scale!r} is not a whole number of at least 1")
    if (height * scale) % 2 or (width * scale) % 2:
        raise CinelabError(
            f"scale: {scale} makes a film of {height * scale}x{width * scale} pixels, mp4 needs "
            f"even sides, use scale={scale + 1}"
        )
    return scale


class VideoWriter:
    """Write a film while it is being made: `with VideoWriter(path, fps, (H, W)) as w: w.add(f)`.

    `scale` is the integer upscaling (Lanczos, which keeps the toybox's anti-aliased outlines
    round); None makes small films watchable. `path` changes only when the block ends well.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        scale: int | None = None,
        small: bool = False,
    ):
        self.path = Path(path)
        self.rate = _check_rate(fps)
        self.size = tuple(size)  # (H, W) of the frames that are added
        self.scale = _check_scale(scale, *self.size)
        self.count = 0
        self._options = SMALL if small else ENCODERS

    def __enter__(self) -> VideoWriter:
        encoder = pick_encoder()
        self._replacing = replacing(self.path)
        temporary = self._replacing.__enter__()
        try:
            self._open(temporary, encoder)
        except BaseException as error:
            self._replacing.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _open(self, temporary: Path, encoder: str) -> None:
        options = {"movflags": "+faststart"}  # the index first: browsers start at once
        self._container = av.open(str(temporary), "w", format="mp4", options=options)
        stream = self._container.add_stream(encoder, rate=self.rate, options=self._options[encoder])
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = (side * self.scale for side in self.size)
        stream.pix_fmt = "yuv420p"
        # Untagged colours are guessed by players: say what they are (1 = BT.709).
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = reformatter.ColorRange.MPEG
        self._stream = stream

    def add(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (F, H, W, 3) with the (H, W) the writer was opened with."""
        check_frames(frames)
        if frames.shape[1:3] != self.size:
            found = "x".join(map(str, frames.shape[1:3]))
            want = "x".join(map(str, self.size))
            raise CinelabError(f"{self.path}: a frame of {found} pixels in a film of {want}")
        for frame in frames:
            self._container.mux(self._stream.encode(self._encodable(frame)))
        self.count += len(frames)

    def _encodable(self, frame: np.ndarray) -> av.VideoFrame:
        converted = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        return converted.reformat(
            width=self._stream.width,
            height=self._stream.height,
            format="yuv420p",
            dst_colorspace=reformatter.Colorspace.ITU709,
            dst_color_range=reformatter.ColorRange.MPEG,
            interpolation=reformatter.Interpolation.LANCZOS
            | reformatter.Interpolation.ACCURATE_RND,
        )

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as late:
                self._abandon(type(late), late, late.__traceback__)
                raise  # only what `replacing` did not turn into a clearer error
            self._replacing.__exit__(None, None, None)
        else:
            self._abandon(kind, error, trace)

    def _finish(self) -> None:
        if not self.count:
            raise CinelabError(f"{self.path}: the film has no frames, add at least one")
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _abandon(self, kind, error, trace) -> None:
        """Close what is open, remove the temporary file, translate an OSError."""
        with suppress(Exception):
            self._container.close()
        self._replacing.__exit__(kind, error, trace)


def write_mp4(
    path: str | Path, frames: np.ndarray, fps: float, scale: int | None = None, small: bool = False
) -> tuple[int, int]:
    """Write frames, uint8 (F, H, W, 3), as an H.264 mp4 in one atomic step.

    Returns (height, width) of the film in pixels; `scale` as in VideoWriter; `small` prefers few
    bytes to fine detail.
    """
    check_frames(frames)
    with VideoWriter(path, fps, frames.shape[1:3], scale, small) as writer:
        writer.add(frames)
    height, width = writer.size
    return height * writer.scale, width * writer.scale


def write_gif(path: str | Path, frames: np.ndarray, fps: float, height: int = 144) -> None:
    """Write frames, uint8 (F, H, W, 3), as an endless GIF about `height` pixels high, in one atomic
    step.

    Colours are chosen by an octree: 128 of them are as near as 64 by median cut, in a hundredth of
    the time.
    """
    check_frames(frames)
    scale = max(1, round(height / frames.shape[1]))
    size = frames.shape[2] * scale, frames.shape[1] * scale
    images = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    images = [image.quantize(128, method=Image.Quantize.FASTOCTREE) for image in images]
    with replacing(path) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / fps),
            loop=0,
        )


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """Return (frames uint8 (F, H, W, 3) RGB, frames per second) of a whole video; see
    cinelab.stream.reader for what a frame is."""
    video = DecodedVideo(path)
    return video.whole(), video.fps


def read_image(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Return an image file as uint8 (height, width, 3), cropped in the middle to the shape of
    `size` and resized to it."""
    check_regular(path)
    try:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except (OSError, ValueError) as error:
        raise CinelabError(
            f"{path} is no image that can be read ({error}); give a png or jpg."
        ) from error
    return np.array(ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS))
