"""Videos to training clips: videos are listed, cut into shots, encoded and stored.

for step in build("videos/", "results/store", DataConfig(), codec, encoder, fingerprints):
    print(step)
clips = FilmStore("results/store").clips(8, 21, rng)
"""

from cinelab.data.build import BuildProgress, build, skipped
from cinelab.data.settings import DataConfig
from cinelab.latent.clips import FilmStore, verify

__all__ = ["DataConfig", "FilmStore", "BuildProgress", "build", "skipped", "verify"]
