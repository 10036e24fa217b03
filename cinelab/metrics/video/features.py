"""What two frames have in common, by networks whose weights the user has, or by colours, which
need none.

    images uint8 (n, H, W, 3) -> unit vectors (n, D), so that a product of two is their cosine

A backend that is not here says what to fetch and where it goes; nothing is ever downloaded by
itself.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cinelab.config import read_mapping
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.files import kept_in
from cinelab.latent.checkpoint import check_finite
from cinelab.metrics.video.cuts import colour_histograms
from cinelab.readable import Readable

AT_ONCE = 32  # frames through a network together
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# what we name in remedies
PUBLISHED = {"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dinov2-base"}


@dataclass(frozen=True)
class Features(Readable):
    """A map from frames to vectors. `texts` is None where it knows no words."""

    name: str
    version: str
    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray] | None = None


def colour() -> Features:
    """Soft colour histograms; the cosine of their roots is the Bhattacharyya coefficient, 1 for
    equal colours."""
    return Features("colour", "125 soft bins", lambda frames: np.sqrt(colour_histograms(frames)))


def weights_folder(name: str) -> Path:
    """Where a backend's weights stand: $CINELAB_WEIGHTS/<name> or <the user's
    cache>/cinelab/weights/<name>."""
    return kept_in("CINELAB_WEIGHTS", "cinelab", "weights") / name


def missing(name: str) -> str:
    """What to fetch for a backend, or an empty text if its weights are here."""
    try:
        folder = weights_folder(name)
        hub = PUBLISHED[name]
    except CinelabError as error:
        return str(error).rstrip(".")
    needed = ["config.json"] + ["tokenizer.json"] * (name == "clip")
    absent = [file for file in needed if not (folder / file).is_file()]
    if not (any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))):
        absent.append("model.safetensors")
    return (
        f"{', '.join(absent)} missing in {folder}: hf download {hub} --local-dir "
        f"{shlex.quote(str(folder))}"
        if absent
        else ""
    )


def load_features(name: str) -> Features:
    """`colour`, or `clip` / `dino` from their weights folder (transformers layout). Raises
    CinelabError."""
    makers = {"colour": colour, "clip": _clip, "dino": _dino}
    if name not in makers:
        raise CinelabError(f"Features {name!r} are unknown; use one of {', '.join(makers)}.")
    if name != "colour" and (gap := missing(name)):
        raise CinelabError(f"{name}: {gap}.")
    return makers[name]()


def _clip() -> Features:
    from transformers import AutoTokenizer, CLIPModel

    folder = weights_folder("clip")
    model = _read(CLIPModel, folder)
    tokens = AutoTokenizer.from_pretrained(folder)
    side = model.config.vision_config.image_size

    def images(frames: np.ndarray) -> np.ndarray:
        return _batched(
            lambda x: _pooled(model.get_image_features(pixel_values=x)),
            frames,
            side,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        )

    @torch.inference_mode()
    def texts(prompts: Sequence[str]) -> np.ndarray:
        most = model.config.text_config.max_position_embeddings
        words = tokens(
            list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return _unit(_pooled(model.get_text_features(**words.to(model.device))))

    return Features("clip", _version(folder), images, texts)


def _dino() -> Features:
    from transformers import AutoModel

    folder = weights_folder("dino")
    model = _read(AutoModel, folder)
    side = 224  # DINOv2's config names its 518-pixel pre-training size; scores are made at 224

    def images(frames: np.ndarray) -> np.ndarray:
        return _batched(
            lambda x: model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state[:, 0],
            frames,
            side,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )

    return Features("dino", _version(folder), images)


def _read(kind: Any, folder: Path) -> Any:
    """A model of a class of transformers, which is not typed."""
    try:
        made = kind.from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:
        raise CinelabError(
            f"Weights in {folder} cannot be read ({str(error).strip().splitlines()[0]}); "
            "fetch them again."
        ) from error
    return check_finite(made, f"in {folder}", "fetch them again").to(chosen_device())


def _version(folder: Path) -> str:
    config = read_mapping(folder / "config.json")
    return str(config.get("_name_or_path") or config.get("model_type") or folder.name)


def _pooled(output) -> Tensor:
    """Newer transformers answer with an object, older ones with the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


@torch.inference_mode()
def _batched(
    look: Callable[[Tensor], Tensor], frames: np.ndarray, side: int, *, mean, std
) -> np.ndarray:
    parts = [frames[i : i + AT_ONCE] for i in range(0, len(frames), AT_ONCE)]
    images = (prepare_images(part, side, mean, std) for part in parts)
    return np.concatenate([_unit(look(x.to(chosen_device()))) for x in images])


def prepare_images(frames: np.ndarray, side: int, mean, std) -> Tensor:
    """uint8 (n, H, W, 3) -> (n, 3, side, side): shorter side to `side` (antialiased bicubic),
    centre crop, normalised."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    height, width = x.shape[2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top = (size[0] - side) // 2
    left = (size[1] - side) // 2
    x = x[:, :, top : top + side, left : left + side]
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _unit(x: Tensor) -> np.ndarray:
    return F.normalize(x.float(), dim=-1).cpu().numpy()
