"""``domicile erase``: the end of a subject, asked for by an operator of its home's jurisdiction."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from domicile.client import DirectoryClient, GatewayClient
from domicile.identity import Credentials, verify_receipt, write_private
from domicile.model.errors import Forbidden, InvalidInput, UnknownSubject
from domicile.model.ids import Peppers, SubjectKey
from domicile.model.manifest import Manifest
from domicile.model.wire import ErasureResponse, ShredReceipt
from domicile.ops.health import operator_given
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, emit_json, refusals, table

MAX_ID_BYTES: Final = 256


def erase_command(
    subject: Annotated[
        str, typer.Argument(help="The subject key; @FILE reads the subject's id from a file, @- from standard input.")
    ],
    jurisdiction: Annotated[str, typer.Option("--as", help="Whose operator asks: the home's own.")],
    receipt: Annotated[
        Path, typer.Option(help="Where to write the receipt; the key it is signed by goes beside it, as .pem.")
    ],
    manifest: Annotated[Path | None, typer.Option(help="The manifest.", show_default="the state folder's")] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Folder of the world's state.", envvar="DOMICILE_STATE", show_default=".domicile"),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Erase a subject for good: its rows, aliases and keys; of its pin a tombstone stays.

    Run it again for the same receipt, or to see an erasure through that was interrupted. The subject's id becomes a key
    here, by the pepper in the state folder or DOMICILE_PEPPER, and goes no further. The certificate is the state
    folder's operator's, or DOMICILE_CERTIFICATE, _KEY and _AUTHORITIES.

    Example: domicile erase @subject.txt --as eu --receipt alice.receipt
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        keys = _keys(subject, layout)
        loaded = load_file(manifest or layout.manifest)
        answer = asyncio.run(_erase(loaded, operator_given(layout, jurisdiction), keys))
        said = verify_receipt(answer.receipt, loaded.deployment, answer.key.encode())
        write_private(receipt, answer.receipt.encode())
        write_private(receipt.with_name(f"{receipt.name}.pem"), answer.key.encode())
    _tell(said, receipt, json_output=json_output)


def receipt_command(
    receipt: Annotated[Path, typer.Argument(help="The receipt.")],
    deployment: Annotated[str, typer.Option(help="The deployment that it must be of.")],
    key: Annotated[
        Path | None, typer.Option(help="The key service's public key (PEM).", show_default="beside it, as .pem")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check a receipt about an erasure or a shred, without any network, and tell what it says.

    Example: domicile audit receipt alice.receipt --deployment acme
    """
    with refusals(as_json=json_output):
        public = (key or receipt.with_name(f"{receipt.name}.pem")).read_bytes()
        said = verify_receipt(receipt.read_bytes().decode("latin-1").strip(), deployment, public)
    _tell(said, receipt, json_output=json_output)


def _keys(subject: str, layout: Layout) -> list[SubjectKey]:
    """By which the subject may be named. Raises InvalidInput, without a word of the id."""
    if not subject.startswith("@"):
        return [SubjectKey.parse(subject)]
    with open(0 if subject == "@-" else subject[1:], "rb", closefd=subject != "@-") as stream:
        raw = stream.read(MAX_ID_BYTES + 2).removesuffix(b"\n")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8", where=subject, remedy="write the subject's id, and nothing else") from None
    path = Path(os.environ.get("DOMICILE_PEPPER") or layout.pepper)
    return list(Peppers.parse(path.read_text()).subject_keys(name))


async def _erase(manifest: Manifest, credentials: Credentials, keys: list[SubjectKey]) -> ErasureResponse:
    directory = DirectoryClient(credentials, [site.address for site in manifest.directory.sites])
    try:
        found = (await directory.resolve(keys)).pins
    finally:
        await directory.close()
    # of one that has two keys the one before is a tombstone, whose epoch says nothing
    for pin in sorted(found, key=lambda pin: pin.state == "erased"):
        if pin.jurisdiction != credentials.identity.jurisdiction:
            raise Forbidden("the home lies in another jurisdiction", remedy="ask an operator there")
        gateway = GatewayClient(credentials, manifest, pin.cell)
        try:
            return await gateway.erase(pin.subject_key)
        finally:
            await gateway.close()
    raise UnknownSubject("the subject has no pin")


def _tell(said: ShredReceipt, receipt: Path, *, json_output: bool) -> None:
    if json_output:
        emit_json({"ok": True, "receipt": str(receipt)} | said.model_dump(mode="json"))
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
    table(["", ""], rows)
