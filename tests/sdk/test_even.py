"""What is refused leaves at one of a few moments, whatever was found out before."""

from __future__ import annotations

import asyncio

import pytest

from domicile.sdk import Conflict, evenly
from domicile.sdk.even import leaves_at


@pytest.mark.parametrize(
    ("took", "leaves"), [(0.0, 0.3), (0.001, 0.3), (0.299, 0.3), (0.3, 0.3), (0.301, 0.6), (1.7, 1.8)]
)
def test_it_leaves_at_the_next_multiple(took: float, leaves: float) -> None:
    assert leaves_at(0.0, took, 0.3) == pytest.approx(leaves)
    assert leaves_at(1e6, 1e6 + took, 0.3) == pytest.approx(1e6 + leaves)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes only by sleeping."""

    now = 100.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if self._scheduled and not self._ready:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def refused_after(work: float) -> float:
    async def refused() -> None:
        async with evenly(0.3):
            await asyncio.sleep(work)
            raise Conflict("taken")

    async def main() -> float:
        clock = asyncio.get_running_loop().time
        entered = clock()
        with pytest.raises(Conflict):
            await refused()
        return clock() - entered

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(main())


def test_who_is_found_soon_and_who_is_found_late_are_refused_at_one_time() -> None:
    assert {round(refused_after(work), 6) for work in (0.0, 0.004, 0.11, 0.29)} == {0.3}
    assert round(refused_after(0.31), 6) == 0.6


def test_what_goes_well_is_not_held_up() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        entered = clock()
        async with evenly(0.3):
            await asyncio.sleep(0.01)
        return clock() - entered

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(main()) == pytest.approx(0.01)
