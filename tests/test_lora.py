"""Adapters: nothing changes before training, they alone are trained and kept, and merged they are the same model."""

import json
from copy import deepcopy

import processes
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train import Fake

from cinelab.errors import CinelabError
from cinelab.memory.sight import Bidirectional
from cinelab.train.loop import Learner, averaged
from cinelab.train.lora import Lora, adapters, add_lora, load_lora, mark, merge_lora, save_lora
from cinelab.train.optim import Optim
from cinelab.train.parallel import Parallel

LORA = Lora(rank=3, alpha=6.0)


def plain(seed=0):
    return processes.model(Parallel.here(), seed, frozen=True)


def shown(model):
    clips = Fake().clips(1, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(clips.latents, torch.full((1, 3), 0.5), clips.text, clips.slot, Bidirectional(torch.arange(3)))


def trained():
    """A base with adapters that do something."""
    model, lots = add_lora(plain(), LORA), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=lots))
    return model


def test_new_adapters_change_nothing_and_alone_are_trained():
    base, model = plain(), add_lora(plain(), LORA)
    assert torch.equal(shown(base), shown(model))
    assert all(weight.requires_grad == (".lora_" in name) for name, weight in model.named_parameters())
    learner = Learner(model, lambda *_: None, Optim())
    tuned = {id(weight) for group in learner.optimiser.param_groups for weight in group["params"]}
    assert tuned == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert set(learner.ema.values) == {name for name in model.state_dict() if ".lora_" in name}
    assert torch.equal(shown(averaged(learner)), shown(base))


def test_loaded_and_merged_are_the_model_that_was_saved(tmp_path):
    model, base = trained(), plain()
    path = save_lora(tmp_path / "lora.safetensors", model.state_dict(), LORA, mark(base.state_dict().items()))
    assert len(load_file(path)) == len(adapters(model.state_dict())) == 2 * 10 * len(base.blocks)
    loaded = deepcopy(base)
    assert load_lora(loaded, path) == LORA
    assert torch.equal(shown(loaded), shown(model)) and not torch.allclose(shown(loaded), shown(base), atol=1e-3)
    merged = merge_lora(loaded)
    assert merged.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(shown(merged), shown(model), atol=1e-5, rtol=1e-4)


def test_diffusers_and_peft_read_what_we_write(tmp_path):
    """By name and scale, into a model of theirs."""
    diffusers = pytest.importorskip("diffusers")
    model, base = trained(), plain()
    path = save_lora(tmp_path / "lora.safetensors", model.state_dict(), LORA, "any")
    c = base.config
    theirs = diffusers.WanTransformer3DModel(c.patch_size, c.num_attention_heads, c.attention_head_dim, c.in_channels, c.out_channels,
                                             c.text_dim, c.freq_dim, c.ffn_dim, c.num_layers)
    theirs.load_state_dict(base.state_dict())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
    theirs.load_lora_adapter(load_file(path), prefix="transformer", metadata=about)
    clips = Fake().clips(1, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = theirs(clips.latents.transpose(1, 2), torch.full((1,), 500.0), clips.text[:, 0], return_dict=False)[0].transpose(1, 2)
        ours = model(clips.latents, torch.full((1, 3), 0.5), clips.text[:, :1], torch.zeros(1, 3, dtype=torch.long),
                     Bidirectional(torch.arange(3)))
    torch.testing.assert_close(ours, out, atol=1e-4, rtol=1e-3)


def test_the_mark_is_of_the_base_alone():
    base = plain()
    assert mark(base.state_dict().items()) == mark(trained().state_dict().items())
    assert mark(base.state_dict().items()) == mark(deepcopy(base).bfloat16().state_dict().items())
    assert mark(base.state_dict().items()) != mark(plain(1).state_dict().items())


def test_bad_adapters_are_one_sentence(tmp_path):
    path = save_lora(tmp_path / "lora.safetensors", trained().state_dict(), LORA, mark(plain().state_dict().items()))
    with pytest.raises(CinelabError, match="was made for weights with mark .* load the base"):
        load_lora(plain(1), path)
    with pytest.raises(CinelabError, match="no linear of the model ends with"):
        add_lora(plain(), Lora(targets=("to_x",)))
    with pytest.raises(CinelabError, match="no adapters to write"):
        save_lora(tmp_path / "none.safetensors", plain().state_dict(), LORA, "any")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CinelabError, match="does not say its base"):
        load_lora(plain(), tmp_path / "other.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CinelabError, match="cannot be read"):
        load_lora(plain(), path)
    with pytest.raises(CinelabError, match="lora.rank is 0"):
        Lora(rank=0)
