"""Checkpoints: what fits loads, what does not says what was found, expected and what to do."""

import json

import pytest
import torch

from cinelab import load
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.latent.codec import ToyCodec, ToyCodecConfig
from cinelab.model.wan import CausalWan
from cinelab.texts import read_json
from cinelab.train.presets import SMOKE, TOY
from cinelab.zoo import checkpoints as zoo


def saved(folder, config=SMOKE, said=None):
    torch.manual_seed(0)
    model = CausalWan(config)
    zoo.save_checkpoint(
        folder,
        model,
        zoo.model_config(
            said or config, zoo.toy_encoder(), "toybox-codec", Sampling(), 1, 24, 8.0, (48, 64)
        ),
        torch.float32,
    )
    return model


def test_save_and_load_keep_every_bit(tmp_path):
    model = saved(tmp_path / "m")
    bundle = load(tmp_path / "m")
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), bundle.model.state_dict().values(), strict=True
        )
    )
    assert bundle.latent_shape == (24, 6, 8) and bundle.chunk == 1
    assert load(tmp_path / "m" / zoo.WEIGHTS).name == "m"


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    saved(tmp_path / "m", SMOKE, said=TOY)
    with pytest.raises(CinelabError, match="do not fit their config.*missing.*expected"):
        load(tmp_path / "m")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    saved(tmp_path / "m")
    path = tmp_path / "m" / zoo.WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CinelabError, match="cut short or broken"):
        load(tmp_path / "m")


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(CinelabError, match="'toybox-bse' was not found.*toybox-codec"):
        load("toybox-bse")


def test_an_unknown_setting_in_a_config_is_refused(tmp_path):
    saved(tmp_path / "m")
    config = read_json(tmp_path / "m" / zoo.CONFIG)
    config["model"]["num_layer"] = 3
    zoo.write_json(tmp_path / "m" / zoo.CONFIG, config)
    with pytest.raises(CinelabError, match="'num_layer'.*did you mean 'num_layers'"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", zoo.shipped())
def test_shipped_checkpoints_say_how_they_were_made(name):
    folder = zoo.find(name)
    config = read_json(folder / zoo.CONFIG)
    assert {"steps", "seconds", "device"} <= config["run"].keys()
    assert "seed" in config["training"]
    assert (folder / "log.jsonl").exists()


def test_shipped_checkpoints_stay_small():
    names = ("toybox-codec", "toybox-bidirectional", "toybox-base")
    size = {
        name: sum(path.stat().st_size for path in zoo.find(name).iterdir())
        for name in zoo.shipped()
    }
    assert sum(size[name] for name in names) < 30 * 2**20
    assert max(size.values()) < 14 * 2**20


def test_students_are_found_by_how_they_sample():
    assert set(zoo.students()) == {
        "toybox-1step",
        "toybox-2step",
        "toybox-4step",
        "toybox-chunk-4step",
    }


def test_presets_survive_json():
    assert zoo.from_dict(type(TOY), to_dict(TOY)) == TOY


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codec": None}, "has codec None"),
        ({"sampling": [2]}, r"has sampling \[2\]"),
        ({"chunk": 0}, "chunk 0, span 24"),
        ({"chunk": 30}, "chunk 30, span 24"),
        ({"size": [48, 60]}, "size .48, 60., and whole multiples of 8 x 8|size .48, 60."),
        ({"size": [48]}, "size .48."),
        ({"fps": 0}, "fps 0"),
        (
            {"text": {"vocabulary": ["a"], "width": 32}},
            "reads prompts 64 wide, but its text encoder makes 32",
        ),
    ],
)
def test_a_config_that_is_not_whole_is_one_sentence(changes, said, tmp_path):
    source = zoo.find("toybox-1step")
    (tmp_path / zoo.WEIGHTS).symlink_to(source / zoo.WEIGHTS)
    (tmp_path / zoo.CONFIG).write_text(
        json.dumps(json.loads((source / zoo.CONFIG).read_text()) | changes)
    )
    with pytest.raises(CinelabError, match=said):
        zoo.load(tmp_path)


def test_a_codec_of_another_model_and_a_part_of_a_checkpoint_are_refused(tmp_path):
    source = zoo.find("toybox-1step")
    said = json.loads((source / zoo.CONFIG).read_text())
    (tmp_path / zoo.CONFIG).write_text(json.dumps(said | {"codec": "small"}))
    with pytest.raises(CinelabError, match="holds config.json and no weights.safetensors"):
        zoo.load(tmp_path)
    (tmp_path / zoo.WEIGHTS).symlink_to(source / zoo.WEIGHTS)
    small = ToyCodecConfig(channels=8, width=8, deep=8)
    zoo.save_checkpoint(tmp_path.parent / "small", ToyCodec(small), {"codec": to_dict(small)})
    with pytest.raises(
        CinelabError, match="takes 24 channels and gives 24, but its codec small has 8"
    ):
        zoo.load(tmp_path)
    (tmp_path / zoo.CONFIG).write_text("[]")
    with pytest.raises(CinelabError, match="holds a list"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("model", {"ffn_dim": 10**6}, "describes a model of 3081836768 numbers"),
        (
            "model",
            {"num_attention_heads": 100, "attention_head_dim": 10**6},
            "describes a model of",
        ),
        ("model", {"num_layers": 1000}, "Setting 'num_layers' is 1000"),
        ("text", {"vocabulary": ["a", []]}, "vocabulary"),
        ("text", {"vocabulary": 5}, "vocabulary"),
    ],
)
def test_a_config_far_larger_than_its_weights_takes_no_memory(tmp_path, part, change, said):
    shipped = zoo.find("toybox-1step")
    config = json.loads((shipped / zoo.CONFIG).read_text())
    (tmp_path / zoo.CONFIG).write_text(json.dumps(config | {part: config[part] | change}))
    (tmp_path / zoo.WEIGHTS).symlink_to(shipped / zoo.WEIGHTS)
    with pytest.raises(CinelabError, match=said):
        zoo.load(tmp_path)
