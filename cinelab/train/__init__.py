"""The stages of the training, each a file that reads like its algorithm box.

bidirectional     stage 0: the bidirectional backbone
teacher_forcing   stage 1: the autoregressive teacher, on [clean | noisy]
ode, pairs        stage 2a: causal ODE initialisation, and the teacher's trajectories
true_past         a bidirectional teacher that is given the true past, a control of stage 2a
consistency       stage 2b: causal consistency distillation
dmd               stage 3: distribution matching on the student's own roll-outs
forward_process   fine-tuning by rewards of the student's own clips
rewards           what a reward is, and how a loss takes it in
gan               the adversarial head of stage 3, on the critic's features
moved, precision  the share of the weights that move; what half precision would hide
stage             `Stage`: what a stage is, and how one of your own is registered
loop, optim       `Learner`, `train`; AdamW, learning rate, `Ema`
losses, levels    losses by name; who draws a noise level of its own
shown             what a policy is given of each latent frame: its shot, or what it shows
presets, sizes    the settings by name, and the numbers that several stages share
codec             the toybox's codec;   recogniser   the reader behind its metrics
"""
