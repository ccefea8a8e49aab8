"""Rotation of a cell's data keys, run in the cell with its gateway's certificate: the centre has neither rows nor keys.

A subject's data key and the secret of its blind indexes are turned together, in steps each of which may be the last:

1. the key service makes the next keys, and hands them out beside the ones that are written with;
2. the cell's database says that rows may lie under them, so that a look-up by older keys alone is asked again;
3. the key service hands them out to write with;
4. rows are re-sealed; who still holds the keys of before goes on writing with them, for their time in caches;
5. the database refuses the keys of before, and what was written meanwhile is re-sealed;
6. every row was opened under the new keys alone: the ones of before are destroyed.

How far it is stands in the key store and the cell's database, so that whoever runs it next goes on, and two that run it
at once are harmless. No step goes by a clock: the wait before step 5 only spares writers a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from domicile.cells.gateway.settings import GatewaySettings, open_own, open_vault, own_cell
from domicile.client import DirectoryClient, KeyTurnClient
from domicile.model import Conflict, DomicileError, FenceRefused, KeyWithheld, Unavailable
from domicile.model.key_wire import KeyRotation, KeyTurn
from domicile.sdk.home import Vault
from domicile.sdk.recorded import record_class
from domicile.sdk.store import Fence, FenceStore
from domicile.sdk.turning import turn_rows
from domicile.telemetry import log, warn

ATTEMPTS: Final = 30
PAUSE_SECONDS: Final = 1.0
NEWCOMERS: Final = 10
"""How often principals with first keys may come between two steps before their subject is left for the next run."""
Tell = Callable[[KeyRotation], None]


class Rotator:
    """``hold_seconds``: how long an application may hold a key. ``pause``: waits so many seconds."""

    def __init__(
        self,
        keys: KeyTurnClient,
        fences: FenceStore,
        vault: Vault,
        hold_seconds: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._fences = fences
        self._vault = vault
        self._hold_seconds = hold_seconds
        self._pause = pause

    async def status(self) -> KeyRotation:
        return await self._keys.rotation("status")

    async def stop(self) -> KeyRotation:
        """Every rotator of this cell ends after the subjects that it has in hand."""
        return await self._keys.rotation("pause")

    async def run(self, tell: Tell) -> KeyRotation:
        """Until every subject that is at home here is done, or somebody pauses it; what is left then.

        Raises Conflict, before anything is turned, for a table whose fields nobody recorded, Unavailable.
        """
        await self._check_tables()
        tell(await self._keys.rotation("go"))
        await self._each(self.begin, tell)
        if (await self.status()).turning:
            await self._pause(self._hold_seconds)
        await self._each(self.finish, tell)
        return await self.status()

    async def _each(self, step: Callable[[KeyTurn], Awaitable[None]], tell: Tell) -> None:
        after = None
        while turns := await self._keys.turns(after):
            for turn in turns:
                await self._patiently(step, turn)
            after = turns[-1].subject
            tell(await self.status())

    async def _patiently(self, step: Callable[[KeyTurn], Awaitable[None]], turn: KeyTurn) -> None:
        """One subject; what only this one refuses is logged, and it is left for the next run."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await step(turn)
            except KeyWithheld as error:
                return warn("subject-not-turned", code=error.code)
            except Unavailable:
                if attempt == ATTEMPTS:
                    raise
                await self._pause(PAUSE_SECONDS)
            except DomicileError as error:
                return warn("subject-not-turned", code=error.code)
        raise AssertionError

    async def _fence(self, turn: KeyTurn) -> Fence:
        fence = await self._fences.fence_of(turn.subject)
        if fence is None or fence.state != "open":
            raise FenceRefused("this cell does not hold the subject open")
        return fence

    async def begin(self, turn: KeyTurn) -> None:
        """Steps 1 to 4 of a subject; harmless to repeat."""
        fence = await self._fence(turn)
        await self._keys.step(turn, "make")
        await self._fences.announce_keys(fence, turn.generation)
        for _ in range(NEWCOMERS):
            try:
                await self._keys.step(turn, "turn")
                break
            except Conflict:  # somebody was given a first key since the others were made
                await self._keys.step(turn, "make")
        else:
            await self._keys.step(turn, "turn")
        await self._turn_rows(fence, turn, wholly=False)

    async def finish(self, turn: KeyTurn) -> None:
        """Steps 5 and 6 of a subject; harmless to repeat. Raises Conflict for one that was not begun."""
        fence = await self._fence(turn)
        await self._keys.step(turn, "turn")
        await self._fences.withdraw_keys(fence, turn.generation)
        count = await self._turn_rows(fence, turn, wholly=True)
        await self._keys.step(turn, "retire")
        log("subject-turned", count=count)

    async def _turn_rows(self, fence: Fence, turn: KeyTurn, *, wholly: bool) -> int:
        self._vault.keys.forget(turn.subject)
        count = 0
        for table in await self._fences.tables():
            kind = record_class(table, await self._fences.columns(table))
            count += await turn_rows(self._vault, fence, kind.domicile_table, turn.generation, wholly=wholly)
        return count

    async def _check_tables(self) -> None:
        for table in await self._fences.tables():
            record_class(table, await self._fences.columns(table))


@asynccontextmanager
async def rotator(settings: GatewaySettings) -> AsyncIterator[Rotator]:
    """With the certificate of a cell's gateway. Raises InvalidInput for any other, TokenInvalid, Unavailable."""
    credentials, identity = settings.credentials, own_cell(settings)
    assert identity.cell is not None
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(credentials, settings.directory)
        stack.push_async_callback(directory.close)
        section = (await settings.topology(directory).load()).jurisdictions[identity.jurisdiction].keys
        vault = await stack.enter_async_context(open_vault(settings, directory))
        pool = await open_own(stack, settings, "domicile_gateway", size=2)
        keys = KeyTurnClient(credentials, section.service, jurisdiction=identity.jurisdiction, cell=identity.cell)
        stack.push_async_callback(keys.close)
        yield Rotator(keys, FenceStore(pool), vault, section.cache_seconds)
