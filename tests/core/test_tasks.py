"""A background task ends when it is told to, also one that takes a cancellation for its own trouble."""

from __future__ import annotations

import asyncio

import pytest

from domicile.service import ended, tasks


async def test_a_task_that_loses_a_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)
    lost = 0

    async def follow() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost == 3:
                    raise
                lost += 1

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await ended(task)
    assert task.cancelled()
    assert lost == 3


async def test_what_a_task_ended_with_is_raised_when_all_have_ended() -> None:
    async def fail() -> None:
        raise ValueError

    failed, going = asyncio.create_task(fail()), asyncio.create_task(asyncio.Event().wait())
    await asyncio.wait([failed])
    with pytest.raises(ValueError):
        await ended(failed, going)
    assert going.cancelled()


async def test_whoever_waits_may_be_cancelled_himself() -> None:
    async def stay() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                told.set()

    free, told = asyncio.Event(), asyncio.Event()
    staying = asyncio.create_task(stay())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(ended(staying))
    await told.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    free.set()
    await staying
