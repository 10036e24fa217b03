"""A tiny random model folder in the true layout of `Wan-AI/Wan2.1-T2V-*-Diffusers`, made without
any download.

    folder = make_wan_folder(tmp_path / "wan")

    model_index.json
    scheduler/scheduler_config.json
    text_encoder/  config.json, model-0000i-of-0000n.safetensors, its index; only `shared.weight`,
                   as published
    tokenizer/     tokenizer.json, tokenizer_config.json; letters and a few words, </s> at the end
    transformer/   config.json, diffusion_pytorch_model*.safetensors (its index)
    vae/           config.json, diffusion_pytorch_model.safetensors

Sizes that code may rely on are the true ones: 16 latent channels, 8 x 8 pixels a cell, 4 pictures a
latent, patches of 1 x 2 x 2, the four levels of the VAE and where it upsamples. Widths and depths
are small.
"""

import json
from pathlib import Path

import torch

WORDS = (
    "a the of in at and then shot wide medium close red blue cat robot waves walks dances beach "
    "city meadow night day"
).split()
TEXT_DIM = 32
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "num_layers": 2,
    "ffn_dim": 96,
    "text_dim": TEXT_DIM,
    "freq_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": (1, 2, 2),
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 64,
}
# latents_mean and latents_std are the published ones
VAE = {"base_dim": 4, "z_dim": 16, "num_res_blocks": 1}


def make_wan_folder(
    path: str | Path,
    seed: int = 0,
    shards: bool = False,
    parts: tuple[str, ...] = ("transformer", "vae", "text_encoder", "tokenizer"),
    **transformer,
) -> Path:
    """Write the folder; `shards` splits transformer and text encoder into several files,
    `transformer` changes its config."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    makers = {
        "transformer": lambda: make_transformer(path / "transformer", shards, **transformer),
        "vae": lambda: make_vae(path / "vae"),
        "text_encoder": lambda: make_text_encoder(path / "text_encoder", shards),
        "tokenizer": lambda: make_tokenizer(path / "tokenizer"),
    }
    for part in parts:
        makers[part]()
    (path / "scheduler").mkdir(exist_ok=True)
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": "0.33.0.dev0",
        "flow_shift": 3.0,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }
    write(path / "scheduler/scheduler_config.json", scheduler)
    write(
        path / "model_index.json",
        {
            "_class_name": "WanPipeline",
            "_diffusers_version": "0.33.0.dev0",
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLWan"],
        },
    )
    return path


def make_transformer(path: Path, shards: bool = False, **changes) -> None:
    from diffusers import WanTransformer3DModel

    WanTransformer3DModel(**TRANSFORMER | changes).save_pretrained(
        path, max_shard_size="100KB" if shards else "10GB"
    )


def make_vae(path: Path, **changes) -> None:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(**VAE | changes)
    with torch.no_grad():  # a fresh VAE's pictures are almost grey, whatever the latents
        for name, value in vae.named_parameters():
            if name.endswith("weight"):
                value *= 1.5
    vae.save_pretrained(path)


def make_text_encoder(path: Path, shards: bool = False, words: int = 3 + 95 + len(WORDS)) -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=words,
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    model = UMT5EncoderModel(config)
    with torch.no_grad():  # large enough that places and words matter
        for value in model.parameters():
            value.normal_(std=0.3)
    model.save_pretrained(path, max_shard_size="20KB" if shards else "10GB")
    told = json.loads((path / "config.json").read_text())
    write(path / "config.json", told | {"tie_word_embeddings": False})  # as published


def make_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [(chr(code), -4.0) for code in range(33, 127)]
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -10.0),
        ("▁", -3.0),
        *letters,
        *(("▁" + word, -1.0) for word in WORDS),
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(path)
    told = json.loads((path / "tokenizer_config.json").read_text())
    write(
        path / "tokenizer_config.json",
        told | {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512},
    )


def write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
