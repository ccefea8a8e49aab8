"""Base backups and log of one database in its target: found, written and read, sealed on the way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pydantic import ValidationError

from domicile.model.errors import Conflict, DomicileError, InvalidInput, NotFound
from domicile.model.key_wire import BackupKey
from domicile.ops.backup.catalog import (
    CARD,
    HISTORY,
    PARTIAL,
    SEGMENT,
    SEGMENT_BYTES,
    Base,
    Line,
    base_name,
    card_name,
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


class Survey(NamedTuple):
    """``bases``: those that count, the oldest first; ``unusable``: cards of the others, with why."""

    bases: list[Base]
    unusable: dict[str, DomicileError]


class Pruned(NamedTuple):
    deleted: list[str]
    unusable: dict[str, DomicileError]


class Store:
    """``owner``: whose target it is; ``database``: such as eu-1, keys-eu, directory."""

    def __init__(self, target: Target, keys: Keyring, owner: Owner, database: str) -> None:
        self._target = target
        self._keys = keys
        self._owner = owner
        self.database = database

    async def key(self) -> BackupKey:
        return await self._keys.make(self.database)

    async def survey(self, system: str | None = None) -> Survey:
        """The base backups of every database that had this name, or of one.

        One that can't be used hides no other. Raises Unavailable where the target is not there.
        """
        below = self.database if system is None else folder_of(self.database, system)
        sizes = dict(await asyncio.to_thread(self._target.list, below))
        found, unusable = [], {}
        for name in sizes:
            if "/base/" in name and name.endswith(CARD):
                try:
                    found.append(await self._card(name, sizes))
                except DomicileError as error:
                    unusable[name] = error
        return Survey(sorted(found, key=lambda base: base.ended), unusable)

    async def bases(self) -> list[Base]:
        """Those that count, the oldest first. Raises why, where there are some and none can be used."""
        found, unusable = await self.survey()
        if unusable and not found:
            raise next(iter(unusable.values()))
        return found

    async def _card(self, name: str, sizes: Mapping[str, int]) -> Base:
        """What a card says, which is sealed, so that nobody else has written it. Raises InvalidInput and as reading."""
        async with self.reading(name) as stream:
            text = stream.read(MAX_CARD_BYTES)
        try:
            base = Base.model_validate_json(text)
        except ValidationError:
            raise InvalidInput("is no card of a base backup", where=name) from None
        if card_name(base) != name:
            raise InvalidInput(f"is the card of {base_name(base)}", where=name, remedy="put it where it belongs")
        size = sizes.get(base_name(base))
        if size != base.size:
            told = "is missing" if size is None else f"has {size:,} bytes, where its card says {base.size:,}"
            raise InvalidInput(f"its base backup {told}", where=name, remedy="take another one; then delete this one")
        return base

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
        bases = await self.bases()
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

    def record(self, base: Base, key: BackupKey) -> None:
        """From now on the base backup counts."""
        with self.writing(card_name(base), base.system, key) as stream:
            stream.write(base.model_dump_json().encode())

    def size_of(self, name: str) -> int:
        return next(size for found, size in self._target.list(name.rpartition("/")[0]) if found == name)

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

    async def prune(self, keep: timedelta, now: datetime | None = None) -> Pruned:
        """Delete what no moment of the last ``keep`` needs.

        The log beside a base backup that can't be used stays: what it would need of it is not known.
        """
        await asyncio.to_thread(self._target.tidy)
        bases, unusable = await self.survey()
        gone = await asyncio.to_thread(self._prune, bases, set(unusable), now or datetime.now(UTC), keep)
        return Pruned(gone, unusable)

    def _prune(self, bases: Sequence[Base], unusable: Collection[str], moment: datetime, keep: timedelta) -> list[str]:
        gone: list[str] = []
        newest = bases[-1].system if bases else None
        for system in {base.system for base in bases}:
            own = [base for base in bases if base.system == system]
            unclear = any(name.startswith(f"{folder_of(self.database, system)}/") for name in unusable)
            over = needless(own, [] if unclear else self.log(system), moment, keep)
            stale = over.bases
            names = [self.log_name(system, f"{each}{end}") for each in over.segments for end in ("", ".partial")]
            if system != newest and not unclear and all(base.ended < moment - keep for base in own):
                stale = own
                names = [name for name, _ in self._target.list(f"{folder_of(self.database, system)}/log")]
            for base in stale:  # first what makes it count
                names = [card_name(base), base_name(base), *names]
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
