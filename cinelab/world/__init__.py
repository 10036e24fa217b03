"""Made worlds: drawn multi-shot films whose every attribute is known exactly.

worlds          `World`, `world_named`, `world_of`: the worlds by name; a plan names its own
plans           `ShotPlan`, `FilmPlan`, `Rendered`: what any world plans and draws
wording         `Wording`: attributes as the words of a prompt, and back
toybox1         the world of 48x64 frames
"""
