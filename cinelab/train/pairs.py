"""ODE pairs on disk: where the teacher's probability-flow ODE takes noise, stored at a few levels.

    B clips   F frames   K stored levels   states (B, K, F, C, H, W)   end (B, F, C, H, W)

    autoregressive   every chunk follows its own ODE given the clean ground-truth chunks before it
                     (Causal Forcing, stage 2a); the keys and values of the clean half are computed
                     once a clip
    bidirectional    the whole clip follows one ODE, every frame driven by all others (CausVid, Self
                     Forcing)
    bidirectional_true_past
                     every chunk follows an ODE of its own together with all later frames, given the
                     clean ground-truth frames before it (ours, a control: see `train.true_past`)

A shard is one training batch. Its clips are drawn anew from the film store, so that only the
trajectories are stored.
"""

import hashlib
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelab.checksums import read_arrays, read_sealed, write_arrays, write_sealed
from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.sampler import Sampling
from cinelab.flow.solvers import check_solver, trajectory
from cinelab.latent.placed import placed
from cinelab.latent.store import Clips, Store, compared_with
from cinelab.limits import check_levels
from cinelab.memory.context import FULL_HISTORY, BidirectionalContext, HistoryPolicy
from cinelab.ops.attention import AttentionContext
from cinelab.outputs import AT_ONCE, writing
from cinelab.readable import Readable
from cinelab.seeds import rng_at
from cinelab.train.provenance import data_of
from cinelab.train.shown import numbers_of
from cinelab.train.true_past import TRUE_PAST, counted_chunks, true_past_states

AGAIN = "remove it and build the pairs again, the others stay"
TEACHERS = ("autoregressive", "bidirectional")
KINDS = (*TEACHERS, TRUE_PAST)  # whose pairs may be integrated
GIVEN_TRUTH = ("autoregressive", TRUE_PAST)  # those that are given the clip's own past


@dataclass(frozen=True)
class PairsConfig(Readable):
    """What is integrated and what is stored. `levels` are on the path before the shift."""

    teacher: str = "autoregressive"
    levels: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    steps: int = 12
    solver: str = "ab2"
    guidance: float = 2.0  # w of u + w (c - u)
    # the prompt of u: a text, or "published" (Wan's negative prompt; the papers')
    unconditional: str = ""
    shift: float = 2.0
    clips: int = 192
    frames: int = 24  # latent frames a clip
    chunk: int = 1  # latent frames a chunk
    # chunks of a clip that are regressed on, drawn at random for each shard; 0 = all of them
    counted: int = 0
    batch: int = 8  # clips a shard
    seed: int = 0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.teacher not in KINDS:
            raise CinelabError(f"teacher is {self.teacher!r}; use one of {', '.join(KINDS)}.")
        check_levels(self.levels, "levels")
        check_solver(self.solver, states=True)
        for level in self.levels:
            if abs(level * self.steps - round(level * self.steps)) > 1e-6:
                raise CinelabError(
                    f"levels has {level}, which is no place among {self.steps} even steps; "
                    "change steps or the level."
                )
        if self.frames % self.chunk:
            raise CinelabError(
                f"frames is {self.frames}, which chunk={self.chunk} does not divide."
            )
        if not 0 <= self.counted <= self.chunks:
            raise CinelabError(
                f"counted is {self.counted}, but a clip has {self.chunks} chunks; give at most "
                "that, or 0 for all."
            )
        if self.counted and self.teacher == "bidirectional":
            raise CinelabError(
                f"counted is {self.counted} with pairs of the bidirectional teacher, whose clips "
                "follow one ODE; use 0."
            )

    @property
    def chunks(self) -> int:
        """Chunks of a clip."""
        return self.frames // self.chunk

    @property
    def sampling(self) -> Sampling:
        """How the teacher's ODE is integrated."""
        return Sampling(self.steps, self.solver, self.guidance, self.shift)

    @property
    def shards(self) -> int:
        """How many shards the clips fill; the last one is a whole batch too."""
        return -(-self.clips // self.batch)

    def times(self) -> Tensor:
        """Return the timesteps (K,) of the stored states, after the shift."""
        return path.shifted(torch.tensor(self.levels, dtype=torch.float64), self.shift)


def counted_frames(config: PairsConfig, shard: int) -> Tensor | None:
    """Return which frames (F,) of a shard's clips are regressed on; None where all are."""
    if not config.counted:
        return None
    numbers = counted_chunks(config.chunks, config.counted, config.seed, shard)
    chunks = torch.zeros(config.chunks, dtype=torch.bool)
    chunks[numbers] = True
    return chunks.repeat_interleave(config.chunk)


def clips_of(config: PairsConfig, store: Store, shard: int) -> Clips:
    """Return the clips of a shard, always the same."""
    clips = store.clips(config.batch, config.frames, rng_at(config.seed, "pairs", shard))
    return compared_with(clips, store, config.unconditional)


def teacher_velocity(
    net: Any,
    clips: Clips,
    teacher: str,
    guidance: float,
    chunk: int,
    history: HistoryPolicy = FULL_HISTORY,
) -> Callable[[Tensor, float | Tensor], Tensor]:
    """Return the teacher's guided velocity v(x, t) for these clips: x (B, F, C, H, W), t a number
    or (B, F).

    An autoregressive teacher is given the clips' own latents as its past, under `history`.
    Gradients are the caller's choice.
    """
    condition = clips.condition.encoded(net)
    frames = clips.slot.shape[1]
    context: AttentionContext = BidirectionalContext(torch.arange(frames))
    if teacher == "autoregressive":
        known = history.known(numbers_of(clips, history.policy), chunk)
        known.encode(net, clips.latents, condition)
        context = known
    both = condition if guidance == 1 else condition.guided()

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(clips.slot.shape)
        if guidance == 1:
            v: Tensor = net(x, t, condition, context).float()
            return v
        v = net(x.repeat(2, 1, 1, 1, 1), t.repeat(2, 1), both, context).float()
        with_prompt, without = v.chunk(2)
        return path.guided(with_prompt, without, guidance)

    return velocity


@torch.no_grad()
def trajectories(
    net: Any, clips: Clips, config: PairsConfig, noise: Tensor, *, shard: int = 0
) -> tuple[Tensor, Tensor]:
    """Return states at the stored levels (B, K, F, C, H, W) and end points (B, F, C, H, W) from
    `noise` (B, F, C, H, W). `shard` is the number of the shard, which decides what counts."""
    with torch.autocast(noise.device.type, torch.bfloat16, enabled=config.bf16):
        velocity = teacher_velocity(net, clips, config.teacher, config.guidance, config.chunk)
        levels = config.sampling.levels()
        if config.teacher == TRUE_PAST:
            chunks = counted_chunks(config.chunks, config.counted, config.seed, shard)
            truth = clips.latents.to(noise.dtype)
            states = true_past_states(
                velocity,
                truth,
                noise,
                levels=levels,
                solver=config.solver,
                chunks=chunks,
                chunk=config.chunk,
            )
        else:
            states = [state for state, _ in trajectory(velocity, noise, levels, config.solver)]
    # before the shift the steps are even, so a level's state is found by its share of the steps
    stored = [states[round((1 - level) * config.steps)] for level in config.levels]
    return torch.stack(stored, dim=1), states[-1]


def integrate_pairs(
    folder: str | Path, config: PairsConfig, net: Any, teacher: str, store: Store
) -> Iterator[int]:
    """Integrate the missing shards; yields the clips done. Resumable, and alone in the folder.
    `teacher` is the fingerprint of `net`."""
    with writing(folder, AT_ONCE, again=True):
        yield from _build(Path(folder), config, net, teacher, store)


def _build(
    folder: Path, config: PairsConfig, net: Any, teacher: str, store: Store
) -> Iterator[int]:
    claim(folder, config, teacher, store)
    for shard in range(config.shards):
        place = folder / f"{shard:05d}.npz"
        if place.exists():
            continue
        began = perf_counter()
        clips = clips_of(config, store, shard)
        # drawn on the CPU, so that the pairs are the same wherever they are integrated
        rng = rng_at(config.seed, "pairs noise", shard)
        noise = torch.randn(clips.latents.shape, generator=rng).to(clips.latents.device)
        states, end = trajectories(net, clips, config, noise, shard=shard)
        arrays = {
            "states": states.half().cpu().numpy(),
            "end": end.half().cpu().numpy(),
            "seconds": np.array(perf_counter() - began),
        }
        write_arrays(place, arrays)
        yield (shard + 1) * config.batch


def claim(folder: Path, config: PairsConfig, teacher: str, store: Store) -> None:
    """Write down whose pairs a folder holds: they belong to one teacher, one recipe and one film
    store. CinelabError names what is another one's."""
    place = Path(folder) / "pairs.json"
    data = data_of(store)
    mine = asdict(config) | {
        "levels": list(config.levels),
        "fingerprint": teacher,
        "films": store.recipe,
    }
    mine |= {"data": data["mark"]} if data else {}
    # what older pairs do not say: they compared with the empty prompt, and every chunk counts
    before = {"unconditional": "", "counted": 0, "data": mine.get("data")}
    if place.exists() and (old := before | read_sealed(place, AGAIN)) != {"data": None} | mine:
        key = next(k for k in mine if mine[k] != old.get(k))
        what = {"fingerprint": "another teacher", "data": "films of another content"}.get(
            key, f"{key}={old.get(key)!r}"
        )
        raise CinelabError(
            f"The ODE pairs in {folder} are of {what}, not of {mine[key]!r}; name another folder, "
            "or remove this one to integrate them again."
        )
    write_sealed(place, mine)


class Pairs:
    """The shards of a folder, one training batch each. All must be there."""

    def __init__(self, folder: str | Path, config: PairsConfig, teacher: str, store: Store):
        self.folder = Path(folder)
        self.config = config
        self.store = store
        claim(self.folder, config, teacher, store)
        missing = [n for n in range(config.shards) if not self._place(n).exists()]
        if missing:
            raise CinelabError(
                f"The ODE pairs in {folder} are cut short: {len(missing)} of {config.shards} "
                "shards are "
                f"missing (first: {self._place(missing[0]).name}); build them again, what is "
                "there is kept."
            )

    def placed(self, device: torch.device | str) -> "Pairs":
        """Return the same pairs, given out on a device."""
        there = copy(self)
        there.store = placed(self.store, device)
        return there

    def about(self) -> dict:
        """Return where the pairs lie, and a mark of them and of the films that they were made from
        (see `train.provenance`)."""
        digest = hashlib.blake2b((self.folder / "pairs.json").read_bytes(), digest_size=8)
        for shard in range(self.config.shards):
            for array in self._read(shard, "states", "end"):
                digest.update(np.ascontiguousarray(array).data)
        return {
            "path": str(self.folder.resolve()),
            "mark": digest.hexdigest(),
            "films_of": data_of(self.store),
        }

    def _place(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.npz"

    @property
    def bytes(self) -> int:
        """The bytes that the pairs take on disk."""
        return sum(self._place(n).stat().st_size for n in range(self.config.shards))

    @property
    def seconds(self) -> float:
        """The seconds that integrating them took."""
        return round(float(sum(self._read(n, "seconds")[0] for n in range(self.config.shards))), 1)

    def batch(self, rng: torch.Generator) -> tuple[Clips, Tensor, Tensor]:
        """Return clips, states and end points of a random shard."""
        return self.shard(self.draw(rng))

    def draw(self, rng: torch.Generator) -> int:
        """Return the number of a random shard."""
        return int(torch.randint(self.config.shards, (), generator=rng))

    def shard(self, shard: int) -> tuple[Clips, Tensor, Tensor]:
        """Return clips, states and end points of one shard."""
        clips = clips_of(self.config, self.store, shard)
        states, end = (
            torch.from_numpy(array).float().to(clips.latents.device)
            for array in self._read(shard, "states", "end")
        )
        return clips, states, end

    def _read(self, shard: int, *names: str) -> list[np.ndarray]:
        return read_arrays(self._place(shard), names, AGAIN)
