"""What `python benchmarks/gpu.py` runs: one GPU checked, measured and put to work in one sitting.

sections      which sections there are, their expected seconds, limits and order of worth
schedule      which of them fit into the minutes
sitting       runs them, each a process of its own, and writes results after each
one           what such a process runs
record        rows of results, written one by one
sizes         the sizes that are measured, and the tiny ones of a rehearsal
machine       the device, its driver and the code's revision;  processes: groups of them

ceilings      what the card can do
films         films on the CPU against films on the GPU, and every way of making one
kernels       attention kernels with and without masks, numbers in eight bits
parity        diffusers' transformer and VAE against ours, streamed decoding
speed         chunks at the papers' size;  options, large, first_frame: more of the same
official      Self-Forcing's own model, in turns with ours
noise         the same seed twice and against exact, per mode
profiling     the kernels of a chunk
marked_tests  the tests marked gpu

jobs          the files of the training queue;  training: runs them;  toy_films: renders their films
predictions   the ledger's figures (ledger_figures);  summary, archive: what comes back
"""
