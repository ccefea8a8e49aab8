"""HAProxy's runtime socket, as far as its maps are kept over it (HAProxy Management Guide, 9.3)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable

SECONDS: Final = 10.0
MAX_COMMAND_BYTES: Final = 12_000
"""A command has to fit into one of HAProxy's buffers (16 KiB unless told otherwise)."""
_VERSION: Final = re.compile(r"New version created: (\d+)")
_VALUE: Final = re.compile(r'value="([^"]*)"')
Entry = tuple[str, str]


class Runtime:
    """One HAProxy. Every method raises Unavailable where it can't be reached, or refuses."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def say(self, command: str) -> str:
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    writer.write(command.encode() + b"\n")
                    await writer.drain()
                    return (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            what = f"HAProxy does not answer at its socket ({type(error).__name__})"
            raise Unavailable(what, where=str(self._socket), remedy="start it, or name its folder") from None

    async def _done(self, command: str) -> None:
        answer = (await self.say(command)).strip()
        if answer:
            raise Unavailable(f"HAProxy refused a change of a map: {answer.splitlines()[0][:100]}")

    async def prepare(self, file: Path) -> str:
        """A new, empty version of a map, which nothing is looked up in before ``commit``."""
        answer = await self.say(f"prepare map {file}")
        if (made := _VERSION.search(answer)) is None:
            raise Unavailable("HAProxy has no such map", where=str(file))
        return made[1]

    async def forget(self, file: Path, version: str) -> None:
        """Give up a version that was not committed, and its memory."""
        await self._done(f"clear map @{version} {file}")

    async def add(self, file: Path, version: str, entries: Iterable[Entry]) -> None:
        for lines in _pieces([f"{key} {value}\n" for key, value in entries]):
            await self._done(f"add map @{version} {file} <<\n{lines}")

    async def commit(self, file: Path, version: str) -> None:
        await self._done(f"commit map @{version} {file}")

    async def change(self, file: Path, entries: Sequence[tuple[str, str | None]]) -> None:
        """One after the other; None takes a key away. For a moment a key that is changed has no entry."""
        commands = []
        for key, value in entries:
            commands.append(f"del map {file} {key};" + ("" if value is None else f"add map {file} {key} {value};"))
        for piece in _pieces(commands):
            refused = [
                line for line in (await self.say(piece)).splitlines() if line.strip() and "not found" not in line
            ]
            if refused:
                raise Unavailable(f"HAProxy refused a change of a map: {refused[0][:100]}")

    async def get(self, file: Path, key: str) -> str | None:
        found = _VALUE.search(await self.say(f"get map {file} {key}"))
        return None if found is None else found[1]

    async def clear(self, file: Path) -> None:
        await self._done(f"clear map {file}")


def _pieces(parts: Iterable[str]) -> Iterable[str]:
    held: list[str] = []
    size = 0
    for part in parts:
        if held and size + len(part) > MAX_COMMAND_BYTES:
            yield "".join(held)
            held, size = [], 0
        held.append(part)
        size += len(part)
    if held:
        yield "".join(held)
