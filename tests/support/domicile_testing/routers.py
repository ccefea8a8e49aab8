"""``domicile-router serve`` as a process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from domicile.router.settings import RouterSettings

COMMAND = [sys.executable, "-c", "from domicile.router.main import app; app()", "serve"]


def environment(settings: RouterSettings) -> dict[str, str]:
    told = settings.model_dump(mode="json", exclude_none=True, exclude={"directory", "storage", "countries"})
    told["directory"] = ",".join(settings.directory)
    return os.environ | {f"DOMICILE_{name.upper()}": str(value) for name, value in told.items()}


@asynccontextmanager
async def running(settings: RouterSettings, prefix: Sequence[str] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yields when both listeners are up. ``prefix``: what the command is started by."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *COMMAND, env=environment(settings), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        left = settings.workers + 1 if settings.workers > 1 else 1  # each says so, and who started them when all have
        async with asyncio.timeout(30):
            while left:
                line = await process.stderr.readline()
                assert line, "ended before it was ready"
                left -= b'"event":"ready"' in line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
