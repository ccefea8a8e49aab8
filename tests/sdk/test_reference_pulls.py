"""A table that belongs to no subject is written in one cell, and every other cell reads one whole version of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from uuid import UUID

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.databases import until
from domicile_testing.pulling import Pulling, pulling

from domicile.cells.gateway import GatewaySettings
from domicile.cells.serve import serving_cell
from domicile.model import GLOBAL, DomicileError, Forbidden, InvalidInput, NotFound, Role, Unavailable
from domicile.model.wire import ReferencePage, ReferenceStates
from domicile.sdk import Conflict, Reference, Shareable
from domicile.sdk.store import apply_schema, pulls
from domicile.telemetry import render_metrics

OURS = Shareable("system.operations")
TABLE = "rates"
PATH = f"/.domicile/v1/references/{TABLE}"


class Rate(Reference, table=TABLE, key=("code", "valid")):
    code: Annotated[str, OURS]
    valid: Annotated[int, OURS]
    percent: Annotated[Decimal, OURS]
    since: Annotated[datetime | None, OURS] = None
    weight: Annotated[float, OURS] = 1.0
    token: Annotated[bytes, OURS] = b""
    mark: Annotated[UUID | None, OURS] = None
    active: Annotated[bool, OURS] = True


class LongerRate(Reference, table=TABLE, key=("code", "valid")):
    code: Annotated[str, OURS]
    valid: Annotated[int, OURS]
    percent: Annotated[Decimal, OURS]
    since: Annotated[datetime | None, OURS] = None
    weight: Annotated[float, OURS] = 1.0
    token: Annotated[bytes, OURS] = b""
    mark: Annotated[UUID | None, OURS] = None
    active: Annotated[bool, OURS] = True
    note: Annotated[str | None, OURS] = None


def rates(release: int, count: int = 7) -> list[Rate]:
    """``release`` is in each row, so that rows of two versions can be told apart."""
    return [Rate(code=f"c{number}", valid=release, percent=Decimal("9.90") + number) for number in range(count)]


ODD = [
    Rate(
        code='\N{SNOWMAN} "x"\n\\',
        valid=-(2**63),
        percent=Decimal("1.000000000000000000000000000001"),
        since=datetime(2026, 1, 1, 2, 3, 4, 567, tzinfo=UTC),
        weight=0.1 + 0.2,
        token=bytes(range(256)),
        mark=UUID(int=7),
        active=False,
    ),
    Rate(code="", valid=0, percent=Decimal("0.10"), weight=float("inf")),
]


@pytest.fixture
async def world(
    trust: Trust, eu: Storage, us: Storage, eu_root: asyncpg.Connection, us_root: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Pulling]:
    for root, cell, jurisdiction in ((eu_root, "eu-1", "eu"), (us_root, "us-1", "us")):
        if await root.fetchval("SELECT to_regclass($1) IS NOT NULL", TABLE):  # another file's, of other columns
            await apply_schema(root, cell, jurisdiction, [], drops=[TABLE])
        await apply_schema(root, cell, jurisdiction, [Rate])
    try:
        async with pulling(trust, tmp_path, {"eu-1": eu, "us-1": us}, {"eu-1": eu_root, "us-1": us_root}) as running:
            await running.name(rates="eu-1")
            yield running
    finally:
        for root, cell, jurisdiction in ((eu_root, "eu-1", "eu"), (us_root, "us-1", "us")):
            await apply_schema(root, cell, jurisdiction, [], drops=[TABLE])
            await root.execute("DELETE FROM domicile.reference_sources")


async def rows(world: Pulling, cell: str = "us-1") -> list[tuple[object, ...]]:
    return [tuple(row) for row in await world.root[cell].fetch(f"SELECT t.* FROM {TABLE} t ORDER BY valid, code")]


def metric(name: str) -> float:
    lines = render_metrics()[0].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{table="{TABLE}"}}'))


async def test_a_version_comes_whole_once_and_each_page_is_a_crossing(
    world: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "PAGE_ROWS", 4)
    await world.load(Rate, [*rates(1), *ODD])
    puller = world.puller()
    await puller.pull_all()
    assert await rows(world) == await rows(world, "eu-1")
    there, here = await world.state(TABLE, "eu-1"), await world.state(TABLE)
    assert (here.version, here.digest, here.rows) == (there.version, there.digest, 9)
    assert (here.source, here.origin, there.origin, here.seen) == ("eu-1", "eu-1", None, here.version)
    assert await world.crossings() == [("us", "gateway/us-1.iad", "reference-pull", "passed")] * 3
    written = await world.root["us-1"].fetchval(f"SELECT xmin::text FROM {TABLE} LIMIT 1")
    await puller.pull_all()
    assert await world.root["us-1"].fetchval(f"SELECT xmin::text FROM {TABLE} LIMIT 1") == written
    assert len(await world.crossings()) == 3, "who hears that he has the last version gets nothing"
    assert metric("domicile_reference_version") == here.version
    assert metric("domicile_reference_behind") == 0
    assert metric("domicile_reference_age_seconds") < 60


async def test_a_page_is_bounded_by_its_bytes_but_holds_one_row(
    world: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "PAGE_BYTES", 10)
    await world.load(Rate, rates(1, 3))
    await world.puller().pull_all()
    assert world.watched is not None
    assert [after for _, after in world.watched.asked] == [0, 1, 2]
    assert await rows(world) == await rows(world, "eu-1")
    with pytest.raises(InvalidInput, match="row 1 has more than"):
        await world.load(Rate, [rates(1)[0].model_copy(update={"code": "x" * 600_000, "token": bytes(600_000)})])


async def test_a_reader_never_sees_half_of_a_version(world: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "PAGE_ROWS", 3)
    seen: set[tuple[int, ...]] = set()
    ended = asyncio.Event()
    await world.load(Rate, rates(1))
    await world.puller().pull_all()

    async def read() -> None:
        while not ended.is_set():
            found = await world.root["us-1"].fetch(f"SELECT valid FROM {TABLE}")
            seen.add(tuple(sorted(row["valid"] for row in found)))

    reader = asyncio.create_task(read())
    for release in range(2, 6):
        await world.load(Rate, rates(release))
        await world.puller().pull_all()
    ended.set()
    await reader
    assert seen <= {(release,) * 7 for release in range(1, 6)}
    assert len(seen) > 1


async def test_who_is_interrupted_goes_on_behind_the_pages_that_have_come(
    world: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "PAGE_ROWS", 2)
    await world.load(Rate, rates(1, 3))
    await world.puller().pull_all()
    before = await rows(world)
    await world.load(Rate, rates(2))
    puller = world.puller()
    assert world.watched is not None
    world.watched.asked.clear()

    async def cut(page: ReferencePage) -> ReferencePage:
        assert world.watched is not None
        if world.watched.asked[-1][1] == 4:
            raise Unavailable("the line is cut")
        return page

    world.watched.answer = cut
    with pytest.raises(Unavailable):
        await puller.pull_all()
    assert await rows(world) == before
    assert metric("domicile_reference_behind") == 1
    world.watched.answer = None
    world.watched.asked.clear()
    await world.puller().pull_all()  # of a process that has just started
    assert [after for _, after in world.watched.asked] == [0, 4, 6]
    assert await rows(world) == await rows(world, "eu-1")
    assert await world.root["us-1"].fetchval("SELECT count(*) FROM domicile.reference_pages") == 0


async def test_a_table_that_is_loaded_meanwhile_is_begun_with_anew(
    world: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "PAGE_ROWS", 5)
    await world.load(Rate, rates(1))
    puller = world.puller()

    async def load(page: ReferencePage) -> ReferencePage:
        assert world.watched is not None
        world.watched.answer = None
        await world.load(Rate, rates(2))
        return page

    await puller.pull_all()
    await world.load(Rate, rates(3))
    assert world.watched is not None
    world.watched.answer = load
    await puller.pull_all()
    assert {row[1] for row in await rows(world)} == {1}
    await puller.pull_all()
    assert {row[1] for row in await rows(world)} == {2}


async def test_without_its_writer_a_cell_keeps_what_it_has_and_says_how_old_it_is(world: Pulling) -> None:
    await world.load(Rate, rates(1))
    puller = world.puller()
    await puller.pull_all()
    before = await rows(world)
    await world.root["us-1"].execute(
        "UPDATE domicile.reference_sources SET confirmed_at = clock_timestamp() - interval '1 hour'"
    )

    async def down(_: ReferencePage) -> ReferencePage:
        raise Unavailable("nobody is there")

    assert world.watched is not None
    world.watched.answer = down
    with pytest.raises(Unavailable):
        await puller.pull_all()
    assert await rows(world) == before
    state = await world.state(TABLE)
    assert (state.version, state.seen) == (state.seen, state.version)
    assert state.age is not None
    assert 3600 <= state.age < 3700
    assert metric("domicile_reference_age_seconds") >= 3600


async def test_it_is_loaded_where_it_is_written_and_nowhere_else(world: Pulling) -> None:
    await world.load(Rate, rates(1))
    await world.puller().pull_all()
    with pytest.raises(Conflict, match="is written in cell eu-1"):
        await world.load(Rate, rates(2), "us-1")
    await world.name(rates="us-1")  # the writer is another from now on, with the rows that it has
    await world.load(Rate, rates(3), "us-1")
    with pytest.raises(NotFound):
        await world.stores["eu-1"].page("eu-1", TABLE, None, 0)
    page = await world.stores["us-1"].page("us-1", TABLE, None, 0)
    assert {row[6] for row in page.rows} == {"3"}
    await world.stores["us-1"].name_sources({})
    await world.load(Rate, rates(4), "us-1")  # named nowhere: each cell by itself, as before


async def test_a_version_never_falls(world: Pulling) -> None:
    await world.load(Rate, rates(1))
    await world.load(Rate, rates(2))
    await world.puller().pull_all()
    before = await world.state(TABLE)
    await world.load(Rate, rates(1))
    # what a restore to an earlier time looks like
    await world.root["eu-1"].execute("UPDATE domicile.reference_loads SET version = 1 WHERE table_name = $1", TABLE)
    await world.puller().pull_all()
    after = await world.state(TABLE)
    assert (after.version, after.digest) == (before.version, before.digest)
    await world.load(Rate, rates(3))  # by the clock, above all that was
    await world.puller().pull_all()
    assert {row[1] for row in await rows(world)} == {3}


async def test_rows_that_are_not_the_writers_are_given_up(world: Pulling) -> None:
    await world.load(Rate, rates(1))
    await world.puller().pull_all()
    before = await rows(world)
    await world.load(Rate, rates(2))
    assert world.watched is not None

    async def forged(page: ReferencePage) -> ReferencePage:
        return page.model_copy(update={"rows": [[*row[:3], "666", *row[4:]] for row in page.rows]})

    async def short(page: ReferencePage) -> ReferencePage:
        return page.model_copy(update={"rows": []})

    async def ragged(page: ReferencePage) -> ReferencePage:
        return page.model_copy(update={"rows": [row[:-1] for row in page.rows]})

    async def another(page: ReferencePage) -> ReferencePage:
        return page.model_copy(update={"cell": "eu-2"})

    async def endless(page: ReferencePage) -> ReferencePage:
        return page.model_copy(update={"total": pulls.MAX_ROWS + 1})

    for answer in (forged, short, ragged, another, endless):
        world.watched.answer = answer
        with pytest.raises((Conflict, InvalidInput)):
            await world.puller().pull_all()
        assert await rows(world) == before
        assert await world.root["us-1"].fetchval("SELECT count(*) FROM domicile.reference_pages") == 0
    world.watched.answer = None
    await world.puller().pull_all()
    assert await rows(world) == await rows(world, "eu-1")


async def test_cells_whose_classes_differ_wait_for_the_schema(world: Pulling) -> None:
    await apply_schema(world.root["eu-1"], "eu-1", "eu", [LongerRate])
    longer = [LongerRate(code="a", valid=1, percent=Decimal(1), note="n")]
    await world.load(LongerRate, longer)
    with pytest.raises(Conflict, match="does not take"):
        await world.puller().pull_all()
    assert await rows(world) == []
    await apply_schema(world.root["us-1"], "us-1", "us", [LongerRate])
    await world.puller().pull_all()
    assert await rows(world) == await rows(world, "eu-1")


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "pull", "states"),
    [
        ("us", Role.GATEWAY, "us-1.iad", None, Forbidden),
        ("eu", Role.GATEWAY, "eu-2.par", None, Forbidden),
        ("us", Role.APP, "us-1.iad", Forbidden, Forbidden),
        ("eu", Role.APP, "eu-1.fra", Forbidden, None),
        ("eu", Role.OPERATOR, "fra", Forbidden, None),
        ("us", Role.OPERATOR, "iad", Forbidden, Forbidden),
        (GLOBAL, Role.OPERATOR, "root", Forbidden, Forbidden),
        ("eu", Role.ROUTER, "fra", Forbidden, Forbidden),
        ("us", Role.KEYS, "iad", Unavailable, Unavailable),
        ("us", Role.STORAGE, "iad", Unavailable, Unavailable),
        (GLOBAL, Role.DIRECTORY, "fra", Unavailable, Unavailable),
    ],
)
async def test_gateways_pull_and_nobody_else(
    world: Pulling,
    jurisdiction: str,
    role: Role,
    name: str,
    pull: type[DomicileError] | None,
    states: type[DomicileError] | None,
) -> None:
    await world.load(Rate, rates(1))
    async with world.caller(jurisdiction, role, name) as peer:
        for path, refusal in ((PATH, pull), ("/.domicile/v1/references", states)):
            if refusal is None:
                assert b'"version":' in await peer.call("GET", path)
            else:
                with pytest.raises(refusal):
                    await peer.call("GET", path)
        with pytest.raises(DomicileError):
            await peer.call("PUT", PATH)


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/.domicile/v1/references/nothing", NotFound),
        (f"{PATH}?after=-1", InvalidInput),
        (f"{PATH}?known=x", InvalidInput),
        (f"{PATH}?after=9999999999999999999", InvalidInput),
        (f"{PATH}?after=\N{SUPERSCRIPT TWO}", InvalidInput),
    ],
)
async def test_what_may_not_be_asked_is_refused_and_recorded(
    world: Pulling, path: str, refusal: type[DomicileError]
) -> None:
    await world.load(Rate, rates(1))
    async with world.caller("us", Role.GATEWAY, "us-1.iad") as peer:
        with pytest.raises(refusal):
            await peer.call("GET", path)
    assert await world.crossings() == [("us", "gateway/us-1.iad", "reference-pull", "refused")]


async def test_a_gateway_pulls_by_itself(world: Pulling, trust: Trust, us: Storage, tmp_path: Path) -> None:
    await world.load(Rate, rates(1))
    place = world.manifest.cells["us-1"].zones["iad"].gateway
    settings = trust.settings(
        "us",
        Role.GATEWAY,
        "us-1.iad",
        place,
        GatewaySettings,
        storage=[us.address],
        directory=[world.directory.address],
        operators=trust.folder / "operators",
        state=tmp_path / "us",
    )
    assert isinstance(settings, GatewaySettings)
    async with serving_cell(settings):

        async def pulled() -> bool:
            return await rows(world) == await rows(world, "eu-1")

        await until(pulled, "the first pull")
    async with world.caller("eu", Role.OPERATOR, "fra") as operator:
        answer = await operator.ask(ReferenceStates, "GET", "/.domicile/v1/references")
    assert [(state.table, state.source, state.origin) for state in answer.tables if state.table == TABLE] == [
        (TABLE, "eu-1", None)
    ]
