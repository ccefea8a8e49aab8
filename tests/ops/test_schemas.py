"""A schema that is not applied in time ends the start with what, where and what to do; nothing is left of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from domicile_testing.databases import until

from domicile.model.errors import Unavailable
from domicile.ops.schemas import SchemaCommand, apply

WAITS = "import os, pathlib, time; pathlib.Path('{pid}').write_text(str(os.getpid())); print('waits', flush=True); "


async def test_a_schema_that_takes_too_long_is_ended_and_says_what_to_do(tmp_path: Path) -> None:
    log, pid = tmp_path / "us-1-schema.log", tmp_path / "pid"
    command = SchemaCommand("us-1", [sys.executable, "-c", WAITS.format(pid=pid) + "time.sleep(600)"], {})
    with pytest.raises(Unavailable) as refused:
        await apply(command, log, dict(os.environ), seconds=0.5)
    said = str(refused.value)
    assert said.startswith("the schema of us-1: took more than 0.5 s and was ended; the end of")
    assert str(log) in said
    assert "pg_locks says by whom; `domicile up` goes on" in said

    async def gone() -> bool:
        return not pid.exists() or not psutil.pid_exists(int(pid.read_text()))

    await until(gone, "the end of the command")


async def test_a_schema_that_is_refused_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "us-1-schema.log"
    command = SchemaCommand("us-1", [sys.executable, "-c", "raise SystemExit('no such module')"], {})
    with pytest.raises(Unavailable, match=r"applying the schema of us-1 failed(.|\n)*no such module"):
        await apply(command, log, dict(os.environ))
