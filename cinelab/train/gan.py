"""The adversarial head of stage 3: a small discriminator on the features of the critic (CausalCine,
arXiv 2605.12496, third stage; DMD2, arXiv 2405.14867, section 4.3, has the same form).

    D(x_t)       a logit a latent frame, of the critic's hidden states at the noised clip x_t
    critic's     + critic_weight (softplus(-D(real)) + softplus(D(made)))
    student's    + weight softplus(-D(made))

CausalCine says of it: an adversarial head on the features of the fake score, with a logistic loss
(softplus), whose real samples are the teacher's roll-outs; without it recurring subjects slide to
the frame's edge and the camera drifts. It gives neither the weights nor the blocks whose features
are taken: these, the head's shape and the reuse of the teacher's clips are ours. As in DMD2 the
critic's loss flows into the critic's own weights too, and the clips are noised as for the scores.

    B clips   F latent frames   N tokens a frame   D width
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.latent.store import Clips
from cinelab.seeds import integers, rng_at
from cinelab.train.pairs import PairsConfig, clips_of, trajectories

TEACHER_CLIPS = "teacher"
DATA = "data"
REALS = (TEACHER_CLIPS, DATA)


@dataclass(frozen=True)
class GanConfig:
    """The settings of the adversarial head. All of the numbers are ours: at weight 1 the gradient
    on the clip is once to twice that of distribution matching after 60 updates of the toybox's
    critic, so a tenth of it is taken."""

    # what the head takes for real: clips that the real score's network samples, with guidance
    # (CausalCine), or the data (DMD2)
    real: str = TEACHER_CLIPS
    weight: float = 0.1  # of the student's adversarial loss
    critic_weight: float = 0.1  # of the critic's, beside its flow matching error
    # the blocks whose outputs are judged, as shares of the network's depth
    depths: tuple[float, ...] = (0.5, 1.0)
    width: int = 64  # of the head
    rate: float = 5.0  # of the head, times the critic's: it begins from nothing
    clips: int = 64  # of the teacher, of each length: sampled once, then reused
    steps: int = 12  # of the teacher's ODE

    def __post_init__(self) -> None:
        if self.real not in REALS:
            raise CinelabError(f"gan.real is {self.real!r}; use one of {', '.join(REALS)}.")
        if not self.depths or not all(0 < depth <= 1 for depth in self.depths):
            raise CinelabError(
                f"gan.depths is {list(self.depths)}; give shares of the depth within (0, 1]."
            )


class AdversarialHead(nn.Module):
    """Logits (B, F) of a network's hidden states: real is above 0, made is below.

    Each block's states pass one layer of their own, are averaged over the tokens of a latent frame,
    and added. A token's place in the frame is an input, since the network's rotary positions are
    relative and a subject at the edge is to be known from one in the middle.
    """

    def __init__(self, states: int, blocks: int, width: int):
        """Take the width D of the hidden states, the number of blocks they are of, and the head's
        own width."""
        super().__init__()
        self.tokens = nn.ModuleList(nn.Linear(states + 2, width) for _ in range(blocks))
        self.frame = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        # it begins undecided, with no gradient to the student
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return the logits of hidden states, each (B, F, N, D), of a grid of tokens (rows,
        columns)."""
        place = token_places(grid, states[0])
        pooled = [
            fn.silu(layer(torch.cat([normed(x), place.expand(*x.shape[:3], 2)], dim=-1))).mean(2)
            for layer, x in zip(self.tokens, states, strict=True)
        ]
        hidden = torch.stack(pooled).sum(0)  # (B, F, the head's width)
        logits: Tensor = self.out(fn.silu(self.frame(hidden))).squeeze(-1).float()
        return logits


def normed(x: Tensor) -> Tensor:
    """Return hidden states (..., D) at mean 0 and variance 1, fp32: their size grows with depth."""
    return fn.layer_norm(x.float(), x.shape[-1:])


def token_places(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return row and column (N, 2) of the tokens of a frame, from -1 to 1, fp32."""
    axes = [torch.linspace(-1, 1, size, device=like.device) for size in grid]
    return torch.cartesian_prod(*axes)


def blocks_at(net: Any, depths: Sequence[float]) -> list[int]:
    """Return the numbers of a network's blocks at some shares of its depth. CinelabError where it
    has no `blocks`."""
    count = len(getattr(net, "blocks", ()))
    if not count:
        raise CinelabError(
            f"{type(net).__name__} has no blocks whose features the adversarial head could judge; "
            "call its list of transformer blocks `blocks`, or set gan to null."
        )
    return sorted({max(0, round(depth * count) - 1) for depth in depths})


@contextmanager
def block_outputs(net: Any, depths: Sequence[float]) -> Iterator[dict[int, Tensor]]:
    """Collect, inside, the outputs of a network's blocks at some shares of its depth, by the
    blocks' numbers: those of the last pass, where there are several."""
    found: dict[int, Tensor] = {}

    def keep(number: int, block: nn.Module, inputs: Any, output: Tensor) -> None:
        found[number] = output

    numbers = blocks_at(net, depths)
    hooks = [net.blocks[n].register_forward_hook(partial(keep, n)) for n in numbers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Leave the weights of modules out of the graphs that are made inside: what flows through them
    reaches their inputs alone."""
    weights = [w for module in modules for w in module.parameters() if w.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def critic_term(real: Tensor, made: Tensor) -> Tensor:
    """Return -log D(real) - log(1 - D(made)) of logits (B, F): 2 log 2 where the head is
    undecided."""
    return fn.softplus(-real).mean() + fn.softplus(made).mean()


def student_term(made: Tensor) -> Tensor:
    """Return -log D(made) of logits (B, F): the loss that does not saturate."""
    return fn.softplus(-made).mean()


class Judged(NamedTuple):
    """What the critic says of noised clips: its velocity, and the head's logits (B, F)."""

    velocity: Tensor
    logits: Tensor


class Adversary:
    """The head with what it takes for real. `velocity` is a call of the critic, whose hidden states
    it judges."""

    def __init__(self, config: GanConfig, head: AdversarialHead, reals: "Reals"):
        self.config = config
        self.head = head
        self.reals = reals

    def judge(self, net: Any, velocity: Callable[[], Tensor]) -> Judged:
        """Return the velocity and the logits of one call of the critic `net`."""
        with block_outputs(net, self.config.depths) as states:
            v = velocity()
        _, rows, columns = net.config.patch_size
        grid = (v.shape[-2] // rows, v.shape[-1] // columns)
        return Judged(v, self.head(list(states.values()), grid))

    def judge_frozen(self, net: Any, velocity: Callable[[], Tensor]) -> Judged:
        """Return the same with no gradient to critic and head: the student's side."""
        with frozen(net, self.head):
            return self.judge(net, velocity)


# (clips of the step, generator) -> clips that are real
Reals = Callable[[Clips, torch.Generator], Clips]


def the_data(clips: Clips, rng: torch.Generator) -> Clips:
    """Return the clips of the step, whose prompts the student's have: the data are the real
    samples."""
    return clips


class TeacherClips:
    """Clips that the real score's network makes from noise under guidance, as `Reals`.

    A shard is a batch of one length, sampled when it is first drawn and kept in the host's memory:
    a training samples `gan.clips` clips of each length at most, at two passes a step of the
    teacher's ODE. A shard is addressed by its length and number alone, so a resumed training draws
    the same ones. An autoregressive teacher makes each chunk from the true past.
    """

    def __init__(self, net: Any, store: Any, config: PairsConfig):
        self.net = net
        self.store = store
        self.config = config
        self.shards: dict[tuple[int, int], Clips] = {}

    def __call__(self, clips: Clips, rng: torch.Generator) -> Clips:
        """Return a random shard of as many latent frames as the clips have, on their device."""
        number = int(integers(self.config.shards, (), rng))
        key = (clips.latents.shape[1], number)
        if key not in self.shards:
            self.shards[key] = self._sampled(*key).to("cpu")
        return self.shards[key].to(clips.latents.device)

    def _sampled(self, frames: int, shard: int) -> Clips:
        config = replace(self.config, frames=frames)
        clips = clips_of(config, self.store, shard)
        rng = rng_at(config.seed, "teacher's clips", frames, shard)
        noise = torch.randn(clips.latents.shape, generator=rng).to(clips.latents.device)
        _, end = trajectories(self.net, clips, config, noise)
        return replace(clips, latents=end.float())


def adversary_of(gan: GanConfig, config: Any, networks: Mapping[str, Any], store: Any) -> Adversary:
    """Return the adversary of a training of stage 3 with settings `config`, its head initialised
    from the seed."""
    critic = networks["critic"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        blocks = len(blocks_at(critic, gan.depths))
        head = AdversarialHead(critic.config.width, blocks, gan.width)
    head.to(next(critic.parameters()).device)
    if gan.real == DATA:
        return Adversary(gan, head, the_data)
    sampled = PairsConfig(
        teacher=config.score,
        levels=(1.0,),
        steps=gan.steps,
        guidance=config.guidance,
        unconditional=config.unconditional,
        shift=config.shift,
        clips=gan.clips,
        chunk=config.chunk,
        batch=config.batch,
        seed=config.seed,
        bf16=config.bf16,
    )
    return Adversary(gan, head, TeacherClips(networks["teacher"], store, sampled))
