"""Base backups and log of one database in its target: found, written and read, sealed on the way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import ValidationError

from domicile.model.errors import Conflict, InvalidInput, NotFound
from domicile.model.wire import BackupKey
from domicile.ops.backup.catalog import (
    HISTORY,
    PARTIAL,
    SEGMENT,
    SEGMENT_BYTES,
    Base,
    Line,
    base_name,
    folder_of,
    line_from,
    lines_of,
    log_of,
    needless,
    timeline_of,
)
from domicile.ops.backup.keys import Keyring
from domicile.ops.backup.sealed import Head, opening, read_head, sealing
from domicile.ops.backup.targets import Owner, Target

MAX_CARD_BYTES: Final = 64 * 1024


class Store:
    """``owner``: whose target it is; ``database``: such as eu-1, keys-eu, directory."""

    def __init__(self, target: Target, keys: Keyring, owner: Owner, database: str) -> None:
        self._target = target
        self._keys = keys
        self._owner = owner
        self.database = database

    async def key(self) -> BackupKey:
        return await self._keys.make(self.database)

    def bases(self, system: str | None = None) -> list[Base]:
        """Those that count, the oldest first; of every database that had this name, or of one."""
        found = []
        for name, _ in self._target.list(self.database if system is None else folder_of(self.database, system)):
            if "/base/" in name and name.endswith(".json"):
                with self._target.get(name) as stream:
                    text = stream.read(MAX_CARD_BYTES)
                try:
                    found.append(Base.model_validate_json(text))
                except ValidationError:
                    raise InvalidInput("is damaged", where=name, remedy="delete it with its base backup") from None
        return sorted(found, key=lambda base: base.ended)

    def log(self, system: str) -> list[str]:
        return log_of(name for name, _ in self._target.list(f"{folder_of(self.database, system)}/log"))

    def log_files(self, system: str) -> list[str]:
        """Every object of the log: segments, those that are not full yet, histories of timelines."""
        files = [name.rpartition("/")[2] for name, _ in self._target.list(f"{folder_of(self.database, system)}/log")]
        return [file for file in files if any(kind.fullmatch(file) for kind in (SEGMENT, PARTIAL, HISTORY))]

    async def lines(self, system: str) -> list[Line]:
        """The timelines of a database, the newest last."""
        files = self.log_files(system)
        histories = {}
        for file in files:
            if HISTORY.fullmatch(file):
                async with self.reading(self.log_name(system, file)) as stream:
                    histories[timeline_of(file)] = (await asyncio.to_thread(_all_of, stream)).decode()
        return lines_of(histories, log_of(files))

    async def choices(self) -> list[Base]:
        """Base backups of the timelines in force: what was left by a restore is begun with by its name alone."""
        found = []
        bases = self.bases()
        for system in {base.system for base in bases}:
            lines = await self.lines(system)
            own = [base for base in bases if base.system == system]
            found += [base for base in own if not lines or line_from(base, lines).timeline >= lines[-1].timeline]
        return sorted(found, key=lambda base: base.ended)

    @contextmanager
    def writing(self, name: str, system: str, key: BackupKey) -> Iterator[BinaryIO]:
        head = Head(
            deployment=self._owner.deployment,
            jurisdiction=self._owner.jurisdiction,
            database=self.database,
            system=system,
            name=name,
            key=key.wrapped,
        )
        with self._target.put(name) as sink, sealing(sink, head, key.key) as stream:
            yield stream

    @asynccontextmanager
    async def reading(self, name: str) -> AsyncIterator[BinaryIO]:
        """The data of an object. Raises WrongJurisdiction for another's, InvalidInput for one that is not whole."""
        with self._target.get(name) as source:
            head = await asyncio.to_thread(read_head, source, name)
            key = await self._keys.open(head, name)
            if (head.database, head.name) != (self.database, name):
                raise InvalidInput(f"is {head.name} of {head.database}", where=name, remedy="put it where it belongs")
            with opening(source, head, key, name) as stream:
                yield stream

    def record(self, base: Base) -> None:
        """From now on the base backup counts."""
        with self._target.put(base_name(base).removesuffix(".tar") + ".json") as stream:
            stream.write(base.model_dump_json(indent=1).encode())

    def size_of(self, base: Base) -> int:
        prefix = f"{folder_of(base.database, base.system)}/base"
        return next(size for name, size in self._target.list(prefix) if name == base_name(base))

    def log_name(self, system: str, file: str) -> str:
        return f"{folder_of(self.database, system)}/log/{file}"

    async def keep_log(self, system: str, path: Path, name: str, key: BackupKey) -> None:
        """Put a file of the log. Raises Conflict where another one lies there under this name."""
        data = await asyncio.to_thread(path.read_bytes)
        place = self.log_name(system, name)
        if not PARTIAL.fullmatch(name):
            try:
                async with self.reading(place) as stream:
                    known = await asyncio.to_thread(_digest, stream)
            except NotFound:
                pass
            else:
                if known == hashlib.sha256(data).digest():
                    return
                raise Conflict("another log lies there", where=place, remedy="two databases share this target")

        def put() -> None:
            with self.writing(place, system, key) as stream:
                stream.write(data)

        await asyncio.to_thread(put)
        if SEGMENT.fullmatch(name):
            self._target.delete(f"{place}.partial")

    async def fetch_log(self, system: str, file: str, folder: Path) -> None:
        """A file of the log into ``folder``; one that is not full yet is filled up, and takes a full one's name."""
        match = PARTIAL.fullmatch(file)
        path = folder / (match[1] if match else file)
        async with self.reading(self.log_name(system, file)) as stream:
            data = await asyncio.to_thread(_all_of, stream)
        await asyncio.to_thread(path.write_bytes, data.ljust(SEGMENT_BYTES, b"\0") if match else data)

    def prune(self, keep: timedelta, now: datetime | None = None) -> list[str]:
        """Delete what no moment of the last ``keep`` needs; the names of what went."""
        self._target.tidy()
        moment = now or datetime.now(UTC)
        bases = self.bases()
        gone = []
        newest = bases[-1].system if bases else None
        for system in {base.system for base in bases}:
            own = [base for base in bases if base.system == system]
            over = needless(own, self.log(system), moment, keep)
            stale = over.bases
            names = [self.log_name(system, f"{each}{end}") for each in over.segments for end in ("", ".partial")]
            if system != newest and all(base.ended < moment - keep for base in own):
                stale = own
                names = [name for name, _ in self._target.list(f"{folder_of(self.database, system)}/log")]
            for base in stale:  # first what makes it count
                names = [base_name(base).removesuffix(".tar") + ".json", base_name(base), *names]
            for name in names:
                self._target.delete(name)
            gone += names
        return gone


def _digest(stream: BinaryIO) -> bytes:
    return hashlib.sha256(_all_of(stream)).digest()


def _all_of(stream: BinaryIO) -> bytes:
    data = stream.read(SEGMENT_BYTES + 1)
    if len(data) > SEGMENT_BYTES:
        raise InvalidInput("a file of the log is larger than a segment")
    return data
