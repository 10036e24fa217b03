"""The director: a screenplay in, a film out, under a memory policy.

film = Director(load("toybox-base"), policy=CAMR(budget=6), seed=7).render(screenplay)
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cinelab.checksums import checksum_of
from cinelab.config import read_mapping, to_dict
from cinelab.devices import chosen_device, device_name
from cinelab.errors import CinelabError
from cinelab.files import plain_json, write_atomic, write_json
from cinelab.flow.sampler import Steps
from cinelab.latent.codec import to_tensor
from cinelab.limits import LATENTS
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import label_of, policy_dict
from cinelab.ops.compiling import speed_record
from cinelab.optional import need
from cinelab.outputs import finish, ready_folder, together
from cinelab.readable import Made
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.script.shotlist import ShotList
from cinelab.script.timeline import Timeline, plan
from cinelab.script.unconditional import unconditional_text
from cinelab.stream.batch import NO_FRAMES, TimedChunk, check_room, policy_after, policy_for
from cinelab.stream.display import film_html, film_line, shot_lines
from cinelab.stream.generator import ChunkGenerator, ChunkRequest
from cinelab.stream.overlap import DeviceFull, explain_oom, prefetch, side_stream
from cinelab.stream.resume import KeptChunks, forget, keeping
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

MARK = "film.json"  # the last file of a saved film: where it lies all others do


@dataclass
class Film:
    """A finished film and everything known about it.

    frames   uint8 (F, H, W, 3)            fps      frames per second
    timeline which frame shows what        cuts     first frame of every shot but the first
    routing  table of what was retrieved (see KVCache.routing_table)
    timings  table, a row a chunk: chunk, text, dit, memory, decode (seconds)
    """

    frames: np.ndarray
    fps: float
    timeline: Timeline
    screenplay: Screenplay
    routing: pd.DataFrame
    timings: pd.DataFrame
    info: dict
    world: str | None = None  # the made world of its model, in whose words its prompts are

    @property
    def cuts(self) -> list[int]:
        return self.timeline.cuts

    def storyboard(self):
        """A PIL image: a few frames of every shot with its prompt."""
        captions = [shot.prompt for shot in self.screenplay.shots]
        return storyboard(
            self.frames,
            self.timeline.entry_spans,
            captions,
            title=self.screenplay.title,
            fps=self.fps,
            turns=self.timeline.turns,
        )

    def __repr__(self) -> str:
        return film_line(self.frames, self.fps, self.screenplay)

    def _repr_html_(self) -> str:
        return film_html(
            self.frames, self.fps, repr(self), shot_lines(self.timeline, self.screenplay)
        )

    def save(self, folder: str | Path, also: Callable[["Film", Path], Any] | None = None) -> Path:
        """Write film.mp4, film.shots.json, storyboard.png, screenplay.yaml, routing.parquet,
        timings.parquet, film.json.

        All or nothing, and film.json last. `also(film, folder)` writes more files that belong to
        them.
        """
        for package in ("av", "pyarrow"):
            need(package, extra="lab", what="Saving a film")
        from cinelab.stream.video import write_mp4  # late, as a film is rendered without PyAV

        with together(folder, MARK) as scratch:
            write_mp4(scratch / "film.mp4", self.frames, self.fps)
            ShotList.of(self.timeline, self.world).save(scratch / "film.shots.json")
            save_png(self.storyboard(), scratch / "storyboard.png")
            self.screenplay.save(scratch / "screenplay.yaml")
            for name in ("routing", "timings"):
                table = getattr(self, name)
                write_atomic(scratch / f"{name}.parquet", table.to_parquet)
            if also:
                also(self, scratch)
            write_json(scratch / MARK, self.info | {"cuts": self.cuts, "frames": len(self.frames)})
        forget(folder)
        return Made(folder)


def require_new_folder(folder: str | Path) -> Path:
    """A folder for a new film, proved to be writable and refused if a film lies there already."""
    folder = ready_folder(folder)
    other = "name another folder (with -o on the command line), or remove it."
    finish(folder, MARK)
    if (folder / MARK).exists():
        forget(folder)
        raise CinelabError(f"{folder} already holds a film; {other}")
    if (folder / "film.mp4").exists():
        raise CinelabError(f"{folder} holds a half-saved film (film.mp4 without {MARK}); {other}")
    return folder


def saved_as(folder: Path, screenplay: Screenplay, director: "Director") -> bool:
    """Whether the film in `folder` is what `director` makes of `screenplay`."""
    # films of earlier versions were made on a CPU
    written = {"device": "cpu"} | read_mapping(folder / MARK)
    wanted = plain_json(director.info(screenplay))
    return {key: written.get(key) for key in wanted} == wanted and Screenplay.load(
        folder / "screenplay.yaml"
    ) == screenplay


def apply_change(
    request: ChunkRequest, turn: Shot | PromptChange | None, bundle: Bundle
) -> ChunkRequest:
    """Return the request from here on, where a shot or a change sets something."""
    if turn is None:
        return replace(request, recache=False)
    changes: dict = {"recache": getattr(turn, "recache", False)}
    if turn.seed is not None:
        changes["seed"] = turn.seed
    if turn.steps is not None:
        changes["sampling"] = bundle.levels(turn.steps or None)
    if turn.policy is not None or turn.budget is not None:
        changes["policy"] = policy_after(bundle, request.policy, turn.policy, turn.budget)
    return replace(request, **changes)


def requests_of(line: Timeline, request: ChunkRequest, bundle: Bundle) -> list[ChunkRequest]:
    """Return what every chunk shows, from the opening `request` on. Settings that cannot be met are
    refused before any chunk is made."""
    requests = []
    for slot in line.slots:
        request = replace(
            apply_change(request, slot.turn, bundle),
            prompt=line.prompts[slot.prompt],
            shot=slot.shot,
            cut=slot.cut,
        )
        requests.append(request)
    return requests


def _placed(model: Bundle | str | Path, device: str | None) -> Bundle:
    """Return a model, loaded where it is named. Refuse another device than a bundle's own."""
    if not isinstance(model, Bundle):
        return load(model, device)
    if device is not None and torch.device(chosen_device(device)).type != model.device.type:
        raise CinelabError(
            f"device is {device!r}, and the model {model.name} is on {model.device}; load it there "
            f"with load(..., device={device!r})."
        )
    return model


class Director:
    """Makes films with one model under one policy, given as an object or by name. `seed=None` takes
    the screenplay's seed, `policy=None` the policy that the model was trained under (CAMR where its
    config.json says none).

    With `overlap` a chunk is decoded while the next one is made (the same bits); with `fused` it is
    appended to the KV cache in the call that makes the next one's first level, where that is exact:
    in a few-step student, within a shot (the same to rounding).

    `device` is where a model that is named is loaded (see `cinelab.load`); a bundle stays where it
    is.
    """

    def __init__(
        self,
        model: Bundle | str | Path,
        policy: Policy | str | None = None,
        seed: int | None = None,
        sampling: Steps = None,
        bf16: bool = False,
        overlap: bool = False,
        fused: bool = False,
        *,
        device: str | None = None,
    ):
        self.bundle = _placed(model, device)
        self.policy = policy_for(self.bundle, policy)
        self.seed = seed
        self.sampling = self.bundle.levels(sampling)
        self.bf16 = bf16
        self.overlap = overlap
        self.fused = fused

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        policy = label_of(self.policy)
        return f"Director({self.bundle.name}, {policy}, steps {self.sampling.steps}{seed})"

    def timeline(self, screenplay: Screenplay) -> Timeline:
        """Where every chunk of the screenplay lies; refuses films too long to remember."""
        line = plan(screenplay, self.bundle.fps, self.bundle.codec.stride, self.bundle.chunk)
        if line.latent_frames > LATENTS:
            raise CinelabError(
                f"Screenplay {screenplay.title!r} has {line.latent_frames} latent frames; at most "
                f"{LATENTS} are made in one go, so split the film."
            )
        return line

    def stream(
        self, screenplay: Screenplay, first: np.ndarray | None = None
    ) -> Iterator[TimedChunk]:
        """Yield the film chunk by chunk; frames are uint8 (1, f, H, W, 3). `first` as in
        `render`."""
        return (
            timed
            for timed, _ in self._made(screenplay, self.timeline(screenplay), self.opening(first))
        )

    def opening(self, frame: np.ndarray | None) -> Tensor | None:
        """Return a frame uint8 (H, W, 3) as the film's first latent frame (1, 1, C, h, w)."""
        if frame is None:
            return None
        bundle = self.bundle
        wanted = (*self.bundle.size, 3)
        if bundle.chunk != 1:
            raise CinelabError(
                f"first= gives one latent frame, but {bundle.name} makes {bundle.chunk} at a "
                "time; load a frame-wise "
                "model (chunk=1)."
            )
        if getattr(frame, "dtype", None) != np.uint8 or frame.shape != wanted:
            found = (
                f"{frame.dtype} {frame.shape}"
                if isinstance(frame, np.ndarray)
                else type(frame).__name__
            )
            raise CinelabError(
                f"first= is {found}; a frame uint8 {wanted} is expected, so crop and resize it "
                "to the film's size."
            )
        with torch.no_grad():
            return bundle.codec.encode(to_tensor(frame[None])[None].to(bundle.device))

    def _made(
        self,
        screenplay: Screenplay,
        line: Timeline,
        first: Tensor | None = None,
        kept: KeptChunks | None = None,
    ) -> Iterator[tuple[TimedChunk, KVCache]]:
        """Yield chunks with their frames, and the KV cache after each."""
        check_room(
            self.bundle,
            self.policy,
            len(line.slots),
            guided=self.sampling.guidance != 1,
            overlap=self.overlap or self.fused,  # a pending chunk holds what it attended to
            prompts=len(line.prompts) + 1,
        )
        generator = ChunkGenerator(self.bundle, self.bf16)
        latents = self._latents(generator, screenplay, line, first, kept)
        shown = generator.begin()
        beside = side_stream(generator.device.type if self.overlap else "cpu")
        for timed, cache in prefetch(latents) if self.overlap else latents:
            began = time.perf_counter()
            # and not around the yield: whoever reads has a stream of their own
            with beside, explain_oom(f"Decoding chunk {timed.index + 1}"):
                shown, timed.frames = generator.decode(shown, timed.latents)
            timed.seconds["decode"] = time.perf_counter() - began
            yield timed, cache

    def _latents(
        self,
        generator: ChunkGenerator,
        screenplay: Screenplay,
        line: Timeline,
        first: Tensor | None,
        kept: KeptChunks | None,
    ) -> Iterator[tuple[TimedChunk, KVCache]]:
        """Yield chunks that are not decoded. What a shot or a change sets holds from there on.
        Those that are `kept` are not made again."""
        state = generator.begin()
        opening = ChunkRequest(
            "", seed=self._seed(screenplay), policy=self.policy, sampling=self.sampling
        )
        requests = requests_of(line, opening, self.bundle)
        self.bundle.encoder.prepare([*line.prompts, unconditional_text(self.bundle.unconditional)])
        for slot, request in zip(line.slots, requests, strict=True):
            if kept is not None and (found := kept.take(slot.index)):
                latents, decisions, seconds = found
                state = generator.restore(state, request, latents, decode=False)
                state.cache.decisions += decisions
                yield TimedChunk(slot.index, NO_FRAMES, latents, seconds), state.cache
                continue
            wait = self.fused and slot.index + 1 < len(line.slots)
            state, timed = generator.step(
                state, request, decode=False, given=first if slot.index == 0 else None, wait=wait
            )
            if kept is not None:
                kept.add(timed, slot.shot, state)
            yield timed, state.cache

    def render(
        self,
        screenplay: Screenplay,
        progress: Callable[[int, int], None] | None = None,
        first: np.ndarray | None = None,
        show: Callable[[TimedChunk], None] | None = None,
        keep: str | Path | None = None,
    ) -> Film:
        """Return the whole film. `progress(done, of)` and `show(chunk)` are called after every
        chunk. `first`, a frame uint8 (H, W, 3), is what the film begins with and goes on from
        (image to video); frame-wise models only.

        With `keep`, the folder that the film will be saved to, every chunk is on the disk as soon
        as it is made: a film that was stopped goes on from there, bit for bit (see
        cinelab.stream.resume)."""
        opening = self.opening(first)
        if keep is None:
            return self._film(screenplay, opening, None, progress, show)
        with keeping(keep, self.identity(screenplay, opening)) as kept:
            try:
                return self._film(screenplay, opening, kept, progress, show)
            except DeviceFull as error:
                if not len(kept):
                    raise
                raise DeviceFull(
                    f"{str(error).rstrip('.')}; the {len(kept)} chunks that are finished are on "
                    "the disk, and the same film goes on from them."
                ) from error

    def _film(
        self,
        screenplay: Screenplay,
        opening: Tensor | None,
        kept: KeptChunks | None,
        progress: Callable[[int, int], None] | None,
        show: Callable[[TimedChunk], None] | None,
    ) -> Film:
        line = self.timeline(screenplay)
        frames = []
        rows = []
        for timed, after in self._made(screenplay, line, opening, kept):
            cache = after
            frames.append(timed.frames[0])
            rows.append({"chunk": timed.index, **timed.seconds})
            if show:
                show(timed)
            if progress:
                progress(timed.index + 1, len(line.slots))
        return Film(
            np.concatenate(frames),
            self.bundle.fps,
            line,
            screenplay,
            cache.routing_table(),
            pd.DataFrame(rows),
            self.info(screenplay),
            self.bundle.world_name,
        )

    def _seed(self, screenplay: Screenplay) -> int:
        return screenplay.seed if self.seed is None else self.seed

    def identity(self, screenplay: Screenplay, opening: Tensor | None = None) -> dict:
        """All that makes the film's bits, as plain values; `opening` are the latents that it begins
        with."""
        begins = None if opening is None else checksum_of(opening.float().cpu().numpy().tobytes())
        info = self.info(screenplay)
        if info["device"] == "cpu":  # which chunks that earlier versions stored do not name
            del info["device"]
        packing = self.bundle.memory.get("packing", "none")
        packed = {} if packing == "none" else {"packing": packing}
        return (
            info
            | packed
            | {
                "weights": self.bundle.fingerprint,
                "screenplay": screenplay.to_yaml(),
                "fused": self.fused,
                "opening": begins,
            }
        )

    def info(self, screenplay: Screenplay) -> dict:
        """What film.json says of the film before it is made."""
        return {
            "title": screenplay.title,
            "model": self.bundle.name,
            "seed": self._seed(screenplay),
            "policy": policy_dict(self.policy),
            "sampling": to_dict(self.sampling),
            "fps": self.bundle.fps,
            "bf16": self.bf16,
            **speed_record(self.bundle.model),
            # bits depend on it; noise does not, so a film is the same everywhere to rounding
            "device": device_name(self.bundle.device),
        }
