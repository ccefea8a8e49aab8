"""Tickets: how a background job names a subject's home. They hold a subject key, which may leave a cell."""

from __future__ import annotations

import re
from typing import Final

from domicile.model.errors import InvalidInput
from domicile.model.ids import SubjectKey

_SHAPE: Final = re.compile(r"domicile1\.([a-z][a-z0-9-]{0,14})\.([a-z][a-z0-9-]{0,31})\.([0-9a-f]{34})", re.ASCII)


def ticket_of(key: SubjectKey, jurisdiction: str, cell: str) -> str:
    """Jurisdiction and cell let a queue be sorted by place; where the home is by then, the directory says."""
    return f"domicile1.{jurisdiction}.{cell}.{key}"


def key_of(ticket: str) -> SubjectKey:
    """Raises InvalidInput for what is no ticket."""
    match = _SHAPE.fullmatch(ticket)
    if match is None:
        raise InvalidInput("not a ticket", remedy="home.ticket() makes one")
    return SubjectKey.parse(match[3])
