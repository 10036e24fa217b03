"""Named settings of every stage.

    smoke                       runs in seconds
    toy                         what the toybox's checkpoints are trained with
    wan-1.3b, wan-14b           Wan2.1 with full attention: the numbers of Self Forcing's and Causal Forcing's public code
    wan-1.3b-camr, ...          the same numbers with memory routing, as films of these students are made

docs/scaling.md lists every number of the Wan presets beside theirs. Their batch is 64 clips:
`batch` is what one part of a step holds, the run's layout says how many parts there are.
"""

from dataclasses import replace

from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.latent.codec import ToyCodecConfig
from cinelab.latent.store import StoreConfig
from cinelab.memory.policy import CAMR, FULL
from cinelab.model.wan import WAN_1_3B, WAN_14B, WanConfig
from cinelab.script.unconditional import NAME as PUBLISHED
from cinelab.train.bidirectional import BidirectionalTraining
from cinelab.train.codec import CodecTraining
from cinelab.train.consistency import ConsistencyTraining
from cinelab.train.dmd import DmdTraining
from cinelab.train.ode import OdeTraining
from cinelab.train.optim import Optim
from cinelab.train.pairs import PairsConfig
from cinelab.train.recogniser import RecogniserTraining
from cinelab.train.teacher_forcing import TeacherForcingTraining

TOY = WanConfig(
    num_attention_heads=8,
    attention_head_dim=32,
    num_layers=6,
    ffn_dim=768,
    in_channels=24,
    out_channels=24,
    text_dim=64,
)
STUDENT = Optim(lr=2e-4, warmup=20, ema=0.99)  # stage 2
SMOKE = replace(TOY, num_attention_heads=2, num_layers=2, ffn_dim=96)

WAN = {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}
# The papers': a constant rate, a gradient clip of 10, and an average at its full decay from the
# first step.
PAPERS = Optim(
    lr=2e-6, floor=1.0, warmup=0, betas=(0.0, 0.999), clip=10.0, ema=0.99, ema_warm=False
)
# latent frames of a clip (five seconds) and of a chunk
SPAN = 21
CHUNK = 3
# Of at most 6 chunks before the last, by pooled keys, at their true distances, as films are made.
# One choice a layer: a
# mask of the clip's 65,520 tokens squared a head would not fit.
WAN_CAMR = CAMR(budget=4, per_head=False, summary=32)


def wan(config, camr: dict | None = None, **changes) -> dict:
    """Return the papers' settings at both sizes, by preset; and with `camr`, those with our memory
    as "...-camr"."""
    papers = {name: replace(config, model=model, **changes) for name, model in WAN.items()}
    ours = {f"{name}-camr": replace(made, **camr) for name, made in papers.items()} if camr else {}
    return papers | ours


def codec(preset: str, seed: int = 0) -> CodecTraining:
    small = CodecTraining(
        codec=ToyCodecConfig(width=16, deep=16), steps=4, batch=2, clips=6, seed=seed, save_every=2
    )
    return _pick({"smoke": small, "toy": CodecTraining(seed=seed)}, preset)


def store(preset: str, seed: int = 2) -> StoreConfig:
    return _pick(
        {
            "smoke": StoreConfig(seed=seed, films=8, latents=8, shard=4),
            "toy": StoreConfig(seed=seed),
        },
        preset,
    )


def bidirectional(preset: str, seed: int = 0) -> BidirectionalTraining:
    toy = BidirectionalTraining(model=TOY, steps=1700, optim=Optim(lr=1e-3, ema=0.998), seed=seed)
    large = wan(
        toy,
        optim=PAPERS,
        steps=2000,
        frames_per_batch=SPAN,
        lengths=(SPAN,),
        images_until=0.0,
        shift=5.0,
    )
    return _pick(
        {
            "smoke": replace(toy, model=SMOKE, steps=4, frames_per_batch=16, save_every=2),
            "toy": toy,
            **large,
        },
        preset,
    )


def teacher_forcing(preset: str, seed: int = 0) -> TeacherForcingTraining:
    toy = TeacherForcingTraining(model=TOY, steps=5300, optim=Optim(lr=8e-4, ema=0.998), seed=seed)
    smoke = replace(
        toy,
        model=SMOKE,
        steps=4,
        frames_per_batch=16,
        curriculum=(4, 8),
        camr=CAMR(budget=3),
        routed_from=0.5,
        camr_share=0.5,
        other_shots_share=0.5,
        save_every=2,
    )
    large = wan(
        toy,
        {"camr": WAN_CAMR, "camr_share": toy.camr_share},
        optim=replace(PAPERS, ema=0.0),
        steps=2000,
        frames_per_batch=SPAN,
        curriculum=(SPAN,),
        chunk=CHUNK,
        camr_share=0.0,
        other_shots_share=0.0,
        drop_text=0.0,
        weight="bell",
        shift=5.0,
    )
    return _pick({"smoke": smoke, "toy": toy, **large}, preset)


def pairs(preset: str, teacher: str = "autoregressive", seed: int = 0) -> PairsConfig:
    toy = PairsConfig(teacher=teacher, seed=seed)
    return _pick({"smoke": replace(toy, steps=4, clips=2, frames=4, batch=1), "toy": toy}, preset)


def ode(preset: str, teacher: str = "autoregressive", seed: int = 0) -> OdeTraining:
    history = "truth" if teacher == "autoregressive" else "noisy"
    toy = OdeTraining(
        model=TOY, pairs=pairs("toy", teacher), history=history, optim=STUDENT, steps=240, seed=seed
    )
    smoke = replace(toy, pairs=pairs("smoke", teacher), steps=3, save_every=2, validate_every=2)
    return _pick({"smoke": smoke, "toy": toy}, preset)


def consistency(preset: str, seed: int = 0) -> ConsistencyTraining:
    toy = ConsistencyTraining(
        model=TOY, optim=STUDENT, grid=(8, 12, 16), steps=450, batch=4, seed=seed
    )
    smoke = replace(toy, steps=3, batch=1, frames=4, grid=(2, 4), save_every=2, validate_every=2)
    large = wan(
        toy,
        {"camr": WAN_CAMR, "camr_share": toy.camr_share},
        optim=PAPERS,
        grid=(48,),
        guidance=3.0,
        unconditional=PUBLISHED,
        levels="clip",
        last_interval=False,
        camr_share=0.0,
        other_shots_share=0.0,
        shift=5.0,
        steps=3000,
        batch=1,
        frames=SPAN,
        chunk=CHUNK,
        save_every=100,
    )
    return _pick({"smoke": smoke, "toy": toy, **large}, preset)


def dmd(preset: str, seed: int = 0) -> DmdTraining:
    toy = DmdTraining(
        model=TOY,
        optim=Optim(lr=1e-4, betas=(0.0, 0.999), ema=0.95, warmup=10),
        steps=120,
        batch=8,
        lengths=(12, 24),
        known=0.4,
        critic_updates=3,
        save_every=24,
        validate_every=24,
        seed=seed,
    )
    smoke = replace(
        toy,
        steps=3,
        batch=1,
        lengths=(4,),
        critic_updates=2,
        known=0.5,
        save_every=2,
        validate_every=2,
    )
    levels = Sampling(4, "consistency", guidance=1.0, shift=5.0)
    large = wan(
        toy,
        {"policy": WAN_CAMR},
        sampling=levels,
        optim=replace(PAPERS, ema_from=200),
        critic=replace(PAPERS, lr=4e-7),
        policy=FULL,
        guidance=4.0,
        unconditional=PUBLISHED,
        shift=5.0,
        critic_updates=5,
        steps=1000,
        batch=1,
        lengths=(SPAN,),
        known=0.0,
        chunk=CHUNK,
        max_distance=SPAN - 1,
    )
    return _pick({"smoke": smoke, "toy": toy, **large}, preset)


def recogniser(preset: str, seed: int = 0) -> RecogniserTraining:
    toy = RecogniserTraining(seed=seed)
    return _pick(
        {"smoke": replace(toy, steps=4, batch=8, clips=16, held_out=8, save_every=2), "toy": toy},
        preset,
    )


def _pick(options: dict, preset: str):
    if preset not in options:
        raise CinelabError(f"Preset {preset!r} is unknown here; use one of {', '.join(options)}.")
    return options[preset]
