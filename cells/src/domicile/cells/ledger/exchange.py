"""Heads of other jurisdictions' ledgers, fetched again and again and held to the last one that was seen.

A cell whose operators, or thieves, take lines back or write others in their place must tell each jurisdiction a head
that does not go with what that one holds. It is then on record here, with both signatures under it: a line of this
ledger, an alarm that stays, a metric, and a word at ``/readyz``. The head that was held stays held.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import UUID

from domicile.cells.ledger.heads import GOOD, Verdict, judge
from domicile.model import DomicileError, Identity, TokenInvalid
from domicile.model.crossings import Crossing, CrossingKind, CrossingLog, Outcome
from domicile.model.ledger_wire import HeadAnswer, HeldHead, SignedHead, TreeHead
from domicile.telemetry import LEDGER_ALARM, LEDGER_HEAD_AGE, warn

BEAT_SECONDS: Final = 15.0
SKEW_SECONDS: Final = 60
"""How far another gateway's clock may be ahead before it is told in the log; a head is not refused for it."""
UNPROVED: Final = "unproved"
UNSEEN: Final = "unseen"


class Heads(Protocol):
    """What is held, durably."""

    async def held(self, cell: str, log: UUID) -> SignedHead | None: ...

    async def hold(self, cell: str, log: UUID, size: int, head: SignedHead) -> None: ...

    async def alarm(self, cell: str, verdict: str, held: SignedHead, told: SignedHead) -> bool: ...


Ask = Callable[[int], Awaitable[HeadAnswer]]
"""Another cell's head, with the proof that it grew from so many lines."""
Verify = Callable[[SignedHead, str], TreeHead]
"""Of a head that must be by a gateway of a jurisdiction; raises DomicileError."""


class Exchange:
    """``last``: the head of each cell that is held newest, when this starts. ``asks``: how each cell is asked."""

    def __init__(
        self,
        own: Identity,
        heads: Heads,
        ledger: CrossingLog,
        verify: Verify,
        last: Mapping[str, SignedHead],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._heads = heads
        self._ledger = ledger
        self._verify = verify
        self._last = dict(last)
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._verdicts: dict[str, str] = {}
        self._jurisdictions: dict[str, str] = {}

    async def look(self, cells: Mapping[str, tuple[str, Ask]]) -> None:
        """Once at each cell (jurisdiction, how to ask). One that does not answer holds nobody else up."""
        for cell, (jurisdiction, ask) in cells.items():
            self._jurisdictions[cell] = jurisdiction
            self._verdicts.setdefault(cell, UNSEEN)
            try:
                await self._look(cell, jurisdiction, ask)
            except DomicileError as error:
                if isinstance(error, TokenInvalid):
                    self._tell(cell, UNPROVED)
                warn("ledger-head-not-seen", cell=cell, code=error.code)
            if (seen := self._seen.get(cell)) is not None:
                LEDGER_HEAD_AGE.labels(cell).set(max(0.0, self._clock() - seen))

    async def _look(self, cell: str, jurisdiction: str, ask: Ask) -> None:
        last = self._last.get(cell)
        held = None if last is None else self._verify(last, jurisdiction)
        answer = await ask(held.size if held is not None else 0)
        told = self._verify(answer.head, jurisdiction)
        if told.cell != cell:
            raise TokenInvalid(f"the head of {told.cell}'s ledger, told by {cell}")
        if told.iat > self._clock() + SKEW_SECONDS:
            warn("ledger-head-from-the-future", cell=cell)
        if last is not None and held is not None and held.log != told.log:
            again = await self._heads.held(cell, told.log)
            if again is not None:  # it was begun anew, and was told of then
                last, held = again, self._verify(again, jurisdiction)
                answer = await ask(held.size)
                told = self._verify(answer.head, jurisdiction)
        verdict = judge(held, told, [bytes.fromhex(each) for each in answer.proof])
        if verdict in GOOD:
            if verdict is not Verdict.SAME:
                await self._heads.hold(cell, told.log, told.size, answer.head)
            self._last[cell] = answer.head
            self._seen[cell] = self._clock()
        elif last is not None and held is not None:
            await self._refuse(cell, verdict, (last, held), (answer.head, told))
            if verdict is Verdict.REPLACED:
                await self._heads.hold(cell, told.log, told.size, answer.head)
        self._tell(cell, verdict)

    async def _refuse(
        self, cell: str, verdict: Verdict, held: tuple[SignedHead, TreeHead], told: tuple[SignedHead, TreeHead]
    ) -> None:
        # the line first: an alarm that is kept is never told again
        known = self._verdicts.get(cell)
        if known != verdict:
            await self._ledger.append(
                Crossing(
                    kind=CrossingKind.HEAD,
                    source=self._jurisdictions[cell],
                    destination=self._own.jurisdiction,
                    outcome=Outcome.REFUSED,
                    at=datetime.fromtimestamp(self._clock(), UTC),
                    caller=f"gateway/{cell}",
                    counts={"held": held[1].size, "told": told[1].size},
                    detail={"cell": cell, "code": str(verdict), "held": held[1].root, "told": told[1].root},
                )
            )
        if await self._heads.alarm(cell, verdict, held[0], told[0]):
            warn("ledger-alarm", cell=cell, verdict=str(verdict))

    def _tell(self, cell: str, verdict: str) -> None:
        self._verdicts[cell] = verdict
        LEDGER_ALARM.labels(cell).set(0 if verdict in GOOD else 1)

    def alarms(self) -> dict[str, str]:
        """Each cell whose ledger does not go with what is held, and why."""
        return {cell: each for cell, each in self._verdicts.items() if each not in GOOD and each != UNSEEN}

    def told(self) -> list[HeldHead]:
        """What is held of each cell, and how it was found when it was last looked at."""
        return [
            HeldHead(
                cell=cell,
                jurisdiction=jurisdiction,
                verdict=self._verdicts[cell],
                seen=self._seen.get(cell),
                head=self._last.get(cell),
            )
            for cell, jurisdiction in sorted(self._jurisdictions.items())
        ]
