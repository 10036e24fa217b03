"""Memory in latent frames: a chunk of several retrieves single frames, in training as in streaming,
and the paper's CAMR is what a plain loop over frames says it is."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from test_memory import CONFIG, scene, stream

from cinelab.flow.condition import Condition
from cinelab.memory.cache import KVCache
from cinelab.memory.context import CausalContext, KnownHistory, TeacherForcingContext
from cinelab.memory.policy import CAMR, CausalCine, Full, Oracle, ShotSink, Sink, Window
from cinelab.memory.policy_registry import label_of, policy_dict, policy_from, policy_named
from cinelab.ops import tiling
from cinelab.ops.rope import Rope
from cinelab.ops.tensors import gather_pages
from cinelab.seeds import rng_at

FRAMES = {"unit": "frame"}
PLACED = [
    Full(),
    Window(window=3),
    Sink(sink=1, window=2),
    ShotSink(sink=1, shot_sink=2, window=1),
    Oracle(budget=4, window=2, shots=(0,)),
]
POLICIES = [
    *(
        replace(one, positions=where, **FRAMES)
        for one, where in product(PLACED, ("absolute", "packed"))
    ),
    *(
        CAMR(budget=5, window=2, score=score, per_head=heads, positions=where, **FRAMES)
        for score, heads, where in product(("mass", "mean"), (False, True), ("absolute", "packed"))
    ),
    *(
        CAMR(budget=4, window=w, routed_layers=layers, positions=where, unit=unit)
        for w, layers, where, unit in (
            (2, (0,), "absolute", "frame"),
            (1, (1, 2), "packed", "frame"),
            (2, (), "packed", "frame"),
            (1, (2,), "absolute", "chunk"),
            (1, (0, 2), "packed", "chunk"),
        )
    ),
    CausalCine(budget=5, window=3),
    CAMR(budget=6, sink=1, shot_sink=1, window=2, summary=4, **FRAMES),
]


def masked(policy, chunk, noise=None):
    """Velocities of the clean clip, or of the noisy copy beside it, in one pass."""
    model, x, prompts, shot, frames = scene(chunk)
    shots = shot.repeat_interleave(chunk, 1)
    if noise is None:
        context = CausalContext(policy, shots, chunk)
        return model(x, torch.zeros(2, frames), Condition(prompts, shots), context)
    xt, t = noise
    both = torch.cat([x, xt], 1)
    times = torch.cat([torch.zeros_like(t), t], 1)
    context = TeacherForcingContext(policy, shots, chunk)
    return model(both, times, Condition(prompts, shots.repeat(1, 2)), context)[:, frames:]


def noise_of(chunk):
    _, x, _, _, frames = scene(chunk)
    t = torch.rand((2, frames // chunk), generator=rng_at(0, "t")).repeat_interleave(chunk, 1)
    return torch.randn(x.shape, generator=rng_at(0, "noise")), t


@pytest.mark.parametrize("policy", POLICIES, ids=label_of)
@pytest.mark.parametrize("chunk", [2, 3])
@torch.no_grad()
def test_streaming_equals_both_masked_passes_in_latent_frames(policy, chunk, monkeypatch):
    monkeypatch.setattr(tiling, "CHUNKS", 4)  # several tiles, whose ends fall between chunks
    model, x, prompts, shot, _ = scene(chunk)
    clean, _ = stream(model, x, prompts, shot, chunk, policy)
    assert (masked(policy, chunk) - clean).abs().max() <= 1e-4
    noise = noise_of(chunk)
    noisy, _ = stream(model, x, prompts, shot, chunk, policy, noise)
    assert (masked(policy, chunk, noise) - noisy).abs().max() <= 1e-4


def plain_causalcine(q, keys, values, now, rope, retrieved=5, window=9):
    """CausalCine's memory by loops: the output (T, h, d) of a chunk with queries q (T, h, d), over
    the frames' keys and values, lists of (N, h, d); `now` numbers the chunk's own frames."""
    past = range(now[0])
    outside = [f for f in past if f < now[0] - window]
    mean_q = q.mean(0)
    worth = {f: float((mean_q * keys[f].mean(0)).sum()) for f in outside}
    best = sorted(sorted(outside, key=lambda f: -worth[f])[:retrieved])
    seen = [*best, *(f for f in past if f >= now[0] - window)]

    def turned(x, place):
        return rope.rotate(x[None], rope.freqs(torch.tensor([place])))[0]

    in_view = [*seen, *now]
    k = torch.cat([turned(keys[f], place) for place, f in enumerate(in_view)])
    v = torch.cat([values[f] for f in in_view])
    tokens = len(q) // len(now)
    parts = [turned(q[i * tokens : (i + 1) * tokens], len(seen) + i) for i in range(len(now))]
    weights = torch.einsum("thd,shd->hts", torch.cat(parts), k) / q.shape[-1] ** 0.5
    return seen, torch.einsum("hts,shd->thd", weights.softmax(-1), v)


@torch.no_grad()
def test_causalcine_equals_a_plain_loop_over_frames():
    """Choice and output of every chunk of a film of 33 latent frames, in training and in
    streaming."""
    chunk, chunks, tokens, heads, size = 3, 11, 6, 2, 24
    rope = Rope(size, 2, 3)
    shape = (1, chunk * chunks * tokens, heads, size)
    clean_q, q, k, v, noisy_k, noisy_v = torch.randn((6, *shape), generator=rng_at(1)).unbind(0)
    shots = torch.arange(chunk * chunks)[None] // 6
    both = (torch.cat(pair, 1) for pair in ((clean_q, q), (k, noisy_k), (v, noisy_v)))
    policy = policy_named("causalcine")
    training = TeacherForcingContext(policy, shots, chunk).attend(0, *both, rope)[:, shape[1] :]
    cache = KVCache(policy, chunk)
    for i in range(chunks):
        part = slice(i * chunk * tokens, (i + 1) * chunk * tokens)
        now = list(range(i * chunk, (i + 1) * chunk))
        keys, values = (
            [*clean[0].split(tokens)[: now[0]], *noisy[0, part].split(tokens)]
            for clean, noisy in ((k, noisy_k), (v, noisy_v))
        )
        seen, wanted = plain_causalcine(q[0, part], keys, values, now, rope)
        opened = cache.open(i, shots[:, i * chunk])
        streamed = opened.attend(0, q[:, part], noisy_k[:, part], noisy_v[:, part], rope)
        assert seen == (opened.picks_of(0)[0, 0].tolist() if i else [])
        assert (streamed[0] - wanted).abs().max() <= 1e-5
        assert (training[0, part] - wanted).abs().max() <= 1e-5
        recorded = opened.record()
        recorded.attend(0, clean_q[:, part], k[:, part], v[:, part], rope)
        cache.append(recorded)
    assert len(seen) == 14


@torch.no_grad()
def test_layers_that_do_not_route_attend_to_the_newest_pages():
    """Every layer attends to the whole budget, and the subset alone by relevance."""
    model, x, prompts, shot, _ = scene(2)
    policy = CAMR(budget=5, window=2, routed_layers=(1,), **FRAMES)
    _, cache = stream(model, x, prompts, shot, 2, policy)
    last = [one for one in cache.decisions if one["chunk"] == 6]
    assert [one["picks"].shape[-1] for one in last] == [5] * CONFIG.num_layers
    newest = torch.arange(7, 12)
    assert [bool((one["picks"] == newest).all()) for one in last] == [True, False, True]
    assert [bool(one["fixed"].all()) for one in last] == [True, False, True]
    nowhere, _ = stream(model, x, prompts, shot, 2, replace(policy, routed_layers=()))
    window, _ = stream(model, x, prompts, shot, 2, Window(window=5, **FRAMES))
    assert (nowhere - window).abs().max() <= 1e-5


def test_gradients_reach_retrieved_frames_and_no_future():
    q, k, v = (torch.randn(1, 2 * 12 * 3, 2, 12, generator=rng_at(2, n)) for n in range(3))
    k.requires_grad_(True)
    context = TeacherForcingContext(CausalCine(budget=4, window=2), torch.zeros(1, 12), 3)
    out = context.attend(0, q, k, v, Rope(12, 1, 3))
    out[:, 12 * 3 + 9 * 2 : 12 * 3 + 9 * 3].sum().backward()  # of the noisy chunk 2 of 4
    moved = k.grad[0].abs().amax((1, 2)).unflatten(0, (24, 3)).amax(1) > 0
    assert moved[:6].sum() == 4 and moved[4:6].all()
    assert not moved[6:18].any() and moved[18:21].all() and not moved[21:].any()


def test_the_papers_policy_has_a_name_and_comes_back_from_a_file():
    policy = policy_named("causalcine", budget=6)
    assert policy == CausalCine() and label_of(policy) == "causalcine"
    assert (policy.budget - policy.window, policy.window, policy.sink) == (5, 9, 0)
    assert policy_from(policy_dict(policy)) == policy
    assert KnownHistory(policy, torch.zeros(1, 6), 3).packed


@pytest.mark.parametrize("groups", [1, 2])
def test_gathered_pages_carry_their_gradient(groups):
    x = torch.randn(2, 4, 3, 2, 6, generator=rng_at(3), requires_grad=True)
    picks = torch.tensor([0, 2]).expand(1, groups, 1, 2)
    gather_pages(x * 1, picks).sum().backward()
    assert torch.equal(x.grad[0, :, 0, 0, 0], torch.tensor([1.0, 0.0, 1.0, 0.0]))
