"""From a running model to something one can watch: films, directed or from a screenplay.

director    `Director`, `Film`: a screenplay in, a film out
generator   `ChunkGenerator`, `FilmState`: one film, everything changeable between two chunks
batch       timelines to latents to frames, for one film or several side by side
session     `Session`: a film that is made while it is directed; every take can be replayed
resume      the chunks of a film in the making on disk, from which it goes on
whatif      `what_if`: the last shot under another memory, on the same noise
video       `write_mp4`, `read_video`: frames are uint8 (F, H, W, 3) RGB
storyboard  one card a shot;   display   a film in a notebook or a terminal
"""
