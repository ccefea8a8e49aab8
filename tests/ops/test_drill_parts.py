"""The parts of a drill that decide: the checker, what is measured, the verdict, plans, and the record of faults."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from domicile_testing.good_manifest import DATA

from domicile.model import Conflict, InvalidInput, Unavailable, parse_manifest
from domicile.ops.drills.checker import linearizable
from domicile.ops.drills.commands import comparison
from domicile.ops.drills.faults import Fault, FaultKind, Journal
from domicile.ops.drills.history import HistoryReader, Kind, Op, Outcome, Recorder, read_history
from domicile.ops.drills.local import group_of, scan_files
from domicile.ops.drills.measure import Measures, Moments, Scanned, longest_gap, lost_writes, measure, stale_reads
from domicile.ops.drills.page import render
from domicile.ops.drills.port import Arranged, ClusterState, Entry, Part
from domicile.ops.drills.runner import recover
from domicile.ops.drills.scenarios import SCENARIOS, Plan, Target, View, scenario, too_much
from domicile.ops.drills.verdict import SAFETY, Objective, Verdict, judge
from domicile.ops.layout import Layout

_numbers = itertools.count(1)


def op(
    kind: Kind,
    value: int | None,
    invoked: float,
    completed: float | None,
    outcome: Outcome = Outcome.OK,
    *,
    subject: str = "eu-1",
    cell: str = "eu-1",
    rows: tuple[int, ...] = (),
    error: str = "",
) -> Op:
    return Op(next(_numbers), kind, subject, cell, invoked, completed, outcome, value, rows, error)


def write(value: int, invoked: float, completed: float) -> Op:
    return op(Kind.WRITE, value, invoked, completed)


def unsure(value: int, invoked: float) -> Op:
    return op(Kind.WRITE, value, invoked, None, Outcome.INFO)


def read(value: int, invoked: float, completed: float) -> Op:
    return op(Kind.READ, value, invoked, completed)


GOOD = {
    "nothing": [],
    "the initial value": [read(0, 0, 1)],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)],
    "a read beside a write sees the old value": [write(1, 0, 10), read(0, 1, 2), read(1, 11, 12)],
    "or the new one": [write(1, 0, 10), read(1, 1, 2), read(1, 3, 4)],
    "two readers, the later one sees more": [write(1, 0, 10), read(0, 1, 9), read(1, 2, 8)],
    "an unanswered write that was done": [unsure(1, 0), read(0, 1, 2), read(1, 3, 4)],
    "an unanswered write that was not done": [unsure(1, 0), write(2, 1, 2), read(2, 3, 4)],
    "an unanswered write that took effect late": [unsure(1, 0), write(2, 1, 2), read(2, 3, 4), read(1, 5, 6)],
    "writes side by side in either order": [write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)],
    "a refused write is none": [op(Kind.WRITE, 9, 0, 1, Outcome.FAIL), read(0, 2, 3)],
}
BAD = {
    "a lost write": [write(1, 0, 1), read(0, 2, 3)],
    "a stale read": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "a value from nowhere": [read(7, 0, 1)],
    "a read before its write began": [read(1, 0, 1), write(1, 2, 3)],
    "back and forth beside a write": [write(1, 0, 10), read(1, 1, 2), read(0, 3, 4)],
    "two who see two orders": [
        write(1, 0, 10), write(2, 0, 10), read(1, 11, 12), read(2, 13, 14),
    ],
    "a refused write that was done": [op(Kind.WRITE, 9, 0, 1, Outcome.FAIL), read(9, 2, 3)],
    "an unanswered write undone": [unsure(1, 0), read(1, 1, 2), read(0, 3, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_the_checker_passes_what_one_register_can_do(name: str) -> None:
    assert linearizable(GOOD[name]) is True


@pytest.mark.parametrize("name", BAD)
def test_the_checker_knows_histories_that_are_bad(name: str) -> None:
    assert linearizable(BAD[name]) is False


def test_the_checker_agrees_with_every_order_tried() -> None:
    """Small histories by chance, against the definition: some order of all operations that keeps to time and sense."""
    chance, answers = random.Random(9), set()
    for _ in range(120):
        ops = []
        for value in range(1, 4):
            start = chance.uniform(0, 6)
            ops.append(write(value, start, start + chance.uniform(0.1, 4)))
        for _ in range(3):
            start = chance.uniform(0, 8)
            ops.append(read(chance.randrange(4), start, start + chance.uniform(0.1, 3)))
        expected = any(_sensible(order) for order in itertools.permutations(ops))
        assert linearizable(ops) is expected, ops
        answers.add(expected)
    assert answers == {True, False}


def _sensible(order: Sequence[Op]) -> bool:
    value = 0
    for number, each in enumerate(order):
        if any((later.completed or 0) < each.invoked for later in order[number:]):
            return False
        if each.kind is Kind.WRITE:
            value = each.value or 0
        elif each.value != value:
            return False
    return True


def test_the_checker_says_when_it_does_not_know() -> None:
    ops = [write(value, 0, 100) for value in range(1, 14)] + [read(0, 101, 102)]
    assert linearizable(ops, most=500) is None


def test_a_long_history_is_checked_at_once() -> None:
    ops = [each for n in range(1, 1500) for each in (write(n, n, n + 0.5), read(n, n + 0.6, n + 0.9))]
    assert linearizable(ops) is True
    assert linearizable([*ops, read(700, 2000, 2001)]) is False


# -- history ---------------------------------------------------------------------------------------------------


def test_a_history_is_read_while_it_is_written_and_after_its_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    reader = HistoryReader(path)
    assert reader.more() == []
    with path.open("w") as stream:
        recorder = Recorder(stream)
        recorder.invoke(1, Kind.ADD, "eu-1", "eu-1", 1.0, 5)
        recorder.invoke(2, Kind.READ, "eu-1", "eu-1", 1.5)
        stream.flush()
        assert reader.more() == []
        recorder.complete(1, Outcome.OK, 2.0)
        recorder.complete(2, Outcome.OK, 2.5, 7)
        recorder.invoke(3, Kind.FINAL, "eu-1", "eu-1", 3.0)
        stream.write('{"process": 3, "type": "ok", "ti')
    assert [(each.kind, each.value) for each in reader.more()] == [(Kind.ADD, 5), (Kind.READ, 7)]
    last = read_history(path)[-1]
    assert (last.kind, last.outcome, last.completed, last.error) == (Kind.FINAL, Outcome.INFO, None, "no answer")


# -- measures and verdict --------------------------------------------------------------------------------------

MOMENTS = Moments(began=0, injected=10, detected=11, undoing=20, undone=22, recovered=25, ended=40)
CLEAN = Scanned(0, 100, trusted=True)
OBJECTIVES = (Objective("rto_s", 15), Objective("others_errors", 0), *SAFETY)


def a_drill() -> list[Op]:
    """Writes to two cells, each acknowledged, with a pause of 10 s in one of them; all of them are there."""
    found, rows = [], {"eu-1": [], "us-1": []}  # type: tuple[list[Op], dict[str, list[int]]]
    for number in range(1, 400):
        at = number / 10
        for cell in ("eu-1", "us-1"):
            if cell == "eu-1" and 10 <= at < 20:
                if number % 10 == 0:
                    found.append(
                        op(
                            Kind.ADD,
                            number,
                            at,
                            at + 0.5,
                            Outcome.INFO,
                            subject=cell,
                            cell=cell,
                            error="503 unavailable",
                        )
                    )
                continue
            found.append(op(Kind.ADD, number, at, at + 0.05, subject=cell, cell=cell))
            rows[cell].append(number)
    for cell, numbers in rows.items():
        found.append(op(Kind.FINAL, 0, 41, 42, subject=cell, cell=cell, rows=tuple(numbers)))
    return found


def measured(history: Sequence[Op], scanned: Scanned | None = CLEAN) -> Measures:
    return measure(history, MOMENTS, {"eu-1"}, scanned, ["eu-1", "us-1"])


def test_what_a_drill_measured() -> None:
    found = measured(a_drill())
    assert (found.detection_s, found.lost, found.doubled, found.unverified, found.stale_reads) == (1, 0, 0, 0, 0)
    assert found.rto_s == pytest.approx(10.05, abs=0.1)
    assert found.writes_per_second == pytest.approx(20, abs=0.5)
    assert found.errors == {"503 unavailable": 10}
    assert (found.others_errors, found.cells["eu-1"]["errors"]) == (0, 10)
    assert found.latency["before"]["p50_ms"] == pytest.approx(50)
    assert judge(found, OBJECTIVES).verdict is Verdict.HELD


def test_one_acknowledged_write_that_is_gone_fails_a_drill() -> None:
    history = a_drill()
    last = history.pop()
    history.append(op(Kind.FINAL, 0, 41, 42, subject="us-1", cell="us-1", rows=last.rows[:-1]))
    found = measured(history)
    assert found.lost == 1
    assert judge(found, OBJECTIVES).verdict is Verdict.FAILED
    assert judge(found, OBJECTIVES, "interrupted").verdict is Verdict.FAILED


def test_a_write_that_is_there_twice_is_counted_and_who_could_not_be_read_proves_nothing() -> None:
    assert lost_writes([op(Kind.ADD, 1, 0, 1), op(Kind.FINAL, 0, 2, 3, rows=(1, 1))]) == (0, 1, 0)
    unread = [op(Kind.ADD, 1, 0, 1), op(Kind.FINAL, None, 2, 3, Outcome.FAIL)]
    assert lost_writes(unread) == (0, 0, 1)
    found = measured([*a_drill(), op(Kind.ADD, 1, 0, 1, subject="eu-9")])
    judgement = judge(found, OBJECTIVES)
    assert (judgement.verdict, judgement.reason) == (
        Verdict.ABORTED, "could not be told: unverified 1, at most 0",
    )  # fmt: skip


def test_stale_reads_are_those_below_what_was_acknowledged_before_they_began() -> None:
    history = [write(1, 0, 1), write(2, 2, 3), read(1, 2.5, 6), read(1, 4, 5), read(2, 4, 5)]
    assert stale_reads(history) == 1
    assert stale_reads([unsure(1, 0), write(2, 1, 2), read(1, 3, 4)]) == 0


@pytest.mark.parametrize(
    ("scanned", "verdict"),
    [
        (CLEAN, Verdict.HELD),
        (None, Verdict.ABORTED),
        (Scanned(0, 100, trusted=False), Verdict.ABORTED),
        (Scanned(22, 100, trusted=True), Verdict.FAILED),
        (Scanned(22, 100, trusted=False), Verdict.FAILED),
    ],
)
def test_a_scan_that_cannot_be_trusted_holds_nothing(scanned: Scanned | None, verdict: Verdict) -> None:
    assert judge(measured(a_drill(), scanned), OBJECTIVES).verdict is verdict


def test_objectives_that_were_missed_fail_and_do_not_in_a_drill_that_was_broken_off() -> None:
    missed = (Objective("rto_s", 5), *SAFETY)
    assert judge(measured(a_drill()), missed).reason == "rto_s 10.05, at most 5"
    aborted = judge(measured(a_drill()), missed, "interrupted")
    assert (aborted.verdict, aborted.reason) == (Verdict.ABORTED, "interrupted")
    assert judge(Measures(), OBJECTIVES).verdict is Verdict.ABORTED, "nothing measured, nothing held"


def test_what_may_be_lost_by_what_was_said_before_is_told_apart_and_earlier_it_is_not() -> None:
    """Backups end some seconds before the disks were lost: what was acknowledged since then may be gone."""
    history = [
        op(Kind.ADD, 1, 0, 1), op(Kind.ADD, 2, 4, 5), op(Kind.ADD, 3, 6, 7),
        write(1, 0, 1), write(2, 6, 7), read(2, 8, 9), read(1, 21, 22),
        op(Kind.ADD, 4, 9.5, 10.2), op(Kind.FINAL, 1, 30, 31, rows=(1,)),
    ]  # fmt: skip
    moments = Moments(began=0, injected=10, broken=10.5, ended=40)
    told = {
        rpo: measure(history, moments, {"eu-1"}, Scanned(0, 1, trusted=True), {"eu-1", "us-1"}, rpo)
        for rpo in (0.0, 4.0, 6.0)
    }
    assert [(each.lost, each.given_up) for each in told.values()] == [(3, 0), (1, 2), (0, 3)]
    assert [(each.stale_reads, each.not_linearizable) for each in told.values()] == [(1, 1), (0, 0), (0, 0)]
    elsewhere = measure(history, moments, {"us-1"}, Scanned(0, 1, trusted=True), {"eu-1", "us-1"}, 6.0)
    assert elsewhere.lost == 3, "nothing was said of this cell"


def test_the_longest_gap_counts_what_lies_before_the_first_and_after_the_last() -> None:
    assert longest_gap([], 2, 7) == 5
    assert longest_gap([1, 3, 4, 9], 2, 8) == 4


def test_strangers_served_are_sign_ups_answered_while_the_fault_lasted() -> None:
    inside = op(Kind.SIGN_UP, None, 12, 13, subject="eu-7", cell="")
    after = op(Kind.SIGN_UP, None, 12, 21, subject="eu-8", cell="")
    assert measured([*a_drill(), inside, after]).strangers_served == 1


# -- plans -----------------------------------------------------------------------------------------------------

MANIFEST = parse_manifest(DATA)


def a_view(leader: str = "fra") -> View:
    parts = [
        Part("directory", "directory", "global", "fra", "directory"),
        Part("keys-eu", "keys", "eu", "fra", "keys-eu"),
        Part("router-muc", "router", "eu", "fra", "router-muc"),
        Part("eu-1-witness", "witness", "eu", "ams", "eu-1"),
    ]
    for zone, suffix in (("fra", ""), ("par", ".par")):
        for kind, role in (("patroni", "patroni"), ("server", "server"), ("storage", "storage"), ("app", "app")):
            parts.append(Part(f"eu-1-{kind}{suffix}", role, "eu", zone, "eu-1"))
    other = "par" if leader == "fra" else "fra"
    return View(MANIFEST, parts, [ClusterState("eu-1", leader, other, in_sync=True)])


def plan(name: str, view: View | None = None, target: Target | None = None) -> Plan:
    return SCENARIOS[name].plan(view or a_view(), target or Target())


def test_plans_break_the_leader_wherever_it_is_and_nothing_else() -> None:
    assert plan("kill-leader").faults[0].parts == ("eu-1-patroni", "eu-1-server")
    assert plan("kill-leader", a_view("par")).faults[0].parts == ("eu-1-patroni.par", "eu-1-server.par")
    assert plan("partition").faults[0].parts == ("eu-1-patroni", "eu-1-storage", "eu-1-server")
    assert plan("suspend-agent").faults[0] == Fault(kind=FaultKind.SUSPEND, parts=("eu-1-patroni",))
    assert plan("switchover").touched == {"eu-1"}
    assert set(plan("cell-outage").faults[0].parts) == {p.name for p in a_view().parts if p.group == "eu-1"}
    assert plan("directory-outage").touched == plan("key-service-outage").touched == frozenset()


def test_a_zone_is_chosen_that_can_be_survived_unless_another_is_named() -> None:
    assert {name.rpartition(".")[2] for name in plan("kill-zone").faults[0].parts} == {"par"}
    assert "router-muc" in plan("kill-zone", target=Target(zone="fra")).faults[0].parts
    assert "directory" not in plan("kill-zone", target=Target(zone="fra")).faults[0].parts, "it is of no jurisdiction"


def test_a_zone_whose_key_service_has_a_second_one_can_be_survived() -> None:
    view = a_view()
    second = replace(view, parts=[*view.parts, Part("keys-eu.par", "keys", "eu", "par", "keys-eu")])
    assert "keys-eu.par" in plan("kill-zone", second).faults[0].parts
    elsewhere = replace(view, parts=[*view.parts, Part("router-iad", "router", "us", "par", "router-iad")])
    assert "eu-1-app.par" in plan("kill-zone", elsewhere).faults[0].parts, "another jurisdiction's"


def test_what_is_no_target_is_refused_and_what_a_world_lacks_is_unavailable() -> None:
    for target in (Target(cell="eu-9"), Target(jurisdiction="xx")):
        with pytest.raises(InvalidInput):
            plan("kill-leader", target=target)
    with pytest.raises(InvalidInput):
        plan("kill-zone", target=Target(zone="nowhere"))
    with pytest.raises(InvalidInput, match="no scenario 'nonsense'"):
        scenario("nonsense")
    with pytest.raises(Unavailable):
        plan("kill-leader", View(MANIFEST, a_view().parts, []))


def test_a_full_disk_and_a_wrong_clock_are_had_only_where_they_were_arranged() -> None:
    for name in ("clock-jump", "disk-full"):
        with pytest.raises(Unavailable, match="nothing was arranged"):
            plan(name)
        view = replace(a_view(), arranged=Arranged("eu-1", "par"))
        first, second = plan(name, view).faults
        assert first == Fault(kind=FaultKind.HAND_OVER, parts=("eu-1",)), "the node of the small disk has to lead"
        assert second.parts == ("eu-1-patroni.par", "eu-1-server.par")
        (only,) = plan(name, replace(a_view("par"), arranged=Arranged("eu-1", "par"))).faults
        assert only == second
        with pytest.raises(InvalidInput, match="another node"):
            plan(name, view, Target(zone="fra"))


def test_the_disks_of_a_cell_are_lost_only_where_there_are_backups() -> None:
    with pytest.raises(Unavailable, match="has no backups"):
        plan("restore-backup")
    with pytest.raises(Unavailable, match="no standby in this world"):
        plan("lose-directory")
    assert plan("slow-zone").out == frozenset()


def test_the_last_cell_of_a_jurisdiction_stays_unless_somebody_says_otherwise() -> None:
    assert too_much(a_view(), plan("cell-outage"), 1) == "eu would keep 0 of its cells, and --keep is 1"
    assert too_much(a_view(), plan("cell-outage"), 0) == ""
    assert too_much(a_view(), plan("kill-leader"), 1) == "", "a cell that fails over is not out"


def test_groups_of_processes_by_name() -> None:
    told = {
        "eu-1-patroni.par": "eu-1",
        "keys-eu-witness": "keys-eu",
        "keys-eu": "keys-eu",
        "directory.iad": "directory",
        "directory-storage": "directory",
        "router-fra": "router-fra",
    }
    assert {name: group_of(name) for name in told} == told


# -- the record of faults --------------------------------------------------------------------------------------

KILL = Fault(kind=FaultKind.KILL, parts=("a", "b"))
SUSPEND = Fault(kind=FaultKind.SUSPEND, parts=("c",))


class Undone:
    """A world that only tells what was undone; ``fails`` at a part's first undoing."""

    manifest = MANIFEST

    def __init__(self, fails: str = "") -> None:
        self.done: list[Fault] = []
        self._fails = fails

    def parts(self) -> Sequence[Part]:
        return []

    def arranged(self) -> None:
        return None

    async def clusters(self, names: Collection[str] | None = None) -> Sequence[ClusterState]:
        return []

    async def not_serving(self, parts: Collection[str] | None = None) -> Sequence[str]:
        return []

    def method(self, kind: FaultKind) -> str:
        return ""

    async def inject(self, fault: Fault) -> None:
        raise AssertionError

    async def undo(self, fault: Fault) -> None:
        if self._fails in fault.parts:
            self._fails = ""
            raise Unavailable("not now")
        self.done.append(fault)

    def entry(self, jurisdiction: str) -> Entry:
        raise AssertionError

    async def scan(self, since: float, values: Mapping[str, str]) -> Scanned:
        raise AssertionError

    async def crossings(self) -> Mapping[str, float]:
        return {}


async def test_faults_are_undone_in_reverse_and_stay_on_record_until_they_are(tmp_path: Path) -> None:
    journal, world = Journal(tmp_path / "d"), Undone(fails="a")
    with journal.alone():
        assert await recover(world, journal, lambda _: None) == 0
        journal.add(KILL)
        journal.add(SUSPEND)
        with pytest.raises(Unavailable):
            await recover(world, journal, lambda _: None)
        assert (world.done, journal.faults()) == ([SUSPEND], [KILL])
    assert await recover(world, Journal(tmp_path / "d"), lambda _: None) == 1
    assert (world.done, journal.faults()) == ([SUSPEND, KILL], [])


HOLD = """
import sys
from pathlib import Path
from domicile.ops.drills.faults import Fault, FaultKind, Journal
journal = Journal(Path(sys.argv[1]))
with journal.alone():
    journal.add(Fault(kind=FaultKind.KILL, parts=("a", "b")))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_drills_at_once_are_refused_also_between_processes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "d")
    with journal.alone(), pytest.raises(Conflict, match="another drill"), Journal(tmp_path / "d").alone():
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "d")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict), journal.alone():
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with journal.alone():
            assert journal.faults() == [KILL], "what a killed drill broke is still told"
    finally:
        holder.kill()
        holder.communicate()


def test_a_record_that_is_none_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text("[{")
    with pytest.raises(InvalidInput, match="is no record of faults"):
        Journal(tmp_path).faults()


# -- evidence and reports --------------------------------------------------------------------------------------


def test_a_value_abroad_is_found_and_at_home_it_is_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "s")
    layout.prepare()
    for cell, zone in (("eu-1", "fra"), ("us-1", "iad")):
        layout.cell(cell, zone).mkdir(parents=True)
    values = {"eu": "drill-0123456789abcdef"}
    (layout.cell("eu-1", "fra") / "heap").write_text("drill-0123456789abcdef 7")
    assert scan_files(layout, MANIFEST, 0, values).bytes_across == 0
    (layout.cell("us-1", "iad") / "heap").write_text("drill-0123456789abcdef 7")
    found = scan_files(layout, MANIFEST, 0, values)
    assert found.bytes_across >= len(values["eu"])
    assert found.places == ("cells/us-1/iad/heap: drill's values of eu",)


def test_pages_need_nothing_else_and_take_no_word_as_markup() -> None:
    document = json.loads((Path(__file__).parent / "drill_report.json").read_text())
    page = render(document | {"reason": "<script>alert(1)</script>"})
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<polyline") == 2 * len(document["timeline"]["cells"])
    rows = {row[0]: row for row in comparison(document, document | {"rto_s": document["rto_s"] + 2})}
    assert rows["rto_s"][3] == "+2"
    assert rows["lost"][3] == ""


def test_the_page_on_drills_names_every_scenario_and_its_objectives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "drills.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 6}
    assert list(rows) == list(SCENARIOS)
    for name, row in rows.items():
        told = {
            f"{objective.limit:g} s"
            for objective in SCENARIOS[name].objectives
            if objective.measure != "strangers_served"
        }
        assert all(each in row for each in told), name
