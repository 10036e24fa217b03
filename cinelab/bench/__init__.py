"""Speed: frames per second, latency, memory.

speed         what a chunk costs in the toybox, and whether that grows with the film
noise         how far films of a fast way are from exact ones
wan_speed     the same at the papers' size, with random weights
true_size     the same on meta tensors, counted for the ledger
training_size a training step of the toybox, counted likewise
wan_options   what each option for speed or memory does to a chunk
"""
