"""Rotation of data keys and blind indexes: no row, update or look-up is lost, whoever writes or dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.turning import (
    DOCTORS,
    EMAIL,
    Letter,
    Patient,
    Referral,
    World,
    check,
    patient,
    said,
    stored,
    the_turn,
    turning,
    writers,
)

from domicile.client import KeyClient
from domicile.model import Conflict, DomicileError, Forbidden, KeyDestroyed, Role
from domicile.model.key_wire import DataKey
from domicile.sdk import Home
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store.port import OutdatedKeys


@pytest.fixture
async def world(
    trust: Trust, key_storage: Storage, cell_storage: Storage, cell: asyncpg.Connection
) -> AsyncIterator[World]:
    async with turning(trust, key_storage, cell_storage, cell) as made:
        yield made


async def test_rows_lie_under_new_keys_alone_and_say_what_they_said(world: World) -> None:
    homes = [await world.home() for _ in range(3)]
    records = [[patient(home, note=None if n % 2 else f"note {n}") for n in range(130)] for home in homes]
    for home, some in zip(homes, records, strict=True):
        await home.put_many(some)
        await home.put(home.new(Letter, text="dear"))
    before = await stored(world, records[0][0].id)
    old = await world.key_client().data_key(homes[0].internal_id, homes[0].internal_id)
    told: list[tuple[int, int]] = []
    done = await world.rotator().run(lambda now: told.append((now.due, now.turning)))
    assert (done.running, done.due, done.turning) == (False, 0, 0)
    assert (told[0], (0, 3) in told, told[-1]) == ((3, 0), True, (0, 0))
    for home, some in zip(homes, records, strict=True):
        assert await world.generations(home) == [2]
        fresh = await world.home(home.subject_key)
        assert said(await fresh.all(Patient)) == said(some)
        assert {record.version for record in await fresh.all(Patient)} == {1}
        assert len(await fresh.find(Patient, email=EMAIL)) == len(some)
        assert (await fresh.all(Letter))[0].text == "dear"
    after = await stored(world, records[0][0].id)
    for name in ("email", "email_index", "phone", "phone_index", "note"):
        assert after[name] != before[name]
    for name in ("plan", "version", "created_at", "updated_at"):
        assert after[name] == before[name]
    assert after["email_index"] != blind_index(old.index_key, "patients", "email", b'"hans@example.eu"')
    again = await world.rotator().run(lambda now: None)
    assert (again.due, await world.generations(homes[0])) == (0, [3])


async def test_applications_with_either_keys_read_find_and_write_meanwhile(world: World) -> None:
    stale = await world.home()
    one = patient(stale)
    await stale.put(one, idempotency_key="one")
    rotator, turn = world.rotator(), await the_turn(world, stale)
    await rotator.begin(turn)
    fresh = await world.home(stale.subject_key)  # it knows both keys, `stale` those of before
    two, three = patient(fresh), patient(stale)
    assert await fresh.put(one, idempotency_key="one") == 1
    await fresh.put(two)
    await stale.put(three)  # under the keys of before, by what it holds
    for home in (fresh, stale, await world.home(stale.subject_key)):
        assert {record.id for record in await home.find(Patient, email=EMAIL)} == {one.id, two.id, three.id}
        assert (await home.get(Patient, two.id)) in await home.all(Patient)
        assert len((await home.page(Patient, {"email": EMAIL}, size=2)).records) == 2
    stale = await world.home(stale.subject_key, keys := world.key_client())
    await keys.data_key(stale.internal_id, stale.internal_id)
    await rotator.finish(turn)
    assert await world.generations(stale) == [2]
    assert (await fresh.find(Patient, email=EMAIL, plan="free")) == await stale.all(Patient)


async def test_rows_about_others_are_turned_by_the_key_of_each(world: World) -> None:
    home = await world.home()
    anna, bert, gone = uuid4(), uuid4(), uuid4()
    kept = [home.new(Referral, doctor=who, email=EMAIL) for who in (anna, bert, home.internal_id) for _ in range(2)]
    lost = home.new(Referral, doctor=gone, email=EMAIL)
    await home.put_many([*kept, lost])
    await world.key_client().shred(home.internal_id, gone)  # as in a cell that was restored to before its shred
    half = world.key_client()
    await half.data_key(home.internal_id, home.internal_id)
    turn = await the_turn(world, home)
    await world.rotator().begin(turn)
    between = await world.home(home.subject_key, half)  # it holds the subject's key of before, and nobody else's
    kept.append(between.new(Referral, doctor=anna, email=EMAIL))
    await between.put(kept[-1])
    for reader in (home, between, await world.home(home.subject_key)):
        assert said(await reader.find(Referral, email=EMAIL, doctor=anna)) == said([*kept[:2], kept[-1]])
    await world.rotator().finish(turn)
    async with superuser(world.key_storage) as root:
        rows = await root.fetch("SELECT principal, generation FROM keys.data_keys WHERE subject = $1", home.internal_id)
    assert {(UUID(int=row[0].int), row[1]) for row in rows} == {(who, 2) for who in (anna, bert, home.internal_id)}
    for reader in (home, between, await world.home(home.subject_key)):
        assert said(await reader.find(Referral, email=EMAIL)) == said(kept)
        assert await reader.find(Referral, doctor=gone) == [], "what nothing opens is not left to be found"
    await world.key_client().shred(home.internal_id, home.internal_id)  # its own; the others' rows stay readable
    done = await world.rotator().run(lambda now: None)
    assert (done.due, done.turning, await world.generations(home)) == (0, 0, [3, 3])
    found = await (await world.home(home.subject_key)).find(Referral, doctor=bert)
    assert said(found) == said(kept[2:4])


async def test_who_slept_through_a_rotation_writes_about_others_too(world: World) -> None:
    home = await world.home()
    one, two = [home.new(Referral, doctor=uuid4(), email=EMAIL) for _ in range(2)]
    await home.put_many([one, two])
    await world.rotator().run(lambda now: None)
    await home.put(one)
    (held,) = [each for each in await home.find(Referral, email=EMAIL) if each.id == two.id]
    await world.rotator().run(lambda now: None)
    await home.update(held, email="anna@example.eu")
    fresh = await world.home(home.subject_key)
    assert [each.id for each in await fresh.find(Referral, email="anna@example.eu")] == [two.id]


async def test_who_comes_back_after_an_erasure_begins_with_first_keys(world: World) -> None:
    home = await world.home()
    await home.put(patient(home))
    await world.rotator().run(lambda now: None)
    await world.root.execute("SELECT domicile.erase_subject($1, 1)", home.subject_key)
    await world.root.execute("UPDATE domicile.fences SET state = 'open' WHERE subject_key = $1", home.subject_key)
    back = await world.home(home.subject_key)
    await back.put(patient(back))
    assert (len(await back.find(Patient, email=EMAIL)), await world.generations(back)) == (1, [1])


async def test_who_slept_through_a_rotation_is_refused_and_asks_again(world: World) -> None:
    keys = world.key_client()
    asleep = await world.home(None, keys)
    one = patient(asleep)
    await asleep.put(one)
    await world.rotator().run(lambda now: None)
    assert (await keys.data_key(asleep.internal_id, asleep.internal_id)).generation == 1  # what it holds

    async def in_transaction() -> None:
        async with asleep.transaction() as work:
            await work.put(one)

    with pytest.raises(OutdatedKeys):  # nothing in it holds: it is its caller's to repeat
        await in_transaction()
    await in_transaction()

    async def update(home: Home) -> None:
        (held,) = await home.all(Patient)
        await world.rotator().run(lambda now: None)
        await home.update(held, note="better")

    async def put(home: Home) -> None:
        await home.all(Patient)
        await world.rotator().run(lambda now: None)
        await home.put(one)

    async def put_many(home: Home) -> None:
        await home.all(Patient)
        await world.rotator().run(lambda now: None)
        await home.put_many([one])

    for write in (put, put_many, update):
        await write(await world.home(asleep.subject_key))
    assert [record.note for record in await asleep.find(Patient, email=EMAIL)] == ["better"]
    assert len(await asleep.all(Patient)) == 1


async def test_the_database_refuses_old_keys_also_without_the_sdk(world: World) -> None:
    home = await world.home()
    await home.put(patient(home))
    await world.rotator().run(lambda now: None)
    for generation in ("", "1"):
        await world.root.execute("SELECT set_config('domicile.keys', $1, false)", generation)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await world.root.execute("UPDATE patients SET plan = 'pro' WHERE subject_key = $1", home.subject_key)
        assert refused.value.sqlstate == "DM009"


@pytest.mark.parametrize(
    "step",
    [
        *("turn", "withdraw", "retire"),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("make", "announce", "rows")),
    ],
)
async def test_an_end_at_each_step_loses_nothing(world: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kill -9 leaves it: the step is committed, and nothing after it is."""
    home = await world.home()
    kept = [patient(home, note=str(n)) for n in range(3)]
    await home.put_many(kept)
    rotator = world.rotator()
    place, name = {
        "announce": (rotator._fences, "announce_keys"),
        "withdraw": (rotator._fences, "withdraw_keys"),
        "rows": (rotator, "_turn_rows"),
    }.get(step, (rotator._keys, "step"))
    real = getattr(place, name)

    async def ended(*given: Any, **named: Any) -> Any:
        if name == "step" and given[1] != step:
            return await real(*given)
        await real(*given, **named)
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(place, name, ended)
        with pytest.raises(asyncio.CancelledError):
            await rotator.run(lambda now: None)
    for other in (home, await world.home(home.subject_key)):
        kept.append(patient(other, note=step))
        await other.put(kept[-1])
        assert {record.id for record in await other.find(Patient, email=EMAIL)} == {record.id for record in kept}
        assert said(await other.all(Patient)) == said(kept)
    after = await world.rotator().run(lambda now: None)
    assert (after.due, after.turning, len(await world.generations(home))) == (0, 0, 1)
    assert said(await (await world.home(home.subject_key)).all(Patient)) == said(kept)


async def test_two_rotators_among_many_writers_lose_no_update(world: World) -> None:
    homes = [await world.home() for _ in range(2)]
    for home in homes:
        await home.put_many([patient(home) for _ in range(150)])
    async with writers(world, homes) as acknowledged:
        await asyncio.gather(*(world.rotator().run(lambda now: None) for _ in range(2)))
    assert len(acknowledged) > 4
    await check(world, acknowledged)
    for home in homes:
        assert len(set(await world.generations(home))) == 1


async def test_a_rotation_is_paused_and_goes_on(world: World) -> None:
    homes = [await world.home() for _ in range(3)]
    for home in homes:
        await home.put(patient(home))
    rotator = world.rotator()
    turn = await the_turn(world, homes[0])
    await rotator.begin(turn)
    paused = await rotator.stop()
    assert (paused.running, paused.due, paused.turning) == (False, 2, 1)
    assert await world.turner().turns(None) == []
    assert await homes[0].find(Patient, email=EMAIL)
    status = await rotator.status()
    done = await world.rotator().run(lambda now: None)
    assert (status.started, done.due, done.turning) == (paused.started, 0, 0)


async def test_a_subject_that_is_not_open_here_and_a_shredded_one_hold_up_nobody(world: World) -> None:
    moved, gone, other = [await world.home() for _ in range(3)]
    for home in (moved, gone, other):
        await home.put(patient(home))
    await world.root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", moved.subject_key)
    turn = await the_turn(world, gone)
    await world.rotator().begin(turn)
    await world.key_client().shred(gone.internal_id)
    left = await world.rotator().run(lambda now: None)
    assert (left.due, left.turning) == (1, 0)
    assert (await world.generations(gone), await world.generations(moved)) == ([], [1])
    assert await world.generations(other) == [2]
    back = await world.home(gone.subject_key)
    assert await back.all(Patient) == []
    with pytest.raises(KeyDestroyed):
        await back.put(patient(back))


async def planted(world: World, row: UUID, value: bytes, table: str = "patients") -> None:
    async with world.root.transaction():
        await world.root.execute("SELECT set_config('domicile.keys', '9/9', true)")
        await world.root.execute(f"UPDATE {table} SET email = $2 WHERE id = $1", row, value)


@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_what_is_swapped_does_not_open(world: World, when: str) -> None:
    """Between rows, columns, tables, principals, subjects and cells, also where the same key sealed both."""
    keys = world.key_client()
    home, other = await world.home(None, keys), await world.home(None, keys)
    one, two, foreign = patient(home), patient(home), patient(other)
    mine, hers = (home.new(Referral, id=uuid4(), doctor=doctor, email=EMAIL) for doctor in DOCTORS)
    await home.put_many([one, two])
    await home.put_many([mine, hers, home.new(Referral, id=one.id, doctor=home.internal_id, email=EMAIL)])
    await other.put(foreign)
    before = await stored(world, one.id)
    if when == "during":
        await world.rotator().begin(await the_turn(world, home))
    elif when == "after":
        await world.rotator().run(lambda now: None)
    key = await world.key_client().data_key(home.internal_id, home.internal_id)

    async def referred(row: UUID) -> bytes:
        value: bytes = await world.root.fetchval("SELECT email FROM referrals WHERE id = $1", row)
        return value

    def sealed_elsewhere(**place: Any) -> bytes:
        """By the right key, for another place."""
        names: dict[str, Any] = {"cell": "eu-1", "jurisdiction": "eu", "subject": home.internal_id}
        sealer = Sealer(**{**names, "principal": home.internal_id, "key": AESGCM(key.key), **place})
        return sealer.seal("patients", "email", one.id, b'"hans@example.eu"')

    right = (await stored(world, one.id))["email"]
    sources = {
        "row": (await stored(world, two.id))["email"],
        "column": (await stored(world, one.id))["note"],
        "table": await referred(one.id),
        "subject": (await stored(world, foreign.id))["email"],
        "principal": sealed_elsewhere(principal=DOCTORS[0]),
        "cell": sealed_elsewhere(cell="eu-2"),
        "jurisdiction": sealed_elsewhere(jurisdiction="us"),
        "internal id": sealed_elsewhere(subject=other.internal_id),
    }
    if when == "after":
        sources["keys that were destroyed"] = before["email"]
    for swapped, raw in sources.items():
        await planted(world, one.id, raw)
        reader = await world.home(home.subject_key)
        with pytest.raises(DomicileError, match="does not belong"):
            await reader.get(Patient, one.id)
        if swapped == "row" and when != "before":  # and nothing is destroyed while it does not open
            with pytest.raises(DomicileError):
                await world.rotator().finish(await the_turn(world, home))
    assert len(await world.generations(home)) == {"before": 3, "during": 6, "after": 3}[when]
    for own in (right, sealed_elsewhere()):
        await planted(world, one.id, own)
        found = await (await world.home(home.subject_key)).get(Patient, one.id)
        assert found is not None
        assert said([found]) == said([one]), "the control: in its own place it opens"
    await planted(world, mine.id, await referred(hers.id), "referrals")
    fresh = await world.home(home.subject_key)
    with pytest.raises(DomicileError, match="does not belong"):
        await fresh.get(Referral, mine.id)


class WrongKeys(KeyClient):
    """Of a service that answers with a wrong key to write with."""

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey:
        key = await super().data_key(subject, principal, create=create)
        return key.model_copy(update={"key": b"w" * 32})


async def test_a_wrong_key_destroys_no_key_that_rows_need(world: World) -> None:
    home = await world.home()
    one = patient(home)
    await home.put(one)
    credentials = world.trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    wrong = WrongKeys(credentials, [world.address], jurisdiction="eu", cell="eu-1", cache_seconds=60)
    world.closing.append(wrong.close)
    turn = await the_turn(world, home)
    await world.rotator().begin(turn)
    await world.rotator(wrong).run(lambda now: None)
    assert await world.generations(home) == [1, 2]
    assert said(await (await world.home(home.subject_key)).all(Patient)) == said([one])


async def test_only_a_gateway_of_the_cell_turns_its_keys(world: World) -> None:
    home = await world.home()
    await home.put(patient(home))
    turn = await the_turn(world, home)
    for role, name, cell in (
        (Role.APP, "eu-1.fra", "eu-1"),
        (Role.OPERATOR, "root", "eu-1"),
        (Role.GATEWAY, "eu-2.fra", "eu-1"),
        (Role.GATEWAY, "eu-2.fra", "eu-2"),
    ):
        client = world.turner(role, name, cell)
        with pytest.raises(Forbidden):
            await client.step(turn, "retire")
        if (role, cell) != (Role.GATEWAY, "eu-2"):
            with pytest.raises(Forbidden):
                await client.rotation("go")
    for step in ("turn", "retire"):
        with pytest.raises(Conflict):  # out of turn
            await world.turner().step(turn, step)
    assert await world.generations(home) == [1]
