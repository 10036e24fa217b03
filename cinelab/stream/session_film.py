"""The film of a session: a tree of chunks, their files, and the states that the next chunks go on
from. What directs it is `cinelab.stream.session.Session`."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.stream.batch import policy_for
from cinelab.stream.chunk_file import decisions_in, read_chunk
from cinelab.stream.commands import DeskState
from cinelab.stream.generator import ChunkGenerator, ChunkRequest, FilmState
from cinelab.stream.session_entries import Node
from cinelab.stream.state_cache import StateCache


@dataclass
class SessionFilm(Readable):
    """Every chunk of a session, as `nodes`; the film on the desk is the path to the head."""

    folder: Path
    generator: ChunkGenerator
    desk: DeskState = field(default_factory=DeskState)
    nodes: dict[int, Node] = field(default_factory=dict)
    checksums: dict[int, str] = field(default_factory=dict)  # of the chunks' files
    _states: StateCache = field(init=False)

    def __post_init__(self):
        self._states = StateCache(self.generator.park)

    def path(self, head: int | None = None) -> list[int]:
        """Return the chunks from the film's first to `head` (default: the head)."""
        number = self.desk.head if head is None else head
        found = []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]

    def shot_nodes(self, number: int) -> list[int]:
        """Return the chunks of the shot that `number` lies in, up to it."""
        shot = self.nodes[number].shot
        return [n for n in self.path(number) if self.nodes[n].shot == shot]

    def latents(self, number: int) -> Tensor:
        """Return the latents (1, c, C, h, w) of a finished chunk."""
        latents = self._chunk(number)["latents"]
        bundle = self.generator.bundle
        expected = (1, bundle.chunk, *bundle.latent_shape)
        if tuple(latents.shape) != expected:
            raise CinelabError(
                f"{self._file(number)} holds latents {tuple(latents.shape)}, a chunk of "
                f"{bundle.name} has {expected}; restore it, or branch from a chunk before it."
            )
        return latents

    def routing(self, head: int | None = None) -> pd.DataFrame:
        """Return which history every chunk up to `head` retrieved (see `KVCache.routing_table`), as
        it was recorded when the chunk was made."""
        path = self.path(head)
        recorded = [
            decisions_in(self._chunk(number), self.nodes[number].index, self.nodes[number].shot)
            for number in path
        ]
        if len(path) > 1 and not any(recorded):
            raise CinelabError(
                f"{self.folder} was made before sessions recorded what is retrieved; replay its "
                "log in a new folder."
            )
        cache = self.state(path[-1] if path else None).cache
        return replace(
            cache, decisions=tuple(one for part in recorded for one in part)
        ).routing_table()

    def _chunk(self, number: int) -> dict:
        return read_chunk(self._file(number), self.checksums.get(number))

    def state(self, number: int | None) -> FilmState:
        """Return the state after a chunk. One that is not in memory is computed again from the
        nearest that is."""
        if number is None:
            return self.generator.begin()
        missing = self.missing(number)
        place = self.nodes[missing[0]].parent if missing else number
        state = self.generator.begin() if place is None else self._states[place]
        for one in missing:
            state = self.generator.restore(state, self.request(self.nodes[one]), self.latents(one))
        self._states.put(number, state)
        return state

    def missing(self, number: int | None) -> list[int]:
        """Return the chunks up to `number` that must be recalled before its state is in memory, in
        the order of the film."""
        found = []
        while number is not None and number not in self._states:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]

    def frames(self, head: int | None = None) -> np.ndarray:
        """Return frames uint8 (F, H, W, 3) of the film up to `head`, decoded from its latents."""
        state = self.generator.begin()
        parts = []
        for number in self.path(head):
            state, frames = self.generator.decode(state, self.latents(number))
            parts.append(frames[0])
        if not parts:
            raise CinelabError("The film has no frames yet; play first.")
        return np.concatenate(parts)

    def _file(self, number: int) -> Path:
        return self.folder / "chunks" / f"{number:05d}.safetensors"

    def request(self, node: Node) -> ChunkRequest:
        """Return what is requested of the generator for a chunk."""
        settings = node.settings
        return ChunkRequest(
            node.model_prompt,
            node.shot,
            node.cut,
            settings.seed,
            policy_for(self.generator.bundle, settings.policy, settings.budget),
            self.generator.bundle.levels(settings.steps),
            node.recache,
        )
