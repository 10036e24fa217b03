"""The noise floor of a fast way: the same film and seed twice, and against the exact way.

    difference of latents   in their own unit, whose deviation is about 1
    difference of frames    of 255
    SSIM                    structural similarity of two frames in grey, 1 = the same (Wang et al.,
                            IEEE TIP 2004, equation 13, means over windows of 7 x 7)

A chunk attends to what earlier chunks have become, so rounding grows along a film: the exact way in
the model's other precisions, or on another card, differs in the same manner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.bench.speed import endless
from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.readable import Readable
from cinelab.scale.acceleration import Speed, running_speed
from cinelab.stream.batch import empty_cache, stream
from cinelab.zoo.accelerated import at_speed
from cinelab.zoo.bundle import Bundle

GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
WINDOW = 7
STABLE = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # C1, C2


@dataclass(frozen=True)
class MadeFilm(Readable):
    """A film's latents (F, C, h, w) and frames uint8 (N, H, W, 3)."""

    latents: Tensor
    frames: Tensor


def noise_floor(
    bundle: Bundle,
    speed: Speed,
    policy: Policy,
    *,
    chunks: int = 12,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Return a row for each of three comparisons: the exact way twice, the fast one twice, and fast
    against exact.

    The bundle's model is exact before, and run as `speed` says after; where that is exact too,
    there is the first row only. CinelabError where it is not exact before.
    """
    if running_speed(bundle.model).mode != "exact":
        raise CinelabError(
            f"{bundle.name} runs as fast already; load it with speed 'exact', which is what others "
            "are compared with."
        )
    films: dict[str, list[MadeFilm]] = {"exact": [], "fast": []}
    for name in ("exact", "fast") if speed.mode == "fast" else ("exact",):
        if name == "fast":
            at_speed(bundle, speed)
        for turn in (1, 2):
            tell(f"{chunks} chunks, {name}, {turn} of 2")
            films[name].append(_film(bundle, policy, chunks, seed))
    pairs = {"exact, twice": films["exact"], "fast, twice": films["fast"]}
    pairs["fast against exact"] = [one[0] for one in films.values() if one]
    rows = [
        {"compared": name, **difference(*pair)} for name, pair in pairs.items() if len(pair) == 2
    ]
    return pd.DataFrame(rows)


def _film(bundle: Bundle, policy: Policy, chunks: int, seed: int) -> MadeFilm:
    made = list(stream(bundle, [endless(bundle, chunks)], empty_cache(bundle, policy), [seed]))
    return MadeFilm(
        torch.cat([chunk.latents[0].float().cpu() for chunk in made]),
        torch.cat([torch.from_numpy(chunk.frames[0]) for chunk in made]),
    )


def difference(one: MadeFilm, other: MadeFilm) -> dict[str, float]:
    """Return how far two films are apart: largest and mean difference, and SSIM."""
    latents = (one.latents - other.latents).abs()
    frames = (one.frames.float() - other.frames.float()).abs()
    return {
        "latents, max": float(latents.max()),
        "latents, mean": float(latents.mean()),
        "frames, max of 255": float(frames.max()),
        "frames, mean of 255": float(frames.mean()),
        "SSIM": float(structural_similarity(one.frames, other.frames).mean()),
        "SSIM, last frame": float(structural_similarity(one.frames[-1:], other.frames[-1:])[0]),
    }


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the SSIM (N) of frames uint8 (N, H, W, 3)."""
    weights = torch.tensor(GREY)
    x, y = ((frames.float() @ weights)[:, None] for frames in (a, b))  # (N, 1, H, W)

    def mean(image: Tensor) -> Tensor:
        return fn.avg_pool2d(image, WINDOW, 1)

    mean_x = mean(x)
    mean_y = mean(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    variances = sample * (mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2)
    covariance = sample * (mean(x * y) - mean_x * mean_y)
    light = (2 * mean_x * mean_y + STABLE[0]) / (mean_x**2 + mean_y**2 + STABLE[0])
    return (light * (2 * covariance + STABLE[1]) / (variances + STABLE[1])).mean((1, 2, 3))
