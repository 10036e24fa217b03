"""Notebooks under their earlier names: a sweep file or a command that names one is answered with
the name of today, and a result that one made still counts as done."""

from pathlib import Path

NOTEBOOKS = {
    "03_your_own": "03_extend",
    "06_video_data": "04_video_data",
    "08_codec": "10_codec",
    "07_recogniser": "11_recogniser",
    "09_bidirectional": "12_bidirectional",
    "10_teacher_forcing": "13_teacher_forcing",
    "11_causal_ode": "14_causal_ode",
    "12_consistency": "15_consistency",
    "13_dmd": "16_dmd",
    "bench_wan": "53_bench_wan",
    "32_evaluate": "60_evaluate",
    "50_report": "61_report",
}


def current(name: str) -> str:
    """The file name that a notebook has now, given the one it had."""
    path = Path(str(name))
    return NOTEBOOKS.get(path.stem, path.stem) + path.suffix


def remedy(path: str | Path, otherwise: str) -> str:
    """What to do about a notebook that is not there: its name of today, or `otherwise`."""
    name = Path(path).name
    return otherwise if current(name) == name else f"it is called {current(name)} now"
