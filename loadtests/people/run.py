"""One run: the load process, a drill beside it, looks at the world's processes, and the scan afterwards."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from domicile.model.errors import Unavailable
from domicile.ops.drills.local import scan_files
from domicile.ops.drills.measure import Scanned
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.postgres import launched
from domicile.ops.record import WorldRecord
from loadtests.people import objectives, samples, watch
from loadtests.people.places import Front, Task, check, fronts
from loadtests.people.plan import Drill, Plan
from loadtests.people.worlds import COMMAND, clean_environment

Tell = Callable[[str], None]
_GRACE_SECONDS: Final = 40.0
_DRILL_SECONDS: Final = 600.0
_SCAN_MARGIN_SECONDS: Final = 60.0
_SOAK_COLUMNS: Final = ("at", "name", "pid", "memory_mib", "rss_mib", "descriptors")


@dataclass
class Result:
    """``document``: all that was found, as JSON; ``looks``: at each process."""

    document: dict[str, Any]
    samples: list[samples.Sample] = field(repr=False)
    looks: list[watch.Look] = field(repr=False)

    @property
    def ok(self) -> bool:
        return all(row["met"] for row in self.document["objectives"])


class Run:
    def __init__(self, plan: Plan, layout: Layout, out: Path, *, soak: bool, seconds: float, tell: Tell) -> None:
        self._plan = plan
        self._layout = layout
        self._out = out
        self._soak = soak
        self._seconds = seconds
        self._tell = tell
        self._manifest = load_file(layout.manifest)
        self._fronts: dict[str, Front] = fronts(self._manifest, layout)
        check(plan, self._fronts)
        self._looks: list[watch.Look] = []
        self._drill: subprocess.Popen[str] | None = None
        self._window: tuple[float, float] | None = None
        self._drilled: dict[str, Any] | None = None

    def run(self) -> Result:
        """Raises Unavailable where the load process does not do its work; whatever ends this ends what it started."""
        wall, began = time.time(), time.monotonic()
        requests = self._out / "requests.csv"
        requests.unlink(missing_ok=True)
        load = self._start_load(requests)
        try:
            self._watch(load, began)
        finally:
            _end(load, signal.SIGTERM, 15)
            if self._drill is not None:
                _end(self._drill, signal.SIGINT, _DRILL_SECONDS)  # it puts right what it broke
        seconds = time.monotonic() - began
        if load.returncode != 0:
            raise Unavailable(
                f"the load process ended with {load.returncode}", where="loadtests.people.drive",
                remedy=f"see {self._out / 'load.log'}",
            )  # fmt: skip
        self._tell("looking for personal bytes abroad")
        values = {name: front.value for name, front in self._fronts.items()}
        scanned = scan_files(self._layout, self._manifest, wall - _SCAN_MARGIN_SECONDS, values)
        return self._result(samples.read(requests), scanned, began, seconds)

    def _start_load(self, requests: Path) -> subprocess.Popen[str]:
        task = Task(plan=self._plan, seconds=self._seconds, fronts=self._fronts, requests=requests.absolute())
        with (self._out / "load.log").open("w") as log:
            load = subprocess.Popen(
                launched([sys.executable, "-m", "loadtests.people.drive"], ends_with=signal.SIGKILL),
                stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True,
                env=clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
        assert load.stdin is not None
        load.stdin.write(task.model_dump_json() + "\n")
        load.stdin.close()
        return load

    def _watch(self, load: subprocess.Popen[str], began: float) -> None:
        drill = None if self._soak else self._plan.drill
        look_at = began
        deadline = began + self._seconds + _GRACE_SECONDS
        self._tell(f"{sum(self._plan.mix.users().values())} people for {self._seconds:g} s")
        while load.poll() is None or (self._drill is not None and self._drill.poll() is None):
            now = time.monotonic()
            if load.poll() is None and now > deadline:
                raise Unavailable("the load did not end", where="loadtests.people.drive", remedy="is the machine busy?")
            if self._window is not None and now > self._window[0] + _DRILL_SECONDS:
                raise Unavailable("the drill did not end", where="domicile drill", remedy="domicile drill --recover")
            if now >= look_at:
                self._looks += watch.look(self._layout, now)
                look_at = now + self._plan.soak.every_seconds
            if drill is not None and self._window is None and now - began >= drill.at_seconds:
                self._start_drill(drill, now)
            if self._drill is not None and self._drilled is None and self._drill.poll() is not None:
                self._end_drill()
            time.sleep(0.2)
        if self._drill is not None and self._drilled is None:
            self._end_drill()

    def _start_drill(self, drill: Drill, now: float) -> None:
        self._tell(f"drill: {drill.scenario}")
        command = [*COMMAND, "drill", drill.scenario, "--state", str(self._layout.root), "--json"]
        command += ["--users", "1", "--rate", f"{drill.rate:g}", "--floor", f"{drill.floor:g}"]
        command += ["--before", "3", "--after", "3"]
        command += ["--cell", drill.cell] if drill.cell else []
        command += ["--hold", f"{drill.hold_seconds:g}"] if drill.hold_seconds is not None else []
        with (self._out / "drill.json").open("w") as told, (self._out / "drill.log").open("w") as log:
            self._drill = subprocess.Popen(
                launched(command, ends_with=signal.SIGINT), stdin=subprocess.DEVNULL, stdout=told, stderr=log,
                text=True, env=clean_environment(), start_new_session=True,
            )  # fmt: skip
        self._window = (now, now + _DRILL_SECONDS)

    def _end_drill(self) -> None:
        assert self._window is not None
        self._window = (self._window[0], time.monotonic())
        try:
            self._drilled = json.loads((self._out / "drill.json").read_text())
        except ValueError:
            self._drilled = {"verdict": f"told nothing: see {self._out / 'drill.log'}"}
        assert self._drilled is not None
        self._tell(f"drill: {self._drilled.get('verdict')}")

    def _result(self, found: list[samples.Sample], scanned: Scanned, began: float, seconds: float) -> Result:
        plan = self._plan.model_copy(update={"drill": None}) if self._soak else self._plan
        evidence = objectives.Evidence(
            found, scanned.bytes_across if scanned.trusted else None, self._window, self._drilled
        )
        rows = objectives.judge(plan, evidence)
        if self._soak:
            record = WorldRecord.read(self._layout)
            names = [record.supervisor.name, *(each.name for each in record.processes)] if record else []
            rows += watch.judge(self._looks, self._plan.soak, began, self._seconds, names)
        window = None if self._window is None else [round(each - began, 1) for each in self._window]
        document = {
            "ok": all(row["met"] for row in rows),
            "seconds": round(seconds, 1),
            "soak": self._soak,
            "users": self._plan.mix.users(),
            "objectives": rows,
            "failed": [row for row in rows if not row["met"]],
            "stats": samples.by_action(found, self._seconds),
            "errors": [
                {"kind": kind, "action": action, "error": error, "times": times}
                for (kind, action, error), times in samples.by_error(found).most_common()
            ],
            "timeline": samples.timeline(found, began, max(1.0, seconds / 240)),
            "drill": None if self._drilled is None else self._drilled | {"window_s": window},
            "scan": {"files": scanned.files, "trusted": scanned.trusted, "places": list(scanned.places)},
            "processes": _processes(self._looks, began),
        }
        return Result(document, found, self._looks)


def write(result: Result, out: Path) -> None:
    """``stats.csv``, ``processes.csv`` and ``report.json``; ``requests.csv`` is there already."""
    stats = result.document["stats"]
    with (out / "stats.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(stats[0]) if stats else ["kind"])
        table.writeheader()
        table.writerows(stats)
    with (out / "processes.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, _SOAK_COLUMNS)
        table.writeheader()
        table.writerows(asdict(each) for each in result.looks)
    (out / "report.json").write_text(json.dumps(result.document, indent=1, ensure_ascii=False) + "\n")


def _processes(looks: list[watch.Look], began: float) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    for each in looks:
        found.setdefault(each.name, []).append(
            {"at": round(each.at - began, 1), "memory_mib": round(each.memory_mib, 2), "descriptors": each.descriptors}
        )
    return found


def _end(process: subprocess.Popen[str], number: signal.Signals, seconds: float) -> None:
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
