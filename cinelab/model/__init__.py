"""The network: Wan2.1's video transformer as a function of named tensors.

wan        `CausalWan`, net(x, t, condition, context) -> velocity; `WanConfig`, `WAN_1_3B`,
           `WAN_14B`
backbone   `BACKBONES`: networks of your own, by the name in a checkpoint's config.json
"""
