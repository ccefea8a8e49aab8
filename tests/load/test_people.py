"""The load test itself: its file, its objectives, its watch over processes, and that it goes nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from loadtests.people import objectives, page, watch
from loadtests.people.objectives import Evidence
from loadtests.people.places import loopback
from loadtests.people.plan import DEFAULT, Kind, Plan, Soak, read_plan
from loadtests.people.samples import FAULT, Sample, by_action, counted, percentile, timeline

from domicile.model.errors import Forbidden, InvalidInput, ManifestError

ROOT = Path(__file__).parents[2]
PEOPLE = {"version": 1, "pace": {"seconds": 60, "spawn_per_second": 1}, "mix": {"residents": {"users": 1}}}


def refused(tmp_path: Path, data: object) -> str:
    path = tmp_path / "people.yaml"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises((InvalidInput, ManifestError)) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_file_that_is_shipped_has_people_of_every_kind() -> None:
    plan = read_plan(DEFAULT)
    assert set(plan.mix.users()) == set(Kind) - {Kind.ARRIVALS}
    assert plan.drill is not None
    assert all(plan.objectives.of(kind).p99_ms and plan.objectives.of(kind).requests for kind in Kind)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mix": {"residents": {"users": 1, "thnik": 1}}}, "mix.residents.thnik"),
        ({"mix": {"residents": {"users": -1}}}, "mix.residents.users"),
        ({"mix": {"residents": {"users": 1, "think_seconds": [2, 1]}}}, "the least comes first"),
        ({"mix": {}}, "nobody comes"),
        ({"mix": {"uploads": {"users": 1, "kilobytes": 64}}}, "mix.uploads.kilobytes"),
        ({"pace": {"seconds": 0, "spawn_per_second": 1}}, "pace.seconds"),
        ({"version": 2}, "version"),
        ({"objectives": {"residents": {"p98_ms": 1}}}, "objectives.residents.p98_ms"),
        ({"objectives": {"default": {"errors_percent": 101}}}, "objectives.default.errors_percent"),
        ({"objectives": {"residency": {"foreign_answers": 5}}}, "objectives.residency"),
        ({"drill": {"scenario": "kill-leader", "at_seconds": 60}}, "drill.at_seconds: 60 is after the end"),
        ({"soak": {"warm_up": 1}}, "soak.warm_up"),
    ],
)
def test_a_wrong_line_is_refused_by_its_name(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(tmp_path, PEOPLE | changes)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    assert "people.yaml" in refused(tmp_path, "mix: [")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize("host", ["8.8.8.8", "10.0.0.1", "0.0.0.0", "acme.example", "localhost", "::", ""])
def test_a_host_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(Forbidden, match="not on this machine"):
        loopback(host)


def test_loopback_is_gone_to() -> None:
    assert [loopback(host) for host in ("127.0.0.1", "127.30.1.31", "::1")] == ["127.0.0.1", "127.30.1.31", "::1"]


CONFINED = """
import socket, sys
from gevent import monkey
monkey.patch_all()
from loadtests.people.loopback import confine
from domicile.model.errors import Forbidden
confine({"eu.acme.localhost": "127.0.0.1"})
tries = {
    "connect": lambda: socket.create_connection(("192.0.2.1", 443), 1),
    "name": lambda: socket.create_connection(("acme.example", 443), 1),
    "sendto": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    "six": lambda: socket.create_connection(("2001:db8::1", 443), 1),
}
for name, attempt in tries.items():
    try:
        attempt()
    except Forbidden:
        print(name, "refused")
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("eu.acme.localhost", listener.getsockname()[1]), 1)
print("home reached")
"""


@pytest.mark.skipif(find_spec("gevent") is None, reason="the extra `load` is not installed: make .venv/.load")
def test_the_load_process_cannot_leave_the_machine() -> None:
    done = subprocess.run([sys.executable, "-c", CONFINED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    told = [f"{name} refused" for name in ("connect", "name", "sendto", "six")]
    assert done.stdout.splitlines() == [*told, "home reached"], done.stderr


# -- objectives ---------------------------------------------------------------------------------------------------

LIMITS = {"p95_ms": 100, "p99_ms": 200, "errors_percent": 1, "requests": 10}
PLAN = Plan.model_validate(PEOPLE | {"objectives": {"default": LIMITS}})


def fine(count: int = 100, *, at: float = 1.0, kind: str = "residents", **more: Any) -> list[Sample]:
    values: dict[str, Any] = {"ended": at, "kind": kind, "action": "read", "milliseconds": 10.0}
    return [Sample(**values | more) for _ in range(count)]


def missed(samples: list[Sample], *, across: int | None = 0, plan: Plan = PLAN, **more: Any) -> set[str]:
    rows = objectives.judge(plan, Evidence([*samples, *fine(kind="arrivals")], across, **more))
    return {row["objective"] for row in rows if not row["met"]}


def test_a_good_run_meets_everything() -> None:
    assert missed(fine()) == set()


def test_each_objective_can_be_missed() -> None:
    assert missed([*fine(90), *fine(10, milliseconds=150.0)]) == {"residents: p95_ms"}
    assert missed([*fine(98), *fine(2, milliseconds=250.0)]) == {"residents: p99_ms"}
    assert missed([*fine(98), *fine(2, error="503 unavailable")]) == {"residents: errors_percent"}
    assert missed(fine(9)) == {"residents: requests"}
    assert missed([]) == {"residents: requests", "residents: p95_ms", "residents: p99_ms"}
    assert missed([*fine(), *fine(1, action=FAULT, error="KeyError")]) == {"faults of the load itself"}
    foreign = fine(1, error="foreign: us answers somebody of eu")
    assert missed([*fine(1000), *foreign]) == {"residency: foreign answers"}


@pytest.mark.parametrize("across", [17, None])
def test_a_byte_abroad_fails_and_so_does_a_scan_that_proves_nothing(across: int | None) -> None:
    assert missed(fine(), across=across) == {"residency: personal bytes across"}


def test_a_run_whose_requests_all_failed_meets_no_time() -> None:
    assert {"residents: p95_ms", "residents: errors_percent"} <= missed(fine(error="503 unavailable"))


def test_the_drill_excuses_only_what_its_own_objectives_excuse() -> None:
    drill = {"scenario": "directory-outage", "at_seconds": 10}
    inside = {"residents": {"errors_percent": 50, "p99_ms": 100}}
    plan = Plan.model_validate(PLAN.model_dump() | {"drill": drill, "objectives_in_drill": inside})
    held: dict[str, Any] = {"plan": plan, "drill": (10.0, 20.0), "drilled": {"verdict": "held"}}
    broken = [*fine(5, at=15), *fine(5, at=21, error="503")]
    assert missed([*fine(), *broken], **held) == set()
    assert missed([*fine(), *fine(2, at=15), *fine(3, at=15, error="503")], **held) == {
        "residents: errors_percent in the drill"
    }
    assert missed([*fine(), *fine(5, at=30, error="503")], **held) == {"residents: errors_percent"}
    abroad = fine(1, at=15, error="foreign: about somebody else")
    assert "residency: foreign answers" in missed([*fine(), *broken, *abroad], **held)
    assert missed([*fine(), *broken], **held | {"drilled": {"verdict": "failed"}}) == {"drill: directory-outage"}
    assert "drill: directory-outage" in missed(fine(), plan=plan)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) is None
    assert counted(fine(3, error="503"))["p95_ms"] is None


# -- soak ---------------------------------------------------------------------------------------------------------

SOAK = Soak(seconds=600, warm_up=0.25, memory_mib_per_hour=60, memory_mib=3, descriptors_per_hour=60, descriptors=5)


def looks(memory: Any = lambda _: 100.0, descriptors: Any = lambda _: 50, pid: Any = lambda _: 1) -> list[watch.Look]:
    return [
        watch.Look(at, "app", pid(at), memory(at), 200.0, int(descriptors(at))) for at in map(float, range(0, 600, 5))
    ]


def grows(found: list[watch.Look]) -> list[str]:
    return [row["objective"] for row in watch.judge(found, SOAK, 0.0, 600, ["app"]) if not row["met"]]


def test_what_leaks_is_seen() -> None:
    assert grows(looks(memory=lambda at: 100 + at * 0.05)) == ["app: memory_mib growth"]
    assert grows(looks(memory=lambda at: 100 + at * 0.05 + 8 * (at % 20 == 0))) == ["app: memory_mib growth"]
    assert grows(looks(memory=lambda at: 100 + 10 * (at // 100))) == ["app: memory_mib growth"]
    assert grows(looks(descriptors=lambda at: 50 + at // 10)) == ["app: descriptors growth"]


def test_what_does_not_leak_is_not_accused() -> None:
    assert grows(looks()) == []
    assert grows(looks(memory=lambda at: 100 + min(at, 140))) == [], "warming up"
    assert grows(looks(memory=lambda at: 100 + 40 * (at == 300))) == [], "one burst"
    assert grows(looks(memory=lambda at: 100 + at * 0.002)) == [], "slower than the limit"
    assert grows(looks(descriptors=lambda at: 50 + 20 * (at % 15 == 0))) == []


def test_who_was_not_watched_has_met_nothing() -> None:
    both = ["app: memory_mib growth", "app: descriptors growth"]
    assert grows([]) == both
    assert grows(looks(pid=lambda at: 1 if at < 300 else 2)) == both
    assert grows(looks(pid=lambda at: 1 if at < 100 else 2)) == [], "while it warmed up"


# -- the page -----------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_escapes_what_it_shows() -> None:
    samples = [*fine(5, at=3.0), *fine(2, at=9.0, error="503 <script>alert(1)</script>")]
    rows = objectives.judge(PLAN, Evidence(samples, 0))
    document: dict[str, Any] = {
        "ok": False, "seconds": 10.0, "soak": False, "users": {"residents": 1}, "objectives": rows,
        "failed": [row for row in rows if not row["met"]], "stats": by_action(samples, 10),
        "errors": [{"kind": "residents", "action": "read", "error": samples[-1].error, "times": 2}],
        "timeline": timeline(samples, 0.0, 1.0), "drill": {"verdict": "held", "window_s": [2.0, 4.0]},
        "scan": {"files": 3, "trusted": True, "places": []}, "processes": {},
    }  # fmt: skip
    text = page.render(document)
    assert "objectives missed" in text
    assert "<script" not in text
    assert not any(word in text for word in ("http://", "https://", "src=", "href=", "@import", "url("))
