"""A docstring's tables and drawings on the API pages: paragraphs whose columns are aligned by
spaces are shown as they stand in the source."""

import re

from griffe import Extension

ALIGNED = re.compile(r"\S {2,}\S")


def shown(text: str) -> str:
    """Return a docstring whose aligned paragraphs are indented, which is Markdown for code."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(indented(one) if ALIGNED.search(one) else one for one in paragraphs)


def indented(paragraph: str) -> str:
    """Return a paragraph indented by four spaces, unless it is already."""
    lines = paragraph.split("\n")
    already = all(line.startswith("    ") for line in lines if line)
    return paragraph if already else "\n".join(f"    {line}" for line in lines)


class Docstrings(Extension):
    """Changes every docstring once it is collected."""

    def on_instance(self, *, obj, **kwargs) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = shown(obj.docstring.value)
