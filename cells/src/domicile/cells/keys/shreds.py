"""The memory of what was destroyed, kept outside of the key store, and the receipts about it.

A key store that is restored to an earlier time holds destroyed keys again. So each process notes, on its own disk and
before it destroys, whose keys go, and destroys them once more whenever it meets a server: at its own start, and before
it hands out a key of one that came back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from domicile.cells.keys.storage import KeyStore
from domicile.identity import Credentials, Signer, endorse
from domicile.model import InvalidInput, TokenType
from domicile.model.key_domains import KeySection
from domicile.model.key_wire import ShredReceipt, ShredRequest
from domicile.telemetry import warn

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
        self._log = state / LOG_FILE
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
        async with self._noting:
            await asyncio.to_thread(self._note, asked)
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
            noted = await asyncio.to_thread(self._noted)
        for asked in noted:
            again += (await self._store.shred(asked.cell, asked.subject, asked.principal, self._identity.uri)).now
        if again:
            warn("keys-destroyed-again", count=again)
        return again

    def _note(self, asked: ShredRequest) -> None:
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as stream:
            stream.write(asked.model_dump_json(exclude={"deleted"}).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _noted(self) -> list[ShredRequest]:
        """A last line that was cut short belongs to a shred that was never acknowledged, and is cut off."""
        try:
            *lines, rest = self._log.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        if rest:
            os.truncate(self._log, sum(len(line) + 1 for line in lines))
        noted: dict[tuple[UUID, UUID | None], ShredRequest] = {}
        for line in lines:
            try:
                asked = ShredRequest.model_validate_json(line)
            except ValueError:
                raise InvalidInput(
                    "cannot be read", where=str(self._log), remedy="restore it: it tells what must stay destroyed"
                ) from None
            noted[asked.subject, asked.principal] = asked
        return list(noted.values())
