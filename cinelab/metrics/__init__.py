"""What a film is worth: each metric with its interval, chance and upper bound.

metric       `Metric`, `METRICS`: what a metric is, and how one of your own is registered
catalogue    every built-in metric, stated once
rows         `Row`: what every evaluation writes
card         `measure_card`: a model's metrics under one protocol
memory_card  `memory_card`: the five boxes that a claim of memory passes, or does not
stats        `Estimate`, `bootstrap`, `paired_difference`: 95 % intervals
toybox       recall, binding and cuts against a film's exact plan
video        metrics of any video: cuts, motion, appearance, consistency across shots
external     VBench and VisionReward, each from an environment of its own
"""
