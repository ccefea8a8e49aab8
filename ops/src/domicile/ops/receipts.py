"""Receipts of erasures as files: what is meant is on the disk before it is asked for, so that a retry means the same.

A receipt's file holds, from before the erasure on, whose end it is to tell of (``pending``, subject key and epoch), and
in the end the receipt. A command that finds one of these means that account, and no other that came after it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import jwt
import typer
from pydantic import ValidationError

from domicile.identity import check_endorsed, fingerprint, sync_folder, verify_receipt, write_private
from domicile.model.errors import Conflict, InvalidInput
from domicile.model.ids import SubjectKey
from domicile.model.key_wire import ShredReceipt
from domicile.ops.layout import Layout
from domicile.ops.output import JsonOption, StateOption, emit_json, refusals, table

PENDING: Final = "pending"
MAX_RECEIPT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Meant:
    """An account that is to end: the pin's epoch, or its tombstone's."""

    subject_key: SubjectKey
    epoch: int


def meant_by(text: str, path: Path, keys: Collection[SubjectKey]) -> Meant | None:
    """The account that a receipt's file is about; None for an empty one. Raises InvalidInput for anything else."""
    if not text:
        return None
    meant = _pending(text) if text.startswith(f"{PENDING} ") else _told(text)
    if meant is None or meant.subject_key not in keys:
        raise InvalidInput(
            "is there already, and no receipt of this subject", where=str(path), remedy="name another file"
        )
    return meant


def _pending(text: str) -> Meant | None:
    try:
        _, key, epoch = text.split()
        return Meant(SubjectKey.parse(key), int(epoch))
    except (ValueError, InvalidInput):
        return None


def _told(text: str) -> Meant | None:
    try:
        # unverified: it is compared with what the gateway answers
        said = ShredReceipt.model_validate(jwt.decode(text.strip(), options={"verify_signature": False}))
    except (ValueError, jwt.InvalidTokenError, ValidationError):
        return None
    if said.deleted is None or said.deleted.tombstone is None:
        return None
    return Meant(said.deleted.subject_key, said.deleted.tombstone)


class ReceiptFile:
    """One that is locked; ``meant``: the account that it was about before."""

    def __init__(self, path: Path, text: str, meant: Meant | None, descriptor: int) -> None:
        self.path = path
        self.meant = meant
        self._text = text
        self._descriptor = descriptor

    @classmethod
    @contextmanager
    def locked(cls, path: Path, keys: Collection[SubjectKey]) -> Iterator[ReceiptFile]:
        """Made where there is none, and taken away if nothing was noted. Raises InvalidInput, Conflict, OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another command is about to write it", where=str(path)) from None
            text = os.pread(descriptor, MAX_RECEIPT_BYTES, 0).decode("latin-1")
            if not text and key_beside(path).exists():
                raise InvalidInput("is there already", where=str(key_beside(path)), remedy="name another receipt")
            file = cls(path, text, meant_by(text, path, keys), descriptor)
            yield file
        finally:
            _drop_empty(path, descriptor)
            os.close(descriptor)

    def note(self, meant: Meant) -> None:
        """Durably, what is about to be asked for; a receipt that is there stays."""
        if self.meant is not None:
            return
        os.pwrite(self._descriptor, f"{PENDING} {meant.subject_key} {meant.epoch}\n".encode(), 0)
        os.fsync(self._descriptor)
        sync_folder(self.path.parent)
        self.meant = meant

    def keep(self, receipt: str, key: str) -> None:
        """The receipt, and the key that it is signed by beside it. Raises InvalidInput where another one is there."""
        if self._text and not self._text.startswith(f"{PENDING} ") and self._text.strip() != receipt:
            raise InvalidInput("holds another receipt", where=str(self.path), remedy="name another file")
        write_private(key_beside(self.path), key.encode())
        write_private(self.path, receipt.encode())


def _drop_empty(path: Path, descriptor: int) -> None:
    """Unless another has put a receipt there meanwhile."""
    own = os.fstat(descriptor)
    if own.st_size == 0 and path.exists() and os.path.samestat(own, path.stat()):
        path.unlink()


def key_beside(receipt: Path) -> Path:
    return receipt.with_name(f"{receipt.name}.pem")


def receipt_command(
    receipt: Annotated[Path, typer.Argument(help="The receipt.")],
    deployment: Annotated[str, typer.Option(help="The deployment that it must be of.")],
    authority: Annotated[
        Path | None,
        typer.Option(
            help="The authority of its jurisdiction (PEM), as you know it.",
            show_default="the state folder's trust/authorities",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Instead: the receipt key (PEM) as its key service told you, which is then all that counts. Its "
            "fingerprint is printed: compare it with the one you were given by another way."
        ),
    ] = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check a receipt about an erasure or a shred, without any network, and tell what it says.

    The key is read beside the receipt, as .pem, and must be one that the jurisdiction's authority stands behind.
    """
    with refusals(as_json=json_output):
        if authority is not None and key is not None:
            raise InvalidInput("--authority and --key are two ways", remedy="name one")
        text = receipt.read_bytes().decode("latin-1").strip()
        public = (key or key_beside(receipt)).read_bytes()
        said = verify_receipt(text, deployment, public)
        if key is None:
            known = authority or Layout.at(state).authorities / f"{said.jur}.pem"
            check_endorsed(public, said, known.read_bytes())
    tell(said, receipt, public, by="the key alone" if key else "the authority", json_output=json_output)


def tell(said: ShredReceipt, receipt: Path, key: bytes, *, by: str, json_output: bool) -> None:
    """What a receipt says that was found to be good; ``by``: on whose word its key is believed."""
    if json_output:
        trust = {"key": fingerprint(key), "trusted_by": by}
        emit_json({"ok": True, "receipt": str(receipt)} | said.model_dump(mode="json") | trust)
        return
    rows = [["cell", f"{said.jur}/{said.cell}"], ["keys destroyed", f"{len(said.principals)}, in {said.store}"]]
    if said.deleted is not None:
        rows.append(["subject", str(said.deleted.subject_key)])
        rows += [[f"rows of {name}", f"{count:,}"] for name, count in sorted(said.deleted.rows.items())]
        rows.append(["aliases", str(said.deleted.aliases)])
        if said.deleted.tombstone is not None:
            rows.append(["tombstone", f"epoch {said.deleted.tombstone}"])
    rows += [
        [what, datetime.fromtimestamp(when, UTC).isoformat()]
        for what, when in (
            ("signed", said.iat),
            ("in no memory after", said.caches_until),
            ("in no backup after", said.backups_until),
        )
    ]
    rows += [["signed by key (SHA-256)", fingerprint(key)], ["believed by", by]]
    table(["", ""], rows)
