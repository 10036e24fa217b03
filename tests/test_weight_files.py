"""Weights as people hand them in: LoRA by every trainer's names, numbers that are not finite, files
of another kind.

The base is one tiny layer in the original's names; what a merge must give is computed here from its
formula.
"""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_weights import original, original_config
from typer.testing import CliRunner

from cinelab.cli import commands as cli
from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import Overflow, all_finite, as_dtype, fill
from cinelab.model.wan import WanConfig
from cinelab.weights.convert import convert_weights
from cinelab.weights.layouts import from_wan, lora_place, module_named
from cinelab.weights.load import config_of, open_weights
from cinelab.weights.sources import open_source
from cinelab.zoo import checkpoints as zoo

CONFIG = WanConfig(
    num_attention_heads=1,
    num_layers=1,
    ffn_dim=32,
    text_dim=16,
    freq_dim=16,
    in_channels=4,
    out_channels=4,
)
STEM = "diffusion_pytorch_model"
RANK = 4
ALPHA = 2.0
MODULES = (
    "blocks.0.self_attn.q",
    "blocks.0.cross_attn.o",
    "blocks.0.ffn.0",
    "text_embedding.0",
    "time_projection.1",
    "head.head",
)
FLAT = {
    "blocks_0_self_attn_q": "blocks_0_attn1_to_q",
    "blocks_0_cross_attn_o": "blocks_0_attn2_to_out_0",
    "blocks_0_ffn_0": "blocks_0_ffn_net_0_proj",
    "text_embedding_0": "condition_embedder_text_embedder_linear_1",
    "time_projection_1": "condition_embedder_time_proj",
    "head_head": "proj_out",
}


@pytest.fixture(scope="module")
def state():
    rng = torch.Generator().manual_seed(0)
    return {
        name: 0.1 * torch.randn(shape, generator=rng) for name, shape in original(CONFIG).items()
    }


@pytest.fixture(scope="module")
def base(state, tmp_path_factory):
    return written(tmp_path_factory.mktemp("base") / "wan", state)


@pytest.fixture(scope="module")
def pairs():
    rng = torch.Generator().manual_seed(1)
    shapes = original(CONFIG)
    sizes = {name: shapes[f"{name}.weight"] for name in MODULES}
    return {
        name: (torch.randn(RANK, i, generator=rng), torch.randn(o, RANK, generator=rng))
        for name, (o, i) in sizes.items()
    }


def written(folder: Path, tensors: dict, **said) -> Path:
    folder.mkdir()
    save_file(tensors, folder / f"{STEM}.safetensors")
    (folder / "config.json").write_text(
        json.dumps(original_config(CONFIG) | {"text_dim": CONFIG.text_dim} | said)
    )
    return folder


def wanted(state, pairs, scale=ALPHA / RANK):
    return state | {
        f"{name}.weight": state[f"{name}.weight"] + scale * (up @ down)
        for name, (down, up) in pairs.items()
    }


def named(pairs, module, down="lora_down.weight", up="lora_up.weight", alpha="alpha"):
    """A LoRA whose modules are called as `module` says."""
    found = {}
    for name, (a, b) in pairs.items():
        found |= {f"{module(name)}.{down}": a, f"{module(name)}.{up}": b} | (
            {f"{module(name)}.{alpha}": torch.tensor(ALPHA)} if alpha else {}
        )
    return found


def flat(name):
    return name.replace(".", "_")


WAYS = {
    "kohya": lambda pairs: named(pairs, lambda name: f"lora_unet_{flat(name)}"),
    "kohya, two underscores": lambda pairs: named(pairs, lambda name: f"lora_unet__{flat(name)}"),
    "kohya of diffusers names": lambda pairs: named(
        pairs, lambda name: f"lora_transformer_{FLAT[flat(name)]}"
    ),
    "lycoris": lambda pairs: named(pairs, lambda name: f"lycoris_{flat(name)}"),
    "DiffSynth": lambda pairs: named(
        pairs, lambda name: f"pipe.dit.{name}", "lora_A.default.weight", "lora_B.default.weight"
    ),
    "ComfyUI": lambda pairs: named(pairs, lambda name: f"diffusion_model.{name}"),
    "peft": lambda pairs: named(
        pairs, lambda name: f"base_model.model.{name}", "lora_A.weight", "lora_B.weight"
    ),
    "without weight": lambda pairs: named(pairs, lambda name: f"model.{name}", "lora_A", "lora_B"),
    "older diffusers": lambda pairs: named(
        pairs, lambda name: f"unet.{name}", "lora.down.weight", "lora.up.weight"
    ),
}


def merged(base, file, target, **options):
    convert_weights(base, target, "wan", lora=file, **options)
    return load_file(target / f"{STEM}.safetensors")


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], expected[name], atol=1e-5) for name in expected
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_lora_is_merged_whatever_its_trainer_calls_it(base, state, pairs, tmp_path, way):
    save_file(WAYS[way](pairs), tmp_path / "lora.safetensors")
    assert same(merged(base, tmp_path / "lora.safetensors", tmp_path / "out"), wanted(state, pairs))
    assert (
        open_weights(base, lora=tmp_path / "lora.safetensors").report().lora
        == f"{len(pairs)} weights, scale 0.5"
    )


def test_every_module_is_known_with_underscores():
    names = [name.removesuffix(".weight").removesuffix(".bias") for name in original(CONFIG)]
    for name in names:
        assert module_named(f"lora_unet_{flat(name)}") == module_named(name) is not None
    assert (
        module_named("lora_unet_blocks_12_ffn_2") == "blocks.12.ffn.net.2"
        and module_named("lora_unet_down_blocks_0_attentions_1") is None
    )
    assert lora_place("x.lora_A.bias") is None and lora_place("x.hada_w1_a") is None


PICKLES = {
    "lightning.ckpt": lambda lora: {
        "state_dict": {f"pipe.dit.{key}": value for key, value in lora.items()},
        "epoch": 3,
        "global_step": 7,
    },
    "module.pth": lambda lora: {
        "module": {f"model.{key}": value for key, value in lora.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    },
    "plain.pt": lambda lora: lora | {"step": 3},
    "nested.bin": lambda lora: {"state_dict": {"generator_lora": lora}},
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_lora_in_a_pickle_is_found(base, state, pairs, tmp_path, name):
    lora = named(pairs, lambda module: module, "lora_A.weight", "lora_B.weight")
    torch.save(PICKLES[name](lora), tmp_path / name)
    assert same(merged(base, tmp_path / name, tmp_path / "out"), wanted(state, pairs))


@pytest.mark.parametrize("alphas", ["each", "one for all"])
def test_an_alpha_that_is_a_plain_number_counts(base, state, pairs, tmp_path, alphas):
    lora = named(pairs, lambda module: module, "lora_A.weight", "lora_B.weight", alpha=None)
    lora |= {"alpha": 2} if alphas == "one for all" else {f"{name}.alpha": 2.0 for name in pairs}
    torch.save(lora, tmp_path / "lora.pt")
    assert same(merged(base, tmp_path / "lora.pt", tmp_path / "out"), wanted(state, pairs))


def test_differences_and_biases_are_added(base, state, pairs, tmp_path):
    rng = torch.Generator().manual_seed(2)
    added = {
        "blocks.0.norm3.weight": "blocks.0.norm3.diff",
        "blocks.0.norm3.bias": "blocks.0.norm3.diff_b",
        "patch_embedding.weight": "patch_embedding.diff",
        "blocks.0.self_attn.norm_q.weight": "blocks.0.self_attn.norm_q.diff",
        "blocks.0.modulation": "blocks.0.diff_m",
        "head.modulation": "head.diff_m",
        "blocks.0.ffn.0.bias": "blocks.0.ffn.0.diff_b",
        "head.head.weight": "head.head.diff",
    }
    values = {name: torch.randn(state[name].shape, generator=rng) for name in added}
    lora = {f"diffusion_model.{key}": values[name] for name, key in added.items()} | WAYS[
        "ComfyUI"
    ](pairs)
    # scaled as the product is
    lora["diffusion_model.blocks.0.self_attn.q.lora_up.bias"] = torch.ones(CONFIG.width)
    save_file(lora, tmp_path / "lora.safetensors")
    for scale in (None, 0.3):
        expected = wanted(state, pairs, 0.5 if scale is None else scale)
        for name, value in values.items():
            expected[name] = expected[name] + (scale or 1.0) * value
        expected["blocks.0.self_attn.q.bias"] = expected["blocks.0.self_attn.q.bias"] + (
            0.5 if scale is None else scale
        )
        assert same(
            merged(
                base, tmp_path / "lora.safetensors", tmp_path / f"out {scale}", lora_scale=scale
            ),
            expected,
        )
    assert (
        "9 differences added"
        in open_weights(base, lora=tmp_path / "lora.safetensors").report().lora
    )


def test_a_text_encoders_lora_is_named_and_left_out(base, state, pairs, tmp_path):
    text = {
        "lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(2, 3),
        "text_encoder.encoder.block.0.q.lora_A.weight": torch.ones(2, 3),
        "lora_te1_text_model_q.alpha": torch.tensor(1.0),
    }
    save_file(WAYS["kohya"](pairs) | text, tmp_path / "lora.safetensors")
    assert same(merged(base, tmp_path / "lora.safetensors", tmp_path / "out"), wanted(state, pairs))
    done = CliRunner().invoke(
        cli.app,
        ["convert", str(base), "--dry-run", "--lora", str(tmp_path / "lora.safetensors")],
        env={"COLUMNS": "200"},
    )
    assert "3 tensors of a text encoder left out (first: lora_te" in done.output
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(CinelabError, match="no tensor but 3 of a text encoder"):
        open_weights(base, lora=tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_blocks_0_self_attn_q.hada_w1_a",
        "lora_unet_blocks_0_self_attn_q.dora_scale",
        "lora_unet_blocks_0_self_attn_q.lora_mid.weight",
        "lora_unet_down_blocks_0_attentions_0_q.lora_down.weight",
        "blocks.0.self_attn.q.lora_A.bias",
        "diffusion_model.blocks.0.self_attn.q.set_weight",
        "blocks.0.cross_attn.k_img.diff",
        "blocks.0.modulation.lora_down.weight",
    ],
)
def test_what_has_no_place_is_refused_by_name(base, pairs, tmp_path, key):
    save_file(WAYS["kohya"](pairs) | {key: torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CinelabError, match=f"{key} is no lora_A"):
        open_weights(base, lora=tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((), "expected down"),
        ((4,), "expected down"),
        ((0, 128), "expected down"),
        ((3, 128), "expected down"),
    ],
)
def test_factors_of_no_common_rank_are_one_sentence(base, pairs, tmp_path, shape, said):
    save_file(
        WAYS["kohya"](pairs)
        | {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(shape)},
        tmp_path / "lora.safetensors",
    )
    with pytest.raises(CinelabError, match=said):
        open_weights(base, lora=tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("not json", "is no JSON"),
        ("[1, 2]", "is a list"),
        ('{"transformer.lora_alpha": "8"}', "lora_alpha = '8'"),
        ('{"transformer.lora_alpha": NaN}', "lora_alpha = None"),
        ('{"transformer.lora_alpha": null}', "lora_alpha = None"),
        ('{"transformer.use_rslora": "yes"}', "use_rslora = 'yes'"),
        ('{"transformer.use_dora": true}', "use_dora"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_header_that_is_not_what_it_should_be_is_one_sentence(
    base, pairs, tmp_path, header, said
):
    save_file(
        named(pairs, lambda name: name, alpha=None),
        tmp_path / "lora.safetensors",
        {"lora_adapter_metadata": header},
    )
    with pytest.raises(CinelabError, match=said) as refused:
        open_weights(base, lora=tmp_path / "lora.safetensors")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[]", "is a list"),
        ("{", "is not valid JSON"),
        ('{"peft_type": "LOHA"}', "peft_type = 'LOHA'"),
        ('{"init_lora_weights": "pissa_niter_4"}', "init_lora_weights"),
        ('{"lora_alpha": [8]}', r"lora_alpha = \[8\]"),
        ('{"alpha_pattern": {"q": 4}}', "alpha_pattern"),
    ],
)
def test_the_settings_of_a_peft_folder_are_checked(base, pairs, tmp_path, settings, said):
    save_file(named(pairs, lambda name: name, alpha=None), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(CinelabError, match=said):
        open_weights(base, lora=tmp_path)


# numbers that do not fit


def test_the_one_check_of_numbers():
    for dtype in (
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.float8_e4m3fn,
        torch.int8,
    ):
        assert all_finite(torch.ones(3).to(dtype)) and all_finite(torch.ones(0).to(dtype))
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite(torch.tensor([1.0, bad, 2.0])) and not all_finite(
            torch.tensor(bad).bfloat16()
        )
    value = torch.ones(2)
    assert (
        as_dtype(value, torch.float32, "x") is value
        and as_dtype(value, torch.float16, "x").dtype == torch.float16
    )
    with pytest.raises(
        Overflow, match="x holds 100000, and the largest float16 is 65504; choose bf16 or fp32"
    ):
        as_dtype(torch.tensor([1.0, -1e5]), torch.float16, "x")
    with pytest.raises(Overflow, match="x holds a number that is not finite"):
        as_dtype(torch.tensor([float("nan")]), torch.float16, "x")


@pytest.mark.parametrize(
    ("to", "target"), [("diffusers", "out"), ("wan", "out"), ("training", "out.pt")]
)
@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (1e5, "fp16", "head.head.weight holds 100000"),
        (float("nan"), None, "head.head.weight holds a number that is not finite"),
        (float("inf"), "bf16", "head.head.weight holds a number that is not finite"),
    ],
)
def test_a_conversion_writes_finite_numbers_only(state, tmp_path, to, target, value, dtype, said):
    weight = state["head.head.weight"].clone()
    weight[1, 2] = value
    source = written(tmp_path / "bad", state | {"head.head.weight": weight})
    with pytest.raises(Overflow, match=said):
        convert_weights(source, tmp_path / target, to, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("lora_down.weight", float("nan")),
        ("lora_up.weight", float("inf")),
        ("alpha", float("nan")),
        ("alpha", float("inf")),
    ],
)
def test_a_lora_of_numbers_that_are_not_finite_is_refused(base, pairs, tmp_path, where, value):
    lora = WAYS["kohya"](pairs)
    key = f"lora_unet_blocks_0_ffn_0.{where}"
    save_file(lora | {key: lora[key] * value}, tmp_path / "lora.safetensors")
    done = CliRunner().invoke(
        cli.app,
        ["convert", str(base), str(tmp_path / "out"), "--lora", str(tmp_path / "lora.safetensors")],
    )
    assert (
        isinstance(done.exception, Overflow)
        and key in str(done.exception)
        and not (tmp_path / "out").exists()
    )


def test_a_scale_that_is_not_finite_and_a_merge_that_overflows_are_refused(base, pairs, tmp_path):
    save_file(WAYS["kohya"](pairs), tmp_path / "lora.safetensors")
    for scale in (float("nan"), float("inf")):
        with pytest.raises(Overflow, match="lora-scale"):
            open_weights(base, lora=tmp_path / "lora.safetensors", lora_scale=scale)
    with pytest.raises(Overflow, match="with its LoRA merged holds .* choose bf16"):
        convert_weights(
            base, tmp_path / "out", dtype="fp16", lora=tmp_path / "lora.safetensors", lora_scale=1e6
        )


def test_a_checkpoint_is_filled_with_finite_floats_only(tmp_path):
    module = torch.nn.Linear(2, 2)
    for value, said in (
        (torch.full((2,), float("nan")), "bias holds a number that is not finite"),
        (torch.ones(2, dtype=torch.int8), "bias is int8"),
        (torch.ones(2).to(torch.float8_e4m3fn), "bias is float8"),
    ):
        with pytest.raises(CinelabError, match=said):
            fill(module, {"weight": torch.ones(2, 2), "bias": value}, tmp_path / "x")
    module.bias.data.fill_(float("inf"))
    with pytest.raises(Overflow, match="bias"):
        zoo.save_checkpoint(tmp_path / "out", module, {})
    assert not (tmp_path / "out" / zoo.CONFIG).exists()


# files of another kind


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("readme.txt", "hello")


class Thing:
    pass


KINDS = {
    "gguf.safetensors": (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "is a GGUF file"),
    "x.gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "ends in '.gguf'"),
    "x.zip": (archive, "ends in '.zip'"),
    "zip.pt": (archive, "is a zip file, but none that torch.save wrote"),
    "zip.safetensors": (archive, "rename it to .pt"),
    "page.safetensors": (
        lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
        "is a web page",
    ),
    "page.ckpt": (lambda path: path.write_text("<html>404</html>"), "is a web page"),
    "pointer.bin": (
        lambda path: path.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
        ),
        "is a Git LFS pointer",
    ),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "it is empty"),
    "empty.bin": (lambda path: path.write_bytes(b""), "it is empty"),
    "renamed.pt": (lambda path: save_file({"a": torch.ones(1)}, path), "rename it to .safetensors"),
    "objects.bin": (
        lambda path: torch.save({"generator": {"a": torch.ones(1)}, "thing": Thing()}, path),
        "holds more than tensors",
    ),
    "text.bin": (lambda path: path.write_text("hello world, no weights"), "is no zip file"),
    "text.safetensors": (
        lambda path: path.write_text("hello world, no weights"),
        "cut short or broken",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_kind_is_one_sentence(base, tmp_path, name):
    make, said = KINDS[name]
    make(tmp_path / name)
    for call in (
        lambda: convert_weights(tmp_path / name, tmp_path / "out"),
        lambda: convert_weights(base, tmp_path / "out", lora=tmp_path / name),
    ):
        with pytest.raises(CinelabError, match=said) as refused:
            call()
        assert "\n" not in str(refused.value) and name in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_lora_is_no_source_and_a_checkpoint_no_lora(base, pairs, tmp_path):
    save_file(WAYS["kohya"](pairs), tmp_path / "lora.safetensors")
    with pytest.raises(CinelabError, match="holds a LoRA alone .*--lora"):
        convert_weights(tmp_path / "lora.safetensors", tmp_path / "out")
    with pytest.raises(CinelabError, match="is no lora_A/lora_B"):
        convert_weights(base, tmp_path / "out", lora=base / f"{STEM}.safetensors")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_layers": 2}, r"of 2 layers and width 128 \(it holds 1 layers\): 27 of"),
        ({"num_layers": 10**8}, "num_layers 100000000, which no"),
        ({"num_layers": 40}, r"of 40 layers .*it holds 1 layers"),
        ({"ffn_dim": 0}, "ffn_dim 0, which no"),
        ({"ffn_dim": 64}, r"ffn.0.bias is \(32,\), expected \(64,\)"),
        ({"in_dim": -4}, "in_channels -4"),
    ],
)
def test_weights_are_compared_with_what_their_config_says(state, tmp_path, said, words):
    source = written(tmp_path / "wan", state, **said)
    with pytest.raises(CinelabError, match=words):
        convert_weights(source, tmp_path / "out")


def test_lightnings_networks_are_parts(state, tmp_path):
    def prefixed(prefix, shift):
        return {f"{prefix}.model.{name}": value + shift for name, value in state.items()}

    networks = prefixed("generator", 1) | prefixed("generator_ema", 0) | prefixed("critic", 2)
    config = json.dumps(original_config(CONFIG) | {"text_dim": CONFIG.text_dim})
    (tmp_path / "config.json").write_text(config)
    for name, held in (
        ("lightning.ckpt", {"state_dict": networks, "epoch": 1}),
        ("flat.pt", networks),
    ):
        torch.save(held, tmp_path / name)
        source = open_source(tmp_path / name)
        assert source.part == "generator_ema" and set(source.parts) == {
            "generator",
            "generator_ema",
            "critic",
        }
        assert all(
            torch.equal(source.tensor(from_wan(name)), value) for name, value in state.items()
        )
    torch.save(
        {"state_dict": {f"pipe.dit.{name}": value for name, value in state.items()}},
        tmp_path / "one.pth",
    )
    assert (
        config_of(tmp_path / "one.pth") == CONFIG
        and open_weights(tmp_path / "one.pth").report().whole
    )
