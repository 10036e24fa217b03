"""The flow and the roll-out: from noise to a film of latents, chunk by chunk. Knows no network.

path        x_t = (1 - t) x0 + t eps and what follows from it: `noised`, `velocity`, `clean`
sampler     `Sampling`: levels, shift, solver and guidance of a chunk
solvers     `solve`, `trajectory`: Euler, Adams-Bashforth, consistency sampling, and your own
condition   `Condition`: prompts, which of them each latent frame reads, controls
rollout     `step(model, state, requests) -> (state, chunk)`: how every chunk is made, in
            streaming, in evaluation and in training
"""
