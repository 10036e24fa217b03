"""A toybox store built by several processes at once, one thread and one share of the shards each.

    build_at_once("results/store", StoreConfig(films=40_000), "toybox-codec", jobs=8)

A build that was stopped is resumed with any number of processes. One that dies loses the shard
that it was writing; the others go on, and the same call makes up for it.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO, Any

from cinelab.config import from_dict, to_dict
from cinelab.data.toybox import build_toybox, claim_store, missing_shards
from cinelab.errors import CinelabError, Failed
from cinelab.files import to_json
from cinelab.latent.store import StoreConfig
from cinelab.limits import WORKERS, check_number
from cinelab.threads import cores, limited
from cinelab.world.worlds import check_same_world, world_named
from cinelab.zoo import checkpoints as zoo

WORTH = 32  # films to make; for fewer a process of its own does not pay
REFUSED = "cinelab: "  # before the sentence of a worker that was refused
SAID = 20  # last lines of what a worker printed that are kept


def build_at_once(
    folder: str | Path,
    config: StoreConfig,
    codec: str | Path,
    *,
    jobs: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the missing shards of a store with `jobs` processes (None: one a core).

    `codec` is a checkpoint's name or folder; each process has it on the device that is chosen (see
    `cinelab.devices`). `tell` is called with the number of films that are done, after each. Raises
    CinelabError where the store is of another recipe or codec, Failed where a process died.
    """
    jobs = cores() if jobs is None else jobs
    check_number("jobs", jobs, 1, WORKERS)
    folder = Path(folder)
    if str(codec) != world_named(config.world).codec:  # a world may state another world's codec
        check_same_world(
            zoo.world_in(codec),
            config.world,
            what=f"The codec {codec}",
            whose="the films are",
            remedy="name a codec of theirs, or none",
        )
    claim_store(folder, config, zoo.fingerprint(codec))
    missing = sum(map(len, missing_shards(folder, config)))
    numbers = count(config.films - missing)

    def made(_: int = 0) -> None:
        tell(next(numbers))

    made()
    if missing <= WORTH or jobs == 1 or not _known_elsewhere(config):
        _build_share(folder, config, codec, share=(0, 1), made=made)
    else:
        _build_shares(folder, config, codec, jobs=min(jobs, -(-missing // WORTH)), made=made)


def _known_elsewhere(config: StoreConfig) -> bool:
    """Whether another process finds the world of a store: one of a notebook's cell it does not."""
    return type(world_named(config.world)).__module__ != "__main__"


def _build_share(
    folder: Path,
    config: StoreConfig,
    codec: str | Path,
    *,
    share: tuple[int, int],
    made: Callable[[int], None],
) -> None:
    """Build one share in this process; `made` is called after each film."""
    encoder = zoo.toy_encoder(world=config.world)
    parts = (zoo.load_codec(codec), encoder, zoo.fingerprint(codec))
    for _ in build_toybox(folder, config, *parts, share, made):
        pass


def _build_shares(
    folder: Path,
    config: StoreConfig,
    codec: str | Path,
    *,
    jobs: int,
    made: Callable[[int], None],
) -> None:
    """Build all shares, each in a process; `made` is called after each film."""
    workers = [_Worker(folder, config, codec, (share, jobs)) for share in range(jobs)]
    try:
        with selectors.DefaultSelector() as heard:
            for worker in workers:
                heard.register(worker.output, selectors.EVENT_READ, worker)
            while heard.get_map():
                for key, _ in heard.select():
                    films = key.data.films()
                    if films is None:
                        heard.unregister(key.fileobj)
                    for _ in range(films or 0):
                        made(0)
    finally:
        for worker in workers:
            worker.end()
    _demand(workers, folder)


def _demand(workers: list["_Worker"], folder: Path) -> None:
    """Raise what went wrong with a worker: the sentence of one that was refused, or that it
    died."""
    for worker in workers:
        if refused := [line for line in worker.said if line.startswith(REFUSED)]:
            raise CinelabError(refused[-1].removeprefix(REFUSED))
    if dead := [worker for worker in workers if worker.process.returncode]:
        last = dead[0].said[-1] if dead[0].said else "it printed nothing"
        raise Failed(
            f"{len(dead)} of {len(workers)} processes that build {folder} died (the first with "
            f"{dead[0].process.returncode}: {last}); finished shards stay, so run it again."
        )


class _Worker:
    """A process that builds one share of a store, and what it has printed."""

    def __init__(
        self, folder: Path, config: StoreConfig, codec: str | Path, share: tuple[int, int]
    ):
        task = {"folder": str(folder), "config": to_dict(config), "share": share}
        command = [sys.executable, "-m", __name__, to_json(task | {"codec": str(codec)})]
        self.said: deque[str] = deque(maxlen=SAID)
        self._rest = b""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | limited(1),
            start_new_session=True,  # so that Ctrl-C reaches this process alone
        )

    @property
    def output(self) -> IO[bytes]:
        """Return the pipe of what it prints."""
        assert self.process.stdout is not None
        return self.process.stdout

    def films(self) -> int | None:
        """Return how many films it has made since, by what there is to read; None at its end."""
        read = self.output.read1(2**16)  # type: ignore[attr-defined]  # a pipe is buffered
        if not read:
            return None
        *lines, self._rest = (self._rest + read).split(b"\n")
        texts = [line.decode(errors="replace") for line in lines]
        self.said += [text for text in texts if not text.isdigit()]
        return sum(text.isdigit() for text in texts)

    def end(self) -> None:
        """End it if it still works, and wait; what it has half written is removed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.output.close()


def main(words: list[str]) -> int:
    """Build the share that the words describe, and print a number after each film."""
    task: dict[str, Any] = json.loads(words[0])
    mine, of = task["share"]
    try:
        config = from_dict(StoreConfig, task["config"])
        folder = Path(task["folder"])
        _build_share(folder, config, task["codec"], share=(mine, of), made=_print_number)
    except CinelabError as error:
        print(f"{REFUSED}{error}", flush=True)
        return error.code
    return 0


def _print_number(number: int) -> None:
    print(number, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
