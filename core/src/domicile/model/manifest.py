"""The manifest: the one place where topology and policy are written, and everything that it refuses.

Shapes are pydantic models; rules that span several places are checked afterwards, all of them, so that one
load names every problem with its YAML path. Files refuse unknown keys. Their text is read by ``yaml_text``.

It is one schema in one place, and a few lines longer than a module should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from domicile.model.addresses import Address as Address
from domicile.model.addresses import AddressField as AddressField
from domicile.model.addresses import Network as Network
from domicile.model.addresses import NetworkField, PublicHost, inside, literal, may_listen
from domicile.model.backups import BackupTarget, Placed, check_targets
from domicile.model.errors import ManifestError, ManifestProblem
from domicile.model.ids import RESERVED_JURISDICTIONS, CellName, Country, JurisdictionName, Name, ZoneName
from domicile.model.key_domains import KeySection, check_key_domains, over_tls
from domicile.model.kubernetes import KubernetesSection, check_kubernetes
from domicile.model.leases import Lease, check_lease
from domicile.model.reference_sources import ReferenceSources, check_sources
from domicile.model.rules import ApplicationIdentity as ApplicationIdentity
from domicile.model.rules import (
    NextRules,
    Rules,
    Strict,
    TravellerPath,
    classes_of,
    is_unpinned,
    matches,
    readings,
    rule_problems,
)
from domicile.model.rules import Travellers as Travellers
from domicile.model.yaml_text import read_yaml

_STRICTEST_FIRST: Final = (Travellers.REFUSE, Travellers.REDIRECT, Travellers.HAIRPIN)


class CellState(StrEnum):
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Risk(StrEnum):
    """A weakness that a manifest may accept by name; ``losses`` says what can no longer be survived."""

    SINGLE_ZONE = "single-zone"
    SHARED_WITNESS = "shared-witness"
    UNREPLICATED_WRITES = "unreplicated-writes"


class DirectorySite(Strict):
    zone: ZoneName
    country: Country
    address: AddressField


class Witness(Strict):
    """``network``: where its process listens; only a world with standbys (`domicile up --ha`) needs it."""

    zone: ZoneName
    country: Country
    network: NetworkField | None = None


class DirectorySection(Strict):
    """``witness``: the third voter of the directory's own database cluster, whose nodes are in the first two sites."""

    sites: list[DirectorySite] = Field(min_length=1)
    backups: BackupTarget | None = None
    witness: Witness | None = None


class Jurisdiction(Strict):
    """``traveller_paths``: the first that matches a path takes the place of ``travellers`` there.

    ``collector_networks``: those that the collector's name may resolve into; without any, wherever no other
    jurisdiction has a zone. ``lease``: where its database clusters keep who leads, if not among themselves.
    """

    countries: list[Country] = Field(min_length=1)
    travellers: Travellers = Travellers.REDIRECT
    traveller_paths: list[TravellerPath] = Field(default_factory=list, max_length=256)
    public_host: PublicHost
    collector: Annotated[str, AfterValidator(over_tls)] | None = None
    collector_networks: list[NetworkField] = Field(default_factory=list, max_length=64)
    keys: KeySection
    backups: BackupTarget | None = None
    lease: Lease | None = None

    def travellers_on(self, path: str) -> Travellers:
        """What holds on a path: of its readings, the strictest's."""
        return min((self._travellers_on(reading) for reading in readings(path)), key=_STRICTEST_FIRST.index)

    def _travellers_on(self, path: str) -> Travellers:
        for each in self.traveller_paths:
            if matches(each.path, path):
                return each.travellers
        return self.travellers


class Zone(Strict):
    country: Country
    network: NetworkField
    app: AddressField
    gateway: AddressField
    storage: AddressField


class Cell(Strict):
    jurisdiction: JurisdictionName
    weight: int = Field(default=100, ge=1, le=10_000, strict=True)
    state: CellState = CellState.OPEN
    zones: dict[ZoneName, Zone] = Field(min_length=1)
    witness: Witness | None = None
    accept: list[Risk] = Field(default_factory=list)


class Router(Strict):
    """``trusted_peers``: networks from which ``X-Forwarded-For`` is believed, for the country only.

    ``rules_next``: what is to take the place of ``rules``. The guard of a cell classes paths by ``rules``.
    """

    country: Country
    public: AddressField
    internal: AddressField
    trusted_peers: list[NetworkField] = Field(default_factory=list)
    rules: Rules = Field(default_factory=list)
    rules_next: NextRules | None = None

    def is_unpinned(self, path: str) -> bool:
        return is_unpinned(self.rules, path)


class Operators(Strict):
    keys: list[str] = Field(default_factory=list)


def _version(number: int) -> int:
    if number != 1:
        raise ValueError("only version 1 is known here")
    return number


class Manifest(Strict):
    """A manifest that loaded: every rule of this module holds for it."""

    version: Annotated[int, Field(strict=True), AfterValidator(_version)]
    deployment: Name
    directory: DirectorySection
    jurisdictions: dict[JurisdictionName, Jurisdiction] = Field(min_length=1)
    cells: dict[CellName, Cell] = Field(min_length=1)
    routers: dict[ZoneName, Router] = Field(default_factory=dict)
    operators: Operators = Field(default_factory=Operators)
    identity: ApplicationIdentity | None = None
    references: ReferenceSources | None = None
    secrets: dict[str, str] = Field(default_factory=dict)
    kubernetes: KubernetesSection | None = None

    def jurisdiction_of(self, country: str) -> str | None:
        """The jurisdiction that a country belongs to, or None: there is no default one."""
        for name, jurisdiction in self.jurisdictions.items():
            if country in jurisdiction.countries:
                return name
        return None

    def cells_of(self, jurisdiction: str) -> dict[str, Cell]:
        return {name: cell for name, cell in self.cells.items() if cell.jurisdiction == jurisdiction}

    def routers_of(self, jurisdiction: str) -> dict[str, Router]:
        return {
            zone: router
            for zone, router in self.routers.items()
            if self.jurisdiction_of(router.country) == jurisdiction
        }

    def may_collect(self, jurisdiction: str, host: str) -> bool:
        """Whether telemetry of a jurisdiction may be sent to an IP address."""
        foreign = [
            network for name, _, network in _networks(self) if name in self.jurisdictions and name != jurisdiction
        ]
        own = self.jurisdictions[jurisdiction].collector_networks or None
        return inside(host, own) and not inside(host, foreign)

    def losses(self) -> list[str]:
        """What the accepted risks cost, a line each; empty where nothing was accepted."""
        lines = []
        for name, cell in self.cells.items():
            if Risk.SINGLE_ZONE in cell.accept and len(cell.zones) < 2:
                lines.append(f"cell {name}: losing zone {next(iter(cell.zones))} loses the cell and its data")
            if Risk.SHARED_WITNESS in cell.accept and not _third_zone(cell):
                lines.append(f"cell {name}: without a third zone, losing one zone stops writes until a person acts")
            if Risk.UNREPLICATED_WRITES in cell.accept:
                lines.append(
                    f"cell {name}: writes go on without its standby; losing the leader then loses what was "
                    "acknowledged since the standby was gone"
                )
        return lines

    def topology(self) -> dict[str, Any]:
        """What is signed and distributed: the manifest without its process-local parts."""
        local = {"secrets", "operators", "kubernetes"}
        return self.model_dump(mode="json", by_alias=True, exclude=local, exclude_none=True)


def _third_zone(cell: Cell) -> bool:
    return cell.witness is not None and cell.witness.zone not in cell.zones


def _outside(address: str, network: Network) -> bool:
    """True for a literal address outside the network. Names are held to it when they are resolved."""
    ip = literal(address)
    return ip is not None and ip not in network


def _check_jurisdictions(manifest: Manifest) -> Iterator[ManifestProblem]:
    owner: dict[str, str] = {}
    for name, jurisdiction in manifest.jurisdictions.items():
        path = f"jurisdictions.{name}"
        if name in RESERVED_JURISDICTIONS:
            yield ManifestProblem(path, f"{name!r} is the directory's own trust domain", "choose another name")
        for position, country in enumerate(jurisdiction.countries):
            if country in owner:
                yield ManifestProblem(
                    f"{path}.countries[{position}]",
                    f"{country} already belongs to {owner[country]}",
                    "a country lies in one jurisdiction",
                )
            owner.setdefault(country, name)
        networks = [zone.network for cell in manifest.cells_of(name).values() for zone in cell.zones.values()]
        for position, address in enumerate(jurisdiction.keys.service):
            if all(_outside(address, network) for network in networks):
                yield ManifestProblem(
                    f"{path}.keys.service[{position}]",
                    f"{address} lies in no zone of {name}",
                    f"use an address in the network of one of {name}'s zones",
                )
        yield from check_key_domains(f"{path}.keys.domains", jurisdiction.keys, jurisdiction.countries)
        voters = [cell.witness for cell in manifest.cells_of(name).values() if cell.witness is not None]
        inner = networks + [voter.network for voter in voters if voter.network is not None]
        yield from check_lease(f"{path}.lease", jurisdiction.lease, inner)
    hosts: dict[str, str] = {}
    for name, jurisdiction in manifest.jurisdictions.items():
        if (other := hosts.setdefault(jurisdiction.public_host, name)) != name:
            yield ManifestProblem(
                f"jurisdictions.{name}.public_host",
                f"{jurisdiction.public_host} is also {other}'s",
                "a public host names one jurisdiction",
            )


def _check_cell(manifest: Manifest, name: str, cell: Cell) -> Iterator[ManifestProblem]:
    path = f"cells.{name}"
    if cell.jurisdiction not in manifest.jurisdictions:
        known = ", ".join(manifest.jurisdictions)
        yield ManifestProblem(f"{path}.jurisdiction", f"unknown jurisdiction {cell.jurisdiction!r}", f"one of {known}")
        return
    countries = manifest.jurisdictions[cell.jurisdiction].countries
    for zone_name, zone in cell.zones.items():
        where = f"{path}.zones.{zone_name}"
        if zone.country not in countries:
            yield ManifestProblem(
                f"{where}.country",
                f"{zone.country} lies outside {cell.jurisdiction}",
                "a cell's zones lie in its own jurisdiction",
            )
        for field in ("app", "gateway", "storage"):
            address = getattr(zone, field)
            if _outside(address, zone.network):
                yield ManifestProblem(f"{where}.{field}", f"{address} lies outside {zone.network}", "see network")
    if cell.witness is not None and cell.witness.country not in countries:
        yield ManifestProblem(
            f"{path}.witness.country",
            f"{cell.witness.country} lies outside {cell.jurisdiction}",
            "a witness takes part in elections and lies in the jurisdiction",
        )
    if len(cell.zones) < 2 and Risk.SINGLE_ZONE not in cell.accept:
        yield ManifestProblem(f"{path}.zones", "one data zone only", "add a second one, or accept: [single-zone]")
    if not _third_zone(cell) and Risk.SHARED_WITNESS not in cell.accept:
        yield ManifestProblem(f"{path}.witness", "no witness in a third zone", "add one, or accept: [shared-witness]")


def _check_networks(manifest: Manifest) -> Iterator[ManifestProblem]:
    """One network holds one jurisdiction: otherwise an address would not tell where it is."""
    seen: list[tuple[Network, str]] = []
    for name, cell in manifest.cells.items():
        for zone_name, zone in cell.zones.items():
            for network, jurisdiction in seen:
                if jurisdiction != cell.jurisdiction and zone.network.overlaps(network):
                    yield ManifestProblem(
                        f"cells.{name}.zones.{zone_name}.network",
                        f"{zone.network} overlaps {network} of {jurisdiction}",
                        "networks of two jurisdictions are disjoint",
                    )
            seen.append((zone.network, cell.jurisdiction))
    for name, cell in manifest.cells.items():
        witness = cell.witness.network if cell.witness is not None else None
        for network, jurisdiction in seen:
            if witness is not None and jurisdiction != cell.jurisdiction and witness.overlaps(network):
                yield ManifestProblem(
                    f"cells.{name}.witness.network",
                    f"{witness} overlaps {network} of {jurisdiction}",
                    "networks of two jurisdictions are disjoint",
                )


def _networks(manifest: Manifest) -> Iterator[tuple[str, str, Network]]:
    """Jurisdiction, zone and network of each data zone."""
    for cell in manifest.cells.values():
        for zone_name, zone in cell.zones.items():
            yield cell.jurisdiction, zone_name, zone.network


def _check_outposts(manifest: Manifest) -> Iterator[ManifestProblem]:
    """What has no network of its own lies in its zone's, if the zone has one, and in no other jurisdiction's."""
    known = [place for place in _networks(manifest) if place[0] in manifest.jurisdictions]
    outposts = [
        (f"routers.{zone}.{field}", getattr(router, field), manifest.jurisdiction_of(router.country), zone)
        for zone, router in manifest.routers.items()
        for field in ("public", "internal")
    ]
    for name, jurisdiction in manifest.jurisdictions.items():
        if jurisdiction.collector is not None:
            host = urlsplit(jurisdiction.collector).hostname or ""
            address = f"[{host}]:1" if ":" in host else f"{host}:1"
            outposts.append((f"jurisdictions.{name}.collector", address, name, ""))
            if (
                literal(address) is not None
                and not manifest.may_collect(name, host)
                and jurisdiction.collector_networks
            ):
                yield ManifestProblem(
                    f"jurisdictions.{name}.collector", f"{host} lies in none of its networks", "see collector_networks"
                )
        for position, network in enumerate(jurisdiction.collector_networks):
            for other, _, theirs in known:
                if other != name and network.version == theirs.version and network.overlaps(theirs):
                    yield ManifestProblem(
                        f"jurisdictions.{name}.collector_networks[{position}]",
                        f"{network} overlaps {theirs} of {other}",
                        f"telemetry of {name} stays in {name}",
                    )
    for path, address, home, zone in outposts:
        if home is None or (ip := literal(address)) is None:
            continue
        foreign = [(name, network) for name, _, network in known if name != home and ip in network]
        own = [network for name, place, network in known if name == home and place == zone]
        if foreign:
            name, network = foreign[0]
            yield ManifestProblem(path, f"its address lies in {network} of {name}", f"use an address in {home}")
        elif own and not any(ip in network for network in own):
            yield ManifestProblem(
                path, f"{address} lies outside the network of zone {zone}", f"use one in {own[0]}, see cells"
            )


def _check_zones(manifest: Manifest) -> Iterator[ManifestProblem]:
    """A zone is one failure domain in one country, wherever it is named."""
    places = [(f"directory.sites[{n}]", s.zone, s.country) for n, s in enumerate(manifest.directory.sites)]
    if manifest.directory.witness is not None:
        places.append(("directory.witness", manifest.directory.witness.zone, manifest.directory.witness.country))
    for name, cell in manifest.cells.items():
        places += [(f"cells.{name}.zones.{zone}", zone, it.country) for zone, it in cell.zones.items()]
        if cell.witness is not None:
            places.append((f"cells.{name}.witness", cell.witness.zone, cell.witness.country))
    places += [(f"routers.{zone}", zone, router.country) for zone, router in manifest.routers.items()]
    first: dict[str, tuple[str, str]] = {}
    for path, zone, country in places:
        where, known = first.setdefault(zone, (path, country))
        if country != known:
            yield ManifestProblem(
                f"{path}.country",
                f"zone {zone} lies in {country} here and in {known} at {where}",
                "give it one country",
            )


def _check_directory_and_routers(manifest: Manifest) -> Iterator[ManifestProblem]:
    zones: set[str] = set()
    for position, site in enumerate(manifest.directory.sites):
        if site.zone in zones:
            yield ManifestProblem(f"directory.sites[{position}].zone", f"{site.zone} is listed twice")
        zones.add(site.zone)
    witness = manifest.directory.witness
    if witness is not None and witness.zone in zones:
        yield ManifestProblem("directory.witness.zone", f"{witness.zone} is a site's", "a witness is in a third zone")
    for zone_name, router in manifest.routers.items():
        if manifest.jurisdiction_of(router.country) is None:
            yield ManifestProblem(
                f"routers.{zone_name}.country",
                f"{router.country} lies in no jurisdiction",
                "a router's country decides who is a traveller",
            )


def _check_addresses(manifest: Manifest) -> Iterator[ManifestProblem]:
    """No two listeners share an address: one would answer for the other. None is at an address of no host."""
    listeners = [(f"directory.sites[{n}].address", s.address) for n, s in enumerate(manifest.directory.sites)]
    for name, jurisdiction in manifest.jurisdictions.items():
        listeners += [(f"jurisdictions.{name}.keys.service[{n}]", a) for n, a in enumerate(jurisdiction.keys.service)]
    for name, cell in manifest.cells.items():
        for zone_name, zone in cell.zones.items():
            listeners += [
                (f"cells.{name}.zones.{zone_name}.{f}", getattr(zone, f)) for f in ("app", "gateway", "storage")
            ]
    for zone_name, router in manifest.routers.items():
        listeners += [(f"routers.{zone_name}.{f}", getattr(router, f)) for f in ("public", "internal")]
    seen: dict[str, str] = {}
    for path, address in listeners:
        if (other := seen.setdefault(address, path)) != path:
            yield ManifestProblem(path, f"{address} is also the address of {other}", "give each its own")
        if not may_listen(address):
            yield ManifestProblem(
                path, f"{address} is link-local, multicast or unspecified", "use a host's own address"
            )


def _backups(manifest: Manifest) -> Iterator[Placed]:
    top = manifest.directory
    yield Placed("directory.backups", "the directory's sites", top.backups, {site.country for site in top.sites}, None)
    for n, it in manifest.jurisdictions.items():
        yield Placed(f"jurisdictions.{n}.backups", n, it.backups, it.countries, it.keys.backup_days)


def _check_rules(manifest: Manifest) -> Iterator[ManifestProblem]:
    identity = manifest.identity
    if identity is not None and identity.outage_seconds < identity.refresh_seconds:
        yield ManifestProblem(
            "identity.outage_seconds", "shorter than refresh_seconds", "keys are read again after refresh_seconds"
        )
    routers = {(manifest.jurisdiction_of(router.country) or "", zone) for zone, router in manifest.routers.items()}
    for zone, router in manifest.routers.items():
        sets = [(f"routers.{zone}.rules", router.rules)]
        if router.rules_next is not None:
            sets.append((f"routers.{zone}.rules_next.rules", router.rules_next.rules))
        for path, rules in sets:
            yield from rule_problems(
                path, rules, sessions=identity is not None, deployment=manifest.deployment, routers=routers
            )
        rolled_out = router.rules_next is not None and router.rules_next.percent > 0
        if rolled_out and classes_of(sets[0][1]) != classes_of(sets[1][1]):
            yield ManifestProblem(
                f"routers.{zone}.rules_next.percent",
                "paths are classed differently from rules, by which the cells' guards go",
                "run it at 0 percent, then change the classes in rules",
            )


def check(manifest: Manifest) -> list[ManifestProblem]:
    """Every rule that spans several places; an empty list where the manifest is sound."""
    problems = list(_check_jurisdictions(manifest))
    for name, cell in manifest.cells.items():
        problems += _check_cell(manifest, name, cell)
    for look in (_check_networks, _check_zones, _check_directory_and_routers, _check_outposts, _check_addresses):
        problems += look(manifest)
    problems += check_targets(_backups(manifest))
    problems += [*_check_rules(manifest), *check_sources(manifest.references, manifest.cells)]
    return [*problems, *check_kubernetes(manifest)]


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top)"


def _problem(detail: ErrorDetails) -> ManifestProblem:
    location = tuple(part for part in detail["loc"] if part != "[key]" and not str(part).startswith("("))
    if detail["type"] == "extra_forbidden":
        return ManifestProblem(_path(location), "unknown key", "remove it, or mend its spelling")
    if detail["type"] == "missing":
        return ManifestProblem(_path(location), "required key is missing")
    if detail["type"] == "value_error":
        return ManifestProblem(_path(location), str(detail["ctx"]["error"]))
    return ManifestProblem(_path(location), detail["msg"][0].lower() + detail["msg"][1:])


def parse_manifest(data: object, *, source: str = "manifest") -> Manifest:
    """Validate plain data (from YAML or JSON). Raises ManifestError with every problem found."""
    if not isinstance(data, dict):
        raise ManifestError([ManifestProblem("(top)", "not a mapping of keys", "start with version: 1")], source=source)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise ManifestError([_problem(detail) for detail in error.errors()], source=source) from None
    if problems := check(manifest):
        raise ManifestError(problems, source=source)
    return manifest


def load_manifest(text: str, *, source: str = "manifest") -> Manifest:
    """From YAML text. ``source`` names the file in messages. Raises ManifestError."""
    return parse_manifest(read_yaml(text, source=source), source=source)
