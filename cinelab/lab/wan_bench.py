"""The benchmark at the papers' size for a notebook: from plain values to tables and figures."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd
import plotly.graph_objects as go
import torch

from cinelab.bench.wan_options import measure_options
from cinelab.bench.wan_speed import WanBench, measure_chunks, overhead
from cinelab.devices import chosen_device
from cinelab.files import plain_json, write_json
from cinelab.lab.reports.plots import PALETTE, TEMPLATE
from cinelab.memory.store import Storage
from cinelab.scale.acceleration import speed_named

if TYPE_CHECKING:
    from cinelab.latent.wan_codec import WanCodec

# Published figures for one H100 or H200, 1.3B, 480x832; ours are measured under other conditions,
# so they are a scale, not a race.
PUBLISHED = {
    "Self Forcing, chunk-wise, 4 steps": {"frames/s": "17 to 28"},
    "FlashDreams, chunk-wise, 4 steps": {"frames/s": "34.9"},
    "Causal Forcing++, frame-wise, 2 steps": {"frames/s": "14.1", "first frame s": 0.27},
}


def bench(
    model: str,
    mode: str,
    size: tuple[int, int],
    *,
    policies: list[str],
    history: list[int],
    budget: int = 6,
    repeats: int = 5,
    layers: int | None = None,
    speed: str = "exact",
    kernel: str = "auto",
    linears: str = "full",
    compiled: bool = False,
    place: str = "device",
    packing: str = "none",
    decoder: bool = True,
    smoke: bool = False,
) -> tuple[WanBench, pd.DataFrame]:
    """Return the settings and a row for every policy and length of history, measured on the GPU
    where there is one. `kernel`, `linears` and `compiled` go before what `speed` names."""
    device = chosen_device()
    setting = WanBench(
        model,
        mode,
        (size[0], size[1]),
        layers,
        tuple(policies),
        budget,
        history=tuple(history),
        repeats=repeats,
        speed=speed_named(speed, kernel=kernel, compiled=compiled, linears=linears),
        storage=Storage(place, packing),
    )
    codec = random_codec(device, small=smoke, compiled=setting.speed.compiled) if decoder else None
    decode = codec.decode if codec else None
    return setting, measure_chunks(setting, device, decode, _print_line)


def _print_line(text: str) -> None:
    print(text, flush=True)


def options_table(setting: WanBench) -> pd.DataFrame:
    """Measure every option for speed and memory against the plain way, in one run."""
    device = chosen_device()
    table = measure_options(setting, device, max(setting.history), _print_line)
    return table[
        ["option", "way", "times as fast", "chunk s", "plain s", "history MiB", "peak GiB"]
    ].round(3)


def random_codec(device: str, *, small: bool = False, compiled: bool = False) -> "WanCodec":
    """Return Wan2.1's video autoencoder with random weights, at its true size or a small one, laid
    out as films have it on the device, and compiled where wanted."""
    from diffusers import AutoencoderKLWan

    from cinelab.latent.wan_codec import WanCodec

    vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1) if small else AutoencoderKLWan()
    gpu = device.startswith("cuda")
    codec = WanCodec(cast(torch.nn.Module, vae), torch.bfloat16 if gpu else torch.float32)
    codec = codec.to(device).channels_last() if gpu else codec
    return codec.compiled_decoder() if compiled else codec


def plan_table(setting: WanBench) -> pd.DataFrame:
    """Return the memory by arithmetic, GiB by cause, for every policy at the longest history."""
    rows = {
        policy: {
            name: round(gib, 2)
            for name, gib, _ in setting.need(max(setting.history), policy).lines()
        }
        for policy in setting.policies
    }
    return pd.DataFrame(rows)


def growth_figure(table: pd.DataFrame) -> go.Figure:
    """Draw what a chunk costs after so many others: flat is what a stream needs."""
    fig = go.Figure(
        layout={"template": TEMPLATE, "title": "What a chunk costs, late in a film", "height": 420}
    )
    for place, (policy, part) in enumerate(
        table[table["policy"] != "first"].groupby("policy", sort=False)
    ):
        fig.add_scatter(
            x=part["history"],
            y=1000 * part["chunk s"],
            name=policy,
            mode="lines+markers",
            line={"color": PALETTE[place % len(PALETTE)]},
        )
    return fig.update_xaxes(title_text="chunks of history").update_yaxes(
        title_text="milliseconds a chunk", rangemode="tozero"
    )


def keep(table: pd.DataFrame, run_dir: str | Path) -> pd.DataFrame:
    """Write bench.json to the run's folder. Return the overheads."""
    found = overhead(table)
    write_json(
        Path(run_dir) / "bench.json",
        plain_json({"rows": table.to_dict("records"), "overhead": found.to_dict("index")}),
    )
    return found.round(3)
