"""What every home keeps to, wherever its rows lie: one list of promises, each a test by itself.

The list stays in one place, however long: what is not on it is promised by neither home.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest

from domicile.ops.testing import Cell
from domicile.sdk import (
    Conflict,
    FenceRefused,
    Forbidden,
    Home,
    InvalidInput,
    KeyDestroyed,
    Personal,
    Principal,
    Range,
    Record,
    Reference,
    Shareable,
    Unavailable,
    UnknownSubject,
    UnsupportedQuery,
    Withheld,
)


class Letter(Record, table="letters"):
    sender: Annotated[str, Personal("user.name", find=True)]
    text: Annotated[str | None, Personal("user.content.private")] = None
    sent: Annotated[date | None, Personal("user.behavior", sealed=False)] = None
    weight: Annotated[int, Shareable("user.content.weight")]


class Message(Record, table="messages"):
    """About whoever sent it; about the subject itself where nobody is named."""

    sender: Annotated[UUID | None, Principal("user.unique_id")] = None
    name: Annotated[str, Personal("user.name", find=True)]
    text: Annotated[str | None, Personal("user.content.private")] = None
    length: Annotated[int, Shareable("user.content.length")] = 0


class Tag(Record, table="tags"):
    place: Annotated[int | None, Shareable("user.content.place")] = None


class TaxRate(Reference, table="tax_rates", key=("country", "since")):
    country: Annotated[str, Shareable("system.operations")]
    since: Annotated[date, Shareable("system.operations")]
    percent: Annotated[Decimal, Shareable("system.operations")]
    note: Annotated[str | None, Shareable("system.operations")] = None


SOME: list[tuple[type[Record], dict[str, Any]]] = [
    (Letter, {"sender": "s", "weight": 1}),
    (Message, {"name": "n"}),
]
Check = Callable[[Cell, Callable[[Home], Home]], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def _check(check: Callable[[Home, Home, Cell], Awaitable[None]]) -> None:
    async def run(cell: Cell, changed: Callable[[Home], Home]) -> None:
        async with cell.home(Letter, Message, Tag) as one, cell.home(Letter, Message, Tag) as other:
            await check(changed(one), changed(other), cell)

    CHECKS[check.__name__] = run


def letter(home: Home, number: int = 1, **changes: Any) -> Letter:
    return home.new(Letter, **{"sender": f"s{number}", "text": f"t{number}", "weight": number, **changes})


@_check
async def reads_back_what_was_put(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home, sent=date(2020, 2, 29))
    assert await home.put(made) == 1
    found = await home.get(Letter, made.id)
    assert found is not None
    assert (found.model_dump(), found.version) == (made.model_dump(), 1)
    assert await home.get(Letter, letter(home).id) is None


@_check
async def keeps_subjects_apart(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    await home.put(made)
    assert await other.get(Letter, made.id) is None
    assert await other.all(Letter) == []
    assert await other.delete(Letter, made.id) is False
    await other.put(letter(other, id=made.id, weight=9))
    (found,) = await home.all(Letter)
    assert found.weight == 1


@_check
async def replaces_at_a_version_only(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    await home.put(made, version=0)
    for version in (0, 2):
        with pytest.raises(Conflict):
            await home.put(made, version=version)
    assert await home.put(made, version=1) == 2
    with pytest.raises(Conflict):
        await home.put(letter(home), version=1)


@_check
async def updates_what_was_read(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    await home.put(made)
    (read,) = await home.all(Letter)
    changed = await home.update(read, sender="new")
    with pytest.raises(Conflict):
        await home.update(read, weight=2)
    assert [each.version for each in await home.find(Letter, sender="new")] == [changed.version] == [2]
    assert await home.find(Letter, sender="s1") == []
    answered = await home.update(changed.model_copy(update={"text": "other", "sender": "newer"}), weight=3)
    (stored,) = await home.find(Letter, sender="newer")
    assert (stored.model_dump(), stored.version) == (answered.model_dump(), 3)
    assert (stored.text, stored.weight) == ("other", 3)
    with pytest.raises(InvalidInput):
        await home.update(stored.model_copy(update={"id": uuid4()}), weight=4)


@_check
async def deletes(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    await home.put(made)
    with pytest.raises(Conflict):
        await home.delete(Letter, made.id, version=2)
    assert await home.delete(Letter, made.id) is True
    assert await home.delete(Letter, made.id) is False
    assert await home.all(Letter) == []


@_check
async def finds_by_every_condition(home: Home, other: Home, cell: Cell) -> None:
    await home.put_many([letter(home, number, sender=f"s{number % 2}") for number in range(8)])
    assert {each.weight for each in await home.find(Letter, sender="s1")} == {1, 3, 5, 7}
    assert {each.weight for each in await home.find(Letter, sender="s1", weight=Range(above=3))} == {5, 7}
    assert {each.weight for each in await home.find(Letter, weight=Range(at_least=3, at_most=4))} == {3, 4}
    assert {each.weight for each in await home.find(Letter, weight=Range(below=1))} == {0}


@_check
async def shows_pages_in_order(home: Home, other: Home, cell: Cell) -> None:
    days = [date(2020, 1, 1 + number % 3) if number % 4 else None for number in range(9)]
    await home.put_many([letter(home, number, sent=day) for number, day in enumerate(days)])
    known = sorted(day for day in days if day)
    for order, expected in (("sent", known), ("-sent", known[::-1])):
        found: list[Letter] = []
        after: str | None = None
        while True:
            page = await home.page(Letter, size=2, order_by=order, after=after)
            assert len(page.records) <= 2
            found += page.records
            assert len(found) <= len(days)
            if (after := page.next) is None:
                break
        assert [each.sent for each in found] == [*expected, *[None] * days.count(None)]
        assert len({each.id for each in found}) == len(days)


@_check
async def goes_on_after_a_page_whose_last_row_is_gone_or_elsewhere(home: Home, other: Home, cell: Cell) -> None:
    for order in ("weight", "-weight", "sent", None):
        made = [letter(home, number, sent=date(2020, 1, 1 + number) if number < 3 else None) for number in range(6)]
        for each in made:
            await home.put(each)
        seen: list[Letter] = []
        after: str | None = None
        for turn in range(3):
            page = await home.page(Letter, size=2, order_by=order, after=after)
            seen, after = seen + page.records, page.next
            last = page.records[-1]
            if turn == 1:
                await home.update(last, weight=2 if last.weight > 2 else 4)
            else:
                await home.delete(Letter, last.id)
        assert after is None
        assert len({each.id for each in seen}) == len(made), order
        for each in await home.all(Letter):
            await home.delete(Letter, each.id)


@_check
async def puts_many_or_none(home: Home, other: Home, cell: Cell) -> None:
    made = [letter(home, number) for number in range(5)]
    assert await home.put_many(made) == [1] * 5
    with pytest.raises(InvalidInput):
        await home.put_many([letter(home), made[0], made[0]])
    assert len(await home.all(Letter)) == 5


@_check
async def keeps_the_order_in_which_many_were_given(home: Home, other: Home, cell: Cell) -> None:
    made = [letter(home, number) for number in range(9)]
    await home.put(made[0])
    await home.put_many(made[1:4])
    assert await home.load(iter(made[4:7]), batch=2) == 3
    async with home.transaction() as transaction:
        await transaction.put_many(made[7:])
        await transaction.put(last := letter(home, 9))
        await transaction.put_many(made[:3])  # what is there keeps its place
    assert [each.weight for each in await home.all(Letter)] == list(range(10))
    assert [each.weight for each in (await home.page(Letter, order_by="-created_at", size=2)).records] == [9, 8]
    assert (await home.all(Letter))[-1].id == last.id


@_check
async def answers_a_repeated_request_alike(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    answers = await asyncio.gather(*(home.put(made, idempotency_key="k") for _ in range(3)))
    assert answers == [1, 1, 1]
    others: list[Callable[[], Awaitable[Any]]] = [
        lambda: home.put(letter(home), idempotency_key="k"),
        lambda: home.put(made, version=1, idempotency_key="k"),
        lambda: home.put_many([made], idempotency_key="k"),
        lambda: home.put(message(home, None, id=made.id), idempotency_key="k"),
    ]
    for attempt in others:
        with pytest.raises(Conflict, match="another request"):
            await attempt()
    assert [each.version for each in await home.all(Letter)] == [1]


@_check
async def changes_a_record_once_under_a_key_at_the_version_that_is_named(home: Home, other: Home, cell: Cell) -> None:
    await home.put(letter(home, 1, text="x"))
    (read,) = await home.all(Letter)
    for _ in range(2):
        assert (await home.update(read, weight=2, idempotency_key="u")).version == 2
    (now,) = await home.all(Letter)
    assert (now.version, now.weight) == (2, 2)
    assert (await home.update(now, version=1, weight=2, idempotency_key="u")).version == 2, "the request is the change"
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: home.update(read, weight=3, idempotency_key="u"),
        lambda: home.update(now, weight=2, idempotency_key="u"),
        lambda: home.update(now, version=1, weight=3),
        lambda: home.put(now, idempotency_key="u"),
    ]
    for attempt in attempts:
        with pytest.raises(Conflict):
            await attempt()
    assert (await home.update(now, weight=3)).version == 3


@_check
async def knows_a_request_whose_record_is_made_again(home: Home, other: Home, cell: Cell) -> None:
    for number, text in ((1, "x"), (2, "x"), (2, "x"), (1, "x")):
        key = f"request {number}"
        made = letter(home, number, text=text, idempotency_key=key)
        assert await home.put(made, version=0, idempotency_key=key) == 1
    assert {each.weight for each in await home.all(Letter)} == {1, 2}
    with pytest.raises(Conflict):
        await home.put(letter(home, text="y", idempotency_key="request 1"), version=0, idempotency_key="request 1")
    ids = {made.new(kind, **fields, idempotency_key="k").id for made in (home, other) for kind, fields in SOME}
    assert len(ids) == 4
    for key in ("", "k" * 257):
        with pytest.raises(InvalidInput):
            letter(home, idempotency_key=key)


@_check
async def refuses_what_is_no_id_no_version_and_no_number_of_64_bits(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home, sent=date(2020, 1, 1))
    await home.put(made)
    (read,) = await home.all(Letter)
    ids: list[Any] = ["x", str(made.id), made.id.bytes, made.id.int, None]
    versions: list[Any] = [-1, 2**63, 2**70, True, "1", 1.0]
    attempts: list[Callable[[], Awaitable[Any]]] = [
        *(lambda given=given: home.get(Letter, given) for given in ids),
        *(lambda given=given: home.delete(Letter, given) for given in ids),
        *(lambda given=given: home.put(made.model_copy(update={"id": given})) for given in ("x", made.id.int, None)),
        lambda: home.put_many([made, made.model_copy(update={"id": "x"})]),
        *(lambda version=version: home.put(made, version=version) for version in versions),
        *(lambda version=version: home.delete(Letter, made.id, version=version) for version in versions),
        lambda: home.put(letter(home, weight=2**63)),
        lambda: home.put_many([letter(home, weight=-(2**63) - 1)]),
        lambda: home.update(read, weight=2**70),
        lambda: home.find(Letter, weight=2**70),
        lambda: home.find(Letter, weight=Range(below=2**70)),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput):
            await attempt()
    for weight in (2**63 - 1, -(2**63)):
        await home.put(letter(home, weight=weight))
        assert len(await home.find(Letter, weight=weight)) == 1
    with pytest.raises(Conflict):
        await home.put(made, version=2**63 - 1)
    assert len(await home.all(Letter)) == 3


@_check
async def takes_records_as_they_come_and_tells_of_them_by_a_plain_call(home: Home, other: Home, cell: Cell) -> None:
    async def told(done: int) -> None:
        raise AssertionError

    class Told:
        __call__ = staticmethod(told)

    for progress in (told, Told()):
        with pytest.raises(InvalidInput):
            await home.load([letter(home)], progress=progress)  # type: ignore[arg-type]
    assert await home.put_many(letter(home, number) for number in range(3)) == [1, 1, 1]
    with pytest.raises(InvalidInput):
        await home.put_many(letter(home) for _ in range(1001))
    counted: list[int] = []
    await home.load((letter(home, number) for number in range(3, 6)), batch=2, progress=counted.append)
    assert (counted, [each.weight for each in await home.all(Letter)]) == ([2, 3], list(range(6)))


@_check
async def undoes_a_transaction_that_failed(home: Home, other: Home, cell: Cell) -> None:
    kept = letter(home)
    await home.put(kept)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with home.transaction() as transaction:
            await transaction.put(letter(home))
            await transaction.delete(Letter, kept.id)
            raise ZeroDivisionError
    assert [each.id for each in await home.all(Letter)] == [kept.id]
    async with home.transaction() as transaction:
        await transaction.put(letter(home, 2))
        assert len(await transaction.all(Letter)) == 2
    assert len(await home.all(Letter)) == 2


@_check
async def shows_nobody_a_transaction_before_it_commits(home: Home, other: Home, cell: Cell) -> None:
    kept, besides, within = letter(home, 1), letter(home, 2), letter(home, 3)
    await home.put(kept)
    async with home.transaction() as transaction:
        await transaction.put(kept.model_copy(update={"weight": 9}))
        await transaction.put(within)
        (seen,) = await home.all(Letter)
        assert (seen.weight, await home.get(Letter, within.id)) == (1, None)
        await home.put(besides)
        with pytest.raises(Unavailable):
            await home.delete(Letter, kept.id)
        with pytest.raises(Unavailable):
            async with home.transaction() as nested:
                await nested.put(within)
        assert [each.weight for each in await transaction.all(Letter)] == [9, 3, 2]
        waiting = asyncio.create_task(home.put(kept))
        await transaction.delete(Letter, within.id)
    assert await waiting == 3
    assert [each.weight for each in await home.all(Letter)] == [1, 2]


@_check
async def takes_one_call_at_a_time_within_a_transactions_block(home: Home, other: Home, cell: Cell) -> None:
    with pytest.raises(InvalidInput, match="two calls at a time"):
        async with home.transaction() as transaction:
            await asyncio.gather(*(transaction.put(letter(home, number)) for number in range(2)))
    assert await home.all(Letter) == []
    async with home.transaction() as transaction:
        await transaction.put(letter(home))
    with pytest.raises(Conflict, match="is over"):
        await transaction.put(letter(home))
    with pytest.raises(Conflict, match="is over"):
        await transaction.all(Letter)
    assert len(await home.all(Letter)) == 1


@_check
async def ends_a_transaction_in_which_a_statement_failed(home: Home, other: Home, cell: Cell) -> None:
    made = message(home, uuid4())
    await home.put(made)
    with pytest.raises(Conflict, match="rolled back"):  # noqa: PT012
        async with home.transaction() as transaction:
            await transaction.put(message(home, None))
            with pytest.raises(Forbidden):
                await transaction.put(made.model_copy(update={"sender": None}))
            with pytest.raises(Conflict, match="rolled back"):
                await transaction.put(message(home, None))
            with pytest.raises(Conflict, match="rolled back"):
                await transaction.all(Message)
    assert len(await home.all(Message)) == 1
    async with home.transaction() as transaction:
        with pytest.raises(Conflict, match="version"):  # nothing was refused by the database
            await transaction.put(made, version=5)
        with pytest.raises(Conflict, match="version"):
            await transaction.delete(Message, made.id, version=5)
        await transaction.put(message(home, None))
    assert len(await home.all(Message)) == 2


@_check
async def refuses_everything_once_the_fence_is_closed(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    await home.put(made)
    (read,) = await home.all(Letter)
    await cell.close(home)
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: home.put(made),
        lambda: home.put(made, version=1),
        lambda: home.put_many([made]),
        lambda: home.update(read, weight=2),
        lambda: home.delete(Letter, made.id),
        lambda: home.get(Letter, made.id),
        lambda: home.find(Letter, sender="s1"),
        lambda: home.page(Letter),
    ]
    for attempt in attempts:
        with pytest.raises(FenceRefused):
            await attempt()
    with pytest.raises(FenceRefused):
        async with home.transaction():
            pass
    await other.put(letter(other))


def message(home: Home, sender: UUID | None, name: str = "n", **changes: Any) -> Message:
    return home.new(Message, sender=sender, name=name, text=f"from {name}", **changes)


@_check
async def says_whom_rows_are_about(home: Home, other: Home, cell: Cell) -> None:
    anna, bert = uuid4(), uuid4()
    made = [message(home, None, "own"), message(home, anna, "a"), message(home, bert, "b"), message(home, bert, "c")]
    await home.put(made[0])
    await home.put_many(made[1:])
    found = [(each.sender, each.name) for each in await home.all(Message)]
    assert len(found) == 4
    assert set(found) == {(None, "own"), (anna, "a"), (bert, "b"), (bert, "c")}
    assert {each.name for each in await home.find(Message, sender=bert)} == {"b", "c"}
    assert [each.name for each in await home.find(Message, sender=bert, name="c")] == ["c"]
    assert [each.name for each in await home.find(Message, sender=home.internal_id)] == ["own"]
    assert [each.sender for each in await home.find(Message, name="a")] == [anna]
    own = message(home, home.internal_id, "self")
    await home.put(own)
    (read,) = await home.find(Message, name="self")
    assert read.sender is None
    assert (await home.update(read, length=9)).length == 9
    assert await other.find(Message, sender=bert) == []


@_check
async def keeps_whom_a_row_is_about(home: Home, other: Home, cell: Cell) -> None:
    anna, bert = uuid4(), uuid4()
    made = message(home, anna, "a")
    await home.put(made)
    for sender in (bert, None):
        with pytest.raises(Forbidden):
            await home.put(made.model_copy(update={"sender": sender}))
        with pytest.raises(Conflict):
            await home.put(made.model_copy(update={"sender": sender}), version=1)
    (read,) = await home.all(Message)
    assert (read.sender, read.version) == (anna, 1)
    with pytest.raises(InvalidInput):
        await home.update(read, sender=bert)
    changed = await home.update(read, text="new")
    assert (changed.sender, changed.version) == (anna, 2)
    with pytest.raises(Conflict):
        await home.update(read.model_copy(update={"sender": bert}), text="newer")
    assert await home.put(message(home, anna, "z", id=made.id)) == 3


@_check
async def loses_what_is_about_a_person_whose_key_was_destroyed_and_nothing_else(
    home: Home, other: Home, cell: Cell
) -> None:
    anna, bert = uuid4(), uuid4()
    made = [
        message(home, None, "own", length=1),
        message(home, anna, "a", length=2),
        message(home, bert, "b", length=3),
    ]
    await home.put_many(made)
    await other.put(message(other, anna, "there"))
    await cell.shred(home, anna)
    own, gone, kept = sorted(await home.all(Message), key=lambda each: each.length)
    assert [(each.name, each.text) for each in (own, kept)] == [("own", "from own"), ("b", "from b")]
    assert (gone.sender, gone.length, gone.version) == (anna, 2, 1)
    assert (sorted(gone.destroyed), sorted(kept.destroyed)) == (["name", "text"], [])
    assert repr(vars(gone)["text"]) == "<destroyed user.content.private>"
    for attempt in (lambda: f"{gone.name}", lambda: gone.name == "a", lambda: {gone.name: 1}):
        with pytest.raises(KeyDestroyed):
            attempt()
    with pytest.raises(KeyDestroyed):
        await home.put(message(home, anna, "again"))
    with pytest.raises(KeyDestroyed):
        await home.put(gone)
    with pytest.raises(KeyDestroyed):
        await home.update(gone, length=4)
    assert [each.name for each in await other.all(Message)] == ["there"]
    assert await home.delete(Message, gone.id)
    assert await home.put(message(home, bert, "b2")) == 1


def rates(*given: tuple[str, int, str]) -> list[TaxRate]:
    return [TaxRate(country=name, since=date(year, 1, 1), percent=Decimal(rate)) for name, year, rate in given]


@_check
async def looks_up_what_belongs_to_nobody(home: Home, other: Home, cell: Cell) -> None:
    first, a, b, c = rates(("DE", 2020, "16"), ("DE", 2007, "19"), ("FR", 2014, "20"), ("Ab", 2020, "5.50"))
    await cell.fill(TaxRate, [a, first])
    assert await home.look_up(TaxRate) == await other.look_up(TaxRate) == [a, first]
    await cell.fill(TaxRate, [b, first, c, a])
    assert await home.look_up(TaxRate) == [c, a, first, b]
    assert await home.look_up(TaxRate, country="DE") == [a, first]
    assert await home.look_up(TaxRate, country="DE", since=Range(above=date(2007, 1, 1))) == [first]
    assert await home.look_up(TaxRate, percent=Decimal("5.5"), country="Ab") == [c]
    assert await home.look_up(TaxRate, note="x") == []
    async with home.transaction() as transaction:
        assert await transaction.look_up(TaxRate, country="FR") == [b]
    for wanted in ({"country": None}, {"nobody": 1}, {"since": Range()}):
        with pytest.raises(UnsupportedQuery):
            await home.look_up(TaxRate, **wanted)
    with pytest.raises(InvalidInput):
        await home.look_up(TaxRate, since="2020-01-01")
    with pytest.raises(InvalidInput):
        await cell.fill(TaxRate, [a, b, a])
    with pytest.raises(InvalidInput, match=r"row 2 .* \(email\)") as refusal:
        await cell.fill(TaxRate, [a, b.model_copy(update={"note": "ask canary@example.eu"})])
    assert "canary" not in str(refusal.value)
    assert len(await home.look_up(TaxRate)) == 4


@_check
async def shows_abroad_what_is_shareable_page_by_page(home: Home, other: Home, cell: Cell) -> None:
    made = [letter(home, number, weight=number % 3, sent=date(2020, 1, 1)) for number in range(7)]
    await home.put_many(made)
    await other.put(letter(other))
    async with cell.abroad(home, Letter) as abroad:
        for order in ("weight", "-weight", "id"):
            seen, after = [], None
            while True:
                page = await abroad.page(Letter, size=2, order_by=order, after=after)
                seen += page.rows
                if (after := page.next) is None:
                    break
            expected = sorted(made, key=lambda each: (each.weight if order != "id" else 0, each.id))
            if order.startswith("-"):
                expected.reverse()
            assert [(row.id, row.weight) for row in seen] == [(each.id, each.weight) for each in expected]
            assert all(isinstance(row.text, Withheld) and isinstance(row.sent, Withheld) for row in seen)
        assert {row.id for row in await abroad.all(Letter)} == {each.id for each in made}
        heavy = await abroad.find(Letter, weight=Range(above=1))
        assert {row.id for row in heavy} == {each.id for each in made if each.weight > 1}
        found = await abroad.get(Letter, made[0].id)
        assert found is not None
        assert found.shareable.weight == made[0].weight
        for read in (lambda: abroad.find(Letter, sender="s1"), lambda: abroad.page(Letter, order_by="sent")):
            with pytest.raises(UnsupportedQuery):
                await read()
        with pytest.raises(UnsupportedQuery):
            found.shareable.text  # noqa: B018
        await cell.close(home)
        with pytest.raises(UnknownSubject):
            await abroad.all(Letter)


@_check
async def shows_abroad_those_without_a_value_last(home: Home, other: Home, cell: Cell) -> None:
    made = [home.new(Tag, place=place) for place in (None, 2, None, 1)]
    await home.put_many(made)
    async with cell.abroad(home, Tag) as abroad:
        for order, first in (("place", [1, 2]), ("-place", [2, 1])):
            seen, after = [], None
            while True:
                page = await abroad.page(Tag, size=1, order_by=order, after=after)
                seen += [row.place for row in page.rows]
                if (after := page.next) is None:
                    break
            assert seen == [*first, None, None]
