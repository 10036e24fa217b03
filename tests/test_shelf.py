"""Where the history is kept changes nothing of what is seen: host memory bit for bit, packed within
its step."""

import pytest
import torch
from test_memory import scene, stream

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.policy import CAMR, Full, Sink, Window
from cinelab.memory.routing import mass_score, mean_score, pool, relevance
from cinelab.memory.store import DeviceKVStore, Storage
from cinelab.scale.host_kv import HostKVStore, PagePool
from cinelab.scale.quantized_kv import QuantizedKVStore, dequantize, quantize

POLICIES = [
    Full(),
    Window(window=2),
    Sink(sink=1, window=2),
    CAMR(budget=3),
    CAMR(budget=3, per_head=False),
    CAMR(budget=3, summary=3),
    CAMR(budget=3, positions="packed", summary=2),
]
HOST = [Storage("host", slots=3), Storage("host", slots=1), Storage("host", slots=12)]


def made(policy, storage, chunk=2):
    model, x, prompts, shot, _ = scene(chunk)
    return stream(model, x, prompts, shot, chunk, policy, storage=storage)


@pytest.mark.parametrize("storage", HOST, ids=repr)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@torch.no_grad()
def test_host_memory_is_the_same_film(policy, storage):
    here, kept = made(policy, Storage())
    there, memory = made(policy, storage)
    assert torch.equal(here, there)
    assert (
        isinstance(memory.layers[0][0], HostKVStore)
        and memory.retrieved_bytes() == kept.retrieved_bytes()
    )
    assert [len(pages.pages) for pages in memory.layers[0]] == [7, 7]


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(("packing", "error"), [("int8", 0.03), ("fp8", 0.15)])
@torch.no_grad()
def test_packed_history_is_nearly_the_same_film(place, packing, error):
    policy = Sink(sink=1, window=2)
    here, whole = made(policy, Storage())
    there, memory = made(policy, Storage(place, packing))
    far, _ = made(Window(window=1), Storage())
    off = (here - there).abs().mean() / here.std()
    assert 0 < off < error and off < (here - far).abs().mean() / here.std()
    # a byte for four, and a scale for sixteen numbers
    assert memory.retrieved_bytes() == whole.retrieved_bytes() * (16 + 4) / (4 * 16)


@torch.no_grad()
def test_a_path_has_one_buffer_however_it_grows_and_a_branch_its_own():
    units = torch.randn(1, 60, 2, 1, 4)
    shelf = DeviceKVStore()
    path = []
    branch = None
    for n in range(50):
        shelf = shelf.append(units[:, n : n + 1], n)
        path.append(shelf)
        if n == 40:
            branch = path[9].append(-units[:, 50:51], 10)
    assert (
        len({one.buffer.data_ptr() for one in path})
        == 1
        != len({shelf.buffer.data_ptr(), branch.buffer.data_ptr()})
    )
    assert all(torch.equal(one.all(n + 1), units[:, : n + 1]) for n, one in enumerate(path))
    assert torch.equal(branch.all(11), torch.cat([units[:, :10], -units[:, 50:51]], 1))


@torch.no_grad()
def test_a_branch_from_host_memory_disturbs_nobody():
    torch.manual_seed(3)
    units = torch.randn(1, 6, 4, 2, 8)
    shelf = HostKVStore(PagePool(2))
    for n in range(4):
        shelf = shelf.append(units[:, n : n + 1], n)
    other = shelf.append(-units[:, 4:5], 2)  # goes on after two
    shelf = shelf.append(units[:, 4:5], 4)
    assert torch.equal(shelf.all(5), units[:, :5])
    assert torch.equal(other.all(3), torch.cat([units[:, :2], -units[:, 4:5]], 1))
    assert torch.equal(shelf.all(5), units[:, :5])


@torch.no_grad()
def test_heads_that_ask_for_more_than_the_slots_get_it():
    torch.manual_seed(3)
    units = torch.randn(1, 9, 4, 3, 8)
    shelf = HostKVStore(PagePool(2)).append(units, 0)
    plain = DeviceKVStore().append(units, 0)
    picks = torch.tensor([[[0, 1], [3, 4], [7, 8]]])  # six units for three heads
    assert torch.equal(shelf.take(picks, 9), plain.take(picks, 9)) and shelf.pool.room == 6
    again = torch.tensor([[[2, 5], [2, 6], [5, 6]]])
    assert torch.equal(shelf.take(again, 9), plain.take(again, 9)) and shelf.pool.room == 6


def test_packing_is_off_by_half_a_step_at_most():
    torch.manual_seed(3)
    x = torch.randn(2, 3, 4, 2, 16) * torch.logspace(-3, 3, 16)
    for packing, share in (("int8", 0.5 / 127), ("fp8", 1 / 16)):
        numbers, scale = quantize(x, packing)
        assert numbers.dtype == torch.uint8
        assert (
            (dequantize(numbers, scale, packing, x.dtype) - x).abs()
            <= share * x.abs().amax(-1, keepdim=True) + 1e-6
        ).all()
    zero = torch.zeros(1, 1, 1, 1, 4)
    assert torch.equal(dequantize(*quantize(zero, "fp8"), "fp8", zero.dtype), zero)


def test_a_forked_shelf_keeps_both_ends():
    shelf = DeviceKVStore().append(torch.zeros(1, 2, 1, 1, 1), 0)
    one, two = (
        shelf.append(torch.ones(1, 1, 1, 1, 1), 2),
        shelf.append(torch.full((1, 1, 1, 1, 1), 2.0), 2),
    )
    assert one.all(3).flatten().tolist() == [0, 0, 1] and two.all(3).flatten().tolist() == [0, 0, 2]


def test_a_summary_of_every_token_is_the_whole_search_and_one_token_the_mean():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 6, 3, 8), torch.randn(2, 5, 6, 3, 8)
    assert torch.equal(relevance(CAMR(summary=6, per_head=True), q, k), mass_score(q, k, None))
    ours = relevance(CAMR(summary=1, per_head=True), q, k)
    mean = mean_score(q, k)
    assert torch.equal(ours.argsort(-1), mean.argsort(-1))  # softmax over units keeps their order
    assert torch.equal(pool(pool(k, 3), 3), pool(k, 3)) and pool(k, 3).shape == (2, 5, 3, 3, 8)
    assert torch.allclose(pool(k, 3)[:, :, 0], k[:, :, :2].mean(2))


@torch.no_grad()
def test_the_summaries_catch_up_when_the_policy_changes_and_forks_keep_their_own():
    model, x, prompts, shot, _ = scene(1)
    _, memory = stream(model, x, prompts, shot, 1, Full())
    assert not memory.summaries
    from dataclasses import replace

    fork = replace(memory.snapshot(), policy=CAMR(budget=3, summary=2))
    text = model.encode_text(prompts)
    for one, tokens in ((fork, 2), (replace(fork.snapshot(), policy=CAMR(budget=3, summary=3)), 3)):
        opened = one.open(7, shot[:, -1])
        model(x[:, :1], torch.ones(2, 1), Condition(text, shot[:, -1:]), opened)
        kept = one.summaries[0]
        keys = one.unrotated(0, torch.arange(7)[None])
        assert (kept.done, kept.tokens) == (7, tokens) and torch.allclose(
            kept.pages.all(7), pool(keys, tokens)
        )
    assert not memory.summaries and fork.summaries[0].tokens == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"place": "disk"}, "storage.place is 'disk'"),
        ({"packing": "int4"}, "int4"),
        ({"slots": 0}, "storage.slots is 0"),
    ],
)
def test_bad_storage_is_one_sentence(settings, said):
    with pytest.raises(CinelabError, match=said):
        Storage(**settings)


def test_bad_summaries_are_one_sentence():
    with pytest.raises(CinelabError, match="summary is 0"):
        CAMR(summary=0)
    few = torch.zeros(1, 1, 6, 1, 2)
    assert pool(few, 7) is few  # a unit of fewer tokens is searched whole
    with pytest.raises(CinelabError, match="candidates is 15; give at least 16"):
        CAMR(candidates=15)
    assert CAMR(budget=500).compared == 516 and CAMR().compared == 128


def test_packed_shelves_fork_as_plain_ones():
    torch.manual_seed(0)
    units = torch.randn(1, 3, 4, 2, 8)
    shelf = QuantizedKVStore("int8", DeviceKVStore(), DeviceKVStore()).append(units[:, :2], 0)
    one, two = shelf.append(units[:, 2:], 2), shelf.append(-units[:, 2:], 2)
    assert torch.allclose(one.all(3), units, atol=0.03) and torch.allclose(
        two.all(3)[:, 2], -units[:, 2], atol=0.03
    )


@pytest.mark.parametrize(
    "storage", [Storage("host"), Storage("host", "int8"), Storage(packing="fp8")], ids=repr
)
def test_gradients_are_refused_where_they_would_be_lost(storage):
    units = torch.randn(1, 2, 4, 2, 8)
    with pytest.raises(
        CinelabError, match="keeps no gradients.*to train, or call the model under torch.no_grad"
    ):
        storage.new_store().append(units.clone().requires_grad_(), 0)
    with torch.no_grad():
        shelf = storage.new_store().append(units.clone().requires_grad_(), 0)
        assert shelf.all(2).shape == units.shape
    # what was kept without gradients must not be asked for under them either
    if storage.place == "host":
        with pytest.raises(CinelabError, match="place 'host' keeps no gradients"):
            shelf.all(2)


def test_a_model_that_is_trained_does_not_stream_from_host_memory():
    model, x, prompts, shot, _ = scene(1)
    model.requires_grad_(True)
    with pytest.raises(CinelabError, match="place 'host' keeps no gradients"):
        stream(model, x, prompts, shot, 1, Full(), storage=Storage("host"))
