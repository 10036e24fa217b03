"""VBench's 16 dimensions: which files and packages each needs, and which of them are missing here.

Known from vbench 0.1.5 as installed; nothing of it is imported, nothing is downloaded. All paths
are below $VBENCH_CACHE_DIR (default ~/.cache/vbench) since the worker runs VBench in its local
mode; only BERT is read from the model hub's cache ($HF_HOME, default ~/.cache/huggingface).
"""

import gzip
import os
import shlex
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cinelab.errors import CinelabError
from cinelab.files import expanded, kept_in
from cinelab.metrics.external.environments import VBENCH, packages

VERSION = "0.1.5"


@dataclass(frozen=True)
class Weight:
    """A file below the cache that `env` moves, and how to get it."""

    path: str
    get: str
    env: str = "VBENCH_CACHE_DIR"


@dataclass(frozen=True)
class Dimension:
    """What a dimension needs, whether it takes videos of one's own, and the fewest frames it has a
    meaning for.

    `low` and `high` are what the published total score maps to 0 and 1; `quality` ones count four
    times the others.
    """

    files: tuple[Weight, ...] = ()
    custom: bool = True
    packages: tuple[str, ...] = ()
    frames: int = 2
    low: float = 0.0
    high: float = 1.0
    quality: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Missing:
    """A file or package that is not here: where it goes, which dimensions wait for it, how to get
    it."""

    path: Path
    dimensions: tuple[str, ...]
    get: str
    state: str = "absent"

    def __str__(self) -> str:
        return f"{self.path} is {self.state}: {self.get}"


_HUB = "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/"
_CLIP = "https://openaipublic.azureedge.net/clip/models/"
_DINO = (
    Weight(
        "dino_model/facebookresearch_dino_main/hubconf.py",
        "git clone https://github.com/facebookresearch/dino to its folder",
    ),
    Weight(
        "dino_model/dino_vitbase16_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    ),
)
_CLIP_B = Weight(
    "clip_model/ViT-B-32.pt",
    _CLIP + "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
)
_CLIP_L = Weight(
    "clip_model/ViT-L-14.pt",
    _CLIP + "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
)
_AESTHETIC = Weight(
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
)
_MUSIQ = Weight(
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
)
_AMT = Weight("amt_model/amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth")
_RAFT = Weight(
    "raft_model/models/raft-things.pth",
    "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip, unzipped in raft_model",
)
_UMT = Weight(
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
    _HUB + "l16_ptk710_ftk710_ftk400_f16_res224.pth",
)
_GRIT = Weight("grit_model/grit_b_densecap_objectdet.pth", _HUB + "grit_b_densecap_objectdet.pth")
_TAG = Weight(
    "caption_model/tag2text_swin_14m.pth",
    "https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
)
_VICLIP = (
    Weight("ViCLIP/ViClip-InternVid-10M-FLT.pth", _HUB + "ViClip-InternVid-10M-FLT.pth"),
    Weight(
        "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
    ),
)
_SNAPSHOT = "hub/models--bert-base-uncased/snapshots/*/"
_FETCH = "huggingface-cli download bert-base-uncased"
_WORDS = Weight(_SNAPSHOT + "vocab.txt", _FETCH, "HF_HOME")
_BERT = (
    _WORDS,
    Weight(_SNAPSHOT + "config.json", _FETCH, "HF_HOME"),
    Weight(_SNAPSHOT + "model.safetensors", _FETCH, "HF_HOME"),
)

_BY_GRIT = Dimension((_GRIT, _WORDS), custom=False, packages=("detectron2",))

DIMENSIONS = {
    "subject_consistency": Dimension(_DINO, low=0.1462, quality=True),
    "background_consistency": Dimension((_CLIP_B,), low=0.2615, quality=True),
    "temporal_flickering": Dimension(low=0.6293, quality=True),
    "motion_smoothness": Dimension((_AMT,), frames=3, low=0.706, high=0.9975, quality=True),
    "dynamic_degree": Dimension((_RAFT,), quality=True, weight=0.5),
    "aesthetic_quality": Dimension((_CLIP_L, _AESTHETIC), frames=1, quality=True),
    "imaging_quality": Dimension((_MUSIQ,), frames=1, quality=True),
    "object_class": _BY_GRIT,
    "multiple_objects": _BY_GRIT,
    "human_action": Dimension((_UMT,), frames=1),
    "color": _BY_GRIT,
    "spatial_relationship": _BY_GRIT,
    "scene": Dimension((_TAG, *_BERT), custom=False, high=0.8222),
    "appearance_style": Dimension((_CLIP_B,), custom=False, low=0.0009, high=0.2855),
    "temporal_style": Dimension(_VICLIP, frames=1, high=0.364),
    "overall_consistency": Dimension(_VICLIP, frames=1, high=0.364),
}
PROMISED = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    # what needs no prompt, so any video can be scored
    "aesthetic_quality",
    "imaging_quality",
)
LONG_FILES = (
    "__init__.py",
    "configs/clip_length_mix.yaml",
    "configs/slow_fast_params.yaml",
    "configs/subject_mapping_table.yaml",
    "configs/background_mapping_table.yaml",
)
LONG_PACKAGES = {
    "scenedetect": "scenedetect",
    "moviepy/editor.py": "'moviepy<2'",
    "av": "av",
    "dreamsim": "dreamsim",
}


def cache(env: str = "VBENCH_CACHE_DIR") -> Path:
    """The folder that `env` moves."""
    if env == "HF_HOME":
        return kept_in(env, "huggingface")
    return expanded(os.environ.get(env) or "~/.cache/vbench", env)  # as VBench itself looks for it


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once; an unknown one is refused."""
    names = tuple(dict.fromkeys(names))
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise CinelabError(
            f"dimensions: {unknown[0]!r} is not one of VBench's; they are {', '.join(DIMENSIONS)}."
        )
    return names


def preflight(dimensions: Iterable[str] = tuple(DIMENSIONS)) -> list[Missing]:
    """Every file or package that the dimensions lack here, each once. A damaged or partial file
    counts as missing."""
    lacks: dict[Path, tuple[str, str, list[str]]] = {}
    for name in check_names(dimensions):
        for path, get, state in _lacking(DIMENSIONS[name]):
            lacks.setdefault(path, (get, state, []))[2].append(name)
    return [Missing(path, tuple(names), get, state) for path, (get, state, names) in lacks.items()]


def waiting_for(missing: list[Missing]) -> dict[str, str]:
    """dimension -> what it waits for, as one sentence."""
    names = dict.fromkeys(name for one in missing for name in one.dimensions)
    return {
        name: "; ".join(str(one) for one in missing if name in one.dimensions) for name in names
    }


def preflight_long() -> list[Missing]:
    """What VBench-Long lacks. The wheel brings its code without its settings, so a clone at
    $VBENCH_LONG_HOME is needed."""
    clone = (
        expanded(os.environ.get("VBENCH_LONG_HOME") or "VBench", "VBENCH_LONG_HOME")
        / "vbench2_beta_long"
    )
    get = "git clone https://github.com/Vchitect/VBench and name the clone in $VBENCH_LONG_HOME"
    files = [
        Missing(clone / name, ("VBench-Long",), get)
        for name in LONG_FILES
        if not (clone / name).is_file()
    ]
    site = packages(VBENCH)
    return files[:1] + [
        Missing(
            site / name,
            ("VBench-Long",),
            f"{shlex.quote(str(site.parents[2] / 'bin/python'))} -m pip install {wanted}",
        )
        for name, wanted in LONG_PACKAGES.items()
        if not (site / name).exists()
    ]


def flaw(path: Path) -> str:
    """What is wrong with a weight file ("absent", "empty", "partial", "a web page"), or an empty
    text."""
    if not path.is_file():
        return "absent"
    with open(path, "rb") as file:
        head = file.read(16)
    if not head.strip():
        return "empty"
    if path.suffix in (".pth", ".pt", ".gz", ".safetensors") and head.lstrip()[:1] == b"<":
        return "a web page"
    if head.startswith(b"version https:/"):
        return "a pointer to large storage, not the file"
    return "partial" if _cut_short(path, head) else ""


def _cut_short(path: Path, head: bytes) -> bool:
    """A zip (what torch writes) has its index at the end, a gz its checksum. Older pickles do not
    tell."""
    if head.startswith(b"PK"):
        return not zipfile.is_zipfile(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                while file.read(1 << 20):
                    pass
        except (OSError, EOFError):
            return True
    return False


def _lacking(dimension: Dimension) -> Iterable[tuple[Path, str, str]]:
    for file in dimension.files:
        root = cache(file.env)
        found = sorted(root.glob(file.path)) or [root / file.path]
        states = [flaw(path) for path in found]
        if all(states):
            yield found[0], file.get, states[0]
    for name in dimension.packages:
        if not (packages(VBENCH) / name).is_dir():
            python = packages(VBENCH).parents[2] / "bin" / "python"
            yield (
                packages(VBENCH) / name,
                f"{shlex.quote(str(python))} -m pip install "
                "git+https://github.com/facebookresearch/detectron2",
                "absent",
            )
