"""The ledger in a real database: only ever added to, grouped, refused where it can't be written, and found out."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import application, caller, manifest
from domicile_testing.ledgers import NOON, crossing

from domicile.cells.ledger import asking, commands
from domicile.cells.ledger.appending import Ledger
from domicile.cells.ledger.checking import check
from domicile.cells.ledger.export import read, write
from domicile.cells.ledger.storage import LedgerStore
from domicile.cells.ledger.summary import Wanted
from domicile.cells.ledger.tree import EMPTY, Frontier, consistency, consistency_parts, consistent, leaf_hash, root
from domicile.client import GatewayClient
from domicile.identity import verify_head
from domicile.model import Conflict, DomicileError, Forbidden, InvalidInput, Pepper, Role, Unavailable
from domicile.model.crossings import Crossing
from domicile.model.ledger_wire import Carried, CarriedReport
from domicile.sdk.store import open_pool

HANS = Pepper(1, b"p" * 32).subject_key("hans")


@pytest.fixture
async def store(trust: Trust, cell_storage: Storage, cell: asyncpg.Connection) -> AsyncIterator[LedgerStore]:
    credentials = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    pool = await open_pool(
        credentials, [cell_storage.address], jurisdiction="eu", cell="eu-1", user="domicile_ledger", size=4
    )
    yield LedgerStore(pool)
    pool.terminate()


@pytest.fixture
async def ledger(store: LedgerStore) -> AsyncIterator[Ledger]:
    made = Ledger(store)
    running = asyncio.create_task(made.run())
    yield made
    await made.close(running)


async def tree_of(store: LedgerStore, size: int) -> bytes:
    return root(size, (await store.hashes([(0, size)])).__getitem__)


async def test_lines_of_several_writers_are_one_tree_without_gaps(store: LedgerStore, ledger: Ledger) -> None:
    """Across the places where whole subtrees are kept, with proofs from each size to the last."""
    second = Ledger(store)
    running = asyncio.create_task(second.run())
    told = await asyncio.gather(*((ledger if number % 2 else second).append(crossing(number)) for number in range(700)))
    await second.close(running)
    assert sorted(line.index for line in told) == list(range(700))
    kept = await store.lines(0, 1000)
    assert all(kept[line.index] == line.crossing.line() for line in told)
    assert all(leaf_hash(kept[line.index].encode()) == line.leaf for line in told)
    trees, tree = {0: EMPTY}, Frontier()
    for size, text in enumerate(kept, start=1):
        tree.add(leaf_hash(text.encode()))
        trees[size] = tree.root
    for size in (1, 255, 256, 257, 511, 512, 513, 700):
        assert await tree_of(store, size) == trees[size]
        hashes = await store.hashes(consistency_parts(size, 700))
        proof = consistency(size, 700, hashes.__getitem__)
        assert consistent(size, 700, trees[size], trees[700], proof)


class Counting:
    """A store that counts its groups, and is slow."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.gate = asyncio.Event()
        self.fails = False

    async def append(self, lines: Sequence[str]) -> int:
        first = sum(self.groups)
        await self.gate.wait()
        if self.fails:
            raise Forbidden("no right")
        self.groups.append(len(lines))
        return first

    async def append_once(self, line: str) -> tuple[int, str, bool]:
        return await self.append([line]), line, True


async def test_what_waits_during_a_commit_is_the_next_group() -> None:
    store = Counting()
    ledger = Ledger(store)
    running = asyncio.create_task(ledger.run())
    first = asyncio.create_task(ledger.append(crossing(0)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(ledger.append(crossing(number))) for number in range(1, 301)]
    gone = others[7]
    await asyncio.sleep(0)
    gone.cancel()
    store.gate.set()
    assert (await first).index == 0
    lines = await asyncio.gather(*(each for each in others if each is not gone))
    assert sorted(line.index for line in lines) == [number for number in range(1, 301) if number != 8]
    assert store.groups in ([1, 300], [301])
    store.fails = True
    with pytest.raises(Unavailable, match="nothing may cross"):
        await ledger.append(crossing(1))
    store.gate.clear()
    waiting = asyncio.create_task(ledger.append(crossing(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(ledger.close(running))
    store.gate.set()
    with pytest.raises(Unavailable):
        await waiting
    await closing


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.lines SET line = line",
        "DELETE FROM ledger.lines",
        "TRUNCATE ledger.lines",
        "DELETE FROM ledger.tiles",
        "UPDATE ledger.log SET id = gen_random_uuid()",
        "TRUNCATE ledger.alarms",
    ],
)
async def test_nobody_changes_a_line(
    store: LedgerStore, ledger: Ledger, cell: asyncpg.Connection, statement: str
) -> None:
    await ledger.append(crossing())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store._pool.execute(statement)
    if "tiles" not in statement and "log " not in statement:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await cell.execute(f"INSERT INTO ledger.lines SELECT 9, leaf, at, line FROM ledger.lines; {statement}")
        assert refused.value.sqlstate == "DM010"  # the superuser's own hand is stopped, too, until it lifts the trigger
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store._pool.execute("INSERT INTO ledger.lines VALUES (7, '', now(), '')")


async def read_abroad(trust: Trust, gateway: str) -> None:
    async with application(trust, gateway, "us", "us-1.iad") as app:
        await app.abroad(HANS, "none", {})


FULL = """
    CREATE OR REPLACE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER no_room BEFORE INSERT ON ledger.lines FOR EACH STATEMENT EXECUTE FUNCTION public.no_room()
"""
EMPTIED = "DROP TRIGGER no_room ON ledger.lines"
READ_ONLY = FULL.replace("disk_full", "read_only_sql_transaction")


@pytest.mark.parametrize("trouble", [FULL, READ_ONLY], ids=["disk full", "read-only"])
async def test_a_crossing_that_cannot_be_written_down_is_refused(
    trust: Trust, gateway: str, cell: asyncpg.Connection, trouble: str
) -> None:
    with pytest.raises(DomicileError) as before:
        await read_abroad(trust, gateway)
    assert before.value.code == "not-found"  # refused, and on record
    await cell.execute(trouble)
    try:
        with pytest.raises(Unavailable, match="nothing may cross"):
            await read_abroad(trust, gateway)
    finally:
        await cell.execute(EMPTIED)
    assert await cell.fetchval("SELECT count(*) FROM ledger.lines") == 1
    with pytest.raises(DomicileError):
        await read_abroad(trust, gateway)
    assert await cell.fetchval("SELECT count(*) FROM ledger.lines") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here: needs the rights of root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_crossing_is_refused_while_the_disk_is_really_full(
    trust: Trust, gateway: str, cell: asyncpg.Connection, small_disk: Path
) -> None:
    """The ledger's lines lie on a disk that somebody else fills."""
    await cell.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    await cell.execute("ALTER TABLE ledger.lines SET TABLESPACE small")
    filler = small_disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        with pytest.raises(Unavailable, match="nothing may cross"):
            await read_abroad(trust, gateway)
        assert await cell.fetchval("SELECT count(*) FROM ledger.lines") == 0
        filler.unlink()
        with pytest.raises(DomicileError) as after:
            await read_abroad(trust, gateway)
        assert after.value.code == "not-found"
        assert await cell.fetchval("SELECT count(*) FROM ledger.lines") == 1
    finally:
        filler.unlink(missing_ok=True)
        await cell.execute("ALTER TABLE ledger.lines SET TABLESPACE pg_default")
        await cell.execute("DROP TABLESPACE small")


async def test_a_release_that_is_said_again_has_one_line(store: LedgerStore, ledger: Ledger) -> None:
    """By whoever says it, at once or later; one that was refused under the same id is another thing."""
    passes: dict[str, Any] = {"kind": "release", "decision_id": "0" * 64}
    await ledger.append(crossing(1, **passes, outcome="refused"))
    told = await asyncio.gather(
        *(each.append_once(crossing(n, **passes)) for n in range(3) for each in (ledger, Ledger(store)))
    )
    assert {line.index for line in told} == {1}
    assert len({line.leaf for line in told}) == 1
    assert (await ledger.append_once(crossing(9, **passes))).leaf == told[0].leaf
    assert (await ledger.append_once(crossing(9, kind="release", decision_id="1" * 64))).index == 2
    assert len(await store.lines(0, 10)) == 3


def auditor(trust: Trust, gateway: str) -> asking.Auditor:
    return asking.Auditor(
        trust.credentials("eu", Role.OPERATOR, "fra"), manifest(gateway), trust.folder / "authorities"
    )


async def exported(auditor: asking.Auditor) -> bytes:
    stream = io.BytesIO()
    async with asking.exporting(auditor, "eu-1", None, []) as export:
        write(export, stream)
    return stream.getvalue()


TAMPERING = {
    "changed": "UPDATE ledger.lines SET line = replace(line, '\"us\"', '\"eu\"') WHERE index = 3",
    "hashed anew": "UPDATE ledger.lines SET line = 'x', leaf = sha256('\\x0078') WHERE index = 3",
    "removed": "DELETE FROM ledger.lines WHERE index = 3; UPDATE ledger.lines SET index = index - 1 WHERE index > 3",
    "reordered": "UPDATE ledger.lines SET index = -1 WHERE index = 3;"
    " UPDATE ledger.lines SET index = 3 WHERE index = 4;"
    " UPDATE ledger.lines SET index = 4 WHERE index = -1",
    "truncated": "DELETE FROM ledger.lines WHERE index >= 3",
}


@pytest.mark.parametrize("how", TAMPERING)
async def test_what_a_superuser_does_is_found_by_an_older_head(
    trust: Trust, gateway: str, cell: asyncpg.Connection, ledger: Ledger, how: str
) -> None:
    for number in range(6):
        await ledger.append(crossing(number))
    known, authority = auditor(trust, gateway), trust.authorities["eu"].pem()
    before = await exported(known)
    assert check(read(io.BytesIO(before), "before"), [], lambda head: known.verify(head, "eu")).ok
    held = read(io.BytesIO(before), "before").heads
    await cell.execute(
        "ALTER TABLE ledger.lines DROP CONSTRAINT IF EXISTS lines_index_check;"
        f" SET session_replication_role = replica; {TAMPERING[how]}; RESET session_replication_role"
    )
    after = read(io.BytesIO(await exported(known)), "after")
    found = check(after, held, lambda head: verify_head(head, known.manifest.deployment, authority))
    assert not found.ok


async def test_the_ledger_is_told_to_who_may_know_and_to_nobody_else(
    trust: Trust, gateway: str, ledger: Ledger
) -> None:
    await ledger.append(crossing())
    path = "/.domicile/v1/ledger"
    allowed = {
        "head": {("us", Role.GATEWAY, "us-1.iad"), ("us", Role.OPERATOR, "iad"), ("eu", Role.OPERATOR, "fra")},
        "held": {("us", Role.GATEWAY, "us-1.iad"), ("us", Role.OPERATOR, "iad"), ("eu", Role.OPERATOR, "fra")},
        "lines": {("eu", Role.OPERATOR, "fra")},
    }
    callers = [
        ("eu", Role.OPERATOR, "fra"), ("us", Role.OPERATOR, "iad"), ("us", Role.GATEWAY, "us-1.iad"),
        ("us", Role.APP, "us-1.iad"), ("eu", Role.APP, "eu-1.fra"), ("eu", Role.ROUTER, "fra"),
        ("us", Role.KEYS, "iad"),
    ]  # fmt: skip
    for who in callers:
        async with caller(trust, gateway, *who) as peer:
            for name, by in allowed.items():
                if who in by:
                    assert await peer.call("GET", f"{path}/{name}")
                else:
                    with pytest.raises((Forbidden, Unavailable)):
                        await peer.call("GET", f"{path}/{name}")


async def test_what_may_not_be_asked_of_a_ledger_is_refused(trust: Trust, gateway: str) -> None:
    async with caller(trust, gateway, "eu", Role.OPERATOR, "fra") as operator:
        for query in ("first=x", "first=-1", "since=x", "since=1&first=1", "since=1e9"):
            with pytest.raises(InvalidInput):
                await operator.call("GET", f"/.domicile/v1/ledger/lines?{query}")
        with pytest.raises(Conflict):
            await operator.call("GET", "/.domicile/v1/ledger/lines?first=7")


async def test_an_auditor_is_shown_what_crossed_from_a_ledger_that_was_checked(
    trust: Trust, gateway: str, ledger: Ledger, cell: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await ledger.append(crossing(number))
    await ledger.append(crossing(0, source="us", destination="eu"))

    async def known() -> asking.Auditor:
        return auditor(trust, gateway)

    monkeypatch.setattr(asking, "auditor", known)
    every = await commands._show(Wanted(), NOON)
    asked = await commands._show(Wanted("eu", since=NOON + timedelta(minutes=1)), NOON)
    assert (every["ok"], [row["lines"] for row in every["rows"]]) == (True, [3, 1])
    assert (asked["ok"], [row["lines"] for row in asked["rows"]]) == (True, [2])
    assert [(each["first"], each["size"]) for each in asked["ledgers"]] == [(1, 4)]
    with pytest.raises(InvalidInput, match="no jurisdiction mars"):
        await commands._show(Wanted("mars"), NOON)


async def test_a_cell_that_does_not_answer_is_named_and_the_others_are_told(
    trust: Trust, gateway: str, ledger: Ledger, cell: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.append(crossing(0))
    known = auditor(trust, gateway)
    answering = dict.fromkeys(known.manifest.cells, True)
    exporting = asking.exporting

    async def whom() -> asking.Auditor:
        return known

    @asynccontextmanager
    async def asked(who: asking.Auditor, name: str, *arguments: Any) -> AsyncIterator[Any]:
        if not answering[name]:
            raise Unavailable("no gateway answers", where=name)
        async with exporting(who, "eu-1", *arguments) as export:
            yield export

    monkeypatch.setattr(asking, "auditor", whom)
    monkeypatch.setattr(asking, "exporting", asked)
    monkeypatch.setattr(asking.Auditor, "cells", lambda _: ["eu-1", "us-1"])
    answering["us-1"] = False
    shown = await commands._show(Wanted(), NOON)
    assert (shown["ok"], [row["lines"] for row in shown["rows"]]) == (False, [1])
    assert [(each["cell"], each["code"]) for each in shown["missing"]] == [("us-1", "unavailable")]
    assert [each["cell"] for each in shown["ledgers"]] == ["eu-1"]
    answering["eu-1"] = False
    with pytest.raises(Unavailable, match="no cell's ledger"):
        await commands._show(Wanted(), NOON)


def report(**more: object) -> CarriedReport:
    ways = [Carried(source="eu", destination="us", kind="request", bytes=5)]
    given = {"zone": "fra", "run": "7b1c6d86-56b3-4c02-9a1b-94d7fbb1a3b0", "number": 0, "since": 1, "until": 31}
    return CarriedReport.model_validate({"ways": ways} | given | more)


async def test_what_a_router_carried_is_entered_by_it_alone(
    trust: Trust, gateway: str, cell: asyncpg.Connection
) -> None:
    client = GatewayClient(trust.credentials("eu", Role.ROUTER, "fra"), manifest(gateway), "eu-1")
    try:
        assert (await client.carried(report())).lines == 1
        assert (await client.carried(report())).lines == 1  # as after a lost answer
        for wrong in (
            report(zone="par"),
            report(until=0),
            report(ways=[Carried(source="us", destination="br", kind="answer", bytes=1)]),
        ):
            with pytest.raises((Forbidden, InvalidInput)):
                await client.carried(wrong)
    finally:
        await client.close()
    kept = [Crossing.parse(row["line"]) for row in await cell.fetch("SELECT line FROM ledger.lines")]
    assert len(kept) == 2
    assert {(each.kind, each.caller, each.bytes, each.decision_id) for each in kept} == {
        ("hairpin", "router/fra", 5, "7b1c6d86-56b3-4c02-9a1b-94d7fbb1a3b0:0")
    }
    for jurisdiction, role, name in (("us", Role.ROUTER, "iad"), ("eu", Role.APP, "eu-1.fra")):
        async with caller(trust, gateway, jurisdiction, role, name) as stranger:
            with pytest.raises(Forbidden):
                await stranger.call("POST", "/.domicile/v1/ledger/carried", body=report())
