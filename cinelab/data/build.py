"""Videos to a store of encoded films: resumable, in shares, every shard checksummed.

Films are listed once, in groups, in listing.json; new videos make new groups, so finished groups
stay as they are. A group is finished by its record NNNNNN.json (the state of each video, what was
left out) and made again only if one of its videos or captions changes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cinelab.checksums import read_sealed, write_sealed
from cinelab.config import mapping
from cinelab.data import listing
from cinelab.data.cutting import watcher
from cinelab.data.layout import ShotClip
from cinelab.data.listing import FilmSource
from cinelab.data.planning import FilmLayout, plan_films, unchanged, value_digest
from cinelab.data.reader import ClipReader
from cinelab.data.settings import DataConfig
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.latent.checkpoint import Overflow, all_finite
from cinelab.latent.clips import NULL, RECIPE, fault, shards, text_key, write_shard
from cinelab.latent.codec import Codec, device_of, to_tensor
from cinelab.metrics.video.clips import why_failed
from cinelab.outputs import writing_share
from cinelab.script.prompts import TextEncoder
from cinelab.script.unconditional import unconditional_text
from cinelab.texts import LISTING as LISTED

COMPARED = "text-unconditional"  # the shard of the prompt that guidance compares with
AGAIN = "remove it and build the store again"
RESTORE = "restore it, or build into another folder"
LISTING = "listing.json"
SKIPPED = "skipped.jsonl"
PROMPTS = 16  # encoded together


@dataclass(frozen=True)
class BuildProgress:
    """The state of a build after a group: films listed in it and before it, of how many; what the
    group made and left out."""

    done: int
    of: int
    films: int
    latents: int
    skipped: tuple[dict, ...]

    def __str__(self) -> str:
        left = f", {len(self.skipped)} left out or shortened" if self.skipped else ""
        films = f"{self.films} more film{'s' * (self.films != 1)}"
        return f"{self.done} of {self.of} listed: {films}, {self.latents} latent frames{left}"


def build(
    videos: str | Path,
    folder: str | Path,
    config: DataConfig,
    codec: Codec,
    encoder: TextEncoder,
    fingerprints: dict[str, str],
    part: tuple[int, int] = (0, 1),
    check: bool = True,
    tell: Callable[[str], None] = print,
    begin: Callable[[str], None] = lambda text: None,
) -> Iterator[BuildProgress]:
    """Encode the videos of a folder or table into the store `folder`; yield after every group.

    `fingerprints` are the fingerprints of the weights of the "codec" and the "encoder": a store
    belongs to one of each. `part` = (mine, of how many) shares the groups among workers. With
    `check`, finished shards are hashed first and broken ones made again; without, only their
    presence and size count. `tell` is called with what of a folder was passed over, `begin` with "3
    of 8: name" when a film is read."""
    if not 0 <= part[0] < part[1]:
        raise CinelabError(
            f"part is {part}; give (mine, of how many) with 0 <= mine < of how many."
        )
    with writing_share(folder, part, tidy=True):
        builder = Builder(
            videos, Path(folder), config, codec, encoder, fingerprints, check, tell, begin
        )
        for number, group in enumerate(builder.groups):
            if number % part[1] == part[0]:
                yield builder.make(number, group)
        _write_skipped(Path(folder))  # a kill may have come between the last record and this


def skipped(folder: str | Path) -> list[dict]:
    """Return what was left out so far: film, video, and why in a sentence."""
    records = [path for path in sorted(Path(folder).glob("*.json")) if path.stem.isdigit()]
    return [row for path in records for row in _record(path)["skipped"]]


def _record(path: Path) -> dict:
    """Read the record of a finished group. Raise CinelabError where it is broken."""
    record = read_sealed(path, AGAIN, shards=int, sources=list[dict], skipped=list[dict])
    for source in record["sources"]:
        for video in mapping(source, path, name=str, said=str, videos=list[dict])["videos"]:
            mapping(
                video, path, path=str, bytes=int | None, mtime_ns=int | None, blake2b=str | None
            )
    return record


class Builder:
    """One build at work: the listing in groups, and how a group is made."""

    def __init__(
        self,
        videos: str | Path,
        folder: Path,
        config: DataConfig,
        codec: Codec,
        encoder: TextEncoder,
        fingerprints: dict[str, str],
        check: bool,
        tell: Callable[[str], None] = print,
        begin: Callable[[str], None] = lambda text: None,
    ):
        self.folder = folder
        self.config = config
        self.codec = codec
        self.encoder = encoder
        self.check = check
        self.begin = begin
        self.root, sources = listing.list_films(videos, tell)
        _claim(folder, config, codec, encoder, fingerprints)
        self.groups = _groups(folder, sources, config.group)
        # of every caption: the first group that has it encodes it
        self.owner: dict[str, int] = {}
        for number, group in enumerate(self.groups):
            for source in group:
                for caption in (caption for video in source.videos for caption in video.captions):
                    self.owner.setdefault(caption, number)
        watcher(config)  # a detector that is not installed is refused before anything is read
        self.reader = ClipReader(config.fps, config.size)
        texts = shards(folder, "text-")
        self.broken = {
            name: about for name, about in texts.items() if fault(folder, name, about, check)
        }
        self.texts = {name: about for name, about in texts.items() if name not in self.broken}
        if isinstance(codec, nn.Module):
            codec.eval()

    def make(self, number: int, group: list[FilmSource]) -> BuildProgress:
        """Make what is missing of a group."""
        self._write_texts(number)
        record = self.folder / f"{number:06d}.json"
        known = shards(self.folder, f"{number:06d}-")
        sound = {
            name for name, about in known.items() if not fault(self.folder, name, about, self.check)
        }
        if (
            record.exists()
            and sound == known.keys()
            and self._unchanged(old := _record(record), group, len(known))
        ):
            return self._progress(number, list(known.values()), old["skipped"])
        left: list[dict] = []
        states, films = plan_films(
            self.root, self._begun(number, group), self.config, self.codec.stride, left
        )
        batches = _batches(films, self._film_bytes, self.config.shard_mib * 2**20)
        made = [
            self._shard(f"{number:06d}-{i:02d}", batch, known, sound, left)
            for i, batch in enumerate(batches)
        ]
        for name in sorted(known)[len(batches) :]:  # of an earlier, longer group
            (self.folder / f"{name}.json").unlink()
            (self.folder / f"{name}.safetensors").unlink(missing_ok=True)
        write_sealed(record, {"shards": len(batches), "sources": states, "skipped": left})
        _write_skipped(self.folder)
        return self._progress(number, made, left)

    def _begun(self, number: int, group: list[FilmSource]) -> Iterator[FilmSource]:
        """Yield the films of a group; `begin` is called with each when it is requested."""
        before = sum(map(len, self.groups[:number]))
        of = sum(map(len, self.groups))
        for place, source in enumerate(group, before + 1):
            self.begin(f"{place} of {of}: {source.name}")
            yield source

    def _progress(self, number: int, made: list[dict], left: list[dict]) -> BuildProgress:
        films = [film for about in made for film in about["films"]]
        return BuildProgress(
            sum(map(len, self.groups[: number + 1])),
            sum(map(len, self.groups)),
            len(films),
            sum(film["latents"] for film in films),
            tuple(left),
        )

    def _unchanged(self, record: dict, group: list[FilmSource], shards_found: int) -> bool:
        """Return whether every film of a finished group is unchanged; a video that has gone since
        then counts as unchanged."""
        if record["shards"] != shards_found or [old["name"] for old in record["sources"]] != [
            source.name for source in group
        ]:
            return False
        return all(
            unchanged(self.root, source, old)
            for old, source in zip(record["sources"], group, strict=True)
        )

    def _film_bytes(self, film: FilmLayout) -> int:
        height, width = (side // self.codec.scale for side in self.config.size)
        return 2 * film.latents * self.codec.channels * height * width

    def _shard(
        self, name: str, films: list[FilmLayout], known: dict, sound: set, left: list[dict]
    ) -> dict:
        """Encode one shard, unless it is there and planned the same."""
        plan = value_digest([film.about(self.config.fps) for film in films])
        if name in sound and known[name]["plan"] == plan:
            left += known[name]["skipped"]
            return known[name]
        tensors = {}
        stored: list[dict] = []
        lost = []
        for film in films:
            try:
                tensors[str(len(stored))] = self._latents(film)
                stored.append(film.about(self.config.fps))
            except Overflow:
                raise
            except CinelabError as error:
                lost.append(
                    {
                        "film": film.source.name,
                        "video": film.source.videos[film.clips[0].video].path,
                        "left_out": "shots",
                        "why": str(error),
                    }
                )
        left += lost
        return write_shard(
            self.folder, name, tensors, {"plan": plan, "films": stored, "skipped": lost}
        )

    @torch.no_grad()
    def _latents(self, film: FilmLayout) -> Tensor:
        """Return the latents (n, C, h, w) of a film, as stored."""
        frames = np.concatenate(
            [
                self._frames(self.root / film.source.videos[clip.video].path, clip)
                for clip in film.clips
            ]
        )
        device = device_of(self.codec)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
            latents = self.codec.encode(to_tensor(frames)[None].to(device))[0]
        return self._stored(latents, f"{film.source.name}: the codec")

    def _frames(self, video: Path, clip: ShotClip) -> np.ndarray:
        """Return the frames of a clip, uint8 (F, H, W, 3). Whatever goes wrong is reported as the
        video's, in a sentence."""
        try:
            return self.reader.read(video, clip.first, clip.frames)
        except Exception as error:
            raise CinelabError(why_failed(video, error)) from error

    def _stored(self, values: Tensor, whose: str) -> Tensor:
        """Return values on the CPU, in the store's precision. Numbers that it cannot hold end the
        build: they would occur everywhere."""
        stored = values.to(getattr(torch, self.config.dtype)).cpu().contiguous()
        if not all_finite(stored):
            raise Overflow(
                f"{whose} makes numbers that {self.config.dtype} cannot hold; set dtype to "
                "'bfloat16' and build into another folder, and look into the weights if it happens "
                "there too."
            )
        return stored

    def _write_texts(self, number: int) -> None:
        """Encode the captions that this group is the first to have, and the empty prompt; each
        once."""
        name = f"text-{number:06d}"
        own = [known for known in self.texts | self.broken if known.startswith(name)]
        again = [
            caption
            for known in own
            if known in self.broken
            for caption in self.broken[known]["captions"].values()
        ]
        mine = [caption for caption, owner in self.owner.items() if owner == number]
        have = {key for about in self.texts.values() for key in about["captions"]}
        if text_key("") not in have:
            self._encode(NULL, [""])
        if (
            text_key(compared := unconditional_text(self.config.unconditional)) not in have
            and compared
        ):
            self._encode(COMPARED, [compared])
        wanted = [
            caption
            for caption in dict.fromkeys([*again, *mine])
            if text_key(caption) not in have and caption
        ]
        if wanted:
            self._encode(f"{name}-{sum(known in self.texts for known in own):02d}", wanted)

    @torch.no_grad()
    def _encode(self, name: str, captions: list[str]) -> None:
        """Write one shard of prompts, each without the zeros after its last word."""
        tensors = {}
        for start in range(0, len(captions), PROMPTS):
            some = captions[start : start + PROMPTS]
            for caption, words in zip(some, self.encoder.encode(some).cpu(), strict=True):
                used = words.abs().sum(1).nonzero()
                kept = words[: int(used.max()) + 1 if len(used) else 0]
                tensors[text_key(caption)] = self._stored(
                    kept, f"The prompt {caption!r:.60}: the text encoder"
                )
        about = {"captions": {text_key(caption): caption for caption in captions}}
        self.texts[name] = write_shard(self.folder, name, tensors, about)
        self.broken.pop(name, None)


def _claim(
    folder: Path,
    config: DataConfig,
    codec: Codec,
    encoder: TextEncoder,
    fingerprints: dict[str, str],
) -> None:
    """Write the recipe. Refuse a store of another recipe, codec or text encoder."""
    if fingerprints.keys() != {"codec", "encoder"}:
        raise CinelabError(
            f"fingerprints names {', '.join(fingerprints) or 'nothing'}; name the weights of the "
            "'codec' and the 'encoder'."
        )
    if any(side % codec.scale for side in config.size):
        near = " x ".join(
            str(max(1, round(side / codec.scale)) * codec.scale) for side in config.size
        )
        raise CinelabError(
            f"size is {config.size[0]} x {config.size[1]}, which the codec's scale {codec.scale} "
            f"does not divide; give {near}."
        )
    path = folder / RECIPE
    mine = (
        config.recipe()
        | {
            "stride": codec.stride,
            "scale": codec.scale,
            "channels": codec.channels,
            "width": encoder.width,
            "words": encoder.length,
        }
        | fingerprints
    )
    # an older store knew one way only
    if path.exists() and (old := {"fill": False} | read_sealed(path, RESTORE)) != mine:
        key = next((key for key in mine if mine[key] != old.get(key)), "more than this build knows")
        raise CinelabError(
            f"Store {folder} was built with {key}={old.get(key)!r}, not {mine.get(key)!r}; name "
            "another folder, or give the setting it was built with."
        )
    if not path.exists() and any(folder.glob("*.safetensors")):
        raise CinelabError(
            f"{folder} holds .safetensors files and no {RECIPE}; name an empty folder."
        )
    write_sealed(path, mine)


def _groups(folder: Path, sources: list[FilmSource], size: int) -> list[list[FilmSource]]:
    """The listing in groups: those of before as they were, then new sources in groups of `size`."""
    path = folder / LISTING
    by_name = {source.name: source for source in sources}
    old = read_sealed(path, LISTED, groups=list[list[str]])["groups"] if path.exists() else []
    known = {name for group in old for name in group}
    new = [name for name in by_name if name not in known]
    groups = old + [new[i : i + size] for i in range(0, len(new), size)]
    if new:
        write_sealed(path, {"groups": groups})
    return [[by_name.get(name, FilmSource(name, ())) for name in group] for group in groups]


def _batches(
    films: list[FilmLayout], weigh: Callable[[FilmLayout], int], limit: int
) -> list[list[FilmLayout]]:
    """Divide films, in order, among shards that are closed when they hold `limit` bytes."""
    batches: list[list[FilmLayout]] = []
    weight = limit
    for film in films:
        if weight >= limit:
            batches.append([])
            weight = 0
        batches[-1].append(film)
        weight += weigh(film)
    return batches


def _write_skipped(folder: Path) -> None:
    """Write skipped.jsonl from all records. They are read again after writing, for another worker
    may have finished a group meanwhile."""
    written = None
    while (rows := skipped(folder)) != written:
        write_text(
            folder / SKIPPED, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        written = rows
