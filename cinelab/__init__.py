"""cinelab: train, dissect and direct real-time autoregressive multi-shot video models.

    from cinelab import CAMR, Director, Screenplay, load

    director = Director(load("toybox-base"), policy=CAMR(budget=6), seed=7)
    film = director.render(Screenplay.load("film.yaml"))
    film.save("results/my_film")

The rooms, down the columns; each imports only from those before it, and `help(cinelab.memory)`
lists what one holds:

    script    screenplays, timelines, prompts       scale     many GPUs, long histories, speed
    world     the toybox                            zoo       models by name or folder
    ops       attention, rotary positions           jobs      a training as one file
    flow      path, levels, solvers, the roll-out   stream    films and sessions
    latent    codecs, and stores of clips           metrics   what a film is worth
    memory    KV cache, policies, contexts          bench     speed
    model     the network                           data      videos to training clips
    train     the stages of the training            lab       notebooks, reports, the desk
    weights   published weights                     cli       the command line
"""

from importlib import import_module

from cinelab import renamed, threads

threads.set_threads()  # before anything here imports torch, which reads it once
renamed.install()

_HOMES = {
    "CinelabError": "cinelab.errors",
    "register": "cinelab.registry",
    "Screenplay": "cinelab.script.screenplay",
    "Shot": "cinelab.script.screenplay",
    "PromptChange": "cinelab.script.screenplay",
    "Policy": "cinelab.memory.policy",
    "CAMR": "cinelab.memory.policy",
    "Full": "cinelab.memory.policy",
    "Window": "cinelab.memory.policy",
    "Sink": "cinelab.memory.policy",
    "ShotSink": "cinelab.memory.policy",
    "RandomTopK": "cinelab.memory.policy",
    "Sampling": "cinelab.flow.sampler",
    "load": "cinelab.zoo.checkpoints",
    "Director": "cinelab.stream.director",
    "Film": "cinelab.stream.director",
}
__all__ = sorted(_HOMES)
__version__ = "0.2.0"


def __getattr__(name: str):
    """Import a public name when it is first used, so that `import cinelab` takes no time."""
    if name not in _HOMES:
        raise AttributeError(f"cinelab has no {name!r}; public are {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
