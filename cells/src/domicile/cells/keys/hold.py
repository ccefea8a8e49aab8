"""The customer's side of hold-your-own-key: ``domicile-keys hold``, which wraps and unwraps until he cuts it off.

It is a process of the customer's, on his machine, with his key-encryption key in its state folder. The switch is a
file there: while ``cut`` exists, every request is refused with a typed error, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from domicile.cells.keys.holders import Plain, Wrapped
from domicile.cells.keys.own import OwnHolder
from domicile.identity import write_private
from domicile.model import Endpoint, InvalidInput, KeyWithheld, Role
from domicile.model.key_wire import HeldKey, HeldKeysRequest, HeldKeysResponse, HeldVersion
from domicile.service import ProcessSettings, Service, json_response, read_body

CUT_FILE: Final = "cut"
KEK_FOLDER: Final = "kek"


class FolderRegister:
    """A customer has no database: the check value of each version lies beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keks(self, domain: str) -> Mapping[int, bytes]:
        return {int(path.stem): path.read_bytes() for path in self._folder.glob("*.check")}

    async def add_kek(self, domain: str, version: int, check_value: bytes) -> None:
        path = self._folder / f"{version}.check"
        if not path.exists():
            write_private(path, check_value)


class HolderApi:
    """Handlers over one domain's key-encryption keys."""

    def __init__(self, holder: OwnHolder, switch: Path) -> None:
        self._holder = holder
        self._switch = switch

    def routes(self, service: Service) -> None:
        service.route("GET", "/v1/version", Endpoint.HELD_KEYS, self.version)
        service.route("POST", "/v1/wrap", Endpoint.HELD_KEYS, self.wrap)
        service.route("POST", "/v1/unwrap", Endpoint.HELD_KEYS, self.unwrap)

    def _check_switch(self) -> None:
        if self._switch.exists():
            raise KeyWithheld("its holder has cut it off", remedy="ask him; nothing is lost")

    async def version(self, _: web.Request) -> web.Response:
        self._check_switch()
        return json_response(HeldVersion(version=await self._holder.version()), Cache_Control="no-store")

    async def wrap(self, request: web.Request) -> web.Response:
        self._check_switch()
        asked = (await read_body(request, HeldKeysRequest)).keys
        wrapped = await self._holder.wrap([Plain(key.context, key.value) for key in asked])
        keys = [HeldKey(context=key.context, value=key.value, version=key.version) for key in wrapped]
        return json_response(HeldKeysResponse(keys=keys), Cache_Control="no-store")

    async def unwrap(self, request: web.Request) -> web.Response:
        self._check_switch()
        asked = (await read_body(request, HeldKeysRequest)).keys
        plain = await self._holder.unwrap([Wrapped(key.context, key.version, key.value) for key in asked])
        keys = [HeldKey(context=key.context, value=value) for key, value in zip(asked, plain, strict=True)]
        return json_response(HeldKeysResponse(keys=keys), Cache_Control="no-store")


async def _started(settings: ProcessSettings) -> OwnHolder:
    """Of the domain that the certificate names. Raises InvalidInput."""
    identity = settings.credentials.identity
    if identity.role is not Role.HOLDER or identity.cell is None:
        raise InvalidInput(
            f"the certificate is for {identity.role}, not {Role.HOLDER}", where=str(settings.certificate)
        )
    folder = settings.state / KEK_FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    holder = OwnHolder(folder, identity.jurisdiction, identity.cell, FolderRegister(folder))
    await holder.start()
    return holder


@asynccontextmanager
async def serve_holder(settings: ProcessSettings) -> AsyncIterator[None]:
    """The key holder of the domain that the certificate names, listening inside the context.

    Raises InvalidInput for settings, or a key-encryption key, that it must not start with.
    """
    holder = await _started(settings)

    async def ready() -> None: ...

    service = Service(settings, ready)
    HolderApi(holder, settings.state / CUT_FILE).routes(service)
    context = service.internal_context([Role.KEYS], [settings.credentials.identity.jurisdiction])
    async with service.listen(settings.address(), context):
        yield


def switch(settings: ProcessSettings, *, cut: bool) -> None:
    """Cut the holder of this state folder off, or restore it; at once, and whether it runs or not."""
    path = settings.state / CUT_FILE
    if cut:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    else:
        path.unlink(missing_ok=True)


async def begin_version(settings: ProcessSettings) -> int:
    """A new version of the customer's key-encryption key, which a running holder takes up by itself."""
    return await (await _started(settings)).rotate()
