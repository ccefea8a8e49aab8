"""What a home can be asked and told beside put and get: pages, ranges, many rows at once, repeated requests."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from domicile.model import SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import (
    Conflict,
    FenceRefused,
    Home,
    InvalidInput,
    Page,
    Personal,
    Range,
    Record,
    Residency,
    Shareable,
    UnknownSubject,
    UnsupportedQuery,
    WrongJurisdiction,
)
from domicile.sdk.store import apply_schema

Somebody = Callable[[], tuple[str, SubjectKey]]
CANARY = "canary-51d0"
FIRST = date(1970, 1, 1)


class Entry(Record, table="entries"):
    name: Annotated[str, Personal("user.name", find=True)]
    born: Annotated[date | None, Personal("user.demographic.date_of_birth", sealed=False)] = None
    rank: Annotated[int, Shareable("user.account.rank")]
    label: Annotated[str | None, Shareable("user.account.label")] = None


@pytest.fixture(autouse=True)
async def _schema(eu_root: asyncpg.Connection) -> None:
    await apply_schema(eu_root, "eu-1", "eu", [Profile, Note, Entry])


@pytest.fixture
async def home(residency: Residency, somebody: Somebody) -> Home:
    return await residency.claim(somebody()[0], residence="DE")


def entry(home: Home, number: int, **changes: Any) -> Entry:
    born = None if number % 5 == 4 else FIRST + timedelta(days=number % 3)
    return home.new(Entry, **{"name": f"n{number % 2}", "born": born, "rank": number // 3, **changes})


@pytest.fixture
async def entries(home: Home, residency: Residency, somebody: Somebody) -> list[Entry]:
    """Twenty of the home, and as many of somebody else that nothing may find."""
    stranger = await residency.claim(somebody()[0], residence="DE")
    await stranger.put_many([entry(stranger, number) for number in range(20)])
    made = [entry(home, number) for number in range(20)]
    assert await home.put_many(made) == [1] * 20
    return made


# -- pages and ranges --------------------------------------------------------------------------------


async def pages(home: Home, size: int, **question: Any) -> list[Entry]:
    found: list[Entry] = []
    after: str | None = None
    while True:
        page: Page[Entry] = await home.page(Entry, size=size, after=after, **question)
        assert len(page.records) == size or page.next is None
        found += page.records
        if page.next is None:
            return found
        after = page.next


ORDERS = ["born", "-born", "rank", "-rank", "created_at", "-created_at", None]


@pytest.mark.parametrize(
    ("order", "size"), [("born", 1), ("-rank", 1), *((order, size) for order in ORDERS for size in (7, 10, 20, 21))]
)
async def test_pages_are_the_whole_in_its_order(home: Home, entries: list[Entry], size: int, order: str | None) -> None:
    found = await pages(home, size, order_by=order)
    assert sorted(each.id for each in found) == sorted(each.id for each in entries)
    name = (order or "created_at").removeprefix("-")
    if name != "created_at":
        values = [getattr(each, name) for each in found]
        known = [value for value in values if value is not None]
        assert values == [*sorted(known, reverse=bool(order and order[0] == "-")), *[None] * (20 - len(known))]


async def test_ranges_and_equality_go_together(home: Home, entries: list[Entry]) -> None:
    def expected(keep: Callable[[Entry], bool]) -> set[UUID]:
        return {each.id for each in entries if keep(each)}

    born = FIRST + timedelta(days=1)
    questions: list[tuple[dict[str, Any], set[UUID]]] = [
        ({"rank": Range(at_least=2, below=5)}, expected(lambda e: 2 <= e.rank < 5)),
        ({"rank": Range(above=2, at_most=5)}, expected(lambda e: 2 < e.rank <= 5)),
        ({"born": Range(at_least=born)}, expected(lambda e: e.born is not None and e.born >= born)),
        ({"name": "n1", "rank": Range(below=3)}, expected(lambda e: e.name == "n1" and e.rank < 3)),
        ({"name": "n1", "born": FIRST}, expected(lambda e: e.name == "n1" and e.born == FIRST)),
    ]
    for conditions, ids in questions:
        assert ids
        assert {each.id for each in await home.find(Entry, **conditions)} == ids
        paged = await pages(home, 3, conditions=conditions, order_by="-born")
        assert {each.id for each in paged} == ids


@pytest.mark.parametrize(
    "ask",
    [
        lambda home: home.find(Entry, name=Range(at_least="a")),
        lambda home: home.find(Entry, rank=Range()),
        lambda home: home.find(Entry, rank=None),
        lambda home: home.page(Entry, order_by="name"),
        lambda home: home.page(Entry, order_by="-nick"),
        lambda home: home.page(Entry, {"subject_key": b"x"}),
        lambda home: home.page(Profile, {"password": "x"}),
    ],
)
async def test_what_sealing_makes_impossible_is_an_error_and_no_empty_list(home: Home, ask: Any) -> None:
    with pytest.raises(UnsupportedQuery):
        await ask(home)


async def test_a_cursor_holds_nothing_personal_and_is_of_one_question(
    home: Home, entries: list[Entry], residency: Residency, somebody: Somebody
) -> None:
    question: dict[str, Any] = {"conditions": {"name": "n1", "born": Range(at_least=FIRST)}, "order_by": "born"}
    page = await home.page(Entry, size=2, **question)
    assert page.next is not None
    raw = base64.urlsafe_b64decode(page.next)
    for told in (page.records[-1].id.bytes, FIRST.isoformat().encode(), b"n1"):
        assert told not in raw
    stranger = await residency.claim(somebody()[0], residence="DE")
    forged = base64.urlsafe_b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    attempts: list[Any] = [
        home.page(Entry, size=2, after=page.next),
        home.page(Entry, size=2, after=page.next, **{**question, "order_by": "-born"}),
        home.page(Entry, size=2, after=page.next, **{**question, "conditions": {"name": "n0"}}),
        home.page(Entry, size=2, after=forged, **question),
        home.page(Entry, size=2, after="", **question),
        home.page(Entry, size=2, after="ä", **question),
        stranger.page(Entry, size=2, after=page.next, **question),
        home.page(Entry, size=0),
        home.page(Entry, size=1001),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput):
            await attempt
    assert repr(Range(at_least=CANARY)) == "Range(at_least)"


class Measure(Record, table="measures"):
    """A clear field of each type of which there is an order."""

    text: Annotated[str, Shareable("user.content")]
    number: Annotated[int, Shareable("user.content")]
    place: Annotated[UUID, Shareable("user.content")]
    day: Annotated[date, Personal("user.behavior", sealed=False)]
    flag: Annotated[bool, Shareable("user.content")]
    weight: Annotated[float, Shareable("user.content")]
    raw: Annotated[bytes, Shareable("user.content")]
    time: Annotated[datetime, Personal("user.behavior", sealed=False)]
    price: Annotated[Decimal, Shareable("user.content")]


async def test_pages_go_by_every_type_that_has_an_order(home: Home, eu_root: asyncpg.Connection) -> None:
    await apply_schema(eu_root, "eu-1", "eu", [Profile, Note, Entry, Measure])
    weights = [float("-inf"), -1.5, 0.1, float("nan")]
    made = [
        home.new(
            Measure,
            text="ü" * number,
            number=number,
            place=uuid4(),
            day=FIRST + timedelta(days=number),
            flag=number > 1,
            weight=weights[number],
            raw=bytes([number]),
            time=datetime(2020, 1, 1, microsecond=number, tzinfo=UTC),
            price=Decimal(f"1.{number}0"),
        )
        for number in range(4)
    ]
    await home.put_many(made)
    for name in Measure.domicile_table.by_name:
        found: list[int] = []
        after: str | None = None
        lengths = set()
        while (page := await home.page(Measure, size=1, order_by=name, after=after)).next is not None:
            found.append(page.records[0].number)
            after = page.next
            lengths.add(len(after))
        found.append(page.records[0].number)
        assert sorted(found) == [0, 1, 2, 3]
        assert found == [0, 1, 2, 3] or name in ("place", "flag")
        assert len(lengths) == 1, "its length tells nothing of a short value"


# -- writes ------------------------------------------------------------------------------------------


async def test_an_update_writes_what_changed_at_the_version_that_was_read(home: Home) -> None:
    made = home.new(Entry, name="before", rank=1)
    await home.put(made)
    read = await home.get(Entry, made.id)
    assert read is not None
    changed = await home.update(read, name="after", born=FIRST)
    assert (changed.name, changed.born, changed.rank, changed.version) == ("after", FIRST, 1, 2)
    assert [each.id for each in await home.find(Entry, name="after")] == [made.id]
    assert await home.find(Entry, name="before") == []
    again = await home.update(changed, rank=2)
    with pytest.raises(Conflict):
        await home.update(read, rank=3)
    found = await home.get(Entry, made.id)
    assert found is not None
    assert (found.model_dump(), found.version) == (again.model_dump(), 3)
    refused: list[dict[str, Any]] = [{}, {"id": uuid4()}, {"jurisdiction": "us"}, {"rank": CANARY}, {"nick": 1}]
    for changes in refused:
        with pytest.raises(InvalidInput) as refusal:
            await home.update(found, **changes)
        assert CANARY not in str(refusal.value)
    with pytest.raises(InvalidInput, match="not read"):
        await home.update(made, rank=3)
    with pytest.raises(WrongJurisdiction):
        await home.update(found.model_copy(update={"jurisdiction": "us"}), rank=3)


async def test_a_deletion_of_another_version_is_a_conflict(home: Home) -> None:
    made = home.new(Entry, name="x", rank=1)
    await home.put(made)
    with pytest.raises(Conflict):
        await home.delete(Entry, made.id, version=2)
    assert await home.delete(Entry, made.id, version=1) is True
    assert await home.delete(Entry, made.id, version=1) is False


async def test_many_rows_are_written_as_one(home: Home, eu_root: asyncpg.Connection) -> None:
    made = [entry(home, number) for number in range(50)]
    assert await home.put_many(made) == [1] * 50
    both = [made[3].model_copy(update={"rank": 99}), entry(home, 50)]
    assert await home.put_many(both) == [2, 1]
    assert len(await home.find(Entry, rank=99)) == 1
    assert await home.put_many([]) == []
    refused: list[tuple[list[Any], type[Exception]]] = [
        ([made[0], made[0]], InvalidInput),
        ([made[0], home.new(Note, text="x", topic="y")], InvalidInput),
        ([entry(home, 0), made[0].model_copy(update={"jurisdiction": "us"})], WrongJurisdiction),
        ([entry(home, number) for number in range(1001)], InvalidInput),
        ([entry(home, 0), made[0].model_copy(update={"label": "NUL \0"})], InvalidInput),
    ]
    for records, error in refused:
        with pytest.raises(error):
            await home.put_many(records)
    assert len(await home.all(Entry)) == 51
    await eu_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", home.subject_key)
    with pytest.raises(FenceRefused):
        await home.put_many(made)


async def test_writers_of_the_same_rows_in_other_orders_do_not_wait_for_each_other(home: Home) -> None:
    made = [entry(home, number) for number in range(40)]
    await asyncio.gather(*(home.put_many(made if turn % 2 else made[::-1]) for turn in range(8)))
    assert {each.version for each in await home.all(Entry)} == {8}


async def test_a_load_tells_how_far_it_is_and_can_be_repeated(home: Home) -> None:
    made = [entry(home, number) for number in range(25)]
    told: list[int] = []
    assert await home.load(iter(made), batch=10, progress=told.append) == 25
    assert told == [10, 20, 25]
    bad = made[20].model_copy(update={"label": "NUL \0"})
    with pytest.raises(InvalidInput):
        await home.load([*made[:20], bad], batch=10, progress=told.append)
    assert told == [10, 20, 25, 10, 20]
    assert len(await home.all(Entry)) == 25


async def test_a_ticket_leads_home_and_names_nobody(
    home: Home, residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, _ = somebody()
    ticket = (await residency.claim(user, residence="DE")).ticket()
    assert user not in ticket
    assert (await residency.redeem(ticket)).subject_key == (await residency.home(user)).subject_key
    for other in ("", "domicile1.eu.eu-1.zz", ticket + "0"):
        with pytest.raises(InvalidInput):
            await residency.redeem(other)
    with pytest.raises(UnknownSubject):
        await residency.redeem(f"{ticket[:-34]}{somebody()[1]}")


# -- a request that is repeated ----------------------------------------------------------------------


async def test_a_repeated_request_writes_once_and_is_answered_alike(home: Home, eu_root: asyncpg.Connection) -> None:
    made = home.new(Entry, name=CANARY, rank=1)
    assert await home.put(made, idempotency_key=CANARY) == 1
    await home.put(made.model_copy(update={"rank": 2}))
    assert await home.put(made, idempotency_key=CANARY) == 1
    found = await home.get(Entry, made.id)
    assert found is not None
    assert (found.rank, found.version) == (2, 2)
    with pytest.raises(Conflict, match="another request"):
        await home.put(made.model_copy(update={"name": "x"}), idempotency_key=CANARY)
    batch = [entry(home, number) for number in range(3)]
    for _ in range(2):
        assert await home.put_many(batch, idempotency_key="b") == [1, 1, 1]
    kept = await eu_root.fetch("SELECT a::text FROM domicile.answers a")
    assert CANARY not in str(kept)
    for key in ("", "x" * 257):
        with pytest.raises(InvalidInput):
            await home.put(made, idempotency_key=key)


async def test_a_request_that_failed_is_tried_again(home: Home) -> None:
    made = home.new(Entry, name="x", rank=1)
    with pytest.raises(Conflict):
        await home.put(made, version=4, idempotency_key="k")
    assert await home.put(made, version=0, idempotency_key="k") == 1
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with home.transaction() as transaction:
            await transaction.put(entry(home, 1), idempotency_key="undone")
            raise ZeroDivisionError
    assert await home.put(entry(home, 2), idempotency_key="undone") == 1


async def test_of_many_at_once_one_writes(home: Home) -> None:
    made = home.new(Entry, name="x", rank=1)
    assert await asyncio.gather(*(home.put(made, idempotency_key="k") for _ in range(20))) == [1] * 20
    found = await home.get(Entry, made.id)
    assert found is not None
    assert found.version == 1


async def test_a_repeated_answer_is_a_commit_of_its_own(home: Home, eu_root: asyncpg.Connection) -> None:
    """The first one's may have stayed in one zone: who is told again must have the write-ahead log moved on."""
    made = home.new(Entry, name="x", rank=1)
    await home.put(made, idempotency_key="k")
    before = await eu_root.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    await home.put(made, idempotency_key="k")
    moved = "SELECT pg_current_wal_flush_lsn() > $1::text::pg_lsn"
    assert await eu_root.fetchval(moved, before)
    await eu_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", home.subject_key)
    with pytest.raises(FenceRefused):
        await home.put(made, idempotency_key="k")
