"""The memory of what was destroyed, kept outside of the key store, and the receipts about it.

A key store that is restored to an earlier time holds destroyed keys again. So each process notes, on its own disk and
before it destroys, whose keys go, and destroys them once more whenever it meets a server: at its own start, and before
it hands out a key of one that came back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from domicile.cells.keys.noted import Noted, NotedFile, kept
from domicile.cells.keys.storage import KeyStore
from domicile.identity import Credentials, Signer, endorse
from domicile.model import TokenType
from domicile.model.key_domains import KeySection
from domicile.model.key_wire import ShredReceipt, ShredRequest
from domicile.telemetry import log, warn

LOG_FILE: Final = "shredded.log"
RECEIPT_KEY_FILE: Final = "receipt.key"
DAY: Final = 86_400


class Shredder:
    """Destroys keys of one store; ``state`` is this process's private folder."""

    def __init__(
        self,
        store: KeyStore,
        credentials: Credentials,
        section: KeySection,
        state: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._identity = credentials.identity
        self._section = section
        self._noted = NotedFile(state / LOG_FILE)
        self._signer = Signer.load_or_create(state / RECEIPT_KEY_FILE)
        self._clock = clock
        self._noting = asyncio.Lock()

    @property
    def public_pem(self) -> str:
        return self._signer.public_pem().decode()

    async def shred(self, asked: ShredRequest, caller: str) -> tuple[str, str]:
        """Destroy, and sign what is destroyed: the receipt, and its key (PEM) with what proves whose it is.

        Who repeats it, as after an interruption, gets the same said.
        """
        key = endorse(self._signer.public_pem(), self._credentials).decode()
        await self._store.check_owner(asked.cell, asked.subject)  # before it is noted for every start to come
        now = int(self._clock())
        until = now + self._section.backup_days * DAY
        line = Noted(cell=asked.cell, subject=asked.subject, principal=asked.principal, at=now, until=until)
        async with self._noting:
            await asyncio.to_thread(self._noted.add, line)
        shredded = await self._store.shred(asked.cell, asked.subject, asked.principal, caller)
        now = int(self._clock())
        receipt = ShredReceipt(
            iss=self._identity.deployment,
            jur=self._identity.jurisdiction,
            store=self._identity.uri,
            cell=asked.cell,
            subject=asked.subject,
            principals=sorted(shredded.principals),
            whole_subject=asked.principal is None,
            iat=now,
            caches_until=now + self._section.cache_seconds,
            backups_until=now + self._section.backup_days * DAY,
            deleted=asked.deleted,
        )
        return self._signer.sign(receipt.model_dump(mode="json"), TokenType.SHRED_RECEIPT), key

    async def destroy_again(self) -> int:
        """What was noted and is there all the same: an interrupted shred, or a restored store; how many keys."""
        again = 0
        async with self._noting:
            noted = await asyncio.to_thread(self._noted.read)
        for asked in {(line.subject, line.principal): line for line in noted}.values():
            again += (await self._store.shred(asked.cell, asked.subject, asked.principal, self._identity.uri)).now
        if again:
            warn("keys-destroyed-again", count=again)
        return again

    async def forget_expired(self) -> int:
        """What no backup can give back any more is noted no longer; how many lines go.

        By this host's clock and the key store's, whichever is behind: one that jumps ahead forgets nothing.
        """
        now = int(min(self._clock(), await self._store.time()))
        async with self._noting:
            lines = await asyncio.to_thread(self._noted.read)
            left = kept(lines, now, self._section.backup_days * DAY)
            if left.changed:
                await asyncio.to_thread(self._noted.replace, left.lines)
        gone = len(lines) - len(left.lines)
        if gone:
            log("shreds-forgotten", count=gone)
        return gone
