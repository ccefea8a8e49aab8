"""A world for the load: one that runs already, or one of its own, in a private folder, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable
from domicile.ops.layout import Layout
from domicile.ops.postgres import launched
from domicile.ops.record import WorldRecord

COMMAND: Final = [sys.executable, "-m", "domicile.ops.main"]
_START_SECONDS: Final = 300.0
_STOP_SECONDS: Final = 90.0
_LOG_LINES: Final = 15


def clean_environment() -> dict[str, str]:
    """Without what a caller set for a world of his own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}


def running(folder: Path) -> Layout:
    """The world that runs in ``folder``. Raises Unavailable."""
    layout = Layout.at(folder)
    record = WorldRecord.read(layout)
    if record is None or record.phase != "running" or record.supervisor.process() is None:
        raise Unavailable("no world runs here", where=str(layout.root), remedy=f"domicile up --state {folder} --detach")
    return layout


@contextmanager
def own_world(*, ha: bool, logs: Path) -> Iterator[Layout]:
    """Ready inside the context; stopped and erased on leaving it, however that happens. Raises Unavailable."""
    folder = Path(tempfile.mkdtemp(prefix="domicile-load-"))
    layout = Layout.at(folder / "world")
    command = [*COMMAND, "up", "--state", str(layout.root), *(["--ha"] if ha else [])]
    try:
        with logs.open("w") as log:
            process = subprocess.Popen(
                launched(command, ends_with=signal.SIGTERM), env=clean_environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,  # Ctrl-C is for us, who stop it in order
            )  # fmt: skip
        try:
            _until_running(layout, process, logs)
            yield layout
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until_running(layout: Layout, process: subprocess.Popen[bytes], logs: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = "\n".join(logs.read_text().splitlines()[-_LOG_LINES:])
            raise Unavailable(f"the world did not start:\n{tail}", where="domicile up", remedy=f"see {logs}")
        record = WorldRecord.read(layout)
        if record is not None and record.phase == "running":
            return
        time.sleep(0.2)
    raise Unavailable(f"the world was not ready in {_START_SECONDS:g} s", where="domicile up", remedy=f"see {logs}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
        return
    process.kill()  # its processes end with it
    process.wait()
