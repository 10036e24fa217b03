"""Toybox 2: drawn multi-shot films of 96x128 frames at 8 fps, from a world that is a state.

words     `ATTRIBUTES`, `caption`, `read_prompt`: the words of a prompt, and back
state     `State`, `advance`: a camera, figures and a place; a tick takes actions
figures   `draw_figure`: characters, drawn from primitives in a pose
sets      `panorama`: places 8 frame heights wide, with landmarks that no prompt names
drawing   `Pen`: anti-aliased primitives
casting   `cast_film`, `absence`: which characters, places and shots make up a film
filming   `draw`, `render`: a state to a frame, and a film's plan to frames with exact truth
"""
