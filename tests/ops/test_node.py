"""What a node's Patroni was taught: its part of the lease, and its server, outlive a disk without room."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from pysyncobj.journal import createJournal

from domicile.ops.node import RECOVERY_BYTES, in_time, patient, reserve


def test_a_journal_has_its_room_before_it_is_used_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "raft" / "127.10.1.13:1.journal"
    reserve(path, 1 << 20)
    assert path.stat().st_blocks * 512 >= 1 << 20, "taken, not promised"
    journal = createJournal(str(path))
    for number in range(3):
        journal.add(b"an entry", number, 1)
    journal._destroy()
    reserve(path, 2 << 20)
    journal = createJournal(str(path))
    assert [journal[n] for n in range(len(journal))] == [(b"an entry", number, 1) for number in range(3)]
    journal._destroy()
    assert path.stat().st_blocks * 512 >= 2 << 20


def test_a_turn_of_raft_that_fails_is_not_the_last_one_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[float] = []

    def tick(self: Any, wait: float) -> None:
        turns.append(wait)
        raise OSError(28, "No space left on device")

    turn = patient(tick)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            turn(object(), 0.05)
    assert turns == [0.05] * 5
    assert [record.message for record in caplog.records] == ["a turn of Raft failed"]


class Node:
    """As much of Patroni's node as is asked."""

    def __init__(self, folder: Path, *, leads: bool) -> None:
        self.state_handler = self
        self.data_dir = str(folder)
        self._leads = leads
        self._crash_recovery_started = 1.0

    def has_lock(self) -> bool:
        return self._leads


@pytest.mark.parametrize(
    ("free", "leads", "recovers"),
    [(RECOVERY_BYTES - 1, False, False), (RECOVERY_BYTES - 1, True, True), (RECOVERY_BYTES, False, True)],
)
def test_a_crashed_server_is_recovered_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, leads: bool, recovers: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free * 2, free, free))
    node = Node(tmp_path, leads=leads)
    said = in_time(lambda self: "doing crash recovery")(node)
    assert said is not None
    assert said.startswith("doing" if recovers else "recovers when there is room: 48 MiB are needed, 47 free")
    assert node._crash_recovery_started == (1.0 if recovers else 0), "what failed for want of room is tried again"
