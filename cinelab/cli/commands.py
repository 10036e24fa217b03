"""The command line `cinelab`: its commands, and how each of them ends.

Every command is a function `<name>_command` in a module of this package; `COMMANDS` is their order
in the help. Whatever ends a command is one sentence and an exit code (`options.EXIT_CODES`).
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cinelab.cli import (
    data,
    evaluation,
    films,
    ledger,
    machine,
    notebooks,
    plan,
    recipe,
    results,
    speed,
    sweeps,
    train,
    weights,
)
from cinelab.cli.options import EXIT_CODES, on_device
from cinelab.errors import CinelabError, brief, reason
from cinelab.files import REMEDIES
from cinelab.limits import shown_path
from cinelab.optional import missing_extra
from cinelab.printing import err, say, speakable
from cinelab.registry import IMPORT, import_named
from cinelab.texts import HALF_PAIR, check_name

COMMANDS: dict[str, Callable] = {
    "film": films.film_command,
    "direct": films.direct_command,
    "score": results.score_command,
    "compare": results.compare_command,
    "sweep": sweeps.sweep_command,
    "bench": speed.bench_command,
    "race": speed.race_command,
    "ledger": ledger.ledger_command,
    "results": results.results_command,
    "report": results.report_command,
    "demo": films.demo_command,
    "lab": notebooks.lab_command,
    "doctor": machine.doctor_command,
    "train": train.train_command,
    "clips": train.clips_command,
    "recipe": recipe.recipe_command,
    "adopt": recipe.adopt_command,
    "plan": plan.plan_command,
    "convert": weights.convert_command,
}

# those that take --device
COMPUTING = {
    *(
        "film",
        "direct",
        "demo",
        "lab",
        "score",
        "sweep",
        "bench",
        "race",
        "train",
        "clips",
        "recipe",
    ),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Train, dissect and direct real-time autoregressive multi-shot video models.",
)
app.add_typer(evaluation.app, name="eval")
app.add_typer(data.app, name="data")
for name, command in COMMANDS.items():
    app.command(name)(on_device(command) if name in COMPUTING else command)


def _flowing(text: str | None) -> str:
    """Return a docstring with every paragraph on one line: typer keeps line breaks in the list of
    commands, which shows the first paragraph."""
    paragraphs = (text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for registered in (
    *app.registered_commands,
    *evaluation.app.registered_commands,
    *data.app.registered_commands,
):
    registered.help = _flowing(registered.callback.__doc__)

Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        help="a module of your own whose policies, metrics, stages, losses, solvers, codecs and "
        "backbones become known by name; repeat for more",
    ),
]


@app.callback()
def import_modules(modules: Modules = None):
    """Train, dissect and direct real-time autoregressive multi-shot video models."""
    if modules:
        os.environ[IMPORT] = ",".join([*filter(None, [os.environ.get(IMPORT)]), *modules])
        import_named()  # a mistake in a module is reported before any work is done


def run_command() -> None:
    """Run the command of this process, and exit with its code."""
    speakable()
    warnings.showwarning = _show_warning
    sys.exit(exit_code(lambda: app(standalone_mode=False)))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(("Note: ", "yellow"), str(message), to=err)


def exit_code(run: Callable[[], int | None]) -> int:
    """Run a command. Return its exit code, with one sentence on stderr where it was refused."""
    try:
        _check_surroundings()
        code = run() or 0
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except CinelabError as error:
        return _refuse(str(error), error.code)
    except (KeyboardInterrupt, typer.Abort):
        return _refuse("stopped by Ctrl-C; what was finished stays", 130)
    except ModuleNotFoundError as error:
        if sentence := missing_extra(error):
            return _refuse(sentence, 2)
        raise
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        return _refuse(_system_sentence(error), 1)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        return _refuse_usage(error)


def _refuse(sentence: str, code: int) -> int:
    say(("Error: ", "red"), " ".join(brief(sentence).splitlines()), to=err)
    return code


def _is_usage_error(error: Exception) -> bool:
    """Whether click refused the words of a command; typer may bring a click of its own."""
    return isinstance(error, typer.BadParameter.__bases__[0])


def _refuse_usage(error: Any) -> int:
    """Say what is wrong with the words of a command; without any word, show its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    sentence = error.format_message().strip().rstrip(".")
    context = error.ctx
    where = f"; see `{context.command_path} --help`" if context else ""
    return _refuse(f"{sentence}{where}.", 2)


def _check_surroundings() -> None:
    """Refuse a working folder that is gone, in which torch would end the process, and words that
    are not UTF-8, which fit into no table."""
    try:
        here = os.getcwd()
    except OSError as error:
        raise CinelabError(
            "The folder that you are in is not there any more; change to another one."
        ) from error
    check_name(here)
    odd = [word for word in sys.argv[1:] if HALF_PAIR.search(word)]
    if odd:
        raise CinelabError(
            f"{shown_path(odd[0])} on the command line is not UTF-8; type it again, or rename the "
            "file."
        )


def _system_sentence(error: OSError) -> str:
    """Word a refusal of the system that nothing else has worded."""
    number = error.errno or 0
    if error.filename is None:  # of a stream, as of a file that is open
        remedy = REMEDIES.get(number, "send it somewhere else")
        return f"Output cannot be written ({reason(error)}); {remedy}."
    remedy = REMEDIES.get(number, "check its permissions and the free space")
    return f"{error.filename}: {reason(error)}; {remedy}."
