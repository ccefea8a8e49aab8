"""The end of a principal, its rows before its key; and of a subject's own, what it was called by, too."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import pytest
from domicile_testing.cell import key_client
from domicile_testing.databases import until
from domicile_testing.erasing import Plan, Running, has_receipt, keys_of, lock_wanted, locked, read

from domicile.model import (
    KeyDestroyed,
    Unavailable,
    UnknownSubject,
)
from domicile.model.wire import ErasureResponse
from domicile.sample import Note
from domicile.sdk import DomicileError, Home, Personal, Principal, Record, Shareable
from domicile.sdk.store import Fence, apply_schema
from domicile.service import ended


async def test_a_principal_is_shredded_with_its_rows_and_the_others_stay(world: Running) -> None:
    user, principal = f"user-{uuid4()}", uuid4()
    home = await world.sign_up(user)
    about = b"\0" + principal.bytes
    await world.cell.execute(
        "INSERT INTO notes (jurisdiction, subject_key, principal_key, id, epoch, text, topic) "
        "VALUES ('eu', $1, $2, $3, $4, 'x', 'shown abroad')",
        home.subject_key, about, uuid4(), home.epoch,
    )  # fmt: skip
    first = await world.residency.shred(user, principal)
    said = read(first)
    assert said.deleted is not None
    assert (said.deleted.rows, said.deleted.tombstone, said.whole_subject) == ({"notes": 1}, None, False)
    assert said.principals == [principal]
    assert await world.cell.fetchval("SELECT count(*) FROM notes WHERE principal_key = $1", about) == 0
    assert len(await home.all(Note)) == 2
    assert await world.residency.shred(user, principal) == first
    assert await world.rows(home.subject_key) == 3


async def names_of(world: Running, home: Home) -> tuple[int, str, str]:
    """Aliases in the directory; alias keys beside the fence, and its state."""
    key = home.subject_key
    kept = await world.cell.fetchrow(
        "SELECT alias_keys::text AS named, state FROM domicile.fences WHERE subject_key = $1", key
    )
    assert kept is not None
    count: int = await world.pins.fetchval("SELECT count(*) FROM directory.aliases WHERE subject_key = $1", key)
    return count, kept["named"], kept["state"]


async def test_who_is_shredded_by_his_own_id_is_found_by_no_alias_any_more(world: Running) -> None:
    user, alias = f"user-{uuid4()}", {"username": f"mine-{uuid4()}"}
    home = await world.sign_up(user)
    await world.residency.claim(user, residence="DE", aliases=alias)
    assert (await names_of(world, home))[0] == 2
    first = await world.residency.shred(user, home.internal_id)
    said = read(first)
    assert said.deleted is not None
    assert (said.deleted.rows, said.deleted.aliases) == ({"notes": 2, "profiles": 1}, 2)
    assert await names_of(world, home) == (0, "{}", "open")
    with pytest.raises(UnknownSubject):
        await world.residency.resolve_alias("username", alias["username"])
    other = await world.residency.claim(f"user-{uuid4()}", residence="DE", aliases=alias)
    assert await world.residency.shred(user, home.internal_id) == first, "nothing was there any more"
    assert (await names_of(world, other))[0] == 1, "which is somebody else's by now"
    await world.residency.claim(user, residence="DE", aliases={"email": f"new-{uuid4()}@example.eu"})
    again = read(await world.residency.shred(user, home.internal_id))
    assert again.deleted is not None
    assert again.deleted.aliases == 3, "counts add up, and the receipt is made anew"
    assert await names_of(world, home) == (0, "{}", "open")


async def test_a_shred_that_was_killed_before_the_directory_knew_goes_on(
    world: Running, plan: Plan, tmp_path: Path
) -> None:
    await world.stop("gateway")
    with ExitStack() as stack:
        process = stack.enter_context(plan.gateway_process(tmp_path / "gateway.log"))
        user = f"user-{uuid4()}"

        async def served() -> bool:
            with suppress(DomicileError):
                await world.residency.claim(user, residence="DE", aliases={"email": f"late-{user}@example.eu"})
                return True
            return False

        await until(served, "the gateway")
        home = await world.residency.home(user)
        await home.put(home.new(Note, text="mine", topic="t"))
        async with locked(plan.storages["directory"], "LOCK TABLE directory.aliases IN EXCLUSIVE MODE"):
            asked = asyncio.create_task(world.residency.shred(user, home.internal_id))
            await until(partial(lock_wanted, world.pins), "the step")
            process.kill()
            process.wait(10)
            await ended(asked)
            assert await keys_of(world, home.internal_id) == 1, "its key is the last to go"
        stack.enter_context(plan.gateway_process(tmp_path / "gateway.log"))

        await until(partial(has_receipt, world, home.subject_key), "the rest")
        assert await names_of(world, home) == (0, "{}", "open")
        assert await keys_of(world, home.internal_id) == 0


class Reply(Record, table="replies"):
    sender: Annotated[UUID, Principal("user.unique_id")]
    text: Annotated[str, Personal("user.content.private")]
    topic: Annotated[str, Shareable("user.content.topic")] = "shown abroad"


async def put_in_one(home: Home, record: Record) -> None:
    async with home.transaction() as transaction:
        await transaction.put(record)


async def test_a_shred_waits_for_a_transaction_and_nothing_about_that_principal_is_stored_after_it(
    world: Running, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction reads on and its writes are refused once the shred waits; what had written is waited for."""
    await apply_schema(world.cell, "eu-1", "eu", [Reply])
    user, anna, bert = f"user-{uuid4()}", uuid4(), uuid4()
    home = await world.sign_up(user)
    await home.put_many([home.new(Reply, sender=who, text=f"of {who}") for who in (anna, bert, home.internal_id)])
    about = b"\0" + anna.bytes

    async def waiting() -> bool:
        locks = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'domicile_eraser'"
        return bool(await world.cell.fetchval(locks))

    with monkeypatch.context() as patch:
        patch.setattr("domicile.sdk.store.erasures.WAIT_SECONDS", 0.1)
        async with home.transaction() as transaction:
            await transaction.put(transaction.new(Reply, sender=anna, text="under way"))
            with pytest.raises(Unavailable):  # it holds the fence, and nothing was begun
                await world.residency.shred(user, anna)
            assert len(await transaction.find(Reply, sender=anna)) == 2
    assert len(await home.find(Reply, sender=anna)) == 2
    row = await world.cell.fetchrow("SELECT * FROM replies WHERE principal_key = $1 LIMIT 1", about)
    assert row is not None

    async def shred() -> ErasureResponse:
        async with asyncio.timeout(60):
            while True:
                with suppress(Unavailable):  # on a slow machine it may give the fence up once before it is free
                    return await world.residency.shred(user, anna)

    async def write_too_late() -> None:
        async with home.transaction() as transaction:
            tasks.append(asyncio.create_task(shred()))
            await until(waiting, "the shred to wait for the transaction")
            assert len(await transaction.find(Reply, sender=anna)) == 2, "it sees what it saw"
            assert not tasks[0].done()
            await transaction.put(transaction.new(Reply, sender=anna, text="too late"))

    tasks: list[asyncio.Task[ErasureResponse]] = []
    with pytest.raises(Unavailable, match="about to move"):
        await write_too_late()
    (shredding,) = tasks
    said = read(await shredding)
    assert said.deleted is not None
    assert (said.principals, said.deleted.rows) == ([anna], {"replies": 2})
    held = await world.residency._vault.keys.data_key(home.internal_id, anna)
    assert held.principal == anna, "this application may hold the key for its time"
    for late in (home, await world.residency.home(user)):
        fresh = late.new(Reply, sender=anna, text="after it")
        for write in (lambda late, fresh: late.put(fresh), lambda late, fresh: late.put_many([fresh]), put_in_one):
            with pytest.raises(KeyDestroyed):
                await write(late, fresh)
    assert await world.cell.fetchval("SELECT count(*) FROM replies WHERE principal_key = $1", about) == 0
    await home.put(home.new(Reply, sender=bert, text="others go on"))
    assert len(await home.all(Reply)) == 3

    # the bytes of before, as a page, the log or a backup still has them
    async with key_client(plan.trust, plan.keys.bind) as keys:
        fence = Fence(home.subject_key, home.internal_id, home.epoch, "open")
        elsewhere = Home(replace(world.residency._vault, keys=keys), fence)
        await world.cell.execute("ALTER TABLE replies DISABLE TRIGGER domicile_check")
        await world.cell.execute("INSERT INTO replies SELECT ($1::replies).*", row)
        await world.cell.execute("ALTER TABLE replies ENABLE TRIGGER domicile_check")
        (bare,) = await elsewhere.find(Reply, sender=anna)
        assert bare.destroyed == {"text"}
    assert (await world.residency.shred(user, anna)).receipt, "and is shredded again"
    assert await world.cell.fetchval("SELECT count(*) FROM replies WHERE principal_key = $1", about) == 0
