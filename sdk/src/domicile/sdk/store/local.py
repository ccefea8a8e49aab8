"""A server on this machine by its own socket, as tests reach it: no TLS, and nothing that production could be told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from domicile.model.ids import SubjectKey
from domicile.sdk.store.fences import Fence
from domicile.sdk.store.pool import DATABASE, session_options


@asynccontextmanager
async def superuser(folder: Path) -> AsyncIterator[asyncpg.Connection]:
    """``folder`` holds the server's socket."""
    connection = await asyncpg.connect(host=str(folder), user="postgres", database=DATABASE)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def application(folder: Path, *, pooler: bool = False, user: str = "domicile_app") -> AsyncIterator[asyncpg.Pool]:
    """A pool as ``user``. ``pooler``: whether the socket is a PgBouncer's."""
    options: dict[str, Any] = session_options(pooler=pooler)
    pool = await asyncpg.create_pool(host=str(folder), user=user, database=DATABASE, min_size=0, **options)
    try:
        yield pool
    finally:
        pool.terminate()


async def open_fence(root: asyncpg.Connection, key: SubjectKey) -> Fence:
    """Open a new subject's fence without a grant, which only a superuser can."""
    found = await root.fetchval(
        "INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 1, 'open') RETURNING internal_id", key
    )
    return Fence(key, UUID(int=found.int), 1, "open")
