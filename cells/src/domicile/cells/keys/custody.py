"""What is done with keys: made, handed out, re-wrapped, destroyed.

Holders are asked outside of the database's transactions, so that a slow customer holds no connection. In one batch
each key domain is for itself: what one holder withholds is told, and the others' keys are given.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from domicile.cells.keys.guarded import GuardedHolder
from domicile.cells.keys.holders import Plain, Wrapped, data_key_context, index_key_context
from domicile.cells.keys.storage import DataKeyRow, IndexKeyRow, KeyStore, Name
from domicile.identity.wrapping import backup_key_context, check_value
from domicile.model import InvalidInput, KeyWithheld, NotFound
from domicile.model.key_domains import DEFAULT_DOMAIN
from domicile.model.key_wire import (
    BackupKey,
    BackupKeyRequest,
    CellIndexKey,
    DataKey,
    IndexKey,
    KekProgress,
    OtherKey,
    WrappedKey,
)

KEY_BYTES: Final = 32
REWRAP_BATCH: Final = 200


class Handed(NamedTuple):
    keys: list[DataKey]
    withheld: list[Name]
    destroyed: list[Name]


class Custody:
    """One jurisdiction's keys. ``holders`` by key domain; a subject of a domain that has none is withheld."""

    def __init__(self, store: KeyStore, jurisdiction: str, holders: Mapping[str, GuardedHolder]) -> None:
        self._store = store
        self._jurisdiction = jurisdiction
        self._holders = holders

    async def data_keys(self, cell: str, names: Sequence[Name], caller: str, *, create: bool) -> Handed:
        """Each at most once, in no order; those that were never made, and aren't now, are in no list."""
        wanted = list(dict.fromkeys(names))
        found = await self._store.find(cell, wanted, caller, default=DEFAULT_DOMAIN if create else None)
        rows, others, destroyed, withheld = dict(found.keys), found.others, found.destroyed, set[Name]()
        fresh: dict[Name, tuple[DataKeyRow, bytes]] = {}
        missing = [name for name in wanted if name not in rows and name not in destroyed]
        if create and missing:
            fresh, withheld = await self._make(cell, missing, found.domains)
            if fresh:
                kept = await self._store.add([row for row, _ in fresh.values()], caller)
                rows |= kept.keys
                others |= kept.others
                destroyed |= kept.destroyed
        ours = {row.wrapped: plain for row, plain in fresh.values()}
        opened = {row: ours[row.wrapped] for row in rows.values() if row.wrapped in ours}
        asked = [row for name, row in rows.items() if row not in opened] + [
            others[name] for name in rows if name in others
        ]
        more, refused = await self._open(asked)
        opened |= more
        keys = [_handed(row, others.get(name), opened) for name, row in rows.items() if name not in refused]
        return Handed(keys, sorted(withheld | refused), sorted(destroyed))

    async def _make(
        self, cell: str, names: Sequence[Name], domains: Mapping[UUID, str]
    ) -> tuple[dict[Name, tuple[DataKeyRow, bytes]], set[Name]]:
        by_domain: dict[str, list[Name]] = defaultdict(list)
        for name in names:
            by_domain[domains[name[0]]].append(name)
        made: dict[Name, tuple[DataKeyRow, bytes]] = {}
        withheld: set[Name] = set()

        async def one(domain: str, wanted: list[Name]) -> None:
            plains = [Plain(data_key_context(self._jurisdiction, domain, *name), _fresh(2)) for name in wanted]
            try:
                wrapped = await self._holder(domain).wrap(plains)
            except KeyWithheld:
                withheld.update(wanted)
                return
            for name, plain, key in zip(wanted, plains, wrapped, strict=True):
                check = check_value(plain.value, plain.context)
                made[name] = DataKeyRow(*name, cell, domain, key.version, key.value, check), plain.value

        await _each(one(domain, wanted) for domain, wanted in by_domain.items())
        return made, withheld

    async def _open(self, rows: Collection[DataKeyRow]) -> tuple[dict[DataKeyRow, bytes], set[Name]]:
        by_domain: dict[str, list[DataKeyRow]] = defaultdict(list)
        for row in rows:
            by_domain[row.domain].append(row)
        opened: dict[DataKeyRow, bytes] = {}
        withheld: set[Name] = set()

        async def one(domain: str, wanted: list[DataKeyRow]) -> None:
            try:
                plains = await self._unwrap(domain, wanted)
            except KeyWithheld:
                withheld.update(row.name for row in wanted)
                return
            opened.update(zip(wanted, plains, strict=True))

        await _each(one(domain, wanted) for domain, wanted in by_domain.items())
        return opened, withheld

    def _holder(self, domain: str) -> GuardedHolder:
        if domain not in self._holders:
            raise KeyWithheld("no holder of this key domain is configured", where=f"key domain {domain}")
        return self._holders[domain]

    async def _unwrap(self, domain: str, rows: Sequence[DataKeyRow]) -> list[bytes]:
        contexts = [data_key_context(self._jurisdiction, domain, *row.name) for row in rows]
        wrapped = [Wrapped(context, row.version, row.wrapped) for context, row in zip(contexts, rows, strict=True)]
        return await self._holder(domain).unwrap(wrapped, [row.check_value for row in rows])

    async def _unwrap_index(self, row: IndexKeyRow) -> bytes:
        context = index_key_context(self._jurisdiction, row.domain, row.cell)
        wrapped = Wrapped(context, row.version, row.wrapped)
        return (await self._holder(row.domain).unwrap([wrapped], [row.check_value]))[0]

    async def _fresh_index(self, cell: str, generation: int) -> IndexKeyRow:
        plain = Plain(index_key_context(self._jurisdiction, DEFAULT_DOMAIN, cell), _fresh(1))
        (wrapped,) = await self._holder(DEFAULT_DOMAIN).wrap([plain])
        check = check_value(plain.value, plain.context)
        return IndexKeyRow(cell, DEFAULT_DOMAIN, wrapped.version, wrapped.value, check, generation)

    async def index_key(self, cell: str, caller: str) -> CellIndexKey:
        """The secret of ``cell``'s blind indexes across subjects, made by the first call that asks for it."""
        rows = await self._store.index_keys(cell, caller)
        if not rows:
            rows = await self._store.add_index_key(await self._fresh_index(cell, 1), caller)
        now, *other = [IndexKey(generation=row.generation, key=await self._unwrap_index(row)) for row in rows[:2]]
        return CellIndexKey(generation=now.generation, key=now.key, other=other[0] if other else None)

    async def make_next_index(self, cell: str, generation: int, caller: str) -> None:
        """The cell's index secret of the next generation; harmless to repeat. Nobody writes with it yet."""
        await self._store.add_next_index_key(await self._fresh_index(cell, generation), caller)

    async def assign(self, cell: str, subject: UUID, domain: str, caller: str) -> None:
        if domain not in self._holders:
            raise InvalidInput(f"no key domain {domain!r} is configured", remedy="name it in the manifest")
        await self._store.assign(cell, subject, domain, caller)

    async def make_next(self, cell: str, subject: UUID, generation: int, caller: str) -> None:
        """A subject's keys of the next generation, for each principal that has none; harmless to repeat.

        Nobody writes with them yet. Raises KeyWithheld where the holder doesn't wrap them.
        """
        rows = await self._store.subject_keys(cell, subject)
        there = {row.principal for row in rows if row.generation >= generation}
        lacking = {row.name: row.domain for row in rows if row.principal not in there}
        if not lacking:
            return
        made, withheld = await self._make(cell, list(lacking), {name[0]: domain for name, domain in lacking.items()})
        if withheld:
            raise KeyWithheld("the holder of its key-encryption key does not wrap this data key", where="keys")
        await self._store.add_next(cell, [row for row, _ in made.values()], generation, caller)

    async def backup_key(self, asked: BackupKeyRequest, caller: str) -> BackupKey:
        """A key for backups, under the service's own key-encryption key; it is kept with them, and nowhere here.

        Raises Unavailable for a wrapped one that was not made here, or for another database.
        """
        holder = self._holder(DEFAULT_DOMAIN)
        context = backup_key_context(self._jurisdiction, DEFAULT_DOMAIN, asked.database)
        if asked.wrapped is None:
            plain = _fresh(1)
            (made,) = await holder.wrap([Plain(context, plain)])
            await self._store.record(asked.database, "made", caller)
            wrapped = WrappedKey(value=made.value, version=made.version, check=check_value(plain, context))
            return BackupKey(key=plain, wrapped=wrapped)
        found = Wrapped(context, asked.wrapped.version, asked.wrapped.value)
        (plain,) = await holder.unwrap([found], [asked.wrapped.check])
        await self._store.record(asked.database, "unwrapped", caller)
        return BackupKey(key=plain, wrapped=asked.wrapped)

    async def progress(self, domain: str | None = None) -> list[KekProgress]:
        """Of every domain, or of one. Raises NotFound for an unknown one, KeyWithheld where its holder is silent."""
        if domain is not None and domain not in self._holders:
            raise NotFound(f"no key domain {domain!r}")
        names = [domain] if domain is not None else list(self._holders)
        return [await self._far(name, await self._holders[name].version()) for name in names]

    async def rotate(self, domain: str) -> KekProgress:
        """Begin a new version, unless keys are still under another: then that rotation goes on."""
        (now,) = await self.progress(domain)
        if not now.left:
            await self._holders[domain].rotate()
            (now,) = await self.progress(domain)
        return now

    async def rewrap(self, domain: str) -> KekProgress:
        """Re-wrap a batch under the version in force. May run twice at once, and end anywhere: no key is lost."""
        (now,) = await self.progress(domain)
        keys, index_keys = await self._store.stale(domain, now.version, REWRAP_BATCH)
        if keys or index_keys:
            plains = await self._unwrap(domain, keys) if keys else []
            plains += [await self._unwrap_index(row) for row in index_keys]
            contexts = [data_key_context(self._jurisdiction, domain, *row.name) for row in keys]
            contexts += [index_key_context(self._jurisdiction, domain, row.cell) for row in index_keys]
            fresh = await self._holders[domain].wrap([Plain(*each) for each in zip(contexts, plains, strict=True)])
            done = [(key.version, key.value) for key in fresh]
            await self._store.rewrap(
                [(row, *new) for row, new in zip(keys, done[: len(keys)], strict=True)],
                [(row, *new) for row, new in zip(index_keys, done[len(keys) :], strict=True)],
            )
        return await self._far(domain, now.version)

    async def _far(self, domain: str, version: int) -> KekProgress:
        left = await self._store.count_stale(domain, version)
        return KekProgress(domain=domain, version=version, left=left, unverified=self._holders[domain].unverified)


def _handed(row: DataKeyRow, other: DataKeyRow | None, opened: Mapping[DataKeyRow, bytes]) -> DataKey:
    """A key to write with, and the one of another generation, if there is one."""

    def parts(each: DataKeyRow) -> dict[str, Any]:
        plain = opened[each]
        return {"generation": each.generation, "key": plain[:KEY_BYTES], "index_key": plain[KEY_BYTES:]}

    beside = None if other is None else OtherKey(**parts(other))
    return DataKey(subject=row.subject, principal=row.principal, other=beside, **parts(row))


def _fresh(keys: int) -> bytes:
    return secrets.token_bytes(keys * KEY_BYTES)


async def _each(calls: Iterable[Awaitable[None]]) -> None:
    """All of them at once; the first error of ours, if any, when all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
