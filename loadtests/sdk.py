"""The SDK beside bare asyncpg on the same PostgreSQL: the same row, sealed and fenced on one side, in clear on the
other.

Both keep their connections (neither resets one between two uses), commit to disk, and run on uvloop. Plain is the
server's Unix socket; TLS is mutual, through the local world's door, which is a Python process and weighs on both alike.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import asyncpg
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import key_section, key_settings, superuser

from domicile.cells.keys import serve_keys
from domicile.client import KeyClient
from domicile.model import Endpoint, Role, SubjectKey
from domicile.model.ids import KEY_BYTES
from domicile.sdk import Home, Personal, Record, Shareable
from domicile.sdk.codec import Codec
from domicile.sdk.home import Vault
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store import Fence, RowStore, apply_schema
from domicile.sdk.store.pool import session_options
from loadtests.cases import Figure, Lane, Race, Target

CALLS: Final = 200
WRITERS: Final = 100
CONNECTIONS: Final = 16
TURNS: Final = 5
BATCH: Final = 100
BATCHES: Final = 8
ROWS: Final = 2_000
FRESH: Final = 1_000_000
"""The number of the first row that is written while it is measured: nobody looks for those."""
AGAINST: Final = "bare asyncpg, the row in clear"
SHARES: Final = ("crypto", "pydantic", "wire")
_BARE: Final = """
CREATE TABLE bare (
    subject bytea NOT NULL, id uuid NOT NULL, version bigint NOT NULL DEFAULT 1,
    name text NOT NULL, email text NOT NULL, born date NOT NULL, plan text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, id)
);
CREATE INDEX ON bare (subject, email);
GRANT SELECT, INSERT, UPDATE ON bare TO domicile_app;
"""
_WRITTEN: Final = (
    "ON CONFLICT (subject, id) DO UPDATE SET version = t.version + 1, name = excluded.name, email = excluded.email, "
    "born = excluded.born, plan = excluded.plan, updated_at = clock_timestamp() RETURNING t.version"
)
BARE_PUT: Final = (
    f"INSERT INTO bare AS t (subject, id, name, email, born, plan) VALUES ($1, $2, $3, $4, $5, $6) {_WRITTEN}"
)
BARE_MANY: Final = (
    "INSERT INTO bare AS t (subject, id, name, email, born, plan) SELECT $1, u.* FROM unnest($2::uuid[], $3::text[], "
    f"$4::text[], $5::date[], $6::text[]) u {_WRITTEN}"
)
BARE_GET: Final = "SELECT id, version, name, email, born, plan FROM bare WHERE subject = $1 AND id = $2"
BARE_FIND: Final = (
    "SELECT id, version, name, email, born, plan FROM bare WHERE subject = $1 AND email = $2 ORDER BY created_at, id"
)


class Customer(Record, table="customers"):
    """Three sealed personal fields, one of which can be found by."""

    name: Annotated[str, Personal("user.name")]
    email: Annotated[str, Personal("user.contact.email", find=True)]
    born: Annotated[date, Personal("user.demographic.date_of_birth")]
    plan: Annotated[str, Shareable("user.account.plan")]


def fields(number: int) -> dict[str, Any]:
    return {"name": f"Customer {number}", "email": f"c{number}@example.eu", "born": date(1980, 1, 1), "plan": "pro"}


@dataclass(frozen=True)
class Side:
    """One pool, and the home and the bare statements on it."""

    home: Home
    pool: asyncpg.Pool
    codec: Codec
    store: RowStore
    ids: list[UUID]


def cases() -> Iterator[Race]:
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        trust = Trust.create(Path(folder))
        place = Path(folder) / "eu-1"
        with (
            running_storage(trust, place, Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as storage,
            running_storage(trust, Path(folder) / "keys", Endpoint.KEY_STORAGE, "eu", "fra", "domicile_keys") as kept,
        ):
            stack = AsyncExitStack()
            plain, tls, many, cold = runner.run(_start(stack, trust, storage, kept))
            yield _race(runner, plain, "plain", Target(ratio_at_most=1.4))
            yield _race(runner, tls, "TLS", Target())
            yield _hundred(runner, many)
            yield _cold(runner, plain, cold)
            yield _shares(runner, plain)
            runner.run(stack.aclose())


async def _start(stack: AsyncExitStack, trust: Trust, storage: Storage, kept: Storage) -> tuple[Side, Side, Side, Side]:
    """Over the server's socket, over TLS, with many connections, and without any key in the cache."""
    key = SubjectKey(bytes(KEY_BYTES - 1) + b"\1")
    root = await stack.enter_async_context(superuser(storage))
    await apply_schema(root, "eu-1", "eu", [Customer])
    await root.execute(_BARE)
    found = await root.fetchrow(
        "INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 1, 'open') RETURNING internal_id", key
    )
    assert found is not None
    fence = Fence(key, UUID(int=found["internal_id"].int), 1, "open")
    service = key_settings(trust, kept)
    await stack.enter_async_context(serve_keys(service, key_section()))
    ticks = count(step=60)
    warm, cold = (
        KeyClient(
            trust.credentials("eu", Role.APP, "eu-1.fra"),
            [service.bind],
            jurisdiction="eu",
            cell="eu-1",
            cache_seconds=30,
            clock=clock,
        )
        for clock in (lambda: 0.0, lambda: float(next(ticks)))
    )
    for keys in (warm, cold):
        stack.push_async_callback(keys.close)
    ids = [uuid4() for _ in range(ROWS)]
    sides = []
    socket = {"host": str(storage.folder)}
    for keys, size, over in (
        (warm, 1, socket),
        (warm, 1, {"host": storage.host, "port": storage.port, "ssl": storage.context(Role.APP, "eu-1.fra")}),
        (warm, CONNECTIONS, socket),
        (cold, 1, socket),
    ):
        pool = await asyncpg.create_pool(
            user="domicile_app",
            database="domicile",
            min_size=1,
            max_size=size,
            **session_options(),
            **over,
        )
        await stack.enter_async_context(pool)
        store = RowStore(pool, "eu")
        home = Home(Vault(store, keys, "eu-1", "eu"), fence)
        sides.append(Side(home, pool, Codec(keys, "eu-1", "eu", fence.internal_id), store, ids))
    home, pool = sides[0].home, sides[0].pool
    for start in range(0, ROWS, 1000):
        some = [home.new(Customer, id=ids[n], **fields(n)) for n in range(start, start + 1000)]
        await home.put_many(some)
        await pool.fetch(BARE_MANY, *columns(key, some))
    await root.execute("ANALYZE")
    return sides[0], sides[1], sides[2], sides[3]


def columns(key: SubjectKey, some: list[Customer]) -> list[Any]:
    names = ("id", "name", "email", "born", "plan")
    return [key, *([getattr(one, name) for one in some] for name in names)]


def _timed(runner: asyncio.Runner, calls: int, per_call: int, **each: Callable[[int], Awaitable[object]]) -> Lane:
    """Microseconds a row, for each kind of call."""
    numbers = count()

    async def run() -> Mapping[str, float]:
        took = {}
        for name, call in each.items():
            started = time.perf_counter()
            for _ in range(calls):
                await call(next(numbers))
            took[name] = (time.perf_counter() - started) / calls / per_call * 1e6
        return took

    return lambda: runner.run(run())


def _race(runner: asyncio.Runner, side: Side, over: str, target: Target) -> Race:
    home, pool, ids = side.home, side.pool, side.ids
    key = home.subject_key

    async def put(number: int) -> None:
        await home.put(home.new(Customer, **fields(FRESH + number)))

    async def bare_put(number: int) -> None:
        await pool.fetchval(BARE_PUT, key, uuid4(), *fields(FRESH + number).values())

    async def get(number: int) -> None:
        assert await home.get(Customer, ids[number % ROWS]) is not None

    async def bare_get(number: int) -> None:
        assert await pool.fetchrow(BARE_GET, key, ids[number % ROWS]) is not None

    async def find(number: int) -> None:
        assert await home.find(Customer, email=f"c{number % ROWS}@example.eu")

    async def bare_find(number: int) -> None:
        assert await pool.fetch(BARE_FIND, key, f"c{number % ROWS}@example.eu")

    async def many(number: int) -> None:
        await home.put_many([home.new(Customer, **fields(n)) for n in range(FRESH + number, FRESH + number + BATCH)])

    async def bare_many(number: int) -> None:
        some = [home.new(Customer, **fields(n)) for n in range(FRESH + number, FRESH + number + BATCH)]
        await pool.fetch(BARE_MANY, *columns(key, some))

    lanes = {}
    figures = []
    for name, ours, theirs, calls, size, aim in (
        ("put", put, bare_put, CALLS, 1, target),
        ("get", get, bare_get, CALLS, 1, target),
        ("find", find, bare_find, CALLS, 1, Target()),
        (f"put_many, {BATCH} at a time", many, bare_many, BATCHES, BATCH, Target()),
    ):
        lanes[f"{name} ours"] = _timed(runner, calls, size, value=ours)
        lanes[f"{name} bare"] = _timed(runner, calls, size, value=theirs)
        title = f"SDK {name}, three personal fields, {over}"
        figures.append(Figure(title, "us/row", "value", f"{name} ours", f"{name} bare", AGAINST, aim))
    return Race(lanes, tuple(figures))


def _hundred(runner: asyncio.Runner, side: Side) -> Race:
    """A hundred writers of one subject at once, over a pool of a few connections: they share its fence."""
    home, pool = side.home, side.pool
    numbers = count(FRESH)

    async def put() -> None:
        await home.put(home.new(Customer, **fields(next(numbers))))

    async def bare_put() -> None:
        await pool.fetchval(BARE_PUT, home.subject_key, uuid4(), *fields(next(numbers)).values())

    def lane(call: Callable[[], Awaitable[object]]) -> Lane:
        async def all_of_them(_: int) -> None:
            await asyncio.gather(*(call() for _ in range(WRITERS)))

        return _timed(runner, TURNS, WRITERS, value=all_of_them)

    title = f"SDK put, {WRITERS} writers of one subject, {CONNECTIONS} connections, plain"
    figure = Figure(title, "us/row", "value", "ours", "bare", AGAINST)
    return Race({"ours": lane(put), "bare": lane(bare_put)}, (figure,))


def _cold(runner: asyncio.Runner, warm: Side, cold: Side) -> Race:
    """The key is asked for at the key service, in this process over mutual TLS, before each call."""

    def lane(side: Side) -> Lane:
        async def put(number: int) -> None:
            await side.home.put(side.home.new(Customer, **fields(FRESH + number)))

        async def get(number: int) -> None:
            await side.home.get(Customer, side.ids[number % ROWS])

        return _timed(runner, CALLS // 4, 1, put=put, get=get)

    figures = [
        Figure(f"SDK {name}, plain, without a key in the cache", "us/row", name, "cold", "warm", "the same, warm")
        for name in ("put", "get")
    ]
    return Race({"cold": lane(cold), "warm": lane(warm)}, tuple(figures))


def _shares(runner: asyncio.Runner, side: Side) -> Race:
    """Each part of a call by itself, in the time of the whole: what is left over is the SDK's own Python."""
    home, codec, ids = side.home, side.codec, side.ids
    table = Customer.domicile_table
    sealed = [table.by_name[name] for name in ("name", "email", "born")]
    ready = runner.run(_ready(codec, home))
    key = runner.run(codec.key())
    place = Sealer("eu-1", "eu", key.subject, key.principal, AESGCM(key.key))
    spelled = {column.name: column.kind.dump(fields(1)[column.name]) for column in sealed}
    laid = {name: place.seal(table.name, name, ids[0], raw) for name, raw in spelled.items()}
    rows = side.store.alone(home.subject_key, home.epoch)

    async def put(number: int) -> None:
        await home.put(home.new(Customer, **fields(FRESH + number)))

    async def put_crypto(_: int) -> None:
        sealer = Sealer("eu-1", "eu", key.subject, key.principal, AESGCM(key.key))
        for name, raw in spelled.items():
            sealer.seal(table.name, name, ids[0], raw)
        blind_index(key.index_key, table.name, "email", spelled["email"])

    async def put_pydantic(number: int) -> None:
        record = home.new(Customer, **fields(FRESH + number))
        for column in sealed:
            column.kind.dump(getattr(record, column.name))
        table.by_name["plan"].clear(record.plan)

    async def put_wire(number: int) -> None:
        await rows.put(table, ready._replace(id=uuid4()), None)

    async def get(number: int) -> None:
        await home.get(Customer, ids[number % ROWS])

    async def get_crypto(_: int) -> None:
        sealer = Sealer("eu-1", "eu", key.subject, key.principal, AESGCM(key.key))
        for name, raw in laid.items():
            sealer.open(table.name, name, ids[0], raw)

    async def get_pydantic(number: int) -> None:
        for column in sealed:
            column.kind.load(spelled[column.name])
        Customer.model_construct(jurisdiction="eu", id=ids[0], **fields(number))

    async def get_wire(number: int) -> None:
        await side.pool.fetchrow(BARE_GET, home.subject_key, ids[number % ROWS])

    def shares(**each: Callable[[int], Awaitable[object]]) -> Lane:
        lane = _timed(runner, CALLS, 1, **each)

        def percent() -> Mapping[str, float]:
            took = lane()
            return {name: took[name] / took["whole"] * 100 for name in SHARES}

        return percent

    lanes = {
        "put": shares(whole=put, crypto=put_crypto, pydantic=put_pydantic, wire=put_wire),
        "get": shares(whole=get, crypto=get_crypto, pydantic=get_pydantic, wire=get_wire),
    }
    figures = [
        Figure(
            f"SDK {name}, plain: share of {'a bare round trip' if (name, part) == ('get', 'wire') else part}",
            "%",
            part,
            name,
        )
        for name in lanes
        for part in SHARES
    ]
    return Race(lanes, tuple(figures))


async def _ready(codec: Codec, home: Home) -> Any:
    return await codec.row(home.new(Customer, **fields(1)))
