"""What goes wrong between the SDK and its storage: COMMIT under cancellation, and errors that tell no value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from domicile_testing import Trust
from domicile_testing.homes import Surroundings

from domicile.model import SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import DomicileError, Home, Residency, Unavailable, WrongJurisdiction
from domicile.sdk.store.failures import untold

Somebody = Callable[[], tuple[str, SubjectKey]]
CANARY = "canary-51d0"


def profile() -> dict[str, Any]:
    return {"user": CANARY, "email": f"{CANARY}@example.eu", "password": CANARY, "plan": "free"}


async def put(home: Home) -> None:
    await home.put(home.new(Note, text="slow", topic="a"))


async def put_in_a_transaction(home: Home) -> None:
    async with home.transaction() as transaction:
        await transaction.put(transaction.new(Note, text="slow", topic="a"))


@pytest.mark.parametrize(("write", "commits"), [(put, "INSERT%"), (put_in_a_transaction, "COMMIT")])
async def test_who_is_cancelled_during_commit_leaves_the_connection_behind(
    residency: Residency,
    somebody: Somebody,
    eu_root: asyncpg.Connection,
    write: Callable[[Home], Coroutine[Any, Any, None]],
    commits: str,
) -> None:
    user, _ = somebody()
    home = await residency.claim(user, residence="DE")
    await home.put(home.new(Note, text="warm", topic="a"))
    # a deferred trigger makes COMMIT wait for a lock that the test holds
    await eu_root.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    try:
        await eu_root.execute("SELECT pg_advisory_lock(42)")
        putting = asyncio.create_task(write(home))
        waits = "SELECT pid FROM pg_stat_activity WHERE query LIKE $1 AND wait_event = 'advisory'"
        async with asyncio.timeout(10):
            while (server := await eu_root.fetchval(waits, commits)) is None:
                pass
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert await eu_root.fetchval(waits, commits) == server, "it was cut short"
        assert len(await home.all(Note)) == 1  # by another connection
        await eu_root.execute("SELECT pg_advisory_unlock(42)")
        async with asyncio.timeout(10):
            while len(await home.all(Note)) != 2:
                pass
    finally:
        await eu_root.execute("SELECT pg_advisory_unlock_all(); DROP FUNCTION slow() CASCADE")


WAITING = "SELECT pid FROM pg_locks WHERE relation = 'notes'::regclass AND NOT granted"


@pytest.mark.parametrize(
    ("ask", "again"),
    [
        pytest.param(lambda home, note: home.get(Note, note.id), True, id="a read"),
        pytest.param(lambda home, note: home.put(note, idempotency_key="k"), True, id="a write under its key"),
        pytest.param(lambda home, note: home.put_many([note], idempotency_key="k"), True, id="many under their key"),
        pytest.param(lambda home, note: home.put(note), False, id="a write"),
        pytest.param(lambda home, note: home.delete(Note, note.id), False, id="a deletion"),
    ],
)
async def test_what_may_be_done_twice_is_repeated_where_its_connection_is_lost(
    residency: Residency,
    somebody: Somebody,
    eu_root: asyncpg.Connection,
    ask: Callable[[Home, Note], Coroutine[Any, Any, Any]],
    again: bool,
) -> None:
    """As when a leader hands over: who may ask again is not told, who may not is told 503."""
    home = await residency.claim(somebody()[0], residence="DE")
    note = home.new(Note, text="x", topic="a")
    async with eu_root.transaction():
        await eu_root.execute("LOCK TABLE notes")
        asking = asyncio.create_task(ask(home, note))
        async with asyncio.timeout(10):
            while (server := await eu_root.fetchval(WAITING)) is None:
                pass
        assert await eu_root.fetchval("SELECT pg_terminate_backend($1)", server)
        if again:
            async with asyncio.timeout(10):
                while await eu_root.fetchval(WAITING) in (None, server):
                    pass
    if again:
        await asking
    else:
        with pytest.raises(Unavailable):
            await asking
    written = 1 if again and await home.get(Note, note.id) is not None else 0
    assert await eu_root.fetchval("SELECT coalesce(max(version), 0) FROM notes WHERE id = $1", note.id) == written


async def test_a_cancelled_write_leaves_nothing_and_the_pool_goes_on(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    held = asyncio.Event()

    async def hang() -> None:
        async with home.transaction() as transaction:
            await transaction.put(transaction.new(Note, text="x", topic="a"))
            held.set()
            await asyncio.Event().wait()

    for _ in range(10):  # more than the pool holds
        held.clear()
        task = asyncio.create_task(hang())
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await home.all(Note) == []


async def test_no_error_carries_what_the_database_said(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    wrong = home.new(Profile, **profile())
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: home.put(wrong.model_copy(update={"plan": CANARY + "\0"})),
        lambda: home.put(wrong.model_copy(update={"born": CANARY})),
        lambda: home.put(wrong.model_copy(update={"email": 5})),
        lambda: home.put(wrong.model_copy(update={"jurisdiction": CANARY})),
        lambda: home.find(Profile, plan=CANARY + "\0"),
    ]
    for attempt in attempts:
        with pytest.raises(DomicileError) as refusal:
            await attempt()
        error: BaseException | None = refusal.value
        while error is not None:
            assert CANARY not in f"{error} {error!r} {vars(error)}"
            assert not isinstance(error, asyncpg.PostgresError)
            error = error.__cause__ or error.__context__
    with pytest.raises(WrongJurisdiction):
        await home.put(wrong.model_copy(update={"jurisdiction": "us"}))


async def test_a_storage_that_is_gone_is_unavailable(
    around: Surroundings, somebody: Somebody, tmp_path: Path, trust: Trust
) -> None:
    zone = around.manifest.cells["eu-1"].zones["fra"]
    gone = zone.model_copy(update={"storage": "127.0.0.1:9"})
    cell = around.manifest.cells["eu-1"].model_copy(update={"zones": {"fra": gone}})
    around.directory.manifest = around.manifest.model_copy(update={"cells": {**around.manifest.cells, "eu-1": cell}})
    async with Residency.connect(around.settings(state=tmp_path)) as residency:
        with pytest.raises(Unavailable):
            await residency.ready()
        with pytest.raises(Unavailable):
            await residency.home(somebody()[0])


@pytest.mark.parametrize("lost", [asyncpg.InternalClientError, asyncpg.InterfaceError, ConnectionResetError, EOFError])
async def test_a_connection_that_breaks_under_a_statement_is_unavailable(lost: type[Exception]) -> None:
    async def breaks() -> None:
        raise lost(CANARY)

    with pytest.raises(Unavailable) as refusal:
        await untold(breaks())
    assert CANARY not in str(refusal.value)
    assert refusal.value.__context__ is None
