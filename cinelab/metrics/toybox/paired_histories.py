"""Paired histories: two films that are alike in all that the window and the prompts show, and
differ in one fact far back. Does each return follow its own history?

    history A   opening | A with a hat   | k shots without A | A again: a hat?
    history B   opening | A with a crown | k shots without A | A again: a crown?
                          one fact differs   the same frames    the same prompt, the same noise

A return that shows its own history's fact counts 1, the other history's 0, anything else 1/2.
Whatever ignores the history makes the same return twice and has exactly 1/2, however well it
guesses: a model that draws every character with a hat, one that freezes, one that copies its
window. "The Past Frames the Future" (arXiv:2609.28466) asks for such pairs, and for what else is
measured here: the evidence has left the window, it was shown and its bearer left, and memory fails
where it is erased at the same budget. How a pair is drawn, and that as many other pages are erased
for comparison, are ours.

    P pairs, made as 2 P films: A, B, A, B, ...
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from cinelab.latent.codec import to_uint8
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy
from cinelab.metrics.registered import listed
from cinelab.metrics.rows import WHOLE, Row, clip_of
from cinelab.metrics.toybox.attributes import BACKEND, Batch, encode_plans, informed
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.toybox.retrieval import choices, history
from cinelab.readable import Readable
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.stream.batch import empty_cache, inference_mode, policy_for, stream, threads_for
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import World, world_of
from cinelab.zoo.bundle import Bundle

PAIRS = "paired histories"
GAP = "information gap"
PRECONDITION = "precondition"
OTHER = "other "  # before an attribute, in a shot list: what the other history shows
PROTOCOL = "protocol"  # in a shot list: which test its film is of
ERASED = "erased"  # the evidence; the protocol of a return without it
OTHERS = "others erased"  # as many pages without it


@dataclass(frozen=True)
class Fact:
    """What no prompt names: the attribute that differs, its value in one history and in the
    other."""

    name: str
    own: str
    other: str

    def followed(self, shown: dict[str, str]) -> float:
        """Return how far a shot that shows these attributes follows its own history: 1, 0 or
        1/2."""
        return {self.own: 1.0, self.other: 0.0}.get(shown[self.name], 0.5)


@dataclass(frozen=True)
class Paired(Readable):
    """P pairs of films as one batch of 2 P, with the fact that tells each from its partner."""

    batch: Batch
    facts: tuple[Fact, ...]  # (2 P)


def paired_plans(plan: FilmPlan, number: int) -> tuple[list[FilmPlan], list[Fact]]:
    """Return an absence test and its partner, in which the returning character has another look all
    along, and the fact of each.

    Which attribute differs, and how, is addressed by the pair's number.
    """
    world = world_of(plan)
    names = [name for name in world.identity if len(world.unprompted[name]) > 1]
    name = names[number % len(names)]
    values = world.unprompted[name]
    own = plan.shots[-1].attributes[name]
    step = 1 + number // len(names) % (len(values) - 1)
    other = values[(values.index(own) + step) % len(values)]
    who = plan.shots[-1].character
    shots = tuple(
        replace(shot, attributes=shot.attributes | {name: other}) if shot.character == who else shot
        for shot in plan.shots
    )
    return [plan, replace(plan, shots=shots)], [Fact(name, own, other), Fact(name, other, own)]


def paired_batch(
    bundle: Bundle, seed: int, pairs: range, *, away: int, shot_latents: int = 3
) -> Paired:
    """Return the pairs of these numbers after `away` shots without the character."""
    plans: list[FilmPlan] = []
    facts: list[Fact] = []
    for number in pairs:
        plan = bundle.world.absence(seed, number, away, shot_latents=shot_latents)
        both, found = paired_plans(plan, number)
        plans += both
        facts += found
    return Paired(encode_plans(bundle, plans), tuple(facts))


def evidence(plan: FilmPlan) -> list[int]:
    """Return the shots before the last (from 0) that show its character."""
    *before, last = plan.shots
    return [shot for shot, entry in enumerate(before) if entry.character == last.character]


def paired_rows(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    *,
    paired: Paired,
    seeds: Sequence[int],
    protocol: str,
) -> list[Row]:
    """Rows of P pairs, each pair on the noise of its seed (P): whether returns follow their own
    history; the same with the evidence erased, and with as many other shots erased; whether the
    evidence had left the window, and was shown; all of the true films too."""
    batch = paired.batch
    noise = [seed for seed in seeds for _ in range(2)]
    shown = evidence(batch.plans[0])
    others = [shot for shot in range(len(batch.plans[0].shots) - 1) if shot not in shown]
    changes = {"": (), ERASED: tuple(shown), OTHERS: tuple(others[: len(shown)])}
    cache = cache_of_histories(bundle, batch, policy, noise)
    before, true, state = _decoded_truth(bundle, batch)
    rows = follow_rows(_last_shots(reader, true), paired.facts, protocol, "truth")
    for change, erased in changes.items():
        after, latents = made_again(bundle, batch, cache, seeds=noise, erased=erased)
        with inference_mode(False, latents.device, threads_for(bundle)):
            frames = to_uint8(bundle.codec.decode(latents, state)[0])
        rows += follow_rows(
            _last_shots(reader, frames), paired.facts, f"{protocol} {change}".strip()
        )
        if not change:
            rows += gap_rows(after, batch, protocol)
    return [*rows, *_precondition_rows(reader, before, paired, protocol), *chance_of(rows)]


def cache_of_histories(
    bundle: Bundle, batch: Batch, policy: Policy, seeds: Sequence[int]
) -> KVCache:
    """Return the KV cache of the films' true frames up to their last shots."""
    cache = empty_cache(bundle, policy_for(bundle, informed(policy, batch.plans)))
    given = batch.latents[:, : batch.last_shot * bundle.chunk]
    made = stream(bundle, batch.timelines, cache, seeds, given=given, bf16=True, decode=False)
    for _ in islice(made, batch.last_shot):
        pass
    return cache


def made_again(
    bundle: Bundle,
    batch: Batch,
    cache: KVCache,
    *,
    seeds: Sequence[int],
    erased: tuple[int, ...] = (),
) -> tuple[KVCache, torch.Tensor]:
    """Return the cache after the last shots, and their latents (B, F, C, h, w), made from a copy of
    the cache from which no page of the `erased` shots is retrieved."""
    again = replace(cache.snapshot(), erased=erased)
    made = stream(bundle, batch.timelines, again, seeds, bf16=True, decode=False)
    return again, torch.cat([timed.latents.float() for timed in made], dim=1)


def _decoded_truth(bundle: Bundle, batch: Batch) -> tuple[np.ndarray, np.ndarray, object]:
    """Return the true frames before and in the last shots, uint8 (B, F, H, W, 3), and the codec's
    state between the two."""
    known = batch.last_shot * bundle.chunk
    with inference_mode(False, batch.latents.device, threads_for(bundle)):
        before, state = bundle.codec.decode(batch.latents[:, :known])
        after, _ = bundle.codec.decode(batch.latents[:, known:], state)
    return to_uint8(before), to_uint8(after), state


def _last_shots(reader: Recogniser, frames: np.ndarray) -> list[dict[str, str]]:
    """Return what each film's last shot, frames uint8 (B, F, H, W, 3), shows."""
    return reader.names(np.concatenate([windows(film, [(0, len(film))]) for film in frames]))


def follow_rows(
    shown: Sequence[dict[str, str]], facts: Sequence[Fact], protocol: str, source: str = "model"
) -> list[Row]:
    """Rows of what the returns (2 P) show; the clip is the pair's number."""
    return [
        _row(film // 2, PAIRS, fact.followed(seen), protocol=protocol, source=source)
        for film, (seen, fact) in enumerate(zip(shown, facts, strict=True))
    ]


def chance_of(rows: Sequence[Row]) -> list[Row]:
    """Rows of chance beside each made return: exactly 1/2."""
    made = (row for row in rows if row.metric == PAIRS and row.source == "model")
    return [replace(row, source="chance", value=0.5) for row in made]


def gap_rows(cache: KVCache, batch: Batch, protocol: str) -> list[Row]:
    """Rows of 1 where no layer attends to a page of the evidence by the policy's rule alone (its
    window, its sinks) when the return begins: then only retrieval can bring it back."""
    rows = []
    for film, plan in enumerate(batch.plans):
        shots = history(cache, batch.last_shot, film)
        held = torch.isin(shots, torch.tensor(evidence(plan)))
        picked = choices(cache, batch.last_shot, film)
        fixed = [held[picks[sure]].any() for _, picks, sure in picked]
        rows.append(_row(film // 2, GAP, float(not any(fixed)), protocol=protocol))
    return rows


def _precondition_rows(
    reader: Recogniser, before: np.ndarray, paired: Paired, protocol: str
) -> Iterator[Row]:
    """Rows of `shown_and_gone`, read from the true frames before the last shots."""
    plans = paired.batch.plans
    spans = [world_of(plan).timeline(plan).entry_spans[:-1] for plan in plans]
    every = [windows(film, where) for film, where in zip(before, spans, strict=True)]
    names = reader.names(np.concatenate(every))
    ends = np.cumsum([0, *map(len, spans)])
    for film, (plan, fact) in enumerate(zip(plans, paired.facts, strict=True)):
        seen = names[ends[film] : ends[film + 1]]
        who = {name: plan.shots[-1].attributes[name] for name in world_of(plan).who}
        value = shown_and_gone(seen, evidence(plan), fact, who)
        yield _row(film // 2, PRECONDITION, value, protocol=protocol)


def listed_fact(plan: FilmPlan, fact: Fact, protocol: str) -> ShotList:
    """Return the film's shot list; the last shot names its protocol and what the other history
    shows, so that whoever has the film's frames alone can measure it."""
    shots = listed(plan)
    *before, last = shots.shots
    more = {OTHER + fact.name: fact.other, PROTOCOL: protocol}
    return replace(shots, shots=(*before, replace(last, shows=last.shows | more)))


def pair_clip_rows(
    name: str,
    shots: Sequence[ListedShot],
    seen: Sequence[dict[str, str]],
    *,
    world: World,
) -> Iterator[Row]:
    """Rows of one video of a pair from its shot list (see `listed_fact`) and what is seen in each
    shot; none of any other video. The clip is the pair, the video's name without its last part."""
    last = shots[-1]
    facts = [
        Fact(key.removeprefix(OTHER), last.shows[key.removeprefix(OTHER)], other)
        for key, other in last.shows.items()
        if key.startswith(OTHER)
    ]
    for fact in facts:
        protocol = last.shows.get(PROTOCOL, "")
        bearing = [
            number
            for number, shot in enumerate(shots[:-1])
            if set(shot.characters) & set(last.characters)
        ]
        pair = name.rpartition("-")[0] or name
        found = fact.followed(seen[-1])
        who = {name: last.shows[name] for name in world.who}
        shown = shown_and_gone(seen[:-1], bearing, fact, who)
        yield Row(pair, len(shots), PAIRS, found, backend=BACKEND, protocol=protocol)
        yield Row(pair, WHOLE, PRECONDITION, shown, backend=BACKEND, protocol=protocol)
        yield Row(pair, len(shots), PAIRS, 0.5, backend=BACKEND, protocol=protocol, source="chance")


def shown_and_gone(
    seen: Sequence[dict[str, str]], bearing: Sequence[int], fact: Fact, who: Mapping[str, str]
) -> float:
    """Return 1 where a history (what is seen in each shot) shows the fact in the shots `bearing`
    it, and somebody else than `who` (the attributes by which a prompt means its bearer) in all
    others; else 0."""
    shown = all(seen[shot][fact.name] == fact.own for shot in bearing)
    others = [one for shot, one in enumerate(seen) if shot not in bearing]
    gone = all(any(one[name] != value for name, value in who.items()) for one in others)
    return float(shown and gone)


def _row(pair: int, metric: str, value: float, *, protocol: str, source: str = "model") -> Row:
    """A row of a pair."""
    clip = clip_of(pair)
    return Row(clip, WHOLE, metric, value, backend=BACKEND, protocol=protocol, source=source)
