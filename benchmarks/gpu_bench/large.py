"""The larger model: all of it where the plan says that it fits, else some layers, scaled up."""

from dataclasses import replace

from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speed import chunk
from cinelab.bench.wan_speed import Maker
from cinelab.errors import CinelabError
from cinelab.zoo.footprint import require_room


def run(task: Task) -> None:
    """Record a chunk of each policy, and the plan's sentence where it does not fit."""
    bench = task.sizes.large
    history = bench.history[0]
    try:
        for policy in bench.policies:
            need = bench.need(history + bench.repeats + 1, policy)
            require_room(need, bench.model, task.device)
    except CinelabError as error:
        task.rows.note(f"{bench.model}, {history} before", None, error=str(error), refused=True)
        bench = replace(bench, layers=max(1, bench.config.num_layers // 4))
    maker = Maker.of(bench, task.device)
    for policy in bench.policies:
        chunk(task, maker, policy, history)
