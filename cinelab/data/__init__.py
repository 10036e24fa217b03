"""Videos to training clips: videos are listed, cut into shots, encoded and stored.

for step in build("videos/", "results/store", DataConfig(), codec, encoder, fingerprints):
    print(step)
clips = FilmStore("results/store").clips(8, 21, rng)

listing             a folder or a table of videos
cutting             their shots and captions
layout, planning    which clip of which shot stands where, so that no latent frame is wasted
reader              frames at the data set's rate and size
build               encode and store, resumable, in shares;   toybox   the same for drawn films
toybox_jobs         a toybox store built by several processes at once: `build_at_once`
settings            `DataConfig`
"""

from cinelab.data.build import BuildProgress, build, skipped
from cinelab.data.settings import DataConfig
from cinelab.latent.clips import FilmStore, verify

__all__ = ["DataConfig", "FilmStore", "BuildProgress", "build", "skipped", "verify"]
