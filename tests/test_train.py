"""Training: killed and resumed equals uninterrupted, bit for bit; the loss falls; bad states stop
with a sentence."""

import json
from dataclasses import replace

import pytest
import torch

from cinelab.data.toybox import build_toybox
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.latent.store import Clips, Store, StoreConfig
from cinelab.memory.context import FULL_HISTORY, HistoryPolicy, TeacherForcingContext
from cinelab.memory.policy import CAMR, Full
from cinelab.model.wan import CausalWan, init_toy
from cinelab.runs import Run
from cinelab.seeds import rng_at
from cinelab.train import bidirectional, presets, teacher_forcing
from cinelab.zoo.checkpoints import toy_encoder


class Fake:
    """A store of random latents with the real one's verb."""

    def clips(self, count, frames, rng):
        slot = (torch.arange(frames) // 3).expand(count, -1)
        text = torch.randn(count, 4, 24, 64, generator=rng)
        text[:, -1] = 0
        return Clips(
            torch.randn(count, frames, 24, 6, 8, generator=rng), text, slot.clamp(max=2), slot
        )


def model():
    torch.manual_seed(0)
    return init_toy(CausalWan(presets.SMOKE))


STAGES = [
    (bidirectional, presets.bidirectional("smoke")),
    (teacher_forcing, presets.teacher_forcing("smoke")),
]


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def parts_of(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["parts"]


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("stage, config", STAGES, ids=["bidirectional", "teacher_forcing"])
def test_killed_and_resumed_equals_uninterrupted_bitwise(stage, config, tmp_path):
    for _ in stage.train(config, model(), Fake(), Run(tmp_path / "whole", config)):
        pass
    broken = stage.train(config, model(), Fake(), Run(tmp_path / "broken", config))
    for row in broken:
        if row["step"] == 2:  # one step after the save at 2: its row must be dropped and made again
            break
    broken.close()
    resumed = Run(tmp_path / "broken", config)
    for _ in stage.train(config, model(), Fake(), resumed):
        pass
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "broken")
    assert same(parts_of(tmp_path / "whole"), parts_of(tmp_path / "broken"))
    assert resumed.done


def test_a_run_with_other_settings_is_refused_by_name(tmp_path):
    config = presets.bidirectional("smoke")
    Run(tmp_path, config)
    with pytest.raises(CinelabError, match="started with shift=2.0, not 3.0"):
        Run(tmp_path, replace(config, shift=3.0))
    Run(tmp_path, replace(config, steps=9))  # more steps are a resume


def test_a_broken_checkpoint_says_what_to_do(tmp_path):
    config = presets.bidirectional("smoke")
    run = Run(tmp_path, config)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"cut short")
    with pytest.raises(CinelabError, match="remove it to start this run afresh"):
        run.restore(model=model())


def test_a_non_finite_loss_stops_with_the_step(tmp_path):
    config = presets.bidirectional("smoke")
    bad = model()
    with torch.no_grad():
        bad.proj_out.bias.fill_(float("nan"))
    with pytest.raises(CinelabError, match="nan at step 0"):
        next(bidirectional.train(config, bad, Fake(), Run(tmp_path, config)))


@pytest.mark.parametrize("policy", [Full(), CAMR(budget=2)], ids=["full", "camr"])
def test_teacher_forcing_learns_one_batch(policy):
    config = presets.teacher_forcing("smoke")
    net = model()
    clips = Fake().clips(2, 6, rng_at(0, "clips"))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        history = HistoryPolicy(policy)
        loss = teacher_forcing.loss(net, clips, config, history, rng_at(0, "same"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_noisy_half_never_sees_its_own_clean_chunk():
    config = presets.teacher_forcing("smoke")
    net = CausalWan(presets.SMOKE)
    clips = Fake().clips(1, 4, rng_at(1, "clips"))
    x0 = clips.latents.clone().requires_grad_()
    eps = torch.randn(x0.shape)
    # at t = 1 the noisy half holds no data, so all it knows comes from the clean half
    t = torch.full((1, 4), 1.0)
    context = TeacherForcingContext(Full(), clips.shot, config.chunk)
    xt = (1 - t)[..., None, None, None] * x0.detach() + t[..., None, None, None] * eps
    out = net(
        torch.cat([x0, xt], 1),
        torch.cat([torch.zeros_like(t), t], 1),
        Condition(clips.text, torch.cat([clips.slot, clips.slot], 1)),
        context,
    )
    out[:, 4 + 2].square().sum().backward()  # the noisy copy of chunk 2
    touched = x0.grad[0].abs().sum(dim=(1, 2, 3)) > 0
    assert touched.tolist() == [True, True, False, False]


def test_curriculum_grows_and_camr_comes_late():
    config = replace(presets.teacher_forcing("toy"), curriculum=(8, 16, 24))
    assert [
        teacher_forcing.clip_length(config, s) for s in (0, config.steps // 2, config.steps - 1)
    ] == [8, 16, 24]
    early = {teacher_forcing.history_at(config, s) for s in range(100)}
    late = {teacher_forcing.history_at(config, s) for s in range(config.steps - 100, config.steps)}
    assert early == {FULL_HISTORY}
    others = HistoryPolicy(Full(), other_shots=True)
    assert late == {FULL_HISTORY, others, HistoryPolicy(config.camr)}


def test_store_is_resumable_and_belongs_to_one_codec(tmp_path):
    from cinelab.zoo.checkpoints import load_codec

    codec = load_codec()
    encoder = toy_encoder()
    config = StoreConfig(seed=3, films=4, latents=6, shard=2)
    first = build_toybox(tmp_path, config, codec, encoder, "abc")
    next(first)  # killed after one shard
    first.close()
    assert list(build_toybox(tmp_path, config, codec, encoder, "abc")) == [4]
    store = Store(tmp_path, encoder)
    clips = store.clips(3, 4, rng_at(0))
    again = store.clips(3, 4, rng_at(0))
    assert torch.equal(clips.latents, again.latents) and clips.latents.shape == (3, 4, 24, 6, 8)
    assert (clips.text[:, -1] == 0).all() and int(clips.slot.max()) < clips.null
    with pytest.raises(CinelabError, match="codec='abc'"):
        next(build_toybox(tmp_path, config, codec, encoder, "another"))


def test_a_run_of_before_a_setting_had_a_name_is_resumed_where_it_means_the_same(tmp_path):
    config = presets.teacher_forcing("smoke")
    Run(tmp_path, config)
    place = tmp_path / "config.json"
    old = json.loads(place.read_text())
    del old["optim"]["clip"], old["drop_text"]
    place.write_text(json.dumps(old))
    Run(tmp_path, config)  # both were their defaults then
    place.write_text(json.dumps(old))
    with pytest.raises(CinelabError, match="drop_text=0.1, not 0.0"):
        Run(tmp_path, replace(config, drop_text=0.0))


def test_a_run_with_one_level_a_clip_is_not_resumed_with_one_a_chunk(tmp_path):
    config = presets.ode("smoke", "bidirectional")
    Run(tmp_path, config)
    place = tmp_path / "config.json"
    old = json.loads(place.read_text())
    del old["levels"]
    place.write_text(json.dumps(old))
    with pytest.raises(CinelabError, match="levels=None, not 'chunk'"):
        Run(tmp_path, config)
