"""The program ``domicile-directory``: settings, start and end of one directory process.

The centre is blind: it is started without the pepper, and refuses to start where somebody gives it one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import typer
from pydantic import Field

from domicile.directory.allowance import Allowance
from domicile.directory.api import DirectoryApi
from domicile.directory.feed import Feed
from domicile.directory.history import MarkFile
from domicile.directory.replicas import Replicas
from domicile.directory.second_zone import SecondZone
from domicile.directory.storage import Storage
from domicile.directory.topology import PublishedTopology
from domicile.identity import Keyring
from domicile.identity.tokens import MAX_TOPOLOGY_BYTES
from domicile.model import GLOBAL, Address, InvalidInput, Role, Unavailable
from domicile.model.wire import SigningKey
from domicile.service import Addresses, ProcessSettings, Service, ended, load_settings, run

DAY_SECONDS: Final = 86_400.0
CALLERS: Final = [Role.ROUTER, Role.EDGE, Role.APP, Role.GATEWAY, Role.KEYS, Role.BACKUP, Role.OPERATOR, Role.LOAD]
"""Who may open a connection at all; the matrix then narrows each route."""
_EXAMPLE: Final = """
Example (all paths and addresses are this process's own):
  export DOMICILE_DEPLOYMENT=acme DOMICILE_PROCESS=directory-fra
  export DOMICILE_CERTIFICATE=cert.pem DOMICILE_KEY=key.pem
  export DOMICILE_AUTHORITIES=authorities DOMICILE_OPERATORS=operators
  export DOMICILE_STATE=state DOMICILE_STORAGE=127.0.1.1:5432
  export DOMICILE_BIND=127.0.1.1:7000
  domicile-directory serve
"""

app = typer.Typer(
    name="domicile-directory",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


class OwnKeys:
    """The published set, as a directory process changes it: for what it signs itself."""

    def __init__(self, storage: Storage, publisher: str) -> None:
        self._storage = storage
        self._publisher = publisher

    async def publish_key(self, key: SigningKey) -> None:
        try:
            await self._storage.publish_key(key, self._publisher)
        except Unavailable:
            if key not in await self._storage.keys():  # else the process starts, to be read, without its second zone
                raise

    async def retire_key(self, kid: str) -> None:
        await self._storage.retire_key(kid, self._publisher)


class DirectorySettings(ProcessSettings):
    """What a directory process cannot do without, beside what every process is told."""

    storage: Addresses = Field(
        min_length=1, description="the directory's own database: host:port of each of its sites, comma-separated"
    )
    operators: Path = Field(description="folder of operators' public keys (*.pem), who sign the topology")
    second_zone: SecondZone = Field(
        default=SecondZone.ABSENT,
        description="required: what is acknowledged is synchronously committed in a second zone too; absent: there is"
        " none, as in a world of one zone, and losing the database's disk loses what was acknowledged last",
    )
    storage_replicas: Addresses = Field(
        default_factory=list,
        description="read replicas of the database, host:port, comma-separated, the nearest first: they answer what may"
        " be told late",
    )
    storage_replica_lag: float = Field(
        default=5.0, ge=1, le=300, description="seconds that a read replica may be late, or the primary is asked"
    )
    alias_rate: float = Field(
        default=200.0, gt=0, le=1e6, description="questions about aliases a second that each calling process may ask"
    )
    key_days: float = Field(
        default=30.0, ge=0, le=3650, description="days for which a key signs grants before the next does; 0: for good"
    )
    alias_burst: float = Field(default=400.0, ge=1, le=1e6, description="and how many of them at once after a pause")


def check_settings(settings: DirectorySettings) -> None:
    """Raise InvalidInput for a pepper, or for a certificate that is not a directory's."""
    if settings.pepper is not None:
        raise InvalidInput(
            "the directory takes no pepper: it must not be able to tell who is who",
            where="DOMICILE_PEPPER",
            remedy="unset it",
        )
    identity = settings.credentials.identity
    if (identity.jurisdiction, identity.role) != (GLOBAL, Role.DIRECTORY):
        raise InvalidInput(
            f"a certificate for {identity.role} of {identity.jurisdiction}, not for the directory",
            where=str(settings.certificate),
        )


@asynccontextmanager
async def serve_directory(settings: DirectorySettings) -> AsyncIterator[None]:
    """One directory process, listening inside the context. Raises DomicileError where it cannot start."""
    check_settings(settings)
    topology = PublishedTopology(settings.deployment, settings.operator_keys())
    keyring = Keyring(settings.state / "grant.key", "pin-grant")
    database = [Address(each) for each in settings.storage]
    async with Storage.connect(settings.credentials, database, settings.second_zone) as storage:
        keys = OwnKeys(storage, settings.credentials.identity.uri)
        await keyring.publish(keys)
        service = Service(settings, storage.probe, max_body=MAX_TOPOLOGY_BYTES)
        feed = Feed(storage, MarkFile(settings.state / "mark.json"))
        allowance = Allowance(settings.alias_rate, settings.alias_burst)
        late = Replicas.running(
            settings.credentials, settings.storage_replicas, feed.seen, settings.storage_replica_lag
        )
        async with feed.running(), late as replicas:
            DirectoryApi(settings.deployment, storage, topology, keyring, feed, allowance, replicas).add_to(service)
            async with service.listen(settings.address(), service.internal_context(CALLERS)):
                turning = asyncio.create_task(keyring.keep(keys, settings.key_days * DAY_SECONDS))
                try:
                    yield
                finally:
                    feed.end()  # its readers go before the listener waits for what is in flight
                    await ended(turning)


# a callback keeps the word `serve` obligatory, so that a second command can come without breaking the first
@app.callback()
def _directory() -> None:
    """Domicile's directory: which cell is each subject's home. Settings come from the environment (DOMICILE_*)."""


@app.command(epilog=_EXAMPLE)
def serve() -> None:
    """Serve pins, aliases, grants and the topology until SIGTERM or SIGINT."""
    try:
        settings = load_settings(DirectorySettings)
    except InvalidInput as error:
        typer.echo(f"domicile-directory: {error}", err=True)
        raise typer.Exit(1) from None
    run(settings, lambda: serve_directory(settings))
