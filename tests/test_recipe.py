"""Everything trained from nothing, step by step; what came back is checked, compared, installed."""

import gzip
import io
import json
import os
import shutil
import signal
import tarfile
import threading

import pandas as pd
import pytest

from cinelab.checksums import write_sealed
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.recipe import adopt as adopting
from cinelab.lab.recipe import comparing, records, running
from cinelab.lab.recipe.adopt import adopt, check_together
from cinelab.lab.recipe.checking import Checked, check_returned, nearest_preset
from cinelab.lab.recipe.comparing import BETTER, UNDECIDED, WORSE, verdicts_of
from cinelab.lab.recipe.returned import Returned, ancestors, codec_in, returned
from cinelab.lab.recipe.running import Sitting, check_machine, hours_left, plan_lines, run_recipe
from cinelab.lab.recipe.steps import PRESETS, RecipeStep, read_recipe
from cinelab.zoo import checkpoints as zoo

SHIPPED = ("experiments/recipe", "experiments")
FILES = {
    "10-films": "{name: films, why: w, stage: store, hours: {smoke: 0.5}}",
    "20-stage0": (
        "{name: first, why: w, stage: bidirectional, store: films, hours: {smoke: 0.5}, "
        "changes: {steps: 2}}"
    ),
    "30-stage1": (
        "{name: base, why: w, stage: teacher_forcing, init: first, store: films, "
        "hours: {smoke: 0.5}, presets: {smoke: {steps: 2}}}"
    ),
}


def write_files(folder, files=FILES):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe of three steps that has run: its folder, its files."""
    place = tmp_path_factory.mktemp("recipe")
    files = write_files(place / "files")
    assert run_recipe(place / "out", "smoke", files, jobs=1, tell=lambda text: None)
    return place / "out", files


def test_the_shipped_recipe_starts_from_nothing_and_names_hours_of_both_presets():
    steps = read_recipe(running.Path("experiments/recipe"))
    names = [step.name for step in steps]
    for step in steps:
        assert set(step.needs) <= set(names), "nothing that is shipped is begun with"
        assert {"toy", "h100"} <= step.hours.keys()
        for preset in PRESETS:
            step.config(preset)
    assert sum(step.hours["toy"] for step in steps) <= 4
    assert sum(step.hours["h100"] for step in steps) <= 1 / 6


def test_a_finished_recipe_does_nothing_and_knows_its_lineage(made, monkeypatch):
    folder, files = made
    steps = read_recipe(files)
    assert [line[-1] for line in plan_lines(folder, "smoke", steps)] == ["done"] * 3
    assert hours_left(folder, "smoke", steps) == 0
    monkeypatch.setattr(running, "run_step", None)
    assert run_recipe(folder, "smoke", files, tell=lambda text: None)
    lineage = records.lineage_of(folder)
    assert ancestors(lineage, "base") == ["films", "first", "base"]
    assert lineage["base"]["needs"] == {
        "first": zoo.fingerprint(folder / "first"),
        "films": records.mark_of(folder / "films"),
    }
    assert zoo.load(folder / "base", "cpu").config["init"] == str(folder / "first")


def test_what_a_step_was_made_with_or_of_must_not_change(made, tmp_path):
    shutil.copytree(made[0], folder := tmp_path / "out")
    changed = FILES | {"30-stage1": FILES["30-stage1"].replace("steps: 2", "steps: 3")}
    files = write_files(tmp_path / "files", changed)
    with pytest.raises(
        CinelabError, match="Step base was made with presets .* name another folder"
    ):
        run_recipe(folder, "smoke", files)
    write_files(files)
    shutil.rmtree(folder / "first")
    shutil.copytree(folder / "base", folder / "first")
    with pytest.raises(CinelabError, match="first has changed since it was made; remove"):
        run_recipe(folder, "smoke", files)
    (folder / "steps" / "first.json").unlink()
    with pytest.raises(CinelabError, match="Step base was made of another first than is there now"):
        records.is_done(folder, read_recipe(files)[2], "smoke")


def test_a_recipe_that_is_stopped_saves_and_goes_on(made, tmp_path):
    shutil.copytree(made[0], folder := tmp_path / "out")
    for name in ("base", "runs/base"):
        shutil.rmtree(folder / name)
    (folder / "steps" / "base.json").unlink()
    longer = FILES | {"30-stage1": FILES["30-stage1"].replace("steps: 2", "steps: 4")}
    files = write_files(tmp_path / "files", longer)
    step = read_recipe(files)[2]
    sitting = Sitting(training=running.training_of(folder, step, "smoke"))
    rows = []
    for row in sitting.training.train():
        rows.append(row)
        sitting.end()
    assert len(rows) == 2 and sitting.ending and not sitting.training.run.done
    assert plan_lines(folder, "smoke", [step])[0][-1] == "50% done"
    assert run_recipe(folder, "smoke", files, tell=lambda text: None)


def test_sigterm_ends_a_step_that_is_no_training_at_once():
    with pytest.raises(KeyboardInterrupt), running.ending_on_signals(Sitting()):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"20-stage0": "{name: a/b, why: w, stage: store, hours: {}}"}, "20-stage0.yaml: name is"),
        ({"20-stage0": "{name: a, why: w, stage: store, hours: {tiny: 1}}"}, "'tiny' is no preset"),
        ({"20-stage0": "{name: films, why: w, stage: store, hours: {}}"}, "a step before it is"),
        (
            {"20-stage0": "{name: a, why: w, stage: bidirectional, store: b, hours: {}}"},
            "'b' is neither a step before it nor a shipped checkpoint",
        ),
        (
            {"20-stage0": "{name: a, why: w, stage: store, hours: {}, changes: {flims: 2}}"},
            "flims",
        ),
        ({"20-stage0": "[1]"}, "holds list, not settings"),
    ],
)
def test_a_recipe_that_is_wrong_is_one_sentence(change, said, tmp_path):
    with pytest.raises(CinelabError, match=said):
        read_recipe(write_files(tmp_path / "files", FILES | change))


def test_a_machine_that_cannot_hold_a_preset_is_one_sentence(monkeypatch):
    with pytest.raises(CinelabError, match="h100 needs a GPU of 40 GiB, and this machine computes"):
        check_machine("h100")
    monkeypatch.setitem(running.HOST_MEMORY, "toy", 10**6)
    with pytest.raises(CinelabError, match="toy needs 1e.06 GiB of memory"):
        check_machine("toy")


def test_changes_name_the_results_of_steps(tmp_path):
    step = RecipeStep("r", "w", "recogniser", {}, changes={"codec": "step:c"})
    assert step.needs == ("c",)
    (tmp_path / "c").mkdir()
    assert step.config("smoke", tmp_path).codec == str(tmp_path / "c")
    assert step.config("smoke").codec == "c"


# ---- what came back


def test_what_a_recipe_made_is_recognised(made):
    with returned(made[0]) as found:
        assert [one.name for one in found] == ["first", "base"]
        sound = check_returned(found[1])
    assert sound.name == "toybox-base" and sound.films and sound.preset == "smoke"
    assert sound.differs == {"steps": (4, 2)}
    assert list(found[1].lineage) == ["films", "first", "base"]


def test_a_sittings_archives_are_unpacked_and_their_pieces_joined(made, tmp_path):
    base = made[0] / "base"
    weights = (base / zoo.WEIGHTS).read_bytes()
    half = len(weights) // 2
    job = {"store": {"path": "somewhere/films-2"}}
    members = [
        ("training/longer/result/config.json", (base / zoo.CONFIG).read_bytes()),
        (f"training/longer/result/{zoo.WEIGHTS}.1-of-2", weights[:half]),
        (f"training/longer/result/{zoo.WEIGHTS}.2-of-2", weights[half:]),
        ("training/longer/log.jsonl.gz", gzip.compress(b"{}\n")),
        ("training/longer.json", json.dumps(job).encode()),
    ]
    write_sealed(tmp_path / "store.json", {"codec": zoo.fingerprint("toybox-codec")})
    members.append(("training/films-2/store.json", (tmp_path / "store.json").read_bytes()))
    write_archives(tmp_path, members)
    with returned(tmp_path) as (one,):
        assert one.name == "longer" and one.codec == zoo.fingerprint("toybox-codec")
        assert check_returned(one).name == "toybox-base"
        assert one.lineage["job"] == job
    (tmp_path / "results-2.tar.gz").unlink()
    with pytest.raises(CinelabError, match="lacks 1 of 2 pieces of .*safetensors; copy all"):
        with returned(tmp_path):
            pass
    os.truncate(tmp_path / "results-1.tar.gz", 100)
    with pytest.raises(CinelabError, match="results-1.tar.gz is cut short or broken"):
        with returned(tmp_path):
            pass
    with pytest.raises(CinelabError, match="holds no checkpoint; give a folder of"):
        with returned(tmp_path / "nowhere"):
            pass


def write_archives(folder, members):
    """Two archives that share these members."""
    for number, part in enumerate((members[:2], members[2:]), 1):
        with tarfile.open(folder / f"results-{number}.tar.gz", "w:gz") as file:
            for name, data in part:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))


def changed_copy(source, target, **changes):
    """A checkpoint with other entries in its config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / zoo.CONFIG).read_text())
    (target / zoo.CONFIG).unlink()
    (target / "checksums.json").unlink()
    write_json(target / zoo.CONFIG, config | changes)
    return target


def test_a_training_that_was_cut_short_is_refused(made, tmp_path):
    short = changed_copy(made[0] / "base", tmp_path / "short", run={"steps": 1})
    with pytest.raises(CinelabError, match="was cut short at step 1 of 2; run it again"):
        check_returned(Returned("short", short))
    stopped = changed_copy(made[0] / "base", tmp_path / "stopped", stopped=True)
    with pytest.raises(CinelabError, match="was cut short"):
        check_returned(Returned("stopped", stopped))


def test_a_codec_that_is_not_theirs_and_weights_that_changed_are_refused(made, tmp_path):
    base = made[0] / "base"
    with pytest.raises(CinelabError, match="films of the codec abc, and toybox-codec is .* bring"):
        check_returned(Returned("base", base, codec="abc"))
    shutil.copytree(base, broken := tmp_path / "broken")
    with open(broken / zoo.WEIGHTS, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(CinelabError, match="has changed since it was written"):
        check_returned(Returned("base", broken))
    write_json(tmp_path / "none.json", {})
    odd = changed_copy(base, tmp_path / "odd", model=None)
    with pytest.raises(CinelabError, match="neither a model nor a codec nor a recogniser"):
        check_returned(Returned("odd", odd))


def test_settings_of_no_known_stage_have_no_preset():
    assert nearest_preset({"training": {"steps": 3}, "stage": "mine"}, "model") == ("", {})
    assert nearest_preset({}, "codec") == ("", {})


def films(values):
    """Values by (metric, seed, clip)."""
    rows = {(m, 0, i): v for m, column in values.items() for i, v in enumerate(column)}
    index = pd.MultiIndex.from_tuples(rows, names=["metric", "seed", "clip"])
    return pd.Series(list(rows.values()), index)


def test_a_difference_is_stated_where_it_is_one_and_in_the_metrics_direction():
    low = [0.1 + 0.001 * i for i in range(24)]
    high = [0.8 - 0.001 * i for i in range(24)]
    ours = films({"identity": high, "cut accuracy": low, "diversity": low, "mine": low})
    theirs = films({"identity": low, "cut accuracy": high, "diversity": low[::-1]})
    found = {one.metric: one for one in verdicts_of(ours, theirs)}
    assert found["identity"].verdict == BETTER and found["identity"].low > 0
    assert found["cut accuracy"].verdict == WORSE
    assert found["diversity"].verdict == UNDECIDED and found["mine"].verdict == UNDECIDED
    assert found["mine"].shipped is None and found["identity"].n == 24


def test_a_few_films_decide_nothing():
    found = verdicts_of(films({"identity": [0.9, 0.8]}), films({"identity": [0.1, 0.2]}))
    assert found[0].verdict == UNDECIDED and found[0].difference == pytest.approx(0.7)


def test_what_is_adopted_takes_the_place_of_the_shipped_one(made, tmp_path, monkeypatch):
    shipped = tmp_path / "checkpoints"
    shutil.copytree(zoo.SHIPPED / "toybox-codec", shipped / "toybox-codec")
    changed_copy(made[0] / "base", shipped / "toybox-base", note="old")
    (shipped / "toybox-base" / "curve.html").write_text("of the old one")
    monkeypatch.setattr(zoo, "SHIPPED", shipped)
    monkeypatch.setattr(adopting, "compare_with_shipped", lambda *args, **more: [])
    report = adopt(made[0], tmp_path / "out", only=("base",))
    assert report["installed"] == [] and "note" in read(shipped / "toybox-base")
    report = adopt(made[0], tmp_path / "out", only=("base",), install=True)
    assert report == json.loads((tmp_path / "out" / "adopted.json").read_text())
    installed = read(shipped / "toybox-base")
    assert installed["init"] == "first", "no path of another machine"
    assert "note" not in installed and list(installed["lineage"]) == ["films", "first", "base"]
    assert not (shipped / "toybox-base" / "curve.html").exists()
    assert zoo.load("toybox-base", "cpu").fingerprint == zoo.fingerprint(made[0] / "base")


def read(folder):
    return json.loads((folder / zoo.CONFIG).read_text())


def test_nothing_is_installed_where_one_of_them_is_refused(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], folder := tmp_path / "out")
    (folder / "first" / zoo.WEIGHTS).write_bytes(b"half")
    monkeypatch.setattr(adopting, "install_one", None)
    with pytest.raises(CinelabError, match="Nothing is installed, for first is refused: Weights"):
        adopt(folder, tmp_path / "report", score=False, install=True)
    with pytest.raises(CinelabError, match="--only names 'bas'; there are first, base"):
        adopt(folder, tmp_path / "report", only=("bas",))


def test_a_codec_is_not_replaced_under_the_models_that_belong_to_it(made, tmp_path):
    other = changed_copy(zoo.SHIPPED / "toybox-codec", tmp_path / "toybox-codec")
    with open(other / zoo.WEIGHTS, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    codec = check_returned(Returned("toybox-codec", other))
    assert codec.kind == "codec"
    with pytest.raises(CinelabError, match="another codec than the one that toybox-1step"):
        check_together([codec])
    base = check_returned(Returned("base", made[0] / "base"))
    with pytest.raises(CinelabError, match="Two checkpoints would be installed as toybox-base"):
        check_together([base, base])


def test_the_codec_of_a_steps_films_is_known():
    lineage = {
        "codec": {"settings": {"stage": "codec"}, "needs": {}},
        "films": {"settings": {"stage": "store", "codec": "codec"}, "needs": {"codec": "abc"}},
        "base": {"settings": {"stage": "teacher_forcing"}, "needs": {"films": "d"}},
    }
    assert codec_in(lineage, "base") == "abc" and codec_in(lineage, "codec") == ""


def test_a_codec_is_judged_by_how_near_it_decodes_the_same_films(tmp_path):
    copied = changed_copy(zoo.SHIPPED / "toybox-codec", tmp_path / "toybox-codec")
    ours = comparing.psnr_of_films(zoo.SHIPPED / "toybox-codec", (0,), 2)
    assert len(ours) == 2 and ours.min() > 20
    assert comparing.psnr_of_films(copied, (0,), 2).equals(ours)


def test_two_recognisers_differ_where_their_intervals_lie_apart(tmp_path):
    kind = {"accuracy": {"kind": 0.5, "size": 0.984}}
    other = changed_copy(zoo.SHIPPED / "toybox-recogniser", tmp_path / "other", **kind)
    found = Returned("toybox-recogniser", other)
    one = Checked(found, "recogniser", "toybox-recogniser", "toy")
    rows = comparing.compare_with_shipped(one, tmp_path, seeds=(0,), films=2)
    said = {row.metric: row.verdict for row in rows}
    assert said["accuracy kind"] == WORSE and said["accuracy size"] == UNDECIDED
    assert said["accuracy_codec kind"] == UNDECIDED
