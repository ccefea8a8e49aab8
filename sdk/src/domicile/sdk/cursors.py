"""Where a page ended, as a text that a client may carry: nobody but the cell reads it, and it fits one question alone.

It holds the place itself, the last row's id and the value that rows are ordered by, so that the next page begins
there also when that row was changed or deleted meanwhile. Both are sealed (AES-256-GCM under a key of the subject's
own), with the question as additional data: what is asked for does not lie in it. Its length tells that of a text only
by steps of 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import InvalidInput
from domicile.model.sealed import NONCE_BYTES
from domicile.sdk.store.port import Place, Selection
from domicile.sdk.tables import Kind, Table

_USE: Final = b"domicile/cursor/2"
_STEP: Final = 32


def another_question() -> InvalidInput:
    return InvalidInput("a cursor of another question", remedy="ask as for the page before, or begin anew")


class Cursors:
    """Those of one question about one subject's rows. ``secrets``: what only the cell knows, the one in force first.

    ``question``: all that is asked but the place; ``kind``: of what rows are ordered by.
    """

    def __init__(self, secrets: Sequence[bytes], use: bytes, question: Iterable[bytes], kind: Kind) -> None:
        self._keys = [AESGCM(hmac.digest(secret, use, hashlib.sha256)) for secret in secrets]
        self._kind = kind
        self._question = b"".join(struct.pack(">I", len(part)) + part for part in question)

    @classmethod
    def at_home(cls, secrets: Sequence[bytes], subject: UUID, table: Table, selection: Selection) -> Cursors:
        spelled = [repr((c.column, c.operator.value, c.value)).encode() for c in selection.conditions]
        parts = [table.name.encode(), selection.order.encode(), bytes([selection.descending]), *spelled]
        return cls(secrets, _USE + subject.bytes, parts, table.kind_of(selection.order))

    def after(self, id: UUID, value: Any) -> str:  # noqa: A002
        """What leads to the rows after the one with this id, which is ordered by this value."""
        spelled = b"" if value is None else self._kind.dump(self._kind.plain(value))  # JSON: never empty, without a NUL
        text = id.bytes + spelled + bytes(-len(spelled) % _STEP)
        nonce = os.urandom(NONCE_BYTES)
        return base64.urlsafe_b64encode(nonce + self._keys[0].encrypt(nonce, text, self._question)).decode()

    def place(self, cursor: str) -> Place:
        """Where a page begins. Raises InvalidInput for a cursor that was not made for this question."""
        if not cursor.isascii():  # what is raised of it would quote it
            raise another_question()
        try:
            raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise another_question() from None
        for key in self._keys:
            try:
                text = key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._question)
            except (ValueError, InvalidTag):
                continue
            spelled: Any = text[16:].rstrip(b"\0")
            return Place(UUID(bytes=text[:16]), self._kind.load(spelled) if spelled else None)
        raise another_question()
