"""Tensor operations that know no model: attention, rotary positions, tiles of a mask.

attention   `attention`, `use_kernel`: one switch for SDPA, FlashAttention, cuDNN and Flex;
            `AttentionContext`: what the network asks to attend for it
eight_bit_attention   attention with queries and keys in eight bits, by packages
compiling   `Compiled`: a function that torch compiles, or one sentence why it cannot
rope        `Rope`: Wan2.1's rotary positions in time and space; stored keys move in time
tiling      `ChunkMask`: attention under a mask of chunks, tile by tile
tensors     `gather_pages`, `repeat_batch`, `to_device`
"""
