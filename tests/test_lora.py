"""Adapters: nothing changes before training, they alone are trained and kept, and merged they are
the same model."""

import json
from copy import deepcopy

import processes
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train import Fake

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.scale.adapters import (
    Lora,
    _old_fingerprint,
    adapters,
    add_lora,
    fingerprint_of,
    fingerprints_of,
    load_lora,
    merge_lora,
    save_lora,
)
from cinelab.scale.parallel import Parallel
from cinelab.train.loop import Learner, averaged
from cinelab.train.optim import Optim

LORA = Lora(rank=3, alpha=6.0)


def plain(seed=0):
    return processes.model(Parallel.here(), seed, frozen=True)


def shown(model):
    clips = Fake().clips(1, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(
            clips.latents,
            torch.full((1, 3), 0.5),
            Condition(clips.text, clips.slot),
            BidirectionalContext(torch.arange(3)),
        )


def trained():
    """A base with adapters that do something."""
    model = add_lora(plain(), LORA)
    lots = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=lots))
    return model


def test_new_adapters_change_nothing_and_alone_are_trained():
    base = plain()
    model = add_lora(plain(), LORA)
    assert torch.equal(shown(base), shown(model))
    assert all(
        weight.requires_grad == (".lora_" in name) for name, weight in model.named_parameters()
    )
    learner = Learner(model, lambda *_: None, Optim())
    tuned = {id(weight) for group in learner.optimizer.param_groups for weight in group["params"]}
    assert tuned == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert set(learner.ema.values) == {name for name in model.state_dict() if ".lora_" in name}
    assert torch.equal(shown(averaged(learner)), shown(base))


def test_loaded_and_merged_are_the_model_that_was_saved(tmp_path):
    model = trained()
    base = plain()
    path = save_lora(
        tmp_path / "lora.safetensors",
        model.state_dict(),
        LORA,
        fingerprint_of(base.state_dict().items()),
    )
    assert len(load_file(path)) == len(adapters(model.state_dict())) == 2 * 10 * len(base.blocks)
    loaded = deepcopy(base)
    assert load_lora(loaded, path) == LORA
    assert torch.equal(shown(loaded), shown(model)) and not torch.allclose(
        shown(loaded), shown(base), atol=1e-3
    )
    merged = merge_lora(loaded)
    assert merged.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(shown(merged), shown(model), atol=1e-5, rtol=1e-4)


def test_diffusers_and_peft_read_what_we_write(tmp_path):
    """By name and scale, into a model of theirs."""
    diffusers = pytest.importorskip("diffusers")
    model = trained()
    base = plain()
    path = save_lora(tmp_path / "lora.safetensors", model.state_dict(), LORA, "any")
    c = base.config
    theirs = diffusers.WanTransformer3DModel(
        c.patch_size,
        c.num_attention_heads,
        c.attention_head_dim,
        c.in_channels,
        c.out_channels,
        c.text_dim,
        c.freq_dim,
        c.ffn_dim,
        c.num_layers,
    )
    theirs.load_state_dict(base.state_dict())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
    theirs.load_lora_adapter(load_file(path), prefix="transformer", metadata=about)
    clips = Fake().clips(1, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = theirs(
            clips.latents.transpose(1, 2),
            torch.full((1,), 500.0),
            clips.text[:, 0],
            return_dict=False,
        )[0].transpose(1, 2)
        ours = model(
            clips.latents,
            torch.full((1, 3), 0.5),
            Condition(clips.text[:, :1], torch.zeros(1, 3, dtype=torch.long)),
            BidirectionalContext(torch.arange(3)),
        )
    torch.testing.assert_close(ours, out, atol=1e-4, rtol=1e-3)


def test_the_mark_is_of_the_base_alone():
    base = plain()
    assert fingerprint_of(base.state_dict().items()) == fingerprint_of(
        trained().state_dict().items()
    )
    assert fingerprint_of(base.state_dict().items()) == fingerprint_of(
        deepcopy(base).bfloat16().state_dict().items()
    )
    assert fingerprint_of(base.state_dict().items()) != fingerprint_of(
        plain(1).state_dict().items()
    )


def tuned(by, dtype=torch.float32, seed=3):
    """The base after a training that moved every weight by `by` one way or the other."""
    model = plain()
    lots = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * (2 * torch.randint(2, weight.shape, generator=lots) - 1))
    return model.to(dtype)


def test_the_mark_sees_every_number():
    base = plain()
    for dtype in (torch.float32, torch.bfloat16):
        assert fingerprint_of(base.to(dtype).state_dict().items()) != fingerprint_of(
            tuned(2e-6, dtype).state_dict().items()
        )
        base = plain()
    other = plain()
    with torch.no_grad():
        other.blocks[1].ffn.net[2].weight[-1, -1] += (
            1e-7 + other.blocks[1].ffn.net[2].weight[-1, -1].abs() * 1e-6
        )
    one, two = (
        fingerprints_of(base.state_dict().items()),
        fingerprints_of(other.state_dict().items()),
    )
    assert one[0] == two[0] and one[1] != two[1]  # below what bfloat16 holds, and seen all the same
    assert len(set(fingerprints_of(base.bfloat16().state_dict().items()))) == 1


def test_adapters_go_on_their_base_and_its_rounded_copy_only(tmp_path):
    base = plain()
    path = save_lora(
        tmp_path / "lora.safetensors",
        trained().state_dict(),
        LORA,
        *fingerprints_of(base.state_dict().items()),
    )
    for good in (plain(), plain().bfloat16(), plain().bfloat16().float()):
        load_lora(good, path)
    for bad in (tuned(2e-6), tuned(2e-6, torch.bfloat16), tuned(1e-8)):
        with pytest.raises(CinelabError, match="was made for weights with fingerprint"):
            load_lora(bad, path)


def test_a_file_with_an_older_mark_is_read_with_a_word(tmp_path):
    old = _old_fingerprint(plain().state_dict().items())
    assert len(old) == 16
    path = save_lora(tmp_path / "lora.safetensors", trained().state_dict(), LORA, old)
    with pytest.warns(UserWarning, match="fingerprint of an older kind"):
        assert load_lora(plain(), path) == LORA
    with pytest.raises(CinelabError, match="was made for weights with fingerprint"):
        load_lora(plain(1), path)


def test_adapters_that_are_not_finite_or_not_whole_are_refused(tmp_path):
    about = fingerprints_of(plain().state_dict().items())
    state = trained().state_dict()
    name = next(name for name in state if ".lora_B." in name)
    for value, dtype in ((float("nan"), torch.float32), (1e5, torch.float16)):
        with pytest.raises(CinelabError, match="lora_B.weight holds"):
            save_lora(
                tmp_path / "x.safetensors",
                state | {name: state[name] * 0 + value},
                LORA,
                *about,
                dtype,
            )
    assert not (tmp_path / "x.safetensors").exists()
    path = save_lora(tmp_path / "lora.safetensors", state, LORA, *about, torch.bfloat16)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    first = next(iter(load_file(path)))
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    spoilt = {
        "lacks transformer": {key: value for key, value in tensors.items() if key != first},
        "holds extra": tensors | {"extra": torch.ones(1)},
        "is .1,., expected": tensors | {first: torch.ones(1)},
        "not finite": tensors | {first: tensors[first] * float("inf")},
    }
    for said, held in spoilt.items():
        save_file(held, path, header)
        with pytest.raises(CinelabError, match=said):
            load_lora(plain(), path)
    for said, text in (
        ("no JSON", "{"),
        ("has a list", "[1]"),
        ("rank", '{"rank": "3"}'),
        ("alpha' is None", '{"alpha": NaN}'),
    ):
        save_file(tensors, path, header | {"lora": text})
        with pytest.raises(CinelabError, match=said):
            load_lora(plain(), path)
    with pytest.raises(CinelabError, match="lora.alpha is 0"):
        Lora(alpha=0.0)


def test_a_merge_that_overflows_is_refused():
    model = trained()
    next(
        module for name, module in model.named_modules() if name.endswith("lora_B.default")
    ).weight.data.fill_(float("inf"))
    with pytest.raises(CinelabError, match="with its adapter merged holds"):
        merge_lora(model)


def test_bad_adapters_are_one_sentence(tmp_path):
    path = save_lora(
        tmp_path / "lora.safetensors",
        trained().state_dict(),
        LORA,
        fingerprint_of(plain().state_dict().items()),
    )
    with pytest.raises(
        CinelabError, match="was made for weights with fingerprint .* load the base"
    ):
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
