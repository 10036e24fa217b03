"""Trainings on a GPU: the first steps of every stage have the CPU's losses."""

import pytest
import torch
from golden_training import TRAINING

from cinelab.devices import device_name
from cinelab.lab.training import stages

pytestmark = pytest.mark.gpu
IN_FP32 = (
    *("teacher-forcing-fp32", "teacher-forcing-per-head", "teacher-forcing-chunks"),
    *("consistency-fp32", "dmd-fp32", "dmd-known"),
)
IN_BF16 = ("bidirectional", "ode-causal", "codec", "recogniser")


def rows_on(device: str, name: str, folder, monkeypatch) -> list[list[float]]:
    monkeypatch.setenv("CINELAB_DEVICE", device)
    return TRAINING[name](folder / device)["rows"]


def compare(here: list[list[float]], there: list[list[float]], within: float) -> None:
    """Losses, norms and rates of every step, which are the numbers of its row."""
    assert len(here) == len(there) >= 1
    for mine, theirs in zip(here, there, strict=True):
        assert theirs == pytest.approx(mine, rel=within, abs=1e-4)


@pytest.mark.parametrize("name", IN_FP32)
def test_steps_in_fp32_have_the_cpus_losses(gpu, name, tmp_path, monkeypatch):
    here = rows_on("cpu", name, tmp_path, monkeypatch)
    compare(here, rows_on(gpu, name, tmp_path, monkeypatch), within=2e-3)


@pytest.mark.parametrize("name", IN_BF16)
def test_steps_in_bf16_have_the_cpus_losses_to_its_rounding(gpu, name, tmp_path, monkeypatch):
    here = rows_on("cpu", name, tmp_path, monkeypatch)
    compare(here[:1], rows_on(gpu, name, tmp_path, monkeypatch)[:1], within=0.05)


def test_a_stage_of_a_notebook_trains_on_the_gpu_and_exports(gpu, tmp_path):
    changes = {"steps": 2, "save_every": 1}
    stage = stages.bidirectional(tmp_path / "run", tmp_path / "store", "smoke", changes=changes)
    assert next(stage.model.parameters()).device.type == torch.device(gpu).type
    assert len(list(stage.train())) == 2
    assert stage.run.conditions["device"] == device_name(gpu)
    assert (stage.export(tmp_path / "made") / "weights.safetensors").exists()
