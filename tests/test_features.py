"""Feature backends on small random weights of the true layout, in a true weights folder."""

import json

import numpy as np
import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.metrics.video import features
from cinelab.metrics.video.alignment import alignment_rows
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.features import load_features, missing, prepare_images
from cinelab.script.shotlist import ListedShot, ShotList

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CINELAB_WEIGHTS", str(tmp_path))
    from cinelab.metrics.video import alignment as judges

    judges._features.cache_clear()
    yield tmp_path
    judges._features.cache_clear()


def put_clip(folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    words = {word: i for i, word in enumerate("<pad> <end> a red blue cat dog".split())}
    text = SMALL | {
        "vocab_size": len(words),
        "max_position_embeddings": 8,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = CLIPConfig(
        text_config=text,
        vision_config=SMALL | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "<pad>",
                "unk_token": "<end>",
                "eos_token": "<end>",
            }
        )
    )


def put_dino(folder):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        **{k: v for k, v in SMALL.items() if k != "intermediate_size"}, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)


def pictures(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def test_clip_sees_pictures_and_words_as_transformers_does(weights):
    put_clip(weights / "clip")
    found = load_features("clip")
    images = found.images(pictures())
    texts = found.texts(["a red cat", "a blue dog"])
    assert images.shape == (4, 16) and texts.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(weights / "clip").eval()
    x = prepare_images(pictures(), 32, features.CLIP_MEAN, features.CLIP_STD)
    words = torch.tensor([[2, 3, 5], [2, 4, 6]])
    with torch.no_grad():
        out = model(pixel_values=x, input_ids=words, attention_mask=torch.ones_like(words))
    np.testing.assert_allclose(images, out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(texts, out.text_embeds, atol=1e-5)


def test_dino_gives_a_vector_a_picture_alone_or_in_a_batch(weights):
    put_dino(weights / "dino")
    found = load_features("dino")
    assert found.texts is None
    np.testing.assert_allclose(
        found.images(pictures())[2:3], found.images(pictures()[2:3]), atol=1e-5
    )


def test_prepared_pictures_are_the_middle_square():
    frames = np.zeros((1, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 255
    x = prepare_images(frames, 16, (0, 0, 0), (1, 1, 1))
    assert x.shape == (1, 3, 16, 16) and x[:, :, :, 2:-2].min() > 0.97


def test_weights_that_are_present_give_rows_and_absent_ones_say_what_to_fetch(weights):
    put_clip(weights / "clip")
    shots = [ListedShot(2 * i, 2 * i + 2, "a red cat", ("cat",), ("home",)) for i in range(2)]
    clip = Clip("film", pictures(), 8.0, ShotList(tuple(shots)))
    rows = list(alignment_rows(clip, ("clip", "dino")))
    by = {
        backend: {row.metric: row for row in rows if row.backend == backend}
        for backend in ("clip", "dino")
    }
    assert {row.status for row in by["clip"].values()} == {"ok"} and "text alignment" in by["clip"]
    assert {row.status for row in by["dino"].values()} == {"absent"} and "text alignment" not in by[
        "dino"
    ]
    said = by["dino"]["consistency in shot"].detail
    assert (
        "config.json, model.safetensors missing" in said
        and "hf download facebook/dinov2-base" in said
    )


def test_broken_and_unknown_weights(weights):
    assert missing("clip").startswith("config.json, tokenizer.json, model.safetensors missing")
    with pytest.raises(CinelabError, match="missing in"):
        load_features("clip")
    with pytest.raises(CinelabError, match="use one of colour, clip, dino"):
        load_features("vgg")
    put_dino(weights / "dino")
    (weights / "dino" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CinelabError, match="fetch them again"):
        load_features("dino")
