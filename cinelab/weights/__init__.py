"""Published weights: their layouts, reading, converting, adapters and merges.

layouts   names of Wan2.1's tensors: diffusers', the original repository's, the Forcings'
sources   `open_source`: a file or a folder of shards, read lazily
load      `open_weights`, `load_into`: into our transformer, with a report of what fits
convert   `convert_weights`: any layout into any other
lora      `read_lora`: published adapters, and their merge
"""
