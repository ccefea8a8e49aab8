"""The whole map in and out at the speed of COPY, for an operator who moves or rebuilds a directory.

A file is tab-separated text with a head: ``subject_key`` (34 hexadecimal digits), ``jurisdiction``, ``cell``,
``epoch``, ``state``. An import is one transaction: every line counts, or none. Pins go through the same triggers
as a claim's, so that an epoch never falls and readers of the change log miss nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.directory.second_zone import Replication, SecondZone, SecondZoneCheck
from domicile.directory.storage import DATABASE, translated
from domicile.directory.transactions import SQL
from domicile.identity import Credentials
from domicile.model import GLOBAL, Address, Conflict, InvalidInput, Manifest, PinState, Role, Unavailable
from domicile.model.wire import TopologyDocument
from domicile.service.commits import transaction

HEAD: Final = b"subject_key\tjurisdiction\tcell\tepoch\tstate"
MAX_LINE_BYTES: Final = 256
MAX_EPOCH: Final = 2**63 - 1
SUPERUSER: Final = "postgres"
CONNECT_SECONDS: Final = 5.0
COMMIT_SECONDS: Final = 60.0
_IMPORT_LOCK: Final = 0x646F6D69
_CHUNK_BYTES: Final = 1 << 18
_COLUMNS: Final = ["subject_key", "jurisdiction", "cell", "epoch", "state", "line"]
_LINE: Final = re.compile(
    rb"([0-9a-f]{34})\t([a-z0-9-]{1,15}\t[a-z0-9-]{1,32})\t([1-9][0-9]{0,18})\t(%s)" % "|".join(PinState).encode()
)
_FIELDS: Final = (
    ("subject_key", re.compile(rb"[0-9a-f]{34}"), "34 lower-case hexadecimal digits"),
    ("jurisdiction", re.compile(rb"[a-z0-9-]{1,15}"), "a jurisdiction's name"),
    ("cell", re.compile(rb"[a-z0-9-]{1,32}"), "a cell's name"),
    ("epoch", re.compile(rb"[1-9][0-9]{0,18}"), "a whole number from 1"),
    ("state", re.compile("|".join(PinState).encode()), f"one of {', '.join(PinState)}"),
)


class Imported(NamedTuple):
    """Pins by what became of them. ``kept``: what stood contradicts the line, and stays."""

    inserted: int
    updated: int
    unchanged: int
    kept: int


def homes_of(manifest: Manifest) -> frozenset[bytes]:
    """``jurisdiction TAB cell`` of each cell, as in a line."""
    return frozenset(f"{cell.jurisdiction}\t{name}".encode() for name, cell in manifest.cells.items())


def refusal(line: bytes, number: int) -> InvalidInput:
    """Why a line is none; it is not quoted. Pure."""
    where = f"line {number}"
    if len(line) > MAX_LINE_BYTES:
        return InvalidInput(f"longer than {MAX_LINE_BYTES} bytes", where=where)
    fields = line.split(b"\t")
    if len(fields) != len(_FIELDS):
        return InvalidInput(f"{len(fields)} fields separated by tabs, not {len(_FIELDS)}", where=where)
    for field, (name, form, said) in zip(fields, _FIELDS, strict=True):
        if not form.fullmatch(field):
            return InvalidInput(f"{name} is not {said}", where=where)
    if int(fields[3]) > MAX_EPOCH:
        return InvalidInput(f"epoch is over {MAX_EPOCH}", where=where)
    return InvalidInput(
        "no such cell in that jurisdiction, by the topology that is published",
        where=where,
        remedy="see `domicile apply`",
    )


def rows(lines: Iterable[bytes], homes: frozenset[bytes]) -> Iterator[bytes]:
    """Each line as COPY takes it, with its number. Raises InvalidInput for the first that is none."""
    match = _LINE.fullmatch
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip(b"\r\n")
        if number == 1:
            if line != HEAD:
                raise InvalidInput("not the head of a file of pins", where="line 1", remedy=HEAD.decode().expandtabs(1))
            continue
        found = match(line)
        if found is None or found[2] not in homes or (len(found[3]) == 19 and int(found[3]) > MAX_EPOCH):
            raise refusal(line, number)
        yield b"\\\\x%b\t%d\n" % (line, number)


@asynccontextmanager
async def connected(credentials: Credentials, addresses: Sequence[Address]) -> AsyncIterator[asyncpg.Connection]:
    """The directory's database, as an operator of the directory may open it. Raises Unavailable.

    Of several ``addresses`` the one that leads. One alone may be a standby's, whose pins can be exported.
    """
    context = credentials.client(GLOBAL, [Role.STORAGE])
    attribute = SessionAttribute.any if len(addresses) == 1 else SessionAttribute.primary
    try:
        async with translated():
            connection = await asyncpg.connect(
                host=[address.host for address in addresses],
                port=[address.port for address in addresses],
                target_session_attrs=attribute,
                user=SUPERUSER,
                database=DATABASE,
                ssl=context,
                timeout=CONNECT_SECONDS,
            )
    except Unavailable as error:
        raise Unavailable(
            f"cannot be opened ({type(error.__cause__).__name__})",
            where=", ".join(addresses),
            remedy="see DOMICILE_STORAGE, and that the certificate is an operator's of the trust domain global",
        ) from error
    try:
        yield connection
    finally:
        # what is under way is not waited for: it is undone by the server
        connection.terminate()


async def begin_rebuild(connection: asyncpg.Connection, revision: int) -> bool:
    """Refuse claims from now on, and ask the cells for every pin; False where that is under way already.

    ``revision``: of the topology that was published last, below which it is not over.
    """
    async with translated(), transaction(connection, COMMIT_SECONDS):
        begun: bool = await connection.fetchval(SQL["begin_rebuild"], revision)
    return begun


async def published(connection: asyncpg.Connection) -> TopologyDocument:
    """Raises InvalidInput before the first topology."""
    async with translated():
        row = await connection.fetchrow(SQL["find_topology"])
    if row is None:
        raise InvalidInput("no topology is published yet", remedy="publish one with `domicile apply`")
    return TopologyDocument(revision=row["revision"], signed=row["signed"])


async def export_pins(connection: asyncpg.Connection, write: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
    """Write every pin, as of one moment; how many there were."""
    await write(HEAD + b"\n")
    async with translated():
        done: str = await connection.copy_from_query(SQL["export_pins"], output=write, format="text")
    return int(done.split()[-1])


async def import_pins(
    connection: asyncpg.Connection,
    lines: Iterable[bytes],
    homes: frozenset[bytes],
    *,
    keep: bool = False,
    second_zone: SecondZone = SecondZone.ABSENT,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Merge a file's pins, all or none. ``progress`` is told how many lines were read so far.

    Where a second zone is required, that one is there is asked before a line is read, and again when all is committed.
    Raises InvalidInput for a bad line by its number, Conflict where a pin that stands contradicts a line
    (not with ``keep``: then it stays), Unavailable.
    """
    total = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal total
        buffer = bytearray()
        for row in rows(lines, homes):
            buffer += row
            total += 1
            if len(buffer) >= _CHUNK_BYTES:
                progress(total)
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer)
        progress(total)

    check = SecondZoneCheck(second_zone)

    async def replication() -> Replication:
        row = await connection.fetchrow(SQL["find_second_zone"], check.asked)
        assert row is not None
        return Replication(**row)

    async with translated(), transaction(connection, COMMIT_SECONDS, check.doubt):
        if check.required:
            check.take(await replication())
        await connection.execute(SQL["lock_import"], _IMPORT_LOCK)
        await connection.execute(SQL["begin_import"])
        await connection.copy_to_table("incoming", source=chunks(), columns=_COLUMNS, format="text")
        twice = await connection.fetchrow(SQL["find_twice"])
        if twice is not None:
            raise InvalidInput(f"a subject that stands in line {twice['first']} too", where=f"line {twice['second']}")
        # an operator's own word also settles what two cells say of one subject
        await connection.execute(SQL["allow_reconciling"])
        merged = await connection.fetchrow(SQL["merge_incoming"])
        against = await connection.fetchrow(SQL["find_contradicted"])
        assert merged is not None
        assert against is not None
        if against["count"] and not keep:
            raise Conflict(
                f"{against['count']} lines contradict a pin at the same or a higher epoch",
                where=f"line {', '.join(map(str, against['lines']))}",
                remedy="leave them out, or keep what stands with --keep",
            )
    if check.required:
        async with translated():
            check.take_after(await replication())
    inserted, updated, kept = merged["inserted"], merged["updated"], against["count"]
    return Imported(inserted, updated, total - inserted - updated - kept, kept)
