"""Speed at the papers' size, with random weights: what a chunk costs after 5, 50 or 200 others,
under every policy.

The history is filled with random keys and values in place of films that were made, so a chunk late
in a film is measured without making the film. Weights and prompts are random too: time and memory
do not depend on them.

    n history units   T tokens of a chunk
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import pandas as pd
import torch
from torch import Tensor

from cinelab.bench.speed import peak_memory_gib
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    MadeChunk,
    RolloutState,
    append_chunk,
    make_chunk,
)
from cinelab.flow.sampler import Sampling
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import name_of, policy_named
from cinelab.memory.store import Storage
from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig, parameter_dtype
from cinelab.readable import Readable
from cinelab.runs import hardware
from cinelab.scale.acceleration import Speed, accelerate
from cinelab.scale.fused import append_and_denoise
from cinelab.stream.overlap import prefetch, side_stream, synchronize
from cinelab.zoo.codec_footprint import codec_kind
from cinelab.zoo.footprint import GIB, Footprint, film_spec, footprint, require_room

MODELS = {
    "wan-1.3b": WAN_1_3B,
    "wan-14b": WAN_14B,
    "small": WanConfig(num_attention_heads=4, attention_head_dim=64, num_layers=4, ffn_dim=1024),
}
FPS = 16
STRIDE = 4
SCALE = 8
CHANNELS = 16
MAX_DISTANCE = 20  # latent frames, of models trained on 21
MODES = {  # latent frames a chunk, and its levels
    "chunk-4step": (3, Sampling(4, "consistency", 1.0, 5.0, (1.0, 0.75, 0.5, 0.25))),
    "chunk-2step": (3, Sampling(2, "consistency", 1.0, 5.0, (1.0, 0.5), first_steps=4)),
    "frame-2step": (1, Sampling(2, "consistency", 1.0, 5.0, (1.0, 0.5), first_steps=4)),
    "frame-1step": (1, Sampling(1, "consistency", 1.0, 5.0, (1.0,), first_steps=4)),
}
Decode = Callable[[Tensor, object], tuple[Tensor, object]]


@dataclass(frozen=True)
class WanBench(Readable):
    """What is measured. `layers` of a model that is too large are timed and scaled up, which the
    table says."""

    model: str = "wan-1.3b"
    mode: str = "chunk-4step"
    size: tuple[int, int] = (480, 832)
    layers: int | None = None
    policies: tuple[str, ...] = ("camr", "window", "sink", "full")
    budget: int = 6
    summary: int = 30
    history: tuple[int, ...] = (5, 50, 200)
    repeats: int = 5
    words: int = 512  # of a prompt
    speed: Speed = field(default_factory=Speed)
    storage: Storage = field(default_factory=Storage)

    def __post_init__(self):
        for name, known in (("model", MODELS), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        if any(side % 16 for side in self.size):
            raise CinelabError(
                f"size is {self.size[0]}x{self.size[1]}; both sides must be whole multiples of 16 "
                "pixels."
            )
        if self.repeats < 1:
            raise CinelabError(f"repeats is {self.repeats}; at least 1 is needed.")

    @property
    def config(self) -> WanConfig:
        config = MODELS[self.model]
        return replace(config, num_layers=min(self.layers or config.num_layers, config.num_layers))

    @property
    def scaled(self) -> float:
        """What the timed layers stand for: all of them."""
        return MODELS[self.model].num_layers / self.config.num_layers

    @property
    def chunk(self) -> int:
        return MODES[self.mode][0]

    @property
    def sampling(self) -> Sampling:
        return MODES[self.mode][1]

    def policy(self, name: str) -> Policy:
        # as films of Wan have it (zoo.wan.WanSettings)
        more = {"summary": self.summary, "reuse_choice": True} if name == "camr" else {}
        return policy_named(name, self.budget, **more)

    def need(
        self, history: int, policy: str, codec: str = "none", *, overlap: bool = False
    ) -> Footprint:
        """Return what a chunk after `history` others takes, decoded by a codec (vae, tiny, none)
        after it or, with `overlap`, beside it."""
        film = film_spec(
            self.policy(policy),
            self.storage,
            self.config,
            max_distance=MAX_DISTANCE,
            size=self.size,
            chunks=history + 1,
            chunk=self.chunk,
            linears=self.speed.linears,
            codec=codec,
            overlap=overlap,
            graphs=self.speed.graphs,
            prompts=2,
            words=self.words,
        )
        return footprint(self.config, film)


def random_model(config: WanConfig, device: str, dtype: torch.dtype = torch.bfloat16) -> CausalWan:
    """The transformer with random weights, made on the device in its own precision."""
    with torch.device("meta"):
        model = CausalWan(config)
    for name, part in list(model.named_parameters()):
        values = torch.empty(part.shape, dtype=parameter_dtype(name, dtype), device=device).normal_(
            0, 0.02
        )
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(values, requires_grad=False))
    return model.eval()


@torch.no_grad()
def random_history(bench: WanBench, policy: Policy, units: int, device: str) -> KVCache:
    """A KV cache of so many random pages, in shots of eight, all of them pooled for the search, as
    in a running film."""
    config = bench.config
    tokens = bench.chunk * (bench.size[0] // 16) * (bench.size[1] // 16)
    unit = torch.randn(
        1, 1, tokens, config.num_attention_heads, config.attention_head_dim, device=device
    ).to(torch.bfloat16)
    storage = replace(bench.storage, compiled=bench.speed.compiled)
    cache = KVCache(policy, bench.chunk, MAX_DISTANCE, storage=storage)
    for index in range(config.num_layers if units else 0):
        cache.layers[index] = storage.new_store(), storage.new_store()
        for place in range(units):
            keys, values = cache.layers[index]
            page = unit.roll(place + index, 2)
            cache.layers[index] = keys.append(page, place), values.append(page, place)
            cache.length = place + 1
        if getattr(policy, "summary", None):
            cache.summary_of(index)
    cache.length = units
    cache.frames_done = units * bench.chunk
    cache.page_shots = torch.arange(units)[None] // 8
    cache.page_chunks = tuple(range(units))
    return cache


@dataclass(frozen=True)
class Maker(Readable):
    """Makes chunks at any point of a film that is not there."""

    bench: WanBench
    device: str
    model: ChunkModel

    @classmethod
    @torch.no_grad()
    def of(cls, bench: WanBench, device: str) -> "Maker":
        """Return a maker with random weights and prompts."""
        net = accelerate(random_model(bench.config, device), bench.speed)
        shape = (1, 2, bench.words, bench.config.text_dim)
        text = torch.randn(shape, device=device).to(torch.bfloat16)
        slot = torch.zeros(1, bench.chunk, dtype=torch.long, device=device)
        condition = Condition(text, slot).encoded(net)
        latent = (bench.chunk, CHANNELS, bench.size[0] // SCALE, bench.size[1] // SCALE)

        def encode(requests: Sequence[ChunkRequest]) -> Condition:
            return condition

        return cls(bench, device, ChunkModel(net, encode, latent, device, bench.sampling))

    @torch.no_grad()
    def chunk(
        self, cache: KVCache, before: MadeChunk | None = None, *, wait: bool = False
    ) -> tuple[MadeChunk, dict[str, float]]:
        """Return the next chunk, and the seconds of denoising and of appending it.

        With `wait` it is left to be appended by the call that makes the one after, which is given
        it as `before`.
        """
        index = cache.length if before is None else before.opened.chunk + 1
        requests = [ChunkRequest(0, index // 8)]
        synchronize(self.device)
        began = time.perf_counter()
        if before is None:
            made = make_chunk(self.model, RolloutState(index, cache), requests)
        else:
            cache, made = append_and_denoise(self.model, before, requests, self.bench.sampling)
        synchronize(self.device)
        denoised = time.perf_counter()
        if not wait:
            append_chunk(self.model.net, cache, made)
        synchronize(self.device)
        return made, {"dit": denoised - began, "memory": time.perf_counter() - denoised}


def measure_chunks(
    bench: WanBench,
    device: str = "cpu",
    decode: Decode | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """A row a policy and history: chunk seconds, frames per second, memory. `decode(latents,
    state)` is timed apart and beside."""
    ask_for_room(bench, device, decode)
    maker = Maker.of(bench, device)
    rows = [first_chunk(maker, decode)]
    for policy in bench.policies:
        for units in bench.history:
            rows.append(later_chunk(maker, policy, units, decode))
            tell(
                f"{policy} after {units} chunks: {rows[-1]['chunk s']:.3f} s a chunk, "
                f"{rows[-1]['frames/s']:.1f} frames/s"
            )
    return pd.DataFrame(rows).assign(**hardware())


def ask_for_room(bench: WanBench, device: str, decode: Decode | None) -> None:
    """Raise CinelabError, with the numbers, where a chunk that is to be measured does not fit."""
    codec = codec_kind(getattr(decode, "__self__", None))
    for policy in bench.policies:
        for units in bench.history:
            # every repetition is appended to the same film
            need = bench.need(units + bench.repeats, policy, codec)
            require_room(need, f"{bench.model} after {units} chunks under {policy}", device)


def first_chunk(maker: Maker, decode: Decode | None) -> dict:
    """The film's first: from noise to frames, without any history."""
    bench = maker.bench
    times = []
    shown = []
    for _ in range(bench.repeats + 1):
        made, seconds = maker.chunk(random_history(bench, bench.policy("camr"), 0, maker.device))
        times.append(seconds["dit"] * bench.scaled)
        shown.append(decode_seconds(decode, made.latents[:, :1], None, maker.device)[0])
    settings = {
        "model": bench.model,
        "mode": bench.mode,
        "policy": "first",
        "history": 0,
        "layers": bench.config.num_layers,
    }
    return (
        settings
        | {
            "dit s": _mid(times),
            "decode s": _mid(shown),
            "first frame s": _mid(times) + _mid(shown),
        }
        | memory_of(maker.device)
    )


def later_chunk(maker: Maker, policy: str, units: int, decode: Decode | None) -> dict:
    """A chunk after `units` others, the median of several.

    `frames/s` is end to end, decoding after the model; decoding beside the model is at best as fast
    as the slower of both, which is what its column says. `overlap_rates` measures it.
    """
    bench = maker.bench
    times = []
    cache = random_history(bench, bench.policy(policy), units, maker.device)
    state = decode_seconds(
        decode,
        torch.zeros(1, 1, CHANNELS, bench.size[0] // SCALE, bench.size[1] // SCALE),
        None,
        maker.device,
    )[1]
    # the first one compiles, allocates and searches all of the history
    for _ in range(bench.repeats + 1):
        made, seconds = maker.chunk(cache)
        times.append(
            {cause: value * bench.scaled for cause, value in seconds.items()}
            | {"decode": decode_seconds(decode, made.latents, state, maker.device)[0]}
        )
    mid = {cause: _mid([row[cause] for row in times]) for cause in times[0]}
    frames = bench.chunk * STRIDE
    chunk = mid["dit"] + mid["memory"]
    return {
        "model": bench.model,
        "mode": bench.mode,
        "policy": name_of(bench.policy(policy)),
        "history": units,
        "layers": bench.config.num_layers,
        "dit s": mid["dit"],
        "memory s": mid["memory"],
        "decode s": mid["decode"],
        "chunk s": chunk,
        "frames/s, not decoded": frames / chunk,
        "frames/s": frames / (chunk + mid["decode"]),
        "frames/s, decode beside": frames / max(chunk, mid["decode"]),
        "planned GiB": bench.need(units, policy).device / GIB,
    } | memory_of(maker.device)


def decode_seconds(
    decode: Decode | None, latents: Tensor, state: object, device: str
) -> tuple[float, object]:
    """Seconds, and the decoder's state."""
    if decode is None:
        return 0.0, None
    synchronize(device)
    began = time.perf_counter()
    with torch.no_grad():
        _, state = decode(latents.to(device), state)
    synchronize(device)
    return time.perf_counter() - began, state


def overlap_rates(maker: Maker, decode: Decode, chunks: int = 8, policy: str = "camr") -> dict:
    """Frames per second of a running film, decoded after each chunk, and decoded while the next one
    is made."""
    bench = maker.bench
    rates = {}
    for label, way in (("one after the other", lambda items: items), ("at once", prefetch)):
        cache = random_history(bench, bench.policy(policy), bench.budget, maker.device)
        state = None
        ends = []
        with side_stream(maker.device if way is prefetch else "cpu"):
            for made, _ in way(maker.chunk(cache) for _ in range(chunks)):
                _, state = decode_seconds(decode, made.latents, state, maker.device)
                ends.append(time.perf_counter())
        rates[label] = bench.chunk * STRIDE * (len(ends) - 2) / (ends[-1] - ends[1])
    return rates | {"times": rates["at once"] / rates["one after the other"]}


def memory_of(device: str) -> dict:
    """The most that was in use so far."""
    gib = (
        torch.cuda.max_memory_allocated() / GIB if device.startswith("cuda") else peak_memory_gib()
    )
    return {"peak GiB": round(gib, 2)}


def overhead(table: pd.DataFrame) -> pd.DataFrame:
    """CAMR's chunk over the window's with as many units seen, at every length; and each policy's
    last chunk over its first."""
    later = table[table["policy"] != "first"].pivot(
        index="history", columns="policy", values="chunk s"
    )
    found = pd.DataFrame({"last over first": later.iloc[-1] / later.iloc[0]})
    if {"camr", "window"} <= set(later):
        found["camr over window, percent"] = pd.Series(
            {"camr": 100 * (later["camr"] / later["window"] - 1).median()}
        )
    return found


def _mid(values: list[float]) -> float:
    return median(values[1:] or values)
