"""A run knows its data, and what it exports can be directed: in the toybox at once, at Wan's size
through a folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_students import FakeStore, net
from test_train import Fake
from typer.testing import CliRunner
from wan_folder import TEXT_DIM, TRANSFORMER, make_wan_folder

from cinelab.cli import commands as cli
from cinelab.cli.train import next_line
from cinelab.errors import CinelabError
from cinelab.jobs import worker
from cinelab.jobs.job import load_job
from cinelab.lab.training.run import StageRun
from cinelab.latent.clips import text_key, write_shard
from cinelab.latent.store import Store
from cinelab.runs import Run
from cinelab.scale.checkpoints import export
from cinelab.scale.parallel import Parallel
from cinelab.states import sealed_state
from cinelab.texts import read_json
from cinelab.train import consistency, dmd, ode, pairs, presets, teacher_forcing
from cinelab.train.provenance import check_fits, data_of
from cinelab.weights.load import config_of
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.wan import load_wan

CAPTION = "a red cat waves"
FILM = """title: One
seed: 4
shots:
  - {prompt: a red cat that waves in the meadow by day, seconds: 0.5}
"""


def films_of(folder: Path, seed: int = 0, films: int = 2, **recipe) -> Path:
    """A store of films in the toybox's latents, as `cinelab clips` leaves it."""
    encoder = zoo.toy_encoder()
    rng = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    write_shard(
        folder,
        "text-null",
        {text_key(""): torch.zeros(1, encoder.width)},
        {"captions": {text_key(""): ""}},
    )
    write_shard(
        folder,
        "text-000000-00",
        {text_key(CAPTION): encoder.encode([CAPTION])[0]},
        {"captions": {text_key(CAPTION): CAPTION}},
    )
    about = {"source": "x", "latents": 8, "shots": [{"prompts": [[CAPTION, 8]]}]}
    latents = {str(i): torch.randn(8, 24, 6, 8, generator=rng).half() for i in range(films)}
    write_shard(
        folder, "000000-00", latents, {"plan": "x", "films": [about] * films, "skipped": []}
    )
    told = {
        "fps": 6.0,
        "size": [48, 64],
        "chunk": 1,
        "channels": 24,
        "width": encoder.width,
        "words": encoder.length,
        "codec": zoo.fingerprint("toybox-codec"),
        "encoder": "words 0123",
    } | recipe
    (folder / "store.json").write_text(json.dumps(told))
    return folder


def job_of(tmp_path: Path, films: Path, run: str = "run", **more) -> Path:
    path = tmp_path / f"{run}.json"
    values = {
        "stage": "teacher_forcing",
        "run": str(tmp_path / run),
        "store": {"kind": "films", "path": str(films)},
        "export": str(tmp_path / run / "out"),
        "changes": {"steps": 2, "bf16": False, "curriculum": [4]},
    }
    path.write_text(json.dumps(values | more))
    return path


def train(path: Path) -> None:
    job = load_job(path)
    for _ in worker.train(job, Parallel.here(job.layout)):
        pass


def steps(path: Path, count: int, **more) -> Path:
    """The same description with more steps."""
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"changes": said["changes"] | {"steps": count}} | more))
    return path


# which data


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    one, other = films_of(tmp_path / "one"), films_of(tmp_path / "other", seed=1)
    path = job_of(tmp_path, one)
    train(path)
    noted = read_json(tmp_path / "run" / "config.json")["data"]
    assert noted["path"] == str(one) and noted["films"] == 2 and noted["recipe"]["fps"] == 6.0
    assert read_json(tmp_path / "run" / "done.json")["data"] == noted
    assert read_json(tmp_path / "run" / "out" / "config.json")["run"]["data"] == noted
    for count in (2, 3):  # done, and to go on
        with pytest.raises(
            CinelabError,
            match=r"was trained on .*one \(2 films, mark .*other \(2 films, mark .* "
            "has another content",
        ):
            train(steps(path, count, store={"kind": "films", "path": str(other)}))
    moved = one.rename(tmp_path / "moved")
    train(steps(path, 3, store={"kind": "films", "path": str(moved)}))
    assert read_json(tmp_path / "run" / "done.json")["data"] == noted | {"path": str(moved)}
    said = read_json(tmp_path / "run" / "config.json")
    said.pop("data")  # begun before runs noted it
    (tmp_path / "run" / "config.json").write_text(json.dumps(said))
    train(steps(path, 4))
    assert read_json(tmp_path / "run" / "config.json")["data"]["mark"] == noted["mark"]


class Marked(FakeStore):
    """Random clips of a store that says what it is."""

    def __init__(self, mark):
        self.mark = mark

    def about(self):
        return {"mark": self.mark}


SHORT = {"model": presets.SMOKE, "bf16": False, "steps": 1}
TF, CD, ODE = (
    replace(made("smoke"), **SHORT)
    for made in (presets.teacher_forcing, presets.consistency, presets.ode)
)
DMD = replace(presets.dmd("smoke"), **SHORT, known=0.0, batch=1)
STAGES = {
    "teacher_forcing": lambda store, folder, config: teacher_forcing.train(
        config, net(), store, Run(folder, config)
    ),
    "consistency": lambda store, folder, config: consistency.train(
        config, net(), net(1), store, Run(folder, config)
    ),
    "dmd": lambda store, folder, config: dmd.train(
        config, net(), net(1), net(2), store, Run(folder, config)
    ),
}


@pytest.mark.parametrize(("stage", "config"), list(zip(STAGES, (TF, CD, DMD), strict=True)))
def test_every_stage_notes_its_data(stage, config, tmp_path):
    for _ in STAGES[stage](Marked("a"), tmp_path, config):
        pass
    assert read_json(tmp_path / "done.json")["data"] == {"mark": "a"}
    with pytest.raises(CinelabError, match="mark a.*mark b.*has another content"):
        STAGES[stage](Marked("b"), tmp_path, replace(config, steps=2))


def test_pairs_are_of_one_store_and_a_run_of_one_set_of_pairs(tmp_path):
    config = replace(ODE, pairs=presets.pairs("smoke"))
    teacher = net().requires_grad_(False)
    for name, mark in (("one", "a"), ("two", "b")):
        list(pairs.integrate_pairs(tmp_path / name, config.pairs, teacher, "abc", Marked(mark)))
    with pytest.raises(CinelabError, match="films of another content"):
        pairs.Pairs(tmp_path / "one", config.pairs, "abc", Marked("b"))
    said = read_json(tmp_path / "one" / "pairs.json")
    del said["data"], said["seal"]  # made before pairs noted it
    (tmp_path / "one" / "pairs.json").write_text(json.dumps(said))
    made = pairs.Pairs(tmp_path / "one", config.pairs, "abc", Marked("a"))
    for _ in ode.train(config, net(), made, Run(tmp_path / "run", config)):
        pass
    assert read_json(tmp_path / "run" / "done.json")["data"]["films_of"] == {"mark": "a"}
    with pytest.raises(CinelabError, match="has another content"):
        ode.train(
            config,
            net(),
            pairs.Pairs(tmp_path / "two", config.pairs, "abc", Marked("b")),
            Run(tmp_path / "run", config),
        )


def test_the_mark_of_a_toybox_store_is_its_content(tmp_path):
    encoder = zoo.toy_encoder()
    for name, value in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").write_text(json.dumps({"films": 1}))
        np.savez(
            tmp_path / name / "000000.npz",
            latents=np.full((1, 4, 24, 6, 8), value, np.float16),
            words=np.full((1, 3, encoder.length), -1, np.int16),
            slot=np.zeros((1, 4), np.int16),
            shot=np.zeros((1, 4), np.int16),
        )
    a, b, c = (data_of(Store(tmp_path / name, encoder)) for name in "abc")
    assert a["mark"] == b["mark"] != c["mark"] and a["path"] == str(tmp_path / "a")
    assert data_of(Fake()) is None


def test_codec_and_model_that_do_not_belong_together_are_refused(tmp_path):
    store = films_of(tmp_path / "films")
    small = {
        "model.num_layers": 1,
        "model.num_attention_heads": 1,
        "model.attention_head_dim": 12,
        "model.ffn_dim": 8,
        "steps": 1,
    }
    with pytest.raises(CinelabError, match="latents of 24 channels, and the model takes 16"):
        train(job_of(tmp_path, store, preset="wan-1.3b", changes=small))
    with pytest.raises(CinelabError, match="prompts of 64 numbers a word, and the model takes 8"):
        check_fits(Fake(), replace(presets.SMOKE, text_dim=8))
    with pytest.raises(CinelabError, match="6 x 8 cells, and the model's patches of 4 x 4"):
        check_fits(Fake(), replace(presets.SMOKE, patch_size=(1, 4, 4)))


# what becomes of the result


def test_a_training_on_own_clips_of_the_toybox_can_be_directed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("film.yaml").write_text(FILM)
    path = job_of(tmp_path, films_of(tmp_path / "films"), export_dtype="fp32")
    train(path)
    out = tmp_path / "run" / "out"
    bundle = zoo.load(out)
    assert (
        bundle.fps == 6.0
        and bundle.size == (48, 64)
        and {value.dtype for value in load_file(out / zoo.WEIGHTS).values()} == {torch.float32}
    )
    assert next_line(out) == f"cinelab direct film.yaml --model {out}"
    done = CliRunner().invoke(cli.app, ["direct", "film.yaml", "--model", str(out), "-o", "film"])
    assert done.exit_code == 0 and (tmp_path / "film" / "film.mp4").exists(), done.output


def test_adapters_of_the_toybox_are_exported_merged_as_well(tmp_path):
    store = films_of(tmp_path / "films")
    train(job_of(tmp_path, store, "base"))
    base = tmp_path / "base" / "out"
    path = job_of(
        tmp_path,
        store,
        init=str(base),
        lora={"rank": 2, "alpha": 2.0},
        changes={"steps": 2, "bf16": False, "curriculum": [4], "optim.lr": 0.1, "optim.warmup": 0},
    )
    train(path)
    out = tmp_path / "run" / "out"
    before, after = load_file(base / zoo.WEIGHTS), load_file(out / zoo.WEIGHTS)
    assert before.keys() == after.keys() and zoo.load(out).span == 4
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("blocks.") for name in changed)
    assert (out / zoo.ADAPTER).exists()


def wan_job(tmp_path: Path, folder: Path, **more) -> Path:
    model = {
        f"model.{name}": TRANSFORMER[name]
        for name in (
            "num_attention_heads",
            "attention_head_dim",
            "num_layers",
            "ffn_dim",
            "text_dim",
            "freq_dim",
        )
    }
    changes = {"steps": 1, "bf16": False, "curriculum": [6], "frames_per_batch": 6, **model}
    return job_of(
        tmp_path,
        folder,
        preset="wan-1.3b",
        init=str(folder),
        store={"kind": "noise", "path": f"4x6x{TEXT_DIM}"},
        changes=changes,
        **more,
    )


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    path = make_wan_folder(tmp_path_factory.mktemp("wan") / "Wan-tiny")
    (path / "cinelab.json").write_text(json.dumps({"size": [32, 48], "dtype": "fp32"}))
    return path


def test_what_is_trained_at_wans_size_is_directed_from_its_folder(wan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(wan_job(tmp_path, wan))
    out = tmp_path / "run" / "out"
    folder = tmp_path / "copy"
    with pytest.raises(CinelabError, match=f'write {{"weights": "{out}"}} into cinelab.json'):
        zoo.load(out)
    assert f'{{"weights": "{out}"}}' in next_line(out)
    shutil.copytree(wan, folder)
    (folder / "cinelab.json").write_text(
        json.dumps({"size": [32, 48], "dtype": "fp32", "weights": str(out)})
    )
    bundle = load_wan(folder, device="cpu")
    trained = load_file(out / zoo.WEIGHTS)
    assert all(
        torch.equal(value, trained[name].float())
        for name, value in bundle.model.state_dict().items()
    )
    Path("film.yaml").write_text(FILM)
    done = CliRunner().invoke(
        cli.app, ["direct", "film.yaml", "--model", str(folder), "-o", "film"]
    )
    assert done.exit_code == 0 and (tmp_path / "film" / "film.mp4").exists(), done.output


def test_adapters_at_wans_size_are_merged_by_convert(wan, tmp_path):
    train(wan_job(tmp_path, wan, lora={"rank": 2, "alpha": 2.0}))
    out = tmp_path / "run" / "out"
    with pytest.raises(CinelabError, match="holds adapters alone .*convert BASE TARGET --lora"):
        zoo.load(out)
    assert next_line(out) == f"cinelab convert BASE TARGET --lora {out / zoo.ADAPTER}"
    done = CliRunner().invoke(
        cli.app, ["convert", str(wan), str(tmp_path / "merged"), "--lora", str(out / zoo.ADAPTER)]
    )
    assert done.exit_code == 0 and '{"weights": ' in done.output.replace("\n", "")
    assert load_wan(wan, weights=tmp_path / "merged", device="cpu").model.config == config_of(wan)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model.num_layers": 3},
            "they have num_layers 2, the model 3.*changes: {model.num_layers: 2}",
        ),
        ({"model.ffn_dim": 40}, "they have ffn_dim 96, the model 40"),
    ],
)
def test_weights_of_another_model_are_refused_before_anything_is_built(
    wan, tmp_path, monkeypatch, changes, said
):
    monkeypatch.setattr(worker, "network", lambda *_, **__: pytest.fail("built"))
    path = wan_job(tmp_path, wan)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"changes": values["changes"] | changes}))
    with pytest.raises(CinelabError, match=f"do not fit the model: {said}"):
        train(path)


# how it is exported


def test_an_export_is_finite_and_has_the_dtype_that_is_asked_for(tmp_path):
    config = replace(TF, steps=1, curriculum=(4,))
    stage = StageRun(
        config,
        Run(tmp_path / "run", config),
        net(),
        lambda: teacher_forcing.train(config, stage.model, Fake(), stage.run),
        lambda: {"a": 1},
    )
    for _ in stage.train():
        pass
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for folder in (
            stage.export(tmp_path / name, name),
            export(
                tmp_path / "run", tmp_path / f"{name} streamed" / zoo.WEIGHTS, dtype=name
            ).parent,
        ):
            assert {value.dtype for value in load_file(folder / zoo.WEIGHTS).values()} == {dtype}
    exact = load_file(tmp_path / "fp32" / zoo.WEIGHTS)
    ema = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["parts"][
        "ema"
    ]["values"]
    assert all(torch.equal(exact[name], ema[name]) for name in ema)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    state["parts"]["ema"]["values"]["proj_out.weight"][0, 0] = 1e5
    torch.save(sealed_state(state), tmp_path / "run" / "checkpoints" / "last.pt")
    kept = (tmp_path / "fp16" / zoo.WEIGHTS).read_bytes()
    for call in (
        lambda: stage.export(tmp_path / "fp16", "fp16"),
        lambda: export(tmp_path / "run", tmp_path / "fp16" / zoo.WEIGHTS, dtype="fp16"),
    ):
        with pytest.raises(
            CinelabError, match="proj_out.weight holds 100000, and the largest float16"
        ):
            call()
    assert (tmp_path / "fp16" / zoo.WEIGHTS).read_bytes() == kept
    with pytest.raises(CinelabError, match="dtype is 'int8'"):
        stage.export(tmp_path / "x", "int8")
    with pytest.raises(CinelabError, match="no part 'critic'; choose one of ema, model, optimiser"):
        export(tmp_path / "run", tmp_path / "x.safetensors", "critic")
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(b"torn")
    with pytest.raises(CinelabError, match="cannot be read"):
        stage.export(tmp_path / "y")


def test_an_export_dtype_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(CinelabError, match="export_dtype is 'fp8'; use one of fp32, bf16, fp16"):
        load_job(job_of(tmp_path, tmp_path, export_dtype="fp8"))
