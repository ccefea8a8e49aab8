"""The campaign that names everybody by the keys of the pepper in force: one jurisdiction's, in one's own jurisdiction.

Only who knows the ids can make new keys of them, so the application lists its subjects; the home cell's gateway
renames each, in the cell first, then in the directory. A campaign that was cut off is run again: who is named by the
pepper in force already is left alone, but for the aliases that are given.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, Protocol

from domicile.client import DirectoryClient, GatewayClient
from domicile.identity import Credentials
from domicile.model import DomicileError, InvalidInput, Manifest, Peppers, Pin, PinState, SubjectKey
from domicile.model.ids import MAX_PEPPERS
from domicile.model.wire import MAX_BATCH, AliasRekey, FenceResponse, RekeyRequest, ResolveResponse

BATCH: Final = MAX_BATCH // MAX_PEPPERS
AT_ONCE: Final = 16
MAX_LINE_BYTES: Final = 8192
SHOWN: Final = 5
"""Failures that are told one by one."""


class Outcome(StrEnum):
    """What became of a line."""

    REKEYED = "rekeyed"
    ALREADY = "already"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Subject:
    """A line: the keys of a subject by each pepper, the one in force first, and those of its aliases."""

    line: int
    keys: tuple[SubjectKey, ...]
    aliases: tuple[AliasRekey, ...]


def read(lines: Iterable[bytes], peppers: Peppers) -> Iterator[Subject]:
    """JSON lines, ``{"subject": id, "aliases": {kind: value}}``; the ids end here.

    Raises InvalidInput that names the line, and quotes nothing of it.
    """
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            if len(raw) > MAX_LINE_BYTES:
                raise InvalidInput(f"longer than {MAX_LINE_BYTES} bytes")
            yield _subject(number, raw, peppers)
        except InvalidInput as error:
            raise InvalidInput(error.what, where=f"line {number}", remedy=error.remedy) from None


def _subject(number: int, raw: bytes, peppers: Peppers) -> Subject:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("subject"), str) or line.keys() - {"subject", "aliases"}:
        raise InvalidInput("not a subject", remedy='{"subject": "alice", "aliases": {"email": "a@example.eu"}}')
    aliases = line.get("aliases", {})
    if not isinstance(aliases, dict) or not all(isinstance(value, str) for value in aliases.values()):
        raise InvalidInput("aliases that are not values by kind", remedy='{"email": "a@example.eu"}')
    return Subject(number, peppers.subject_keys(line["subject"]), tuple(_alias_keys(aliases, peppers)))


def _alias_keys(aliases: Mapping[str, str], peppers: Peppers) -> Iterator[AliasRekey]:
    for kind, value in aliases.items():
        successor, *others = peppers.alias_keys(kind, value)
        for other in others:
            yield AliasRekey.model_validate({"kind": kind, "alias_key": other, "successor": successor})


class Gateway(Protocol):
    async def rekey(self, key: SubjectKey, body: RekeyRequest) -> FenceResponse: ...


class Directory(Protocol):
    async def resolve(self, keys: list[SubjectKey]) -> ResolveResponse: ...


class Campaign:
    """``gateways``: of the cells of one's own jurisdiction. ``told`` hears of each failure, by line."""

    def __init__(
        self, directory: Directory, gateways: Mapping[str, Gateway], told: Callable[[int, DomicileError], None]
    ) -> None:
        self._directory = directory
        self._gateways = gateways
        self._told = told
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self, subjects: Iterable[Subject], progress: Callable[[int], None]) -> Counter[Outcome]:
        """What became of how many; raises DomicileError where the directory cannot be asked at all."""
        counts: Counter[Outcome] = Counter()
        following = iter(subjects)
        while batch := list(islice(following, BATCH)):
            found = await self._directory.resolve([key for subject in batch for key in subject.keys])
            pins = {pin.subject_key: pin for pin in found.pins}
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(subject, pins)) for subject in batch]
            counts.update(task.result() for task in tasks)
            progress(counts.total())
        return counts

    async def _one(self, subject: Subject, pins: Mapping[SubjectKey, Pin]) -> Outcome:
        named = [pins[key] for key in subject.keys if key in pins]
        pin = next((pin for pin in named if pin.state is not PinState.ERASED), None)
        if pin is None:
            return Outcome.UNKNOWN
        gateway = self._gateways.get(pin.cell)
        if gateway is None:
            return Outcome.ELSEWHERE
        current = subject.keys[0]
        already = pin.subject_key == current
        if already and not subject.aliases:
            return Outcome.ALREADY
        try:
            async with self._places:
                await gateway.rekey(pin.subject_key, RekeyRequest(successor=current, aliases=list(subject.aliases)))
        except DomicileError as error:
            self._told(subject.line, error)
            return Outcome.FAILED
        return Outcome.ALREADY if already else Outcome.REKEYED


@asynccontextmanager
async def campaign(
    credentials: Credentials,
    directory: DirectoryClient,
    manifest: Manifest,
    told: Callable[[int, DomicileError], None],
) -> AsyncIterator[Campaign]:
    """The campaign of the jurisdiction that the certificate is for."""
    async with AsyncExitStack() as stack:
        gateways = {}
        for cell in manifest.cells_of(credentials.identity.jurisdiction):
            gateways[cell] = GatewayClient(credentials, manifest, cell)
            stack.push_async_callback(gateways[cell].close)
        yield Campaign(directory, gateways, told)
