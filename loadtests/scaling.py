"""``python -m loadtests.scaling``: how large a deployment has to be, from what each thing costs.

Costs are measured (``costs.yaml``: each with the command that measured it), assumptions are options, and the results
are what follows from both: nothing here is a result by itself. It counts in seconds of one processor of the machine
that the costs were measured on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from domicile.model.yaml_text import read_yaml

COSTS: Final = Path(__file__).with_name("costs.yaml")
DAY, MONTH = 86_400, 30
SIZES: Final = {"one machine": (100_000, 3), "a million": (1_000_000, 3), "ten million": (10_000_000, 6),
                "a hundred million": (100_000_000, 30)}  # fmt: skip
"""Users and cells."""


@dataclass(frozen=True)
class Costs:
    """Microseconds, and bytes. ``put``, ``get``, ``unwrap`` and ``claim`` are elapsed times on an idle machine, and so
    more than the processor time that they stand for here. ``subject_*``: of one with an alias, a profile and two notes,
    in each database; ``row_bytes``: of one more note; ``change_bytes``: of one on a router's stream."""

    request_us: float
    body_us_per_kb: float
    put_us: float
    get_us: float
    unwrap_us: float
    claim_us: float
    pin_bytes: float
    ledger_lines_per_s: float
    subject_directory_bytes: float
    subject_cell_bytes: float
    subject_keys_bytes: float
    row_bytes: float
    put_wal_bytes: float
    change_bytes: float

    @classmethod
    def load(cls, path: Path = COSTS) -> Costs:
        """Raises ValueError for a cost that is missing, or that nobody measured."""
        said: Any = read_yaml(path.read_text(), source=str(path))
        names = [field.name for field in fields(cls)]
        if set(said) != set(names):
            raise ValueError(f"{path}: {', '.join(sorted(set(said) ^ set(names)))} is missing, or too much")
        if wrong := [name for name in names if not said[name]["value"] > 0 or not said[name]["from"]]:
            raise ValueError(f"{path}: {wrong[0]} was not measured, or does not say by what")
        return cls(**{name: float(said[name]["value"]) for name in names})


@dataclass(frozen=True)
class Assumed:
    """Of an average user on an average day; ``peak``: the busiest second against the average one."""

    requests: float = 50.0
    writes: float = 5.0
    rows: float = 200.0
    response_kb: float = 20.0
    travellers: float = 0.02
    carried: float = 0.5
    sessions: float = 2.0
    session_minutes: float = 10.0
    cache_seconds: float = 60.0
    joined: float = 0.001
    routers_per_jurisdiction: float = 4.0
    jurisdictions: float = 2.0
    heartbeat_bytes: float = 74.0
    peak: float = 4.0
    full: float = 0.6


MAY_BE_ZERO: Final = ("travellers", "carried", "response_kb", "rows", "heartbeat_bytes", "joined")
HELP: Final = {
    "requests": "requests", "writes": "rows written", "rows": "rows of each in all", "response_kb": "KB an answer",
    "travellers": "share of requests from another jurisdiction", "carried": "share of those that are carried (hairpin)",
    "sessions": "sessions", "session_minutes": "minutes of each", "cache_seconds": "seconds that a key is cached",
    "joined": "share of users that sign up, move or leave", "routers_per_jurisdiction": "routers of a jurisdiction",
    "jurisdictions": "jurisdictions", "heartbeat_bytes": "bytes a second to each router",
    "peak": "busiest second against the average one",
    "full": "share of a processor that is to be used at the peak",
}  # fmt: skip


@dataclass(frozen=True)
class Deployment:
    """What ``users`` in ``cells`` need. ``cores_*`` at the peak, of all cells together; bytes in GB of 1e9."""

    users: int
    cells: int
    requests_per_s: float
    cores_routers: float
    cores_cells: float
    cores_keys: float
    cores_directory: float
    unwraps_per_s: float
    writes_per_cell_s: float
    changes_per_s: float
    replica_gb_per_router: float
    directory_gb: float
    cell_gb: float
    keys_gb: float
    databases: int
    nodes: int
    wal_gb_per_cell_day: float
    wal_gb_between_zones_month: float
    changes_gb_month: float
    hairpin_gb_month: float
    ledger_lines_per_day: float


def size(costs: Costs, assumed: Assumed, users: int, cells: int) -> Deployment:
    """Pure. A database is three nodes: a leader, a standby in another zone, which takes all of its log, a witness."""
    peak = users / DAY * assumed.peak
    requests, writes = peak * assumed.requests, peak * assumed.writes
    unwraps = peak * assumed.sessions * max(1.0, assumed.session_minutes * 60 / assumed.cache_seconds)
    changes = peak * assumed.joined
    routers = assumed.routers_per_jurisdiction * assumed.jurisdictions
    carried = assumed.travellers * assumed.carried
    passes = 1 + carried  # what is carried passes two routers
    us = costs.request_us + costs.body_us_per_kb * assumed.response_kb
    reads = requests - writes
    more = max(0.0, assumed.rows - 3)
    wal = users / cells * assumed.writes * costs.put_wal_bytes / 1e9
    databases = cells + int(assumed.jurisdictions) + 1
    cores = 1e6 * assumed.full
    return Deployment(
        users=users,
        cells=cells,
        requests_per_s=requests,
        cores_routers=requests * passes * us / cores,
        cores_cells=(reads * costs.get_us + writes * costs.put_us) / cores,
        cores_keys=unwraps * costs.unwrap_us / cores,
        cores_directory=changes * costs.claim_us / cores,
        unwraps_per_s=unwraps,
        writes_per_cell_s=writes / cells,
        changes_per_s=changes,
        replica_gb_per_router=users * costs.pin_bytes / 1e9,
        directory_gb=users * costs.subject_directory_bytes / 1e9,
        cell_gb=users / cells * (costs.subject_cell_bytes + more * costs.row_bytes) / 1e9,
        keys_gb=users * costs.subject_keys_bytes / assumed.jurisdictions / 1e9,
        databases=databases,
        nodes=3 * databases,
        wal_gb_per_cell_day=wal,
        wal_gb_between_zones_month=wal * cells * MONTH,
        changes_gb_month=(users * assumed.joined * costs.change_bytes + DAY * assumed.heartbeat_bytes)
        * MONTH
        * routers
        / 1e9,
        hairpin_gb_month=users * assumed.requests * carried * assumed.response_kb * 1e3 * MONTH / 1e9,
        ledger_lines_per_day=routers * DAY / 30 * assumed.jurisdictions,
    )


@dataclass(frozen=True)
class Limit:
    """Where one engine ends: ``used`` of ``most``. ``at_users``: how many there may be before, all else alike."""

    engine: str
    what: str
    used: float
    most: float
    at_users: float


def limits(costs: Costs, assumed: Assumed, deployment: Deployment) -> list[Limit]:
    """Which one comes first, first. ``most`` is what one process, or one database, was measured to do."""
    per_core = 1e6
    found = [
        ("PostgreSQL of a cell", "rows written a second, on one node, no standby", deployment.writes_per_cell_s,
         per_core / costs.put_us),
        ("a cell's database", "GB, for a base backup of an hour at 100 MB/s", deployment.cell_gb, 360.0),
        ("key service", "unwraps a second, of one process in each jurisdiction",
         deployment.unwraps_per_s / assumed.jurisdictions,
         per_core / costs.unwrap_us),
        ("LMDB of a router", "GB of pins, in a router of 16 GB of memory", deployment.replica_gb_per_router, 12.0),
        ("directory", "claims a second, of one process", deployment.changes_per_s, per_core / costs.claim_us),
    ]  # fmt: skip
    made = [Limit(engine, what, used, most, deployment.users * most / used) for engine, what, used, most in found]
    return sorted(made, key=lambda limit: limit.at_users)


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown, as docs/scaling.md has it."""
    lines = [list(head), *map(list, rows)]
    return "\n".join(
        [f"| {' | '.join(lines[0])} |", f"|{'---|' + '---:|' * (len(lines[0]) - 1)}"]
        + [f"| {' | '.join(line)} |" for line in lines[1:]]
    )


def report(costs: Costs, assumed: Assumed, sizes: dict[str, tuple[int, int]]) -> str:
    made = {name: size(costs, assumed, *each) for name, each in sizes.items()}
    names = [field.name for field in fields(Deployment)]
    rows = [[name.replace("_", " "), *(shown(getattr(each, name)) for each in made.values())] for name in names]
    largest = limits(costs, assumed, list(made.values())[-1])
    ends = [
        [f"{each.engine}: {each.what}", shown(each.used), shown(each.most), shown(each.at_users)] for each in largest
    ]
    return "\n\n".join(
        [table(["", *made], rows), table([f"limits, at {list(made)[-1]}", "used", "most", "users until then"], ends)]
    )


def main() -> None:
    """Example: python -m loadtests.scaling --users 5000000 --cells 8 --requests 120"""
    parser = argparse.ArgumentParser(prog="python -m loadtests.scaling", description=__doc__)
    parser.add_argument("--users", type=int, help="of one deployment; the four of docs/scaling.md without")
    parser.add_argument("--cells", type=int, default=6)
    for name, value in asdict(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help=f"{HELP[name]} ({value:g})")
    parser.add_argument("--json", action="store_true", help="one document in place of tables")
    parser.add_argument(
        "--measure", action="store_true", help="measure what costs.yaml says of this, and print it anew"
    )
    asked = vars(parser.parse_args())
    if asked.pop("measure"):
        from loadtests.footprint import measured  # starts databases: nobody else needs it

        sys.stdout.write(asyncio.run(measured()))
        return
    as_json, users, cells = asked.pop("json"), asked.pop("users"), asked.pop("cells")
    if users is not None and (users < 1 or cells < 1):
        parser.error("--users and --cells are 1 at least")
    costs, assumed = Costs.load(), replace(Assumed(), **asked)
    if wrong := [name for name, value in asked.items() if value <= 0 and name not in MAY_BE_ZERO]:
        parser.error(f"--{wrong[0].replace('_', '-')} is above 0")
    if wrong := [name for name in MAY_BE_ZERO if getattr(assumed, name) < 0]:
        parser.error(f"--{wrong[0].replace('_', '-')} is 0 at least")
    if assumed.writes > assumed.requests or max(assumed.travellers, assumed.carried, assumed.full) > 1:
        parser.error("writes are requests, and a share is 1 at most")
    sizes = SIZES if users is None else {f"{users:,} users": (users, cells)}
    if as_json:
        made = {name: size(costs, assumed, *each) for name, each in sizes.items()}
        document = {
            "ok": True,
            "assumed": asdict(assumed),
            "deployments": {name: asdict(each) for name, each in made.items()},
            "limits": [asdict(limit) for limit in limits(costs, assumed, list(made.values())[-1])],
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        sys.stdout.write(report(costs, assumed, sizes) + "\n")


if __name__ == "__main__":
    main()
