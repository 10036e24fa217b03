"""The settings of every training by its name, and a preset's: presets.dmd("toy").

A stage's presets stand in its own file, beside what they set; see `cinelab.train.sizes` for their
names and for the numbers that several share.
"""

from dataclasses import replace

from cinelab.latent.codec import ToyCodecConfig
from cinelab.latent.store import StoreConfig
from cinelab.train import toybox2_presets
from cinelab.train.bidirectional import Bidirectional, BidirectionalTraining
from cinelab.train.codec import CodecTraining
from cinelab.train.consistency import ConsistencyDistillation, ConsistencyTraining
from cinelab.train.dmd import DistributionMatching, DmdTraining
from cinelab.train.forward_process import ForwardProcess, ForwardProcessTraining
from cinelab.train.ode import OdeTraining, ode_presets, pairs_presets
from cinelab.train.optim import Optim
from cinelab.train.pairs import PairsConfig
from cinelab.train.recogniser import RecogniserTraining
from cinelab.train.sizes import SMOKE, TOY, WAN, WAN_CAMR
from cinelab.train.stage import pick_preset
from cinelab.train.teacher_forcing import TeacherForcing, TeacherForcingTraining
from cinelab.world.worlds import DEFAULT, world_named

__all__ = ["SMOKE", "TOY", "WAN", "WAN_CAMR"]


def bidirectional(preset: str, seed: int = 0) -> BidirectionalTraining:
    """Return settings of stage 0."""
    return pick_preset(Bidirectional("bidirectional").presets(seed), preset)


def teacher_forcing(preset: str, seed: int = 0) -> TeacherForcingTraining:
    """Return settings of stage 1."""
    return pick_preset(TeacherForcing("teacher_forcing").presets(seed), preset)


def ode(preset: str, teacher: str = "autoregressive", seed: int = 0) -> OdeTraining:
    """Return settings of stage 2a, from ODE pairs of a kind of teacher."""
    return pick_preset(ode_presets(teacher, seed), preset)


def consistency(preset: str, seed: int = 0) -> ConsistencyTraining:
    """Return settings of stage 2b."""
    return pick_preset(ConsistencyDistillation("consistency").presets(seed), preset)


def dmd(preset: str, seed: int = 0) -> DmdTraining:
    """Return settings of stage 3."""
    return pick_preset(DistributionMatching("dmd").presets(seed), preset)


def forward_process(preset: str, seed: int = 0) -> ForwardProcessTraining:
    """Return settings of fine-tuning by rewards."""
    return pick_preset(ForwardProcess("forward_process").presets(seed), preset)


def pairs(preset: str, teacher: str = "autoregressive", seed: int = 0) -> PairsConfig:
    """Return settings of the ODE pairs of a kind of teacher."""
    return pick_preset(pairs_presets(teacher, seed), preset)


def store(preset: str, seed: int = 2, world: str = DEFAULT) -> StoreConfig:
    """Return settings of the training films of a world."""
    if world == toybox2_presets.NAME:
        return pick_preset(toybox2_presets.store_presets(seed), preset)
    smoke = StoreConfig(seed=seed, films=8, latents=8, shard=4)
    # of clips up to 36 latent frames, in shots that last long enough to see how something moves
    h100 = StoreConfig(seed=seed, films=24_000, latents=36, longest=8, shard=100)
    found = pick_preset({"smoke": smoke, "toy": StoreConfig(seed=seed), "h100": h100}, preset)
    return replace(found, world=world)


def codec(preset: str, seed: int = 0, world: str = DEFAULT) -> CodecTraining:
    """Return settings of the training of a world's codec."""
    if world == toybox2_presets.NAME:
        return pick_preset(toybox2_presets.codec_presets(seed), preset)
    smoke = CodecTraining(
        codec=ToyCodecConfig(width=16, deep=16), steps=4, batch=2, clips=6, seed=seed, save_every=2
    )
    h100 = CodecTraining(
        optim=Optim(lr=2e-3, warmup=200, ema=0.999), steps=6000, batch=128, clips=20_000, seed=seed
    )
    toy = CodecTraining(seed=seed)
    found = pick_preset({"smoke": smoke, "toy": toy, "h100": h100}, preset)
    return replace(found, world=world)


def recogniser(preset: str, seed: int = 0, world: str = DEFAULT) -> RecogniserTraining:
    """Return settings of the training of a world's recogniser."""
    if world == toybox2_presets.NAME:
        found = pick_preset(toybox2_presets.recogniser_presets(seed), preset)
        return replace(found, codec=world_named(world).codec or None)
    smoke = RecogniserTraining(steps=4, batch=8, clips=16, held_out=8, save_every=2, seed=seed)
    h100 = RecogniserTraining(
        optim=Optim(lr=2e-3, warmup=200, ema=0.999), steps=4000, batch=256, clips=24_000, seed=seed
    )
    toy = RecogniserTraining(seed=seed)
    found = pick_preset({"smoke": smoke, "toy": toy, "h100": h100}, preset)
    return replace(found, world=world, codec=world_named(world).codec or None)
