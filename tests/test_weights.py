"""Published weights: every layout is read, filled in and converted to the bit, and what does not
fit is one sentence.

The original names are written out here by pattern, and diffusers' own single-file converter says
what each becomes: neither comes from the table under test.
"""

import argparse
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cinelab.cli import commands as cli
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig, parameter_dtype
from cinelab.weights import convert as converting
from cinelab.weights.convert import convert_weights
from cinelab.weights.layouts import bare, from_ours, from_wan
from cinelab.weights.load import Weights, config_of, load_into, open_weights
from cinelab.weights.sources import open_source

CONFIG = WanConfig(
    num_attention_heads=2, num_layers=3, ffn_dim=96, text_dim=32, in_channels=4, out_channels=4
)
ROOT = Path(__file__).parent.parent
STEM = "diffusion_pytorch_model"


def original(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original repository's text-to-video transformer."""
    d = config.width
    f = config.ffn_dim
    patch = config.patch_size
    linear = {
        "text_embedding.0": (config.text_dim, d),
        "text_embedding.2": (d, d),
        "time_embedding.0": (config.freq_dim, d),
        "time_embedding.2": (d, d),
        "time_projection.1": (d, 6 * d),
        "head.head": (d, config.out_channels * patch[1] * patch[2]),
    }
    shapes = {
        "patch_embedding.weight": (d, config.in_channels, *patch),
        "patch_embedding.bias": (d,),
        "head.modulation": (1, 2, d),
    }
    for n in range(config.num_layers):
        for kind in ("self_attn", "cross_attn"):
            linear |= {f"blocks.{n}.{kind}.{name}": (d, d) for name in "qkvo"}
            shapes |= {f"blocks.{n}.{kind}.norm_{name}.weight": (d,) for name in "qk"}
        linear |= {f"blocks.{n}.ffn.0": (d, f), f"blocks.{n}.ffn.2": (f, d)}
        shapes |= {
            f"blocks.{n}.norm3.weight": (d,),
            f"blocks.{n}.norm3.bias": (d,),
            f"blocks.{n}.modulation": (1, 6, d),
        }
    for name, (inner, outer) in linear.items():
        shapes |= {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}
    return shapes


def renamed(state: dict) -> dict:
    """By diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return convert_wan_transformer_to_diffusers(dict(state))


def random(seed: int, config: WanConfig = CONFIG) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: 0.1 * torch.randn(shape, generator=rng) for name, shape in original(config).items()
    }


def wrapped(key: str) -> str:
    """As FSDP around every block, checkpointing and torch.compile leave a key."""
    words = key.split(".")
    if words[0] == "blocks":
        words[2:2] = ["_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
    return "model._fsdp_wrapped_module._orig_mod." + ".".join(words)


def original_config(config: WanConfig) -> dict:
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.width,
        "eps": 1e-06,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": "t2v",
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": 512,
    }


def write_shards(folder: Path, state: dict, count: int) -> None:
    names = list(state)
    files = {
        name: f"{STEM}-{i * count // len(names) + 1:05}-of-{count:05}.safetensors"
        for i, name in enumerate(names)
    }
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file)
    (folder / f"{STEM}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )


def theirs(state: dict, config: WanConfig = CONFIG):
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**vars(config))
    model.load_state_dict(renamed(state))
    return model.eval()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random(0)


@pytest.fixture(scope="module")
def shelf(state, tmp_path_factory) -> dict[str, Path]:
    """The same weights in every layout, as their publishers' own programs write them."""
    root = tmp_path_factory.mktemp("shelf")
    reference = theirs(state)
    other = random(1)
    reference.save_pretrained(root / "diffusers" / "transformer", max_shard_size="1MB")
    reference.save_pretrained(root / "transformer alone")
    for name, count in (("wan", 1), ("wan sharded", 4)):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(original_config(CONFIG)))
        (root / name / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"another model")
        write_shards(root / name, state, count) if count > 1 else save_file(
            state, root / name / f"{STEM}.safetensors"
        )
    save_file(state, root / "wan.safetensors")
    save_file(renamed(state), root / "diffusers.safetensors")
    torch.save({f"model.{key}": value for key, value in state.items()}, root / "plain.pt")
    torch.save(
        {"generator": {f"model.{key}": value for key, value in state.items()}, "step": 7},
        root / "generator.pt",
    )
    torch.save(
        {
            "generator": {f"model.{key}": value for key, value in other.items()},
            "critic": {f"model.{key}": value for key, value in other.items()},
            "generator_ema": {wrapped(key): value for key, value in state.items()},
            "critic_optimizer": {"state": {}, "param_groups": []},
        },
        root / "ema.pt",
    )
    (root / "logs").mkdir()
    torch.save(
        {"generator": {f"module.model.{key}": value for key, value in state.items()}},
        root / "logs" / "model.pt",
    )
    return {path.name: path for path in root.iterdir()}


PLACES = [
    "diffusers",
    "transformer alone",
    "wan",
    "wan sharded",
    "wan.safetensors",
    "diffusers.safetensors",
    "plain.pt",
    "generator.pt",
    "ema.pt",
    "logs",
]


def on_meta(config: WanConfig = CONFIG) -> CausalWan:
    with torch.device("meta"):
        return CausalWan(config)


def same(model: torch.nn.Module, state: dict) -> bool:
    found = model.state_dict()
    wanted = renamed(state)
    return found.keys() == wanted.keys() and all(
        torch.equal(found[name], wanted[name]) for name in wanted
    )


@pytest.mark.parametrize(("config", "count"), [(WAN_1_3B, 825), (WAN_14B, 1095)])
def test_every_original_name_becomes_what_diffusers_calls_it(config, count):
    with torch.device("meta"):
        shapes = {name: torch.empty(shape) for name, shape in original(config).items()}
    wanted = renamed(shapes)
    ours = on_meta(config).state_dict()
    assert len(shapes) == len(wanted) == count
    assert {from_wan(name) for name in shapes} == set(wanted)
    for name, value in shapes.items():
        assert wanted[from_wan(name)] is value and ours[from_wan(name)].shape == value.shape, name
        assert (
            from_ours(from_wan(name), "wan") == name
            and from_ours(from_wan(name), "training") == f"model.{name}"
        )
        assert from_ours(from_wan(name), "diffusers") == from_wan(name)


def test_wrappers_go_from_any_place_and_only_they():
    for name in original(CONFIG):
        for key in (
            name,
            wrapped(name),
            f"_orig_mod.{name}",
            f"module.model.{name}",
            f"model.diffusion_model.{name}",
        ):
            assert bare(key) == name
    assert (
        bare("base_model.model.blocks.0.self_attn.q.base_layer.weight")
        == "blocks.0.self_attn.q.weight"
    )
    assert bare("model.model_ema.decay") == "model_ema.decay"


@pytest.mark.parametrize("place", PLACES)
def test_every_layout_gives_diffusers_outputs(shelf, state, place):
    reference = theirs(state)
    model = on_meta()
    report = load_into(model, shelf[place])
    assert len(report.mapped) == 96 and report.whole and same(model, state)
    frames = 3
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(2, frames, 4, 4, 6, generator=rng)
    text = torch.randn(2, 1, 5, CONFIG.text_dim, generator=rng)
    t = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        out = model(
            x,
            t[:, None].expand(-1, frames),
            Condition(text, torch.zeros(2, frames, dtype=torch.long)),
            BidirectionalContext(torch.arange(frames)),
        )
        wanted = reference(x.transpose(1, 2), t * 1000, text[:, 0], return_dict=False)[0].transpose(
            1, 2
        )
    assert wanted.std() > 0.01 and (out - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("place", PLACES)
def test_the_size_is_told_by_config_or_shapes(shelf, place):
    assert config_of(shelf[place]) == CONFIG


def test_the_part_is_chosen_aloud(shelf, state):
    model = CausalWan(CONFIG)
    auto = load_into(model, shelf["ema.pt"])
    plain = load_into(on_meta(), shelf["generator.pt"])
    assert (auto.part, auto.parts, auto.layout) == (
        "generator_ema",
        ("generator", "critic", "generator_ema"),
        "training",
    )
    assert same(model, state) and plain.part == "generator"
    assert load_into(model, shelf["ema.pt"], part="generator").part == "generator" and same(
        model, random(1)
    )
    assert load_into(model, shelf["plain.pt"]).layout == "wan" and same(model, state)


def test_dtypes(shelf, state):
    model = CausalWan(CONFIG).requires_grad_(False)
    load_into(model.bfloat16(), shelf["wan"])
    halves = renamed({name: value.bfloat16() for name, value in state.items()})
    assert all(
        torch.equal(value, halves[name]) and value.dtype == torch.bfloat16
        for name, value in model.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())
    report = load_into(model, shelf["wan"], dtype=torch.float32)
    assert same(model, state) and report.dtypes == {("fp32", "fp32"): 96}
    fresh = on_meta()
    report = load_into(fresh, shelf["ema.pt"], dtype="bf16")
    whole = {name for name, value in fresh.named_parameters() if value.dtype == torch.float32}
    assert (
        whole
        == {
            name
            for name in fresh.state_dict()
            if parameter_dtype(name, torch.bfloat16) == torch.float32
        }
        and len(whole) == 14
    )
    assert report.dtypes == {("fp32", "bf16"): 82, ("fp32", "fp32"): 14} and report.bytes == sum(
        value.nbytes for value in fresh.parameters()
    )
    frames = torch.arange(2)
    out = fresh(
        torch.randn(1, 2, 4, 4, 4).bfloat16(),
        torch.rand(1, 2),
        Condition(torch.randn(1, 1, 5, 32).bfloat16(), torch.zeros(1, 2, dtype=torch.long)),
        BidirectionalContext(frames),
    )
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_a_source_is_read_when_asked(shelf, state):
    source = open_source(shelf["wan sharded"])
    reads = []
    source.stored.update(
        {
            name: replace(
                held, read=lambda name=name, read=held.read: (reads.append(name), read())[1]
            )
            for name, held in source.stored.items()
        }
    )
    assert (
        source.shape("blocks.0.ffn.net.2.weight") == (256, 96)
        and source.dtype("proj_out.bias") == torch.float32
        and reads == []
    )
    for name, tensor in source:
        assert reads == [name] and torch.equal(tensor, state[source.raw[name]])
        reads.clear()


def test_a_filled_model_does_not_live_in_the_file(state, tmp_path):
    save_file(state, tmp_path / "gone.safetensors")
    model = on_meta()
    load_into(model, tmp_path / "gone.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, tmp_path / "new.safetensors")
    (tmp_path / "gone.safetensors").write_bytes((tmp_path / "new.safetensors").read_bytes())
    assert same(model, state)


@pytest.mark.parametrize("place", PLACES)
def test_any_layout_converts_to_any_other_to_the_bit(shelf, state, place, tmp_path):
    first = convert_weights(shelf[place], tmp_path / "a", "diffusers", shard_gib=0.5 / 1024)
    assert first.target == str(tmp_path / "a" / "transformer") and len(first.mapped) == 96
    second = convert_weights(tmp_path / "a", tmp_path / "b.pt", "training")
    assert set(second.mapped.values()) == {f"model.{name}" for name in state}
    held = torch.load(tmp_path / "b.pt", weights_only=True)["generator"]
    assert all(torch.equal(held[f"model.{name}"], value) for name, value in state.items()) and len(
        held
    ) == len(state)
    convert_weights(tmp_path / "b.pt", tmp_path / "c", "wan", shard_gib=1)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "config.json",
        f"{STEM}.safetensors",
    }
    held = load_file(tmp_path / "c" / f"{STEM}.safetensors")
    assert held.keys() == state.keys() and all(
        torch.equal(held[name], value) for name, value in state.items()
    )
    convert_weights(tmp_path / "c", tmp_path / "d", "diffusers", shard_gib=0.5 / 1024)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 5 and all(
        (tmp_path / "a" / file).read_bytes() == (tmp_path / "d" / file).read_bytes()
        for file in files
    )


def test_diffusers_opens_what_is_converted_for_it(shelf, state, tmp_path):
    from diffusers import WanTransformer3DModel

    convert_weights(shelf["ema.pt"], tmp_path / "out", shard_gib=1 / 1024)
    model = WanTransformer3DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    assert (
        same(model, state) and model.config.num_attention_heads == 2 and model.config.ffn_dim == 96
    )


def test_sizes_that_only_a_config_tells_survive(tmp_path):
    config = WanConfig(
        num_attention_heads=3,
        attention_head_dim=16,
        num_layers=1,
        ffn_dim=40,
        text_dim=20,
        freq_dim=64,
        patch_size=(1, 1, 2),
        in_channels=3,
        out_channels=5,
        cross_attn_norm=False,
        eps=1e-5,
    )
    from diffusers import WanTransformer3DModel

    WanTransformer3DModel(**vars(config)).save_pretrained(tmp_path / "a")
    convert_weights(tmp_path / "a", tmp_path / "b", "wan")
    convert_weights(tmp_path / "b", tmp_path / "c", "diffusers")
    assert config_of(tmp_path / "b") == config_of(tmp_path / "c") == config
    with pytest.raises(CinelabError, match="heads of 16.*convert to diffusers or wan"):
        convert_weights(tmp_path / "a", tmp_path / "c.pt", "training")


def test_a_checkpoint_of_ours_converts(tmp_path):
    from cinelab.zoo import checkpoints as zoo

    report = convert_weights(zoo.SHIPPED / "toybox-2step", tmp_path / "out", dtype="fp32")
    model = on_meta(report.config)
    wanted = zoo.load("toybox-2step").model
    load_into(model, tmp_path / "out")
    assert model.config == wanted.config and all(
        torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True)
    )


@pytest.mark.parametrize("to", ["diffusers", "training"])
def test_memory_stays_near_one_shard(shelf, tmp_path, monkeypatch, to):
    """Counts the bytes of tensors that were computed (rounded or merged, so not the file's own) and
    are still held."""
    live = 0
    peak = 0
    seen = 0

    def drop(size):
        nonlocal live
        live -= size

    def counted(read, self, name):
        nonlocal live, peak, seen
        tensor = read(self, name)
        if read.__name__ == "tensor" or name in self.lora:
            live = live + tensor.nbytes
            seen = seen + tensor.nbytes
            peak = max(peak, live)
            weakref.finalize(tensor, drop, tensor.nbytes)
        return tensor

    for read in (Weights.tensor, Weights.exact):
        monkeypatch.setattr(
            Weights, read.__name__, lambda self, name, read=read: counted(read, self, name)
        )
    save_file(lora_files(factors(LINEAR))["longlive"][0], tmp_path / "lora.safetensors")
    report = convert_weights(
        shelf["wan sharded"],
        tmp_path / ("out.pt" if to == "training" else "out"),
        to,
        "bf16",
        1 / 1024,
        lora=tmp_path / "lora.safetensors",
    )
    biggest = 4 * 6 * CONFIG.width**2
    shard = 2**20 if to == "diffusers" else 0
    assert (
        report.bytes > 4 * 2**20 and seen > 4 * 2**20 and 0 < peak <= shard + biggest and live == 0
    )


def test_converted_dtypes_are_rounded_once(shelf, state, tmp_path):
    convert_weights(shelf["diffusers"], tmp_path / "out.pt", "training", "bf16")
    held = torch.load(tmp_path / "out.pt", weights_only=True)["generator"]
    assert all(
        torch.equal(held[f"model.{name}"], value.bfloat16()) for name, value in state.items()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_views_of_one_flat_parameter_are_written_each_by_itself(state, tmp_path):
    flat = torch.cat([value.flatten() for value in state.values()])
    pieces = flat.split([value.numel() for value in state.values()])
    held = {
        f"model.{name}": piece.view(value.shape)
        for (name, value), piece in zip(state.items(), pieces, strict=True)
    }
    held["model.blocks.0.ffn.0.weight"] = state["blocks.0.ffn.0.weight"].T.contiguous().T
    torch.save({"generator": held}, tmp_path / "flat.pt")
    for target, to in ((tmp_path / "wan", "wan"), (tmp_path / "again.pt", "training")):
        convert_weights(tmp_path / "flat.pt", target, to)
        model = on_meta()
        load_into(model, target)
        assert same(model, state)
    written = torch.load(tmp_path / "again.pt", weights_only=True)["generator"]
    assert all(
        value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        for value in written.values()
    )


def test_an_interrupted_conversion_leaves_nothing_to_mistake_for_one(
    shelf, state, tmp_path, monkeypatch
):
    save = converting._save
    calls = []

    def stop(*arguments):
        calls.append(save(*arguments))
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(converting, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_weights(shelf["wan"], tmp_path / "out", "wan", shard_gib=1 / 1024)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    killed = tmp_path / "out" / ".partial-config.json.d"
    killed.mkdir(parents=True)
    (killed / f"{STEM}-00001-of-00009.safetensors").write_bytes(b"what a kill left")
    convert_weights(shelf["wan"], tmp_path / "out", "wan", shard_gib=1 / 1024)
    model = on_meta()
    load_into(model, tmp_path / "out")
    assert same(model, state) and not killed.exists()


def test_without_its_config_a_conversion_is_not_taken_for_whole(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(
        converting, "write_json", lambda *_: (_ for _ in ()).throw(CinelabError("disk full"))
    )
    with pytest.raises(CinelabError, match="disk full"):
        convert_weights(shelf["wan"], tmp_path / "out", "wan", shard_gib=1)
    assert not (tmp_path / "out").exists()


# LoRA

RANK = 4


def factors(
    names: list[str], config: WanConfig = CONFIG, seed: int = 5
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    shapes = original(config)
    sizes = {name: shapes[f"{name}.weight"] for name in names}
    return {
        name: (torch.randn(RANK, i, generator=rng), torch.randn(o, RANK, generator=rng))
        for name, (o, i) in sizes.items()
    }


LINEAR = [
    name.removesuffix(".weight")
    for name, shape in original(CONFIG).items()
    if name.startswith("blocks.") and len(shape) == 2
]


def merged(state: dict, pairs: dict, scale: float) -> dict:
    return state | {
        f"{name}.weight": state[f"{name}.weight"] + scale * (up @ down)
        for name, (down, up) in pairs.items()
    }


def lora_files(pairs: dict) -> dict[str, tuple[dict, float]]:
    """Each way of writing a LoRA, and the scale that it says."""
    ours = dict(zip(pairs, renamed({f"{name}.weight": name for name in pairs}), strict=True))
    ours = {name: key.removesuffix(".weight") for name, key in ours.items()}

    def write(form: str, down: str, up: str, naming: dict | None = None) -> dict:
        named = {form.format((naming or {}).get(name, name)): pair for name, pair in pairs.items()}
        return {
            f"{name}.{kind}.weight": pair[i]
            for name, pair in named.items()
            for i, kind in enumerate((down, up))
        }

    alphas = {f"diffusion_model.{name}.alpha": torch.tensor(2.0) for name in pairs}
    return {
        "longlive": (write("base_model.model.{}", "lora_A", "lora_B"), 1.0),
        "peft": (write("base_model.model.{}", "lora_A.default", "lora_B.default"), 1.0),
        "fsdp": (write("base_model.model._fsdp_wrapped_module.{}", "lora_A", "lora_B"), 1.0),
        "diffusers": (write("transformer.{}", "lora_A", "lora_B", ours), 1.0),
        "bare": (write("{}", "lora_A", "lora_B", ours), 1.0),
        "kohya": (write("diffusion_model.{}", "lora_down", "lora_up") | alphas, 2.0 / RANK),
    }


@pytest.mark.parametrize("way", ["longlive", "peft", "fsdp", "diffusers", "bare", "kohya"])
def test_a_lora_beside_the_weights_is_merged(shelf, state, tmp_path, way):
    pairs = factors(LINEAR)
    tensors, scale = lora_files(pairs)[way]
    save_file(tensors, tmp_path / "lora.safetensors")
    torch.save({"generator_lora": tensors, "critic_lora": tensors, "step": 3}, tmp_path / "lora.pt")
    for place, file in (("diffusers", "lora.safetensors"), ("wan", "lora.pt")):
        model = on_meta()
        report = load_into(model, shelf[place], lora=tmp_path / file)
        wanted = renamed(merged(state, pairs, scale))
        assert report.lora == f"{len(LINEAR)} weights, scale {scale}"
        assert all(
            torch.allclose(value, wanted[name], atol=1e-5)
            for name, value in model.state_dict().items()
        )
        load_into(model, shelf[place], lora=tmp_path / file, lora_scale=0.3)
        wanted = renamed(merged(state, pairs, 0.3))
        assert all(
            torch.allclose(value, wanted[name], atol=1e-5)
            for name, value in model.state_dict().items()
        )
        assert load_into(
            model, shelf[place], lora=tmp_path / file, lora_scale=0
        ).lora == "" and same(model, state)


@pytest.mark.parametrize("stabilised", [False, True])
def test_peft_merges_to_the_same_and_its_alpha_is_read(shelf, state, tmp_path, stabilised):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    adapter = LoraConfig(
        r=RANK,
        lora_alpha=6,
        use_rslora=stabilised,
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2"],
        init_lora_weights=False,
    )
    model = get_peft_model(theirs(state), adapter)
    model.save_pretrained(tmp_path / "adapter")
    convert_weights(shelf["ema.pt"], tmp_path / "out", lora=tmp_path / "adapter")
    torch.save(
        {"generator": {f"model.{key}": value for key, value in model.state_dict().items()}},
        tmp_path / "in_place.pt",
    )
    ours = on_meta()
    load_into(ours, tmp_path / "in_place.pt", lora_scale=6 / (RANK**0.5 if stabilised else RANK))
    wanted = model.merge_and_unload().state_dict()
    for found in (ours.state_dict(), load_files(tmp_path / "out" / "transformer")):
        assert found.keys() == wanted.keys() and all(
            torch.allclose(value, wanted[name], atol=1e-5) for name, value in found.items()
        )


def load_files(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def test_a_lora_in_the_checkpoint_is_merged_and_said(state, tmp_path):
    pairs = factors(LINEAR)
    torch.save(
        {
            "generator": {f"model.{key}": value for key, value in state.items()},
            "generator_lora": lora_files(pairs)["longlive"][0],
        },
        tmp_path / "x.pt",
    )
    report = convert_weights(tmp_path / "x.pt", tmp_path / "half.pt", "training", "bf16")
    held = torch.load(tmp_path / "half.pt", weights_only=True)["generator"]
    wanted = merged(state, pairs, 1.0)
    assert report.lora == f"{len(LINEAR)} weights, scale 1.0"
    assert all(
        torch.allclose(held[f"model.{name}"].float(), value, rtol=2**-7, atol=1e-6)
        for name, value in wanted.items()
    )
    with pytest.raises(CinelabError, match="second one"):
        convert_weights(tmp_path / "x.pt", tmp_path / "y.pt", "training", lora=tmp_path / "x.pt")


def bad_lora(kind: str) -> dict:
    tensors = lora_files(factors(LINEAR))["longlive"][0]
    first = "base_model.model.blocks.0.self_attn.q"
    return {
        "half": {
            name: value for name, value in tensors.items() if name != f"{first}.lora_B.weight"
        },
        "magnitude": tensors | {f"{first}.lora_magnitude_vector.weight": torch.ones(3)},
        "image": tensors | {"blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(3, 3)},
        "size": {
            name: value[:, :50] if "lora_A" in name else value for name, value in tensors.items()
        },
        "layers": tensors
        | {
            name.replace("blocks.0", "blocks.9"): value.clone()
            for name, value in tensors.items()
            if "blocks.0" in name
        },
        "empty": {},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("half", "expected down"),
        ("magnitude", "lora_magnitude_vector"),
        ("image", "k_img"),
        ("size", r"changes \(256, 50\)"),
        ("layers", "blocks.9.*has no such weight"),
        ("empty", "holds no tensor"),
    ],
)
def test_a_bad_lora_is_refused(shelf, tmp_path, kind, said):
    save_file(
        {name: value.contiguous() for name, value in bad_lora(kind).items()},
        tmp_path / "lora.safetensors",
    )
    with pytest.raises(CinelabError, match=said):
        open_weights(shelf["wan"], lora=tmp_path / "lora.safetensors")


# what is refused


def test_a_half_match_is_refused_with_every_key_in_the_report(state, tmp_path):
    broken = {name: value for name, value in state.items() if "blocks.1.self_attn" not in name} | {
        "freqs": torch.ones(3)
    }
    broken["blocks.0.ffn.0.weight"] = torch.ones(96, 255)
    torch.save({"generator": broken}, tmp_path / "x.pt")
    report = open_weights(tmp_path / "x.pt").report()
    assert sorted(report.missing) == sorted(
        name for name in state if "blocks.1.self_attn" in name
    ) and report.unexpected == ("freqs",)
    assert report.wrong == (("blocks.0.ffn.0.weight", (96, 255), (96, 256)),)
    model = CausalWan(CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (
        lambda: load_into(model, tmp_path / "x.pt"),
        lambda: convert_weights(tmp_path / "x.pt", tmp_path / "out"),
    ):
        with pytest.raises(
            CinelabError,
            match="10 of 96 tensors missing, 1 of another shape, 1 unknown "
            ".*blocks.0.ffn.0.weight is .96, 255., expected .96, 256.",
        ):
            call()
    assert (
        all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        and not (tmp_path / "out").exists()
    )


def spoil(kind: str, state: dict, root: Path) -> Path:
    """A source that is wrong in one way."""
    folder = root / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    shard = folder / f"{STEM}-00002-of-00003.safetensors"
    write_shards(folder, state, 3)
    match kind:
        case "absent":
            return root / "nothing here"
        case "empty folder":
            (root / "empty").mkdir()
            return root / "empty"
        case "missing shard":
            shard.unlink()
        case "truncated shard":
            shard.write_bytes(shard.read_bytes()[:-100])
        case "empty shard":
            shard.write_bytes(b"")
        case "one shard named":
            return shard
        case "no index":
            (folder / f"{STEM}.safetensors.index.json").unlink()
            shard.unlink()
        case "index is not json":
            (folder / f"{STEM}.safetensors.index.json").write_text("{")
        case "index without map":
            (folder / f"{STEM}.safetensors.index.json").write_text("[]")
        case "two copies":
            save_file(state, folder / f"{STEM}.safetensors")
        case "two downloads":
            save_file({"blocks.7.modulation": torch.ones(1)}, shard)
        case "no config":
            (folder / "config.json").unlink()
        case "config of another model":
            (folder / "config.json").write_text('{"_class_name": "AutoencoderKLWan", "z_dim": 16}')
        case "config of another size":
            (folder / "config.json").write_text(json.dumps(original_config(WAN_1_3B)))
        case "config of other heads":
            (folder / "config.json").write_text(
                json.dumps(original_config(CONFIG) | {"num_heads": 5})
            )
        case "two experts":
            (folder / "transformer").mkdir()
            (folder / "transformer_2").mkdir()
        case "config with words":
            (folder / "config.json").write_text(
                json.dumps(original_config(CONFIG) | {"num_layers": "three"})
            )
        case _:
            return spoil_file(kind, state, root)
    return folder


def spoil_file(kind: str, state: dict, root: Path) -> Path:
    file = root / (
        "x.safetensors"
        if kind in ("mixed", "image", "integers", "other model", "narrow", "doubled")
        else "x.pt"
    )
    trained = {f"model.{name}": value for name, value in state.items()}
    match kind:
        case "mixed":
            save_file(state | {"blocks.0.attn1.to_q.weight": torch.ones(3)}, file)
        case "image":
            save_file(state | {"blocks.0.cross_attn.k_img.weight": torch.ones(3)}, file)
        case "integers":
            save_file(
                state | {"blocks.0.ffn.0.weight": torch.ones(96, 256, dtype=torch.int8)}, file
            )
        case "other model":
            save_file({"decoder.conv1.weight": torch.ones(3)}, file)
        case "narrow":
            save_file(
                random(
                    0,
                    WanConfig(
                        num_attention_heads=2,
                        attention_head_dim=24,
                        num_layers=1,
                        ffn_dim=8,
                        text_dim=8,
                    ),
                ),
                file,
            )
        case "doubled":
            save_file(state | {"model.blocks.0.modulation": torch.ones(3)}, file)
        case "only a lora":
            torch.save({"generator_lora": lora_files(factors(LINEAR))["longlive"][0]}, file)
        case "only a critic":
            torch.save({"critic": trained, "critic_ema": trained}, file)
        case "truncated":
            torch.save({"generator": trained}, file)
            file.write_bytes(file.read_bytes()[:-5000])
        case "not a checkpoint":
            file.write_text("hello")
        case "empty file":
            file.write_bytes(b"")
        case "old format":
            torch.save({"generator": {}}, file, _use_new_zipfile_serialization=False)
        case "code":
            torch.save({"generator": trained, "args": argparse.Namespace(lr=1)}, file)
        case "a tensor":
            torch.save(torch.ones(3), file)
        case "other suffix":
            file = root / "x.gguf"
            file.write_text("hello")
    return file


BAD = {
    "absent": "does not exist",
    "empty folder": "holds no transformer weights .found nothing",
    "missing shard": "lacks 1 of the 3 shards .*00002-of-00003",
    "truncated shard": "00002-of-00003.safetensors is cut short or broken",
    "empty shard": "cut short or broken",
    "one shard named": "name the folder",
    "no index": "holds 2 of 3 shards but no",
    "index is not json": "is not valid JSON",
    "index without map": "no 'weight_map'",
    "two copies": "holds both",
    "two downloads": "disagree on",
    "no config": "config.json is missing",
    "config of another model": "not the config of a Wan transformer",
    "config of another size": "expected .*take the config.json that belongs",
    "config of other heads": "dim 256 is no multiple of num_heads 5",
    "config with words": "config.json: num_layers' is 'three'",
    "two experts": "holds two transformers",
    "mixed": "mixes two layouts: blocks.0.attn1.to_q.weight .*patch_embedding|mixes two layouts",
    "image": "image-to-video .*k_img",
    "integers": "blocks.0.ffn.0.weight is I8; float32",
    "other model": "no tensor of a Wan transformer .first: decoder",
    "narrow": "width 48 and no config.json",
    "doubled": "are both blocks.0.scale_shift_table",
    "only a lora": "give the weights it was trained on",
    "only a critic": "choose one with part .*critic, critic_ema",
    "truncated": "cut short or broken",
    "not a checkpoint": "is no zip file",
    "empty file": "is no zip file",
    "old format": "older format",
    "code": "more than tensors .argparse.Namespace",
    "a tensor": "holds a Tensor",
    "other suffix": "ends in '.gguf'",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_source_is_one_sentence(state, tmp_path, kind):
    path = spoil(kind, state, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CinelabError, match=BAD[kind]) as refused:
        convert_weights(path, tmp_path / "out")
    assert str(refused.value).startswith((str(path), str(tmp_path), "Setting")) and "\n" not in str(
        refused.value
    )
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_model_of_another_size_is_refused(shelf):
    with pytest.raises(
        CinelabError, match="says num_attention_heads 2, the model was built with 4"
    ):
        load_into(
            on_meta(
                WanConfig(**vars(CONFIG) | {"num_attention_heads": 4, "attention_head_dim": 64})
            ),
            shelf["wan"],
        )
    with pytest.raises(CinelabError, match="27 of 123 tensors missing"):
        load_into(on_meta(WanConfig(**vars(CONFIG) | {"num_layers": 4})), shelf["ema.pt"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "onnx"}, "Layout 'onnx' is unknown"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"shard_gib": 0}, "shard_gib is 0"),
        ({"part": "student"}, "no part 'student'.*generator, critic, generator_ema"),
        ({"lora_scale": 1.0}, "holds no LoRA"),
        ({"to": "training"}, "end it in"),
        ({"lora": "nowhere.pt"}, "nowhere.pt does not exist"),
    ],
)
def test_bad_options_are_one_sentence(shelf, tmp_path, options, said):
    with pytest.raises(CinelabError, match=said):
        convert_weights(shelf["ema.pt"], tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_a_full_disk_is_told(shelf, tmp_path, monkeypatch):
    for target, to in (
        (tmp_path / "out", "diffusers"),
        (tmp_path / "flat", "wan"),
        (tmp_path / "x.pt", "training"),
    ):
        convert_weights(shelf["wan"], target, to)
        with pytest.raises(CinelabError, match="exists already"):
            convert_weights(shelf["ema.pt"], target, to)
    with pytest.raises(CinelabError, match="is a file; the layout wan is a folder"):
        convert_weights(shelf["wan"], tmp_path / "new.safetensors", "wan")
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda _: argparse.Namespace(free=2**20))
    with pytest.raises(CinelabError, match="0.0 GiB free and 0.0 GiB are needed"):
        convert_weights(shelf["wan"], tmp_path / "new", "wan")


def test_the_command_prints_the_report(shelf, tmp_path):
    done = CliRunner().invoke(
        cli.app,
        [
            "convert",
            str(shelf["ema.pt"]),
            str(tmp_path / "out"),
            "--to",
            "wan",
            "--dtype",
            "bf16",
            "--part",
            "generator",
        ],
    )
    assert done.exit_code == 0, done.output
    for said in (
        "training to wan",
        "generator (of generator, critic, generator_ema)",
        "96 fp32 to bf16",
        str(tmp_path / "out"),
    ):
        assert said in done.output
    assert (
        load_file(tmp_path / "out" / f"{STEM}.safetensors")["head.modulation"].dtype
        == torch.bfloat16
    )
    looked = CliRunner().invoke(cli.app, ["convert", str(shelf["wan"]), "--dry-run", "--keys"])
    assert looked.exit_code == 0 and "blocks.2.norm3.bias -> blocks.2.norm2.bias" in looked.output


def test_the_command_shows_what_does_not_fit(tmp_path):
    broken = random(0)
    broken.pop("head.modulation")
    save_file(broken | {"stranger": torch.ones(1)}, tmp_path / "x.safetensors")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cinelab",
            "convert",
            str(tmp_path / "x.safetensors"),
            str(tmp_path / "no"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and "missing head.modulation" in done.stdout
        and "unexpected stranger" in done.stdout
    )
    assert "1 of 96 tensors missing" in done.stderr and not (tmp_path / "no").exists()
