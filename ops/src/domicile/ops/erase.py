"""``domicile erase``: the end of a subject, asked for by an operator of its home's jurisdiction."""

from __future__ import annotations

import asyncio
import os
import sys
import unicodedata
from pathlib import Path
from typing import Annotated, Final

import typer

from domicile.client import DirectoryClient, GatewayClient
from domicile.identity import Credentials, check_endorsed, verify_receipt
from domicile.model import Pin, PinState
from domicile.model.errors import Conflict, DomicileError, Forbidden, InvalidInput, UnknownSubject
from domicile.model.ids import Peppers, SubjectKey
from domicile.model.manifest import Manifest
from domicile.model.wire import ErasureResponse
from domicile.ops.health import operator_given
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, StateOption, refusals
from domicile.ops.receipts import Meant, ReceiptFile, tell

MAX_ID_BYTES: Final = 256


def erase_command(
    subject: Annotated[
        str, typer.Argument(help="The subject key; @FILE reads the subject's id from a file, @- from standard input.")
    ],
    jurisdiction: Annotated[str, typer.Option("--as", help="Whose operator asks: the home's own.")],
    receipt: Annotated[
        Path, typer.Option(help="Where to write the receipt; the key it is signed by goes beside it, as .pem.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    manifest: Annotated[Path | None, typer.Option(help="The manifest.", show_default="the state folder's")] = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Erase a subject for good: its rows, aliases and keys; of its pin a tombstone stays.

    Run it again with the same receipt file for the same receipt, or to see an erasure through that was interrupted:
    whoever signed up since is left alone. To erase them, name another file. The subject's id becomes a key here, by the
    pepper in the state folder or DOMICILE_PEPPER, and goes no further. The certificate is the state folder's
    operator's, or DOMICILE_CERTIFICATE, _KEY and _AUTHORITIES.
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        loaded = load_file(manifest or layout.manifest)
        if jurisdiction not in loaded.jurisdictions:
            raise InvalidInput(f"no jurisdiction {jurisdiction} ({', '.join(sorted(loaded.jurisdictions))})")
        credentials = operator_given(layout, jurisdiction)
        keys = _keys(subject, layout)
        with ReceiptFile.locked(receipt, keys) as file:
            try:
                answer = asyncio.run(_erase(loaded, credentials, keys, file, sure=yes))
            except KeyboardInterrupt:
                if file.meant is not None:
                    typer.echo(f"it may go on by itself: the same command tells, by {receipt}", err=True)
                raise
            try:
                file.keep(answer.receipt, answer.key)
            except (OSError, InvalidInput) as error:
                typer.echo(
                    f"erased; the tombstone is epoch {answer.epoch}. Keep this receipt and key yourself:", err=True
                )
                typer.echo(f"{answer.receipt}\n{answer.key}", err=True)
                raise error
        said = verify_receipt(answer.receipt, loaded.deployment, answer.key.encode())
        check_endorsed(answer.key.encode(), said, (credentials.authorities / f"{jurisdiction}.pem").read_bytes())
    tell(said, receipt, answer.key.encode(), by="the authority", json_output=json_output)


def _keys(subject: str, layout: Layout) -> list[SubjectKey]:
    """By which the subject may be named. Raises InvalidInput, without a word of the id."""
    if not subject.startswith("@"):
        return [SubjectKey.parse(subject)]
    with open(0 if subject == "@-" else subject[1:], "rb", closefd=subject != "@-") as stream:
        raw = stream.read(MAX_ID_BYTES + 3)
    try:
        name = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        name = ""
    if not name or len(name.encode()) > MAX_ID_BYTES or any(unicodedata.category(char) == "Cc" for char in name):
        raise InvalidInput(
            "holds no subject's id, or more than that",
            where=subject,
            remedy=f"one line of UTF-8, {MAX_ID_BYTES} bytes at most",
        )
    path = Path(os.environ.get("DOMICILE_PEPPER") or layout.pepper)
    return list(Peppers.parse(path.read_text()).subject_keys(name))


async def _erase(
    manifest: Manifest, credentials: Credentials, keys: list[SubjectKey], file: ReceiptFile, *, sure: bool
) -> ErasureResponse:
    directory = DirectoryClient(credentials, [site.address for site in manifest.directory.sites])
    try:
        found = (await directory.resolve(keys)).pins
    finally:
        await directory.close()
    failed: DomicileError = UnknownSubject("the subject has no pin")
    # of one that has two keys the one before is a tombstone, whose epoch says nothing
    for pin in sorted(found, key=lambda pin: pin.state == "erased"):
        meant = file.meant or Meant(pin.subject_key, pin.epoch)
        if pin.jurisdiction != credentials.identity.jurisdiction:
            raise Forbidden("the home lies in another jurisdiction", remedy="ask an operator there")
        if file.meant is None and pin.state is not PinState.ERASED:
            _confirm(pin, sure=sure)
            file.note(meant)
        gateway = GatewayClient(credentials, manifest, pin.cell)
        try:
            return await gateway.erase(pin.subject_key, epoch=meant.epoch)
        except (Conflict, UnknownSubject) as error:
            if pin.state is not PinState.ERASED:
                raise
            failed = error
        finally:
            await gateway.close()
    raise failed


def _confirm(pin: Pin, *, sure: bool) -> None:
    """Raises InvalidInput without a yes."""
    what = f"subject {pin.subject_key} at epoch {pin.epoch}, of cell {pin.cell}"
    if sure:
        typer.echo(f"erasing {what}", err=True)
        return
    if not sys.stdin.isatty():
        raise InvalidInput(f"would erase {what}, for good", remedy="say --yes where nobody can be asked")
    if not typer.confirm(f"Erase {what}, for good?", err=True):
        raise InvalidInput("nothing was erased")
