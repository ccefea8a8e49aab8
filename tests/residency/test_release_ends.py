"""A release whose gateways end at each of its steps: it goes on, it is the same, and each ledger has one line of it.

Also what the two cells know of each other's ledgers by then, over mutual TLS, and what the auditor's commands say.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from domicile_testing import Storage, Trust
from domicile_testing.border import PLANS, Cells, bordering
from domicile_testing.cell import forget_ledger, superuser
from domicile_testing.conditions import until_true
from domicile_testing.long import MINUTES

from domicile.cells.ledger.storage import LedgerStore
from domicile.model import DomicileError, Unavailable
from domicile.sample import Note, Profile
from domicile.sdk.store import ArrivalStore, ReleaseStore, apply_schema
from domicile.telemetry import RELEASE_FAULTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = 9
DECLARATION = """
name: {name}
to: {{jurisdiction: us, cell: us-1}}
purpose: analytics:plans
source: {{records: profiles}}
columns:
  plan: {{treatment: shareable}}
  email: {{treatment: pseudonym}}
quasi_identifiers: [plan]
k: 3
"""
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(trust: Trust, eu: Storage, us: Storage) -> AsyncIterator[Cells]:
    async with superuser(eu) as home, superuser(us) as abroad:
        await apply_schema(home, "eu-1", "eu", [Profile, Note])
        await apply_schema(abroad, "us-1", "us", [Profile, Note])
        async with bordering(trust, eu, us, {"eu-1": home, "us-1": abroad}) as running:
            await running.forget()
            for number in range(PEOPLE):
                await running.sign_up(number, plan=PLANS[number % 3], born=date(1960, 1, 1))
            yield running


@pytest.fixture
def name() -> str:
    return f"ends-{next(_NUMBERS)}"


async def arrived_once(cells: Cells, name: str) -> None:
    """However often it was begun: all rows are there, once, and each ledger has its one line."""
    done = await cells.run(name, 1)
    assert (done.state, done.reason, done.rows) == ("accepted", "", PEOPLE)
    for cell in ("eu-1", "us-1"):
        found = [json.loads(line) for line in await cells.ledger(cell)]
        mine = [each for each in found if each["detail"].get("release") == f"eu-1/{name}/1"]
        assert [(each["outcome"], each["decision_id"]) for each in mine] == [("passed", done.id)], cell
    rows = await cells.roots["us-1"].fetch("SELECT row FROM releases.rows WHERE id = $1", done.id)
    assert len({json.loads(row[0])["email"] for row in rows}) == len(rows) == PEOPLE
    assert not await cells.roots["us-1"].fetch("SELECT FROM releases.pages WHERE id = $1", done.id)


STEPS: dict[str, tuple[str, type[Any], str, int]] = {
    "asked for": ("eu-1", ReleaseStore, "begin", 1),
    "made": ("eu-1", ReleaseStore, "make", 1),
    "in the ledger at home": ("eu-1", LedgerStore, "append_once", 1),
    "let out": ("eu-1", ReleaseStore, "change", 1),
    "offered": ("us-1", ArrivalStore, "offer", 1),
    "a page there": ("us-1", ArrivalStore, "put_page", 1),
    "in the ledger abroad": ("us-1", LedgerStore, "append_once", 2),
    "rows abroad": ("us-1", ArrivalStore, "accept", 1),
    "a page told": ("eu-1", ReleaseStore, "sent", 1),
    "accepted": ("eu-1", ReleaseStore, "accepted", 1),
}


@pytest.mark.parametrize("step", STEPS)
async def test_who_ends_behind_a_step_goes_on_where_it_was(
    cells: Cells, name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is done, and nobody who did it learns so: another process begins."""
    cell, store, method, which = STEPS[step]
    done, reached, calls = getattr(store, method), asyncio.Event(), count(1)

    async def last(*arguments: Any) -> Any:
        result = await done(*arguments)
        if next(calls) == which:
            reached.set()
            raise Unavailable("ended")
        return result

    await cells.declare(DECLARATION.format(name=name))
    monkeypatch.setattr(store, method, last)
    with suppress(Unavailable):
        await cells.begin(name, 1)
    async with asyncio.timeout(60):
        await reached.wait()
    await cells.stop(cell)
    monkeypatch.undo()
    await cells.start(cell)
    await arrived_once(cells, name)


async def test_who_ends_behind_the_line_of_a_refusal_writes_no_second(
    cells: Cells, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More people to a row than there are: refused at home, and the gateway ends before it has said so."""
    done, reached = LedgerStore.append_once, asyncio.Event()

    async def last(store: LedgerStore, line: str) -> Any:
        await done(store, line)
        reached.set()
        raise Unavailable("ended")

    await cells.declare(DECLARATION.format(name=name).replace("k: 3", "k: 1000"))
    monkeypatch.setattr(LedgerStore, "append_once", last)
    with suppress(Unavailable):
        await cells.begin(name, 1)
    async with asyncio.timeout(60):
        await reached.wait()
    await cells.stop("eu-1")
    monkeypatch.undo()
    await cells.start("eu-1")
    ended = await cells.run(name, 1)
    assert ended.state == "refused"
    found = [json.loads(line) for line in await cells.ledger("eu-1")]
    mine = [each for each in found if each["detail"].get("release") == f"eu-1/{name}/1"]
    assert [each["outcome"] for each in mine] == ["refused"]


async def test_an_error_that_nobody_foresaw_holds_up_no_other_release(
    cells: Cells, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged by its class alone, counted, and the same release goes on when it has passed."""
    made, faults = ReleaseStore.make, RELEASE_FAULTS._value.get()
    broken = f"broken-{name}"

    async def make(store: ReleaseStore, release: Any, *arguments: Any) -> Any:
        if release.name == broken:
            raise RuntimeError("canary@example.org")
        return await made(store, release, *arguments)

    for each in (broken, name):
        await cells.declare(DECLARATION.format(name=each))
    monkeypatch.setattr(ReleaseStore, "make", make)
    await cells.begin(broken, 1)
    await cells.begin(name, 1)
    await arrived_once(cells, name)
    await until_true(lambda: _counted(faults), seconds=30)
    monkeypatch.undo()
    await arrived_once(cells, broken)


async def _counted(before: float) -> bool:
    return bool(RELEASE_FAULTS._value.get() > before)


# -- killed -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def held(cells: Cells, cell: str, table: str) -> AsyncIterator[asyncpg.Connection]:
    """Nobody changes a table, and whoever wants to waits; those are sent away at the end, unless they have ended."""
    async with superuser(cells.storages[cell]) as connection:
        await connection.execute(f"BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE")
        try:
            yield connection
        finally:
            await connection.execute("ROLLBACK")


async def wanted(cells: Cells, cell: str, table: str) -> None:
    """Until somebody waits for it."""
    statement = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass"

    async def waiting() -> bool:
        return bool(await cells.roots[cell].fetchval(statement, table))

    await until_true(waiting, seconds=120)


HOLDS: dict[str, list[tuple[str, str]]] = {
    "while it is kept": [("eu-1", "domicile.release_pages")],
    "before its line at home": [("eu-1", "ledger.lines")],
    "between its line and its state": [("eu-1", "ledger.lines"), ("eu-1", "domicile.releases")],
    "while it is offered": [("us-1", "releases.arrivals")],
    "before a page is there": [("us-1", "releases.pages")],
    "before its line abroad": [("us-1", "ledger.lines")],
    "between its line and its rows": [("us-1", "releases.rows")],
    "before its receipt is kept": [("us-1", "releases.rows"), ("eu-1", "domicile.release_pages")],
}


@MINUTES
@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("victims", [("eu-1",), ("us-1",), ("eu-1", "us-1")], ids="+".join)
async def test_who_is_killed_at_a_step_goes_on_where_it_was(cells: Cells, victims: tuple[str, ...]) -> None:
    """SIGKILL of the gateway at home, abroad, or both, while the database holds them up at each step."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    for cell in ("eu-1", "us-1"):
        await cells.stop(cell)
        running[cell] = cells.process(cell)
    try:
        for holds in HOLDS.values():
            name = f"killed-{next(_NUMBERS)}"
            await until_true(lambda name=name: answered(cells, name), seconds=120)  # type: ignore[misc]
            async with AsyncExitStack() as last:
                for number, (cell, table) in enumerate(holds):
                    before = last.pop_all()
                    await last.enter_async_context(held(cells, cell, table))
                    await before.aclose()  # what was held before goes on, as far as to this
                    if number == 0:
                        await cells.begin(name, 1)
                    await wanted(cells, cell, table)
                for victim in victims:
                    running[victim].kill()
                    running[victim].wait(30)
            for victim in victims:
                running[victim] = cells.process(victim)
            await until_true(lambda name=name: answered(cells, name), seconds=120)  # type: ignore[misc]
            await arrived_once(cells, name)
    finally:
        for cell, process in running.items():
            process.kill()
            process.wait(30)
            await cells.start(cell)


async def answered(cells: Cells, name: str) -> bool:
    """Whether both gateways answer, and the declaration is kept."""
    with suppress(DomicileError):
        await cells.all("us-1")
        await cells.declare(DECLARATION.format(name=name))
        return True
    return False


# -- what each holds of the other's ledger -------------------------------------------------------------------------


async def held_sizes(cells: Cells, by: str, of: str) -> int:
    return int(await cells.roots[by].fetchval("SELECT coalesce(max(size), 0) FROM ledger.heads WHERE cell = $1", of))


async def test_heads_are_exchanged_and_the_auditor_is_told(cells: Cells, name: str, tmp_path: Path) -> None:
    """Gateway to gateway over mutual TLS; then every command of the auditor, before and after a line is taken away."""
    await cells.declare(DECLARATION.format(name=name))
    await arrived_once(cells, name)
    for cell, other in (("eu-1", "us-1"), ("us-1", "eu-1")):
        size = len(await cells.ledger(other))
        await cells.stop(cell)  # who begins looks at once
        await cells.start(cell)
        await until_true(lambda cell=cell, other=other, size=size: grown(cells, cell, other, size))  # type: ignore[misc]

    page, ledgers, heads = tmp_path / "border.html", tmp_path / "ledgers", tmp_path / "us.heads.jsonl"
    shown = ["audit", "show", "--from", "eu", "--to", "us", "--since", "1d", "--kind", "release"]
    done = await cells.command(*shown, "--json", "--html", str(page))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["ok"], told["ledgers"][0]["witnesses"]) == (True, ["us-1"])
    row = next(each for each in told["rows"] if each["outcome"] == "passed")
    assert (row["cell"], row["from"], row["to"], row["purpose"]) == ("eu-1", "eu", "us", "analytics:plans")
    assert row["lines"] >= 1
    assert row["rows"] >= PEOPLE, "with what others of this purpose released before"
    done = await cells.command(*shown)
    assert "as it was signed" in done.stdout
    assert "analytics:plans" in done.stdout
    html = page.read_text()
    assert "analytics:plans" in html
    assert "http" not in html.replace("http-equiv", ""), "it needs nothing else"
    done = await cells.command("audit", "export", "--out", str(ledgers), "--json")
    lines = len(await cells.ledger("eu-1"))
    assert json.loads(done.stdout)["files"][0]["lines"] == lines
    done = await cells.command("audit", "heads", "--out", str(heads), "--json", jurisdiction="us")
    assert (done.exit_code, json.loads(done.stdout)["alarms"]) == (0, [])
    verify = ["audit", "verify", "--authorities", str(cells.trust.folder / "authorities"), "--deployment",
              cells.manifest.deployment, "--held", str(heads), "--json"]  # fmt: skip
    done = await cells.command(*verify, str(ledgers / "eu-1.jsonl"))
    assert (done.exit_code, json.loads(done.stdout)["ledgers"][0]["witnesses"]) == (0, ["us-1"])

    try:
        await cells.unlocked("DELETE FROM ledger.lines WHERE index = (SELECT max(index) FROM ledger.lines)")
        await cells.stop("us-1")
        await cells.start("us-1")
        await until_true(lambda: alarmed(cells))
        done = await cells.command("audit", "heads", jurisdiction="us")
        assert (done.exit_code, "ALARM: us-1 found the ledger of eu-1 rewound" in done.stdout) == (3, True)
        again = tmp_path / "again"
        await cells.command("audit", "export", "--out", str(again))
        done = await cells.command(*verify, str(again / "eu-1.jsonl"))
        assert (done.exit_code, json.loads(done.stdout)["ok"]) == (3, False)
        done = await cells.command(*shown, "--html", str(page))
        assert (done.exit_code, "NOT AS IT WAS SIGNED" in done.stdout) == (3, True)
        assert "This is NOT the ledger that was signed" in page.read_text()
    finally:
        for cell in ("eu-1", "us-1"):
            await cells.stop(cell)
            await forget_ledger(cells.roots[cell])


async def grown(cells: Cells, by: str, of: str, size: int) -> bool:
    return await held_sizes(cells, by, of) >= size


async def alarmed(cells: Cells) -> bool:
    return bool(await cells.roots["us-1"].fetchval("SELECT count(*) FROM ledger.alarms WHERE cell = 'eu-1'"))
