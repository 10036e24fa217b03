"""What would break science in the memory: streaming equals the masked pass, routing everything
equals full."""

from dataclasses import replace

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    NumberedPrompts,
    RolloutState,
    append_chunk,
    make_chunk,
    rollout,
)
from cinelab.flow.sampler import Sampling
from cinelab.memory import open_chunk, routing
from cinelab.memory.cache import KVCache
from cinelab.memory.context import (
    BidirectionalContext,
    CausalContext,
    KnownHistory,
    TeacherForcingContext,
)
from cinelab.memory.policy import CAMR, CausalCine, Full, Oracle, RandomTopK, ShotSink, Sink, Window
from cinelab.memory.store import DeviceKVStore, Storage
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.ops import tiling
from cinelab.ops.rope import Rope
from cinelab.scale.fused import append_and_denoise

CONFIG = WanConfig(
    num_attention_heads=3,
    attention_head_dim=16,
    num_layers=3,
    ffn_dim=64,
    text_dim=12,
    in_channels=4,
    out_channels=4,
)
STATIC = [
    Full(),
    Window(window=2),
    Sink(sink=1, window=2),
    ShotSink(sink=1, shot_sink=1, window=1),
    Window(window=0),
    Window(window=2, positions="packed"),
    Sink(sink=2, window=1, positions="packed"),
    ShotSink(sink=1, shot_sink=1, window=2, positions="packed"),
]
ROUTED = [
    CAMR(budget=3, window=1),
    CAMR(budget=3, window=1, positions="packed"),
    CAMR(budget=3, window=1, per_head=False),
    CAMR(budget=3, window=1, per_head=False, positions="packed"),
    CAMR(budget=3, window=1, score="mean"),
    CAMR(budget=3, window=0, per_head=True),
    CAMR(budget=4, sink=1, shot_sink=1, window=1, per_head=True, positions="absolute"),
    CAMR(budget=3, window=1, summary=4),
    CAMR(budget=3, window=0, summary=1, score="mean", positions="packed"),
]


def scene(chunk=1, chunks=7, batch=2, seed=0):
    torch.manual_seed(seed)
    model = CausalWan(CONFIG).eval()
    frames = chunk * chunks
    x = torch.randn(batch, frames, 4, 4, 6)
    prompts = torch.randn(batch, 4, 5, 12)
    prompts[:, 3] = 0
    shot = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2, 2]])[:batch, :chunks]
    return model, x, prompts, shot, frames


def stream(model, x, prompts, shot, chunk, policy, t=None, **storage):
    """Velocities (B, F, ...) of noisy chunks, with the clean ones in the cache."""
    cache = KVCache(policy, chunk, **storage)
    noisy = t is not None
    condition = Condition(prompts, shot.repeat_interleave(chunk, 1)).encoded(model)
    parts = []
    for i in range(shot.shape[1]):
        part = slice(i * chunk, (i + 1) * chunk)
        words = condition.frames(part)
        opened = cache.open(i, shot[:, i])
        if noisy:
            parts.append(model(t[0][:, part], t[1][:, part], words, opened))
        recorded = opened.record()
        clean = model(x[:, part], torch.zeros(x[:, part].shape[:2]), words, recorded)
        cache.append(recorded)
        if not noisy:
            parts.append(clean)
    return torch.cat(parts, 1), cache


@pytest.fixture(params=[3, 100], ids=["strips", "whole"])
def strip(request, monkeypatch):
    """Long clips are masked strip by strip: both ways must give the same numbers."""
    monkeypatch.setattr(tiling, "CHUNKS", request.param)


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("policy", STATIC + ROUTED, ids=repr)
@torch.no_grad()
def test_streaming_equals_the_masked_clean_pass(policy, chunk):
    model, x, prompts, shot, frames = scene(chunk)
    per_frame = shot.repeat_interleave(chunk, 1)
    full = model(
        x,
        torch.zeros(2, frames),
        Condition(prompts, per_frame),
        CausalContext(policy, per_frame, chunk),
    )
    live, _ = stream(model, x, prompts, shot, chunk, policy)
    assert (full - live).abs().max() <= 1e-4


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("policy", STATIC + ROUTED, ids=repr)
@torch.no_grad()
def test_teacher_forcing_sees_what_streaming_sees(policy):
    model, x, prompts, shot, frames = scene()
    xt = torch.randn_like(x)
    t = torch.rand(2, frames)
    both = torch.cat([x, xt], 1)
    times = torch.cat([torch.zeros_like(t), t], 1)
    full = model(
        both, times, Condition(prompts, shot.repeat(1, 2)), TeacherForcingContext(policy, shot, 1)
    )[:, frames:]
    live, _ = stream(model, x, prompts, shot, 1, policy, (xt, t))
    assert (full - live).abs().max() <= 1e-4


@torch.no_grad()
def test_across_hides_what_the_running_shot_has_shown():
    model, x, prompts, shot, frames = scene()
    xt = torch.randn_like(x)
    t = torch.rand(2, frames)

    def noisy(clean, across):
        both = torch.cat([clean, xt], 1)
        times = torch.cat([torch.zeros_like(t), t], 1)
        sight = TeacherForcingContext(Full(), shot, 1, other_shots=across)
        return model(both, times, Condition(prompts, shot.repeat(1, 2)), sight)[:, frames:]

    own = torch.where((shot == shot[:, -1:])[..., None, None, None], x + 1, x)  # another last shot
    first = torch.where((shot == 0)[..., None, None, None], x + 1, x)  # another first shot
    last = slice(frames - 1, None)
    assert torch.equal(noisy(x, True)[:, last], noisy(own, True)[:, last])
    assert not torch.allclose(noisy(x, False)[:, last], noisy(own, False)[:, last])
    assert not torch.allclose(noisy(x, True)[:, last], noisy(first, True)[:, last])
    with pytest.raises(CinelabError, match="use Full"):
        TeacherForcingContext(Window(window=2), shot, 1, other_shots=True)


@pytest.mark.parametrize("positions", ["packed", "absolute"])
@pytest.mark.parametrize("per_head", [False, True])
@torch.no_grad()
def test_budget_of_everything_is_full_attention(positions, per_head):
    model, x, prompts, shot, _ = scene()
    camr = CAMR(budget=99, window=1, positions=positions, per_head=per_head)
    everything, _ = stream(model, x, prompts, shot, 1, camr)
    full, _ = stream(model, x, prompts, shot, 1, Full())
    assert (everything - full).abs().max() <= 1e-5


@torch.no_grad()
def test_a_shared_lot_is_the_same_in_every_layer():
    model, x, prompts, shot, _ = scene()
    for shared in (True, False):
        noisy = torch.randn_like(x), torch.rand(x.shape[:2])
        _, memory = stream(
            model, x, prompts, shot, 1, RandomTopK(budget=2, window=0, shared=shared), noisy
        )
        table = memory.routing_table()
        kept = table[table.chunk == 6].groupby("layer").kept_chunk.apply(tuple)
        assert (kept.nunique() == 1) == shared


@torch.no_grad()
def test_policies_differ_when_the_budget_binds():
    model, x, prompts, shot, _ = scene()
    full = stream(model, x, prompts, shot, 1, Full())[0]
    for policy in (Window(window=1), CAMR(budget=2), RandomTopK(budget=2)):
        assert (full - stream(model, x, prompts, shot, 1, policy)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_bidirectional_first_chunk_alone_equals_causal_first_chunk():
    model, x, prompts, shot, _ = scene()
    causal = model(x, torch.zeros(2, 7), Condition(prompts, shot), CausalContext(Full(), shot, 1))[
        :, :1
    ]
    alone = model(
        x[:, :1],
        torch.zeros(2, 1),
        Condition(prompts, shot[:, :1]),
        BidirectionalContext(torch.arange(1)),
    )
    assert (causal - alone).abs().max() <= 1e-5


@torch.no_grad()
def test_frame_units_route_single_frames_of_a_chunk():
    model, x, prompts, shot, _ = scene(chunk=2)
    t = (torch.randn_like(x), torch.full(x.shape[:2], 0.5))
    live, memory = stream(
        model, x, prompts, shot, 2, CAMR(budget=3, window=1, unit="frame", per_head=False), t
    )
    assert memory.length == 14 and live.isfinite().all()
    assert memory.routing_table().groupby(["chunk", "layer"]).size().max() == 3


def chunk_model(net, model, x, prompts, chunk=1, sampling=None):
    """What makes chunks of the scene's size by `net`; prompts are numbers."""
    slot = torch.zeros(len(x), chunk, dtype=torch.long)
    table = NumberedPrompts(Condition(prompts, slot).encoded(model), chunk)
    return ChunkModel(net, table, (chunk, *x.shape[2:]), sampling=sampling or Sampling())


def requests(slot, shot, seeds):
    """One request a film for every chunk of slot and shot (B, n)."""
    return [
        [ChunkRequest(int(slot[b, n]), int(shot[b, n]), seed=seed) for b, seed in enumerate(seeds)]
        for n in range(shot.shape[1])
    ]


def make(policy, memory=None, start=0, stop=None, seeds=(5, 6), model_seed=0):
    model, x, prompts, shot, _ = scene(seed=model_seed)
    memory = memory or KVCache(policy, 1)
    made = rollout(
        chunk_model(model, model, x, prompts, sampling=Sampling(steps=3)),
        RolloutState(start, memory),
        requests(shot.clamp(max=2), shot, seeds),
    )
    parts = []
    for chunk in made:
        parts.append(chunk.latents)
        if stop is not None and chunk.index + 1 == stop:
            break
    return torch.cat(parts, 1), memory


@pytest.mark.parametrize(
    "policy", [Full(), CAMR(budget=3), CAMR(budget=2, per_head=False)], ids=repr
)
@torch.no_grad()
def test_snapshot_and_branch_equal_the_uninterrupted_film_bitwise(policy):
    whole, _ = make(policy)
    first, memory = make(policy, stop=3)
    kept = memory.snapshot()
    # a branch that writes on first
    other, _ = make(policy, memory.snapshot(), start=3, seeds=(7, 8))
    rest, _ = make(policy, memory, start=3)
    again, _ = make(policy, kept, start=3)
    assert torch.equal(torch.cat([first, rest], 1), whole)
    assert torch.equal(again, rest)
    assert not torch.equal(other, rest)


@torch.no_grad()
def test_same_seed_same_film_and_each_film_keeps_its_own_noise():
    first, _ = make(CAMR(budget=3))
    second, _ = make(CAMR(budget=3))
    mixed, _ = make(CAMR(budget=3), seeds=(5, 9))
    assert torch.equal(first, second)
    assert torch.allclose(first[0], mixed[0], atol=1e-6) and not torch.allclose(first[1], mixed[1])


@torch.no_grad()
def test_routing_table_names_what_was_kept():
    _, memory = make(CAMR(budget=3, window=1, per_head=False))
    table = memory.routing_table(film=1)
    late = table[(table.chunk == 6) & (table.layer == 0)]
    assert len(late) == 3 and set(late.kind) == {"window", "routed"}
    assert (late.kept_chunk < 6).all() and (late[late.kind == "window"].kept_chunk == 5).all()
    assert late[late.kind == "routed"].score.notna().all()


def test_a_contradicting_policy_is_refused_with_both_values():
    with pytest.raises(CinelabError, match="budget is 2 but sinks and window alone take 4"):
        CAMR(budget=2, sink=2, window=2)
    with pytest.raises(CinelabError, match="score is 'best'"):
        CAMR(score="best")
    with pytest.raises(CinelabError, match="cannot be negative"):
        Window(window=-1)


def test_memory_out_of_order_is_refused():
    cache = KVCache(Full(), 1)
    with pytest.raises(CinelabError, match="record"):
        cache.append(cache.open(0, torch.zeros(1, dtype=torch.long)).record())


@torch.no_grad()
def test_history_beyond_the_reach_stands_at_the_reach():
    """Nearer than the reach nothing changes; farther, a film is no longer told how long ago
    something was."""
    model, x, prompts, shot, frames = scene()

    def last(max_distance, first):
        cache = KVCache(Full(), 1, max_distance)
        text = model.encode_text(prompts)
        order = [first, *range(1, frames)]
        for i, j in enumerate(order):
            recorded = cache.open(i, shot[:, i]).record()
            condition = Condition(text, shot[:, j : j + 1])
            out = model(x[:, j : j + 1], torch.zeros(2, 1), condition, recorded)
            cache.append(recorded)
        return out

    assert torch.equal(last(None, 0), last(frames - 1, 0))
    assert (last(None, 0) - last(2, 0)).abs().max() > 1e-6


@pytest.mark.parametrize(
    "policy",
    [
        Full(),
        Sink(sink=1, window=1),
        CAMR(budget=3),
        CAMR(budget=3, per_head=False, score="mean"),
        CAMR(budget=3, positions="packed"),
        CAMR(budget=3, unit="frame", per_head=True),
        CausalCine(budget=4, window=2),
        Window(window=3, unit="frame", positions="packed"),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_known_history_is_teacher_forcing_in_two_calls(policy, chunk, monkeypatch):
    monkeypatch.setattr(tiling, "CHUNKS", 3)  # several strips, the last one short
    model, x, prompts, shot, frames = scene(chunk)
    noisy = torch.randn_like(x)
    t = torch.rand(2, frames // chunk).repeat_interleave(chunk, 1)
    shots = shot.repeat_interleave(chunk, 1)
    twice = model(
        torch.cat([x, noisy], 1),
        torch.cat([torch.zeros_like(t), t], 1),
        Condition(prompts, torch.cat([shots, shots], 1)),
        TeacherForcingContext(policy, shots, chunk),
    )[:, frames:]
    history = KnownHistory(policy, shots, chunk)
    history.encode(model, x, Condition(prompts, shots))
    once = model(noisy, t, Condition(prompts, shots), history)
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=1e-4)
    wide = model(
        noisy.repeat(2, 1, 1, 1, 1),
        t.repeat(2, 1),
        Condition(prompts.repeat(2, 1, 1, 1), shots.repeat(2, 1)),
        history,
    )
    torch.testing.assert_close(wide, twice.repeat(2, 1, 1, 1, 1), atol=1e-5, rtol=1e-4)


def test_a_known_history_may_hide_the_running_shot():
    model, x, prompts, shot, frames = scene()
    noisy = torch.randn_like(x)
    t = torch.rand(2, frames)
    twice = model(
        torch.cat([x, noisy], 1),
        torch.cat([torch.zeros_like(t), t], 1),
        Condition(prompts, torch.cat([shot, shot], 1)),
        TeacherForcingContext(Full(), shot, 1, other_shots=True),
    )[:, frames:]
    history = KnownHistory(Full(), shot, 1, other_shots=True)
    history.encode(model, x, Condition(prompts, shot))
    torch.testing.assert_close(
        model(noisy, t, Condition(prompts, shot), history), twice, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("storage", [Storage(), Storage("host", slots=3)], ids=repr)
@pytest.mark.parametrize(
    "policy",
    [Full(), Sink(sink=1, window=1), CAMR(budget=3), CAMR(budget=2, summary=3, positions="packed")],
    ids=repr,
)
@torch.no_grad()
def test_the_clean_pass_may_go_with_the_next_chunks_first_level(policy, storage, chunk):
    model, x, prompts, shot, _ = scene(chunk)
    calls = []

    def net(*inputs):
        calls.append(inputs[0].shape[1])
        return model(*inputs)

    sampling = Sampling(2, "consistency", guidance=1.0)
    maker = chunk_model(net, model, x, prompts, chunk, sampling)
    wanted = requests(shot, shot, [5, 6])
    plain = KVCache(policy, chunk, storage=storage)
    fused = KVCache(policy, chunk, storage=storage)
    apart = torch.cat([one.latents for one in rollout(maker, RolloutState(0, plain), wanted)], 1)
    alone = len(calls)
    pending = make_chunk(maker, RolloutState(0, fused), wanted[0])
    made = [pending.latents]
    for chunk_requests in wanted[1:]:
        fused, pending = append_and_denoise(maker, pending, chunk_requests, sampling)
        made.append(pending.latents)
    append_chunk(net, fused, pending)
    assert torch.allclose(torch.cat(made, 1), apart, atol=1e-4)
    assert len(calls) - alone == alone - (shot.shape[1] - 1)  # one call fewer a chunk
    assert fused.length == plain.length and fused.page_chunks == plain.page_chunks
    assert torch.equal(fused.page_shots, plain.page_shots)
    assert len(fused.decisions) == len(plain.decisions)
    a, b = (
        memory.routing_table()
        .sort_values(["chunk", "layer", "head", "kept_chunk"])["kept_chunk"]
        .tolist()
        for memory in (fused, plain)
    )
    assert a == b


def test_guided_calls_keep_the_clean_pass_apart():
    model, x, prompts, shot, _ = scene()
    maker = chunk_model(model, model, x, prompts)
    pending = make_chunk(
        maker, RolloutState(0, KVCache(Full(), 1)), requests(shot, shot, [5, 6])[0]
    )
    with pytest.raises(CinelabError, match="unguided calls only"):
        append_and_denoise(
            maker, pending, requests(shot, shot, [5, 6])[1], Sampling(2, "consistency", 2.0)
        )


def long_history(policy, units, tokens=6, heads=2, size=4, batch=2):
    """A memory of `units` random units in shots of four, open at the next chunk, and queries of
    that chunk."""
    generator = torch.Generator().manual_seed(units)
    memory = KVCache(policy, 1)
    keys = torch.randn(batch, units, tokens, heads, size, generator=generator)
    memory.layers[0] = tuple(Storage().new_store().append(part, 0) for part in (keys, keys))
    memory.length = memory.frames_done = units
    memory.page_shots = torch.arange(units).expand(batch, -1) // 4
    memory.page_chunks = tuple(range(units))
    opened = memory.open(units, torch.full((batch,), units // 4))
    return opened, 4 * torch.randn(batch, tokens, heads, size, generator=generator)


def test_a_search_in_two_steps_finds_what_a_whole_search_finds_in_the_best_blocks():
    """Up to `candidates` units nothing changes; beyond, the chosen units hold nearly all the
    attention of the best ones."""
    shares = []
    for units in (100, 129, 400):
        whole, q = long_history(CAMR(budget=6, candidates=None), units)
        quick, _ = long_history(CAMR(budget=6), units)
        best, found = (memory._route(0, q) for memory in (whole, quick))
        assert found.shape == best.shape == (2, 1, 6) and (found[..., -1] == units - 1).all()
        if units <= 128:
            assert torch.equal(best, found)
        scores = whole.scores(0, q)
        shares.append(float(scores.gather(-1, found).sum() / scores.gather(-1, best).sum()))
    assert min(shares) > 0.7  # keys at random, which nothing groups: in films it is 0.97


def test_an_erased_shot_does_not_choose_for_others():
    """What is erased must not be retrieved, nor speak for the block that it stood in."""
    memory, q = long_history(CAMR(budget=6), 300)
    memory.cache.erased = (3, 4)
    assert not torch.isin(memory._route(0, q), torch.arange(12, 20)).any()
    other, _ = long_history(CAMR(budget=6), 300)
    other.cache.layers[0][0].buffer[:, 12:20] = 9.0  # other keys in the erased shots
    other.cache.erased = (3, 4)
    assert torch.equal(memory._route(0, q), other._route(0, q))


def test_the_search_of_a_long_film_compares_few_units(monkeypatch):
    """Counted: keys that are compared at 1,000 units, against 100."""
    compared = []
    score = routing.mass_score
    monkeypatch.setattr(
        routing,
        "mass_score",
        lambda q, k, past: (compared.append(k.shape[1]), score(q, k, past))[1],
    )
    for units in (100, 1000):
        memory, q = long_history(CAMR(budget=6), units)
        memory._route(0, q)
    assert compared[0] == 100 and compared[1] <= 128


def test_a_layer_attends_to_the_budget_unless_heads_choose_apart():
    for per_head in (False, True):
        memory, q = long_history(CAMR(budget=6, per_head=per_head), 60)
        held = memory._route(0, q)[0].unique()
        assert (len(held) == 6) != per_head


def test_an_oracle_keeps_the_shots_it_is_told_and_the_window():
    memory, q = long_history(Oracle(budget=6, window=1, shots=(3,)), 40)
    assert memory._route(0, q)[0, 0].tolist() == [12, 13, 14, 15, 38, 39]


def test_a_clip_longer_than_the_candidates_is_refused_in_training():
    with pytest.raises(CinelabError, match="200 chunks is longer than the 128 candidates"):
        TeacherForcingContext(CAMR(), torch.zeros(1, 200, dtype=torch.long), 1)


@torch.no_grad()
def test_a_clean_pass_lays_out_where_the_denoising_passes_did():
    """What is gathered for a layer stands in memory once, for all passes of a chunk."""
    model, x, prompts, shot, _ = scene()
    _, cache = stream(model, x, prompts, shot, 1, CAMR(budget=3))
    opened = cache.open(7, shot[:, -1])
    condition = Condition(prompts, shot[:, -1:])
    model(x[:, :1], torch.ones(2, 1), condition, opened)
    before = {place: buffer.data_ptr() for place, buffer in opened._buffers.items()}
    clean = opened.record()
    assert clean.decided is opened.decided and not clean._retrieved
    model(x[:, :1], torch.zeros(2, 1), condition, clean)
    assert before and before == {
        place: buffer.data_ptr() for place, buffer in clean._buffers.items()
    }


@torch.no_grad()
def test_a_reused_choice_is_the_first_levels():
    """The clean pass attends to the pages that level 1 retrieved, and decides nothing; where no
    level came before it, it retrieves by its own queries."""
    model, x, prompts, shot, _ = scene()
    policy = CAMR(budget=3, window=1)
    caches = [
        stream(model, x, prompts, shot, 1, replace(policy, reuse_choice=reuse))[1]
        for reuse in (False, True)
    ]
    assert torch.equal(*(cache.layers[1][0].all(7) for cache in caches))
    condition = Condition(prompts, shot[:, -1:])
    cleans = []
    for cache in caches:
        opened = cache.open(7, shot[:, -1])
        model(4 * x[:, :1], torch.ones(2, 1), condition, opened)
        cleans.append(opened.record())
        model(x[:, 1:2], torch.zeros(2, 1), condition, cleans[-1])
    anew, reused = cleans
    assert sum(one["clean"] for one in anew.decided) == CONFIG.num_layers
    assert not any(one["clean"] for one in reused.decided)
    layers = range(CONFIG.num_layers)
    assert all(torch.equal(reused.picks_of(layer), first_picks(anew, layer)) for layer in layers)
    assert any(not torch.equal(anew.picks_of(layer), first_picks(anew, layer)) for layer in layers)


def first_picks(opened, layer):
    """The pages that a layer retrieved at the first level."""
    return next(one["picks"] for one in opened.decided if one["layer"] == layer)


def attended(model, cache, chunk, x, prompts, shot, t=1.0):
    """The velocity of a chunk opened in `cache`, and the keys that layer 0 attended to."""
    seen = []
    plain = open_chunk.attention

    def watched(q, k, v):
        seen.append(k)
        return plain(q, k, v)

    opened = cache.open(chunk, shot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_chunk, "attention", watched)
        out = model(x, torch.full((2, 1), t), Condition(prompts, shot[:, None]), opened)
    return out, seen[0]


@pytest.mark.parametrize("policy", [Full(), Window(window=3), CAMR(budget=7)], ids=repr)
@torch.no_grad()
def test_consecutive_pages_are_attended_to_where_they_are_stored(policy):
    """No second copy of the history: the attended keys are the store's own memory."""
    model, x, prompts, shot, _ = scene()
    _, cache = stream(model, x, prompts, shot, 1, policy)
    out, keys = attended(model, cache, 7, x[:, :1], prompts, shot[:, -1])
    buffer = cache.layers[0][0].buffer
    assert keys.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
    pages = policy.budget_at(7)
    assert keys.shape[1] == (pages + 1) * 6
    assert torch.equal(keys[:, :-6], buffer[:, 7 - pages : 7].flatten(1, 2))
    # the same through a store that cannot be attended to in place
    apart = cache.snapshot()
    apart.layers = {layer: tuple(map(Apart, pair)) for layer, pair in cache.layers.items()}
    assert torch.equal(out, attended(model, apart, 7, x[:, :1], prompts, shot[:, -1])[0])


class Apart(DeviceKVStore):
    """A store whose pages must be gathered."""

    def __init__(self, store):
        super().__init__(store.buffer, store.used)

    def view(self, first, length):
        return None


@pytest.mark.parametrize("policy", [Full(), Sink(sink=1, window=2), CAMR(budget=3)], ids=repr)
@torch.no_grad()
def test_two_chunks_that_are_open_at_once_do_not_disturb_each_other(policy):
    """Both draft their keys behind the same stored pages."""
    model, x, prompts, shot, _ = scene()
    _, cache = stream(model, x, prompts, shot, 1, policy)
    condition = Condition(prompts, shot[:, -1:])
    one, other = (cache.snapshot().open(7, shot[:, -1]) for _ in range(2))
    noise, noise_2 = x[:, :1], x[:, 1:2]
    t = torch.ones(2, 1)

    def alone(noise):
        opened = cache.snapshot().open(7, shot[:, -1])
        model(noise, t, condition, opened)
        made = model(noise / 2, t / 2, condition, opened)
        clean = opened.record()
        return made, model(noise / 3, 0 * t, condition, clean), clean

    wanted, wanted_2 = alone(noise), alone(noise_2)
    model(noise, t, condition, one)
    model(noise_2, t, condition, other)
    assert torch.equal(model(noise / 2, t / 2, condition, one), wanted[0])
    assert torch.equal(model(noise_2 / 2, t / 2, condition, other), wanted_2[0])
    cleans = one.record(), other.record()
    assert torch.equal(model(noise / 3, 0 * t, condition, cleans[0]), wanted[1])
    assert torch.equal(model(noise_2 / 3, 0 * t, condition, cleans[1]), wanted_2[1])
    for clean, (_, _, expected) in zip(cleans, (wanted, wanted_2), strict=True):
        clean.cache.append(clean)
        for layer, (keys, values) in clean.cache.layers.items():
            assert torch.equal(keys.all(8)[:, 7], expected.written[layer].keys)
            assert torch.equal(values.all(8)[:, 7], expected.written[layer].values)
            assert torch.equal(keys.all(7), cache.layers[layer][0].all(7))


@torch.no_grad()
def test_stored_keys_are_rotated_once_and_can_be_turned_back():
    """Under every placing of positions the store holds keys at their true places in the film."""
    model, x, prompts, shot, _ = scene()
    caches = [
        stream(model, x, prompts, shot, 1, Window(window=0, positions=positions))[1]
        for positions in ("absolute", "packed")
    ]
    raw = caches[0].unrotated(0, torch.arange(7)[None])
    rope = caches[0].rope
    for cache in caches:  # of the first layer, whose keys no history has changed
        stored = cache.layers[0][0].all(7)
        again = rope.rotate(raw.flatten(1, 2), rope.freqs_from(0, 7))
        assert torch.allclose(stored.flatten(1, 2), again, atol=1e-5)
    assert torch.equal(caches[0].layers[0][0].all(7), caches[1].layers[0][0].all(7))


def test_a_moved_key_is_the_one_that_was_rotated_there():
    torch.manual_seed(0)
    rope = Rope(24, 2, 3)
    x = torch.randn(2, 4 * 6, 3, 24)
    at = torch.tensor([5, 9, 30, 31])
    to = torch.tensor([5, 12, 2, 31])
    keys = rope.rotate(x, rope.freqs(at))
    before = keys.clone()
    rope.move_(keys, rope.turns(to - at)[None, None])
    assert torch.allclose(keys, rope.rotate(x, rope.freqs(to)), atol=1e-5)
    still = [slice(0, 6), slice(18, 24)]  # moved by 0: the same bits
    assert all(torch.equal(keys[:, part], before[:, part]) for part in still)
    assert torch.equal(rope.freqs_from(5, 3), rope.freqs(torch.arange(5, 8)))


@torch.no_grad()
def test_a_request_changes_the_policy_from_its_chunk_on():
    model, x, prompts, shot, _ = scene()
    maker = chunk_model(model, model, x, prompts, sampling=Sampling(2, "consistency", 1.0))
    wanted = requests(shot, shot, [5, 6])
    wanted[4] = [replace(one, policy=Window(window=1)) for one in wanted[4]]
    cache = KVCache(Full(), 1)
    list(rollout(maker, RolloutState(0, cache), wanted))
    kept = cache.routing_table().groupby("chunk").kept_chunk.nunique()
    assert kept.loc[3] == 3 and kept.loc[4] == kept.loc[6] == 1


@torch.no_grad()
def test_an_open_chunk_holds_no_store_twice_and_nothing_once_it_is_stored():
    model, x, prompts, shot, _ = scene(1, batch=1)
    _, cache = stream(model, x, prompts[:1], shot[:1], 1, Full())
    condition = Condition(prompts[:1], shot[:1, -1:]).encoded(model)
    opened = cache.open(7, shot[:1, -1])
    for store in cache.layers[0]:
        store.buffer = store.buffer[:, :7].clone()  # full: the chunk's own draft makes it grow
    model(x[:, :1], torch.ones(1, 1), condition, opened)
    held = opened._retrieved[0].keys.untyped_storage().data_ptr()
    assert held == cache.layers[0][0].buffer.untyped_storage().data_ptr()
    clean = opened.record()
    model(x[:, :1], torch.zeros(1, 1), condition, clean)
    cache.append(clean)
    assert not (
        opened._retrieved or opened._buffers or clean._retrieved or clean._buffers or clean.written
    )
