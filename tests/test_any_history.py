"""What a chunk attends to, under any policy, storage and history of branches, equals the plain way:
unrotated keys, gathered by the pages retrieved, rotated where they are attended to."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelab.errors import CinelabError
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import (
    BLOCK,
    CAMR,
    Full,
    Oracle,
    RandomTopK,
    ShotSink,
    Sink,
    Window,
)
from cinelab.memory.routing import choose, pool, relevance, searched_in_two_steps
from cinelab.memory.store import Storage
from cinelab.ops.rope import Rope
from cinelab.seeds import rng_at

HEADS, SIZE, GRID = 2, 12, (1, 3)
TOKENS = GRID[0] * GRID[1]  # of a latent frame
LAYERS = 2
FRAMES = 2  # of a chunk
ROPE = Rope(SIZE, *GRID)


@st.composite
def policies(draw, unit):
    """A built-in policy of pages of a unit, small enough to leave pages out."""
    few = st.integers(0, 3)
    common = {"unit": unit, "positions": draw(st.sampled_from(["absolute", "packed"]))}
    kind = draw(st.sampled_from([Full, Window, Sink, ShotSink, Oracle, RandomTopK] + [CAMR] * 5))
    if kind is Full:
        return Full(**common)
    if kind is Window:
        return Window(window=draw(few), **common)
    if kind is Sink:
        return Sink(sink=draw(few), window=draw(few), **common)
    if kind is ShotSink:
        return ShotSink(sink=draw(few), shot_sink=draw(few), window=draw(few), **common)
    if kind is Oracle:
        return Oracle(budget=3, window=1, shots=(0,), **common)
    common |= {"sink": draw(st.integers(0, 1)), "window": draw(st.integers(0, 1))}
    common |= {"budget": draw(st.integers(2, 5)), "reuse_choice": draw(st.booleans())}
    if kind is RandomTopK:
        return RandomTopK(seed=3, **common)
    return CAMR(
        score=draw(st.sampled_from(["mass", "mean"])),
        per_head=draw(st.booleans()),
        summary=draw(st.sampled_from([None, 1, 3])),
        candidates=draw(st.sampled_from([None, 2 * BLOCK])),
        routed_layers=draw(st.sampled_from([None, None, (), (1,)])),
        **common,
    )


@dataclass
class Branch:
    """A film in the making, and its unrotated history as plain lists: [layer] -> (B, F N, h, d)."""

    cache: KVCache
    keys: list = field(default_factory=lambda: [[] for _ in range(LAYERS)])
    values: list = field(default_factory=lambda: [[] for _ in range(LAYERS)])
    shots: list = field(default_factory=list)  # (B,) of every page
    chunk: int = 0
    plays: list = field(default_factory=list)  # of all branches: each draws numbers of its own

    def fork(self):
        keys, values = ([list(one) for one in parts] for parts in (self.keys, self.values))
        return Branch(self.cache.snapshot(), keys, values, list(self.shots), self.chunk, self.plays)


def draw_qkv(films, *place):
    """Queries, keys and values (B, T, h, d) of a place in a play."""
    shape = (3, films, FRAMES * TOKENS, HEADS, SIZE)
    return torch.randn(shape, generator=rng_at(0, *place)).unbind(0)


def plain(branch, layer, picks, q, k, v):
    """Attention (B, T, h, d) over the picked pages (B or 1, G, k) and the chunk itself."""
    cache = branch.cache
    size = cache.page_frames
    done, count = branch.chunk * FRAMES, picks.shape[-1]
    films = len(q)
    own_films = cache.films or films
    picks = picks.expand(own_films, HEADS, count)
    packed = cache.policy.positions == "packed"
    own = torch.arange(FRAMES) + (count * size if packed else done)
    out = torch.empty_like(q)
    for film in range(films):
        for head in range(HEADS):
            at = film % own_films
            pages = picks[at, head].tolist()
            frames = torch.tensor([page * size + n for page in pages for n in range(size)])
            target = torch.arange(len(frames)) if packed else frames
            if not packed and cache.max_distance is not None:
                target = frames.clamp(min=done - cache.max_distance)

            def history(parts, frames=frames, at=at, head=head):
                if not len(frames):
                    return q.new_empty(0, SIZE)
                whole = torch.cat(parts, 1)[at, :, head].unflatten(0, (-1, TOKENS))
                return whole[frames].flatten(0, 1)

            def turned(x, places):
                return ROPE.rotate(x[None, :, None], ROPE.freqs(places))[0, :, 0]

            one = turned(q[film, :, head], own)
            keys = turned(k[film, :, head], own)
            values = v[film, :, head]
            if len(frames):
                keys = torch.cat([turned(history(branch.keys[layer]), target), keys])
                values = torch.cat([history(branch.values[layer]), values])
            weights = (one @ keys.T / SIZE**0.5).softmax(-1)
            out[film, :, head] = weights @ values
    return out


def worth(branch, layer, q, picks, shot):
    """How good a choice is, and the plain way's: sums of priorities and scores, (B, G)."""
    cache = branch.cache
    policy = cache.policy
    count = cache.length
    shots = torch.stack(branch.shots, 1)
    priority = policy.priority(shots, shot)
    gone = torch.zeros_like(shots, dtype=torch.bool)
    if cache.erased:
        gone = torch.isin(shots, torch.tensor(cache.erased))
        priority = priority.masked_fill(gone, -1e9)
    scores = None
    if policy.routed and policy.budget_at(count) < count:
        pages = torch.cat(branch.keys[layer], 1).unflatten(1, (count, -1))
        pooled = pool(pages, policy.summary)
        place = (branch.chunk, layer)
        q = q[: cache.films, None]
        most = policy.compared
        if not policy.routed_in(layer) or cache.erased or most is None or count <= most:
            scores = relevance(policy, q, pooled, ~gone[:1], place)
        else:
            whole = count // BLOCK
            blocks = pooled[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).float().mean((2, 3))

            def keys_of(pages):
                return pooled[torch.arange(len(pooled))[:, None], pages]

            scores = searched_in_two_steps(
                policy, q, keys_of, count, blocks=blocks[:, :, None], place=place
            )
        scores = scores[:, :, 0]
    wanted = choose(policy, priority, scores, count - int(gone[0].sum()))
    ranked = (
        priority[:, None]
        if scores is None
        else torch.where(priority[:, None] == 0, scores, priority[:, None])
    )
    ranked = ranked.clamp(-1e7, 1e3)

    def total(picks):
        wide = ranked.expand(cache.films, picks.shape[1], -1)
        return wide.gather(-1, picks.expand(cache.films, -1, -1)).sum(-1)

    assert picks.shape[-1] == wanted.shape[-1]
    return total(picks), total(wanted)


def play(branch, widths=(1, 1), *, films=1, tolerance=1e-4, store=True, routed=True):
    """Make the next chunk by calls of these widths (2 = guided) and compare every attention; store
    it, or abandon it."""
    cache = branch.cache
    shot = torch.tensor([(branch.chunk + film) // 3 for film in range(films)])
    opened = cache.open(branch.chunk, shot)
    branch.plays.append(branch.chunk)
    number = len(branch.plays)
    for level, wide in enumerate(widths):
        for layer in range(LAYERS):
            q, k, v = draw_qkv(films * wide, number, level, layer, wide)
            check(
                branch, opened, layer, (q, k, v), tolerance=tolerance, routed=routed and not level
            )
    clean = opened.record()
    for layer in range(LAYERS):
        q, k, v = draw_qkv(films, number, "clean", layer)
        again = routed and not cache.policy.reuse_choice
        check(branch, clean, layer, (q, k, v), tolerance=tolerance, routed=again)
        if store:
            branch.keys[layer].append(k)
            branch.values[layer].append(v)
    if store:
        cache.append(clean)
        branch.shots += [shot] * (FRAMES // cache.page_frames)
        branch.chunk += 1


def check(branch, opened, layer, qkv, *, tolerance, routed):
    """Attend in an open chunk, and compare with the plain way."""
    found = opened.attend(layer, *qkv, ROPE)
    picks = torch.zeros(1, 1, 0, dtype=torch.long)
    if branch.cache.length and branch.cache.policy.budget_at(branch.cache.length):
        picks = opened.picks_of(layer)
        if routed:
            one, other = worth(branch, layer, qkv[0], picks, opened.shot)
            assert torch.allclose(one, other, atol=1e-4, rtol=1e-5)
    wanted = plain(branch, layer, picks, *qkv)
    assert torch.allclose(found, wanted, atol=tolerance), (found - wanted).abs().max()


CHUNKS = {"chunk": (1, 1), "guided": (2, 2), "first": (2, 1), "later": (1, 2)}
STEPS = [*["chunk"] * 6, *CHUNKS, "abandon", "fork", "switch", "policy", "erase", "restore"]


def run_play(data, storage, tolerance=1e-4, *, routed=True, examined=20):
    """Draw films, a policy and what happens to their branches, and compare on the way."""
    films = data.draw(st.sampled_from([1, 1, 2, 3]))
    unit = data.draw(st.sampled_from(["chunk", "frame"]))
    far = data.draw(st.sampled_from([None, 3, 8]))
    now = Branch(KVCache(data.draw(policies(unit)), FRAMES, far, storage=storage))
    branches = [now]
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=examined, max_size=examined)):
        if step in CHUNKS or step == "abandon":
            how = {"store": step != "abandon", "tolerance": tolerance, "routed": routed}
            play(now, CHUNKS.get(step, (1, 1)), films=films, **how)
        elif step == "fork":
            branches.append(now.fork())
        elif step == "switch":
            now = branches[data.draw(st.integers(0, len(branches) - 1))]
        elif step == "policy":
            now.cache = replace(now.cache.snapshot(), policy=data.draw(policies(unit)))
        else:
            gone = tuple(data.draw(st.sets(st.integers(0, 7)))) if step == "erase" else ()
            gone = gone if films == 1 else ()  # what would be without them is asked of one film
            now.cache = replace(now.cache.snapshot(), erased=gone)


def plays(examples):
    """Draw so many plays, the same ones in every run."""

    def drawn(test):
        few = settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        return few(given(st.data())(torch.no_grad()(test)))

    return drawn


@plays(24)
def test_any_policy_attends_to_its_own_branch_where_it_should(data):
    run_play(data, Storage())


@plays(12)
def test_so_do_histories_in_host_memory_with_a_small_ring(data):
    run_play(data, Storage(place="host", slots=data.draw(st.integers(1, 4))))


@plays(5)
def test_so_do_histories_in_eight_bits_to_their_rounding(data):
    place = data.draw(st.sampled_from(["host", "device"]))
    storage = Storage(place=place, packing="int8", slots=data.draw(st.integers(1, 4)))
    run_play(data, storage, 6e-2, routed=False)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["absolute", "packed"])
@pytest.mark.parametrize("policy", [Full(), Window(window=2), CAMR(budget=2)], ids=repr)
def test_a_chunk_whose_whole_history_is_erased_attends_to_itself(policy, positions):
    branch = Branch(KVCache(replace(policy, positions=positions), FRAMES, 3))
    for _ in range(4):
        play(branch)
    branch.cache = replace(branch.cache.snapshot(), erased=(0, 1))
    play(branch, routed=False)
    assert branch.cache.decisions[-1]["picks"].shape[-1] == 0


@torch.no_grad()
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("policy", [Full(), CAMR(budget=2), Sink(sink=1, window=1)], ids=repr)
def test_branches_that_take_turns_do_not_write_in_each_others_history(policy, place):
    branch = Branch(KVCache(policy, FRAMES, storage=Storage(place=place, slots=2)))
    for _ in range(3):
        play(branch)
    other = branch.fork()
    for now in (other, other, branch, branch, branch, other):
        play(now)


@torch.no_grad()
def test_a_policy_of_other_pages_is_refused_in_mid_film():
    branch = Branch(KVCache(Full(), FRAMES))
    play(branch)
    branch.cache.policy = CAMR(unit="frame")
    with pytest.raises(CinelabError, match="is stored in pages of unit 'chunk'; keep"):
        play(branch)
