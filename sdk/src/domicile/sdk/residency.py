"""An application's way to its subjects: who is at home in this cell, and where everybody else is.

A residency starts only where its certificate and the signed topology say the same of it. It connects to its
own cell's storage and gateway and its own jurisdiction's key service; other cells' gateways are asked for
what is shareable, and nothing else. A subject whose fence is open here is served without the directory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, NoReturn
from uuid import UUID

from domicile.client import DirectoryClient, GatewayClient, KeyClient
from domicile.model.access import Identity, Role
from domicile.model.errors import (
    Conflict,
    CrossBorderAccess,
    DomicileError,
    InvalidInput,
    NotFound,
    Unavailable,
    UnknownSubject,
    WrongCell,
)
from domicile.model.ids import KEY_BYTES, AliasKey, Peppers, SubjectKey
from domicile.model.manifest import Manifest
from domicile.model.pins import Pin, PinState
from domicile.model.wire import ClaimRequest, ErasureResponse
from domicile.sdk.abroad import Abroad
from domicile.sdk.cell import CellSession
from domicile.sdk.home import Home, Vault, look_up
from domicile.sdk.references import Ref
from domicile.sdk.store import AcrossStore, Fence, FenceReader, RowStore, Standby, open_pool
from domicile.sdk.tickets import key_of
from domicile.service import ProcessSettings, load_settings
from domicile.telemetry import BORDER, warn


def check_place(identity: Identity, manifest: Manifest, bind: str, storage: Sequence[str]) -> str:
    """The name of the cell that this process belongs to, by certificate, manifest and settings alike. Pure.

    Raises InvalidInput where they disagree: nothing starts in a place that is not its own.
    """
    where = "certificate"
    if identity.role is not Role.APP or identity.cell is None:
        raise InvalidInput(f"is for {identity.role}, not for {Role.APP}", where=where)
    if identity.deployment != manifest.deployment:
        raise InvalidInput(f"is for deployment {identity.deployment}, not {manifest.deployment}", where=where)
    cell = manifest.cells.get(identity.cell)
    if cell is None:
        raise InvalidInput(f"names cell {identity.cell}, which the manifest does not", where=where)
    if cell.jurisdiction != identity.jurisdiction:
        raise InvalidInput(
            f"is {identity.jurisdiction}'s, and {identity.cell} lies in {cell.jurisdiction}", where=where
        )
    zone = cell.zones.get(identity.zone)
    if zone is None:
        raise InvalidInput(f"names zone {identity.zone}, which {identity.cell} does not have", where=where)
    if bind != zone.app:
        raise InvalidInput(f"is not {zone.app}, this zone's application in the manifest", where="DOMICILE_BIND")
    if not {place.storage for place in cell.zones.values()}.issuperset(storage):
        raise InvalidInput(f"is no storage of {identity.cell} in the manifest", where="DOMICILE_STORAGE")
    return identity.cell


class Residency:
    """See ``connect``. ``identity`` is this process's vantage, ``manifest`` the signed topology."""

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        peppers: Peppers,
        directory: DirectoryClient,
        vault: Vault,
        fences: FenceReader,
        gateways: Mapping[str, GatewayClient],
        across: AcrossStore,
    ) -> None:
        self.identity = identity
        self.manifest = manifest
        self._peppers = peppers
        self._directory = directory
        self._vault = vault
        self._fences = fences
        self._gateways = gateways
        self._across = across

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: ProcessSettings | None = None) -> AsyncIterator[Residency]:
        """``async with Residency.connect() as residency``; settings come from the environment.

        Raises InvalidInput where certificate, manifest and settings disagree, TokenInvalid for a topology
        that no operator signed, Unavailable for none at all. The storage is connected to when it is needed.
        """
        settings = settings or load_settings(ProcessSettings)
        credentials = settings.credentials
        identity = credentials.identity
        peppers = settings.load_peppers()
        async with AsyncExitStack() as stack:
            directory = DirectoryClient(credentials, settings.directory)
            stack.push_async_callback(directory.close)
            manifest = await settings.topology(directory).load()
            cell = check_place(identity, manifest, settings.bind, settings.storage)
            zones, pooler = manifest.cells[cell].zones, settings.storage_pooler
            nearest = sorted(zones, key=lambda zone: zone != identity.zone)
            pool_of = partial(
                open_pool,
                credentials,
                [zones[zone].storage for zone in nearest],
                jurisdiction=identity.jurisdiction,
                cell=cell,
                pooler=pooler,
            )
            pool, across = [await pool_of(user=user) for user in ("domicile_app", "domicile_cell")]
            stack.callback(pool.terminate)
            stack.callback(across.terminate)
            standby = None
            if len(zones) > 1 and not pooler:  # behind one nobody can tell which server answers
                behind = await pool_of(user="domicile_app", standby=True)
                stack.callback(behind.terminate)
                standby = Standby(behind)
            keys = KeyClient.of_cell(credentials, manifest, cell)
            stack.push_async_callback(keys.close)
            gateways = {name: GatewayClient(credentials, manifest, name) for name in manifest.cells}
            for gateway in gateways.values():
                stack.push_async_callback(gateway.close)
            rows = RowStore(pool, identity.jurisdiction, pooler=pooler, standby=standby)
            vault = Vault(rows, keys, cell, identity.jurisdiction)
            looks = AcrossStore(across, pooler=pooler)
            yield cls(identity, manifest, peppers, directory, vault, FenceReader(pool), gateways, looks)

    @property
    def cell_name(self) -> str:
        return self._vault.cell

    @property
    def jurisdiction(self) -> str:
        return self._vault.jurisdiction

    async def ready(self) -> None:
        """Raises Unavailable unless this cell's storage answers."""
        await self._fences.fence(SubjectKey(bytes(KEY_BYTES)))

    def subject_keys(self, subject_id: str) -> tuple[SubjectKey, ...]:
        """The keys that an application's own id can be named by: one of each pepper, the one in force first.

        Raises InvalidInput for what can be no id.
        """
        return self._peppers.subject_keys(subject_id)

    async def claim(
        self,
        subject_id: str,
        *,
        residence: str | None = None,
        jurisdiction: str | None = None,
        observed_country: str | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> Home:
        """Give a subject a home, or find the one that it has; harmless to repeat.

        ``residence`` (a country) decides, else ``jurisdiction``, else ``observed_country``. ``aliases`` are
        values by kind; they are written for a subject at home here alone. Raises WrongCell or
        CrossBorderAccess, with the home's public host, where the home is elsewhere: claim again there.
        Raises Conflict for a claim that contradicts the pin or an alias of another subject, InvalidInput for
        a country of no jurisdiction, Unavailable without the directory.
        """
        key, *others = self.subject_keys(subject_id)
        alias_keys = {kind: self._peppers.alias_keys(kind, value) for kind, value in (aliases or {}).items()}
        claim = ClaimRequest(
            residence=residence, jurisdiction=jurisdiction, observed_country=observed_country, other_keys=others
        )
        pin = await self._directory.claim(key, claim)
        self._require_here(pin)
        for kind, (alias, *other_aliases) in alias_keys.items():
            await self._directory.put_alias(kind, alias, pin.subject_key, other_aliases)
        return await self._open(pin.subject_key, {kind: keys[0] for kind, keys in alias_keys.items()})

    async def home(self, subject_id: str) -> Home:
        """The home of a subject in this cell: by its fence, without the directory, once that was opened.

        Raises WrongCell for a sibling cell's subject, CrossBorderAccess for another jurisdiction's,
        UnknownSubject for nobody's, and Unavailable where the directory must be asked and can't be.
        """
        return await self.home_of(*self.subject_keys(subject_id))

    async def home_of(self, *keys: SubjectKey) -> Home:
        """As ``home``, by the keys that the subject may be named by."""
        for key in keys:
            fence = await self.fence(key)
            if fence is not None and fence.state == "open":
                return Home(self._vault, fence)
        pin = await self._pin(*keys)
        self._require_here(pin)
        return await self._open(pin.subject_key, {})

    async def redeem(self, ticket: str) -> Home:
        """The home that a ticket names, as ``home`` finds it. Raises InvalidInput for what is no ticket."""
        return await self.home_of(key_of(ticket))

    async def erase(self, subject_id: str, *, epoch: int | None = None) -> ErasureResponse:
        """Erase a subject at home here for good: rows, aliases, keys and pin, in every process at once.

        The answer holds the signed receipt; who asks again gets the same one. Whoever comes back starts with nothing,
        at a higher epoch. ``epoch``: the ``home.epoch`` of the account that is meant, for who may ask late or again:
        one that was opened since is left alone. None: whoever is here when this is called, and nobody who comes later.

        Raises WrongCell, CrossBorderAccess, UnknownSubject, and Conflict for one that is being moved, or that neither
        is nor was at ``epoch``. Raises Unavailable where it is not done: nothing is begun, or the rest goes on by
        itself.
        """
        found = []
        for key in self.subject_keys(subject_id):
            with suppress(UnknownSubject):
                found.append(await self._directory.pin(key, fresh=True))
        failed: DomicileError = UnknownSubject("no such subject, or not any more")
        # of one that has two keys the one before is a tombstone, whose epoch says nothing
        for pin in sorted(found, key=lambda pin: pin.state is PinState.ERASED):
            erased = pin.state is PinState.ERASED
            try:
                self._require_here(pin)
                meant = pin.epoch if epoch is None else epoch
                return await self._gateways[self.cell_name].erase(pin.subject_key, epoch=meant)
            except (Conflict, UnknownSubject, WrongCell, CrossBorderAccess) as error:
                if not erased:
                    raise
                failed = error if epoch is not None and isinstance(error, Conflict) else failed
        raise failed

    async def shred(self, subject_id: str, principal: UUID) -> ErasureResponse:
        """Delete what is stored about one principal of a subject at home here, and destroy its key.

        What is put under a key that another process still holds, until the receipt's ``caches_until``, is closed after
        that. Raises as ``erase``.
        """
        home = await self.home(subject_id)
        return await self._gateways[self.cell_name].shred(home.subject_key, principal)

    @asynccontextmanager
    async def cell(self, *, purpose: str) -> AsyncIterator[CellSession]:
        """To look across the subjects of this cell, by a role of its own; ``purpose`` is kept with the time.

        Raises InvalidInput for a purpose that is no code such as ``support:T-1042``, and Unavailable.
        """
        yield await CellSession.begin(self._vault, self._across, purpose)

    async def look_up(self, kind: type[Ref], **conditions: Any) -> list[Ref]:
        """As ``home.look_up``, for whom there is no home yet."""
        return await look_up(self._vault.rows, kind, conditions)

    async def resolve_alias(self, kind: str, value: str) -> SubjectKey:
        """Whose alias this is, in whatever cell; raises UnknownSubject for nobody's."""
        for alias in self._peppers.alias_keys(kind, value):
            try:
                return await self._directory.alias(kind, alias)
            except NotFound:
                continue
        raise UnknownSubject("nobody has this alias")

    async def abroad(self, subject_id: str, *, purpose: str = "") -> Abroad:
        """A reader of what is shareable of a subject, wherever it is at home. Raises UnknownSubject.

        ``purpose``: what for, as a code that the home's ledger keeps: ``support:T-1042``. Nothing about a person.
        """
        pin = await self._pin(*self.subject_keys(subject_id))
        gateway = self._gateways.get(pin.cell)
        if gateway is None:
            raise Unavailable("the home is a cell that this topology does not name", remedy="wait for the new topology")
        if pin.jurisdiction != self.jurisdiction:
            BORDER.labels(self.jurisdiction, pin.jurisdiction, "abroad-read", "asked").inc()
        return Abroad(gateway, pin.jurisdiction, pin.cell, pin.subject_key, purpose)

    async def fence(self, key: SubjectKey) -> Fence | None:
        """The fence as this cell's storage has it, or None."""
        return await self._fences.fence(key)

    async def admit(self, key: SubjectKey, epoch: int) -> Fence:
        """The fence after asking the gateway whether there is one at ``epoch``; it may be at another one.

        Raises WrongCell, CrossBorderAccess or UnknownSubject where the directory says so, FenceRefused for a
        fence that stays closed, Unavailable.
        """
        answer = await self._gateways[self.cell_name].open_fence(key, {}, min_epoch=epoch)
        return Fence(answer.subject_key, answer.internal_id, answer.epoch, "open")

    def home_by(self, fence: Fence) -> Home:
        """The home behind a fence that is open here."""
        return Home(self._vault, fence)

    async def _open(self, key: SubjectKey, alias_keys: dict[str, AliasKey]) -> Home:
        answer = await self._gateways[self.cell_name].open_fence(key, alias_keys)
        return Home(self._vault, Fence(answer.subject_key, answer.internal_id, answer.epoch, "open"))

    async def _pin(self, *keys: SubjectKey) -> Pin:
        """The subject's pin, by whichever key it has one. Raises UnknownSubject."""
        for fresh in (False, True):
            rekeyed = False
            for key in keys:
                try:
                    pin = await self._directory.pin(key, fresh=fresh)
                except UnknownSubject:
                    continue
                if pin.state is not PinState.ERASED:
                    return pin
                # erased, or given another key since that one was asked for a moment ago
                rekeyed = len(keys) > 1
            if not rekeyed:
                break
        raise UnknownSubject("no such subject, or not any more")

    def _require_here(self, pin: Pin) -> None:
        if pin.cell == self.cell_name and pin.jurisdiction == self.jurisdiction:
            return
        self._refuse(pin)

    def _refuse(self, pin: Pin) -> NoReturn:
        place = self.manifest.jurisdictions.get(pin.jurisdiction)
        host = place.public_host if place is not None else None
        if pin.jurisdiction == self.jurisdiction:
            raise WrongCell(
                "the home is another cell of this jurisdiction",
                jurisdiction=pin.jurisdiction,
                cell=pin.cell,
                subject_key=str(pin.subject_key),
                public_host=host,
            )
        BORDER.labels(self.jurisdiction, pin.jurisdiction, "home", "refused").inc()
        warn("border-refused", from_jurisdiction=self.jurisdiction, to_jurisdiction=pin.jurisdiction, kind="home")
        raise CrossBorderAccess(
            f"the home lies in {pin.jurisdiction}",
            jurisdiction=pin.jurisdiction,
            cell=pin.cell,
            subject_key=str(pin.subject_key),
            public_host=host,
        )
