"""A router's background tasks: one that fails is told of and begun again, since nobody would miss it."""

from __future__ import annotations

import asyncio

import pytest

from domicile.router.serve import kept


async def test_a_task_that_fails_is_begun_again_until_it_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    begun = 0
    holds = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError("what it held: alice")
        holds.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(kept(work, wait=0.0))
    await asyncio.wait_for(holds.wait(), 10)
    assert begun == 3
    told = [record.__dict__["domicile_fields"] for record in caplog.records if record.msg == "unforeseen"]
    assert [each["error"] for each in told] == ["RuntimeError"] * 2
    assert "alice" not in str(told)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
