"""The Patroni of a cluster's node, taught to outlive a full disk; everything else is as Patroni does it.

Three things were seen to keep a node away for good when there was room again, each of which waits here instead:

- Patroni turns its Raft in a thread that ends with the first exception, such as a file that there was no room for; the
  process goes on and never renews its lease again. Its witness (``patroni.raft_controller``) tells such an exception
  and turns on, and so does a node here.
- Raft's journal is mapped into memory: where it grows into room that the disk has not got, the kernel ends the process
  (SIGBUS). So its room is taken before it is used.
- A leader without room for its log ends amid a record. Recovering needs room for more log; where that fails, Patroni
  starts it as a standby all the same, which waits for the rest of the record from a leader that never had it. So a
  node that does not lead recovers when there is room, and Patroni rewinds it then.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from patroni.__main__ import main as patroni
from patroni.dcs.raft import KVStoreTTL
from patroni.ha import Ha
from pysyncobj.journal import createJournal

JOURNAL_BYTES: Final = 8 << 20
"""Patroni writes some 1 kB/s between two compactions, which are 300 s apart: room for two hours without one."""
RECOVERY_BYTES: Final = 3 * (16 << 20)
"""Segments of log that a recovery may begin: the one under way, its last checkpoint's, and one to spare."""
SAY_SECONDS: Final = 60.0


def reserve(journal: Path, size: int = JOURNAL_BYTES) -> None:
    """Room on the disk for the journal, made unless it is there. Raises OSError where there is none."""
    journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    createJournal(str(journal))._destroy()
    if hasattr(os, "posix_fallocate"):
        with journal.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(size, journal.stat().st_size))


def patient(tick: Callable[..., None]) -> Callable[..., None]:
    """A turn of Raft that fails is told, once a minute at most, and is not the last one."""
    said = -SAY_SECONDS

    def turn(self: Any, wait: float = 0.0) -> None:
        nonlocal said
        try:
            tick(self, wait)
        except Exception:  # whatever it was: a node without Raft leads nobody and follows nobody
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                logging.getLogger(__name__).exception("a turn of Raft failed")

    return turn


def in_time(recover: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """A crashed server is recovered when there is room; who holds the lease tries at once, or loses it."""

    def turn(self: Any) -> str | None:
        room = shutil.disk_usage(self.state_handler.data_dir).free
        if room < RECOVERY_BYTES and not self.has_lock():
            self._crash_recovery_started = 0  # what failed for want of room is tried again
            return f"recovers when there is room: {RECOVERY_BYTES >> 20} MiB are needed, {room >> 20} free"
        return recover(self)

    return turn


def main() -> None:
    """The settings' file is the only argument, as of Patroni itself."""
    raft = json.loads(Path(sys.argv[1]).read_bytes()).get("raft")
    if raft is not None:
        try:
            reserve(Path(raft["data_dir"]) / f"{raft['self_addr']}.journal")
        except OSError as error:
            sys.exit(f"no room for the lease in {raft['data_dir']}: {error.strerror}; make some and start it again")
    KVStoreTTL.doTick = patient(KVStoreTTL.doTick)
    Ha._handle_crash_recovery = in_time(Ha._handle_crash_recovery)
    patroni()
