"""The files of the desk's page, and its script as one text."""

import re
from pathlib import Path

HERE = Path(__file__).parent
# in an order in which each module imports only from those before it
SCRIPTS = (
    "dom.js",
    "screen.js",
    "prompt.js",
    "timeline.js",
    "memory_strip.js",
    "keys.js",
    "controls.js",
    "desk.js",
)
STYLE = "desk.css"
IMPORT = re.compile(r'^import .* from "\./\w+\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)


def bundled_script() -> str:
    """Join the modules of the page into one: a widget's script is a single text, which can import
    no file beside it."""
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return EXPORT.sub("", IMPORT.sub("", text))


def style() -> str:
    """Return the style sheet of the desk."""
    return (HERE / STYLE).read_text(encoding="utf-8")
