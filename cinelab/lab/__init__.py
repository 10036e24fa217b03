"""The workbench: what notebooks and the command line call.

training     a stage set up by preset, watched and exported
recipe       everything trained from nothing, step by step; what came back is adopted
sweeps       a notebook over a grid of settings, resumable
desk         directing live, and the memory inspector
reports      tables, figures and verdicts of what was measured
studies      memory, initialisation, injectivity, whole films
inputs       a notebook's inputs, checked before any work is done
doctor       what this machine has, and what is missing for which feature
"""
