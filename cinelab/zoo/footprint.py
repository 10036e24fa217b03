"""How much memory a film will take, before it is begun: arithmetic on the shapes, printed in GiB,
and a refusal where it cannot fit.

T tokens of a chunk   U tokens of a page   D width   n chunks of the film
"""

import math
from dataclasses import asdict, dataclass

import psutil
import torch

from cinelab.errors import CinelabError
from cinelab.model.wan import CausalWan, WanConfig, parameter_dtype

GIB = 2**30
# pages that share a mean key beside their summaries (memory.policy.BLOCK, which this room does not
# import)
GROUPED = 8
# share of the device that stays free: the allocator, the kernels' workspaces, the context
SPARE = 0.06


@dataclass(frozen=True)
class FilmSpec:
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


@dataclass(frozen=True)
class Footprint:
    """Bytes by cause. `stored` is the KV store; `slots` its working copy on the device where the
    store is elsewhere."""

    weights: int
    attended: int  # keys and values that the chunk attends to, with its own
    stored: int
    slots: int
    summaries: int
    activations: int
    host: bool  # the KV store is in host memory

    @property
    def device(self) -> int:
        return (
            self.weights
            + self.attended
            + self.slots
            + self.summaries
            + self.activations
            + (0 if self.host else self.stored)
        )

    def lines(self) -> list[tuple[str, float, str]]:
        """(what, GiB, where) for a table."""
        where = {"stored": "host" if self.host else "device"}
        parts = [
            (name, value / GIB, where.get(name, "device"))
            for name, value in asdict(self).items()
            if name != "host"
        ]
        return [*parts, ("all on the device", self.device / GIB, "device")]


def footprint(
    config: WanConfig, film: FilmSpec, bits: int = 16, *, loaded: bool = False
) -> Footprint:
    """Compute the footprint; `bits` of the model's numbers outside what stays in fp32. Weights that
    are `loaded` already take nothing."""
    _, rows, columns = config.patch_size
    frame = (film.size[0] // film.scale // rows) * (film.size[1] // film.scale // columns)
    tokens = film.chunk * frame
    width = config.width
    number = bits // 8
    shown = tokens * (2 if film.guided else 1)
    unit = 2 * tokens * width * number * config.num_layers  # keys and values of a chunk, all layers
    kept = (
        unit
        if film.packing == "none"
        else unit // number + 2 * 4 * tokens * config.num_attention_heads * config.num_layers
    )
    seen = min(film.seen, film.chunks)
    attended = (
        (seen + 1) * 2 * tokens * width * number * config.num_layers * (2 if film.guided else 1)
    )
    summaries = (film.summary or 0) * width * 4 * config.num_layers * film.chunks
    # at its widest a block holds: its input, a norm in fp32 twice, then either q k v with two in
    # fp32 and the output, or the hidden layer twice
    block = shown * max(
        width * (number + 8 + 5 * number + 8),
        width * (number + 8 + number) + 2 * config.ffn_dim * number,
    )
    summaries += summaries and width * 4 * config.num_layers * (film.chunks // GROUPED)
    # the working copy grows to what a layer asks for at once
    slots = min(max(film.slots, film.held or seen), film.chunks)
    on_device = film.place == "host"
    return Footprint(
        0 if loaded else weight_bytes(config, film.linears, bits),
        attended,
        kept * film.chunks,
        kept * slots if on_device else 0,
        summaries,
        block,
        on_device,
    )


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


def check_memory(need: Footprint, device: int, host: int, what: str = "this film") -> None:
    """Refuse what cannot fit, with the numbers; `device` and `host` are free bytes. Raise
    CinelabError."""
    room = math.floor(device * (1 - SPARE))
    if need.device > room:
        parts = [
            f"{name} {gib:.1f}"
            for name, gib, where in need.lines()[:-1]
            if where == "device" and gib >= 0.05
        ]
        most = max(need.lines()[:-1], key=lambda line: line[1] if line[2] == "device" else 0)
        raise CinelabError(
            f"{what} needs {need.device / GIB:.1f} GiB on the device ({'; '.join(parts)}) and "
            f"{room / GIB:.1f} GiB are free; most of it is {most[0]}: {REMEDIES[most[0]]}."
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
}
