"""How a step is computed on a device: numbers drawn there, clips gathered there, its columns read
one step late, its blocks compiled. On the CPU each is held against the plain way.
"""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from test_train import Fake, model, parts_of, rows_of, same
from torch._dynamo.testing import CompileCounterWithBackend

from cinelab.config import read_mapping
from cinelab.data.toybox import build_toybox
from cinelab.errors import CinelabError
from cinelab.files import read_lines, write_json
from cinelab.latent.codec import ToyCodec, ToyCodecConfig
from cinelab.latent.placed import PlacedClips, placed
from cinelab.latent.store import Store, StoreConfig
from cinelab.memory.context import FULL_HISTORY, HistoryPolicy
from cinelab.memory.policy import CAMR, Full
from cinelab.memory.routing import choose_all, choose_together, past_priorities
from cinelab.ops.tiling import ChunkMask, causal_tiles
from cinelab.runs import Run
from cinelab.seeds import CounterGenerator, rng_at
from cinelab.train import (
    bidirectional,
    computing,
    consistency,
    dmd,
    loop,
    ode,
    presets,
    teacher_forcing,
)
from cinelab.train.compiled import with_compiled_blocks
from cinelab.train.loop import Learner, train
from cinelab.train.optim import Ema
from cinelab.train.provenance import data_of
from cinelab.train.stage import stage_named
from cinelab.zoo.checkpoints import toy_encoder

CONFIG = replace(presets.teacher_forcing("smoke"), bf16=False)


def trained(folder, config=CONFIG, data=None, *, cut=False):
    """Rows without their seconds; `cut` after the save of the second step."""
    run = Run(folder, config)
    stage = stage_named("teacher_forcing")
    rows = []
    for row in stage.train(config, data or Fake(), {"student": model()}, run=run):
        rows.append({name: value for name, value in row.items() if name != "seconds"})
        if cut and row["step"] == 1:
            break
    return rows


# Where random numbers are drawn


def test_a_run_on_the_host_draws_what_it_did_and_one_on_the_device_other_numbers(tmp_path):
    plain = trained(tmp_path / "auto")
    assert trained(tmp_path / "host", replace(CONFIG, draws="host")) == plain
    assert trained(tmp_path / "device", replace(CONFIG, draws="device")) != plain


def test_a_run_goes_on_drawing_where_it_began(tmp_path):
    device = replace(CONFIG, draws="device")
    whole = trained(tmp_path / "whole", device)
    trained(tmp_path / "cut", device, cut=True)
    # here auto is the host, and the run goes on with the device's numbers
    assert trained(tmp_path / "cut", CONFIG)[-1] == whole[-1]
    with pytest.raises(CinelabError, match="on the device so far, and draws is 'host'; set it to"):
        trained(tmp_path / "cut", replace(CONFIG, draws="host", steps=5))


def test_a_run_of_before_it_was_noted_drew_on_the_host(tmp_path):
    trained(tmp_path, cut=True)
    older = read_mapping(tmp_path / "config.json")
    assert older.pop("drawn_at") == "host" and older.pop("draws") == "auto"
    write_json(tmp_path / "config.json", older)
    with pytest.raises(CinelabError, match="on the host so far"):
        trained(tmp_path, replace(CONFIG, draws="device"))


def test_settings_of_other_places_are_refused():
    with pytest.raises(CinelabError, match="draws is 'gpu'; use auto, host or device"):
        replace(CONFIG, draws="gpu")
    with pytest.raises(CinelabError, match="compiled is 'yes'; use auto, true or false"):
        replace(CONFIG, compiled="yes")


def counters(*place):
    return rng_at(5, *place, kind=CounterGenerator)


@pytest.mark.parametrize("stage", ["bidirectional", "teacher_forcing", "ode", "consistency", "dmd"])
def test_a_loss_of_every_stage_lies_on_the_device_that_its_clips_are_on(stage):
    """On meta tensors: a tensor of the host that meets one of the device raises."""
    net = model().to("meta")
    clips = placed(Fake(), "meta").clips(2, 4, counters("clips"))
    assert losses(stage, net, clips).device.type == "meta"


def losses(stage, net, clips):
    config = replace(getattr(presets, stage)("smoke"), bf16=False)
    rng = counters("loss")
    if stage == "bidirectional":
        return bidirectional.loss(net, clips, config, rng)
    if stage == "teacher_forcing":
        return teacher_forcing.loss(net, clips, config, FULL_HISTORY, rng)
    if stage == "ode":
        states = clips.latents[:, None].expand(-1, 4, -1, -1, -1, -1)
        return ode.loss(net, clips, states, clips.latents, config, rng)
    if stage == "consistency":
        grid = consistency.grid_at(config, 0)
        ema = Ema(net, 0.9)
        return consistency.loss(net, ema, net, clips, grid, config, FULL_HISTORY, rng)
    x, t, eps = dmd.noised_at_random(clips.latents, config, rng)
    return (dmd.score_velocity(net, x, x, t, clips, config, 2.0) - eps).mean()


# Clips where they are trained on


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    config = StoreConfig(films=6, latents=8, shard=3)
    small = ToyCodecConfig(width=8, deep=8)

    for _ in build_toybox(folder, config, ToyCodec(small), toy_encoder(), "none"):
        pass
    return Store(folder, toy_encoder())


@pytest.mark.parametrize("kind", [torch.Generator, CounterGenerator])
def test_a_placed_store_gives_the_clips_of_the_plain_one(kind, store, monkeypatch):
    """Another device than the CPU gives all batches the prompts of the fullest: what no frame
    reads is added, and what they read is the same."""
    there = store.placed("cpu")
    assert there is store
    there = store.placed("meta")
    for step in range(4):
        plain = store.clips(5, 4, rng_at(1, step, kind=kind))
        on_device = there.clips(5, 4, rng_at(1, step, kind=kind))
        assert on_device.latents.shape == plain.latents.shape
        assert on_device.text.device.type == on_device.slot.device.type == "meta"
        assert on_device.null == there.clips(1, 4, rng_at(2)).null >= plain.null
    monkeypatch.setattr(Store, "_used", lambda self, relative, frames: 6)
    padded = store.clips(5, 4, rng_at(1, 3, kind=kind))
    assert torch.equal(padded.latents, plain.latents) and torch.equal(padded.slot, plain.slot)
    used = plain.null
    assert torch.equal(padded.text[:, :used], plain.text[:, :used])
    assert not padded.text[:, -1].any()


def test_other_stores_are_sent_clip_by_clip(store):
    there = placed(Fake(), "meta")
    assert isinstance(there, PlacedClips)
    clips = there.clips(2, 3, rng_at(0))
    kinds = {x.device.type for x in (clips.latents, clips.text, clips.slot, clips.shot)}
    assert kinds == {"meta"} and placed(Fake(), "cpu").__class__ is Fake
    wrapped = PlacedClips(store, "meta")
    assert wrapped.recipe == store.recipe and len(wrapped) == len(store)
    assert data_of(wrapped) == data_of(store) and placed(wrapped, "meta").recipe == store.recipe


# What a GPU computes together and a CPU one after another


@pytest.mark.parametrize("policy", [CAMR(budget=3), CAMR(budget=4, sink=1, shot_sink=1)])
def test_all_chunks_choose_together_as_one_by_one(policy):
    shots = torch.tensor([[0, 0, 1, 1, 2, 0, 0], [0, 1, 1, 1, 2, 3, 3]])
    priorities = past_priorities(policy, shots)
    scores = torch.rand(2, 3, 7, 7, generator=rng_at(4))
    together = choose_together(policy, priorities, scores)
    assert torch.equal(together, choose_all(policy, priorities, scores))


def test_few_tokens_are_one_tile_on_a_device_and_attend_to_the_same(monkeypatch):
    n = 10
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    clean = torch.cat([allowed, torch.zeros_like(allowed)], dim=1)
    own = torch.cat([torch.zeros_like(allowed), torch.eye(n, dtype=torch.bool)], dim=1)
    noisy = torch.cat([allowed & ~torch.eye(n, dtype=torch.bool), own[:, n:]], dim=1)
    mask = torch.cat([clean, noisy])[None, None]
    q, k, v = (torch.randn(2, 2 * n * 3, 2, 8, generator=rng_at(i)) for i in range(3))
    tiles = ChunkMask(mask, causal_tiles(n, 2))
    assert len(tiles._biases_of(3, q.dtype)) == 2
    assert len(ChunkMask(mask.to("meta"), causal_tiles(n, 2))._biases_of(3, q.dtype)) == 1
    monkeypatch.setattr(ChunkMask, "_chunks_a_tile", lambda self, tokens: 2 * n)
    whole = ChunkMask(mask, causal_tiles(n, 2))
    torch.testing.assert_close(whole.attend(q, k, v), tiles.attend(q, k, v))


# Columns that are read one step late


def late(monkeypatch):
    made = classmethod(
        lambda cls, config, run, model, processes: cls(processes, torch.Generator, True)
    )
    monkeypatch.setattr(loop.Launching, "of", made)


def test_a_log_that_is_read_late_is_the_same(tmp_path, monkeypatch):
    plain = trained(tmp_path / "plain")
    late(monkeypatch)
    assert trained(tmp_path / "late") == plain
    assert rows_of(tmp_path / "plain") == rows_of(tmp_path / "late")
    assert same(parts_of(tmp_path / "plain"), parts_of(tmp_path / "late"))
    trained(tmp_path / "cut", cut=True)
    assert trained(tmp_path / "cut")[-1] == plain[-1]
    assert rows_of(tmp_path / "plain") == rows_of(tmp_path / "cut")


@pytest.mark.parametrize("policy", [Full(), CAMR(budget=2)], ids=["full", "camr"])
def test_a_step_on_a_device_waits_for_nothing(policy, monkeypatch):
    """Meta tensors have no numbers: whoever asked for one would be refused."""
    monkeypatch.setattr(loop, "device_kind", lambda net: "cpu")  # autocast knows no meta
    how = loop.Launching(loop.OneProcess(), CounterGenerator, late=True)
    data = placed(Fake(), "meta")

    def loss(net, step, micro_batch, rng):
        clips = data.clips(2, 4, rng)
        return teacher_forcing.loss(net, clips, CONFIG, HistoryPolicy(policy), rng), {"frames": 4}

    learner = Learner(model().to("meta"), loss, CONFIG.optim)
    columns = loop.optimization_step(learner, 0, CONFIG, how)
    assert columns["loss"].is_meta and columns["grad_norm"].is_meta and columns["frames"] == 4


def test_a_loss_that_is_not_finite_is_told_with_its_step_though_read_late(tmp_path, monkeypatch):
    late(monkeypatch)
    config = replace(CONFIG, steps=9, save_every=2)

    def loss(net, step, micro_batch, rng):
        return net.proj_out.weight.square().sum() * (math.nan if step == 3 else 1.0) + 1, {}

    run = Run(tmp_path, config)
    with pytest.raises(CinelabError, match="The loss is nan at step 3; lower optim.lr and resume"):
        list(train([Learner(model(), loss, config.optim)], config, run))
    assert [row["step"] for row in read_lines(tmp_path / "log.jsonl")] == [0, 1, 2]
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 2 and state["parts"]["model"]["proj_out.weight"].isfinite().all()


def test_too_little_memory_is_one_sentence_and_the_last_save_stays(tmp_path):
    config = replace(CONFIG, steps=9, save_every=2)

    def loss(net, step, micro_batch, rng):
        if step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return net.proj_out.weight.square().sum(), {}

    run = Run(tmp_path, config)
    with pytest.raises(CinelabError, match="^Step 3 needs more memory.*20.00 GiB.*from step 2, or"):
        list(train([Learner(model(), loss, config.optim)], config, run))
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 2


# Settings of one H100


@pytest.mark.parametrize("name", ["bidirectional", "teacher_forcing", "ode", "consistency", "dmd"])
def test_every_stage_has_a_preset_of_one_h100_with_the_toyboxs_network(name):
    toy, h100 = (getattr(presets, name)(preset, seed=3) for preset in ("toy", "h100"))
    assert h100.model == toy.model and h100.seed == 3 and h100.steps > toy.steps
    stage = stage_named(name)
    assert stage.span(h100) <= presets.store("h100").latents


def test_what_is_rendered_for_an_h100_is_more():
    for name in ("store", "codec", "recogniser", "pairs"):
        toy, h100 = (getattr(presets, name)(preset) for preset in ("toy", "h100"))
        count = "films" if name == "store" else "clips"
        assert getattr(h100, count) > getattr(toy, count)


def test_clips_that_are_longer_than_the_films_are_refused(store):
    with pytest.raises(CinelabError, match="films of 8 latent frames, and clips of 9 were asked"):
        store.clips(1, 9, rng_at(0))


# Compiled blocks


def gradients(net, backend=None):
    torch._dynamo.reset()
    net = with_compiled_blocks(net, backend) if backend else net
    clips = Fake().clips(2, 4, rng_at(0))
    loss = teacher_forcing.loss(net, clips, CONFIG, FULL_HISTORY, rng_at(1))
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in net.parameters()])


def test_compiled_blocks_equal_plain_ones_to_rounding_and_are_compiled_once():
    seeded = model()
    for weight in seeded.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=rng_at(2)))
    plain = gradients(seeded)
    seeded.zero_grad()
    # not inductor, whose C++ takes a minute to compile; with it the test passes as well
    counter = CompileCounterWithBackend("aot_eager")
    found = gradients(seeded, counter)
    assert counter.frame_count == 2  # two halves, for all blocks
    assert found[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=1e-5)


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights():
    net = with_compiled_blocks(model(), "eager")
    other = deepcopy(net)
    assert other.blocks[0].pre_attention.__self__ is other.blocks[0]
    assert net.state_dict().keys() == model().state_dict().keys()


def test_a_long_training_on_one_gpu_is_compiled(monkeypatch):
    monkeypatch.setattr(computing, "find_spec", lambda name: name == "triton")
    long = replace(CONFIG, steps=2000)
    assert computing.is_compiled(long, "cuda") and not computing.is_compiled(CONFIG, "cuda")
    assert not computing.is_compiled(long, "cpu") and not computing.is_compiled(long, "cuda", 8)
    assert computing.is_compiled(replace(CONFIG, compiled=True), "cpu")
    assert not computing.is_compiled(replace(long, compiled=False), "cuda")


def test_what_cannot_be_compiled_is_one_sentence():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    net = with_compiled_blocks(model(), broken)
    clips = Fake().clips(1, 2, rng_at(0))
    with pytest.raises(CinelabError, match="^torch cannot compile the network's blocks here"):
        teacher_forcing.loss(net, clips, CONFIG, FULL_HISTORY, rng_at(1))
