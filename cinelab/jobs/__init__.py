"""A training as one file, on one process or on many.

job        `Job`, `load_job`: the file, YAML or JSON
worker     what torchrun starts: one process of the training
networks   the networks of a job: built, sharded, filled
stores     what a job draws from: clips of a store, or ODE pairs
"""
