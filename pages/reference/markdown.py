"""Tables and words in Markdown as code hosts and the site's generator both read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

NOTE: Final = "<!-- Made from the code by `python -m pages.reference`. Change the code, not this page. -->"


def line(text: str) -> str:
    """In one line, that ends no cell. reStructuredText's double backquotes are Markdown's single ones."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip().replace("|", "\\|")


def cell(text: str) -> str:
    """Words with code in them; ``<name>`` outside of code is no tag."""
    parts = line(text).split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def code(text: str) -> str:
    return f"`{line(text)}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def prose(text: str) -> str:
    """A docstring as paragraphs, each in one line."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(cell(each).replace("\\|", "|") for each in paragraphs)


def page(title: str, introduction: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, introduction, *(part for part in parts if part)]) + "\n"
