"""The toybox: drawn multi-shot films whose every attribute is known exactly.

vocab           `ATTRIBUTES`, `caption`: the words of a prompt, and back
casting         `cast_film`, `FilmPlan`: which characters, places and shots make up a film
render          `render`: a film's plan to frames, with exact ground truth
actors, sets    characters and settings, drawn from primitives
draw            `Pen`: anti-aliased primitives
"""
