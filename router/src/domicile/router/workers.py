"""Several processes that share the listeners (``SO_REUSEPORT``): each is a whole router, over one state folder.

One of them follows the directory, as ``domicile.router.follow`` elects it; all read the replica. A worker that dies is
started again, after a second and then after longer, and the others serve meanwhile; one that doesn't start the first
time ends the router. A worker knows by its standard input that its parent has gone, and ends too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from domicile.identity import Keyring
from domicile.model import Unavailable
from domicile.router.counts import Counts, begin_anew
from domicile.router.serve import serve
from domicile.router.settings import RouterSettings
from domicile.telemetry import log, warn

COMMAND: Final = (sys.executable, "-m", "domicile.router", "worker")
FIRST_WAIT_SECONDS: Final = 1.0
LAST_WAIT_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A worker that served for so long is started again as if it had died for the first time."""
END_SECONDS: Final = 5.0
"""Beyond the drain, until what is left is killed."""
_READY: Final = b"ready\n"


@asynccontextmanager
async def worker(settings: RouterSettings, number: int) -> AsyncIterator[None]:
    """One worker, inside the process that was started as one. ``number``: its place among them."""
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: os.kill(os.getpid(), signal.SIGTERM))  # its end is all that comes
    try:
        async with serve(settings, Counts(settings.state / "counts", number)):
            sys.stdout.buffer.write(_READY)
            sys.stdout.buffer.flush()
            yield
    finally:
        loop.remove_reader(sys.stdin.fileno())


@asynccontextmanager
async def workers(settings: RouterSettings) -> AsyncIterator[None]:
    """All of them: ready inside the context; on leaving it they drain. Raises Unavailable where one doesn't start."""
    Keyring(settings.state / "token.key", "residency")  # one for all: each would make its own
    begin_anew(settings.state / "counts")
    running: list[Process] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        running += await asyncio.gather(*(_started(number) for number in range(settings.workers)))
        for process in running:
            if not await _ready(process):
                raise Unavailable("a worker did not start", remedy="its own refusal stands above")
        tasks += [asyncio.create_task(_kept(running, number)) for number in range(settings.workers)]
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _end(running, settings.drain_seconds + END_SECONDS)


async def _started(number: int) -> Process:
    return await asyncio.create_subprocess_exec(*COMMAND, str(number), stdin=PIPE, stdout=PIPE)


async def _ready(process: Process) -> bool:
    """False where it ends before."""
    assert process.stdout is not None
    return await process.stdout.readline() == _READY


async def _kept(running: list[Process], number: int) -> None:
    """Start a worker again whenever it ends."""
    loop = asyncio.get_running_loop()
    wait = FIRST_WAIT_SECONDS
    while True:
        began = loop.time()
        code = await running[number].wait()
        if loop.time() - began > STEADY_SECONDS:
            wait = FIRST_WAIT_SECONDS
        warn("worker-ended", status=code)
        await asyncio.sleep(wait)
        wait = min(wait * 2, LAST_WAIT_SECONDS)
        running[number] = await _started(number)
        if await _ready(running[number]):
            log("worker-started")


async def _end(running: list[Process], seconds: float) -> None:
    for process in running:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(process.wait() for process in running))
    except TimeoutError:
        for process in running:
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in running))
