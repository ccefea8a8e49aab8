"""What a command asks of a world that runs, over a socket in its state folder.

Only the supervisor can start a part again, because every part ends with who started it. A question is one line of
JSON; the answers are lines too, one for each part as it is done, the last with ``ok``. Another line, or the end of who
asks, stops it where everything is whole. The folder is its owner's alone, so whoever reaches the socket could also have
ended the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from domicile.model.errors import InvalidInput, Unavailable
from domicile.ops.health import PATRONI
from domicile.ops.layout import Layout
from domicile.ops.output import as_refusal
from domicile.ops.rolling import Round, Stopped, leads, roll, steps_of
from domicile.ops.world import World
from domicile.service import ended

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
    """Answer commands for as long as this lasts, one at a time; one that is under way at its end is given up."""
    path, turn = world.layout.root / SOCKET, asyncio.Lock()
    path.unlink(missing_ok=True)
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_answer(world, turn, reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    with _reachable(world.layout) as address:
        server = await asyncio.start_unix_server(accept, address, limit=_MAX_LINE)
    path.chmod(0o600)
    try:
        async with server:
            try:
                yield
            finally:
                await ended(*answering)
    finally:
        path.unlink(missing_ok=True)


async def _answer(world: World, turn: asyncio.Lock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    steps = Round([])

    def say(document: dict[str, Any]) -> None:
        if not reader.at_eof():
            writer.write(json.dumps(document).encode() + b"\n")

    async def told_to_stop() -> None:
        """By a second line, or by the end of who asked."""
        with contextlib.suppress(OSError, ValueError):
            if await reader.readline() and steps.under_way:
                say({"part": steps.under_way, "what": "is brought to its end first"})
        steps.stop.set()

    async def answered() -> dict[str, Any]:
        try:
            question = json.loads(await reader.readline())
            listening = asyncio.create_task(told_to_stop())
            try:
                async with _in_turn(turn, steps.stop):
                    await _restart(world, question, steps, lambda part, what: say({"part": part, "what": what}))
            finally:
                await ended(listening)
        except Stopped:
            return {"ok": False, "left": steps.left}
        except Exception as error:  # whatever went wrong, the world goes on and the asker hears it
            return {"ok": False, "error": str(as_refusal(error)), "left": steps.left}
        return {"ok": True}

    try:
        say(await answered())
    finally:
        writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def _in_turn(turn: asyncio.Lock, stop: asyncio.Event) -> AsyncIterator[None]:
    """Alone. Raises Stopped where somebody says so before."""
    own, stopping = asyncio.create_task(turn.acquire()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({own, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not own.done():
            raise Stopped
        yield
    finally:
        await ended(own, stopping)
        if not own.cancelled():
            turn.release()


async def _restart(world: World, question: dict[str, Any], steps: Round, tell: Tell) -> None:
    names = question.get("parts", [])
    if question.get("rolling"):
        steps.left = steps_of(world.specs.values(), names)
        await roll(world, steps, tell)
        return
    if unknown := [name for name in names if name not in world.specs]:
        raise InvalidInput(f"no part {unknown[0]}", where="restart", remedy="`domicile status` names them")
    steps.left = list(names)
    for name in names:
        spec = world.specs[name]
        steps.begin(name)
        if spec.cluster and spec.role == PATRONI and leads(await world.nodes(spec.cluster), spec.zone):
            tell(name, f"leads {spec.cluster}, which takes no writes until another does (--rolling hands over first)")
        tell(name, f"ready after {await world.restart_part(name):.1f} s")
        steps.done()


@dataclass(frozen=True)
class Outcome:
    """``left``: what was not restarted; ``error``: why, or empty where somebody had it stopped."""

    left: list[str]
    error: str = ""


async def ask(layout: Layout, question: dict[str, Any], tell: Tell, stop: asyncio.Event | None = None) -> Outcome:
    """Ask the folder's world; once ``stop`` is set, to begin nothing more. Raises Unavailable where none runs."""
    stop = stop or asyncio.Event()
    try:
        with _reachable(layout) as address:
            reader, writer = await asyncio.open_unix_connection(address, limit=_MAX_LINE)
    except OSError:
        raise Unavailable("no world runs here", where=str(layout.root), remedy="start one with `domicile up`") from None

    async def pass_on() -> None:
        await stop.wait()
        writer.write(json.dumps({"stop": True}).encode() + b"\n")

    writer.write(json.dumps(question).encode() + b"\n")
    passing = asyncio.create_task(pass_on())
    try:
        while line := await reader.readline():
            answer = json.loads(line)
            if "part" not in answer:
                return Outcome(answer.get("left", []), answer.get("error", ""))
            tell(answer["part"], answer["what"])
    finally:
        await ended(passing)
        writer.close()
    raise Unavailable("the world ended meanwhile", where=str(layout.root))
