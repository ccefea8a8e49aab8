"""Read replicas: real standbys, late, paused, hanging and gone; what they may answer, and what only the primary may."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from uuid import UUID

import asyncpg
import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.cell import superuser
from domicile_testing.databases import until
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, forget_marks, serving
from domicile_testing.standbys import name_standbys, paused, running_database, running_standby

from domicile.directory.lag import Progress, Seen
from domicile.directory.replicas import Replica, Replicas
from domicile.directory.second_zone import SecondZone
from domicile.directory.storage import Storage as DirectoryStorage
from domicile.identity import Signer
from domicile.model import GLOBAL, Address, Pin, Position, Role, SubjectKey
from domicile.model.snapshot import MAX_RECORDS
from domicile.model.wire import ClaimRequest, ReplicaReport

GERMANY = ClaimRequest(residence="DE")
ONE, OTHER = UUID(int=1), UUID(int=2)
MOVE = "UPDATE directory.pins SET epoch = epoch + 1, state = 'moving' WHERE subject_key = $1"
FILL = (
    "INSERT INTO directory.pins SELECT '\\x01' || uuid_send(gen_random_uuid()), 'eu', 'eu-1', 1, 'active'"
    " FROM generate_series(1, $1::int)"
)


def at(sequence: int, generation: UUID = ONE) -> Position:
    return Position(generation=generation, sequence=sequence)


@pytest.mark.parametrize(
    ("replica", "late"),
    [
        pytest.param(at(9), 2.0, id="with everything: since the last look"),
        pytest.param(at(12), 2.0, id="ahead of the last look"),
        pytest.param(at(8), 3.0, id="since it had everything"),
        pytest.param(at(7), 3.0, id="between two looks"),
        pytest.param(at(5), 9.0, id="a look before"),
        pytest.param(at(4), inf, id="since before the first look"),
        pytest.param(at(9, OTHER), inf, id="of another generation"),
    ],
)
def test_lag_is_the_time_since_the_primary_had_no_more(replica: Position, late: float) -> None:
    progress = Progress()
    assert progress.lag(replica, 1.0) == inf
    for sequence, seen in ((5, 0.0), (5, 1.0), (7, 2.0), (7, 7.0), (9, 8.0)):
        progress.saw(Seen(at(sequence), seen))
    assert progress.lag(replica, 10.0) == pytest.approx(late)


def test_another_generation_of_the_primary_forgets_the_one_before() -> None:
    progress = Progress()
    progress.saw(Seen(at(5), 0.0))
    progress.saw(Seen(at(2, OTHER), 1.0))
    assert progress.lag(at(5), 1.0) == inf
    assert progress.lag(at(2, OTHER), 1.0) == 0.0


@dataclass
class Servers:
    primary: Storage
    standby: Storage


@pytest.fixture(scope="module")
def servers(trust: Trust) -> Iterator[Servers]:
    folder = trust.folder / "replicated"
    folder.mkdir()
    with (
        running_database(trust, folder / "fra") as primary,
        running_standby(trust, primary, folder / "iad", "iad") as standby,
    ):
        yield Servers(primary, standby)


@pytest.fixture
async def primary(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    async with superuser(servers.primary) as connection:
        yield connection


@pytest.fixture
async def standby(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    async with superuser(servers.standby) as connection:
        try:
            yield connection
        finally:
            await connection.execute("SELECT pg_wal_replay_resume()")


@asynccontextmanager
async def reading_from(
    addresses: list[str], servers: Servers, trust: Trust, operator: Signer, lag: float
) -> AsyncIterator[RunningDirectory]:
    settings = directory_settings(
        trust, servers.primary.address, operator, storage_replicas=addresses, storage_replica_lag=lag
    )
    async with serving(settings, trust, operator) as directory:
        yield directory


@pytest.fixture
async def begun(trust: Trust, operator: Signer, servers: Servers, primary: asyncpg.Connection) -> None:
    """A new directory, of which the standby knows."""
    await primary.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with reading_from([], servers, trust, operator, 5) as directory:
        await directory.publish(1)


@pytest.fixture
async def patient(
    begun: None, trust: Trust, operator: Signer, servers: Servers
) -> AsyncIterator[tuple[RunningDirectory, Pin]]:
    """A directory whose replica is hardly ever too late, and a pin that the replica has."""
    async with reading_from([servers.standby.address], servers, trust, operator, 300) as directory:
        pin = await directory.app.claim(any_key(), GERMANY)
        await caught_up(servers)
        await until_used(directory)
        yield directory, pin


@pytest.fixture
async def strict(begun: None, trust: Trust, operator: Signer, servers: Servers) -> AsyncIterator[RunningDirectory]:
    """A directory whose replica is not used when it is more than a second late."""
    async with reading_from([servers.standby.address], servers, trust, operator, 1) as directory:
        await until_used(directory)
        yield directory


async def report(directory: RunningDirectory) -> ReplicaReport:
    document = await directory.client(GLOBAL, Role.OPERATOR).replicas()
    (found,) = document.replicas
    return found


async def until_used(directory: RunningDirectory) -> None:
    async def used() -> bool:
        found = await report(directory)
        return found.state == "used" and found.behind == 0

    await until(used, "the replica is used")


async def caught_up(servers: Servers) -> None:
    """The standby has everything, whatever the directory knows of it."""
    sequence = "SELECT sequence FROM directory.clock"
    async with superuser(servers.primary) as primary, superuser(servers.standby) as standby:

        async def same() -> bool:
            reached: bool = await primary.fetchval(sequence) == await standby.fetchval(sequence)
            return reached

        await until(same, "replay")


async def pause(standby: asyncpg.Connection) -> None:
    await standby.execute("SELECT pg_wal_replay_pause()")

    async def is_paused() -> bool:
        state: str = await standby.fetchval("SELECT pg_get_wal_replay_pause_state()")
        return state == "paused"

    await until(is_paused, "replay pauses")


async def resolved(directory: RunningDirectory, *keys: SubjectKey) -> tuple[list[int], list[SubjectKey]]:
    """Epochs of those that have a pin, and those that have none."""
    answer = await directory.client("eu", Role.ROUTER).resolve(keys)
    return [pin.epoch for pin in answer.pins], answer.unknown


async def read_snapshot(directory: RunningDirectory) -> tuple[Position, dict[SubjectKey, int]]:
    """Its position, and the epoch of each pin."""
    known: dict[SubjectKey, int] = {}
    async with directory.client("eu", Role.ROUTER).snapshot() as snapshot:
        position = await snapshot.head()
        while (block := await snapshot.block()) is not None:
            known |= {SubjectKey(key): epoch for key, epoch, _, _ in block}
    return position, known


async def test_a_replica_answers_late_and_only_what_it_has(
    patient: tuple[RunningDirectory, Pin], primary: asyncpg.Connection, standby: asyncpg.Connection
) -> None:
    directory, pin = patient
    await pause(standby)
    await primary.execute(MOVE, pin.subject_key)

    async def of_the_replica() -> bool:
        return await resolved(directory, pin.subject_key) == ([1], [])

    await until(of_the_replica, "the replica answers, with what was")
    assert (await directory.app.pin(pin.subject_key)).epoch == 2, "of the primary, as it is"
    newcomer, nobody = any_key(), any_key()
    await directory.app.claim(newcomer, GERMANY)
    assert await resolved(directory, pin.subject_key, newcomer, nobody) == ([2, 1], [nobody]), "of the primary, whole"
    again = await directory.ask(
        "POST",
        f"/v1/pins/{pin.subject_key}/grants",
        {"incarnation": str(ONE)},
        role=Role.GATEWAY,
        name=f"{pin.cell}.fra",
    )
    assert again.body["code"] == "conflict", "no grant for a pin that moves, whatever a replica says"


async def test_a_snapshot_of_a_late_replica_and_the_stream_from_it_give_what_is(
    patient: tuple[RunningDirectory, Pin], primary: asyncpg.Connection, standby: asyncpg.Connection
) -> None:
    directory, pin = patient
    await pause(standby)
    await primary.execute(MOVE, pin.subject_key)
    later = await directory.app.claim(any_key(), GERMANY)
    router = directory.client("eu", Role.ROUTER)
    position, known = await read_snapshot(directory)
    assert known == {pin.subject_key: 1}
    assert position.sequence <= await standby.fetchval("SELECT sequence FROM directory.clock"), "not ahead of its data"
    async for changes in router.follow(position):
        for change in changes:
            assert not change.anew
            if change.pin is not None:
                assert change.pin.epoch > known.get(change.pin.subject_key, 0)
                known[change.pin.subject_key] = change.pin.epoch
        if len(known) == 2:
            break
    assert known == {pin.subject_key: 2, later.subject_key: 1}


async def test_a_paused_replica_is_noticed_and_left_until_it_has_caught_up(
    strict: RunningDirectory, servers: Servers, primary: asyncpg.Connection, standby: asyncpg.Connection
) -> None:
    pin = await strict.app.claim(any_key(), GERMANY)
    await caught_up(servers)
    await until_used(strict)
    await pause(standby)
    await primary.execute(MOVE, pin.subject_key)

    async def late() -> bool:
        return (await report(strict)).state == "late"

    await until(late, "the replica is late")
    found = await report(strict)
    assert found.lag_seconds is not None
    assert (found.behind, found.lag_seconds > 1) == (1, True)
    assert await resolved(strict, pin.subject_key) == ([2], []), "of the primary"
    metrics = (await strict.ask("GET", "/metrics", jurisdiction=GLOBAL, role=Role.OPERATOR)).body
    (line,) = [
        each
        for each in metrics.splitlines()
        if each.startswith("domicile_storage_replica_lag_seconds{") and found.address in each
    ]
    assert float(line.split()[1]) > 0.5
    await standby.execute("SELECT pg_wal_replay_resume()")
    await until_used(strict)
    assert await resolved(strict, pin.subject_key) == ([2], [])


async def test_a_quiet_primary_makes_no_replica_late(
    patient: tuple[RunningDirectory, Pin], standby: asyncpg.Connection
) -> None:
    """What is paused and lacks nothing is as late as the last look at the primary, and no later with each."""
    directory, _ = patient
    await pause(standby)
    for _ in range(3):
        before = (await report(directory)).lag_seconds
        assert before is not None

        async def looked() -> bool:
            found = await report(directory)
            return found.lag_seconds is not None and found.lag_seconds < before  # noqa: B023 - within its turn

        await until(looked, "another look")


async def test_a_replica_that_hangs_is_left_to_the_primary(
    patient: tuple[RunningDirectory, Pin], servers: Servers
) -> None:
    directory, pin = patient
    async with paused(servers.standby):
        for _ in range(3):
            assert await resolved(directory, pin.subject_key) == ([1], [])

        async def gone() -> bool:
            return (await report(directory)).state == "gone"

        await until(gone, "the replica is given up")
        assert (await read_snapshot(directory))[1] == {pin.subject_key: 1}
    await until_used(directory)


async def test_what_was_seen_of_a_replica_holds_until_the_next_look_ends(
    begun: None, trust: Trust, servers: Servers
) -> None:
    credentials = trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    async with Replica.connect(credentials, Address(servers.standby.address)) as replica:
        found = []

        async def look() -> None:
            await replica.look()
            found.append(replica.position)

        await look()
        async with paused(servers.standby):
            looking = asyncio.create_task(look())
            await asyncio.wait([looking], timeout=0.1)
            assert not looking.done()
            found.append(replica.position)
            await looking
        await look()
    seen = found[0]
    assert seen is not None
    assert found == [seen, seen, None, seen], "asked, while it hangs, after it did not answer, and asked again"


async def test_a_directory_starts_and_serves_without_its_replicas(
    begun: None, trust: Trust, operator: Signer, servers: Servers
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    async with reading_from([nowhere, servers.standby.address], servers, trust, operator, 300) as directory:
        pin = await directory.app.claim(any_key(), GERMANY)
        assert await resolved(directory, pin.subject_key) == ([1], [])
        reports = (await directory.client(GLOBAL, Role.OPERATOR).replicas()).replicas
        assert [each.address for each in reports] == [nowhere, servers.standby.address]
        assert reports[0].state == "gone"


async def test_what_a_replica_does_not_give_of_a_snapshot_the_primary_does(
    begun: None, trust: Trust, servers: Servers, primary: asyncpg.Connection
) -> None:
    await primary.execute(FILL, 2 * MAX_RECORDS + 100)
    end = Position(**dict(await primary.fetchrow("SELECT generation, sequence FROM directory.clock") or {}))
    await caught_up(servers)
    credentials = trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    seen = Seen(end, inf)
    async with (
        DirectoryStorage.connect(credentials, [Address(servers.primary.address)], SecondZone.ABSENT) as storage,
        Replicas.running(credentials, [servers.standby.address], lambda: seen, 300) as replicas,
    ):
        position, source = replicas.snapshot(end, storage)
        assert position == end
        assert source is not storage
        first = await source.block(b"")
        assert first is not None
        async with paused(servers.standby):
            second = await source.block(first.last_key)
            assert second is not None
            third = await source.block(second.last_key)
        assert third is not None
        assert await source.block(third.last_key) is None
        keys = [key for block in (first, second, third) for key, *_ in block]
        assert len(set(keys)) == 2 * MAX_RECORDS + 100
        assert keys == sorted(keys)


async def test_a_replica_of_another_history_is_not_used(begun: None, trust: Trust, servers: Servers) -> None:
    credentials = trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    async with Replicas.running(
        credentials, [servers.standby.address], lambda: Seen(at(1, OTHER), inf), 300
    ) as replicas:

        async def looked_at() -> bool:
            return [each.state for each in replicas.document().replicas] == ["another history"]

        await until(looked_at, "the replica has the schema")
        assert await replicas.resolved([any_key()]) is None


async def test_a_replica_that_is_ahead_of_the_second_zone_puts_no_snapshot_ahead(
    patient: tuple[RunningDirectory, Pin], servers: Servers, standby: asyncpg.Connection
) -> None:
    """A replica hears of a commit before the synchronous standby has answered for it, and then the primary shows it."""
    directory, _ = patient
    await name_standbys(servers.primary, "ams")  # which is nobody
    try:
        settled: int = await standby.fetchval("SELECT sequence FROM directory.clock")
        answer = await directory.ask("PUT", f"/v1/pins/{any_key()}", {"residence": "DE"})
        assert answer.status == 503

        async def ahead() -> bool:
            reached: int = await standby.fetchval("SELECT sequence FROM directory.clock")
            return reached == settled + 1

        await until(ahead, "the replica is ahead")
        await until_used(directory)
        position, known = await read_snapshot(directory)
        assert (position.sequence, len(known)) == (settled, 2), "what it has heard of, at the primary's position"
        async for changes in directory.client("eu", Role.ROUTER).follow(position):
            assert [change.anew for change in changes] == [False] * len(changes)
            break
    finally:
        await name_standbys(servers.primary, "")


async def test_an_operator_sees_them(
    patient: tuple[RunningDirectory, Pin], trust: Trust, standby: asyncpg.Connection, primary: asyncpg.Connection
) -> None:
    directory, pin = patient
    credentials = trust.credentials(GLOBAL, Role.OPERATOR, "ops")
    environment = os.environ | {
        "DOMICILE_DEPLOYMENT": "acme",
        "DOMICILE_CERTIFICATE": str(credentials.certificate),
        "DOMICILE_KEY": str(credentials.key),
        "DOMICILE_AUTHORITIES": str(credentials.authorities),
        "DOMICILE_DIRECTORY": directory.address,
    }

    async def asked(*options: str) -> tuple[int | None, str]:
        command = [sys.executable, "-c", "from domicile.directory.commands import app; app()", "replicas", *options]
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE)
        text, _ = await child.communicate()
        return child.returncode, text.decode()

    status, text = await asked()
    found = await report(directory)
    assert status == 0
    assert text.startswith(f"{directory.address}: {found.address}: used, ")
    await pause(standby)
    await primary.execute(MOVE, pin.subject_key)

    async def behind() -> bool:
        return bool((await report(directory)).behind)

    await until(behind, "a change behind")
    assert "1 changes behind" in (await asked())[1]
    status, text = await asked("--json")
    document = json.loads(text)
    assert (status, document["ok"]) == (0, True)
    assert document["processes"][0]["replicas"][0]["behind"] == 1
