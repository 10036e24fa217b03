"""The whole training from nothing, a file a step, and what came back from elsewhere.

steps       `RecipeStep`, `read_recipe`: the files
running     `run_recipe`: every step that is not done, in order
records     what each step was made with, and of what: its lineage
returned    what a folder from another machine holds
checking    whether it can take the place of a shipped checkpoint
comparing   it and the shipped one on the same films
adopt       `adopt`: trained weights from another machine, checked, scored, compared, installed
"""
