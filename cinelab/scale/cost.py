"""What a training takes, before it is begun: memory of a GPU and seconds of a step, from the shapes
alone.

A stage states itself how it shows a clip and which networks it has (`cinelab.train.stage`).

    python -m cinelab.scale.cost        the tables of docs/scaling.md

    D width   F latent frames   N tokens a frame   T = F N tokens of a clip   n chunks
    c tokens of a chunk
"""

from dataclasses import dataclass

import torch

from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig
from cinelab.train.stage import Stage, stage_named

GIB = 2**30
# bytes a weight: fp32 itself, gradient, two moments; its average; bf16
TRAINED = 16
AVERAGED = 4
FROZEN = 2
# bytes that backward needs of a token in a block: SAVED times D and SAVED_FFN times ffn_dim
# (counted: see tests/test_arithmetic.py)
SAVED = 68
SAVED_FFN = 4
WORDS = 512  # words of a prompt


@dataclass(frozen=True)
class Plan:
    """A training on `gpus` GPUs; one micro-batch (a clip) at a time on each group of `sequence`."""

    model: WanConfig
    stage: str = "teacher_forcing"
    gpus: int = 8
    sequence: int = 1
    activation_checkpointing: bool = True
    lora: int | None = None  # rank
    frames: int = 21  # latent frames of a clip
    chunk: int = 3
    grid: tuple[int, int] = (30, 52)  # tokens of a frame: 480 x 832
    clips: int = 64  # a step
    gan: bool = False  # stage 3 with its adversarial head

    @property
    def kind(self) -> Stage:
        """The registered stage of that name."""
        return stage_named(self.stage)

    @property
    def tokens(self) -> int:
        """The tokens T of one clip."""
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def shown(self) -> int:
        """The tokens of a pass that is differentiated: the clip twice under teacher forcing."""
        return self.tokens * (2 if self.kind.doubled else 1)


def parameters(config: WanConfig) -> int:
    """Return the number of weights of the model, from its true shapes."""
    with torch.device("meta"):
        return sum(part.numel() for part in CausalWan(config).parameters())


def adapter_parameters(config: WanConfig, rank: int) -> int:
    """Return the number of weights of LoRA on all attention and feed-forward linears."""
    return config.num_layers * rank * (8 * 2 * config.width + 2 * (config.width + config.ffn_dim))


def memory(plan: Plan) -> dict[str, float]:
    """Return the GiB on each GPU, by cause."""
    config = plan.model
    count = parameters(plan.model)
    trained = count if plan.lora is None else adapter_parameters(config, plan.lora)
    base = 0 if plan.lora is None else FROZEN * count  # under the adapters
    parts = {"student": (trained * (TRAINED + AVERAGED) + base) / plan.gpus}
    frozen = [role for role in plan.kind.roles if not role.trained]
    further = [role for role in plan.kind.roles[1:] if role.trained]  # without an average
    if frozen:
        parts["teacher"] = len(frozen) * FROZEN * count / plan.gpus
    if further:
        parts["critic"] = len(further) * (trained * TRAINED + base) / plan.gpus
    blocks = count / config.num_layers  # with its share of the rest
    # sharded: a block, the next one, a block's gradients; one GPU: autocast's copy of what is
    # trained
    parts["gathered"] = FROZEN * (3 * blocks if plan.gpus > 1 else trained)
    mine = plan.shown / plan.sequence
    layers = config.num_layers
    block = mine * (SAVED * config.width + SAVED_FFN * config.ffn_dim)
    parts["activations"] = (
        mine * 2 * config.width * layers + block
        if plan.activation_checkpointing
        else block * layers
    )
    # the critic's two passes that its head judges are held at a time
    parts["activations"] *= 2 if plan.gan else 1
    if plan.kind.doubled:
        chunk = plan.tokens * plan.chunk // plan.frames
        parts["masks"] = 2.0 * chunk**2 * chunk_products(plan)
    # keys and values of the past that backward needs of every chunk of the roll-out: chunk i has
    # joined those of i chunks before it, n (n - 1) / 2 in all
    if plan.kind.rolls_out:
        n = plan.frames // plan.chunk
        parts["history"] = 2 * 2 * config.width * layers * plan.tokens / n * (n * (n - 1) // 2)
    return {name: value / GIB for name, value in parts.items()}


def chunk_products(plan: Plan) -> int:
    """Return how many pairs of a query chunk and a key chunk attention multiplies in a layer.

    Under teacher forcing a tile is a clean and a noisy chunk, which attend to the clean chunks up
    to there and to the noisy one (see `cinelab.ops.tiling`); a bidirectional pass attends to all.
    """
    n = plan.frames // plan.chunk
    return sum(2 * (i + 2) for i in range(n)) if plan.kind.doubled else n * n


def forward_flops(plan: Plan) -> float:
    """Return the operations of one pass over one clip as the stage shows it."""
    config = plan.model
    # weights that multiply every token: q, k, v, o of self-attention, q, o of cross-attention, and
    # the feed-forward; keys and values of a prompt are computed once, and left out
    linears = 6 * config.width**2 + 2 * config.width * config.ffn_dim
    chunk = plan.tokens * plan.chunk // plan.frames
    attended = chunk_products(plan) * chunk**2 + plan.shown * WORDS
    return config.num_layers * (2.0 * linears * plan.shown + 4.0 * config.width * attended)


def step_flops(plan: Plan) -> float:
    """Return the operations of one step over all its clips, in the mean over steps."""
    # a forward pass and a backward of twice its cost; one forward more where blocks are recomputed
    back = 4 if plan.activation_checkpointing else 3
    further = {"gan": True} if plan.gan else {}
    passes = plan.kind.passes(back, plan.frames // plan.chunk, **further)
    return plan.clips * forward_flops(plan) * passes


def seconds(plan: Plan, tflops: float = 400.0) -> float:
    """Return the seconds of a step where each GPU reaches `tflops` (400 is 40 % of the dense bf16
    of an H100 or H200)."""
    return step_flops(plan) / (plan.gpus * tflops * 1e12)


RECIPES = [
    (name, stage, gpus, sequence, lora)
    for name, gpus, sequence, lora in (
        ("1.3B", 1, 1, 32),
        ("1.3B", 1, 1, None),
        ("1.3B", 8, 1, None),
        ("1.3B", 64, 1, None),
        ("14B", 1, 1, 32),
        ("14B", 8, 4, 32),
        ("14B", 8, 4, None),
        ("14B", 64, 4, None),
    )
    for stage in ("teacher_forcing", "consistency", "dmd")
]


def cost_table() -> str:
    """Return memory and time of the recipes, as Markdown."""
    lines = [
        "| model | trains | stage | GPUs | sequence | states GiB | gathered | activations | "
        "masks, history | all GiB | s a step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, stage, gpus, sequence, lora in RECIPES:
        sequence = 1 if stage_named(stage).rolls_out else sequence
        plan = Plan({"1.3B": WAN_1_3B, "14B": WAN_14B}[name], stage, gpus, sequence, lora=lora)
        need = memory(plan)
        states = sum(need.get(part, 0.0) for part in ("student", "teacher", "critic"))
        rest = need.get("masks", 0.0) + need.get("history", 0.0)
        lines.append(
            f"| {name} | {'all' if lora is None else f'LoRA {lora}'} | {stage} | {gpus} | "
            f"{sequence} | {states:.1f} | "
            f"{need['gathered']:.1f} | {need['activations']:.1f} | {rest:.1f} | "
            f"{sum(need.values()):.0f} | {seconds(plan):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(cost_table())
