"""What the commands ask gateways: a jurisdiction's ledgers, and what it holds of others'. As an operator of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from domicile.cells.ledger.export import Export, KeptHead, Place
from domicile.client import DirectoryClient, GatewayClient
from domicile.identity import Credentials, verify_head, verify_topology
from domicile.model import Address, Conflict, DomicileError, Identity, InvalidInput, Manifest, Role, parse_manifest
from domicile.model.ledger_wire import MAX_LINES, HeldAnswer, SignedHead, TreeHead
from domicile.model.manifest import AddressField
from domicile.service import operator_keys_in

_ADDRESS: Final[TypeAdapter[str]] = TypeAdapter(AddressField)


def setting(name: str) -> str:
    """The environment's DOMICILE_<name>. Raises InvalidInput where it is not set."""
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it, or run it beside a local world")
    return value


def authority_of(jurisdiction: str, folder: Path) -> bytes:
    """Raises InvalidInput for one that isn't in the folder."""
    path = folder / f"{jurisdiction}.pem"
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            (error.strerror or "cannot be read").lower(), where=str(path), remedy="the jurisdiction's authority (PEM)"
        ) from None


@dataclass(frozen=True)
class Auditor:
    """An operator, and the topology that operators have signed."""

    credentials: Credentials
    manifest: Manifest
    authorities: Path

    @property
    def identity(self) -> Identity:
        return self.credentials.identity

    def cells(self) -> list[str]:
        """Of the operator's own jurisdiction."""
        own = [name for name, cell in self.manifest.cells.items() if cell.jurisdiction == self.identity.jurisdiction]
        if not own:
            raise InvalidInput(
                f"the topology has no cell of {self.identity.jurisdiction}", remedy="be an operator of one that it has"
            )
        return own

    def verify(self, head: SignedHead, jurisdiction: str) -> TreeHead:
        return verify_head(head, self.manifest.deployment, authority_of(jurisdiction, self.authorities))

    @asynccontextmanager
    async def client(self, cell: str) -> AsyncIterator[GatewayClient]:
        client = GatewayClient(self.credentials, self.manifest, cell)
        try:
            yield client
        finally:
            await client.close()


async def auditor() -> Auditor:
    """By the environment. Raises InvalidInput, Unavailable, TokenInvalid."""
    authorities = Path(setting("AUTHORITIES"))
    own = Credentials(Path(setting("CERTIFICATE")), Path(setting("KEY")), authorities)
    if own.identity.role is not Role.OPERATOR:
        raise InvalidInput(f"is a certificate for {own.identity.role}, not {Role.OPERATOR}", where=str(own.certificate))
    try:
        places = [Address(_ADDRESS.validate_python(each.strip())) for each in setting("DIRECTORY").split(",")]
    except ValidationError:
        raise InvalidInput("is not host:port", where="DOMICILE_DIRECTORY", remedy="such as 10.0.0.1:7000") from None
    directory = DirectoryClient(own, places)
    try:
        document = await directory.topology()
    finally:
        await directory.close()
    signed = verify_topology(document, own.identity.deployment, operator_keys_in(Path(setting("OPERATORS"))))
    return Auditor(own, parse_manifest(signed, source=f"topology revision {document.revision}"), authorities)


@asynccontextmanager
async def exporting(auditor: Auditor, cell: str, since: datetime | None, spool: list[bytes]) -> AsyncIterator[Export]:
    """A ledger from a moment on, up to its head as it is now. ``spool`` takes the lines."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(auditor.client(cell))
        signed = (await client.ledger_head()).head
        head = auditor.verify(signed, auditor.identity.jurisdiction)
        moment = None if since is None else max(0, int(since.timestamp()))
        answer = await (client.ledger_lines(0, MAX_LINES) if moment is None else client.ledger_since(moment, MAX_LINES))
        if answer.log != head.log:
            raise Conflict("the ledger was begun anew meanwhile", where=cell, remedy="ask again")
        first, frontier = answer.first, answer.frontier
        if first > head.size:  # what was added since the head was signed
            answer = await client.ledger_lines(head.size, MAX_LINES)
            first, frontier = head.size, answer.frontier
        lines = answer.lines
        while first + len(spool) < head.size and lines:
            spool.extend(line.encode() for line in lines[: head.size - first - len(spool)])
            if first + len(spool) < head.size:
                lines = (await client.ledger_lines(first + len(spool), MAX_LINES)).lines
        place = Place(
            deployment=auditor.manifest.deployment,
            jurisdiction=auditor.identity.jurisdiction,
            cell=cell,
            log=head.log,
            first=first,
            frontier=frontier,
        )
        yield Export(place, [KeptHead(by=cell, head=signed)], spool)


async def held_by(auditor: Auditor, cell: str) -> HeldAnswer:
    async with auditor.client(cell) as client:
        return await client.ledger_held()


async def witnesses(auditor: Auditor) -> tuple[list[KeptHead], list[str]]:
    """What gateways of other jurisdictions hold of this one's ledgers, and which of them do not answer."""
    found: list[KeptHead] = []
    silent: list[str] = []
    own = auditor.identity.jurisdiction
    for name, cell in auditor.manifest.cells.items():
        if cell.jurisdiction == own:
            continue
        try:
            answer = await held_by(auditor, name)
        except DomicileError as error:
            silent.append(f"{name} does not say what it holds ({error.code})")
            continue
        heads = [each.head for each in answer.heads if each.jurisdiction == own and each.head is not None]
        found += [KeptHead(by=name, head=head) for head in heads]
    return found, silent
