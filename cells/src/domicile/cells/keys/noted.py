"""Whose keys are destroyed, on this process's own disk: the one memory that a restore of the key store leaves alone.

A line is there, and will be after a loss of power, before the key goes. It is kept for as long as a backup may live
that still has the key, and not for ever: what is older is left out when the file is written anew, whole or not at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from pydantic import Field

from domicile.identity import sync_folder, write_private
from domicile.model import InvalidInput, Unavailable
from domicile.model.key_wire import ShredRequest

SLACK_SECONDS: Final = 86_400
"""Kept for a day longer, since a backup's end is an hour of somebody's night."""


class Noted(ShredRequest):
    """``at``: when it was noted; ``until``: when the last backup with the key is to have expired. Seconds since 1970.

    Both are 0 of a line that an older program wrote.
    """

    at: int = Field(default=0, ge=0)
    until: int = Field(default=0, ge=0)


class Kept(NamedTuple):
    """What a file is to hold, and whether that is less, or more, than it does."""

    lines: list[Noted]
    changed: bool


def kept(lines: Iterable[Noted], now: int, seconds: int) -> Kept:
    """What a backup may still have: it lives for so many seconds, or for what was told when the line was noted. Pure.

    One line for each key, the last one. A line without a date is dated now: it is no younger.
    """
    listed = list(lines)
    last: dict[tuple[UUID, UUID | None], Noted] = {}
    for line in listed:
        dated = line if line.at else line.model_copy(update={"at": now, "until": now + seconds})
        if max(dated.until, dated.at + seconds) + SLACK_SECONDS > now:
            name = (line.subject, line.principal)
            last.pop(name, None)
            last[name] = dated
    return Kept(list(last.values()), list(last.values()) != listed)


class NotedFile:
    """One writer at a time; each method blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: Noted) -> None:
        """Durably. Raises Unavailable where that can't be: then nothing is noted."""
        try:
            self._add(line.model_dump_json(exclude={"deleted"}).encode() + b"\n")
        except OSError as error:
            raise Unavailable(f"it cannot be noted ({os.strerror(error.errno or 0)})", where=str(self._path)) from None

    def _add(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            end = _whole(descriptor)
            try:
                os.ftruncate(descriptor, end)
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, "cut short")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)  # else the next line would be a part of this one
                raise
        finally:
            os.close(descriptor)
        sync_folder(self._path.parent)

    def read(self) -> list[Noted]:
        """A last line that was cut short belongs to a shred that was never acknowledged, and is left out.

        Raises InvalidInput for a line that says nothing.
        """
        try:
            *lines, _ = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        try:
            return [Noted.model_validate_json(line) for line in lines]
        except ValueError:
            raise InvalidInput(
                "cannot be read", where=str(self._path), remedy="restore it: it tells what must stay destroyed"
            ) from None

    def replace(self, lines: Iterable[Noted]) -> None:
        """The whole file at once: whatever interrupts it, all of the old lines are there or all of the new ones."""
        text = b"".join(line.model_dump_json(exclude={"deleted"}).encode() + b"\n" for line in lines)
        try:
            write_private(self._path, text)
        except OSError as error:
            raise Unavailable(f"cannot be written ({os.strerror(error.errno or 0)})", where=str(self._path)) from None


def _whole(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    if end == 0 or os.pread(descriptor, 1, end - 1) == b"\n":
        return end
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return stream.read().rfind(b"\n") + 1
