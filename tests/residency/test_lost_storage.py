"""What was acknowledged is there after the storage died, and what was not is whole or absent: real servers, killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.databases import until
from domicile_testing.standbys import WAITING, copy_standby, name_standbys, paused

from domicile.model import Endpoint, SubjectKey
from domicile.model.ids import KEY_BYTES
from domicile.sample import Note
from domicile.sdk import Home, Unavailable
from domicile.sdk.home import Vault
from domicile.sdk.store import Fence, FenceStore, RowStore, apply_schema, fences, rows
from domicile.sdk.store.failures import untold
from domicile.sdk.store.pool import session_options
from domicile.sdk.testing import MemoryKeys

KEY = SubjectKey(bytes(KEY_BYTES - 1) + b"\1")
SLOW = """
CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END$$;
CREATE {kind} TRIGGER slow {when} INSERT ON notes {deferred} FOR EACH ROW EXECUTE FUNCTION slow()
"""
STEPS = {
    "before the row": {"kind": "", "when": "BEFORE", "deferred": ""},
    "after the row": {"kind": "", "when": "AFTER", "deferred": ""},
    "at COMMIT": {"kind": "CONSTRAINT", "when": "AFTER", "deferred": "DEFERRABLE INITIALLY DEFERRED"},
}


@asynccontextmanager
async def root_of(storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    """The superuser by the server's own socket; it does not mind that the server dies."""
    connection = await asyncpg.connect(host=str(storage.folder), user="postgres", database="domicile")
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def home_in(storage: Storage, keys: MemoryKeys, fence: Fence) -> AsyncIterator[Home]:
    pool = await asyncpg.create_pool(
        host=str(storage.folder),
        user="domicile_app",
        database="domicile",
        min_size=0,
        max_size=4,
        **session_options(),
    )
    try:
        yield Home(Vault(RowStore(pool, "eu"), keys, "eu-1", "eu"), fence)
    finally:
        pool.terminate()


@pytest.fixture(scope="module")
def storage(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("lost") / "eu-1"
    with running_storage(trust, folder, Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        yield running


async def founded(storage: Storage) -> Fence:
    async with root_of(storage) as root:
        await apply_schema(root, "eu-1", "eu", [Note])
        await root.execute("DELETE FROM domicile.answers; TRUNCATE notes")
        found = await root.fetchval(
            "INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 1, 'open') "
            "ON CONFLICT (subject_key) DO UPDATE SET epoch = 1 RETURNING internal_id",
            KEY,
        )
    return Fence(KEY, UUID(int=found.int), 1, "open")


# -- the server dies under a write -------------------------------------------------------------------


async def put_one(home: Home, notes: list[Note]) -> list[int]:
    return [await home.put(notes[0])]


async def put_one_once(home: Home, notes: list[Note]) -> list[int]:
    return [await home.put(notes[0], idempotency_key="k")]


async def put_all(home: Home, notes: list[Note]) -> list[int]:
    return await home.put_many(notes)


async def put_all_once(home: Home, notes: list[Note]) -> list[int]:
    return await home.put_many(notes, idempotency_key="k")


Put = Callable[[Home, list[Note]], Coroutine[Any, Any, list[int]]]


def combinations() -> Iterator[Any]:
    """Every write at every step; two of them in the short form."""
    for put, repeat in ((put_one, put_one_once), (put_all, put_all), (put_all_once, put_all_once)):
        for step in STEPS:
            short = (put, step) in ((put_one, "before the row"), (put_all_once, "at COMMIT"))
            yield pytest.param(step, put, repeat, marks=[] if short else pytest.mark.full)


@pytest.mark.parametrize(("step", "put", "repeat"), list(combinations()))
async def test_a_server_that_is_killed_under_a_write_has_all_of_it_or_nothing(
    storage: Storage, step: str, put: Put, repeat: Put
) -> None:
    fence, keys = await founded(storage), MemoryKeys()
    async with home_in(storage, keys, fence) as home:
        before = home.new(Note, text="before", topic="t")
        await home.put(before)
        notes = [home.new(Note, text=str(number), topic="t") for number in range(20)]
        async with root_of(storage) as root:
            await root.execute(SLOW.format(**STEPS[step]))
            await root.execute("SELECT pg_advisory_lock(42)")
            writing = asyncio.create_task(put(home, notes))

            async def waits() -> bool:
                found: int = await root.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'")
                return found > 0

            await until(waits, "the write to come to the step")
            storage.kill()
        with pytest.raises(Unavailable):
            await writing
    storage.restart()
    async with root_of(storage) as root:
        await root.execute("DROP FUNCTION slow() CASCADE")
    async with home_in(storage, keys, fence) as home:
        assert [note.text for note in await home.all(Note)] == ["before"]
        assert set(await repeat(home, notes)) == {1}
        assert len(await home.all(Note)) == (2 if put is put_one else 21)


APPLICATION = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from domicile.model import SubjectKey
from domicile.model.key_wire import DataKey
from domicile.sample import Note
from domicile.sdk import Home
from domicile.sdk.home import Vault
from domicile.sdk.store import Fence, RowStore
from domicile.sdk.store.local import application
from domicile.sdk.testing import MemoryKeys

folder, key, subject, many = sys.argv[1:]
keys = MemoryKeys()
name = (UUID(subject), UUID(subject))
keys._keys[name] = DataKey(subject=name[0], principal=name[1], key=bytes(32), index_key=bytes(32))

async def main():
    async with application(Path(folder)) as pool:
        home = Home(Vault(RowStore(pool, "eu"), keys, "eu-1", "eu"), Fence(SubjectKey.parse(key), name[0], 1, "open"))
        notes = [home.new(Note, id=UUID(int=number + 1), text="x", topic="t") for number in range(20)]
        if many == "many":
            print(await home.put_many(notes, idempotency_key="k"))
        else:
            print([await home.put(notes[0], idempotency_key="k" if many == "once" else None)])

asyncio.run(main())
"""


@pytest.mark.full
@pytest.mark.parametrize("many", ["alone", "once", "many"])
@pytest.mark.parametrize("step", STEPS)
async def test_an_application_that_is_killed_under_a_write_leaves_all_of_it_or_nothing(
    storage: Storage, step: str, many: str
) -> None:
    """The server may go on with what it was told, or not; who asks again has each row once, and one answer."""
    fence = await founded(storage)
    command = [sys.executable, "-c", APPLICATION, str(storage.folder), str(KEY), str(fence.internal_id), many]
    whole = 20 if many == "many" else 1
    async with root_of(storage) as root:

        async def count() -> int:
            found: int = await root.fetchval("SELECT count(*) FROM notes")
            return found

        await root.execute(SLOW.format(**STEPS[step]))
        try:
            await root.execute("SELECT pg_advisory_lock(42)")
            writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
            try:

                async def waits() -> object:
                    return await root.fetchval("SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'")

                await until(waits, "the write to come to the step")
            finally:
                writer.kill()
                await writer.wait()
            assert await count() == 0
        finally:
            await root.execute("SELECT pg_advisory_unlock(42)")

        async def nobody_writes() -> bool:
            return not await root.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'domicile_app'")

        await until(nobody_writes, "the server to be done with it")
        await root.execute("DROP FUNCTION slow() CASCADE")
        assert await count() in (0, whole)
        again = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
        assert again.stdout.strip() in ([str([1] * whole)] if many != "alone" else ["[1]", "[2]"])
        assert await count() == whole


async def test_what_was_acknowledged_outlives_the_server(storage: Storage) -> None:
    fence, keys = await founded(storage), MemoryKeys()
    acknowledged: list[UUID] = []
    async with home_in(storage, keys, fence) as home:

        async def write() -> None:
            while True:
                note = home.new(Note, text="x", topic="t")
                await home.put(note)
                acknowledged.append(note.id)

        writers = [asyncio.create_task(write()) for _ in range(4)]

        async def enough() -> bool:
            return len(acknowledged) > 50

        await until(enough, "writes")
        storage.kill()
        done = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in done)
    storage.restart()
    async with home_in(storage, keys, fence) as home:
        there = {note.id for note in await home.all(Note)}
    assert there >= set(acknowledged)
    assert len(there) <= len(acknowledged) + 4, "one under way for each writer at most"


# -- a standby that hangs, a retry, a failover ---------------------------------------------------------


@pytest.fixture
async def pair(trust: Trust, tmp_path: Path) -> AsyncIterator[tuple[Storage, Storage, Fence]]:
    """A cell's storage in one zone, and its synchronous standby in another."""
    endpoint = Endpoint.CELL_STORAGE
    with running_storage(trust, tmp_path / "fra", endpoint, "eu", "eu-1.fra", None) as primary:
        fence = await founded(primary)
        copy_standby(primary.folder, tmp_path / "par", "par")
        with running_storage(trust, tmp_path / "par", endpoint, "eu", "eu-1.par", None) as standby:
            await name_standbys(primary, "par")
            async with root_of(primary) as root:
                await root.execute("ALTER ROLE domicile_app SET lock_timeout = '500ms'")

                async def streams() -> bool:
                    found: int = await root.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state='sync'")
                    return found == 1

                await until(streams, "the standby")
            yield primary, standby, fence


async def waiting(root: asyncpg.Connection) -> int:
    async def somebody() -> object:
        return await root.fetchval(WAITING)

    await until(somebody, "a COMMIT that waits for its standby")
    pid: int = await root.fetchval(WAITING)
    return pid


@pytest.mark.parametrize(
    "comes_back",
    [pytest.param(False, id="lost with its zone"), pytest.param(True, id="kept", marks=pytest.mark.full)],
)
async def test_a_commit_without_an_answer_a_retry_and_a_failover(
    pair: tuple[Storage, Storage, Fence], monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    primary, standby, fence = pair
    keys = MemoryKeys()
    async with home_in(primary, keys, fence) as home, root_of(primary) as root:
        note = home.new(Note, text="x", topic="t")
        await home.put(home.new(Note, text="before", topic="t"))
        monkeypatch.setattr(rows, "COMMIT_SECONDS", 0.5)
        standby.kill()
        with pytest.raises(Unavailable, match="not answered"):
            await home.put(note, idempotency_key="k")
        assert len(await home.all(Note)) == 1, "nobody sees what one zone alone has"
        with pytest.raises(Unavailable):
            await home.put(note, idempotency_key="k")
        # an impatient operator: from here on it is committed, visible, and in one zone
        assert await root.fetchval("SELECT pg_cancel_backend($1)", await waiting(root))

        async def visible() -> bool:
            return len(await home.all(Note)) == 2

        await until(visible, "the local commit")
        with pytest.raises(Unavailable):
            await home.put(note, idempotency_key="k")
        if not comes_back:
            primary.kill()
        standby.restart()
        monkeypatch.setattr(rows, "COMMIT_SECONDS", 15.0)
        if comes_back:
            assert await home.put(note, idempotency_key="k") == 1
            primary.kill()
    async with root_of(standby) as root:
        await root.execute("SELECT pg_promote()")
        await name_standbys(standby, "")
    async with home_in(standby, keys, fence) as home:
        assert len(await home.all(Note)) == (2 if comes_back else 1)
        assert await home.put(note, idempotency_key="k") == 1
        assert len(await home.all(Note)) == 2


@pytest.mark.full
async def test_a_commit_that_waits_for_its_standby_is_not_ended_by_who_closes_the_fence(
    pair: tuple[Storage, Storage, Fence], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, standby, fence = pair
    monkeypatch.setattr(fences, "END_SECONDS", 0.3)
    gateways = await asyncpg.create_pool(
        host=str(primary.folder), user="domicile_gateway", database="domicile", **session_options()
    )
    try:
        async with home_in(primary, MemoryKeys(), fence) as home, root_of(primary) as root:
            await home.put(home.new(Note, text="before", topic="t"))
            store = FenceStore(gateways)
            async with paused(standby):
                writing = asyncio.create_task(put_one(home, [home.new(Note, text="x", topic="t")]))
                await waiting(root)
                await root.execute("SET synchronous_commit = local")
                assert await root.fetchval("SELECT domicile.intend($1, 1, 60)", KEY)
                with pytest.raises(Unavailable, match="in the way"):
                    await untold(store._close(KEY, 1, 0.2))
                assert not writing.done()
            assert await writing == [1]
    finally:
        gateways.terminate()


@pytest.mark.full
async def test_a_commit_that_was_let_go_in_one_zone_is_no_acknowledgement(
    pair: tuple[Storage, Storage, Fence],
) -> None:
    primary, standby, fence = pair
    async with home_in(primary, MemoryKeys(), fence) as home, root_of(primary) as root, paused(standby):
        for write in (put_one, put_one_once):
            writing = asyncio.create_task(write(home, [home.new(Note, text="x", topic="t")]))
            assert await root.fetchval("SELECT pg_cancel_backend($1)", await waiting(root))
            with pytest.raises(Unavailable, match="in one zone"):
                await writing
