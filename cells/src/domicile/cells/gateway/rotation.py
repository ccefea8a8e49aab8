"""Rotation of a cell's keys, run in the cell with its gateway's certificate: the centre has neither rows nor keys.

A subject's data key and the secret of its blind indexes are turned together, in steps each of which may be the last:

1. the key service makes the next keys, and hands them out beside the ones that are written with;
2. the cell's database says that rows may lie under them, so that a look-up by older keys alone is asked again;
3. the key service hands them out to write with;
4. rows are re-sealed; who still holds the keys of before goes on writing with them, for their time in caches;
5. the database refuses the keys of before, and what was written meanwhile is re-sealed;
6. every row was opened under the new keys alone: the ones of before are destroyed.

The cell's own secret, of blind indexes across subjects, takes the same steps once for all of them: 1 to 3 before any
subject is begun, 5 before any is finished. Each row is indexed anew when it is re-sealed, and subjects whose data keys
need no turn are gone through for their indexes alone. It is destroyed when no subject is left that could have a row
under it, those among them that are not open here at the moment.

Rows that nothing opens any more are about somebody who was shredded, and are here again because the cell was restored:
they go as they went then, with their blind indexes and what of them is shareable.

How far it is stands in the key store and the cell's database, so that whoever runs it next goes on, and two that run it
at once are harmless. No step goes by a clock: the wait before step 5 only spares writers a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

from domicile.cells.gateway.settings import GatewaySettings, open_vault, own_cell
from domicile.client import DirectoryClient, KeyTurnClient
from domicile.model import Conflict, DomicileError, FenceRefused, KeyWithheld, Unavailable
from domicile.model.key_wire import KeyRotation, KeyTurn
from domicile.sdk.home import Vault
from domicile.sdk.recorded import record_class
from domicile.sdk.store import ErasureStore, Fence, FenceStore, open_own
from domicile.sdk.tables import Table
from domicile.sdk.turning import turn_rows
from domicile.telemetry import log, warn

ATTEMPTS: Final = 30
PAUSE_SECONDS: Final = 1.0
INDEX_BATCH: Final = 200
NEWCOMERS: Final = 10
"""How often principals with first keys may come between two steps before their subject is left for the next run."""
Tell = Callable[[KeyRotation], None]


class Rotator:
    """``hold_seconds``: how long an application may hold a key. ``pause``: waits so many seconds."""

    def __init__(
        self,
        keys: KeyTurnClient,
        fences: FenceStore,
        erasures: ErasureStore,
        vault: Vault,
        hold_seconds: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._fences = fences
        self._erasures = erasures
        self._vault = vault
        self._hold_seconds = hold_seconds
        self._pause = pause
        self._unindexed = 0

    async def status(self) -> KeyRotation:
        return await self._counted(await self._keys.rotation("status"))

    async def _counted(self, now: KeyRotation) -> KeyRotation:
        self._unindexed = await self._fences.count_index_due(now.index) if now.index and await self._indexed() else 0
        return self._told(now)

    def _told(self, now: KeyRotation) -> KeyRotation:
        """Who is left to be indexed was counted once, and is counted down since."""
        return now.model_copy(update={"unindexed": self._unindexed if now.index else 0})

    async def stop(self) -> KeyRotation:
        """Every rotator of this cell ends after the subjects that it has in hand."""
        return await self._counted(await self._keys.rotation("pause"))

    async def run(self, tell: Tell) -> KeyRotation:
        """Until every subject that is at home here is done, or somebody pauses it; what is left then.

        Raises Conflict, before anything is turned, for a table whose fields nobody recorded, Unavailable.
        """
        await self._tables()
        begun = await self._keys.rotation("go")
        tell(await self._counted(begun))
        index = begun.index
        if index is not None:
            await self.begin_index(index)
        await self._each(self.begin, tell)
        if index is not None or (await self._keys.rotation("status")).turning:
            await self._pause(self._hold_seconds)
        if index is not None:
            await self._fences.withdraw_index(index)
        await self._each(partial(self.finish, index=index), tell)
        if index is not None:
            await self.finish_index(index, tell)
        return await self.status()

    async def _each(self, step: Callable[[KeyTurn], Awaitable[None]], tell: Tell) -> None:
        after = None
        while turns := await self._keys.turns(after):
            for turn in turns:
                await self._patiently(partial(step, turn))
            after = turns[-1].subject
            tell(self._told(await self._keys.rotation("status")))

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """One subject; what only this one refuses is logged, and it is left for the next run."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await step()
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
        await self._turn_rows(fence, turn.generation, wholly=False)

    async def begin_index(self, generation: int) -> None:
        """Steps 1 to 3 of the cell's index secret; harmless to repeat. Raises Conflict where it was turned again."""
        await self._keys.index_step(generation, "make")
        await self._fences.announce_index(generation)
        await self._keys.index_step(generation, "turn")
        self._vault.keys.forget_index()

    async def finish(self, turn: KeyTurn, index: int | None = None) -> None:
        """Steps 5 and 6 of a subject; harmless to repeat. Raises Conflict for one that was not begun.

        ``index``: the generation of the cell's index secret that others are withdrawn for.
        """
        fence = await self._fence(turn)
        await self._keys.step(turn, "turn")
        await self._fences.withdraw_keys(fence, turn.generation)
        if index is not None:
            await self._fences.settle_index(fence, index)
        count = await self._turn_rows(fence, turn.generation, index=index, wholly=True)
        await self._keys.step(turn, "retire")
        if index is not None:
            await self._indexed_anew(fence, index)
        log("subject-turned", count=count)

    async def finish_index(self, generation: int, tell: Tell) -> None:
        """Everybody who is left, then step 6 of the cell's index secret; harmless to repeat."""
        after, indexed = None, bool(await self._indexed())
        while indexed and await self._still(generation):
            fences = await self._fences.index_due(generation, after, INDEX_BATCH)
            if not fences:
                break
            for fence in fences:
                await self._patiently(partial(self._index_rows, fence, generation))
            after = fences[-1].subject_key
            tell(self._told(await self._keys.rotation("status")))
        if await self._still(generation) and not (indexed and await self._fences.count_index_due(generation)):
            await self._keys.index_step(generation, "retire")
            log("index-turned")

    async def _still(self, generation: int) -> bool:
        """Whether the cell's index secret is to be turned to this generation, and nobody has paused it."""
        now = await self._keys.rotation("status")
        return now.running and now.index == generation

    async def _index_rows(self, fence: Fence, generation: int) -> None:
        """A subject's rows for their indexes alone, whichever data keys they are under."""
        if fence.state != "open":
            raise FenceRefused("this cell does not hold the subject open")
        await self._fences.settle_index(fence, generation)
        self._vault.keys.forget(fence.internal_id)
        for table in await self._indexed():
            turned = await turn_rows(self._vault, fence, table, None, index=generation, wholly=True)
            await self._shred_again(fence, turned.lost)
        await self._indexed_anew(fence, generation)

    async def _indexed_anew(self, fence: Fence, generation: int) -> None:
        await self._fences.index_turned(fence, generation)
        self._unindexed = max(0, self._unindexed - 1)

    async def _turn_rows(self, fence: Fence, generation: int, *, index: int | None = None, wholly: bool) -> int:
        self._vault.keys.forget(fence.internal_id)
        count = 0
        for table in await self._tables():
            turned = await turn_rows(self._vault, fence, table, generation, index=index, wholly=wholly)
            await self._shred_again(fence, turned.lost)
            count += turned.rows
        return count

    async def _shred_again(self, fence: Fence, lost: Iterable[UUID]) -> None:
        """A gateway of the cell makes the receipt of it, anew where there was one."""
        for principal in lost:
            await self._erasures.shred(fence.subject_key, fence.epoch, principal)
            log("principal-shredded-again")

    async def _tables(self) -> list[Table]:
        names = await self._fences.tables()
        return [record_class(name, await self._fences.columns(name)).domicile_table for name in names]

    async def _indexed(self) -> list[Table]:
        """Those with blind indexes across subjects."""
        return [table for table in await self._tables() if any(column.find == "cell" for column in table.columns)]


@asynccontextmanager
async def rotator(settings: GatewaySettings) -> AsyncIterator[Rotator]:
    """With the certificate of a cell's gateway. Raises InvalidInput for any other, TokenInvalid, Unavailable."""
    credentials, identity = settings.credentials, own_cell(settings)
    assert identity.cell is not None
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(credentials, settings.directory)
        stack.push_async_callback(directory.close)
        section = (await settings.topology(directory).load()).jurisdictions[identity.jurisdiction].keys
        vault = await stack.enter_async_context(open_vault(settings, directory, "domicile_turner"))
        pool = await open_own(stack, settings, "domicile_gateway", size=2)
        keys = KeyTurnClient(credentials, section.service, jurisdiction=identity.jurisdiction, cell=identity.cell)
        stack.push_async_callback(keys.close)
        erasures = ErasureStore(await open_own(stack, settings, "domicile_eraser", size=1))
        yield Rotator(keys, FenceStore(pool), erasures, vault, section.cache_seconds)
