"""``world.json``: what runs, readable by anybody, believed by nobody.

A process is taken for ours only when its pid *and* its start time agree; whether a world runs at all is
told by a lock that the kernel releases with its holder, never by this file.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domicile.ops.layout import Layout


class ProcessRecord(BaseModel):
    """One started process; ``started``: its start time in seconds since 1970; ``restarts``: how often it was started
    again since the world was."""

    model_config = ConfigDict(extra="ignore")

    name: str
    role: str
    jurisdiction: str
    zone: str
    address: str
    pid: int = Field(gt=0)
    started: float
    health: bool
    restarts: int = 0

    def process(self) -> psutil.Process | None:
        """The living process, or None where it ended (or its pid is somebody else's by now)."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if alive and abs(process.create_time() - self.started) < 1.0 else None
        except psutil.Error:
            return None


class WorldRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")

    deployment: str
    phase: str
    supervisor: ProcessRecord
    processes: list[ProcessRecord]

    def write(self, layout: Layout) -> None:
        temporary = layout.record.with_suffix(".new")
        temporary.write_text(json.dumps(self.model_dump(), indent=1) + "\n")
        temporary.replace(layout.record)

    @classmethod
    def read(cls, layout: Layout) -> WorldRecord | None:
        """What the file says; None where there is none, or where it is no such file."""
        try:
            return cls.model_validate_json(layout.record.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None


def own_record() -> ProcessRecord:
    process = psutil.Process()
    return ProcessRecord(
        name="supervisor",
        role="supervisor",
        jurisdiction="global",
        zone="",
        address="",
        pid=process.pid,
        started=process.create_time(),
        health=False,
    )


def try_lock(path: Path) -> IO[bytes] | None:
    """Take the world's lock; None where a running supervisor holds it. It ends with the process."""
    stream = path.open("ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    os.set_inheritable(stream.fileno(), False)
    return stream
