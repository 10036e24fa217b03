"""What Wan2.1's tensors are called: ours (which are diffusers'), the original repository's, and
what training wraps around them.

    diffusers   blocks.0.attn1.to_q.weight
    wan         blocks.0.self_attn.q.weight
    training    model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.self_attn.q.weight,
                in `generator` and `generator_ema`

LoRA tensors stand beside these names in the ways of their trainers (`lora_place`, `module_named`):

    peft, diffusers      transformer.blocks.0.attn1.to_q.lora_A.weight,
                         base_model.model....lora_A.default.weight
    DiffSynth            pipe.dit.blocks.0.self_attn.q.lora_A.default.weight
    kohya, ComfyUI       lora_unet_blocks_0_self_attn_q.lora_down.weight,
                         diffusion_model.blocks.0.self_attn.q.diff_b

One table, read in both directions. It maps modules, so that their weights, biases and LoRA factors
follow. The trap in it: the original calls the norm before cross-attention `norm3`, diffusers calls
it `norm2`.
"""

import re

DIFFUSERS = "diffusers"
WAN = "wan"
TRAINING = "training"
LAYOUTS = (DIFFUSERS, WAN, TRAINING)
# of a training checkpoint: the first that is there is taken unless another is requested
PARTS = ("generator_ema", "generator")
# that one flat dictionary may hold
NETWORKS = (*PARTS, "student_ema", "student", "teacher", "critic", "real_score", "fake_score")
ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
}
BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{wan}": f"attn1.{ours}" for wan, ours in ATTENTION.items()},
    **{f"cross_attn.{wan}": f"attn2.{ours}" for wan, ours in ATTENTION.items()},
}
WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module"}
# before the first name that is the transformer's own
HOLDERS = {
    "model",
    "base_model",
    "diffusion_model",
    "transformer",
    "pipe",
    "dit",
    "unet",
    "net",
    "student",
    "state_dict",
}
IMAGE = re.compile(
    r"(^|\.)(img_emb|image_embedder|k_img|v_img|norm_k_img|add_k_proj|add_v_proj|norm_added_k|norm_added_q)\."
)
LORA = re.compile(
    r"(?P<module>.+?)\.(?:lora(?:_linear_layer)?[._](?P<factor>A|B|down|up)(?:\.(?!weight$|bias$)[\w-]+)?(?:\.(?P<leaf>weight|bias))?"
    r"|(?P<plain>alpha|diff|diff_b|diff_m))"
)
TEXT = re.compile(
    r"(lora|lycoris)_(te|te\d|t5|text_encoder\w*?|text_model|umt5)_|(?:base_model\.|model\.|pipe\.)*(te\d?|text_encoders?(_?\d)?|text_model|t5\w*|umt5\w*|conditioner|cond_stage_model)\."
)
FLAT = re.compile(
    r"(?:(?:lora|lycoris)_)?(?:(?:unet|transformer|dit|net|model|base_model|diffusion_model)_+)*(?:blocks_(?P<block>\d+)_)?(?P<module>.+)"
)
FLAT_TOP, FLAT_BLOCK = (
    {name.replace(".", "_"): ours for wan, ours in table.items() for name in (wan, ours)}
    for table in (TOP, BLOCK)
)
PLACE = re.compile(r"(?P<block>blocks\.\d+\.)?(?P<module>.+?)(?P<leaf>\.weight|\.bias)?")


def bare(key: str) -> str:
    """A key without what FSDP, checkpointing, torch.compile, peft and wrapping models put into
    it."""
    words = [word for word in key.split(".") if word not in WRAPPERS]
    while len(words) > 1 and words[0] in HOLDERS:
        words = words[1:]
    return ".".join(word for word in words if word != "base_layer")


def from_wan(name: str) -> str | None:
    """Our name of an original one (a module's or a tensor's); None if the original has no such
    thing."""
    return _translate(name, TOP, BLOCK)


def to_wan(name: str) -> str | None:
    """The original name of one of ours, or None."""
    return _translate(name, {v: k for k, v in TOP.items()}, {v: k for k, v in BLOCK.items()})


def to_ours(name: str, layout: str) -> str | None:
    """Our name of a bare name in a layout; None if it is no part of a text-to-video transformer."""
    if layout == DIFFUSERS:
        return name if to_wan(name) else None
    return from_wan(name)


def from_ours(name: str, layout: str) -> str:
    """What one of our names is called in a layout."""
    if layout == DIFFUSERS:
        return name
    wan = to_wan(name)
    assert wan is not None, name
    return wan if layout == WAN else f"model.{wan}"


def naming(names: list[str]) -> dict[str, str]:
    """Which of diffusers and wan these bare names belong to: each layout with a name that only it
    has."""
    found = {
        DIFFUSERS: [name for name in names if to_wan(name) and not from_wan(name)],
        WAN: [name for name in names if from_wan(name) and not to_wan(name)],
    }
    return {layout: only[0] for layout, only in found.items() if only}


def lora_place(key: str) -> tuple[str, str] | None:
    """Module and role of a LoRA tensor, the module's name bare; None for any other.

    Roles: down and up (factors), alpha, bias (of the upper factor, scaled as the product is), and
    what is added as it is: diff (to the weight), diff_b (to the bias), diff_m (to the modulation
    table of a block or of the head).
    """
    found = LORA.fullmatch(bare(key))
    if not found:
        return None
    if found["plain"]:
        return found["module"], found["plain"]
    down = found["factor"] in ("A", "down")
    if found["leaf"] == "bias":
        return None if down else (found["module"], "bias")
    return found["module"], "down" if down else "up"


def is_text(key: str) -> bool:
    """Whether a LoRA tensor is one of a text encoder's."""
    return TEXT.match(key) is not None


def module_named(name: str) -> str | None:
    """Our name of a module in any naming: diffusers', the original, or either with its dots as
    underscores (kohya)."""
    if to_wan(name):
        return name
    return from_wan(name) or _flat(name)


def _flat(name: str) -> str | None:
    place = FLAT.fullmatch(name)
    if place is None:
        return None
    if place["block"] is None:
        return FLAT_TOP.get(place["module"])
    module = FLAT_BLOCK.get(place["module"])
    return module and f"blocks.{int(place['block'])}.{module}"


def is_table(module: str) -> bool:
    """Whether a module of ours is a parameter itself, a modulation table."""
    return module.rpartition(".")[2] == "scale_shift_table"


def _translate(name: str, top: dict[str, str], block: dict[str, str]) -> str | None:
    place = PLACE.fullmatch(name)
    if place is None:
        return None
    module = (block if place["block"] else top).get(place["module"])
    table = place["module"] in ("modulation", "head.modulation", "scale_shift_table")
    if module is None or (table and place["leaf"]):  # tables are parameters themselves
        return None
    return f"{place['block'] or ''}{module}{place['leaf'] or ''}"
