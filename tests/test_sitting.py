"""`benchmarks/gpu.py`: its schedule, its processes, what comes back and its queue, all rehearsed on
the CPU."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_bench import (
    archive,
    films,
    kernels,
    official,
    sitting,
    summary,
    toy_films,
)
from benchmarks.gpu_bench.jobs import Films, found, read_queue
from benchmarks.gpu_bench.ledger_figures import CEILINGS, figure
from benchmarks.gpu_bench.record import Recorder
from benchmarks.gpu_bench.schedule import LEAST, RESERVE, plan_text, planned
from benchmarks.gpu_bench.sections import SECTIONS, TRAINING, Section, section_named
from benchmarks.gpu_bench.sizes import TINY
from benchmarks.gpu_bench.speeds import PARTLY_FAST
from benchmarks.gpu_bench.training import deliver, described
from cinelab.errors import CinelabError
from cinelab.files import read_lines
from cinelab.jobs.worker import train
from cinelab.ops import attention
from cinelab.outputs import writing
from cinelab.scale.parallel import Parallel
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.checkpoints import load

ROOT = Path(__file__).parents[1]
ABSENT = ("av", "scenedetect", "papermill", "jupyterlab", "ipywidgets")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT!r}
        return None if absent else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
"""
JOB = """
name: one
why: because
stage: teacher_forcing
start: toybox-base
steps: 100
expected_seconds: 50
"""


def names(slots):
    return [slot.section.name for slot in slots if not slot.left_out]


def test_training_takes_what_the_sections_leave():
    slots = planned(SECTIONS, 780.0, {})
    assert names(slots)[-1] == TRAINING
    assert sum(slot.expected for slot in slots if not slot.left_out) == 780.0 - RESERVE
    assert slots[-1].limit == slots[-1].expected >= LEAST


def test_what_is_worth_least_is_left_out_and_the_plan_says_so():
    slots = planned(SECTIONS, 160.0, {})
    assert names(slots) == ["ceilings", "correctness"]
    text = plan_text(slots, 160.0)
    assert "left out: it needs" in text and "training" in text.splitlines()[-1]


def test_the_official_model_is_measured_only_where_its_checkout_is_given():
    section = [section_named("official")]
    assert names(planned(section, 300.0, {"official": Path(".")})) == ["official"]
    with pytest.raises(CinelabError, match="needs --official PATH; give that option"):
        planned(section, 300.0, {})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "0.2"], "are too few for any section: the shortest needs"),
        (["--minutes", "-1"], "--minutes is -1; more than 0"),
        (["--only", "speeds"], "Section 'speeds' is unknown; use one of ceilings"),
        (["--official", "nowhere"], "where wan/modules/causal_model.py is not found"),
        (["--queue", "nowhere"], "--queue is nowhere, which is no folder"),
        (["--only", "ceilings"], "or add --rehearse to run everything on the CPU"),
    ],
)
def test_what_cannot_begin_is_one_sentence(words, sentence, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_the_plan_is_printed_without_a_gpu(capsys):
    assert gpu.main(["--plan", "--minutes", "13"]) == 0
    assert "of 780 s are planned" in capsys.readouterr().out


def test_the_shipped_queue_can_be_read():
    jobs = read_queue(ROOT / "experiments" / "gpu")
    assert [one.stage for one in jobs[:2]] == ["teacher_forcing", "consistency"]
    assert all(one.why and one.expected_seconds > 0 for one in jobs)


def test_two_jobs_of_one_name_are_refused(tmp_path):
    for name in ("10-a.yaml", "20-b.yaml"):
        (tmp_path / name).write_text(JOB)
    with pytest.raises(CinelabError, match="20-b.yaml: name 'one' is that of a job before it"):
        read_queue(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("start: toybox-base", "start: []"), "start is empty"),
        (("stage: teacher_forcing", "stage: teacher_forcin"), "did you mean"),
        (("steps: 100", "step: 100"), "step"),
        (("why: because\n", ""), "does not say why; add it"),
        (("steps: 100", "steps: 100\nminutes: 2"), "give either steps or minutes"),
        (("steps: 100", "steps: 0"), "'steps' is 0"),
        (("start: toybox-base", "start: job:two"), "'job:two' names no job before it"),
        (("name: one", "name: one two"), "name is 'one two'"),
        (("steps: 100", "steps: 100\nkeeps: [film]"), "keeps has 'film'"),
        (("steps: 100", "steps: 100\nchanges: {optim.rate: 1}"), "rate"),
        (("steps: 100", "steps: 100\nstore: {film: 3}"), "film"),
    ],
)
def test_a_wrong_queue_file_is_one_sentence_with_its_name(change, sentence, tmp_path):
    (tmp_path / "10-one.yaml").write_text(JOB.replace(*change))
    with pytest.raises(CinelabError, match="10-one.yaml") as error:
        read_queue(tmp_path)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_job_starts_from_the_first_place_that_is_there(tmp_path):
    there = tmp_path / "starts" / "mine"
    there.mkdir(parents=True)
    (there / "weights.safetensors").write_bytes(b"")
    wanted = ["job:one", "mine", "toybox-base"]
    assert found(wanted, tmp_path, tmp_path / "starts") == str(there / "weights.safetensors")
    (there / "config.json").write_text("{}")
    assert found(wanted, tmp_path, tmp_path / "starts") == str(there)
    assert found(wanted, tmp_path, None) == "toybox-base"
    with pytest.raises(CinelabError, match="give --starts FOLDER"):
        found("theirs", tmp_path, None)


def test_a_job_has_as_many_steps_as_there_is_time_for(tmp_path):
    (tmp_path / "one.yaml").write_text(JOB)
    (queued,) = read_queue(tmp_path)
    task = SimpleNamespace(rehearsed=False, starts=None)
    assert described(task, queued, tmp_path, 100.0).config.steps == 100
    assert described(task, queued, tmp_path, 37.0).config.steps == 50
    with pytest.raises(CinelabError, match="job one needs 50 s and 15 s are left"):
        described(task, queued, tmp_path, 15.0)


def test_a_job_that_was_stopped_keeps_the_weights_of_its_last_checkpoint(tmp_path):
    store = tmp_path / "films-2-40000-24-6"
    build = toy_films.builder()(
        store,
        Films(films=4, latents=8, shard=4).config,
        zoo.load_codec(),
        zoo.toy_encoder(),
        zoo.fingerprint("toybox-codec"),
    )
    assert list(build) == [4]
    (tmp_path / "one.yaml").write_text(JOB.replace("toybox-base", "random\npreset: smoke"))
    (queued,) = read_queue(tmp_path)
    job = queued.job(tmp_path, start="random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        rows = train(job, Parallel.join(job.layout))
        assert [next(rows)["step"] for _ in range(3)] == [0, 1, 2]
        rows.close()
    deliver(job)
    assert load(job.export).chunk == 1
    assert json.loads((Path(job.export) / "config.json").read_text())["stopped"] is True


def test_an_error_is_a_row_and_the_rest_goes_on(tmp_path):
    rows = Recorder(tmp_path / "rows.jsonl", "speed")
    for name, error in (
        ("large", torch.OutOfMemoryError("CUDA out of memory.\nTried")),
        ("14B", CinelabError("14B needs 77.0 GiB.")),
        ("odd", ValueError("no")),
    ):
        with rows.trying(name):
            raise error
    rows.check("equal", 0.5, 0.1)
    found_rows = read_lines(rows.path)
    assert [row.get("error") for row in found_rows] == [
        "out of memory on the device (CUDA out of memory. Tried)",
        "14B needs 77.0 GiB.",
        "ValueError: no",
        None,
    ]
    assert [row.get("refused") for row in found_rows] == [False, True, False, None]
    assert found_rows[-1]["ok"] is False


def settings(tmp_path, **more):
    return sitting.Settings(100.0, tmp_path / "out", tmp_path / "work", True, **more)


def one_sitting(tmp_path, program, limit):
    """A sitting of one section, whose process runs `program`."""
    section = Section("ceilings", (), 1.0, limit, "rows")
    (slot,) = planned([section_named("ceilings")], 100.0, {}, rehearsed=True)
    slot = type(slot)(section, 1.0, limit)
    made = sitting.Sitting(settings(tmp_path), {}, [slot], "the plan", [], lambda text: None)
    made._command = lambda section, limit: [sys.executable, "-c", program]
    return made


CHILD = """
import subprocess, sys, time
from pathlib import Path
work = Path({work!r})
row = '{{"section": "ceilings", "name": "a", "value": 1.0, "unit": "s"}}\\n'
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(work / "rows" / "ceilings.jsonl").write_text(row)
(work / "pid").write_text(str(child.pid))
time.sleep(60)
"""


ROW = """
from pathlib import Path
row = '{{"section": "ceilings", "name": "a", "value": 1.0, "unit": "s"}}\\n'
(Path({work!r}) / "rows" / "ceilings.jsonl").write_text(row)
"""


def waited_for(path, seconds=20.0):
    end = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(path.read_text())


def terminated_after(path):
    waited_for(path)
    os.kill(os.getpid(), signal.SIGTERM)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_section_is_stopped_at_its_limit_with_all_it_started(tmp_path):
    made = one_sitting(tmp_path, CHILD.format(work=str(tmp_path / "work")), 2.0)
    made.run()
    outcome = made.outcomes["ceilings"]
    assert outcome["state"] == "cut" and "its limit of 2 s came" in outcome["why"]
    assert gone(waited_for(tmp_path / "work" / "pid"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in summary["rows"]] == ["a"]
    assert "no prediction" in (tmp_path / "out" / "summary.md").read_text()
    assert "rows/ceilings.jsonl" in archive.names_in([tmp_path / "out" / "results-1.tar.gz"])


def test_a_section_that_fails_says_how_and_an_interrupt_packs_what_is_there(tmp_path):
    made = one_sitting(tmp_path, "print('why'); raise SystemExit(3)", 20.0)
    made.run()
    assert made.outcomes["ceilings"]["state"] == "failed"
    assert made.outcomes["ceilings"]["why"] == "exit code 3: why"
    work = tmp_path / "b"
    made = one_sitting(work, CHILD.format(work=str(work / "work")), 30.0)
    threading.Thread(target=terminated_after, args=[work / "work" / "pid"]).start()
    made.run()
    assert "ceilings" not in made.outcomes and gone(waited_for(work / "work" / "pid"))
    assert "rows/ceilings.jsonl" in archive.names_in([work / "out" / "results-1.tar.gz"])


def test_a_section_that_is_done_is_not_run_again(tmp_path):
    one_sitting(tmp_path, ROW.format(work=str(tmp_path / "work")), 20.0).run()
    again = one_sitting(tmp_path, "raise SystemExit(1)", 20.0)
    again.run()
    assert again.outcomes["ceilings"]["state"] == "done"


def test_a_section_without_a_figure_has_failed_and_one_that_is_killed_says_so(tmp_path):
    made = one_sitting(tmp_path, "print('nothing')", 20.0)
    made.run()
    assert made.outcomes["ceilings"]["state"] == "failed"
    assert made.outcomes["ceilings"]["why"] == "no figure: nothing"
    made = one_sitting(tmp_path, "import os; os.kill(os.getpid(), 9)", 20.0)
    made.run()  # as the system ends what is out of memory
    assert made.outcomes["ceilings"]["why"].startswith("SIGKILL: ")


def test_a_full_disk_costs_no_section_and_no_earlier_archive(tmp_path, monkeypatch):
    one_sitting(tmp_path, ROW.format(work=str(tmp_path / "work")), 20.0).run()
    before = (tmp_path / "out" / "results-1.tar.gz").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    again = one_sitting(tmp_path, "pass", 20.0)
    monkeypatch.setattr(archive._Part, "finished", full)
    notes = []
    again.say = notes.append
    again.slots = [*again.slots, replace(again.slots[0], section=section_named("large"))]
    again.run()
    assert list(again.outcomes) == ["ceilings", "large"]
    assert any("is not written yet" in note and "No space left" in note for note in notes)
    assert (tmp_path / "out" / "results-1.tar.gz").read_bytes() == before


def test_a_second_interrupt_does_not_lose_the_archive(tmp_path, monkeypatch):
    made = one_sitting(tmp_path, CHILD.format(work=str(tmp_path / "work")), 30.0)
    ends = made._end_all

    def impatient():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        ends()

    monkeypatch.setattr(made, "_end_all", impatient)
    threading.Thread(target=terminated_after, args=[tmp_path / "work" / "pid"]).start()
    before = signal.getsignal(signal.SIGINT)
    made.run()
    assert "rows/ceilings.jsonl" in archive.names_in([tmp_path / "out" / "results-1.tar.gz"])
    assert signal.getsignal(signal.SIGINT) is before


def test_one_sitting_writes_in_a_folder(tmp_path, capsys):
    words = ["--rehearse", "--only", "ceilings", "--work", str(tmp_path / "work")]
    with writing(tmp_path / "work"):
        held = subprocess.run(
            [sys.executable, "benchmarks/gpu.py", *words, "-o", str(tmp_path / "out")],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert held.returncode == 2 and held.stderr.count("\n") == 1, held.stderr
    assert str(tmp_path / "work") in held.stderr
    (tmp_path / "file").write_text("")
    assert gpu.main([*words, "-o", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("cinelab: Output ")


def test_parts_are_small_where_much_is_small_and_packed_already(tmp_path):
    folder = tmp_path / "work" / "training" / "a" / "result"
    folder.mkdir(parents=True)
    for number in range(60):
        (folder / f"{number:02d}.safetensors").write_bytes(os.urandom(2**14))
    parts, _ = archive.pack(tmp_path / "work", tmp_path, 2**18)
    assert len(parts) > 3 and all(part.stat().st_size <= 2**18 for part in parts)


def test_parts_are_small_and_whole_and_what_is_left_out_is_named(tmp_path):
    work = tmp_path / "work"
    (work / "rows").mkdir(parents=True)
    (work / "training" / "a" / "result").mkdir(parents=True)
    (work / "rows" / "speed.jsonl").write_text("{}\n")
    limit = 2**18
    data = os.urandom(3 * limit)
    (work / "training" / "a" / "result" / "weights.safetensors").write_bytes(data)
    parts, left_out = archive.pack(work, tmp_path, limit)
    assert left_out == [] and len(parts) > 3
    assert all(part.stat().st_size <= limit for part in parts)
    pieces = {}
    for part in parts:
        with tarfile.open(part) as packed:
            pieces |= {one.name: packed.extractfile(one).read() for one in packed.getmembers()}
    cut = sorted(name for name in pieces if "weights" in name)
    assert cut[0].endswith("weights.safetensors.1-of-4")
    assert b"".join(pieces[name] for name in cut) == data
    (work / "logs").mkdir()
    for number in range(archive.PARTS * 2):
        (work / "logs" / f"{number:02d}.log").write_bytes(os.urandom(limit // 2 - 2**16))
    parts, left_out = archive.pack(work, tmp_path, limit)
    assert len(parts) == archive.PARTS and left_out and left_out[0].startswith("logs/")


def test_the_films_of_a_sitting_are_a_screenplay():
    """A rehearsal's are others, so that only a GPU would meet them."""
    play = films.screenplay(SimpleNamespace(rehearsed=False))
    changes = [change for shot in play.shots for change in shot.changes]
    assert {change.recache for change in changes} == {True, False}


def test_films_are_rendered_beside_and_the_store_stays_when_a_training_has_begun(tmp_path):
    folder = tmp_path / "films"
    made = toy_films.Builders(folder, Films(films=4, latents=8, shard=2), 1)
    made.begin(tmp_path / "log")
    made.pause()
    made.resume()
    end = time.monotonic() + 120
    while not made.done:
        assert time.monotonic() < end
        time.sleep(0.1)
    made.end()
    assert toy_films.freeze(folder) == 2
    made.begin(tmp_path / "log")
    assert made.running == []
    assert toy_films.builders_for(16) == 10 and toy_films.builders_for(2) == 1


def test_the_ledger_predicts_every_kind_of_figure():
    chunk = {"model": "small", "mode": "frame-2step", "policy": "camr", "budget": 3, "history": 4}
    sped = [chunk | {"speed": name} for name in ("exact", "compiled", PARTLY_FAST)]
    exact = sped[0]
    asked = [
        *({"ceiling": name} for name in CEILINGS),
        {"product": [64, 64, 128]},
        {"attention": [64, 128, 2, 32]},
        *sped,
        exact | {"decoder": "taehv", "beside": True},
        exact | {"decoder": "taehv", "beside": False},
        exact | {"decoder": "taehv", "first": True},
        {"model": "small", "mode": "frame-2step", "decoder": "taehv", "alone": True},
        exact | {"of": "kernel launches"},
        exact | {"of": "kernels"},
    ]
    assert all(figure(one, "H100") > 0 for one in asked)
    assert figure(exact | {"of": "host synchronisations"}, "H100") >= 0


STAND_IN = '''
import torch
from torch import nn

from wan.modules.model import flash_attention


class CausalWanModel(nn.Module):
    """Answers calls as the official model does."""

    calls = []

    def __init__(self, model_type, text_len, in_dim, out_dim, dim, **sizes):
        super().__init__()
        self.to_q = nn.Linear(dim, dim)

    def forward(self, x, t, context, seq_len, kv_cache, crossattn_cache, current_start):
        cache = kv_cache[0]
        own = x.shape[2] * x.shape[3] * x.shape[4] // 4
        assert cache["k"].shape[1] == seq_len == current_start + own
        assert int(cache["global_end_index"]) == current_start
        assert t.shape == x.shape[:1] + x.shape[2:3]
        q = cache["k"][:, :own]
        flash_attention(q, cache["k"], cache["v"])
        self.calls.append(float(t[0, 0]))
        return x
'''


def test_the_official_model_is_called_as_its_pipeline_does(tmp_path):
    modules = tmp_path / "wan" / "modules"
    modules.mkdir(parents=True)
    for folder in (modules, modules.parent):
        (folder / "__init__.py").write_text("raise ImportError('a package that is not there')")
    refuses = "def flash_attention(*args, **more):\n    raise AssertionError('flash-attn')\n"
    (modules / "attention.py").write_text(refuses)
    (modules / "model.py").write_text("from wan.modules.attention import flash_attention\n")
    (modules / "causal_model.py").write_text(STAND_IN)
    rows = Recorder(tmp_path / "rows.jsonl", "official")
    task = SimpleNamespace(
        rows=rows, device="cpu", sizes=TINY, rehearsed=True, official=tmp_path, work=tmp_path
    )
    official.run(task)
    found_rows = read_lines(rows.path)
    assert [row.get("error") for row in found_rows] == [None] * 3
    assert found_rows[2]["value"] == pytest.approx(found_rows[0]["value"] / found_rows[1]["value"])
    assert "wan" not in sys.modules


@pytest.mark.slow
def test_everything_is_rehearsed_without_video_and_notebook_packages(tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "without"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    ended = {one["name"]: one["state"] for one in record["sections"]}
    assert ended.pop("official") == "left out"
    assert ended == dict.fromkeys(ended, "done") and len(ended) == len(SECTIONS) - 1
    assert not [row for row in record["rows"] if row.get("ok") is False]
    assert not [row for row in record["rows"] if row.get("refused") is False]
    assert len(record["rows"]) > 100
    packed = archive.names_in(sorted((tmp_path / "out").glob("*.tar.gz")))
    assert "training/rehearsal/result/weights.safetensors" in packed


def test_films_of_both_devices_are_compared(tmp_path, monkeypatch):
    made = films.MadeFilm(torch.zeros(2, 1, 1, 1), torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    monkeypatch.setattr(films, "film", lambda *_: made)
    rows = Recorder(tmp_path / "rows.jsonl", "correctness")
    films.on_both(SimpleNamespace(rows=rows), "CPU", "GPU", "camr")
    found = {row["name"]: row["ok"] for row in read_lines(rows.path)}
    assert found == {"film, camr: twice, exact": True, "film, camr: CPU against device": True}


def test_kernels_in_eight_bits_are_tried_where_they_are_used():
    assert kernels.KEYS > attention.SMALL


@pytest.mark.parametrize(
    ("row", "state", "holds", "text"),
    [
        ({"ok": True}, "done", True, "1 figures"),
        ({"ok": True}, "failed", False, "1 figures"),
        ({"ok": False}, "done", False, "1 figures"),
        ({"error": "why", "refused": True}, "done", True, "0 figures, 1 refused"),
        ({"error": "why", "refused": False}, "done", False, "0 figures, 1 failed"),
    ],
)
def test_a_sitting_in_which_something_failed_says_so(row, state, holds, text):
    assert summary.all_hold([row], [{"state": state}]) is holds
    assert sitting.figures_in([row]) == text


def test_the_schedule_fits_a_terminal():
    text = plan_text(planned(SECTIONS, 780.0, {}), 780.0)
    assert max(map(len, text.splitlines())) <= 80
