"""The directory's batches, and the router's replica of it with ten million pins."""

from __future__ import annotations

import asyncio
import random
import secrets
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from shutil import rmtree
from typing import Any, Final
from uuid import uuid4

import aiohttp
import asyncpg
import lmdb
from domicile_testing import Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.directories import directory_settings, serving

from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Pin, PinState, Position, Role, SubjectKey
from domicile.model.snapshot import MAX_RECORDS, Block
from domicile.router.replica import Replica
from loadtests.cases import LOOPS, Case, each

PINS: Final = 10_000_000
STORED: Final = 200_000
BATCH: Final = 1_000
BATCHES: Final = 12
AT_ONCE: Final = 4
CHURN: Final = PINS // 10
WRITTEN_AT_ONCE: Final = 500
MAP_BYTES: Final = 4 << 30
FILL: Final = (
    "INSERT INTO directory.pins SELECT '\\x01' || uuid_send(gen_random_uuid()), 'eu', 'eu-' || (n % 2 + 1), 1, 'active'"
    f" FROM generate_series(1, {STORED}) AS n"
)
QUERY: Final = "SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins WHERE subject_key = ANY($1)"


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _resolving(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _replica(Path(folder))


async def _in_turn(call: Callable[[int], Awaitable[object]]) -> float:
    """Milliseconds a batch, ``AT_ONCE`` of them under way."""
    left = iter(range(BATCHES))

    async def some() -> None:
        for number in left:
            await call(number)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return (time.perf_counter() - started) / BATCHES * 1e3


def _resolving(folder: Path) -> Iterator[Case]:
    """Both over TLS on loopback; the directory is in this process too, and so shares its core with its client."""
    trust = Trust.create(folder)
    operator = Signer.load_or_create(folder / "operator.key")
    with (
        running_storage(
            trust, folder / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory"
        ) as storage,
        asyncio.Runner() as runner,
    ):
        stack = AsyncExitStack()

        async def start() -> tuple[aiohttp.ClientSession, str, asyncpg.Pool[Any], list[list[bytes]]]:
            settings = directory_settings(trust, storage.address, operator)
            running = await stack.enter_async_context(serving(settings, trust, operator))
            database = await stack.enter_async_context(superuser(storage))
            await database.execute(FILL)
            await database.execute("ANALYZE directory.pins")
            rows = await database.fetch("SELECT subject_key FROM directory.pins ORDER BY random() LIMIT 12000")
            keys = [row["subject_key"] for row in rows]
            context = trust.credentials("eu", Role.ROUTER, "fra").client(GLOBAL, [Role.DIRECTORY])
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
            await stack.enter_async_context(session)
            pool = await asyncpg.create_pool(
                host=storage.host,
                port=storage.port,
                user="domicile_directory",
                database="domicile",
                ssl=storage.context(Role.DIRECTORY, "fra"),
                min_size=AT_ONCE,
            )
            await stack.enter_async_context(pool)
            batches = [keys[n * BATCH : (n + 1) * BATCH] for n in range(BATCHES)]
            return session, f"https://{running.address}/v1/pins:resolve", pool, batches

        session, address, pool, batches = runner.run(start())
        bodies = [{"subject_keys": [key.hex() for key in batch]} for batch in batches]

        async def ours(number: int) -> None:
            async with session.post(address, json=bodies[number]) as response:
                body = await response.read()
                assert response.status == 200
                assert body.count(b'"epoch"') == BATCH

        async def bare(number: int) -> None:
            assert len(await pool.fetch(QUERY, batches[number])) == BATCH

        def timed(call: Callable[[int], Coroutine[Any, Any, None]]) -> Callable[[], float]:
            return lambda: runner.run(_in_turn(call))

        yield Case(
            f"directory: resolve {BATCH:,} of {STORED:,} pins",
            "ms",
            timed(ours),
            timed(bare),
            "bare asyncpg, the same keys",
            ratio_at_most=2.0,
        )
        runner.run(stack.aclose())


def _said(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _blocks(keys: list[bytes]) -> Iterator[Block]:
    tails = [b"\0\0\0\0\0\0\0\1" + b"\0" + struct.pack(">H", home) for home in range(2)]
    for start in range(0, len(keys), MAX_RECORDS):
        some = keys[start : start + MAX_RECORDS]
        yield Block(("eu/eu-1", "eu/eu-2"), b"".join(key + tails[key[-1] & 1] for key in some))


def _replica(folder: Path) -> Iterator[Case]:
    _said(f"{PINS:,} keys")
    chance = random.Random(secrets.randbits(32))
    keys = sorted(b"\1" + chance.randbytes(16) for _ in range(PINS))
    replica = Replica(folder / "replica", MAP_BYTES)
    generation = uuid4()
    loading = replica.loading()
    loading.begin(Position(generation=generation, sequence=0))
    started = time.perf_counter()
    for block in _blocks(keys):
        loading.add(block)
    replica.adopt(loading)
    loaded = time.perf_counter() - started
    _said(f"loaded in {loaded:.0f} s")
    assert replica.count() == PINS
    size = replica.bytes_per_pin
    with lmdb.open(str(folder / "bare"), map_size=MAP_BYTES, sync=False) as bare:
        for start in range(0, PINS, MAX_RECORDS):
            with bare.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti([(key, b"\0\0\1") for key in keys[start : start + MAX_RECORDS]], append=True)
        bare_size = (bare.info()["last_pgno"] + 1) * bare.stat()["psize"] / PINS
        yield Case(
            f"replica: {PINS:,} pins after a snapshot",
            "B/pin",
            lambda: size,
            lambda: bare_size,
            "bare LMDB, the same keys in order",
            at_most=48.0,
            rounds=1,
        )
        wanted = [SubjectKey(keys[chance.randrange(PINS)]) for _ in range(LOOPS)]

        def raw(number: int) -> bytes | None:
            with bare.begin() as transaction:
                found = transaction.get(wanted[number])
                return None if found is None else bytes(found)

        yield Case(
            f"replica: look-up among {PINS:,}",
            "us",
            lambda: each(lambda n: replica.get(wanted[n])),
            lambda: each(raw),
            "bare LMDB, a transaction each",
            at_most=5.0,
        )
    rmtree(folder / "bare")
    started = time.perf_counter()
    for sequence in range(0, CHURN, WRITTEN_AT_ONCE):
        half = WRITTEN_AT_ONCE // 2
        fresh = [SubjectKey(b"\1" + chance.randbytes(16)) for _ in range(half)]
        moved = [SubjectKey(keys[chance.randrange(PINS)]) for _ in range(half)]
        pins = [
            Pin.model_construct(subject_key=key, jurisdiction="eu", cell="eu-2", epoch=1, state=PinState.ACTIVE)
            for key in fresh
        ]
        pins += [
            Pin.model_construct(subject_key=key, jurisdiction="us", cell="us-1", epoch=300, state=PinState.ACTIVE)
            for key in moved
        ]
        replica.apply(pins, Position(generation=generation, sequence=sequence))
    _said(f"{CHURN:,} changes in {time.perf_counter() - started:.0f} s")
    churned = replica.bytes_per_pin
    yield Case(f"replica: after {CHURN:,} changes in random order", "B/pin", lambda: churned, at_most=80.0, rounds=1)
    if replica.sparse():
        started = time.perf_counter()
        replica.compact()
        _said(f"written anew in {time.perf_counter() - started:.0f} s")
        compacted = replica.bytes_per_pin
        yield Case("replica: written anew by itself after that", "B/pin", lambda: compacted, at_most=48.0, rounds=1)
    yield Case("replica: look-up after that", "us", lambda: each(lambda n: replica.get(wanted[n])), at_most=5.0)
    replica.close()
