"""Speed: frames per second, latency, memory.

speed         what a chunk costs in the toybox, and whether that grows with the film
noise         how far films of a fast way are from exact ones
wan_speed     the same at the papers' size, with random weights
wan_options   what each option for speed or memory does to a chunk
"""
