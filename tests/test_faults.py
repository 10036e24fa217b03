"""Nothing is lost or silently another thing when processes, disks and bits fail: kills, second
writers, full disks, flipped bits."""

import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from kills import contents, killed_at_every_operation
from safetensors.torch import load_file, save_file
from test_train import Fake
from test_train import model as net
from test_weight_files import CONFIG, written
from test_weights import original
from writers import child_refuses

from cinelab.checksums import CHECKSUMS, read_arrays, read_sealed, write_arrays, write_sealed
from cinelab.data.toybox import build_toybox
from cinelab.errors import CinelabError
from cinelab.files import HERE, append_line, read_lines, write_json, write_text
from cinelab.jobs.job import Job
from cinelab.latent import store as toybox_store
from cinelab.latent.clips import FilmStore, text_key, write_shard
from cinelab.outputs import passing_folder, writing
from cinelab.runs import Run, conditions
from cinelab.states import read_state
from cinelab.threads import TRAINING
from cinelab.train import presets, teacher_forcing
from cinelab.weights.convert import convert_weights
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.wan import settings_of

ROOT = Path(__file__).parent.parent
CONFIGURED = presets.teacher_forcing("smoke")


@dataclass(frozen=True)
class Steps:
    """The settings of a run that does nothing."""

    steps: int = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.1 * torch.randn(shape, generator=rng) for name, shape in original(CONFIG).items()
    }
    return written(tmp_path_factory.mktemp("base") / "wan", tensors)


# ---- kills


@pytest.mark.parametrize(("to", "name"), [("diffusers", "x"), ("training", "x.pt")])
def test_a_killed_conversion_is_taken_up(base, tmp_path, to, name):
    def work(folder):
        return convert_weights(base, folder / name, to)

    assert killed_at_every_operation(work, tmp_path, refusal="exists already", points=6) == []


def test_a_killed_export_and_a_killed_run_are_taken_up(tmp_path):
    def export(folder: Path) -> None:
        zoo.save_checkpoint(folder / "out", torch.nn.Linear(2, 2, bias=False), {"made": 1})

    def train(folder: Path) -> None:
        run = Run(folder, Steps())
        state = torch.nn.Linear(2, 2)
        run.restore(state=state)
        for step in range(run.step, 2):
            run.log(step=step)
            with torch.no_grad():
                state.weight.fill_(step)
                state.bias.fill_(step)
            run.save(step + 1, state=state)
        run.finish()

    def seen(folder: Path) -> tuple:
        state = read_state(folder / "checkpoints" / "last.pt")
        rows = [row["step"] for row in read_lines(folder / "log.jsonl")]
        left = [path.name for path in folder.rglob(".*") if not path.name.startswith(".lock")]
        return (
            state["step"],
            state["parts"]["state"]["weight"].tolist(),
            rows,
            (folder / "done.json").exists(),
            left,
        )

    torch.manual_seed(0)
    assert (
        killed_at_every_operation(
            export, tmp_path / "export", seen=lambda folder: sorted(contents(folder)), points=5
        )
        == []
    )
    assert killed_at_every_operation(train, tmp_path / "run", seen=seen, points=8) == []


def test_what_dead_writers_left_goes_with_the_next_one(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine, other, alive = (
        tmp_path / f".partial-{name}-{HERE}-{pid}-abcdefgh.json"
        for name, pid in (("a.json", dead.pid), ("b.json", dead.pid), ("a.json", os.getppid()))
    )
    for path in (mine, other, alive):
        path.write_text("{")
    passing = tmp_path / f"cinelab-sweep-{HERE}-{dead.pid}-abcdefgh"
    passing.mkdir()
    write_json(tmp_path / "a.json", {})
    with passing_folder("sweep", tmp_path) as place:
        assert place.is_dir() and not passing.exists()
    assert not mine.exists() and other.exists() and alive.exists() and not place.exists()


# ---- two writers


def test_a_second_process_is_refused_a_run_a_conversion_and_a_store(base, tmp_path):
    run = Run(tmp_path / "run", Steps())
    run.restore()
    assert child_refuses(lambda: Run(tmp_path / "run", Steps()))
    run.leave()
    assert not child_refuses(lambda: Run(tmp_path / "run", Steps()).restore())
    with writing(tmp_path / "x" / "transformer", name=".lock-config.json"):
        assert child_refuses(lambda: convert_weights(base, tmp_path / "x"))
    with writing(tmp_path / "store", name=".lock-1-of-1"):
        assert child_refuses(
            lambda: list(
                build_toybox(tmp_path / "store", toybox_store.StoreConfig(films=1), None, None, "")
            )
        )


def test_of_two_trainings_in_one_process_the_later_one_goes_on(tmp_path):
    old, new = (Run(tmp_path, Steps()) for _ in range(2))
    old.restore()
    new.restore()
    new.log(step=0)
    with pytest.raises(CinelabError, match="was taken up again in this process"):
        old.log(step=0)
    assert read_lines(tmp_path / "log.jsonl") == [{"step": 0}]


def test_what_a_command_starts_may_write_where_it_does(tmp_path):
    code = "import sys; from cinelab.outputs import claim_folder; claim_folder(sys.argv[1], 0)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with writing(tmp_path, lend=True):
        assert subprocess.run(command, cwd=ROOT).returncode == 0
    with writing(tmp_path):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode != 0 and f"is written by process {os.getpid()}" in ended.stderr


# ---- flipped bits


def flipped(path: Path, draw: random.Random) -> str:
    """Flip one bit of a file; where."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    bit = draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}, byte {place} of {len(data)}, bit {bit}"


def silent(whole: Path, tmp_path: Path, read, files: list[str], tries: int) -> list[str]:
    """Where a flipped bit gives another content than `read` gave of the whole folder, and nobody
    says a word."""
    expected = read(whole)
    draw = random.Random(0)
    odd = []
    for number in range(tries):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(whole, copy)
        where = flipped(copy / files[number % len(files)], draw)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                if read(copy) != expected and not said:
                    odd.append(where)
            except CinelabError:
                pass
        shutil.rmtree(copy)
    return odd


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    whole = tmp_path / "reader"
    shutil.copytree(
        zoo.find("toybox-recogniser"), whole, ignore=shutil.ignore_patterns("log.jsonl")
    )

    def read(folder: Path) -> tuple:
        from cinelab.metrics.toybox.recogniser import load_recogniser

        model = load_recogniser(folder)
        return model.card(), [
            value.tobytes() for value in (tensor.numpy() for tensor in model.state_dict().values())
        ]

    assert silent(whole, tmp_path, read, [zoo.WEIGHTS, zoo.CONFIG, CHECKSUMS], 18) == []


def test_a_flipped_bit_in_a_training_is_noticed(tmp_path):
    whole = tmp_path / "run"
    run = Run(whole, Steps())
    state = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(state.parameters())
    state(torch.ones(8)).sum().backward()
    optimizer.step()
    run.restore()
    run.save(1, state=state, optimizer=optimizer)
    run.leave()

    def read(folder: Path) -> str:
        return repr(read_state(folder / "checkpoints" / "last.pt"))

    assert silent(whole, tmp_path, read, ["checkpoints/last.pt"], 40) == []


def test_a_flipped_bit_in_stores_is_noticed(tmp_path):
    films = tmp_path / "films"
    arrays = tmp_path / "arrays"
    films.mkdir()
    write_sealed(films / "store.json", {"words": 2, "chunk": 1, "codec": "c"})
    for name, captions in (("text-null", [""]), ("text-000000-00", ["a"])):
        write_shard(
            films,
            name,
            {text_key(one): torch.ones(1, 3) for one in captions},
            {"captions": {text_key(one): one for one in captions}},
        )
    film = {"latents": 4, "shots": [{"prompts": [["a", 4]]}], "source": "x"}
    write_shard(
        films,
        "000000-00",
        {"0": torch.rand(4, 2, 2, 2)},
        {"plan": "p", "films": [film], "skipped": []},
    )
    write_arrays(arrays / "00000.npz", {"a": torch.rand(20).numpy()})

    def read(folder: Path) -> tuple:
        store = FilmStore(folder)
        clips = store.clips(1, 4, torch.Generator().manual_seed(0))
        return store.recipe, clips.latents.tolist(), clips.text.tolist(), clips.slot.tolist()

    assert silent(films, tmp_path, read, sorted(path.name for path in films.iterdir()), 60) == []

    def again(folder):
        return read_arrays(folder / "00000.npz", ("a",), "build again")[0].tolist()

    assert silent(arrays, tmp_path, again, ["00000.npz"], 30) == []
    (arrays / "00000.npz").rename(arrays / "00001.npz")
    with pytest.raises(CinelabError, match="was written as 00000.npz; build again"):
        read_arrays(arrays / "00001.npz", ("a",), "build again")


def test_what_has_no_checksum_is_read_and_what_may_be_edited_is_said(tmp_path):
    write_json(tmp_path / "old.json", {"a": 1})
    assert read_sealed(tmp_path / "old.json", "restore it") == {"a": 1}
    folder = tmp_path / "reader"
    shutil.copytree(zoo.find("toybox-recogniser"), folder)
    said = json.loads((folder / zoo.CONFIG).read_text())
    write_json(folder / zoo.CONFIG, said | {"note": "mine"})
    from cinelab.metrics.toybox.recogniser import load_recogniser

    with pytest.warns(UserWarning, match="config.json has changed since it was written"):
        load_recogniser(folder)
    (folder / CHECKSUMS).unlink()
    with warnings.catch_warnings(action="error"):
        load_recogniser(folder)


# ---- weights


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda value: value.to(torch.int8), "is int8"),
        (lambda value: value > 0, "is bool"),
        (lambda value: value * float("nan"), "not finite"),
        (lambda value: value.to(torch.complex64), "is complex64"),
        (lambda value: value * float("inf"), "not finite"),
        (lambda value: value[:-1], "of another shape"),
        (lambda value: None, "1 keys missing"),
    ],
)
def test_weights_of_other_than_whole_finite_floats_are_refused(tmp_path, spoil, said):
    folder = tmp_path / "codec"
    shutil.copytree(zoo.find("toybox-codec"), folder)
    tensors = load_file(folder / zoo.WEIGHTS)
    name = next(name for name, value in tensors.items() if value.ndim > 1)
    spoilt = spoil(tensors.pop(name))
    save_file(
        tensors | ({name: spoilt.contiguous()} if spoilt is not None else {}), folder / zoo.WEIGHTS
    )
    with pytest.raises(CinelabError, match=said) as refused:
        zoo.load_codec(folder)
    assert name in str(refused.value) and zoo.WEIGHTS in str(refused.value)
    save_file({}, folder / zoo.WEIGHTS)
    with pytest.raises(CinelabError, match="hold no tensor"):
        zoo.load_codec(folder)


@pytest.mark.parametrize("place", ["/tmp/x", "../x", "a/../../x"])
def test_a_downloaded_folder_does_not_choose_where_prompts_are_kept(tmp_path, place):
    write_text(tmp_path / "cinelab.json", json.dumps({"prompt_cache": place}))
    with pytest.raises(CinelabError, match="prompt_cache is .* lies outside its folder"):
        settings_of(tmp_path)


# ---- conditions


def test_a_run_says_under_which_conditions_it_goes_on(tmp_path, monkeypatch):
    run = Run(tmp_path, Steps())
    run.restore()
    run.save(1)
    run.finish()
    assert json.loads((tmp_path / "done.json").read_text())["conditions"] == conditions() | {
        "processes": 1
    }
    monkeypatch.setattr(
        "cinelab.runs.conditions",
        lambda device: conditions(device) | {"threads": 7, "instructions": "other"},
    )
    with pytest.warns(
        UserWarning,
        match=r"was begun with threads .* \(now 7\), instructions .* \(now other\): it goes on",
    ):
        Run(tmp_path, Steps()).restore()


def test_a_training_in_a_sweep_takes_the_threads_that_the_sweep_says(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    try:
        for number in ("2", "1"):
            monkeypatch.setenv(TRAINING, number)
            next(
                teacher_forcing.train(CONFIGURED, net(), Fake(), Run(tmp_path / number, CONFIGURED))
            )
            assert json.loads((tmp_path / number / "conditions.json").read_text())[
                "threads"
            ] == int(number)
    finally:
        torch.set_num_threads(before)


# ---- a killed command


def test_a_killed_train_command_ends_its_processes_and_the_next_one_goes_on(tmp_path):
    job = {
        "stage": "teacher_forcing",
        "run": str(tmp_path / "run"),
        "store": {"kind": "noise", "path": "6x8x4"},
        "preset": "smoke",
        "changes": {"steps": 100000, "save_every": 100000},
    }
    write_json(tmp_path / "job.json", job)
    assert Job(**job | {"store": None}).stage == "teacher_forcing"
    command = subprocess.Popen(
        [sys.executable, "-m", "cinelab", "train", str(tmp_path / "job.json")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() and command.poll() is None:
        time.sleep(0.05)
    command.kill()
    command.wait()
    # nobody writes any more
    with writing(tmp_path / "run" / "torchrun", ending=60), writing(tmp_path / "run", 30):
        steps = [row["step"] for row in read_lines(log)]
        state = read_state(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["step"] == steps[-1] + 1 < 100000


# ---- a full disk


def small_disk(place: Path, kib: int) -> bool:
    """Make `place` a disk of so many KiB for this process alone; False where this user cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    alone = (
        libc.unshare(0x00020000) == 0
        and libc.mount(b"none", b"/", None, 1 << 18 | 0x4000, None) == 0
    )
    return (
        alone
        and libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={kib}k".encode()) == 0
    )


def fill_the_disk(place: Path) -> None:
    """What the test below has a process of its own do on a small disk."""
    run = Run(place / "run", Steps())
    part = torch.nn.Linear(40, 40)
    run.restore(part=part)
    run.save(1, part=part)
    rows = 0
    with pytest.raises(CinelabError, match="no space left on device.*free some space"):
        while rows < 10**4:
            append_line(place / "log.jsonl", {"row": rows, "text": "x" * 90})
            rows += 1
    assert len(read_lines(place / "log.jsonl")) == rows
    with pytest.raises(CinelabError, match="no space left on device.*free some space"):
        run.save(2, part=part)
    assert read_state(place / "run" / "checkpoints" / "last.pt")["step"] == 1
    with pytest.raises(CinelabError, match="no space left"):
        zoo.save_checkpoint(place / "out", torch.nn.Linear(200, 200), {})
    assert not (place / "out").exists() or not list((place / "out").iterdir())
    (place / "log.jsonl").unlink()
    run.save(2, part=part)
    assert read_state(place / "run" / "checkpoints" / "last.pt")["step"] == 2


def test_on_a_full_disk_logs_stay_readable_and_checkpoints_whole(tmp_path):
    code = (
        "import sys, test_faults as t\n"
        "p = t.Path(sys.argv[1])\n"
        "t.small_disk(p, int(sys.argv[2])) or sys.exit(77)\n"
        "t.fill_the_disk(p)"
    )
    found = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "64"], env=found, capture_output=True, text=True
    )
    if ended.returncode == 77:
        pytest.skip("this user cannot mount a small disk")
    assert ended.returncode == 0, ended.stderr


def test_a_folder_that_has_gone_is_no_full_disk(tmp_path):
    with pytest.raises(CinelabError) as refused:
        append_line(tmp_path / "gone" / "log.jsonl", {})
    assert "its folder is not there any more" in str(refused.value) and "space" not in str(
        refused.value
    )
