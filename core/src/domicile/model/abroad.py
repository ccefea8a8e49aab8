"""What is asked of a subject's rows from another jurisdiction, as it travels in a query string.

A parameter that is named as a column is a value that the column equals; ``seats.at_least`` and the like bound it. How
many rows, in which order and after which ones has names with a dot as well, which no column has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from domicile.model.errors import InvalidInput
from domicile.model.wire import MAX_CONDITIONS

BOUNDS: Final = ("at_least", "above", "at_most", "below")
MAX_ABROAD: Final = 100
"""Rows that cross at once."""
MAX_VALUE_BYTES: Final = 256
MAX_CURSOR: Final = 8_192
SIZE, ORDER, AFTER = "page.size", "page.order", "page.after"
_CONDITION: Final = re.compile(rf"[a-z][a-z0-9_]{{0,62}}(\.({'|'.join(BOUNDS)}))?")
_ORDER: Final = re.compile(r"-?[a-z][a-z0-9_]{0,62}")
_SIZE: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AbroadQuery:
    """``conditions``: values as text, by ``column`` or ``column.bound``. ``order_by``: a column, with ``-`` before it
    for the last first; the rows' ids without one. ``after``: ``next`` of the page before."""

    conditions: Mapping[str, str] = field(default_factory=dict, repr=False)
    size: int = MAX_ABROAD
    order_by: str | None = None
    after: str | None = None

    def spelled(self) -> dict[str, str]:
        """As query parameters."""
        page = {ORDER: self.order_by, AFTER: self.after}
        return {**self.conditions, SIZE: str(self.size), **{name: value for name, value in page.items() if value}}

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> AbroadQuery:
        """What ``spelled`` wrote, or somebody else; raises InvalidInput that quotes nothing of it."""
        conditions = dict(query.items())
        if len(conditions) != len(query):
            raise InvalidInput("a parameter that is given twice")
        size, order_by, after = (conditions.pop(name, None) for name in (SIZE, ORDER, AFTER))
        if size is not None and (not _SIZE.fullmatch(size) or int(size) > MAX_ABROAD):
            raise InvalidInput(f"{SIZE} is a number from 1 to {MAX_ABROAD}")
        if order_by is not None and not _ORDER.fullmatch(order_by):
            raise InvalidInput(f"{ORDER} is a column, with - before it for the last first")
        if after is not None and len(after) > MAX_CURSOR:
            raise InvalidInput(f"{AFTER} is {MAX_CURSOR} characters at most")
        if len(conditions) > MAX_CONDITIONS:
            raise InvalidInput(f"at most {MAX_CONDITIONS} conditions")
        if not all(map(_CONDITION.fullmatch, conditions)):
            raise InvalidInput(
                "a condition whose name is no column's", remedy=f"column, or column.{'|'.join(BOUNDS)} for a range"
            )
        if any(len(value.encode()) > MAX_VALUE_BYTES or "\0" in value for value in conditions.values()):
            raise InvalidInput(f"a condition's value has at most {MAX_VALUE_BYTES} bytes and no NUL")
        return cls(conditions, MAX_ABROAD if size is None else int(size), order_by, after)
