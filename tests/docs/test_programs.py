"""Each command on each page is one that its program takes, with its options: also those that no test runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

from domicile_testing.documentation import ROOT, blocks, name_of, pages
from pages.reference.programs import PROGRAMS, application
from typer.main import get_command

MAKEFILE = (ROOT / "Makefile").read_text()


def statements(block: str) -> Iterator[list[str]]:
    """Of a shell block, the commands of our own, also behind ``until``, in a pipe, or with a variable before them."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:\||&&|;|&)(?:\s|$)|; (?:do|done)\b", line):
            words = shlex.split(part, comments=True)
            while words and (words[0] in ("until", "while", "slot", "!") or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[1:]
            if words and words[0] in (*PROGRAMS, "make"):
                yield [word for word in words if word != ">" and not word.startswith(">")]


def all_of_them() -> list[tuple[str, list[str]]]:
    """Of blocks for a shell, and of plain ones, where commands stand beside what they print."""
    return [
        (name_of(page), words)
        for page in pages()
        if not name_of(page).startswith("reference/")
        for language in ("sh", "")
        for block in blocks(page, language)
        for words in statements(
            block if language else "\n".join(x for x in block.splitlines() if x.startswith("domicile "))
        )
    ]


@cache
def program(name: str) -> Any:
    return get_command(application(name))


def refusal(words: list[str]) -> str | None:
    """Why a program would not begin it; nothing is run."""
    command = program(words[0])
    name, rest = words[0], words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return f"{name} has no command {rest[:1]}"
        name, command, rest = f"{name} {rest[0]}", command.commands[rest[0]], rest[1:]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    given = [word.partition("=")[0] for word in rest if word.startswith("-") and len(word) > 1]
    strange = [option for option in given if option not in known and option != "--help"]
    return f"{name} has no {strange}" if strange else None


def test_its_program_takes_it() -> None:
    refused = []
    for page, words in all_of_them():
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            if not all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets):
                refused.append(f"{page}: {' '.join(words)}")
        elif reason := refusal(words):
            refused.append(f"{page}: {reason}")
    assert refused == []


def test_one_that_is_not_there_is_seen() -> None:
    assert refusal(["domicile", "rehearse"]) is not None
    assert refusal(["domicile", "drill", "--gently"]) is not None
    assert refusal(["domicile", "pin", "pepper", "list", "--json"]) is None
    assert list(statements("until domicile pin reconcile; do sleep 5; done")) == [["domicile", "pin", "reconcile"]]
    assert len(all_of_them()) > 60
