"""PostgreSQL's own programs as children that end with us, and what they say as errors of ours."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable
from domicile.ops import postgres

QUERY_SECONDS: Final = 30.0
BUFFER_BYTES: Final = 1 << 20


def command(program: str, *arguments: str) -> list[str]:
    return postgres.launched([str(postgres.binary(program)), *arguments], ends_with=signal.SIGTERM)


@asynccontextmanager
async def started(
    words: Sequence[str], *, stdout: int | None = asyncio.subprocess.PIPE, stderr: int | None = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child with no standard input; it has ended when the context is left."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        limit=BUFFER_BYTES,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            await stream.read()  # what it wrote last: until then its pipes are open


async def run(words: Sequence[str], what: str, *, seconds: float = QUERY_SECONDS) -> str:
    """What it writes to standard output. Raises Unavailable with its last words where it fails or is too slow."""
    async with started(words) as process:
        try:
            async with asyncio.timeout(seconds):
                out, said = await process.communicate()
        except TimeoutError:
            raise Unavailable(f"{what}: not within {seconds:.0f} s") from None
    if process.returncode != 0:
        raise failed(what, said)
    return out.decode()


def failed(what: str, said: bytes) -> Unavailable:
    """Of a program of PostgreSQL's: its messages name files, roles and positions, never a row."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return Unavailable(f"{what} failed: {lines[-1] if lines else 'without a word'}")


async def query(socket: Path, sql: str, *, user: str = postgres.BACKUP_USER) -> list[list[str]]:
    """Rows of unaligned text, by psql. Raises Unavailable."""
    words = command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(socket), "-U", user, "-d", postgres.DATABASE)
    out = await run([*words, "-c", sql], "asking the database")
    return [line.split("|") for line in out.splitlines()]
