"""The end of a world from outside: its supervisor told to stop it, or what a dead supervisor left ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Final

import psutil

from domicile.model.errors import Unavailable
from domicile.ops import postgres, rehearsal
from domicile.ops.layout import Layout
from domicile.ops.record import ProcessRecord, WorldRecord, try_lock

STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05


def end_processes(records: Sequence[ProcessRecord], *, seconds: float = STOP_SECONDS) -> list[str]:
    """End what a dead supervisor left; the names of what was still alive."""
    alive = [(record, process) for record in records if (process := record.process()) is not None]
    for record, process in alive:
        try:
            process.send_signal(signal.SIGINT if record.role == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, stubborn = psutil.wait_procs([process for _, process in alive], timeout=seconds)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return [record.name for record, _ in alive]


def stop_world(layout: Layout, *, seconds: float = 60.0) -> tuple[bool, list[str]]:
    """Stop the world of a folder: (whether one was running, leftovers that had to be ended).

    Raises Unavailable where the supervisor does not give up its lock in time.
    """
    if not layout.marker.exists():
        return False, []
    record = WorldRecord.read(layout)
    lock = try_lock(layout.lock)
    running = lock is None
    deadline = time.monotonic() + seconds
    supervisor = record.supervisor.process() if running and record is not None else None
    if supervisor is not None:
        supervisor.send_signal(signal.SIGTERM)
    while lock is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the supervisor did not stop within {seconds:.0f} s", where=str(layout.root))
        time.sleep(_POLL_SECONDS)
        lock = try_lock(layout.lock)
    try:
        if supervisor is not None:
            psutil.wait_procs([supervisor], timeout=5)
        left = end_processes(record.processes) if record is not None else []
        left += postgres.end_orphans(layout.root)
        rehearsal.clear(layout)
        layout.record.unlink(missing_ok=True)
    finally:
        lock.close()
    return running, left
