"""``python -m loadtests.followers``: many routers' followers through an outage of the directory, and its return.

Each is the product's own: a ``Follower`` with a replica on disk, a client with a certificate and a stream of its own
over mutual TLS. The directory is two processes over one PostgreSQL; all of it is killed with SIGKILL and started again.
Nothing is simulated but that the routers share this process, so times are those of one processor under all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
from domicile_testing import Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.directories import any_key
from domicile_testing.directory_processes import Site, directory_site

from domicile.client import DirectoryClient
from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Position, Role
from domicile.model.wire import ClaimRequest
from domicile.router.follow import Follower
from domicile.router.replica import Replica
from domicile.service import ended

MAP_BYTES: Final = 64 << 20
SAMPLE_SECONDS: Final = 0.5
HEARD_SECONDS: Final = 3.0
"""Who heard of the log within this follows it; heartbeats come each second."""
FILL: Final = (
    "INSERT INTO directory.pins SELECT '\\x01' || uuid_send(gen_random_uuid()), 'eu', 'eu-' || (n % 2 + 1), 1, 'active'"
    " FROM generate_series(1, $1::integer) AS n"
)


@dataclass(frozen=True)
class Shape:
    """How it is run. Times in seconds; ``changes``: claims a second, all the time that there is a directory."""

    routers: int = 1000
    pins: int = 10_000
    before: float = 15.0
    outage: float = 30.0
    after: float = 45.0
    changes: float = 10.0


@dataclass
class Sample:
    """At ``at`` seconds. ``following``: routers that hear the log; ``staleness_*``: in seconds, of their replicas;
    ``directory_cpu``: processors that the directory's processes used since the sample before."""

    at: float
    following: int
    staleness_p50: float
    staleness_max: float
    directory_cpu: float


@dataclass
class Told:
    """``caught_up_s``: of each router, from the directory's being ready again to its being at the log's end of then."""

    shape: Shape
    loaded_s: float = 0.0
    killed_at: float = 0.0
    ready_at: float = 0.0
    caught_up_s: list[float] = field(default_factory=list)
    behind: int = 0
    acknowledged: int = 0
    samples: list[Sample] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        ordered = sorted(self.caught_up_s)

        def share(of: float) -> float | None:
            return round(ordered[min(len(ordered) - 1, int(len(ordered) * of))], 2) if ordered else None

        peak = max((s.directory_cpu for s in self.samples if s.at >= self.ready_at), default=0.0)
        quiet = [s.directory_cpu for s in self.samples if s.at < self.killed_at]
        return {
            "ok": self.behind == 0,
            "shape": asdict(self.shape),
            "loaded_s": round(self.loaded_s, 1),
            "outage_s": round(self.ready_at - self.killed_at, 1),
            "caught_up_p50_s": share(0.5),
            "caught_up_p99_s": share(0.99),
            "caught_up_last_s": share(1.0),
            "behind": self.behind,
            "acknowledged": self.acknowledged,
            "directory_cpu_before": round(sum(quiet) / len(quiet), 2) if quiet else None,
            "directory_cpu_peak_after": round(peak, 2),
        }


class Crowd:
    """The routers: a replica, a client and a follower each."""

    def __init__(self, folder: Path, clients: Sequence[DirectoryClient]) -> None:
        self.replicas = [Replica(folder / str(number), MAP_BYTES) for number in range(len(clients))]
        self._followers = [Follower(r, c) for r, c in zip(self.replicas, clients, strict=True)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(follower.run()) for follower in self._followers]

    async def end(self) -> None:
        for task in self._tasks:
            await ended(task)

    def following(self) -> bool:
        """Whether all of them have loaded the map, and heard that they have all of the log."""
        return all(replica.position is not None and replica.staleness() < HEARD_SECONDS for replica in self.replicas)

    def behind(self, end: Position) -> list[int]:
        """Which are not there yet."""
        found = []
        for number, replica in enumerate(self.replicas):
            at = replica.position
            if at is None or at.generation != end.generation or at.sequence < end.sequence:
                found.append(number)
        return found


class Run:
    def __init__(self, shape: Shape, site: Site, crowd: Crowd, database: asyncpg.Connection, tell: bool) -> None:
        self._shape = shape
        self._site = site
        self._crowd = crowd
        self._database = database
        self._tell = tell
        self._began = time.monotonic()
        self._cpu = 0.0
        self._client = site.client("eu", Role.APP, deadline=2)
        self.told = Told(shape)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _say(self, what: str) -> None:
        if self._tell:
            sys.stderr.write(f"{self._now():6.1f} s  {what}\n")

    async def run(self) -> Told:
        self._crowd.start()
        while not self._crowd.following():  # noqa: ASYNC110 - of files
            await asyncio.sleep(0.2)
        self.told.loaded_s = self._now()
        self._say(f"{self._shape.routers} replicas loaded")
        self._cpu = self._used()
        watching = asyncio.create_task(self._watch())
        changing = asyncio.create_task(self._change())
        try:
            await asyncio.sleep(self._shape.before)
            for process in self._site.processes:
                process.kill()
            self.told.killed_at = self._now()
            self._say("the directory is killed")
            await asyncio.sleep(self._shape.outage)
            for process in self._site.processes:
                process.start()
            for process in self._site.processes:
                await process.ready()
            self.told.ready_at = self._now()
            self._say("the directory is ready again")
            await self._catch_up()
            await asyncio.sleep(max(0.0, self.told.ready_at + self._shape.after - self._now()))
            await ended(changing)
            await self._settle()
        finally:
            await ended(changing)
            await ended(watching)
        return self.told

    async def _catch_up(self) -> None:
        """Until all have the first change that is made after it, or a minute is over."""
        before = self.told.acknowledged
        while self.told.acknowledged == before:  # noqa: ASYNC110 - the next claim
            await asyncio.sleep(0.01)
        end = await self._end()
        left = set(range(self._shape.routers))
        while left and self._now() < self.told.ready_at + 60:
            there = left - set(self._crowd.behind(end))
            self.told.caught_up_s += [self._now() - self.told.ready_at] * len(there)
            left -= there
            await asyncio.sleep(0.1)
        self._say(f"{len(self.told.caught_up_s)} caught up")

    async def _settle(self) -> None:
        """All at one end, which nobody moves any more."""
        end, deadline = await self._end(), self._now() + 30
        while (left := self._crowd.behind(end)) and self._now() < deadline:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.2)
        self.told.behind = len(left)

    async def _end(self) -> Position:
        row = await self._database.fetchrow("SELECT generation, sequence FROM directory.clock")
        assert row is not None
        return Position(generation=row[0], sequence=row[1])

    async def _change(self) -> None:
        while True:
            with suppress(Exception):  # while it is away
                await self._client.claim(any_key(), ClaimRequest(residence="DE"))
                self.told.acknowledged += 1
            await asyncio.sleep(1 / self._shape.changes)

    async def _watch(self) -> None:
        while True:
            self._sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _used(self) -> float:
        """Processor seconds of the directory's processes that run now."""
        used = 0.0
        for process in self._site.processes:
            with suppress(psutil.Error, AssertionError):
                times = psutil.Process(process.pid).cpu_times()
                used += times.user + times.system
        return used

    def _sample(self) -> None:
        ages = sorted(replica.staleness() for replica in self._crowd.replicas)
        following = sum(replica.silence() < HEARD_SECONDS for replica in self._crowd.replicas)
        used, at = self._used(), round(self._now(), 2)
        passed = at - self.told.samples[-1].at if self.told.samples else SAMPLE_SECONDS
        rate = max(0.0, used - self._cpu) / passed
        self._cpu = used
        self.told.samples.append(Sample(at, following, ages[len(ages) // 2], ages[-1], rate))


async def follow(shape: Shape, folder: Path, *, tell: bool = False) -> Told:
    trust = Trust.create(folder / "trust")
    operator = Signer.load_or_create(folder / "operator.key")
    needed = 8 * shape.routers + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    database = running_storage(trust, folder / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
    with database as storage:
        async with AsyncExitStack() as stack:
            site = await stack.enter_async_context(directory_site(trust, storage, operator, folder))
            root = await stack.enter_async_context(superuser(storage))
            await root.execute(FILL.replace("$1", str(shape.pins)))
            await site.only(0).publish(1)
            clients = [site.client("eu", Role.ROUTER) for _ in range(shape.routers)]
            crowd = Crowd(folder / "replicas", clients)
            try:
                return await Run(shape, site, crowd, root, tell).run()
            finally:
                await crowd.end()


_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 130, 60, 34


def plot(told: Told) -> str:
    """Three strips over one time: routers that follow, staleness, the directory's processors; the outage is shaded."""
    begin, over = told.samples[0].at, told.samples[-1].at
    scale = (_WIDTH - _LEFT - 12) / max(1e-9, over - begin)

    def x(at: float) -> float:
        return _LEFT + (at - begin) * scale

    strips: list[tuple[str, list[tuple[str, str, list[float]]]]] = [
        ("routers that hear the log", [("", "#1f6feb", [float(s.following) for s in told.samples])]),
        (
            "staleness of replicas, s",
            [
                ("the stalest", "#d1242f", [s.staleness_max for s in told.samples]),
                ("half of them", "#8250df", [s.staleness_p50 for s in told.samples]),
            ],
        ),
        ("processors of the directory", [("", "#1a7f37", [s.directory_cpu for s in told.samples])]),
    ]
    parts = []
    for number, (title, lines) in enumerate(strips):
        y = _TOP + number * (_HEIGHT + 44)
        most = max(1e-9, *(max(values) for _, _, values in lines))
        parts.append(f"<text x='{_LEFT}' y='{y - 8}' class='name'>{escape(title)}</text>")
        parts.append(f"<rect x='{_LEFT}' y='{y}' width='{_WIDTH - _LEFT - 12}' height='{_HEIGHT}' class='back'/>")
        start, end = x(told.killed_at), x(told.ready_at)
        parts.append(f"<rect x='{start:.1f}' y='{y}' width='{end - start:.1f}' height='{_HEIGHT}' class='out'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 9}' class='axis'>{most:,.4g}</text>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + _HEIGHT}' class='axis'>0</text>")
        for place, (name, colour, values) in enumerate(lines):
            points = " ".join(
                f"{x(s.at):.1f},{y + _HEIGHT - _HEIGHT * value / most:.1f}"
                for s, value in zip(told.samples, values, strict=True)
            )
            parts.append(f"<polyline points='{points}' style='stroke:{colour}'/>")
            if name:
                right = _WIDTH - 16 - 110 * place
                parts.append(f"<text x='{right}' y='{y - 8}' class='axis' style='fill:{colour}'>{escape(name)}</text>")
    height = _TOP + len(strips) * (_HEIGHT + 44)
    step = 10 if over - begin > 40 else 5
    ticks = [begin + n * step for n in range(int((over - begin) / step) + 1)]
    parts += [f"<text x='{x(t):.1f}' y='{height - 24}' class='tick'>{t - begin:.0f} s</text>" for t in ticks]
    style = (
        "text{font:12px system-ui,sans-serif;fill:#57606a}.name{font-weight:600;fill:#1c2430}.axis{text-anchor:end}"
        ".tick{text-anchor:middle}.back{fill:#f6f8fa}.out{fill:#d1242f22}polyline{fill:none;stroke-width:1.6}"
    )
    shape = told.shape
    title = f"{shape.routers:,} routers, a directory away for {told.ready_at - told.killed_at:.0f} s"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' role='img' aria-label='{title}'>"
        f"<style>{style}</style><rect width='{_WIDTH}' height='{height}' fill='#fff'/>{''.join(parts)}</svg>\n"
    )


def main() -> None:
    """Example: python -m loadtests.followers --routers 1000 --plot docs/scaling-followers.svg"""
    parser = argparse.ArgumentParser(prog="python -m loadtests.followers", description=__doc__)
    for name, value in asdict(Shape()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{value} by default")
    parser.add_argument("--plot", type=Path, help="write the plot to this file (SVG)")
    asked = vars(parser.parse_args())
    path: Path | None = asked.pop("plot")
    logging.disable(logging.WARNING)  # each router says that it does not follow
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(follow(Shape(**asked), Path(folder), tell=sys.stderr.isatty()))
    if path is not None:
        path.write_text(plot(told))
    json.dump(told.document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
    sys.exit(0 if told.document()["ok"] else 3)


if __name__ == "__main__":
    main()
