"""The memory of a running film: keys (unrotated) and values of finished units, per layer.

    B batch   n units so far   U tokens a unit   h heads   d head size   k kept units

Reading never copies the history: only the kept units are gathered, from wherever they are kept
(cinelab.memory.store). A snapshot shares storage with the memory it was taken from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import takewhile

import pandas as pd
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.context import repeat_to
from cinelab.memory.policy import BLOCK, Policy
from cinelab.memory.routing import choose, pool, relevance, searched_in_two_steps
from cinelab.memory.store import DeviceKVStore, KVStore, Storage
from cinelab.readable import Readable

LOST = -1e9  # the priority of an erased unit, below all others


@dataclass
class KVCache(Readable):
    """What the film remembers. A `Sight` for streaming: hand it to the model for the chunk being
    made.

    One chunk goes: `begin(...)`, any number of model calls (routing is decided at the first and
    kept for the others), then `record()`, one model call on the clean chunk, `commit()`. With
    `follow(...)` after `record()` that call shows the next chunk's first level too, [clean |
    noisy], and after `commit()` the next chunk is open.
    """

    policy: Policy
    chunk: int  # frames a chunk
    # frames; history farther back stands at this distance, for the model has seen no farther
    max_distance: int | None = None
    storage: Storage = Storage()
    shelves: dict[int, tuple[KVStore, KVStore]] = field(default_factory=dict)
    summaries: dict[int, "Summary"] = field(default_factory=dict)
    length: int = 0  # finished units
    # (B, n): the shot of every unit
    unit_shots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    unit_chunks: tuple[int, ...] = ()
    frames_done: int = 0
    decisions: tuple[dict, ...] = ()
    # chunks, the newest, whose decisions are kept; None = those of the whole film
    noted: int | None = None
    # shots that are erased: kept on the shelves, never seen (what would be without them?)
    without: tuple[int, ...] = ()

    def __post_init__(self):
        self._now: _Now | None = None
        # as it will be when the recorded chunk is kept, with the next one open
        self._next: KVCache | None = None

    @property
    def unit_frames(self) -> int:
        return 1 if self.policy.unit == "frame" else self.chunk

    def begin(self, chunk: int, shot: Tensor) -> None:
        """Open chunk number `chunk`; `shot` (B,) is the shot each film is in. Forgets the chunk
        before."""
        self._now = _Now(chunk, shot)

    def record(self) -> None:
        """The next model call shows the clean chunk: route afresh from its own queries and keep its
        keys."""
        self._now = replace(self._now, recording=True, gathered={}, written={}, rooms={})

    def follow(self, chunk: int, shot: Tensor, policy: Policy | None = None) -> None:
        """The recording call shows chunk number `chunk` as well, behind the clean one: it sees that
        one as kept already."""
        self._next = replace(self.snapshot(), policy=policy or self.policy)
        self._next._count(self._now)
        self._next.begin(chunk, shot)

    def commit(self) -> None:
        """Put the recorded chunk into the memory."""
        now = self._now
        if now is None or not now.written:
            raise CinelabError(
                "Memory.commit() before the clean chunk was shown; call record() and the model "
                "first."
            )
        if self._next is not None:
            return self._go_on(now)
        for index in now.written:
            self.shelves[index] = self._with(index)
        self._count(now)
        self._note(now)
        self._now = None

    def _go_on(self, now: "_Now") -> None:
        """The next chunk is open already: become the memory that it was opened in."""
        after = self._next
        opened = self._next._now
        for part in fields(self):
            setattr(self, part.name, getattr(after, part.name))
        self._note(now)
        self._now = opened
        self._next = None

    def _note(self, now: "_Now") -> None:
        """Keep what was decided for the finished chunk, and let go of what is older than `noted`
        chunks."""
        kept = self.decisions
        if self.noted is not None:
            kept = tuple(one for one in kept if one["chunk"] > now.chunk - self.noted)
        self.decisions = kept + tuple(now.decided)

    def _with(self, index: int) -> tuple[KVStore, KVStore]:
        """A layer's shelves with the recorded chunk."""
        old = self.shelves.get(index) or (self.storage.shelf(), self.storage.shelf())
        parts = (
            x.unflatten(1, (self.chunk // self.unit_frames, -1)) for x in self._now.written[index]
        )
        return tuple(
            shelf.append(part, self.length) for shelf, part in zip(old, parts, strict=True)
        )

    def _count(self, now: "_Now") -> None:
        units = self.chunk // self.unit_frames
        self.length += units
        self.frames_done += self.chunk
        self.unit_shots = torch.cat(
            [self.unit_shots.to(now.shot.device), now.shot[:, None].expand(-1, units)], dim=1
        )
        self.unit_chunks += (now.chunk,) * units

    @property
    def opened(self) -> bool:
        """Whether a chunk is open and being made."""
        return self._now is not None and not self._now.recording

    def decisions_of(self, chunk: int) -> list[dict]:
        """What every layer retrieved at the first level of a chunk, the open one or the newest that
        is finished.

        Reads the decisions from the end, so a long film costs no more than a short one.
        """
        found = (
            [] if self._now is None else [one for one in self._now.decided if one["chunk"] == chunk]
        )
        if not found:
            found = list(takewhile(lambda one: one["chunk"] == chunk, reversed(self.decisions)))[
                ::-1
            ]
        return [one for one in found if not one["clean"]]

    def snapshot(self) -> "KVCache":
        """An independent memory with the same content; costs nothing until one of the two writes
        on."""
        return replace(self, shelves=dict(self.shelves), summaries=dict(self.summaries))

    def layer(self, index: int, rope) -> Callable:
        look = self._look if self._next is None else self._look_twice
        # this chunk, even where a block is computed again going back, when others have come since
        now = self._now
        if now is None:
            raise CinelabError("Memory was asked outside a chunk; call begin() first.")
        return lambda q, k, v: look(now, index, rope, q, k, v)

    def _look_twice(self, now: "_Now", index: int, rope, *qkv: Tensor):
        """[clean | noisy]: the clean chunk looks back and is kept, then the noisy one looks back,
        at it too."""
        clean, noisy = zip(*(x.chunk(2, dim=1) for x in qkv), strict=True)
        first = self._look(now, index, rope, *clean)
        self._next.shelves[index] = self._with(index)
        second = self._next._look(self._next._now, index, rope, *noisy)
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(first[:3], second[:3], strict=True))
        tokens = first[0].shape[1]
        keys = first[1].shape[1]
        return (
            q,
            k,
            v,
            (
                ([slice(0, tokens)], [slice(0, keys)], None),
                ([slice(tokens, 2 * tokens)], [slice(keys, k.shape[1])], None),
            ),
        )

    def _look(self, now: "_Now", index: int, rope, q: Tensor, k: Tensor, v: Tensor):
        if now.recording:
            now.written[index] = (k.detach(), v.detach())
        if index not in now.gathered:
            now.gathered[index] = self._gather(index, rope, q)
        past_k, past_v, freqs = now.gathered[index]
        q, k = rope.rotate(q, freqs), rope.rotate(k, freqs)
        if past_k is not None:
            kept = past_k.shape[1]
            k, v = now.joined(index, 0, past_k, k), now.joined(index, 1, past_v, v)
            if not torch.is_grad_enabled() and k.shape[0] == past_k.shape[0]:
                # they are in the joined buffer now; once is enough
                now.gathered[index] = k[:, :kept], v[:, :kept], freqs
        return q, k, v, None

    def _gather(self, index: int, rope, q: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Rotated kept keys (B, k U, h, d), values, and the table of the running chunk."""
        if self.length == 0 or self.policy.budget_at(self.length) == 0:
            return None, None, self._own_table(rope, 0)
        picks = self._route(index, q)  # (B or 1, G, k)
        now = self._own_table(rope, picks.shape[-1])
        if self.policy.sees_all and not self.without:
            picked_k, picked_v = (
                shelf.all(self.length).flatten(1, 2) for shelf in self.shelves[index]
            )
        else:
            picked_k, picked_v = (shelf.take(picks, self.length) for shelf in self.shelves[index])
        return self._rotate(rope, picked_k, picks), picked_v, now

    def _route(self, index: int, q: Tensor) -> Tensor:
        now = self._now
        if now.priority is None:  # the same for every layer
            shots = self.unit_shots
            now.priority = self.policy.priority(shots, now.shot)
            if self.without:
                lost = torch.isin(shots, torch.tensor(self.without, device=shots.device))
                now.priority = now.priority.masked_fill(lost, LOST)
                now.most = self.length - int(lost[0].sum())
        priority = now.priority
        scores = None
        if self.policy.routed and self.policy.budget_at(self.length) < self.length:
            scores = self.scores(index, q)
        if scores is not None or now.chosen is None:
            picks = choose(self.policy, priority, scores, now.most)
            fixed = (
                priority.to(picks.device)[:, None].expand(-1, picks.shape[1], -1).gather(-1, picks)
                != 0
            )
            now.chosen = picks, fixed  # where nothing competes, every layer's choice is the same
        picks, fixed = now.chosen
        # Only what was chosen is noted: all scores of all chunks would grow with the square of the
        # film.
        noted = None if scores is None else scores.gather(-1, picks.to(scores.device))
        now.decided.append(
            {
                "chunk": now.chunk,
                "shot": now.shot,
                "layer": index,
                "clean": now.recording,
                "picks": picks,
                "scores": noted,
                "fixed": fixed,
            }
        )
        return picks

    def scores(self, index: int, q: Tensor) -> Tensor:
        """Relevance (B, G, n) of all finished units to the running chunk's queries."""
        now = self._now
        summary = self.searched(index)
        films = self.unit_shots.shape[0]
        # a guided call's halves route alike: by the prompt's own queries
        q = q[:films, None]
        place = (now.chunk, index)
        most = getattr(self.policy, "compared", None)
        pooled = self.shelves[index][0] if summary.tokens is None else summary.units
        # what is erased competes with nothing, nor speaks for its block: the others are compared
        # one by one
        if self.without:
            return relevance(
                self.policy, q, pooled.all(self.length), now.priority[:1] != LOST, place
            )[:, :, 0]
        if most is None or self.length <= most:
            return relevance(self.policy, q, pooled.all(self.length), None, place)[:, :, 0]

        def keys(units: Tensor) -> Tensor:
            return pooled.take(units[:, None], self.length).unflatten(1, (units.shape[1], -1))

        blocks = summary.blocks.all(summary.whole)
        return searched_in_two_steps(self.policy, q, keys, self.length, blocks, place)[:, :, 0]

    def searched(self, index: int) -> "Summary":
        """What relevance is read from, brought up to date: pooled keys are kept beside the
        units."""
        tokens = self.policy.summary
        old = self.summaries.get(index)
        old = old if old is not None and old.tokens == tokens else Summary(tokens)
        blocked = self.policy.candidates is not None
        self.summaries[index] = old.until(self.length, self.shelves[index][0], blocked)
        return self.summaries[index]

    def _own_table(self, rope, kept: int) -> Tensor:
        """Turns of the running chunk's own frames, the same for every layer and level."""
        if self._now.freqs is None:
            start = (
                kept * self.unit_frames if self.policy.positions == "packed" else self.frames_done
            )
            self._now.freqs = rope.freqs(start + torch.arange(self.chunk))
        return self._now.freqs

    def _rotate(self, rope, keys: Tensor, picks: Tensor) -> Tensor:
        """Give kept keys their places: side by side, or where they were."""
        size = self.unit_frames
        if self.policy.positions == "packed":
            return rope.rotate(keys, rope.freqs(torch.arange(picks.shape[-1] * size)))
        # (B, G, k size)
        frames = (picks[..., None] * size + torch.arange(size, device=picks.device)).flatten(-2)
        if self.max_distance is not None:
            frames = frames.clamp(min=self.frames_done - self.max_distance)
        return rope.rotate_retrieved(keys, frames, self.frames_done)

    def seen_bytes(self) -> int:
        """Bytes of keys and values that the next chunk would attend to, all layers and films."""
        kept = self.policy.budget_at(self.length)
        return sum(kept * shelf.unit_bytes() for pair in self.shelves.values() for shelf in pair)

    def routing_table(self, film: int = 0) -> pd.DataFrame:
        """Who looked at whom: chunk, shot, layer, head (-1 = all), kept_chunk, kept_shot, score,
        kind."""
        rows = [
            row
            for decision in self.decisions
            if not decision["clean"]
            for row in self._rows(decision, film)
        ]
        columns = ["chunk", "shot", "layer", "head", "kept_chunk", "kept_shot", "score", "kind"]
        return pd.DataFrame(rows, columns=columns)

    def _rows(self, decision: dict, film: int) -> list[tuple]:
        picks, scores, fixed = (
            None if part is None else part[min(film, part.shape[0] - 1)].tolist()
            # (G, k) each
            for part in (decision["picks"], decision["scores"], decision["fixed"])
        )
        rows = []
        for head, chosen in enumerate(picks):
            for place, unit in enumerate(chosen):
                score = float("nan") if scores is None else scores[head][place]
                kind = self._kind(unit, decision["chunk"]) if fixed[head][place] else "routed"
                rows.append(
                    (
                        decision["chunk"],
                        int(decision["shot"][film]),
                        decision["layer"],
                        head if len(picks) > 1 else -1,
                        self.unit_chunks[unit],
                        int(self.unit_shots[film, unit]),
                        score,
                        kind,
                    )
                )
        return rows

    def _kind(self, unit: int, chunk: int) -> str:
        window = getattr(self.policy, "window", 0) * self.unit_frames
        return (
            "window"
            if (chunk - self.unit_chunks[unit]) * self.chunk <= max(window, self.chunk)
            else "sink"
        )


@dataclass(frozen=True)
class Summary:
    """What the search of one layer reads: pooled keys of the first `done` units, and the mean key
    of every BLOCK of them.

    Forks share what they have in common, as shelves do.
    """

    tokens: int | None  # of a unit; None = the stored keys themselves are searched
    units: DeviceKVStore = field(default_factory=DeviceKVStore)
    done: int = 0
    blocks: DeviceKVStore = field(default_factory=DeviceKVStore)
    whole: int = 0  # finished blocks

    def until(self, length: int, keys: KVStore, blocked: bool) -> "Summary":
        """With all units up to `length`: one a chunk as they come, all of them where the policy has
        just changed."""
        units = self.units
        blocks = self.blocks
        for unit in range(self.done if self.tokens is not None else length, length):
            units = units.append(pool(_units(keys, unit, 1, length), self.tokens), unit)
        whole = length // BLOCK if blocked else self.whole
        for block in range(self.whole, whole):
            first = block * BLOCK
            part = (
                _units(keys, first, BLOCK, length)
                if self.tokens is None
                else units.all(length)[:, first : first + BLOCK]
            )
            blocks = blocks.append(part.float().mean((1, 2))[:, None, None], block)
        return Summary(self.tokens, units, length, blocks, whole)


def _units(keys: KVStore, first: int, count: int, length: int) -> Tensor:
    """Keys (B, count, U, h, d) of units `first`, first + 1, ..."""
    return keys.take(torch.arange(first, first + count)[None, None], length).unflatten(
        1, (count, -1)
    )


@dataclass
class _Now(Readable):
    """The chunk being made."""

    chunk: int
    shot: Tensor  # (B,)
    priority: Tensor | None = None  # (B, n)
    most: int | None = None  # units that are not erased
    # the last choice: units (B, G, k), and which of them are fixed
    chosen: tuple[Tensor, Tensor] | None = None
    freqs: Tensor | None = None  # turns of its own frames
    recording: bool = False
    gathered: dict = field(default_factory=dict)
    written: dict = field(default_factory=dict)
    decided: list = field(default_factory=list)
    rooms: dict = field(default_factory=dict)

    def joined(self, index: int, part: int, past: Tensor, own: Tensor) -> Tensor:
        """Kept keys or values (B, k U, h, d) with the chunk's own (B', T, h, d) behind them. They
        are laid into one buffer once a chunk; each level only writes its own part. With gradients
        nothing is written in place."""
        if torch.is_grad_enabled():
            return torch.cat([repeat_to(past, own.shape[0]), own], dim=1)
        place = (index, part, own.shape[0], own.dtype)
        if place not in self.rooms:
            self.rooms[place] = torch.cat([repeat_to(past, own.shape[0]).to(own.dtype), own], dim=1)
        else:
            self.rooms[place][:, past.shape[1] :] = own
        return self.rooms[place]
