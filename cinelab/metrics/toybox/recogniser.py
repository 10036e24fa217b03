"""The recogniser: a small network that reads every attribute of a world off six frames of one
shot.

    n windows   T frames a window   H W pixels   D features

It takes two views of a window: *look*, a few of its frames in colour, for what a still shows, and
*motion*, the changes of brightness from frame to frame, for action and camera. Both keep a grid
of places to the end, since side, size and camera are about places. A score is only as good as its
reader, so the recogniser's own accuracy on held-out renders, and on those after the codec, travels
with its weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cinelab.config import from_dict, to_dict
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.latent.codec import to_tensor
from cinelab.world.worlds import WORLD, World, check_same_world, world_named
from cinelab.zoo import checkpoints as zoo

WINDOW = 6  # frames
ROWS = 24  # of the first features
SPREAD = 4.0  # changes between frames are small; this brings them to the size of frames
AT_ONCE = 256  # windows read together
AT = {"first": 0.0, "middle": 0.5, "last": 1.0}  # where in a shot its window lies


@dataclass(frozen=True)
class RecogniserConfig:
    frames: int = WINDOW  # of a window
    # those seen in colour: the farthest apart, where a walker has moved on
    looks: tuple[int, ...] = (0, 5)
    size: tuple[int, int] = (48, 64)  # height, width in pixels
    fold: int = 2  # pixels a cell and axis of the first features
    look: tuple[int, int, int] = (32, 64, 96)  # channels at that, half and a quarter of it
    motion: tuple[int, int, int] = (24, 48, 64)
    where: int = 48  # channels of the 3 x 4 places
    what: int = 128  # channels of the maximum over all places
    features: int = 144

    def __post_init__(self):
        if not self.looks or not all(0 <= look < self.frames for look in self.looks):
            raise CinelabError(
                f"looks {self.looks} must lie in a window of frames {self.frames}; name some of 0 "
                "to "
                f"{self.frames - 1}."
            )
        if any(side % self.place for side in self.size):
            raise CinelabError(
                f"size {self.size} must be a multiple of {self.place} pixels in both axes."
            )

    @classmethod
    def of(cls, size: tuple[int, int]) -> "RecogniserConfig":
        """Return the settings for frames of a size (height, width): larger ones are folded more,
        into more channels."""
        fold = size[0] // ROWS
        if fold <= 2:
            return cls(size=size)
        return cls(size=size, fold=fold, look=(48, 96, 128), motion=(32, 64, 96))

    @property
    def place(self) -> int:
        """Pixels a place and axis: a frame has 3 x 4 of them."""
        return 8 * self.fold


def block(inner: int, outer: int, stride: int) -> nn.Sequential:
    """3x3 convolution, norm, SiLU. (X, inner, y, x) -> (X, outer, y / stride, x / stride)."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.GroupNorm(8, outer), nn.SiLU()
    )


class Trunk(nn.Module):
    """(X, channels, H, W) -> (X, D). Keeps a grid of places for where things are, and a maximum
    over all for what is there."""

    def __init__(self, channels: int, widths: tuple[int, int, int], config: RecogniserConfig):
        super().__init__()
        half, quarter, eighth = widths
        cells = config.size[0] // config.place * config.size[1] // config.place
        self.body = nn.Sequential(
            nn.PixelUnshuffle(config.fold),
            block(config.fold**2 * channels, half, 1),
            block(half, quarter, 2),
            block(quarter, quarter, 1),
            block(quarter, eighth, 2),
            block(eighth, eighth, 1),
        )
        self.where = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(eighth, config.where, 1), nn.SiLU())
        self.what = nn.Conv2d(eighth, config.what, 1)
        self.mix = nn.Sequential(
            nn.Linear(config.where * cells + config.what, config.features), nn.SiLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)  # (X, eighth, 6, 8)
        return self.mix(torch.cat([self.where(x).flatten(1), self.what(x).amax((2, 3))], dim=1))

    def maps(self, x: Tensor) -> list[Tensor]:
        """(X, channels, H, W) -> the features after each of the five convolutions."""
        found = []
        for layer in self.body:
            x = layer(x)
            found.append(x)
        return found[1:]


def changes(frames: Tensor) -> Tensor:
    """Brightness steps from frame to frame and the mean frame: (n, T, 3, H, W) -> (n, T, H,
    W)."""
    grey = frames.mean(2)
    return torch.cat([SPREAD * grey.diff(dim=1), grey.mean(1, keepdim=True)], dim=1)


class Recogniser(nn.Module):
    """The reader of one world (None: the default one), of about 0.57 million parameters for the
    first. `accuracy` and `accuracy_codec` are set where it was loaded."""

    def __init__(self, config: RecogniserConfig | None = None, world: str | World | None = None):
        super().__init__()
        self.world = world_named(world)
        self.config = config = config or RecogniserConfig.of(self.world.size)
        self.accuracy: dict[str, float] = {}  # attribute -> share read right on held-out renders
        self.accuracy_codec: dict[str, float] = {}  # the same after encoding and decoding them
        self.look = Trunk(3, config.look, config)
        self.motion = Trunk(config.frames, config.motion, config)
        wide = config.features
        self.both = nn.Sequential(nn.Linear(2 * wide, wide), nn.SiLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(wide, len(values)) for name, values in self.attributes.items()}
        )

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """What it reads: attribute -> values."""
        return self.world.attributes

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames (n, T, 3, H, W) in [-1, 1] -> attribute -> logits (n, values)."""
        count = len(frames)
        looks = frames[:, list(self.config.looks)].flatten(0, 1)
        still = self.look(looks).unflatten(0, (count, -1)).mean(1)  # (n, D)
        moving = self.both(torch.cat([still, self.motion(changes(frames))], dim=1))  # (n, D)
        return {
            name: head(moving if name in self.world.moving else still)
            for name, head in self.heads.items()
        }

    def feature_maps(self, frames: Tensor) -> list[Tensor]:
        """Frames (X, 3, H, W) in [-1, 1] -> the features of a still, from fine to coarse."""
        return self.look.maps(frames)

    @torch.inference_mode()
    def probabilities(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Windows uint8 (n, T, H, W, 3) -> attribute -> (n, values), rows that sum to 1."""
        self._check(frames)
        device = next(self.parameters()).device
        parts = [
            self(to_tensor(frames[i : i + AT_ONCE]).to(device))
            for i in range(0, len(frames), AT_ONCE)
        ]
        logits = {name: torch.cat([part[name] for part in parts]) for name in self.heads}
        return {name: values.float().softmax(1).cpu().numpy() for name, values in logits.items()}

    def read(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Windows uint8 (n, T, H, W, 3) -> attribute -> (n,) indices into its values."""
        return {name: values.argmax(1) for name, values in self.probabilities(frames).items()}

    def names(self, frames: np.ndarray) -> list[dict[str, str]]:
        """Windows uint8 (n, T, H, W, 3) -> for each, attribute -> the value's name."""
        codes = self.read(frames)
        known = self.attributes
        return [
            {name: known[name][int(codes[name][i])] for name in codes} for i in range(len(frames))
        ]

    def card(self) -> dict:
        """What config.json says of this recogniser."""
        return {
            "recogniser": to_dict(self.config),
            WORLD: self.world.name,
            "attributes": {k: list(v) for k, v in self.attributes.items()},
            "accuracy": self.accuracy,
            "accuracy_codec": self.accuracy_codec,
        }

    def check_world(self, name: str) -> None:
        """Raise CinelabError unless it reads films of the world `name`."""
        check_same_world(
            self.world.name,
            name,
            what="The recogniser",
            whose="the films are",
            remedy="read them with that world's recogniser: load_recogniser(world=...)",
        )

    def _check(self, frames: np.ndarray) -> None:
        wanted = (self.config.frames, *self.config.size, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != wanted or not len(frames):
            raise CinelabError(
                f"windows: expected uint8 (n, {', '.join(map(str, wanted))}) with n >= 1, found "
                f"{frames.dtype} {frames.shape}; cut them with `windows`."
            )


def windows(
    frames: np.ndarray, spans: Sequence[tuple[int, int]], width: int = WINDOW, at: str = "last"
) -> np.ndarray:
    """One window of each span (start, stop) of a film uint8 (F, H, W, 3): uint8 (spans, width, H,
    W, 3).

    `at` is "last", because actions take time, "middle" or "first". A shorter span is filled up with
    its last frame.
    """
    if at not in AT:
        raise CinelabError(f"at: {at!r} is not a place in a shot; use one of {', '.join(AT)}.")
    places = np.array([places_in(span, len(frames), width, AT[at]) for span in spans], int).reshape(
        -1, width
    )
    return frames[places]


def places_in(span: tuple[int, int], count: int, width: int, share: float) -> np.ndarray:
    """The frames of a window in `span`, `share` (0..1) of the way to the last full one;
    (width,)."""
    start, stop = span
    if not 0 <= start < stop <= count:
        raise CinelabError(
            f"span {(start, stop)} does not lie in a film of {count} frames; give 0 <= start < "
            "stop."
        )
    first = start + int(share * max(0, stop - start - width))
    return np.minimum(first + np.arange(width), stop - 1)


def load_recogniser(
    name: str | Path | None = None,
    device: str | None = None,
    *,
    world: str | World | None = None,
) -> Recogniser:
    """A recogniser by name or folder (None: that of `world`, or of the default world) on `device`
    (None: the chosen one); refused when it reads another world than the one that is given, or was
    taught other attributes than that world has."""
    device = chosen_device(device)
    folder = zoo.find(name or world_named(world).recogniser)
    own = world_named(zoo.world_in(folder))
    config = from_dict(RecogniserConfig, zoo.read_part(folder, "recogniser"))
    _check_taught(zoo.read_part(folder, "attributes"), own.attributes, folder)
    model = Recogniser(config, own)
    if world is not None:
        model.check_world(world_named(world).name)
    zoo.load_weights(model, folder)
    model.accuracy = zoo.read_part(folder, "accuracy")
    model.accuracy_codec = zoo.read_part(folder, "accuracy_codec")
    return model.to(device)


def _check_taught(taught: dict, wanted: dict[str, tuple[str, ...]], folder: Path) -> None:
    """Raise CinelabError unless a recogniser was taught the values of its world."""
    known = {name: tuple(values) for name, values in taught.items()}
    other = [name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name)]
    if other:
        raise CinelabError(
            f"{folder} was taught other values of {', '.join(sorted(other))}; train the recogniser "
            "again."
        )
