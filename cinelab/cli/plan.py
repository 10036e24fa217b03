"""`cinelab plan`: the memory of a film, and the cards that it fits."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import budget_option, frame_size, number_option
from cinelab.errors import CinelabError
from cinelab.limits import CHUNKS, LATENTS
from cinelab.printing import say, show_table

if TYPE_CHECKING:
    from cinelab.zoo.footprint import Footprint

GIB = 2**30
ANY = 2**62  # bytes: room for anything
TRAINED = 21  # latent frames of the clips that the published models were trained on
POOLED = 30  # tokens a page that are searched in films of Wan (zoo.wan.WanSettings.summary)
CAUSES = {
    "weights": "the network",
    "codec": "the codec's weights",
    "encoder": "the text encoder, freed before the film",
    "prompts": "encoded prompts",
    "stored": "the KV store, with its room to grow",
    "slots": "pages of the KV store on the device",
    "summaries": "pooled keys that retrieval searches",
    "decoder": "the past of the codec's decoder",
    "attended": "retrieved pages, gathered for a chunk",
    "recorded": "keys and values of the clean pass",
    "activations": "what a pass of the network computes",
    "decoding": "what decoding a chunk computes",
}

PlannedModel = Annotated[str, typer.Option(help="wan-1.3b, wan-14b, or weights in any layout")]
Chunks = Annotated[int, number_option("chunks of the film", 1, CHUNKS)]
ChunkFrames = Annotated[int, number_option("latent frames a chunk", 1, LATENTS)]
Size = Annotated[str, typer.Option(help="height x width in pixels")]
PlannedPolicy = Annotated[
    str, typer.Option(help="camr, window, sink, shot_sink, full, or your own as module:Name")
]
PlannedBudget = Annotated[int, budget_option()]
Place = Annotated[str, typer.Option(help="where the KV cache is stored: device or host")]
Slots = Annotated[
    int,
    number_option(
        "pages a layer on the device, where the KV cache is stored in host memory", 1, CHUNKS
    ),
]
Packing = Annotated[str, typer.Option(help="how the KV cache is stored: none, int8 or fp8")]
Linears = Annotated[
    str,
    typer.Option(help="numbers of the linear layers: full, fp8, fp8-weights or int8-weights"),
]
Codec = Annotated[str, typer.Option(help="that decodes the film: vae, tiny or none")]
Overlap = Annotated[
    bool, typer.Option("--overlap", help="a chunk is decoded while the next one is made")
]
DeviceGib = Annotated[
    float | None,
    number_option(
        "GiB of the GPU of another machine; without --device and --host: what is free here",
        0,
        1e6,
        whole=False,
    ),
]
HostGib = Annotated[
    float | None, number_option("GiB of main memory of another machine", 0, 1e6, whole=False)
]


def plan_command(
    model: PlannedModel = "wan-1.3b",
    chunks: Chunks = 200,
    chunk: ChunkFrames = 3,
    *,
    size: Size = "480x832",
    policy: PlannedPolicy = "camr",
    budget: PlannedBudget = 6,
    place: Place = "device",
    packing: Packing = "none",
    slots: Slots = 12,
    linears: Linears = "full",
    codec: Codec = "vae",
    overlap: Overlap = False,
    device: DeviceGib = None,
    host: HostGib = None,
):
    """What a film takes, in GiB by cause, before any weights are loaded, and the cards that it
    fits; refuses what cannot fit, with the numbers.

    Without --device and --host the film is checked against this machine, with one of them against
    a machine of which only that is known.
    """
    from dataclasses import replace

    from cinelab.memory.policy_registry import BUILT_IN, PUBLISHED, policy_named
    from cinelab.memory.store import Storage
    from cinelab.scale.acceleration import Speed
    from cinelab.zoo.footprint import film_spec, footprint

    _check_length(chunks, chunk)
    Speed(linears=linears, compiled=True)  # refuses unknown names
    rule = policy_named(policy, budget)
    config = _model_config(model)
    film = film_spec(
        rule,
        Storage(place, packing, slots),
        config,
        max_distance=TRAINED - 1,
        size=frame_size(size),
        chunks=chunks,
        chunk=chunk,
        linears=linears,
        codec=codec,
        overlap=overlap,
        prompts=2,
        encoder="free",
    )
    if film.summary and policy in BUILT_IN and policy not in PUBLISHED:
        film = replace(film, summary=POOLED)
    need = footprint(config, film)
    show_table(
        ["what", "GiB", "where", "which is"],
        [[what, f"{gib:.2f}", where, CAUSES.get(what, "")] for what, gib, where in need.lines()],
        f"{chunks} chunks of {chunk} latent frames at {size} under {policy}",
    )
    _show_cards(need)
    _check_room(need, {"device": device, "host": host})


def _check_length(chunks: int, chunk: int) -> None:
    """Refuse a film of more latent frames than any may have."""
    if chunks * chunk > LATENTS:
        raise CinelabError(
            f"--chunks {chunks} of --chunk {chunk} are {chunks * chunk} latent frames; a film has "
            f"at most {LATENTS}."
        )


def _show_cards(need: "Footprint") -> None:
    """Print whether a film fits each of the known cards, and what would lower its memory where it
    does not."""
    from cinelab.scale.ceilings import CARDS
    from cinelab.zoo.footprint import remedy, usable

    rooms = {name: usable(int(card.memory)) for name, card in CARDS.items()}
    rows = []
    for name, room in rooms.items():
        over = math.ceil(10 * (need.device - room) / GIB) / 10  # never "0.0 GiB too much"
        rows.append([name, f"{room / GIB:.1f}", f"{over:.1f} GiB too much" if over > 0 else "fits"])
    show_table(["card", "usable GiB", f"{need.device / GIB:.1f} GiB"], rows, "On a card by itself")
    small = [room for room in rooms.values() if room < need.device]
    if small:
        say(f"Where it does not fit: {remedy(need, max(small))}.")


def _model_config(model: str):
    from cinelab.model.wan import WAN_1_3B, WAN_14B
    from cinelab.weights.load import config_of

    return {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}.get(model) or config_of(model)


def _check_room(need: "Footprint", stated: dict[str, float | None]) -> None:
    """Refuse a film that does not fit the memory `stated` in GiB, else that of this machine."""
    from cinelab.devices import chosen_device
    from cinelab.zoo.footprint import check_memory, free_bytes

    free = {
        "device": free_bytes(chosen_device()),
        "host": free_bytes("cpu"),
    }
    given = {name: int(gib * GIB) for name, gib in stated.items() if gib is not None}
    # where another machine is described, only what is stated of it can refuse
    room = {name: given.get(name, ANY if given else free[name]) for name in free}
    check_memory(need, room["device"], room["host"], "This film")
    on = " and ".join(f"{gib / GIB:g} GiB of {name} memory" for name, gib in given.items())
    say((f"It fits {on}." if on else "It fits here.", "bold green"))
    for name, takes in (("device", need.device), ("host", need.stored * need.host)):
        if given and name not in given and takes:
            say(
                f"Of {name} memory it takes {takes / GIB:.1f} GiB ({free[name] / GIB:.1f} GiB are "
                f"free here; --{name} GIB states how much another machine has)."
            )
