"""Nothing is acknowledged on one zone alone: real standbys that stop, hang, come back and take over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.databases import until
from domicile_testing.directories import (
    Answer,
    RunningDirectory,
    any_key,
    directory_settings,
    forget_marks,
    manifest,
    serving,
)
from domicile_testing.standbys import (
    USER,
    WAITING,
    name_standbys,
    paused,
    running_database,
    running_standby,
    wait_for_standbys,
)

from domicile.directory.second_zone import Replication, SecondZone, SecondZoneCheck, missing
from domicile.directory.storage import POOL_SIZE
from domicile.identity import Signer
from domicile.model import GLOBAL, Pin, Role, SubjectKey, Unavailable
from domicile.model.wire import ClaimRequest

GERMANY = ClaimRequest(residence="DE")
REPUBLISHED = "SELECT count(*) = 2 FROM directory.signing_keys WHERE ctid > '(0,2)'"
"""A process has published its two keys once more, as it does in the background soon after it started."""
WHOLE = Replication("on", "par", 1, 1, 1, "0/9", visible=True)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        pytest.param(WHOLE, None, id="in effect"),
        pytest.param(WHOLE._replace(level="remote_apply"), None, id="more than asked for"),
        pytest.param(WHOLE._replace(level="remote_write"), "synchronous_commit is remote_write", id="not on disk"),
        pytest.param(WHOLE._replace(level="local"), "synchronous_commit is local", id="local"),
        pytest.param(WHOLE._replace(level="off"), "synchronous_commit is off", id="off"),
        pytest.param(WHOLE._replace(names=" "), "no synchronous standby", id="nobody named"),
        pytest.param(WHOLE._replace(visible=False, streaming=0), "may not see", id="may not see them"),
        pytest.param(WHOLE._replace(streaming=0, confirmed=0), "0 of 1", id="none streams"),
        pytest.param(WHOLE._replace(needed=2), "1 of 2", id="one of two"),
        pytest.param(WHOLE._replace(confirmed=0), "not confirmed", id="hangs"),
    ],
)
def test_what_is_missing(found: Replication, why: str | None) -> None:
    refused = missing(found)
    assert (refused is None) == (why is None)
    if refused is not None:
        assert why
        assert why in refused.what
        assert refused.remedy


def test_after_an_unanswered_commit_the_standby_has_to_catch_up() -> None:
    check = SecondZoneCheck(SecondZone.REQUIRED)
    check.take(WHOLE)
    check.doubt()
    asked = check.asked
    assert asked is None, "where the log stands when it is asked next"
    with pytest.raises(Unavailable, match="not confirmed"):
        check.take(WHOLE._replace(confirmed=0, written="0/7"))
    assert check.asked == "0/7"
    check.take(WHOLE)
    assert check.asked == "0/0"


class Pair(NamedTuple):
    primary: Storage
    standby: Storage
    folder: Path


@pytest.fixture(scope="module")
def servers(trust: Trust) -> Iterator[Pair]:
    folder = trust.folder / "pair"
    folder.mkdir()
    with (
        running_database(trust, folder / "fra") as primary,
        running_standby(trust, primary, folder / "par") as standby,
    ):
        yield Pair(primary, standby, folder)


@pytest.fixture
async def pair(servers: Pair) -> Pair:
    await wait_for_standbys(servers.primary, "par")
    return servers


@pytest.fixture
async def watcher(pair: Pair) -> AsyncIterator[asyncpg.Connection]:
    async with superuser(pair.primary) as connection:
        yield connection


@asynccontextmanager
async def serving_from(
    storage: Storage, trust: Trust, operator: Signer, second_zone: str = "required"
) -> AsyncIterator[RunningDirectory]:
    settings = directory_settings(trust, storage.address, operator, second_zone=second_zone)
    async with serving(settings, trust, operator) as directory:
        yield directory


@pytest.fixture
async def required(
    pair: Pair, watcher: asyncpg.Connection, trust: Trust, operator: Signer
) -> AsyncIterator[RunningDirectory]:
    """A directory that requires a second zone and has one."""
    await watcher.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with serving_from(pair.primary, trust, operator) as directory:
        await directory.publish(1)
        await until(lambda: watcher.fetchval(REPUBLISHED), "no other COMMIT than a test's own")
        yield directory


OPERATOR: Any = {"jurisdiction": GLOBAL, "role": Role.OPERATOR}


async def claim(directory: RunningDirectory, key: SubjectKey) -> Answer:
    return await directory.ask("PUT", f"/v1/pins/{key}", {"residence": "DE"})


async def ready(directory: RunningDirectory) -> Answer:
    return await directory.ask("GET", "/readyz", **OPERATOR)


def refusal(answer: Answer) -> Any:
    """Why, with its remedy where there is one."""
    assert (answer.status, answer.body["code"]) == (503, "unavailable"), answer
    assert int(answer.headers["Retry-After"]) > 0
    return answer.body["detail"] + answer.body.get("remedy", "")


async def until_ready(directory: RunningDirectory) -> None:
    async def is_ready() -> bool:
        return (await ready(directory)).status == 200

    await until(is_ready, "ready")


async def until_waits(watcher: asyncpg.Connection) -> int:
    """The server's process whose COMMIT waits for the standby."""
    await until(lambda: watcher.fetchval(WAITING), "a COMMIT that waits")
    waiting: int = await watcher.fetchval(WAITING)
    return waiting


async def test_what_was_acknowledged_is_there_after_the_primary_was_killed(
    trust: Trust, operator: Signer, tmp_path: Path
) -> None:
    """And the history that begins on the standby is whole: nothing is asked of the cells."""
    forget_marks(trust)
    acknowledged: list[Pin] = []
    with (
        running_database(trust, tmp_path / "fra") as primary,
        running_standby(trust, primary, tmp_path / "par") as standby,
    ):
        await wait_for_standbys(primary, "par")
        async with serving_from(primary, trust, operator) as directory:
            await directory.publish(1)

            async def storm() -> None:
                client = directory.app
                while True:
                    try:
                        acknowledged.append(await client.claim(any_key(), GERMANY))
                    except Unavailable:
                        return

            storms = [asyncio.create_task(storm()) for _ in range(8)]
            while len(acknowledged) < 40:
                await asyncio.wait(storms, timeout=0.02)
            os.kill(primary.server.pid, signal.SIGKILL)
            await asyncio.gather(*storms)
        async with superuser(standby) as connection:
            before = await connection.fetchval("SELECT generation FROM directory.clock")
            assert await connection.fetchval("SELECT pg_promote()")
        await name_standbys(standby, "ams")
        with pytest.raises(Unavailable, match="0 of 1") as refused:
            async with serving_from(standby, trust, operator):
                raise AssertionError("a generation began in one zone")
        assert "start the standby" in refused.value.remedy
        with running_standby(trust, standby, tmp_path / "ams", "ams"):
            await wait_for_standbys(standby, "ams")
            async with serving_from(standby, trust, operator) as directory:
                operators = directory.client(GLOBAL, Role.OPERATOR)
                async with asyncio.timeout(10):  # others are given a moment to miss something
                    while (state := await operators.reconciliation()).generation == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert not state.reconciling
                keys = [pin.subject_key for pin in acknowledged]
                answers = [await directory.app.resolve(keys[n : n + 1000]) for n in range(0, len(keys), 1000)]
                assert [pin for answer in answers for pin in answer.pins] == acknowledged
                assert (await claim(directory, any_key())).status == 201


async def test_a_standby_that_is_gone_and_comes_back(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection, trust: Trust, operator: Signer
) -> None:
    known, newcomer = any_key(), any_key()
    assert (await claim(required, known)).status == 201
    assert (await ready(required)).status == 200
    await name_standbys(pair.primary, "ams")  # which is nobody
    for answer in (await ready(required), await claim(required, newcomer), await claim(required, known)):
        assert "0 of 1 synchronous standbys stream" in refusal(answer)
    assert (await required.ask("GET", f"/v1/pins/{known}")).status == 200, "what is known is told"
    refusal(await required.ask("PUT", "/v1/topology", dict(required.signed(2, manifest())), **OPERATOR))
    assert (await required.ask("GET", f"/v1/pins/{newcomer}")).status == 404, "nothing is left behind"
    async with serving_from(pair.primary, trust, operator) as restarted:
        assert (await restarted.ask("GET", f"/v1/pins/{known}")).status == 200, "it starts, to be read"
    assert await watcher.fetchval(WAITING) is None, "no COMMIT was tried"
    await name_standbys(pair.primary, "")
    assert "no synchronous standby" in refusal(await ready(required))
    await wait_for_standbys(pair.primary, "par")
    await until_ready(required)
    assert (await claim(required, newcomer)).status == 201


async def test_a_standby_that_hangs_is_not_waited_for_without_end(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection
) -> None:
    known, first = any_key(), any_key()
    assert (await claim(required, known)).status == 201
    async with paused(pair.standby):
        assert "not answered COMMIT" in refusal(await claim(required, first))
        for answer in await asyncio.gather(*(claim(required, any_key()) for _ in range(3 * POOL_SIZE))):
            assert "not confirmed" in refusal(answer), "refused at once"
        assert "not confirmed" in refusal(await ready(required))
        assert len(await watcher.fetch(WAITING)) == 1, "no further COMMIT waits at the server"
        assert (await required.ask("GET", f"/v1/pins/{first}")).status == 404, "it shows nothing of the first one"
        assert (await required.ask("GET", f"/v1/pins/{known}")).status == 200
    await until_ready(required)
    assert (await claim(required, first)).status == 200, "it came to be when the standby had it"
    assert (await claim(required, any_key())).status == 201


async def test_a_commit_whose_wait_somebody_cancels_is_not_acknowledged(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection
) -> None:
    """The server commits it in one zone and says yes with a warning; repeated, it is not acknowledged either."""
    key = any_key()
    async with paused(pair.standby):
        claiming = asyncio.create_task(claim(required, key))
        await watcher.execute("SELECT pg_cancel_backend($1)", await until_waits(watcher))
        assert "one zone" in refusal(await claiming)
        pin = (await required.ask("GET", f"/v1/pins/{key}")).body
        assert "not answered COMMIT" in refusal(await claim(required, key))
        gateway: Any = {"role": Role.GATEWAY, "name": f"{pin['cell']}.fra"}
        granting = await required.ask("POST", f"/v1/pins/{key}/grants", {"incarnation": str(uuid4())}, **gateway)
        assert "not confirmed" in refusal(granting), "no fence is opened for it"
    await until_ready(required)
    assert (await claim(required, key)).status == 200


async def test_commits_that_are_let_go_without_a_standby_are_not_acknowledged(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection
) -> None:
    """As a manager of failovers does that prefers to go on."""
    async with paused(pair.standby):
        claiming = asyncio.create_task(claim(required, any_key()))
        await until_waits(watcher)
        await name_standbys(pair.primary, "")
        assert "stopped waiting" in refusal(await claiming)


async def test_a_caller_that_goes_away_cancels_no_commit(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection
) -> None:
    key = any_key()
    async with paused(pair.standby):
        claiming = asyncio.create_task(claim(required, key))
        await until_waits(watcher)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)

        async def abandoned() -> bool:
            return "not confirmed" in str((await ready(required)).body)

        await until(abandoned, "the COMMIT is given up")
        assert await watcher.fetchval(WAITING) is not None, "the server goes on waiting"
        assert (await required.ask("GET", f"/v1/pins/{key}")).status == 404
    await until_ready(required)
    assert (await required.ask("GET", f"/v1/pins/{key}")).status == 200


@pytest.mark.parametrize("level", ["remote_write", "local", "off"])
async def test_the_level_cannot_be_lowered(
    required: RunningDirectory, pair: Pair, watcher: asyncpg.Connection, trust: Trust, operator: Signer, level: str
) -> None:
    await watcher.execute(f"ALTER ROLE {USER} SET synchronous_commit = '{level}'")
    try:
        async with serving_from(pair.primary, trust, operator) as lowered:
            for answer in (await ready(lowered), await claim(lowered, any_key())):
                assert f"synchronous_commit is {level}" in refusal(answer)
        async with serving_from(pair.primary, trust, operator, second_zone="absent") as lowered:
            assert "below on" in refusal(await claim(lowered, any_key())), "also where no second zone is required"
    finally:
        await watcher.execute(f"ALTER ROLE {USER} RESET synchronous_commit")


async def test_a_role_that_may_not_see_standbys_is_told_so(
    required: RunningDirectory, watcher: asyncpg.Connection
) -> None:
    await watcher.execute(f"REVOKE pg_read_all_stats FROM {USER}")
    assert "GRANT pg_read_all_stats" in refusal(await ready(required))


async def test_as_many_standbys_as_are_named_have_to_stream(required: RunningDirectory, pair: Pair) -> None:
    for names, needed in (("ANY 2 (par, ams)", 2), ("FIRST 3 (par, ams, waw)", 3), ("2 (par, ams)", 2)):
        await name_standbys(pair.primary, names)
        assert f"1 of {needed} synchronous" in refusal(await ready(required))
    for names in ("ANY 1 (ams, par)", "FIRST 1 (par, ams)", "*"):
        await name_standbys(pair.primary, names)
        await until_ready(required)
        assert (await claim(required, any_key())).status == 201
