"""The pages as tests read them: their blocks, headings and links, by the parser that rich uses too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[3]
DOCS: Final = ROOT / "docs"
_MARKDOWN: Final = MarkdownIt("commonmark").enable("table")


def pages() -> list[Path]:
    """Every page that a reader is sent to, those of the reference and of the repository's root too."""
    return [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()


@cache
def _tokens(page: Path) -> list[Token]:
    return _MARKDOWN.parse(page.read_text())


def blocks(page: Path, language: str = "sh") -> list[str]:
    """Fenced blocks, indented ones too, as a reader copies them."""
    return [each.content for each in _tokens(page) if each.type == "fence" and each.info.strip() == language]


@cache
def anchors(page: Path) -> set[str]:
    """Of headings, as code hosts and the site's generator make them of words like ours."""
    found: dict[str, int] = {}
    tokens = _tokens(page)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(each.content for each in inline.children or [] if each.type in ("text", "code_inline"))
            slug = re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", words).strip().lower())
            found[slug] = found.get(slug, 0) + 1
    return {f"{slug}-{n}" if n else slug for slug, count in found.items() for n in range(count)}


def links(page: Path) -> Iterator[str]:
    for token in _tokens(page):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield str(target)
