"""Rotation of a cell's own index secret: who is looked up across subjects is found all the while, by whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.databases import until
from domicile_testing.turning import (
    Patient,
    World,
    check,
    patient,
    stored,
    turning,
    writers,
)

from domicile.client import KeyClient
from domicile.model import Conflict, Forbidden, Role
from domicile.sdk import Home
from domicile.sdk.cell import CellSession
from domicile.sdk.home import Vault
from domicile.sdk.sealing import blind_index
from domicile.sdk.store import AcrossStore
from domicile.sdk.store.port import OutdatedKeys

PHONE = "+49 30 1"


@pytest.fixture
async def world(
    trust: Trust, key_storage: Storage, cell_storage: Storage, cell: asyncpg.Connection
) -> AsyncIterator[World]:
    async with turning(trust, key_storage, cell_storage, cell) as made:
        await cell.execute("DELETE FROM domicile.fences")
        yield made


async def across(world: World, keys: KeyClient, **conditions: Any) -> set[UUID]:
    """Who is found across the cell's subjects."""
    session = CellSession(Vault(world.rows, keys, "eu-1", "eu"), AcrossStore(cast("asyncpg.Pool", world.root)))
    return {each.record.id for each in await session.find(Patient, **conditions)}


async def secrets(world: World) -> list[tuple[int, bool]]:
    async with superuser(world.key_storage) as root:
        return [tuple(row) for row in await root.fetch("SELECT generation, turned FROM keys.index_keys ORDER BY 1")]


async def seen(world: World, row: UUID, keys: KeyClient) -> bool:
    """Whether a row's index lies under the secret that ``keys`` writes with."""
    key = await keys.cell_index_key()
    return bool((await stored(world, row))["phone_index"] == blind_index(key.key, "patients", "phone", b'"+49 30 1"'))


async def begun(world: World) -> int:
    await world.turner().rotation("go")
    index = (await world.rotator().status()).index
    assert index is not None
    return index


async def test_every_index_lies_under_the_new_secret_before_the_old_one_is_destroyed(world: World) -> None:
    homes = [await world.home() for _ in range(3)]
    rows = [patient(home) for home in homes]
    for home, row in zip(homes, rows, strict=True):
        await home.put(row)
    old = await world.key_client().cell_index_key()
    told: list[tuple[int | None, int]] = []
    done = await world.rotator().run(lambda now: told.append((now.index, now.unindexed)))
    assert (done.done, done.index, done.unindexed, await secrets(world)) == (True, None, 0, [(2, True)])
    assert (told[0], told[-1]) == ((2, 3), (2, 0))
    keys = world.key_client()
    assert (await keys.cell_index_key()).key != old.key
    for row in rows:
        assert await seen(world, row.id, keys)
    assert await across(world, keys, phone=PHONE) == {row.id for row in rows}
    assert [each.id for each in await (await world.home(homes[0].subject_key)).find(Patient, phone=PHONE)] == [
        rows[0].id
    ]


async def test_applications_with_either_secret_find_and_write_meanwhile(world: World) -> None:
    before, home = world.key_client(), await world.home()
    stale = await world.home(home.subject_key, before)
    rows = [patient(stale), patient(stale)]
    await stale.put_many(rows)
    rotator, index = world.rotator(), await begun(world)
    page = await stale.page(Patient, size=1)
    await rotator.begin_index(index)
    rows.append(patient(stale))
    await stale.put(rows[-1])  # by the secret that it holds
    fresh = await world.home(home.subject_key)
    rows.append(patient(fresh))
    await fresh.put(rows[-1])
    assert not await seen(world, rows[-1].id, before)
    everybody = {row.id for row in rows}
    for keys in (before, world.key_client()):
        assert await across(world, keys, phone=PHONE) == everybody
        reader = await world.home(home.subject_key, keys)
        assert {each.id for each in await reader.find(Patient, phone=PHONE)} == everybody
    after = await (await world.home(home.subject_key)).page(Patient, size=1, after=page.next)
    assert [each.id for each in after.records] == [rows[1].id]
    await rotator.run(lambda now: None)
    assert await secrets(world) == [(2, True)]
    assert await across(world, before, phone=PHONE) == everybody


async def test_who_slept_through_it_is_refused_and_asks_again(world: World) -> None:
    keys = world.key_client()
    home = await world.home(None, keys)
    await home.put(patient(home))
    await world.rotator().run(lambda now: None)
    keys.forget(home.internal_id)  # the subject's own it has, the cell's is of before
    row = patient(home)

    async def in_transaction() -> None:
        async with home.transaction() as work:
            await work.put(row)

    with pytest.raises(OutdatedKeys):
        await in_transaction()
    await in_transaction()
    assert await seen(world, row.id, world.key_client())


async def test_a_writer_that_began_before_is_waited_for(world: World) -> None:
    keys = world.key_client()
    home = await world.home(None, keys)
    row, rotator = patient(home), world.rotator()
    await home.put(patient(home))
    index = await begun(world)

    async def waits() -> bool:
        return bool(
            await world.root.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'domicile_gateway'"
            )
        )

    async with home.transaction() as work:
        await work.put(row)
        running = asyncio.create_task(rotator.run(lambda now: None))
        await until(waits, "the rotator to wait for the writer", seconds=30)
        assert [generation for generation, _ in await secrets(world)] == [1, 2]
    await running
    assert (index, await secrets(world)) == (2, [(2, True)])
    assert await seen(world, row.id, world.key_client())


async def test_a_subject_that_is_not_open_here_keeps_the_old_secret_alive(world: World) -> None:
    home, other = await world.home(), await world.home()
    await home.put(row := patient(home))
    await other.put(patient(other))
    await world.root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", home.subject_key)
    left = await world.rotator().run(lambda now: None)
    assert (left.done, left.due, left.index, left.unindexed) == (False, 1, 2, 1)
    assert await secrets(world) == [(1, True), (2, True)]
    await world.root.execute("UPDATE domicile.fences SET state = 'open' WHERE subject_key = $1", home.subject_key)
    keys = world.key_client()
    assert row.id in await across(world, keys, phone=PHONE)
    assert (await world.rotator().run(lambda now: None)).done
    assert await seen(world, row.id, world.key_client())


async def test_rows_of_who_was_shredded_are_gone_with_their_indexes_when_the_old_secret_is(world: World) -> None:
    """A cell that was restored to before a shred has them again: the key service is whom it hears that from."""
    home, gone = await world.home(), await world.home()
    await home.put(kept := patient(home))
    await gone.put(patient(gone))
    await world.key_client().shred(gone.internal_id, gone.internal_id)
    keys = world.key_client()
    assert len(await across(world, keys, phone=PHONE)) == 2, "the control: its index finds it until then"
    assert (await world.rotator().run(lambda now: None)).done
    assert await across(world, world.key_client(), phone=PHONE) == {kept.id}
    assert await world.root.fetchval("SELECT count(*) FROM patients WHERE subject_key = $1", gone.subject_key) == 0
    begun = await world.root.fetchrow("SELECT principal, rows::text, receipt FROM domicile.erasures")
    assert begun is not None
    assert (UUID(int=begun[0].int), begun[1], begun[2]) == (gone.internal_id, '{"patients": 1}', None)


@pytest.mark.full
async def test_subjects_whose_own_keys_are_new_are_indexed_anew_too(world: World) -> None:
    await (first := await world.home()).put(patient(first))
    await begun(world)
    newcomer = await world.home()
    await newcomer.put(row := patient(newcomer))
    done = await world.rotator().run(lambda now: None)
    assert (done.done, await world.generations(newcomer)) == (True, [1])
    assert await seen(world, row.id, world.key_client())


@pytest.mark.full
async def test_a_rotation_that_is_paused_destroys_nothing_and_goes_on(world: World) -> None:
    await (home := await world.home()).put(patient(home))
    rotator, index = world.rotator(), await begun(world)
    await rotator.begin_index(index)
    paused = await rotator.stop()
    assert (paused.running, paused.index, paused.unindexed) == (False, 2, 1)
    await world.root.execute("SELECT domicile.withdraw_index(2)")
    await rotator.finish_index(index, lambda now: None)
    assert len(await secrets(world)) == 2
    assert ((await world.rotator().run(lambda now: None)).done, await secrets(world)) == (True, [(2, True)])


@pytest.mark.parametrize(
    "step",
    [
        "withdraw_index",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("make", "announce_index", "turn", "index_turned", "retire")
        ),
    ],
)
async def test_an_end_at_each_step_hides_nobody(world: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kill -9 leaves it: the step is committed, and nothing after it is."""
    before, home = world.key_client(), await world.home()
    rows = [patient(home)]
    await home.put(rows[0])
    rotator = world.rotator()
    place: Any = rotator._keys if step in ("make", "turn", "retire") else rotator._fences
    name = "index_step" if place is rotator._keys else step
    real = getattr(place, name)

    async def ended(*given: Any) -> None:
        await real(*given)
        if place is rotator._fences or given[1] == step:
            raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(place, name, ended)
        with pytest.raises(asyncio.CancelledError):
            await rotator.run(lambda now: None)
    for keys in (before, world.key_client()):
        writer: Home = await world.home(home.subject_key, keys)
        rows.append(patient(writer))
        await writer.put(rows[-1])
        assert await across(world, keys, phone=PHONE) == {row.id for row in rows}
    assert (await world.rotator().run(lambda now: None)).done
    assert len(await secrets(world)) == 1
    assert await across(world, before, phone=PHONE) == {row.id for row in rows}


@pytest.mark.full
async def test_two_rotators_among_writers_and_readers_hide_nobody(world: World) -> None:
    homes = [await world.home() for _ in range(3)]
    for home in homes:
        await home.put_many([patient(home, phone=f"+49 {n}") for n in range(100)])
    lone = patient(homes[0], phone="+49 77")
    await homes[0].put(lone)
    ended = asyncio.Event()

    async def look() -> int:
        keys, looks = world.key_client(), 0
        while not ended.is_set():
            assert lone.id in await across(world, keys, phone="+49 77")
            looks += 1
        return looks

    async with writers(world, homes) as acknowledged:
        looking = asyncio.create_task(look())
        for _ in range(2):
            await asyncio.gather(*(world.rotator().run(lambda now: None) for _ in range(2)))
        ended.set()
        assert await looking
    await check(world, acknowledged)
    assert len(await secrets(world)) == 1


async def test_only_a_gateway_of_the_cell_turns_its_index_secret_and_in_turn(world: World) -> None:
    await world.key_client().cell_index_key()
    for role, name, cell in ((Role.APP, "eu-1.fra", "eu-1"), (Role.GATEWAY, "eu-2.fra", "eu-1")):
        with pytest.raises(Forbidden):
            await world.turner(role, name, cell).index_step(2, "make")
    turner = world.turner()
    for generation, step in ((2, "turn"), (2, "retire"), (3, "make")):
        with pytest.raises(Conflict):
            await turner.index_step(generation, step)  # type: ignore[arg-type]
    assert await secrets(world) == [(1, True)]


async def test_a_clock_of_the_key_store_that_was_ahead_and_is_set_back_leaves_nobody_out_and_ends(world: World) -> None:
    home = await world.home()
    await home.put(patient(home))
    async with superuser(world.key_storage) as root:
        for table in ("data_keys", "index_keys"):
            await root.execute(f"UPDATE keys.{table} SET created = now() + interval '1 day'")
    done = await world.rotator().run(lambda now: None)
    assert (done.done, await world.generations(home), await secrets(world)) == (True, [2], [(2, True)])
    assert len(await (await world.home(home.subject_key)).find(Patient, phone=PHONE)) == 1
