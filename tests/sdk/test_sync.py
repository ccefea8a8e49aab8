"""Synchronous code gets the same: the whole of it, in threads, and with the same refusals."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from domicile_testing.homes import Surroundings

from domicile.model import SubjectKey
from domicile.sample import Note
from domicile.sdk import Conflict, CrossBorderAccess, Range, UnsupportedQuery, abroad, cell, home, residency, sync

Somebody = Callable[[], tuple[str, SubjectKey]]


@pytest.mark.parametrize(
    ("ours", "theirs", "left_out"),
    [
        (sync.Home, home.Home, {"internal_id"}),
        (sync.Transaction, home.Transaction, {"internal_id"}),
        (sync.Stale, home.Stale, set()),
        (sync.Abroad, abroad.Abroad, set()),
        (sync.CellSession, cell.CellSession, {"begin"}),
        (sync.Residency, residency.Residency, {"admit", "fence", "home_by", "home_of", "ready", "subject_keys"}),
    ],
)
def test_nothing_is_missing_and_arguments_are_the_same(ours: type, theirs: type, left_out: set[str]) -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(theirs) - left_out == public(ours)
    for name in public(ours):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if callable(mine):
            assert list(inspect.signature(mine).parameters) == list(inspect.signature(other).parameters), name


async def test_a_home_in_synchronous_code(around: Surroundings, somebody: Somebody, tmp_path: Path) -> None:
    user, american, mark = somebody()[0], somebody()[0], f"c-{uuid4()}"  # others write into the same cell
    settings = around.settings(state=tmp_path)

    def program() -> None:
        with sync.Residency.connect(settings) as connected:
            mine = connected.claim(user, residence="DE", aliases={"email": f"{user}@example.eu"})
            assert connected.resolve_alias("email", f"{user}@example.eu") == mine.subject_key
            note = mine.new(Note, text="x", topic="a")
            assert mine.put(note, version=0) == 1
            with pytest.raises(Conflict):
                mine.put(note, version=0)
            with ThreadPoolExecutor(4) as pool:
                versions = list(pool.map(lambda n: mine.put(mine.new(Note, text=str(n), topic="b")), range(20)))
            assert versions == [1] * 20
            with mine.transaction() as transaction:
                (read,) = transaction.find(Note, topic="a")
                transaction.update(read, topic=mark)
                assert transaction.sql("SELECT count(*) AS n FROM notes") == [{"n": 21}]
            with pytest.raises(ZeroDivisionError), mine.transaction() as transaction:  # noqa: PT012
                transaction.delete(Note, note.id)
                raise ZeroDivisionError
            assert connected.redeem(mine.ticket()).get(Note, note.id) == connected.home(user).find(Note, topic=mark)[0]
            assert len(mine.page(Note, {"topic": Range(at_least="b")}, size=5).records) == 5
            assert [row.topic for row in connected.abroad(user).find(Note, topic=mark)] == [mark]
            with connected.cell(purpose="test") as session:
                assert [found.record.id for found in session.find(Note, topic=mark)] == [note.id]
            with pytest.raises(UnsupportedQuery):
                mine.find(Note, text="x")
            with pytest.raises(CrossBorderAccess):
                connected.claim(american, residence="US")

    await asyncio.to_thread(program)
    assert "domicile" not in {thread.name for thread in threading.enumerate()}
