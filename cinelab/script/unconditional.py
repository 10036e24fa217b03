"""The prompt that guidance compares with: u of u + w (c - u), given as a text or by name.

The toybox compares with the empty prompt. Wan2.1 and the models distilled from it compare with one
long negative prompt (`sample_neg_prompt` of Wan2.1's shared_config, `negative_prompt` of Self
Forcing's and Causal Forcing's configurations).
"""

NAME = "published"  # what a setting says for that negative prompt
PUBLISHED = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最"
    "差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不"
    "好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条"
    "腿，背景人很多，倒着走"
)


def unconditional_text(unconditional: str) -> str:
    """Return the prompt that a setting `unconditional` names: "published", or else the text itself.

    "" is the empty prompt.
    """
    return PUBLISHED if unconditional == NAME else unconditional
