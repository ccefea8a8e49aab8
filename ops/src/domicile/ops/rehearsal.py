"""What must be there before a world starts, so that drills can break more than processes: a small disk, a clock of
its own, and a control group for each database node, by which a packet filter knows its sockets.

Each of them may be missing, for want of a right or of a program; what and why is told, and the drills that need it
end as unavailable. A world that is rehearsed in is no world to keep: the node on the small disk ends with it, and
copies the other node at the next start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from domicile.model.access import Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops.cuts import GROUPS, mend
from domicile.ops.health import PATRONI
from domicile.ops.layout import Layout
from domicile.ops.plan import ProcessSpec

DISK: Final = "disk"
DISK_MIB: Final = 512
REST: Final = "rest"
"""The control group of every process that belongs to no database node."""
_MEMBERS: Final = "cgroup.procs"
_CLOCKED: Final = Path(__file__).with_name("clocked")
STEADY: Final = "+0\n"
_FAKETIME: Final = ("lib/*/faketime", "lib/faketime", "local/lib/faketime")
_LIBRARY: Final = "libfaketimeMT.so.1"


class Rehearsal(BaseModel):
    """What was arranged for which node; ``missing``: what was not, and why.

    ``disk``: where the node's data lies, a file system of its own of ``DISK_MIB``; ``clock``: the file that says by
    how much its clock is off; ``groups``: the folder of the control groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    zone: str
    disk: Path | None = None
    clock: Path | None = None
    groups: Path | None = None
    missing: dict[str, str] = {}

    def write(self, layout: Layout) -> None:
        layout.rehearsal.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, layout: Layout) -> Rehearsal | None:
        """Raises InvalidInput for a record that is none."""
        try:
            return cls.model_validate_json(layout.rehearsal.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise InvalidInput(
                "is no record of a rehearsal", where=str(layout.rehearsal), remedy="`domicile down`, then remove it"
            ) from None


def chosen(manifest: Manifest, specs: Iterable[ProcessSpec]) -> tuple[str, str]:
    """The cell and zone of the node that is arranged for: the second one of the first replicated cell of the
    jurisdiction with most of them. Raises InvalidInput where no cell has two."""
    replicated = {spec.cluster for spec in specs if spec.role == PATRONI and not spec.founder}
    cells = [name for name in manifest.cells if name in replicated]
    if not cells:
        raise InvalidInput("no cell has a standby to rehearse with", where="--rehearsal", remedy="add --ha")
    places = [manifest.cells[name].jurisdiction for name in cells]
    cell = max(cells, key=lambda name: places.count(manifest.cells[name].jurisdiction))
    zone = next(spec.zone for spec in specs if spec.cluster == cell and spec.role == PATRONI and not spec.founder)
    return cell, zone


def node_of(spec: ProcessSpec) -> str:
    """The database node that a process is of, such as ``eu-1.par``; ``REST`` for any other."""
    return f"{_owner(spec)}.{spec.zone}" if spec.role in (PATRONI, Role.STORAGE) else REST


def _owner(spec: ProcessSpec) -> str:
    """The cell, key store or directory that it is of."""
    return spec.cluster or spec.name.partition(".")[0].rpartition("-")[0]


def arrange(
    layout: Layout, manifest: Manifest, specs: list[ProcessSpec], progress: Callable[[str, str], None]
) -> list[ProcessSpec]:
    """Make what can be made; the processes as they use it. Raises InvalidInput where there is no standby."""
    clear(layout)
    cell, zone = chosen(manifest, specs)
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    # on record before it is made: whatever ends this, what is there can be found and removed
    node = next(spec.database for spec in specs if spec.cluster == cell and spec.role == PATRONI and spec.zone == zone)
    assert node is not None, "a node under Patroni has a folder"
    groups = control_groups(layout)
    Rehearsal(cell=cell, zone=zone, disk=node / DISK, groups=groups).write(layout)
    makers: dict[str, Callable[[], Path]] = {
        "disk": partial(_mount, node),
        "clock": partial(_clock, layout),
        "groups": partial(_group, groups, {node_of(spec) for spec in specs}),
    }
    for name, make in makers.items():
        try:
            found[name] = make()
        except Unavailable as error:
            missing[name] = error.what
            progress("rehearsal", f"no {name}: {error.what}")
    rehearsal = Rehearsal(cell=cell, zone=zone, **found, missing=missing)
    rehearsal.write(layout)
    return [_arranged(spec, rehearsal) for spec in specs]


def within(group: Path | None, command: list[str]) -> list[str]:
    """``command``, as a process that is in ``group`` before it opens anything."""
    if group is None:
        return command
    return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / _MEMBERS), *command]


def clear(layout: Layout) -> None:
    """Remove what was arranged; no process uses it any more."""
    rehearsal = Rehearsal.read(layout)
    if rehearsal is None:
        return
    if rehearsal.disk is not None:
        if rehearsal.disk.is_mount():
            # lazily, should anybody still stand in it: it must not keep the world from ending
            subprocess.run(["umount", "-l", str(rehearsal.disk)], check=False, capture_output=True, timeout=30)
        if (data := rehearsal.disk.with_name("data")).is_symlink():
            data.unlink()
        if rehearsal.disk.is_dir():
            rehearsal.disk.rmdir()
    if rehearsal.groups is not None and rehearsal.groups.is_dir():
        with suppress(Unavailable):
            mend(rehearsal.groups)
        for group in (*rehearsal.groups.iterdir(), rehearsal.groups):
            with suppress(OSError):  # a file of the kernel's, or a process in it that nobody can end
                group.rmdir()
    layout.rehearsal.unlink()


def control_groups(layout: Layout) -> Path | None:
    """Where this world's control groups are, or would be; None where the system has none of the second version."""
    for line in _lines(Path("/proc/mounts")):
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and Path(place).is_relative_to(GROUPS):
            token = hashlib.blake2b(str(layout.root).encode(), digest_size=6).hexdigest()
            return Path(place) / f"domicile-{token}"
    return None


def _mount(node: Path) -> Path:
    """A file system in memory for a node's data, so that one that is full harms nobody else.

    The data folder is a link to it, which can be renamed as any other.
    """
    if os.getuid() != 0 or shutil.which("mount") is None:
        raise Unavailable("a disk of its own needs root")
    disk, data = node / DISK, node / "data"
    if data.exists() and any(data.iterdir()):
        raise Unavailable(f"{data} holds data already: use a new state folder")
    disk.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "domicile-drill", str(disk)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        disk.rmdir()
        raise Unavailable(f"no disk could be mounted: {done.stderr.strip()}")
    if data.exists():
        data.rmdir()
    data.symlink_to(DISK)
    return disk


def _library() -> Path:
    for pattern in _FAKETIME:
        for folder in Path("/usr").glob(pattern):
            if (folder / _LIBRARY).exists():
                return folder / _LIBRARY
    raise Unavailable("libfaketime is not installed (Debian: apt-get install faketime)")


def _clock(layout: Layout) -> Path:
    _library()
    path = layout.root / "clock"
    path.write_text(STEADY)
    return path


def _group(groups: Path | None, names: set[str]) -> Path:
    if groups is None:
        raise Unavailable("the system has no control groups of version 2")
    if shutil.which("nft") is None:
        raise Unavailable("nft is not installed (Debian: apt-get install nftables)")
    try:
        for name in names:
            (groups / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"no control groups could be made: {error.strerror}") from None
    return groups


def _arranged(spec: ProcessSpec, rehearsal: Rehearsal) -> ProcessSpec:
    """``spec`` with the clock and in the group that were arranged for it."""
    environment, group = spec.environment, None
    if rehearsal.clock is not None and (_owner(spec), spec.zone) == (rehearsal.cell, rehearsal.zone):
        environment = environment | {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(rehearsal.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_CLOCKED), os.environ.get("PYTHONPATH")])),
        }
    if rehearsal.groups is not None:
        group = rehearsal.groups / node_of(spec)
    return replace(spec, environment=environment, group=group)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
