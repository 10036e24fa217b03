"""The studies: memory, initialisation, injectivity, rewards, whole films.

memory_cell, memory_study      one memory policy; all of a sweep, with the claims
initialisation_cell, _study    one start of DMD under one seed; all of a sweep, with the claims
initialisation_starts          stage 2: what each start is trained with
initialisation_costs           what the starts cost
initialisation_course          what each start has after so many updates of DMD
teachers, teacher_given_past   whose pairs; a bidirectional teacher that is given the true past
injectivity                    what a frame's end point depends on; its claims, figures, students
reward_cell, reward_study       what exact rewards do to a student
framing_cell, framing_study     what DMD's adversarial head does to where figures stand
film_cell, evaluation, tasks   films of a model; any videos; the benchmark as files
"""
