"""Video data sets as notebooks use them: sample videos, a store of their clips, its films and what
was left out."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from PIL import Image

from cinelab.data import DataConfig, FilmStore, build, skipped
from cinelab.data.planning import value_digest
from cinelab.files import glance, write_atomic, write_text
from cinelab.lab.training.panel import counted
from cinelab.latent.codec import Codec, device_of, to_uint8
from cinelab.script.prompts import TextEncoder
from cinelab.stream.storyboard import storyboard
from cinelab.stream.video import write_mp4
from cinelab.world.worlds import WORLDS, world_named
from cinelab.zoo import checkpoints as zoo


class Parts(NamedTuple):
    """What encodes frames and captions, and the fingerprints of their weights."""

    codec: Codec
    encoder: TextEncoder
    fingerprints: dict[str, str]


def toybox_parts(codec: str | None = None, world: str | None = None) -> Parts:
    """Load the codec and word encoder of a made world (None: the default one)."""
    codec = codec or world_named(world).codec
    encoder = zoo.toy_encoder(world=world)
    words = value_digest([list(encoder.vocabulary), asdict(encoder.config)])
    return Parts(
        zoo.load_codec(codec),
        encoder,
        {"codec": zoo.fingerprint(zoo.find(codec)), "encoder": f"words {words[:16]}"},
    )


def wan_parts(folder: str | Path) -> Parts:
    """Load codec and text encoder of a diffusers folder of Wan2.1."""
    from cinelab.zoo.wan import load_parts

    codec, encoder, settings = load_parts(folder)
    file = (
        Path(folder) / "vae"
        if settings.codec == "vae"
        else Path(folder) / settings.codec.removeprefix("tiny:")
    )
    weights = sorted(file.glob("*.safetensors")) if file.is_dir() else [file]
    return Parts(
        codec, encoder, {"codec": glance(weights), "encoder": encoder.fingerprint or "unknown"}
    )


def parts_of(model: str) -> tuple[Parts, DataConfig]:
    """Return what encodes for a made world ("toybox" = the default one, or its name) or a folder of
    Wan, and the settings that suit it."""
    if zoo.is_wan(Path(model)):
        return wan_parts(model), DataConfig()
    world = model if model in WORLDS else None
    return toybox_parts(world=world), DataConfig.toybox(world)


def sample_videos(
    folder: str | Path,
    films: int = 3,
    latents: int = 24,
    seed: int = 11,
    *,
    world: str | None = None,
) -> Path:
    """Write films of a made world (None: the default one) as mp4, each with a text file of a
    caption a shot, and a truncated copy of the first."""
    folder = Path(folder)
    drawn = world_named(world)
    for index in range(films):
        made = drawn.render(drawn.cast_film(seed, index, latents, shot_latents=(3, 6)))
        write_mp4(folder / f"film-{index}.mp4", made.frames, drawn.fps)
        write_text(
            folder / f"film-{index}.txt",
            "".join(f"{shot.caption}\n" for shot in made.plan.shots if not shot.continues),
        )
    broken = (folder / "film-0.mp4").read_bytes()[:2000]
    write_atomic(folder / "broken.mp4", lambda path: path.write_bytes(broken))
    return folder


def encode_videos(
    videos: str | Path, folder: str | Path, config: DataConfig, parts: Parts
) -> FilmStore:
    """Encode the videos of a folder or table once, under a bar with the time left; a build that was
    stopped continues."""
    films = 0
    with counted(None, "videos") as update:
        for step in build(videos, folder, config, *parts):
            films += step.films
            update(step.done, step.of, films=f"{films:,} encoded")
    return FilmStore(folder)


def films_table(store: FilmStore) -> pd.DataFrame:
    """Return the films of a store, a row each."""
    rate = store.recipe["fps"] / store.recipe["stride"]  # latent frames a second
    rows = [
        {
            "film": film.about["source"],
            "part": film.about["number"],
            "shots": len(film.about["shots"]),
            "latent frames": len(film),
            "seconds": round(len(film) / rate, 2),
            "shortest shot": min(_lengths(film)),
            "longest shot": max(_lengths(film)),
            "shard": film.shard,
        }
        for film in store.films
    ]
    return pd.DataFrame(rows)


def _lengths(film: Any) -> list[int]:
    """Return the latent frames of every shot."""
    return [sum(count for _, count in shot["prompts"]) for shot in film.about["shots"]]


def skipped_table(folder: str | Path) -> pd.DataFrame:
    """Return what was left out of a store, and why."""
    return pd.DataFrame(skipped(folder), columns=["film", "video", "left_out", "why"])


@torch.no_grad()
def contact_sheet(store: FilmStore, codec: Codec, index: int = 0) -> Image.Image:
    """Decode a film of a store: every stretch under one caption with three of its frames."""
    film = store.films[index]
    stride = store.recipe["stride"]
    frames = to_uint8(
        codec.decode(store.latents(index).float()[None].to(device_of(codec)))[0][0].cpu()
    )
    ends = [
        int((film.slot <= prompt).sum()) * stride - (stride - 1)
        for prompt in range(len(film.prompts))
    ]
    spans = list(zip([0, *ends], ends, strict=False))
    return storyboard(
        frames, spans, film.prompts, fps=store.recipe["fps"], title=film.about["source"]
    )
