"""The end of a subject, whole or not at all: whoever is killed, away, too late or not entitled."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from unittest.mock import AsyncMock
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.databases import until
from domicile_testing.erasing import ARMED, Plan, Running, has_receipt, keys_of, lock_wanted, locked, read

from domicile.model import (
    GLOBAL,
    Conflict,
    FenceRefused,
    Forbidden,
    Pin,
    PinState,
    Role,
    Unavailable,
    UnknownSubject,
)
from domicile.model.wire import ErasureResponse
from domicile.sample import Note, Profile
from domicile.sdk import DomicileError
from domicile.service import ended
from domicile.telemetry import REFUSALS


async def test_all_of_a_subject_goes_and_the_receipt_says_what(world: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    user, alias = f"user-{uuid4()}", {"email": f"shared-{uuid4()}@example.eu"}
    home = await world.sign_up(user)
    await world.residency.claim(user, residence="DE", aliases=alias)
    key, subject = home.subject_key, home.internal_id
    answer = await world.residency.erase(user)
    said = read(answer)
    assert said.deleted is not None
    assert (said.subject, said.principals, said.whole_subject) == (subject, [subject], True)
    assert (said.deleted.subject_key, said.deleted.rows) == (key, {"notes": 2, "profiles": 1})
    assert said.deleted.tombstone == answer.epoch == home.epoch + 1
    assert said.backups_until > said.caches_until > said.iat
    assert await world.rows(key) == 0
    assert await keys_of(world, subject) == 0
    assert await world.fence(key) == ("retired", home.epoch + 1), "which a directory that lost the tombstone is told"
    assert await world.pin(key) == ("erased", home.epoch + 1)
    assert await world.pins.fetchval("SELECT count(*) FROM directory.aliases WHERE subject_key = $1", key) == 0
    fence = await world.cell.fetchrow(
        "SELECT alias_keys::text, internal_id FROM domicile.fences WHERE subject_key = $1", key
    )
    assert fence is not None
    assert fence["alias_keys"] == "{}"
    assert fence["internal_id"] != subject
    with pytest.raises(UnknownSubject):
        await world.residency.home(user)
    assert await world.residency.erase(user) == answer, "who asks again gets the same receipt"
    other = await world.residency.claim(f"user-{uuid4()}", residence="DE", aliases=alias)
    assert other.subject_key != key, "the alias was released"

    again = await world.sign_up(user)
    assert again.subject_key == key
    assert again.epoch > answer.epoch
    assert [note.text for note in await again.all(Note)] == [f"a note of {user}"] * 2
    for stale in (home.put(home.new(Note, text="late", topic="t")), home.all(Note)):
        with pytest.raises(FenceRefused):
            await stale
    assert await world.rows(key) == 3
    async with world.asking("eu", Role.OPERATOR, "fra") as operator:
        for epoch in (home.epoch, answer.epoch):
            assert await operator.erase(key, epoch=epoch) == answer, "who means the one before gets the receipt of then"
        with pytest.raises(Conflict):
            await operator.erase(key, epoch=again.epoch + 1)
        assert await world.rows(key) == 3
        for epoch in (home.epoch, answer.epoch):
            assert await world.residency.erase(user, epoch=epoch) == answer
        with pytest.raises(Conflict):
            await world.residency.erase(user, epoch=again.epoch + 1)
        with monkeypatch.context() as patch:  # who came back between the look at the pin and the erasure
            late = Pin(subject_key=key, jurisdiction="eu", cell="eu-1", epoch=home.epoch, state=PinState.ACTIVE)
            patch.setattr(world.residency._directory, "pin", AsyncMock(return_value=late))
            assert await world.residency.erase(user) == answer
        assert await world.rows(key) == 3
        second = await operator.erase(key, epoch=again.epoch)
        with pytest.raises(Conflict):
            await operator.erase(key, epoch=home.epoch)
    assert second.epoch > answer.epoch
    assert second.receipt != answer.receipt


async def test_whoever_was_never_here_is_unknown(world: Running) -> None:
    with pytest.raises(UnknownSubject):
        await world.residency.erase(f"user-{uuid4()}")


async def test_a_home_that_never_was_opened_can_be_erased(world: Running) -> None:
    home = await world.sign_up(f"user-{uuid4()}")
    user = f"user-{uuid4()}"
    (key,) = world.residency.subject_keys(user)
    await world.pins.execute("INSERT INTO directory.pins VALUES ($1, 'eu', 'eu-1', 7, 'active')", key)
    answer = await world.residency.erase(user)
    assert (answer.epoch, read(answer).principals) == (8, [])
    assert await world.rows(home.subject_key) == 3, "others' rows stay"


async def test_many_at_once_get_one_receipt(world: Running) -> None:
    user = f"user-{uuid4()}"
    home = await world.sign_up(user)

    async def erase() -> ErasureResponse:
        async with asyncio.timeout(30):
            while True:
                try:
                    return await world.residency.erase(user)
                except (Unavailable, FenceRefused):  # another one was in the way
                    continue

    answers = await asyncio.gather(*(erase() for _ in range(6)))
    assert len({answer.receipt for answer in answers}) == 1
    deleted = read(answers[0]).deleted
    assert deleted is not None
    assert deleted.rows == {"notes": 2, "profiles": 1}
    assert await world.cell.fetchval(
        "SELECT count(*) FROM domicile.erasures WHERE subject = $1", home.internal_id
    ) == 1  # fmt: skip


async def test_writers_under_way_are_waited_for_and_those_after_it_refused(world: Running) -> None:
    user = f"user-{uuid4()}"
    home = await world.sign_up(user)
    async with home.transaction() as transaction:
        await transaction.put(transaction.new(Note, text="under way", topic="t"))
        with pytest.raises(Unavailable):  # it holds the fence, and nothing was begun
            await world.residency.erase(user)
        assert await world.pin(home.subject_key) == ("active", home.epoch)
    assert await world.rows(home.subject_key) == 4
    acknowledged, refused = 4, 0

    async def write() -> None:
        nonlocal acknowledged, refused
        while True:
            try:
                await home.put(home.new(Note, text="one more", topic="t"))
                acknowledged += 1
            except FenceRefused:
                refused += 1
                return
            except Unavailable:  # somebody is about to take the fence
                continue

    writers = [asyncio.create_task(write()) for _ in range(4)]
    answer = await world.residency.erase(user)
    await asyncio.gather(*writers)
    deleted = read(answer).deleted
    assert deleted is not None
    assert refused == 4
    assert sum(deleted.rows.values()) == acknowledged
    assert await world.rows(home.subject_key) == 0


@pytest.mark.parametrize("part", ["directory", "keys", "gateway"])
async def test_nothing_is_begun_while_a_part_is_away(world: Running, part: str) -> None:
    user = f"user-{uuid4()}"
    home = await world.sign_up(user)
    await world.stop(part)
    with pytest.raises(Unavailable):
        await world.residency.erase(user)
    assert await world.fence(home.subject_key) == ("open", home.epoch)
    assert await world.rows(home.subject_key) == 3
    await world.start(part)
    await world.residency.erase(user)
    assert await world.rows(home.subject_key) == 0


STEPS = [  # which database holds it up, by what, and how fence, pin and keys stand when the gateway is killed there
    ("cell", "SELECT FROM domicile.fences FOR SHARE", ("open", "active", True)),
    ("directory", "LOCK TABLE directory.aliases IN EXCLUSIVE MODE", ("retired", "active", True)),
    ("keys", "LOCK TABLE keys.shredded IN EXCLUSIVE MODE", ("retired", "erased", True)),
    ("cell", ARMED, ("retired", "erased", False)),
]


async def test_killed_at_each_step_it_is_done_in_the_end_and_never_told_before(
    world: Running, plan: Plan, tmp_path: Path
) -> None:
    """Each step is held up by a lock in the database that it needs, until the gateway has been killed (SIGKILL)."""
    await world.stop("gateway")
    eyes = {"cell": world.cell, "keys": world.keys_store, "directory": world.pins}

    async def served() -> bool:
        with suppress(DomicileError):
            await world.residency.claim("probe", residence="DE")
            return True
        return False

    with ExitStack() as stack:
        process = stack.enter_context(plan.gateway_process(tmp_path / "gateway.log"))
        for where, lock, (fence, pin, has_keys) in STEPS:
            await until(served, "the gateway")
            user = f"user-{uuid4()}"
            home = await world.sign_up(user)
            async with locked(plan.storages[where], lock):
                asked = asyncio.create_task(world.residency.erase(user))
                await until(partial(lock_wanted, eyes[where]), "the step")
                process.kill()
                process.wait(10)
                assert not asked.done()
                await ended(asked)
                assert (await world.fence(home.subject_key))[0] == fence
                assert (await world.pin(home.subject_key))[0] == pin
                assert (await keys_of(world, home.internal_id) > 0) is has_keys
                assert not await has_receipt(world, home.subject_key)
            process = stack.enter_context(plan.gateway_process(tmp_path / "gateway.log"))
            await until(served, "the gateway")
            if fence == "retired":  # what was begun goes on by itself
                await until(partial(has_receipt, world, home.subject_key), "the rest")
            answer = await world.residency.erase(user)
            said = read(answer)
            assert said.deleted is not None
            assert (said.deleted.rows, said.principals) == ({"notes": 2, "profiles": 1}, [home.internal_id])
            assert (await world.pin(home.subject_key), answer.epoch) == (("erased", home.epoch + 1), home.epoch + 1)
            assert await keys_of(world, home.internal_id) == 0


async def test_only_its_own_cell_and_operators_of_its_jurisdiction_erase(world: Running) -> None:
    home = await world.sign_up(f"user-{uuid4()}")
    strangers = [
        ("us", Role.APP, "us-1.iad"),
        ("us", Role.OPERATOR, "iad"),
        (GLOBAL, Role.OPERATOR, "root"),
        ("eu", Role.APP, "eu-2.fra"),
        ("eu", Role.ROUTER, "fra"),
    ]
    refused = REFUSALS.labels("forbidden")._value.get()
    for place in strangers:
        async with world.asking(*place) as stranger:
            with pytest.raises(Forbidden):
                await stranger.erase(home.subject_key)
            with pytest.raises(Forbidden):
                await stranger.shred(home.subject_key, home.internal_id)
    assert REFUSALS.labels("forbidden")._value.get() >= refused + 2 * len(strangers)
    assert await world.rows(home.subject_key) == 3
    async with world.asking("eu", Role.OPERATOR, "fra") as operator:
        assert (await operator.erase(home.subject_key)).epoch == home.epoch + 1


async def test_the_role_that_deletes_can_do_nothing_else(world: Running, cell_storage: Storage) -> None:
    home = await world.sign_up(f"user-{uuid4()}")
    connection = await asyncpg.connect(
        host=cell_storage.host, port=cell_storage.port, user="domicile_eraser", database="domicile",
        ssl=cell_storage.context(Role.GATEWAY, "eu-1.fra"),
    )  # fmt: skip
    try:
        for statement in (
            "SELECT * FROM profiles",
            "DELETE FROM notes",
            "SELECT * FROM domicile.fences",
            "SELECT * FROM domicile.erasures",
            "DELETE FROM domicile.erasures",
            "SELECT domicile.delete_rows(NULL, NULL, NULL, 0)",
            "SELECT domicile.open_fence(NULL, NULL, NULL, NULL, NULL, NULL)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.execute("SET synchronous_commit = off")
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.fetch("SELECT * FROM domicile.erase_subject($1, $2)", home.subject_key, home.epoch)
        assert caught.value.sqlstate == "DM004"
    finally:
        await connection.close()
    assert [profile.plan for profile in await home.all(Profile)] == ["pro"]
