"""The directory, as seen by everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from domicile.client.http import Peer
from domicile.identity import Credentials
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput, Unavailable, UnknownSubject
from domicile.model.ids import AliasKey, SubjectKey
from domicile.model.pins import Pin, Position
from domicile.model.snapshot import SnapshotReader
from domicile.model.wire import (
    JWKS,
    UNKNOWN_SECONDS,
    AliasDocument,
    AliasRequest,
    ClaimRequest,
    FencesReport,
    GrantRequest,
    GrantResponse,
    PeppersDocument,
    ReconciliationDocument,
    RekeyRequest,
    ReplicasDocument,
    ResolveRequest,
    ResolveResponse,
    SigningKey,
    TopologyDocument,
)

DEADLINE_SECONDS: Final = 3.0
IDLE_SECONDS: Final = 5.0
"""Without a byte of a stream, whose heartbeats come every second."""
MAX_LOOK_UPS: Final = 32
MAX_WAITING: Final = 1_000
"""Look-ups of different subjects under way, and waiting to be: more would be answered too late to be of use."""
MAX_FRESH: Final = 8
"""Of them under way for subjects who are known here: those never wait behind a storm of strangers."""
MAX_UNKNOWN: Final = 10_000
MAX_EVENT_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Change:
    """What the change stream says: a ``pin`` and its position, a heartbeat (no pin), or to load the map ``anew``."""

    position: Position
    pin: Pin | None = None
    anew: bool = False


class _Lane:
    """Look-ups that stand in one line: of one subject they share one request, and so many are under way at once."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.limit = places + MAX_WAITING
        self.flights: dict[SubjectKey, asyncio.Task[Pin]] = {}

    def landed(self, key: SubjectKey, flight: asyncio.Task[Pin]) -> None:
        del self.flights[key]
        if not flight.cancelled():
            flight.exception()  # taken note of, also where every caller has gone


class DirectoryClient:
    """Typed calls. Each raises Unavailable where the directory can't be reached, UnknownSubject for no pin.

    Look-ups of one subject that are under way at once share one request, and "no such subject" is remembered
    for ``UNKNOWN_SECONDS``, or until ``forget_unknown``. ``deadline``, in seconds, bounds a call, and how long a
    look-up stands in line before it. ``clock``: monotonic seconds.
    """

    def __init__(
        self,
        credentials: Credentials,
        addresses: Sequence[str],
        *,
        deadline: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=GLOBAL, role=Role.DIRECTORY, deadline=deadline)
        self._deadline = deadline
        self._lanes = {False: _Lane(MAX_LOOK_UPS), True: _Lane(MAX_FRESH)}
        self._unknown: dict[SubjectKey, float] = {}
        self._clock = clock

    async def close(self) -> None:
        for lane in self._lanes.values():
            for flight in list(lane.flights.values()):
                flight.cancel()
        await self._peer.close()

    async def pin(self, key: SubjectKey, *, fresh: bool = False) -> Pin:
        """``fresh``: ask, whatever is remembered, about somebody known here. Raises Unavailable where too many wait."""
        if not fresh and (until := self._unknown.get(key)) is not None:
            if self._clock() < until:
                raise UnknownSubject("the subject has no pin")
            del self._unknown[key]
        lane = self._lanes[fresh]
        flight = lane.flights.get(key)
        if flight is None:
            if len(lane.flights) >= lane.limit:
                raise _crowded()
            flight = asyncio.create_task(self._look_up(key, lane.places))
            lane.flights[key] = flight
            flight.add_done_callback(lambda done: lane.landed(key, done))
        return await asyncio.shield(flight)

    async def _look_up(self, key: SubjectKey, places: asyncio.Semaphore) -> Pin:
        try:
            async with asyncio.timeout(self._deadline):
                await places.acquire()
        except TimeoutError:
            raise _crowded() from None
        try:
            pin = await self._peer.ask(Pin, "GET", f"/v1/pins/{key}")
        except UnknownSubject:
            self._unknown.pop(key, None)
            while len(self._unknown) >= MAX_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]  # the oldest: entries expire in this order
            self._unknown[key] = self._clock() + UNKNOWN_SECONDS
            raise
        finally:
            places.release()
        self._unknown.pop(key, None)
        return pin

    def forget_unknown(self, key: SubjectKey) -> None:
        """The subject may have a pin by now."""
        self._unknown.pop(key, None)

    @asynccontextmanager
    async def snapshot(self, after: bytes = b"") -> AsyncIterator[SnapshotReader]:
        """Every pin, or those that follow a key. Raises Unavailable where the stream breaks off."""
        query = f"?after={after.hex()}" if after else ""
        async with self._peer.stream(f"/v1/pins/snapshot{query}", idle=IDLE_SECONDS) as stream:
            yield SnapshotReader(stream.readexactly)

    async def follow(self, after: Position) -> AsyncGenerator[list[Change], None]:
        """What changes, from a position on, without end, in batches as they come.

        Raises Unavailable where the stream breaks off.
        """
        async with self._peer.stream(f"/v1/changes?after={after}", idle=IDLE_SECONDS) as stream:
            rest = b""
            async for chunk in stream.iter_any():
                *events, rest = (rest + chunk).split(b"\n\n")
                if len(rest) > MAX_EVENT_BYTES:
                    break
                if events:
                    yield [_change(event) for event in events]
        raise Unavailable("the stream of changes ended", retry_after=1)

    async def resolve(self, keys: Sequence[SubjectKey]) -> ResolveResponse:
        body = ResolveRequest(subject_keys=list(keys))
        return await self._peer.ask(ResolveResponse, "POST", "/v1/pins:resolve", body=body)

    async def claim(self, key: SubjectKey, claim: ClaimRequest) -> Pin:
        """First writer wins, repeating it is harmless; Conflict where it contradicts the pin.

        The pin may be under one of the claim's ``other_keys``.
        """
        for each in (key, *claim.other_keys):
            self.forget_unknown(each)
        return await self._peer.ask(Pin, "PUT", f"/v1/pins/{key}", body=claim)

    async def grant(self, key: SubjectKey, incarnation: UUID) -> str:
        body = GrantRequest(incarnation=incarnation)
        answer = await self._peer.ask(GrantResponse, "POST", f"/v1/pins/{key}/grants", body=body)
        return answer.grant

    async def erase(self, key: SubjectKey, epoch: int) -> Pin:
        """The tombstone of a subject at home in the caller's cell; its aliases are anybody's again.

        Repeating it is harmless. Raises Conflict where the pin is not at ``epoch``.
        """
        return await self._peer.ask(Pin, "DELETE", f"/v1/pins/{key}?epoch={epoch}")

    async def release_aliases(self, key: SubjectKey) -> None:
        """Every alias of a subject at home in the caller's cell is anybody's again; harmless to repeat."""
        await self._peer.call("DELETE", f"/v1/pins/{key}/aliases")

    async def rekey(self, key: SubjectKey, body: RekeyRequest) -> Pin:
        """The pin of a subject at home in the caller's cell, by its key under another pepper; harmless to repeat."""
        return await self._peer.ask(Pin, "POST", f"/v1/pins/{key}/rekey", body=body)

    async def peppers(self) -> PeppersDocument:
        return await self._peer.ask(PeppersDocument, "GET", "/v1/peppers")

    async def announce_pepper(self, version: int) -> None:
        """Harmless to repeat. From its return on, claims that leave this pepper out are refused: Conflict."""
        await self._peer.call("PUT", f"/v1/peppers/{version}")

    async def forget_pepper(self, version: int) -> None:
        """Harmless to repeat. Raises Conflict where the pepper still names somebody."""
        await self._peer.call("DELETE", f"/v1/peppers/{version}")

    async def put_alias(self, kind: str, alias: AliasKey, key: SubjectKey, others: Sequence[AliasKey] = ()) -> None:
        """``others``: the alias's keys by other peppers. Raises Conflict where it belongs to another subject."""
        body = AliasRequest(subject_key=key, other_keys=list(others))
        await self._peer.call("PUT", f"/v1/aliases/{kind}/{alias}", body=body)

    async def alias(self, kind: str, alias: AliasKey) -> SubjectKey:
        """Whose alias it is; raises NotFound."""
        answer = await self._peer.ask(AliasDocument, "GET", f"/v1/aliases/{kind}/{alias}")
        return answer.subject_key

    async def delete_alias(self, kind: str, alias: AliasKey, key: SubjectKey) -> None:
        await self._peer.call("DELETE", f"/v1/aliases/{kind}/{alias}?subject_key={key}")

    async def topology(self) -> TopologyDocument:
        return await self._peer.ask(TopologyDocument, "GET", "/v1/topology")

    async def publish_topology(self, document: TopologyDocument) -> None:
        """Raises Conflict where the revision isn't the next one."""
        await self._peer.call("PUT", "/v1/topology", body=document)

    async def reconciliation(self) -> ReconciliationDocument:
        return await self._peer.ask(ReconciliationDocument, "GET", "/v1/reconciliation")

    async def report_fences(self, report: FencesReport) -> None:
        """Raises Conflict for a page that is not the next one: the cell begins with its first fence."""
        await self._peer.call("POST", "/v1/reconciliation/fences", body=report, repeatable=False)

    async def replicas(self) -> ReplicasDocument:
        """The read replicas of whichever directory process answers."""
        return await self._peer.ask(ReplicasDocument, "GET", "/v1/replicas")

    async def keys(self) -> list[SigningKey]:
        return (await self._peer.ask(JWKS, "GET", "/.well-known/jwks.json")).keys

    async def publish_key(self, key: SigningKey) -> None:
        """Raises Conflict for a key that was retired."""
        await self._peer.call("PUT", f"/v1/signing-keys/{key.kid}", body=key)

    async def retire_key(self, kid: str) -> None:
        """A router's own key leaves the set when its last token has expired."""
        await self._peer.call("DELETE", f"/v1/signing-keys/{kid}")

    async def revoke_key(self, kid: str) -> None:
        """Anybody's key leaves the set at once, as an operator of the trust domain says."""
        await self._peer.call("POST", f"/v1/signing-keys/{kid}/revoke")


def _crowded() -> Unavailable:
    return Unavailable("too many subjects are being looked up", retry_after=1)


def _change(event: bytes) -> Change:
    try:
        fields = dict(line.split(": ", 1) for line in event.decode().split("\n"))
        position = Position.parse(fields["id"])
        kind = fields["event"]
        if kind == "pin":
            return Change(position, Pin.model_validate_json(fields["data"]))
        return Change(position, anew=kind == "anew")
    except (KeyError, ValueError, InvalidInput):
        raise Unavailable("an event of another shape", remedy="compare versions") from None
