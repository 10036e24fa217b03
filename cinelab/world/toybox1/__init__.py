"""Toybox 1: drawn multi-shot films of 48x64 frames whose every attribute is known exactly.

world           `Toybox1`: this world as the others use it
vocab           `ATTRIBUTES`, `caption`: the words of a prompt, and back
casting         `cast_film`, `absence`: which characters, places and shots make up a film
render          `render`: a film's plan to frames, with exact ground truth
actors, sets    characters and settings, drawn from primitives
draw            `Pen`: anti-aliased primitives
"""
