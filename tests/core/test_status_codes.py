"""The written policy of status codes says what the error tree does, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from domicile.model import DomicileError
from domicile.model import errors as tree

PAGE = Path(__file__).parents[2] / "docs" / "status-codes.md"
ROW = re.compile(r"\| `([a-z-]+)` \| ([0-9]{3}) \| `([A-Za-z]+)` \| .+ \|")


def classes(root: type[DomicileError]) -> dict[str, tuple[str, int]]:
    found = {root.__name__: (root.code, int(root.status))}
    for child in root.__subclasses__():
        if child.__module__ == tree.__name__:
            found |= classes(child)
    return found


def test_each_class_has_its_row_and_each_row_its_class() -> None:
    rows = [match.groups() for match in map(ROW.fullmatch, PAGE.read_text().splitlines()) if match]
    assert len({name for _, _, name in rows}) == len(rows)
    assert {name: (code, int(status)) for code, status, name in rows} == classes(DomicileError)


@pytest.mark.parametrize("name", sorted(classes(DomicileError)))
def test_the_tree_that_is_drawn_names_each_class(name: str) -> None:
    assert re.search(rf"\b{name}\b", tree.__doc__ or "")
