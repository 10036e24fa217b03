"""Decoded frames to 8-bit RGB as a screen of standard range (BT.709) shows them.

Light above that range is mapped: a sheet of white paper (203 cd/m2, ITU-R BT.2408) becomes white,
what is brighter is compressed into the codes above it. Codings that cannot be converted are named,
never guessed.
"""

from __future__ import annotations

from functools import cache
from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np

from cinelab.optional import Later

if TYPE_CHECKING:
    import av
    from av.video import reformatter
else:
    av = Later("av", extra="lab", what="Reading and writing videos")
    reformatter = Later("av.video.reformatter", extra="lab", what="Reading and writing videos")

# BT.709, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020: what swscale converts
MATRICES = (1, 4, 5, 6, 7, 9)
UNREAD_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chroma-derived",
    13: "chroma-derived, constant luminance",
    14: "ICtCp",
    15: "IPT-C2 (Dolby Vision)",
}
UNREAD_TRANSFERS = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE 428"}
PQ = 16
HLG = 18
WHITE = 203.0  # cd/m2 of diffuse white, ITU-R BT.2408
PEAK = 1000.0  # cd/m2 of the screen that an HLG signal is shown on, ITU-R BT.2100
KNEE = 0.9  # of diffuse white: highlights are compressed from here on
TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
P3 = (11, 12)  # DCI and Display P3 primaries
P3_TO_709 = np.array(
    [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]], np.float32
)
LUMA_P3 = np.array([0.2290, 0.6917, 0.0793], np.float32)


def rgb(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8, resized to `size` (H, W) where one is given. Colours that the file does not
    name are taken as BT.709, as players do; light of high dynamic range is mapped to standard
    range."""
    if frame.color_trc in (PQ, HLG):
        return _standard(_converted(frame, size, "rgb48le"), frame.color_trc, frame.color_primaries)
    return _converted(frame, size, "rgb24")


def unreadable(frame: av.VideoFrame) -> str:
    """How the frame's colours are coded if they cannot be converted, else an empty text."""
    coded = "" if frame.format.is_rgb else UNREAD_MATRICES.get(int(frame.colorspace), "")
    return coded or UNREAD_TRANSFERS.get(int(frame.color_trc), "")


def _converted(frame: av.VideoFrame, size: tuple[int, int] | None, form: str) -> np.ndarray:
    height, width = size or (frame.height, frame.width)
    shrinks = height < frame.height or width < frame.width
    known = frame.colorspace if frame.colorspace in MATRICES else reformatter.Colorspace.ITU709
    flags = reformatter.Interpolation.AREA if shrinks else reformatter.Interpolation.BICUBIC
    flags |= reformatter.Interpolation.ACCURATE_RND | reformatter.Interpolation.FULL_CHR_H_INT
    made = _reformatter().reformat(
        frame, width, height, form, src_colorspace=known, interpolation=flags, threads=1
    )
    return made.to_ndarray()


@cache
def _reformatter_of(thread: int) -> reformatter.VideoReformatter:
    return reformatter.VideoReformatter()


def _reformatter() -> reformatter.VideoReformatter:
    """One for all frames of a thread: a frame's own would start threads of its own and keep them as
    long as the frame."""
    return _reformatter_of(get_ident())


def _standard(codes: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Codes uint16 (H, W, 3) of PQ or HLG -> uint8 (H, W, 3) in BT.709, for a screen of gamma 2.4
    (BT.1886)."""
    matrix, luma = (P3_TO_709, LUMA_P3) if primaries in P3 else (TO_709, LUMA_2020)
    light = _light(transfer)[codes]  # (H, W, 3), 1 = diffuse white
    # the screen's part of the curve works on luminance (BT.2100, system gamma 1.2)
    if transfer == HLG:
        light = light * (PEAK / WHITE * np.maximum(light @ luma, 1e-6) ** 0.2)[..., None]
    strongest = light.max(axis=-1, keepdims=True)
    light = light * (_rolled_off(strongest) / np.maximum(strongest, 1e-6))
    shown = (light @ matrix.T if primaries != 1 else light).clip(0, 1)
    return np.rint(255 * shown ** (1 / 2.4)).astype(np.uint8)


@cache
def _light(transfer: int) -> np.ndarray:
    """Light of each 16-bit code, float32 (65536,): PQ in units of diffuse white (SMPTE 2084), HLG
    of the scene (0..1)."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        m1 = 2610 / 16384
        m2 = 2523 / 32
        c1 = 3424 / 4096
        c2 = 2413 / 128
        c3 = 2392 / 128
        power = code ** (1 / m2)
        return (10000 / WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(
            np.float32
        )
    a = 0.17883277
    b = 0.28466892
    c = 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Light (1 = diffuse white) with what lies above the knee compressed, so that the peak becomes
    1; smooth at the knee."""
    most = (PEAK / WHITE - KNEE) / (1 - KNEE)
    above = ((light - KNEE) / (1 - KNEE)).clip(0, most)
    return np.where(light <= KNEE, light, KNEE + (1 - KNEE) * above * (1 + 1 / most) / (1 + above))
