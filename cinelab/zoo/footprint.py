"""How much memory a film will take, before it is begun: arithmetic on the shapes, printed in GiB,
and a refusal where it cannot fit.

What is counted is what lives at once, which is what torch's `max_memory_allocated` gives. A chunk
is made, then appended to the KV store, then decoded; what lives only in one of these is counted
where it lives, and in both where a chunk is decoded while the next one is made.

    T tokens of a chunk   U tokens of a page   D width   n chunks of the film
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import psutil
import torch

from cinelab.errors import CinelabError
from cinelab.memory.policy import BLOCK, Policy
from cinelab.memory.routing import choose
from cinelab.memory.store import Storage, grown_ahead
from cinelab.model.wan import CausalWan, WanConfig, parameter_dtype
from cinelab.readable import Readable
from cinelab.zoo.codec_footprint import codec_footprint

GIB = 2**30
# share of the device that stays free: the allocator's gaps, the kernels' workspaces, the context
SPARE = 0.06
PROMPTS_HELD = 2**30  # bytes (see stream.generator)
TEXT_ENCODER = 5_680_910_336  # weights of umT5-XXL's encoder


@dataclass(frozen=True)
class FilmSpec(Readable):
    """The settings that decide the memory of a film that is streamed."""

    size: tuple[int, int] = (480, 832)  # height, width in pixels
    chunks: int = 200
    chunk: int = 3  # latent frames
    # pages that a chunk retrieves (the policy's budget; the whole film under full attention)
    seen: int = 6
    summary: int | None = 32  # pooled tokens a page; None where every key is searched
    place: str = "device"  # of the KV store: device or host
    packing: str = "none"  # int8 and fp8 take a byte a number
    slots: int = 12  # pages a layer on the device, where the KV store is in host memory
    linears: str = "full"  # eight-bit linears take a byte a number
    guided: bool = False  # two films at once: with its prompt and without
    scale: int = 8  # pixels of a latent cell
    # pages that a layer's heads retrieve together, where they choose apart; None = `seen`
    held: int | None = None
    pages: int = 1  # of a chunk: its latent frames, where these are retrieved one by one
    in_place: bool = False  # what a chunk attends to lies together in the store, and is not copied
    codec: str = "none"  # vae, tiny, or none
    overlap: bool = False  # a chunk is decoded while the next one is made
    graphs: bool = False  # a graph of a pass holds what it attends to for the whole film
    prompts: int = 0  # that are encoded at once
    words: int = 512  # of an encoded prompt
    encoder: str = "none"  # of text: none, free (read before the film and freed) or keep


def film_spec(
    policy: Policy, storage: Storage, config: WanConfig, *, max_distance: int | None, **film: Any
) -> FilmSpec:
    """Return the settings of a film under a policy and a storage; `film` are further fields of
    FilmSpec, chunks and chunk among them."""
    spec = FilmSpec(place=storage.place, packing=storage.packing, slots=storage.slots, **film)
    pages = spec.chunk if policy.unit == "frame" else 1
    before = (spec.chunks - 1) * pages  # when the last chunk is made
    return replace(
        spec,
        pages=pages,
        seen=policy.budget_at(before),
        summary=policy.summary if policy.routed else None,
        held=policy.held_at(before, config.num_attention_heads),
        in_place=not spec.guided
        and (storage.place, storage.packing) == ("device", "none")
        and lies_together(policy, before, max_distance, spec.chunk // pages),
    )


@dataclass(frozen=True)
class Footprint(Readable):
    """Bytes by cause. `stored` is the KV store; `slots` its working copy on the device where the
    store is elsewhere."""

    weights: int
    stored: int  # with the room that the store has grown ahead
    slots: int
    summaries: int
    # while a chunk is made:
    attended: int  # copies of the keys and values that the chunk attends to, with its own
    recorded: int  # keys and values of the clean pass, until they are stored
    activations: int
    host: bool  # the KV store is in host memory
    prompts: int = 0  # encoded
    codec: int = 0  # its weights
    decoder: int = 0  # its state between two chunks
    decoding: int = 0  # while a chunk is decoded
    encoder: int = 0  # of text, before the film begins
    resident: bool = False  # the text encoder stays on the device
    overlap: bool = False  # a chunk is decoded while the next one is made
    graphs: bool = False  # `attended` stays for the whole film

    @property
    def device(self) -> int:
        """The most that is on the device at once."""
        return sum(self.at_most().values())

    def at_most(self) -> dict[str, int]:
        """Return what is on the device when most is: the bytes by cause."""
        return max(self._phases(), key=lambda phase: sum(phase.values()))

    def _phases(self) -> list[dict[str, int]]:
        """Return what is on the device while prompts are encoded, a chunk is made, and decoded."""
        loaded = self._part("weights", "codec", *["encoder"] * self.resident)
        film = ("slots", "summaries", "prompts", "decoder", *["stored"] * (not self.host))
        lasting = loaded | self._part(*film, *["attended"] * self.graphs)
        made = self._part("attended", "recorded", "activations")
        decoded = self._part("decoding")
        if self.overlap:
            return [loaded | self._part("encoder"), lasting | made | decoded]
        return [loaded | self._part("encoder"), lasting | made, lasting | decoded]

    def _part(self, *names: str) -> dict[str, int]:
        return {name: getattr(self, name) for name in names}

    def lines(self) -> list[tuple[str, float, str]]:
        """Return (what, GiB, where) for a table: what takes anything, and the most at once."""
        most = self.at_most()
        parts = {name: value for phase in self._phases() for name, value in phase.items()}
        rows = [(name, value / GIB, "device") for name, value in parts.items() if value]
        if self.host:
            rows.append(("stored", self.stored / GIB, "host"))
        return [*rows, ("at most at once", sum(most.values()) / GIB, "device")]


def footprint(
    config: WanConfig, film: FilmSpec, bits: int = 16, *, loaded: bool = False
) -> Footprint:
    """Compute the footprint; `bits` of the model's numbers outside what stays in fp32. Weights that
    are `loaded` already take nothing."""
    number = bits // 8
    tokens = film.chunk * frame_tokens(config, film)
    layers = config.num_layers
    unit = 2 * tokens * config.width * number * layers  # keys and values of a chunk, all layers
    page = unit // film.pages
    count = film.chunks * film.pages
    summary = film.summary and min(film.summary, tokens // film.pages)
    search = (summary or 0) * config.width * 4 * layers
    codec = codec_footprint(film.codec, film.size, film.chunk, number=number)
    encoder = 0 if film.encoder == "none" else TEXT_ENCODER * number
    host = film.place == "host"
    copies = 2 if film.guided else 1
    # the working copy grows to what a layer asks for at once
    slots = max(film.slots, min(film.held or film.seen, count))
    return Footprint(
        weights=0 if loaded else weight_bytes(config, film.linears, bits),
        stored=stored_bytes(config, film, number),
        slots=slots * stored_page(config, film, number) if host else 0,
        summaries=search * count + (search and config.width * 4 * layers * (count // BLOCK)),
        attended=0 if film.in_place else copies * (min(film.seen, count) * page + unit),
        recorded=unit,
        activations=activation_bytes(config, tokens * copies, number),
        host=host,
        prompts=encoded_bytes(config, film, number),
        codec=0 if loaded else codec.weights,
        decoder=codec.state,
        decoding=codec.decoding,
        encoder=0 if loaded else encoder,
        resident=film.encoder == "keep",
        overlap=film.overlap,
        graphs=film.graphs,
    )


def frame_tokens(config: WanConfig, film: FilmSpec) -> int:
    """Return the tokens of a latent frame."""
    _, rows, columns = config.patch_size
    return (film.size[0] // film.scale // rows) * (film.size[1] // film.scale // columns)


def page_parts(config: WanConfig, film: FilmSpec, number: int) -> list[int]:
    """Return the bytes of the tensors in which a layer stores a page: its keys, and as many of its
    values; packed, the bytes and the scales of each."""
    tokens = film.chunk // film.pages * frame_tokens(config, film)
    if film.packing == "none":
        return 2 * [tokens * config.width * number]
    return 2 * [tokens * config.width, tokens * config.num_attention_heads * 4]


def stored_page(config: WanConfig, film: FilmSpec, number: int) -> int:
    """Return the bytes of a page as it is stored, in all layers."""
    return sum(page_parts(config, film, number)) * config.num_layers


def stored_bytes(config: WanConfig, film: FilmSpec, number: int) -> int:
    """Return the bytes of the KV store when the last chunk has been appended: on the device with
    the room that its buffers have grown ahead."""
    count = film.chunks * film.pages
    if film.place == "host":
        return stored_page(config, film, number) * count
    rooms = (room_of(count, part, film.pages) * part for part in page_parts(config, film, number))
    return sum(rooms) * config.num_layers


def room_of(count: int, page: int, step: int = 1) -> int:
    """Return for how many pages of so many bytes a buffer has room when `count` of them have been
    appended, `step` at a time (see memory.store.DeviceKVStore)."""
    room = 0
    for new in range(step, count + 1, step):
        if new > room:
            room = new + grown_ahead(new - step, page)
    return room


def lies_together(policy: Policy, count: int, max_distance: int | None, page_frames: int) -> bool:
    """Whether what a policy retrieves of `count` finished pages are the newest ones, at their true
    places: then a chunk attends to them where they are stored (see memory.cache)."""
    seen = min(policy.budget_at(count), count)
    if policy.positions == "packed" or (policy.routed and seen < count):
        return False
    if max_distance is not None and seen * page_frames > max_distance:
        return False
    shots = torch.zeros(1, count, dtype=torch.long)
    picks = choose(policy, policy.priority(shots, shots[:, 0]), None) if seen else shots[:, :0]
    return picks.flatten().tolist() == list(range(count - seen, count))


def encoded_bytes(config: WanConfig, film: FilmSpec, number: int) -> int:
    """Return the bytes of encoded prompts: keys and values of all layers. Two are in use; a
    generator holds further ones up to PROMPTS_HELD."""
    one = 2 * film.words * config.width * number * config.num_layers
    return min(film.prompts * one, max(2 * one, PROMPTS_HELD))


def activation_bytes(config: WanConfig, tokens: int, number: int) -> int:
    """Return the bytes of a block at its widest: its input, a norm in fp32 twice, then either q k v
    with two in fp32 and the output, or the hidden layer twice."""
    width = config.width
    attention = width * (number + 8 + 5 * number + 8)
    return tokens * max(attention, width * (number + 8 + number) + 2 * config.ffn_dim * number)


@cache
def weight_bytes(config: WanConfig, linears: str = "full", bits: int = 16) -> int:
    """Return the bytes of the transformer, from its true shapes."""
    dtype = {16: torch.bfloat16, 32: torch.float32}[bits]
    with torch.device("meta"):
        model = CausalWan(config)
    total = 0
    for name, part in model.named_parameters():
        packed = linears != "full" and name.startswith("blocks.") and part.ndim == 2
        total += part.numel() * (1 if packed else parameter_dtype(name, dtype).itemsize)
    return total


def free_bytes(device: torch.device | str = "cuda") -> int:
    """Return the bytes that a film may take on a device: what is free, and what the allocator holds
    unused. Of a CPU, its main memory."""
    if torch.device(device).type != "cuda":
        return psutil.virtual_memory().available
    return (
        torch.cuda.mem_get_info(device)[0]
        + torch.cuda.memory_reserved(device)
        - torch.cuda.memory_allocated(device)
    )


def require_room(
    need: Footprint, what: str = "this film", device: torch.device | str = "cuda"
) -> None:
    """Raise CinelabError, in one sentence with the numbers, where what is free on this machine is
    less than `need`. Benchmarks and films call it before they begin."""
    check_memory(need, free_bytes(device), free_bytes("cpu"), what)


def usable(memory: int) -> int:
    """Return how many bytes of a card's memory, or of what is free of it, a film may take."""
    return math.floor(memory * (1 - SPARE))


def largest(need: Footprint, room: int) -> str:
    """Return the part of a footprint that must fall where `room` is too small: the weights where
    they alone do not fit, else the largest."""
    parts = need.at_most()
    return "weights" if parts["weights"] > room else max(parts, key=lambda name: parts[name])


def remedy(need: Footprint, room: int) -> str:
    """Return what lowers that part."""
    return REMEDIES[largest(need, room)]


def check_memory(need: Footprint, device: int, host: int, what: str = "this film") -> None:
    """Refuse what cannot fit, with the numbers; `device` and `host` are free bytes. Raise
    CinelabError."""
    room = usable(device)
    if need.device > room:
        parts = need.at_most()
        shown = [f"{name} {value / GIB:.1f}" for name, value in parts.items() if value > GIB / 20]
        raise CinelabError(
            f"{what} needs {need.device / GIB:.1f} GiB on the device ({'; '.join(shown)}) and "
            f"{room / GIB:.1f} GiB are free; most of it is {largest(need, room)}: "
            f"{remedy(need, room)}."
        )
    if need.host and need.stored > host:
        raise CinelabError(
            f"{what} needs {need.stored / GIB:.1f} GiB of host memory for its history and "
            f"{host / GIB:.1f} GiB are free; {PACK}, or make a shorter film."
        )


def check_weight_memory(config: WanConfig, linears: str, device: int, what: str) -> None:
    """Refuse weights that cannot fit, before they are read."""
    need = weight_bytes(config, linears)
    if need > device * (1 - SPARE):
        raise CinelabError(
            f"{what} needs {need / GIB:.1f} GiB for its weights alone and {device / GIB:.1f} GiB "
            f"are free on the device; {REMEDIES['weights']}."
        )


PACK = 'pack it (--packing fp8, in Python packing="fp8")'
REMEDIES = {
    "weights": 'quantise the linears (--linears fp8 or fp8-weights, in Python linears="fp8"), or '
    "take a larger device",
    "attended": "lower the policy's budget or the chunk",
    "stored": f'keep the history in host memory (--place host, in Python place="host") or {PACK}',
    "slots": "lower slots",
    "summaries": "lower the policy's summary",
    "activations": "lower the size or the chunk",
    "recorded": "lower the size or the chunk",
    "prompts": "take a screenplay of fewer prompts",
    "codec": 'decode with the tiny codec (codec="tiny:<file>")',
    "decoder": 'decode with the tiny codec (codec="tiny:<file>"), or lower the size',
    "decoding": 'decode with the tiny codec (codec="tiny:<file>"), or lower the size',
    "encoder": "encode the prompts on another machine, or keep the text encoder in main memory "
    '(encoder="offload")',
}
