"""The training films of the toybox, rendered and encoded by many processes beside the sections.

    python -m benchmarks.gpu_bench.toy_films FOLDER --films 40000 --share 3/10

A store that a training has begun on stays as it is: FOLDER.frozen says so.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from subprocess import Popen

from benchmarks.gpu_bench import processes
from benchmarks.gpu_bench.jobs import Films
from benchmarks.gpu_bench.machine import ROOT
from cinelab.files import SCRATCH, write_text

FREE = 6  # cores that the sections keep
ENOUGH = 10_000  # films that a training waits for: 4,000, shown ten times, held recall back
SHARE = 0.3  # of the time that is left, which it waits at most
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CINELAB_DEVICE": "cpu"}


@dataclass
class Builders:
    """The processes that build a store."""

    folder: Path
    films: Films
    count: int
    running: list[Popen] = field(default_factory=list)

    def begin(self, log: Path) -> None:
        """Start them, unless a training has begun on the store."""
        if frozen(self.folder).exists():
            return
        for share in range(self.count):
            command = [sys.executable, "-m", __name__, str(self.folder)]
            command += self.films.words() + ["--share", f"{share}/{self.count}"]
            self.running.append(processes.start(command, log, ONE_THREAD, nice=True))

    def pause(self) -> None:
        """Stop their work while something is measured."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._send(signal.SIGCONT)

    def end(self) -> None:
        """End them; unfinished files are removed."""
        self._send(signal.SIGCONT)
        self._send(signal.SIGINT)
        for one in self.running:
            processes.stop(one, gently=signal.SIGINT)
        self.running.clear()

    @property
    def done(self) -> bool:
        """Whether all have ended by themselves."""
        return all(one.poll() is not None for one in self.running)

    def _send(self, number: signal.Signals) -> None:
        for one in self.running:
            if one.poll() is None:
                processes.send(one, number)


def builders_for(cores: int) -> int:
    """Return how many processes build beside the sections."""
    return max(1, cores - FREE)


def films_in(folder: Path, films: Films) -> int:
    """Return how many films of a store are written."""
    return films.shard * len(list(folder.glob("[0-9]*.npz")))


def freeze(folder: Path) -> int:
    """Remove what was half written, note that the store stays as it is, and return its films."""
    for path in folder.glob(f"{SCRATCH}*"):
        path.unlink(missing_ok=True)
    shards = len(list(folder.glob("[0-9]*.npz")))
    if shards:
        write_text(frozen(folder), f"{shards} shards\n")
    return shards


def frozen(folder: Path) -> Path:
    """Return the file that says that a training has begun on a store."""
    return folder.with_name(folder.name + ".frozen")


def builder() -> Callable[..., Iterator[int]]:
    """Return `cinelab.data.toybox.build_toybox`. Its file is read by itself: the package around it
    opens videos, for which a bare machine has no readers."""
    spec = spec_from_file_location("toybox_films", ROOT / "cinelab" / "data" / "toybox.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_toybox


def main() -> None:
    """Build one share of a store."""
    from cinelab.world.worlds import world_named
    from cinelab.zoo import checkpoints as zoo

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", default="0/1")
    Films.add_to(parser)
    options = parser.parse_args()
    mine, of = map(int, options.share.split("/"))
    config = Films.of(options).config
    world = world_named(config.world)
    codec = zoo.load_codec(world.codec)
    encoder = zoo.toy_encoder(world=world)
    mark = zoo.fingerprint(world.codec)
    with suppress(KeyboardInterrupt):
        for done in builder()(options.folder, config, codec, encoder, mark, (mine, of)):
            print(done, flush=True)


if __name__ == "__main__":
    main()
