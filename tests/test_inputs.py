"""A notebook's defaults run in a fresh clone, and a wrong input is refused before any work is
done."""

import ast
import contextlib
import io
import shutil
from pathlib import Path

import nbformat
import pytest

from cinelab.errors import CinelabError
from cinelab.lab import inputs

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORK = (
    "stage.watch(",
    "film_store(",
    "encode_videos(",
    "render(",
)  # what only comes after the checks
NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A tree without results: what notebooks and experiments see of a fresh clone."""
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(
        ROOT / "results" / "reference",
        tmp_path / "results" / "reference",
        ignore=shutil.ignore_patterns("*.html"),
    )
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def until_work(name, given=None):
    """Run a notebook's cells with its defaults (and what is `given`) up to the first one that
    works."""
    cells = [
        cell
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
        if cell.cell_type == "code"
    ]
    space = {}
    for number, cell in enumerate(cells[:3]):
        if number == 2 and not sets_up(cell.source):
            break
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(cell.source, f"{name}[{number}]", "exec"), space)  # noqa: S102
        if "parameters" in cell.metadata.get("tags", []):
            space |= given or {}
    return space


def sets_up(source):
    """Whether a cell only describes a training: it makes a `stage` or a `job`."""
    made = {
        node.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return bool(made & {"stage", "job"}) and not any(word in source for word in WORK)


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_all_there_in_a_fresh_clone(name, clone):
    until_work(name)
    made = [
        path for path in clone.rglob("*") if path.suffix in (".npz", ".mp4", ".pt", ".safetensors")
    ]
    assert not made, "nothing is made before the inputs are known to be there"


@pytest.mark.parametrize("name", ["30_memory_claims", "31_initialisation_claims"])
def test_a_study_without_a_sweep_shows_the_shipped_tables(name, clone):
    before = {path: path.read_bytes() for path in clone.rglob("*.csv")}
    cells = [
        cell
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
        if cell.cell_type == "code"
    ]
    space = {}
    for cell in cells:
        exec(compile(cell.source, name, "exec"), space)  # noqa: S102
    assert len(space["figure"].data) >= 4 and len(space["verdict"]) >= 4
    assert {path: path.read_bytes() for path in clone.rglob("*.csv")} == before and not list(
        clone.rglob("*.html")
    )


WRONG = [
    ("00_first_film", {"screenplay": "nowhere.yaml"}, "screenplay: nowhere.yaml is no file"),
    (
        "00_first_film",
        {"model": "toybox-3step"},
        "model: Checkpoint 'toybox-3step' was not found: give one of",
    ),
    ("00_first_film", {"policy": "camera"}, "policy is 'camera'"),
    ("01_tour", {"model": "nowhere"}, "model: Checkpoint 'nowhere'"),
    ("04_video_data", {"videos": "../videos"}, "videos: ../videos is not here"),
    ("04_video_data", {"changes": {"cutz": "ours"}}, "cutz"),
    ("12_bidirectional", {"init": "nowhere"}, "Checkpoint 'nowhere'"),
    (
        "13_teacher_forcing",
        {"init": "../results/train/stage0/checkpoint"},
        "stage0/checkpoint' was not found",
    ),
    ("13_teacher_forcing", {"changes": {"step": 3}}, "step"),
    ("13_teacher_forcing", {"preset": "tiny"}, "tiny"),
    ("14_causal_ode", {"teacher": "nowhere"}, "Checkpoint 'nowhere'"),
    ("14_causal_ode", {"init": "nowhere"}, "Checkpoint 'nowhere'"),
    ("14_causal_ode", {"pairs_changes": {"clip": 3}}, "clip"),
    ("15_consistency", {"teacher": "nowhere"}, "Checkpoint 'nowhere'"),
    (
        "16_dmd",
        {"init": "../results/train/consistency/checkpoint"},
        "consistency/checkpoint' was not found",
    ),
    ("16_dmd", {"real": "nowhere"}, "Checkpoint 'nowhere'"),
    ("16_dmd", {"blend_with": ["toybox-2step", "nowhere"]}, "blend_with: Checkpoint 'nowhere'"),
    ("20_ablate_memory", {"policy": "none"}, "policy is 'none'; use one of"),
    ("21_ablate_initialisation", {"init": "odd"}, "init is 'odd'; use one of none, "),
    ("21_ablate_initialisation", {"changes": {"cd": {}}}, "changes has 'cd'; its stages are ode, "),
    ("21_ablate_initialisation", {"changes": {"dmd": {"lrr": 1}}}, "lrr"),
    (
        "22_injectivity",
        {"teachers": {"mine": ["nowhere", "truth"]}},
        "checkpoints: Checkpoint 'nowhere'",
    ),
    ("23_ablate_films", {"model": "nowhere"}, "model: Checkpoint 'nowhere'"),
    (
        "30_memory_claims",
        {"sweep": "../results/memory"},
        "sweep: ../results/memory holds no measured cell; run",
    ),
    (
        "31_initialisation_claims",
        {"sweep": "../results/initialisation"},
        "sweep: .*initialisation.yaml` first",
    ),
    ("60_evaluate", {"videos": ["../results/films"]}, "videos: ../results/films is not here"),
    ("60_evaluate", {"backends": ["toybox", "clap"]}, "backends: Backend 'clap' is unknown"),
    ("60_evaluate", {"vbench": ["imaging"]}, "vbench: VBench has no dimension 'imaging'"),
    ("40_direct_live", {"policy": "none"}, "policy is 'none'; use one of"),
    ("41_memory", {"folder": "../results/films/mine"}, "folder: ../results/films/mine is not here"),
    (
        "61_report",
        {"sweeps": ["../results/memory+../results/budget"]},
        "sweeps: ../results/memory holds no measured cell; run",
    ),
    ("50_wan_film", {"changes": {"first": "image.png"}}, "first: image.png is no file"),
    ("50_wan_film", {"changes": {"chunks": 3}}, "no entry 'chunks'; use some of chunk"),
    ("50_wan_film", {"chunk": 3}, "no parameter 'chunk'; it is an entry of changes now"),
    (
        "50_wan_film",
        {"weights": "../weights/student.pt"},
        "weights: ../weights/student.pt is not here",
    ),
    ("51_train_wan", {"init": "../weights/Wan"}, "init: Checkpoint '.*weights/Wan' was not found"),
    (
        "51_train_wan",
        {"store": "../data/films", "changes": {"store_kind": "films"}},
        "store: .*data/films is not here; encode your videos",
    ),
    ("51_train_wan", {"changes": {"micro_batch": 64}}, "micro_batch"),
    ("51_train_wan", {"parts": 64}, "'parts'; it is an entry .* {\"micro_batches\": ...}"),
    ("51_train_wan", {"processes": 8}, "no parameter 'processes'; it is an entry of changes now"),
    ("20_ablate_memory", {"reach": "clamp"}, "'reach'; it is called max_distance now, and clamp"),
    ("53_bench_wan", {"options": True}, "no parameter 'options'; it is an entry of changes now"),
    ("53_bench_wan", {"policies": ["camr", "none"]}, "policies: policy is 'none'; use one of"),
]


@pytest.mark.parametrize(
    "name, given, sentence", WRONG, ids=[f"{name}-{next(iter(given))}" for name, given, _ in WRONG]
)
def test_what_is_wrong_is_refused_before_any_work(name, given, sentence, clone):
    with pytest.raises(CinelabError, match=sentence):
        until_work(name, given)
    assert [path.name for path in (clone / "results").iterdir()] in (
        ["reference"],
        ["reference", "train"],
        ["train", "reference"],
    )
    assert not list((clone / "results").rglob("*.npz"))


def test_a_misspelt_file_is_answered_with_its_neighbour(tmp_path):
    (tmp_path / "the_way_home.yaml").touch()
    with pytest.raises(CinelabError, match=r"\(there is the_way_home.yaml\)"):
        inputs.check(screenplay=tmp_path / "the_way_hone.yaml")
    inputs.check(screenplay=None, blend_with=[], model="toybox-2step")
