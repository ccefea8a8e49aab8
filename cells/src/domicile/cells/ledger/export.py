"""A ledger, or the end of one, as a file: JSON lines that are checked without asking anybody.

First ``{"ledger": ...}``, which ledger it is, from which line on, and the edge of the tree before it; then a
``{"head": ...}`` for each signed head, with who held it; then each line as it was kept, byte for byte, in
``{"line": ...}``. A file of heads alone is what another jurisdiction gives to compare with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from domicile.model import InvalidInput
from domicile.model.crossings import MAX_LINE_BYTES
from domicile.model.ids import CellName, JurisdictionName, Name
from domicile.model.ledger_wire import Hash, SignedHead

_BEGIN: Final = b'{"line":'
_END: Final = b"}\n"
_HEAD: Final = b'{"head":'
_MOST: Final = 65536


class Place(BaseModel):
    """Which ledger; ``first``: the place of the export's first line. ``frontier``: of the whole subtrees before it."""

    model_config = ConfigDict(frozen=True)

    deployment: Name
    jurisdiction: JurisdictionName
    cell: CellName
    log: UUID
    first: int
    frontier: list[Hash]


class _Opening(BaseModel):
    ledger: Place


class KeptHead(BaseModel):
    """``by``: who held it: the cell itself, or another."""

    model_config = ConfigDict(frozen=True)

    by: CellName
    head: SignedHead


class _HeadEntry(BaseModel):
    head: KeptHead


@dataclass(frozen=True, slots=True)
class Export:
    """``lines`` can be gone through once."""

    place: Place
    heads: list[KeptHead]
    lines: Iterable[bytes]


def write(export: Export, stream: IO[bytes]) -> int:
    """How many lines that were."""
    stream.write(_Opening(ledger=export.place).model_dump_json().encode() + b"\n")
    write_heads(export.heads, stream)
    count = 0
    for line in export.lines:
        stream.write(_BEGIN + line + _END)
        count += 1
    return count


def write_heads(heads: Iterable[KeptHead], stream: IO[bytes]) -> None:
    for head in heads:
        stream.write(_HeadEntry(head=head).model_dump_json().encode() + b"\n")


def _read_head(text: bytes, where: str) -> KeptHead:
    try:
        return _HeadEntry.model_validate_json(text).head
    except ValidationError:
        raise InvalidInput("not a signed head", where=where, remedy="export it again") from None


def read_heads(stream: IO[bytes], where: str) -> list[KeptHead]:
    """Of a file of heads, or of an export. Raises InvalidInput."""
    found = [_read_head(text, where) for text in _entries(stream, where) if text.startswith(_HEAD)]
    if not found:
        raise InvalidInput("holds no signed head", where=where, remedy="make it by `domicile audit heads --out`")
    return found


def _entries(stream: IO[bytes], where: str) -> Iterator[bytes]:
    while text := stream.readline(_MOST):
        if not text.endswith(b"\n"):
            raise InvalidInput("is cut off, or holds a line that is too long", where=where, remedy="export it again")
        yield text


def read(stream: IO[bytes], where: str) -> Export:
    """An export; its lines are read as they are gone through. Raises InvalidInput, then too."""
    entries = _entries(stream, where)
    try:
        place = _Opening.model_validate_json(next(entries, b"")).ledger
    except ValidationError:
        raise InvalidInput("not an export of a ledger", where=where, remedy="see `domicile audit export`") from None
    heads: list[KeptHead] = []
    first = b""
    for text in entries:
        if not text.startswith(_HEAD):
            first = text
            break
        heads.append(_read_head(text, where))

    def lines() -> Iterator[bytes]:
        if first:
            yield _line(first, where)
            for text in entries:
                yield _line(text, where)

    return Export(place, heads, lines())


def _line(text: bytes, where: str) -> bytes:
    if not (text.startswith(_BEGIN) and text.endswith(_END)) or len(text) > MAX_LINE_BYTES + 100:
        raise InvalidInput("holds something that is no line of a ledger", where=where, remedy="export it again")
    return text[len(_BEGIN) : -len(_END)]
