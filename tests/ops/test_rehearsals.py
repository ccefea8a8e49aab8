"""What is arranged for drills when a world starts, and what each of it breaks: real disks, clocks and packets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from domicile_testing.databases import free_port, wait_for
from domicile_testing.good_manifest import DATA

from domicile.model import InvalidInput, Unavailable, parse_manifest
from domicile.model.access import Role
from domicile.ops import rehearsal
from domicile.ops.cuts import GROUPS, cut, mend, rules
from domicile.ops.drills.disks import FILLER, empty, fill
from domicile.ops.drills.faults import Fault, FaultKind
from domicile.ops.drills.slowness import Slowness
from domicile.ops.health import PATRONI
from domicile.ops.layout import Layout
from domicile.ops.plan import ProcessSpec
from domicile.ops.rehearsal import REST, Rehearsal

MANIFEST = parse_manifest(DATA)
ROOT = os.getuid() == 0
NODE = "eu-1.par"


def spec(name: str, role: str, zone: str, **fields: object) -> ProcessSpec:
    known = {"jurisdiction": "eu", "address": "127.0.0.1:1", "command": ["/bin/true"]}
    return ProcessSpec(name=name, role=role, zone=zone, **(known | fields))  # type: ignore[arg-type]


def specs(layout: Layout) -> list[ProcessSpec]:
    home = layout.cell("eu-1", "par") / "storage"
    return [
        spec("eu-1-patroni", PATRONI, "fra", cluster="eu-1", founder=True, database=layout.cell("eu-1", "fra")),
        spec("eu-1-patroni.par", PATRONI, "par", cluster="eu-1", database=home),
        spec("eu-1-storage.par", str(Role.STORAGE), "par"),
        spec("eu-1-gateway.par", str(Role.GATEWAY), "par"),
        spec("router-fra", str(Role.ROUTER), "fra"),
    ]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    found = Layout(tmp_path / "s")
    found.prepare()
    yield found
    rehearsal.clear(found)


def arranged(layout: Layout) -> tuple[Rehearsal, dict[str, ProcessSpec], list[str]]:
    told: list[str] = []
    found = rehearsal.arrange(layout, MANIFEST, specs(layout), lambda part, what: told.append(f"{part}: {what}"))
    record = Rehearsal.read(layout)
    assert record is not None
    return record, {each.name: each for each in found}, told


def test_what_is_arranged_is_for_one_node_is_told_and_is_removed(layout: Layout) -> None:
    record, found, told = arranged(layout)
    assert (record.cell, record.zone) == ("eu-1", "par")
    assert set(record.missing) == {name for name in ("disk", "clock", "groups") if getattr(record, name) is None}
    assert told == [f"rehearsal: no {what}: {why}" for what, why in record.missing.items()]
    clocked = {name for name, each in found.items() if "FAKETIME_TIMESTAMP_FILE" in each.environment}
    node = {"eu-1-patroni.par", "eu-1-storage.par", "eu-1-gateway.par"}
    assert clocked == (node if record.clock else set())
    groups = {name: each.group.name for name, each in found.items() if each.group}
    if record.groups is not None:
        assert groups == {
            "eu-1-patroni": "eu-1.fra",
            "eu-1-patroni.par": NODE,
            "eu-1-storage.par": NODE,
            "eu-1-gateway.par": REST,
            "router-fra": REST,
        }
    rehearsal.clear(layout)
    assert Rehearsal.read(layout) is None
    assert not (layout.cell("eu-1", "par") / "storage" / "disk").exists()
    assert record.groups is None or not record.groups.exists()
    rehearsal.clear(layout)


def test_a_world_without_a_standby_has_nothing_to_rehearse_with(layout: Layout) -> None:
    with pytest.raises(InvalidInput, match="no cell has a standby"):
        rehearsal.arrange(layout, MANIFEST, [each for each in specs(layout) if each.founder], lambda *_: None)
    layout.rehearsal.write_text("{}")
    with pytest.raises(InvalidInput, match="is no record of a rehearsal"):
        rehearsal.clear(layout)
    layout.rehearsal.unlink()


def test_a_node_that_has_data_keeps_its_own_disk(layout: Layout) -> None:
    data = layout.cell("eu-1", "par") / "storage" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    record, _, _ = arranged(layout)
    assert record.disk is None
    assert (data / "PG_VERSION").exists()
    rehearsal.clear(layout)
    assert (data / "PG_VERSION").exists()


@pytest.mark.skipif(not ROOT, reason="a disk of its own needs root")
def test_a_full_disk_takes_no_byte_more_until_it_is_emptied(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "DISK_MIB", 8)
    record, _, _ = arranged(layout)
    if record.disk is None:
        pytest.skip(record.missing["disk"])
    data = record.disk.with_name("data")
    assert data.resolve() == record.disk
    (data / "before").write_bytes(bytes(100_000))
    fill(record.disk)
    with pytest.raises(OSError, match="No space left"), (data / "more").open("wb", buffering=0) as stream:
        stream.write(b"x")
    assert (data / "before").stat().st_size == 100_000
    empty(record.disk)
    empty(record.disk)
    (data / "more").write_bytes(b"x")
    assert not (record.disk / FILLER).exists()


def test_only_a_disk_of_its_own_is_filled(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no file system of its own"):
        fill(tmp_path)
    assert list(tmp_path.iterdir()) == []


CLOCK = "import sys, time\nfor _ in sys.stdin: time.sleep(0.01); print(time.time(), time.monotonic(), flush=True)"


def test_a_clock_jumps_and_what_is_measured_by_does_not(layout: Layout) -> None:
    record, found, _ = arranged(layout)
    if record.clock is None:
        pytest.skip(record.missing["clock"])
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", CLOCK],
        env=os.environ | found["eu-1-gateway.par"].environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ahead() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wall, monotonic = map(float, process.stdout.readline().split())
        assert abs(monotonic - time.monotonic()) < 30
        return wall - time.time()

    try:
        assert abs(ahead()) < 30
        record.clock.write_text("+3600\n")
        wait_for(lambda: 3570 < ahead() < 3630, "the jump", 20)
        record.clock.write_text(rehearsal.STEADY)
        wait_for(lambda: abs(ahead()) < 30, "the way back", 20)
    finally:
        process.kill()
        process.communicate()


# -- the packet filter -------------------------------------------------------------------------------------------

ECHO = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def answer(connection):
    while data := connection.recv(100):
        connection.sendall(data)
while True:
    threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()
"""
ASK = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
connection.settimeout(1)
print("connected", flush=True)
for line in sys.stdin:
    try:
        connection.sendall(b"x")
        print("yes" if connection.recv(100) else "end", flush=True)
    except OSError:
        print("no", flush=True)
"""


@contextmanager
def running(group: Path | None, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        rehearsal.within(group, [sys.executable, "-u", "-c", *command]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_node_that_is_cut_off_is_cut_off_in_both_directions_and_within_it_is_not(layout: Layout) -> None:
    record, _, _ = arranged(layout)
    if record.groups is None:
        pytest.skip(record.missing["groups"])
    node, rest, inside, outside = record.groups / NODE, record.groups / REST, free_port(), free_port()
    with (
        running(node, ECHO, str(inside)),
        running(rest, ECHO, str(outside)),
    ):
        wait_for(lambda: connects(inside) and connects(outside), "two servers", 20)
        with (
            running(node, ASK, str(inside)) as within,
            running(node, ASK, str(outside)) as outwards,
            running(rest, ASK, str(inside)) as inwards,
            running(rest, ASK, str(outside)) as elsewhere,
        ):
            asked = (within, outwards, inwards, elsewhere)
            for process in asked:
                assert process.stdout is not None
                assert process.stdout.readline() == "connected\n"
            assert [answers(each) for each in asked] == ["yes"] * 4
            try:
                cut(record.groups, [NODE])
            except Unavailable as error:
                pytest.skip(str(error))
            try:
                assert [answers(each) for each in asked] == ["yes", "no", "no", "yes"]
                assert (connects(inside), connects(outside)) == (False, True), "of who is in no group"
                with running(node, ASK, str(inside)) as fresh:
                    assert fresh.stdout is not None
                    assert fresh.stdout.readline() == "connected\n"
            finally:
                mend(record.groups)
                mend(record.groups)
            assert connects(inside)


def test_each_of_several_nodes_is_alone() -> None:
    text = rules(GROUPS / "unified" / "domicile-ab", ["eu-1.par", "eu-2.fra"])
    assert text.startswith("table inet domicile_ab {")
    assert text.count("meta mark set") == 2
    assert text.count("drop") == 4
    assert 'socket cgroupv2 level 2 != "unified/domicile-ab/eu-2.fra" drop' in text


# -- slowness ------------------------------------------------------------------------------------------------------


async def test_what_is_slow_stands_still_by_turns_and_goes_on_when_it_is_over() -> None:
    with running(None, "import time\nwhile True: time.sleep(1)") as process:
        target = psutil.Process(process.pid)
        fault, slowness = Fault(kind=FaultKind.SLOW, parts=("a",)), Slowness()
        slowness.begin(fault, lambda: [target])
        seen: set[str] = set()
        async with asyncio.timeout(20):
            while not {psutil.STATUS_STOPPED, psutil.STATUS_SLEEPING} <= seen:
                seen.add(target.status())
                await asyncio.sleep(0.01)
        await slowness.end(fault)
        await slowness.end(fault)
        target.resume()
        assert target.status() != psutil.STATUS_STOPPED


async def test_what_ends_while_it_is_slow_is_no_matter() -> None:
    with running(None, "import time\nwhile True: time.sleep(1)") as process:
        target = psutil.Process(process.pid)
        fault, slowness = Fault(kind=FaultKind.SLOW, parts=("a",)), Slowness()
        turns = 0

        def processes() -> list[psutil.Process]:
            nonlocal turns
            turns += 1
            return [target]

        slowness.begin(fault, processes)
        process.send_signal(signal.SIGKILL)
        process.wait()
        async with asyncio.timeout(20):
            while turns < 3:  # noqa: ASYNC110 - what is waited for is the turns themselves
                await asyncio.sleep(0.01)
        await slowness.end(fault)


def test_a_process_starts_in_its_group_or_not_at_all(tmp_path: Path) -> None:
    away = tmp_path / "gone"
    done = subprocess.run(
        rehearsal.within(away, [sys.executable, "-c", "print('ran')"]), capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0, done.stdout) == (True, "")
    (away).mkdir()
    (away / "cgroup.procs").touch()
    done = subprocess.run(
        rehearsal.within(away, [sys.executable, "-c", "import os; print(os.getpid())"]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (away / "cgroup.procs").read_text() == done.stdout
    assert replace(spec("a", "app", "fra"), group=None).group is None
