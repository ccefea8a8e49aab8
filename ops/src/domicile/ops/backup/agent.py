"""``python -m domicile.ops.backup.agent``: keeps the log and base backups of a jurisdiction's databases, all the time.

One process for each jurisdiction, and one for the directory; it is unready while a log is not in its target.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from domicile.client import BackupKeyClient, DirectoryClient
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.manifest import AddressField, Manifest
from domicile.ops.backup.keeper import Keeper
from domicile.ops.backup.keys import KEYS_AT, BackupKeys, FileKeys, Keyring
from domicile.ops.backup.passage import Passage
from domicile.ops.backup.store import Store
from domicile.ops.backup.targets import FolderTarget, Owner
from domicile.service import ProcessSettings, Service, ended, load_settings, run
from domicile.telemetry import warn

ADOPTED: Final = "target"
"""In the agent's state: the folder that it has made its jurisdiction's."""


def target_of(manifest: Manifest, jurisdiction: str) -> str:
    """Where in the manifest the target is named."""
    return "directory.backups" if jurisdiction == GLOBAL else f"jurisdictions.{jurisdiction}.backups"


def _doors(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = (each.partition("=") for each in value.split(";") if each.strip())
    return {name.strip(): doors.split(",") for name, _, doors in pairs}


class AgentSettings(ProcessSettings):
    """``databases``: the doors of each that this process backs up, such as eu-1=10.0.0.1:1,10.0.1.1:1;keys-eu=..."""

    databases: Annotated[dict[str, list[AddressField]], NoDecode, BeforeValidator(_doors)] = Field(min_length=1)
    targets: Path = Field(description="what a target's relative folder lies below")


def open_target(manifest: Manifest, jurisdiction: str, below: Path) -> FolderTarget:
    """The target that the manifest names, there or not. Raises InvalidInput where it names none."""
    section = manifest.directory if jurisdiction == GLOBAL else manifest.jurisdictions[jurisdiction]
    if section.backups is None:
        raise InvalidInput(
            "names no backup target", where=target_of(manifest, jurisdiction), remedy="see docs/backup.md"
        )
    return FolderTarget(
        below / section.backups.folder, Owner(deployment=manifest.deployment, jurisdiction=jurisdiction)
    )


def adopt_first(target: FolderTarget, folder: str, state: Path) -> None:
    """At the first start for a folder it becomes the jurisdiction's; at later ones it may be away, but is not remade.

    Raises WrongJurisdiction for another's.
    """
    mark = state / ADOPTED
    if mark.exists() and mark.read_text() == folder:
        try:
            target.check()
        except Unavailable as error:
            warn("backup-target-gone", code=error.code)
        return
    target.adopt()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark.write_text(folder)


@contextlib.asynccontextmanager
async def serve(settings: AgentSettings) -> AsyncIterator[None]:
    identity = settings.credentials.identity
    if identity.role is not Role.BACKUP:
        raise InvalidInput(f"the certificate is for {identity.role}", where=str(settings.certificate))
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(settings.credentials, settings.directory)
        stack.push_async_callback(directory.close)
        manifest = await settings.topology(directory).load()
        jurisdiction = identity.jurisdiction
        target = open_target(manifest, jurisdiction, settings.targets)
        keys: BackupKeys
        if jurisdiction == GLOBAL:
            section = manifest.directory.backups
            keys = FileKeys(settings.state / KEYS_AT, GLOBAL, own=True)
        else:
            section = manifest.jurisdictions[jurisdiction].backups
            addresses = manifest.jurisdictions[jurisdiction].keys.service
            keys = BackupKeyClient(settings.credentials, addresses, jurisdiction=jurisdiction)
            stack.push_async_callback(keys.close)
        assert section is not None
        await asyncio.to_thread(adopt_first, target, section.folder, settings.state)
        ring = Keyring(keys, manifest.deployment, jurisdiction)
        owner = Owner(deployment=manifest.deployment, jurisdiction=jurisdiction)
        keepers = []
        for name, doors in settings.databases.items():
            store = Store(target, ring, owner, name)
            spool = settings.state / "spool" / name
            keepers.append(Keeper(store, Passage(settings.credentials, doors), section, spool))

        async def ready() -> None:
            for keeper in keepers:
                keeper.check()

        service = Service(settings, ready)
        for keeper in keepers:
            stack.push_async_callback(ended, asyncio.create_task(keeper.run()))
        async with service.listen(settings.address(), service.internal_context([])):
            yield


def main() -> None:
    settings = load_settings(AgentSettings)
    run(settings, lambda: serve(settings))


if __name__ == "__main__":
    main()
