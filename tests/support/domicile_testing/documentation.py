"""The pages as tests read them: their blocks, headings and links, by the parser that rich uses too; and run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from domicile_testing.worlds import clean_environment

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


class Shell:
    """bash in a folder, with the programs of this environment, as a reader of pages has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = clean_environment() | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        }

    def __call__(self, script: str, *, seconds: float = 150) -> str:
        """What it prints; it ends at the first command that fails, and that is an AssertionError."""
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def page(self, name: str, number: int, places: Mapping[str, str] | None = None) -> str:
        """A block as it stands there, but for the places that a reader puts his own for."""
        script = blocks(DOCS / name)[number]
        for theirs, ours in (places or {}).items():
            assert theirs in script, f"{name}: {theirs}"
            script = script.replace(theirs, ours)
        return self(script)
