"""What the HTML pages share: templates, data in scripts, data addresses, a light and a dark
palette."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from cinelab.files import plain_json

HERE = Path(__file__).parent
STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --quiet: #5d6675; --line: #dde1e8; --accent: #0068a3; --soft: #f4f6fa;
  --paper: #ffffff; --grid: #e6e9ee; --good: #16794c; --warn: #b3261e; --warn-soft: #fdf3f2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --quiet: #9aa3b2; --line: #333a46; --accent: #5eb5ec;
  --soft: #1d2129; --paper: #14171c; --grid: #2c323c; --good: #5fcf9b; --warn: #ff8f86; --warn-soft: #2c1a1a; } }
@media print { :root { color-scheme: light; --ink: #1d2433; --quiet: #5d6675; --line: #dde1e8; --accent: #0068a3; --soft: #f4f6fa;
  --paper: #ffffff; --grid: #e6e9ee; } }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 Inter, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink); background: var(--paper); }
"""


def filled_template(template: str, **values: Any) -> str:
    """The text of a page: one of the templates beside this file, with every value escaped."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.from_string((HERE / template).read_text(encoding="utf-8")).render(
        style=STYLE, **values
    )


def safe_json(value: Any) -> str:
    """JSON that may stand inside a script element; what is not a number is null."""
    return json.dumps(plain_json(value), default=str, allow_nan=False).replace("</", "<\\/")


def jpeg_uri(picture: Image.Image, quality: int = 70) -> str:
    """A picture as JPEG, as a data address."""
    with BytesIO() as buffer:
        picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
