"""What a command asks of a world that runs, over a socket in its state folder.

Only the supervisor can start a part again, because every part ends with who started it. A question is one line of
JSON; the answers are lines too, one for each part as it is done, the last with ``ok``. The folder is its owner's
alone, so whoever reaches the socket could also have ended the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from domicile.model.errors import DomicileError, InvalidInput, Unavailable
from domicile.ops.health import PATRONI
from domicile.ops.layout import Layout
from domicile.ops.output import as_refusal
from domicile.ops.rolling import leads, roll
from domicile.ops.world import World

SOCKET: Final = "control"
_MAX_LINE: Final = 64 * 1024
Tell = Callable[[str, str], None]


@contextlib.contextmanager
def _reachable(layout: Layout) -> Iterator[str]:
    """The socket's path, by its folder's descriptor where the system can: such a path is limited to some 100 bytes."""
    if sys.platform != "linux":
        yield str(layout.root / SOCKET)
        return
    folder = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def controlled(world: World) -> AsyncIterator[None]:
    """Answer commands for as long as this lasts, one at a time."""
    path, turn = world.layout.root / SOCKET, asyncio.Lock()
    path.unlink(missing_ok=True)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(document: dict[str, Any]) -> None:
            writer.write(json.dumps(document).encode() + b"\n")

        def tell(part: str, what: str) -> None:
            """Nobody who went away begins another part: what is under way is finished, the rest is left as it is."""
            if reader.at_eof():
                raise Unavailable("who asked has gone", where=part)
            say({"part": part, "what": what})

        try:
            question = json.loads(await reader.readline())
            async with turn:
                await _answer(world, question, tell)
            say({"ok": True})
        except Exception as error:  # whatever went wrong, the world goes on and the asker hears it
            say({"ok": False, "error": str(as_refusal(error))})
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    with _reachable(world.layout) as address:
        server = await asyncio.start_unix_server(accept, address, limit=_MAX_LINE)
    path.chmod(0o600)
    try:
        async with server:
            yield
    finally:
        path.unlink(missing_ok=True)


async def _answer(world: World, question: dict[str, Any], tell: Tell) -> None:
    if question.get("rolling"):
        await roll(world, tell)
        return
    names = question.get("parts", [])
    if unknown := [name for name in names if name not in world.specs]:
        raise InvalidInput(f"no part {unknown[0]}", where="restart", remedy="`domicile status` names them")
    for name in names:
        spec = world.specs[name]
        if spec.cluster and spec.role == PATRONI and leads(await world.nodes(spec.cluster), spec.zone):
            tell(name, f"leads {spec.cluster}, which takes no writes until another does (--rolling hands over first)")
        tell(name, f"ready after {await world.restart_part(name):.1f} s")


async def ask(layout: Layout, question: dict[str, Any], tell: Tell) -> None:
    """Ask the folder's world. Raises Unavailable where none runs, or with what it refused."""
    try:
        with _reachable(layout) as address:
            reader, writer = await asyncio.open_unix_connection(address, limit=_MAX_LINE)
    except OSError:
        raise Unavailable("no world runs here", where=str(layout.root), remedy="start one with `domicile up`") from None
    writer.write(json.dumps(question).encode() + b"\n")
    try:
        while line := await reader.readline():
            answer = json.loads(line)
            if "part" in answer:
                tell(answer["part"], answer["what"])
            elif answer["ok"]:
                return
            else:
                raise DomicileError(answer["error"])
    finally:
        writer.close()
    raise Unavailable("the world ended meanwhile", where=str(layout.root))
