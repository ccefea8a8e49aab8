"""As many requests of known users as wrk gets answered, one at a time on each of its connections."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from domicile.ops.postgres import launched
from loadtests.cases import Unmeasured
from loadtests.processes import LOADED_FROM, on_core
from loadtests.programs import wrk

CONNECTIONS: Final = 32
SCRIPT: Final = Path(__file__).with_name("load.lua")


def wrk_answers(users: Path, url: str, seconds: int, *, first: int | None = None) -> int:
    """Requests answered within ``seconds``, by the users in a file as ``load.lua`` reads it.

    They take turns from the ``first`` on, else from any. Raises Unmeasured unless all were answered well.
    """
    parts = urlsplit(url)
    place = random.randrange(1 << 20) if first is None else first
    command = [wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT), url, "--"]
    arguments = [str(users), parts.netloc, parts.path, str(place)]
    done = subprocess.run(
        launched(on_core(LOADED_FROM, [*command, *arguments]), ends_with=signal.SIGTERM),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    if done.returncode != 0:
        raise Unmeasured(f"wrk failed: {(done.stderr or done.stdout).strip()[-200:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["refused"] or told["broken"] or not told["requests"]:
        raise Unmeasured(f"of {told['requests']} requests {told['refused']} were refused, {told['broken']} broken")
    return int(told["requests"])
