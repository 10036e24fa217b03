"""Frames to latents and back, and the stores that training draws its clips from.

codec                  `Codec`: what every codec does; `ToyCodec`, the toybox's
codecs                 codecs by name
wan_codec, taehv       Wan2.1's video autoencoder; a tiny decoder for live video
store                  `Store`, `Clips`: encoded toybox films, drawn as batches of clips
shards, mixed          latents read from disk clip by clip; clips of several stores
clips                  `FilmStore`: encoded videos of many lengths, on disk
checkpoint             weights into modules, checked before anything is filled
"""
