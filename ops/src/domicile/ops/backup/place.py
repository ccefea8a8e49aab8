"""Where an operator's backup commands work: one state folder's databases, their targets, keys, doors and folders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from domicile.client import BackupKeyClient
from domicile.identity import Credentials
from domicile.model.access import GLOBAL, Identity, Role
from domicile.model.errors import Conflict, InvalidInput, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops import postgres
from domicile.ops.backup.agent import open_target
from domicile.ops.backup.keys import KEYS_AT, BackupKeys, FileKeys, FirstOf, Keyring
from domicile.ops.backup.passage import Passage
from domicile.ops.backup.store import Store
from domicile.ops.backup.targets import Owner
from domicile.ops.health import PATRONI
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.plan import databases_of
from domicile.ops.record import ProcessRecord, WorldRecord

AGENT: Final = "agent"


@dataclass(frozen=True)
class Database:
    name: str
    jurisdiction: str


class Nodes(NamedTuple):
    """``folders``: where data, socket and certificate of each node are. Of a cluster the founder's is first: it starts
    with its data, and the others copy it."""

    folders: tuple[Path, ...]
    clustered: bool


class Place:
    """Raises InvalidInput where the folder holds no world."""

    def __init__(self, layout: Layout) -> None:
        if not layout.manifest.exists():
            raise InvalidInput("holds no world", where=str(layout.root), remedy="name the --state of one")
        self.layout = layout
        self.manifest: Manifest = load_file(layout.manifest)

    def databases(self, names: list[str] | None = None) -> list[Database]:
        """Those named, or every one whose jurisdiction has a target. Raises InvalidInput for an unknown one."""
        known = {
            name: Database(name, jurisdiction)
            for jurisdiction in (*self.manifest.jurisdictions, GLOBAL)
            for name in databases_of(self.manifest, jurisdiction)
        }
        if unknown := [name for name in names or [] if name not in known]:
            raise InvalidInput(f"no database {unknown[0]}", remedy=f"one of {', '.join(known)}")
        if names:
            return [known[name] for name in names]
        found = [each for each in known.values() if self._has_target(each.jurisdiction)]
        if not found:
            raise InvalidInput(
                "names no backup target", where=str(self.layout.manifest), remedy="see docs/backup.md, or up --backups"
            )
        return found

    def _has_target(self, jurisdiction: str) -> bool:
        section = self.manifest.directory if jurisdiction == GLOBAL else self.manifest.jurisdictions[jurisdiction]
        return section.backups is not None

    def keep_days(self, database: Database) -> int:
        global_ = database.jurisdiction == GLOBAL
        section = self.manifest.directory if global_ else self.manifest.jurisdictions[database.jurisdiction]
        assert section.backups is not None
        return section.backups.keep_days

    def credentials(self, jurisdiction: str) -> Credentials:
        """The backup agent's, which every world has where there is a target."""
        home = self.home(jurisdiction)
        return Credentials(home / "cert.pem", home / "key.pem", self.layout.authorities)

    def home(self, jurisdiction: str) -> Path:
        return self.layout.home_of(Identity(self.manifest.deployment, jurisdiction, Role.BACKUP, AGENT))

    @asynccontextmanager
    async def store(self, database: Database) -> AsyncIterator[Store]:
        """Its backups in its target. Raises WrongJurisdiction for a target that is another's."""
        jurisdiction = database.jurisdiction
        target = open_target(self.manifest, jurisdiction, self.layout.root)
        async with AsyncExitStack() as stack:
            keys: BackupKeys
            if jurisdiction == GLOBAL:
                keys = FileKeys(self.home(GLOBAL) / KEYS_AT, GLOBAL, own=True)
            else:
                addresses = self.manifest.jurisdictions[jurisdiction].keys.service
                service = BackupKeyClient(self.credentials(jurisdiction), addresses, jurisdiction=jurisdiction)
                stack.push_async_callback(service.close)
                files = self.layout.keys(jurisdiction) / Role.KEYS / KEYS_AT
                keys = FirstOf(service, FileKeys(files, jurisdiction))
            owner = Owner(deployment=self.manifest.deployment, jurisdiction=jurisdiction)
            yield Store(target, Keyring(keys, owner.deployment, jurisdiction), owner, database.name)

    def record(self) -> WorldRecord | None:
        """Of a world that runs."""
        record = WorldRecord.read(self.layout)
        return record if record is not None and record.supervisor.process() is not None else None

    def passage(self, database: Database) -> Passage:
        """To the running database. Raises Unavailable where the world does not run."""
        record = self.record()
        if record is None:
            raise Unavailable("no world runs here", where=str(self.layout.root), remedy="start it with `domicile up`")
        return Passage(self.credentials(database.jurisdiction), doors(record, database.name))

    def nodes(self, database: Database) -> Nodes:
        """Of what runs, else of what holds data. Raises Conflict where that is not clear."""
        possible = self._possible(database)
        record = self.record()
        running = _running(record, database.name) if record is not None else []
        if running:
            clustered = running[0].role == PATRONI
            folders = [self._folder(database, process) for process in running]
        else:
            clustered = any(postgres.is_replicated(folder) for folder in possible)
            held = [folder for folder in possible if _holds(folder)]
            known = [folder for folder in possible[1:] if (folder / "cert.pem").exists()]
            folders = [possible[0], *known] if clustered or not held else held
            if len(folders) > 1 and not clustered:
                raise Conflict(
                    "more than one place holds data of it", where=database.name, remedy="`domicile up`, then restore"
                )
        if not _holds(folders[0]) and (others := [folder for folder in possible if _holds(folder)]):
            raise Conflict(
                f"{others[0]} holds data, and {folders[0]} none",
                where=database.name,
                remedy="`domicile up` until it is settled, then restore",
            )
        return Nodes(tuple(folders), clustered)

    def _possible(self, database: Database) -> list[Path]:
        if database.name in self.manifest.cells:
            zones = self.manifest.cells[database.name].zones
            return [self.layout.cell(database.name, zone) / Role.STORAGE for zone in zones]
        top = self._top(database)
        return [top / Role.STORAGE, *sorted(top.glob(f"*/{Role.STORAGE}"))]

    def _folder(self, database: Database, process: ProcessRecord) -> Path:
        if process.role != PATRONI:
            return Path(process.address).parent  # its socket's
        if database.name in self.manifest.cells:
            return self.layout.cell(database.name, process.zone) / Role.STORAGE
        founder = process.name == f"{database.name}-{PATRONI}"
        return self._top(database) / ("" if founder else process.zone) / Role.STORAGE

    def _top(self, database: Database) -> Path:
        return self.layout.directory if database.jurisdiction == GLOBAL else self.layout.keys(database.jurisdiction)


def _running(record: WorldRecord, database: str) -> list[ProcessRecord]:
    """The servers of a database in a world that runs, or their Patronis, the founder's first."""
    found = [
        each
        for each in record.processes
        if each.name == f"{database}-postgres" or (each.role == PATRONI and _cluster_of(each) == database)
    ]
    return sorted(found, key=lambda each: each.name)


def _cluster_of(process: ProcessRecord) -> str:
    return process.name.rpartition(f"-{PATRONI}")[0]


def _holds(folder: Path) -> bool:
    return (folder / "data" / "PG_VERSION").exists()


def doors(record: WorldRecord, database: str) -> list[str]:
    name = f"{database}-storage"
    return [each.address for each in record.processes if each.name == name or each.name.startswith(f"{name}.")]
