"""What every home keeps to, wherever its rows lie: one list of promises, each a test by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Annotated, Any

import pytest

from domicile.ops.testing import Cell
from domicile.sdk import Conflict, FenceRefused, Home, InvalidInput, Personal, Range, Record, Shareable


class Letter(Record, table="letters"):
    sender: Annotated[str, Personal("user.name", find=True)]
    text: Annotated[str | None, Personal("user.content.private")] = None
    sent: Annotated[date | None, Personal("user.behavior", sealed=False)] = None
    weight: Annotated[int, Shareable("user.content.weight")]


Check = Callable[[Cell, Callable[[Home], Home]], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def _check(check: Callable[[Home, Home, Cell], Awaitable[None]]) -> None:
    async def run(cell: Cell, changed: Callable[[Home], Home]) -> None:
        async with cell.home(Letter) as one, cell.home(Letter) as other:
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
async def answers_a_repeated_request_alike(home: Home, other: Home, cell: Cell) -> None:
    made = letter(home)
    answers = await asyncio.gather(*(home.put(made, idempotency_key="k") for _ in range(3)))
    assert answers == [1, 1, 1]
    with pytest.raises(Conflict):
        await home.put(letter(home), idempotency_key="k")
    assert len(await home.all(Letter)) == 1


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
