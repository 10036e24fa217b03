"""Numbers that the presets of several stages share.

    smoke                       runs in seconds
    toy                         what the toybox's checkpoints are trained with, on two CPU cores
    h100                        the same networks on one GPU of 80 GB: see below
    wan-1.3b, wan-14b           Wan2.1 with full attention: the numbers of Self Forcing's and Causal
                                Forcing's public code
    wan-1.3b-camr, ...          the same numbers with memory routing, as films of these students are
                                made

h100: a first training of stage 1 on an H100 (1,154 steps of 256 clips of 24 latent frames at 0.25 s
and 21.4 GiB, a rate of 1.5e-3, an average over the last 100 steps) gained recall and kind, which
are learnt by seeing more films, and lost motion. So these presets take 6,144 latent frames a step,
which is where a step is bound by the card and not by its launches: a larger batch would fit, and
would make steps fewer and no clip cheaper. They take several times more steps, at the toy presets'
rates, which were found at 192 to 256 frames a step and are not scaled up; warm up for longer; decay
to a tenth and not to a twentieth; average over the last sixth of the training; and mix clip lengths
from the beginning, up to 36 latent frames in stage 1, so that five shots lie between two of a
place. The students' clips stay at 24, the span of the shipped teachers.

docs/scaling.md lists every number of the Wan presets beside theirs. Their batch is 64 clips:
`batch` is what one micro-batch holds, the run's layout says how many of these a step has.
"""

from dataclasses import replace
from typing import Any

from cinelab.memory.policy import CAMR
from cinelab.model.wan import WAN_1_3B, WAN_14B, WanConfig
from cinelab.train.optim import Optim

TOY = WanConfig(
    num_attention_heads=8,
    attention_head_dim=32,
    num_layers=6,
    ffn_dim=768,
    in_channels=24,
    out_channels=24,
    text_dim=64,
)
SMOKE = replace(TOY, num_attention_heads=2, num_layers=2, ffn_dim=96)
STUDENT_OPTIM = Optim(lr=2e-4, warmup=20, ema=0.99)  # of the toybox's stage 2
# latent frames a step on an H100: 256 clips of 24
FRAMES_A_STEP = 6144
H100_OPTIM = Optim(lr=8e-4, floor=0.1, warmup=200, ema=0.999)
H100_STUDENT = Optim(lr=2e-4, floor=0.1, warmup=50, ema=0.995)
# The papers': a constant rate, a gradient clip of 10, and an average at its full decay from the
# first step.
PAPERS = Optim(
    lr=2e-6, floor=1.0, warmup=0, betas=(0.0, 0.999), clip=10.0, ema=0.99, ema_warm=False
)
WAN = {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}
# latent frames of a clip (five seconds) and of a chunk
SPAN = 21
CHUNK = 3
# Of at most 6 chunks before the last, by pooled keys, at their true distances, as films are made.
# 30 bands a page divide its tokens, a chunk's and a latent frame's: one kernel pools them.
# One choice a layer: a mask of the clip's 65,520 tokens squared a head would not fit.
WAN_CAMR = CAMR(budget=4, per_head=False, summary=30, reuse_choice=True)


def wan_presets(config: Any, routed: dict | None = None, **changes: Any) -> dict[str, Any]:
    """Return the papers' settings at both sizes, by preset; and where `routed` is given, these with
    that memory as "...-camr"."""
    papers = {name: replace(config, model=model, **changes) for name, model in WAN.items()}
    if routed is None:
        return papers
    ours = {f"{name}-camr": replace(made, **routed) for name, made in papers.items()}
    return papers | ours
