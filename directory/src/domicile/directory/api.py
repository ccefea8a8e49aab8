"""The directory over HTTP: each route checks what it was given, asks the storage, and answers.

Who may use a route is the matrix's business (``Service.route``); what a certificate alone decides, such as
which gateway may have a grant, is checked here.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from domicile.directory import names, reconciliation
from domicile.directory.allowance import Allowance
from domicile.directory.claims import claim
from domicile.directory.feed import Feed
from domicile.directory.homes import check_active
from domicile.directory.replicas import Replicas
from domicile.directory.routes import PARAMETERS, ROUTES
from domicile.directory.storage import Storage
from domicile.directory.topology import PublishedTopology
from domicile.identity import Keyring, public_key
from domicile.model import (
    ALIAS_KINDS,
    AliasKey,
    Endpoint,
    Forbidden,
    InvalidInput,
    Position,
    SubjectKey,
    Unavailable,
    UnknownSubject,
)
from domicile.model.snapshot import SnapshotWriter
from domicile.model.wire import (
    JWKS,
    UNKNOWN_SECONDS,
    AliasDocument,
    AliasRequest,
    ClaimRequest,
    FencesReport,
    GrantRequest,
    GrantResponse,
    RekeyRequest,
    ResolveRequest,
    SigningKey,
    TopologyDocument,
)
from domicile.service import PEER, Service, json_response, problem_response, read_body
from domicile.telemetry import REFUSALS, log, warn

_EPOCH: Final = re.compile(r"[1-9][0-9]{0,18}")
_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,2}")


def _subject(request: web.Request) -> SubjectKey:
    return SubjectKey.parse(request.match_info["subject_key"])


def _pepper(request: web.Request) -> int:
    version = request.match_info["version"]
    if not _VERSION.fullmatch(version) or int(version) > 255:
        raise InvalidInput("a pepper's version is 0 to 255")
    return int(version)


def _read_alias(request: web.Request) -> tuple[str, AliasKey]:
    kind = request.match_info["kind"]
    if kind not in ALIAS_KINDS:
        raise InvalidInput("unknown kind of alias", remedy=f"one of {', '.join(ALIAS_KINDS)}")
    return kind, AliasKey.parse(request.match_info["alias_key"])


class DirectoryApi:
    """The routes of one directory process. ``keyring`` signs pin grants."""

    def __init__(
        self,
        deployment: str,
        storage: Storage,
        topology: PublishedTopology,
        keyring: Keyring,
        feed: Feed,
        allowance: Allowance,
        replicas: Replicas,
    ) -> None:
        self._deployment = deployment
        self._storage = storage
        self._topology = topology
        self._keyring = keyring
        self._feed = feed
        self._allowance = allowance
        self._replicas = replicas

    def add_to(self, service: Service) -> None:
        handlers = {
            "snapshot": self._snapshot,
            "get_pin": self._get_pin,
            "put_pin": self._put_pin,
            "erase": self._erase,
            "release_aliases": self._release_aliases,
            "rekey": self._rekey,
            "get_peppers": self._get_peppers,
            "announce_pepper": self._announce_pepper,
            "forget_pepper": self._forget_pepper,
            "resolve": self._resolve,
            "changes": self._changes,
            "grant": self._grant,
            "put_alias": self._put_alias,
            "get_alias": self._get_alias,
            "delete_alias": self._delete_alias,
            "get_topology": self._get_topology,
            "put_topology": self._put_topology,
            "get_keys": self._get_keys,
            "get_residency_keys": self._get_residency_keys,
            "put_key": self._put_key,
            "retire_key": self._retire_key,
            "revoke_key": self._revoke_key,
            "get_reconciliation": self._get_reconciliation,
            "post_fences": self._post_fences,
            "get_replicas": self._get_replicas,
        }
        for name, (method, path, endpoint, operation) in ROUTES.items():
            service.route(method, path, endpoint, handlers[name], operation)
        service.describe("Domicile directory", Endpoint.TOPOLOGY_READ, PARAMETERS)

    async def _get_pin(self, request: web.Request) -> web.Response:
        try:
            return json_response(await self._storage.pin(_subject(request)))
        except UnknownSubject as error:
            REFUSALS.labels(error.code).inc()
            answer = problem_response(error)
            answer.headers["Cache-Control"] = f"max-age={UNKNOWN_SECONDS}"
            return answer

    async def _put_pin(self, request: web.Request) -> web.Response:
        wish = await read_body(request, ClaimRequest)
        pin, made = await claim(self._storage, self._topology, _subject(request), wish)
        return json_response(pin, status=201 if made else 200)

    async def _erase(self, request: web.Request) -> web.Response:
        epoch = request.query.get("epoch", "")
        if not _EPOCH.fullmatch(epoch) or int(epoch) >= 2**63:
            raise InvalidInput("at which epoch the pin is to be is missing, or no epoch", remedy="add ?epoch=")
        return json_response(await names.erase(self._storage, _subject(request), int(epoch), request[PEER]))

    async def _release_aliases(self, request: web.Request) -> web.Response:
        await names.release_aliases(self._storage, _subject(request), request[PEER])
        return web.Response(status=204)

    async def _rekey(self, request: web.Request) -> web.Response:
        wish = await read_body(request, RekeyRequest)
        return json_response(await names.rekey(self._storage, _subject(request), wish, request[PEER]))

    async def _get_peppers(self, _: web.Request) -> web.Response:
        return json_response(await self._storage.peppers())

    async def _announce_pepper(self, request: web.Request) -> web.Response:
        await self._storage.announce_pepper(_pepper(request))
        return web.Response(status=204)

    async def _forget_pepper(self, request: web.Request) -> web.Response:
        await self._storage.forget_pepper(_pepper(request))
        return web.Response(status=204)

    async def _resolve(self, request: web.Request) -> web.Response:
        wanted = list(dict.fromkeys((await read_body(request, ResolveRequest)).subject_keys))
        body = await self._replicas.resolved(wanted) or await self._storage.resolved(wanted)
        return web.Response(body=body, content_type="application/json")

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        """Every pin, or those after ``?after=SUBJECT_KEY``, in the form of ``domicile.model.snapshot``."""
        after: bytes = SubjectKey.parse(request.query["after"]) if "after" in request.query else b""
        position, source = self._replicas.snapshot(await self._feed.settled(), self._storage)
        snapshot = SnapshotWriter()
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(snapshot.head(position))
        try:
            while (block := await source.block(after)) is not None:
                await response.write(snapshot.block(block))
                after = block.last_key
        except Unavailable as error:
            # without its end it is no snapshot: the reader resumes after the last block that it has
            warn("snapshot-ended", code=error.code)
            return response
        await response.write(snapshot.end())
        return response

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        after = request.query.get("after", request.headers.get("Last-Event-ID"))
        position = Position.parse(after) if after is not None else None
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Connection": "close"}
        )
        await response.prepare(request)
        try:
            await self._feed.stream(position, response.write)
        except Unavailable as error:
            # the head is long gone: the reader comes back with the last position that it has
            warn("stream-ended", code=error.code)
        return response

    async def _grant(self, request: web.Request) -> web.Response:
        body = await read_body(request, GrantRequest)
        pin = await self._storage.granting(_subject(request))
        check_active(pin, request[PEER])
        grant = self._keyring.current.pin_grant(pin, self._deployment, body.incarnation)
        return json_response(GrantResponse(grant=grant), status=201)

    def _alias(self, request: web.Request) -> tuple[str, AliasKey]:
        self._allowance.take(request[PEER])
        return _read_alias(request)

    async def _put_alias(self, request: web.Request) -> web.Response:
        kind, alias = self._alias(request)
        wish = await read_body(request, AliasRequest)
        made = await names.put_alias(self._storage, kind, alias, wish, request[PEER])
        return json_response(AliasDocument(alias_key=alias, subject_key=wish.subject_key), status=201 if made else 200)

    async def _get_alias(self, request: web.Request) -> web.Response:
        kind, alias = self._alias(request)
        return json_response(AliasDocument(alias_key=alias, subject_key=await self._storage.alias(kind, alias)))

    async def _delete_alias(self, request: web.Request) -> web.Response:
        kind, alias = self._alias(request)
        if "subject_key" not in request.query:
            raise InvalidInput("whose alias is to be deleted is missing", remedy="add ?subject_key=")
        key = SubjectKey.parse(request.query["subject_key"])
        await names.delete_alias(self._storage, kind, alias, key, request[PEER])
        return web.Response(status=204)

    async def _get_reconciliation(self, _: web.Request) -> web.Response:
        return json_response(await reconciliation.standing(self._storage, self._topology))

    async def _post_fences(self, request: web.Request) -> web.Response:
        report = await read_body(request, FencesReport)
        await reconciliation.take(self._storage, self._topology, request[PEER], report)
        return web.Response(status=204)

    async def _get_replicas(self, _: web.Request) -> web.Response:
        return json_response(self._replicas.document())

    async def _get_topology(self, _: web.Request) -> web.Response:
        return json_response(await self._storage.topology())

    async def _put_topology(self, request: web.Request) -> web.Response:
        document = await read_body(request, TopologyDocument)
        self._topology.read(document)
        await self._storage.publish_topology(document)
        log("topology-published", revision=document.revision)
        return web.Response(status=204)

    async def _get_keys(self, _: web.Request) -> web.Response:
        return json_response(JWKS(keys=await self._storage.keys()))

    async def _get_residency_keys(self, _: web.Request) -> web.Response:
        keys = await self._storage.keys()
        return json_response(JWKS(keys=[key for key in keys if key.domicile_use == "residency"]))

    async def _put_key(self, request: web.Request) -> web.Response:
        key = await read_body(request, SigningKey)
        if key.kid != request.match_info["kid"]:
            raise InvalidInput("the key's kid is not the one in the path")
        if key.domicile_use != "residency":
            raise Forbidden("only the directory publishes keys that sign grants")
        if key != SigningKey(kid=key.kid, domicile_use=key.domicile_use, x=key.x):
            raise InvalidInput("a signing key is an Ed25519 key (RFC 8037)")
        public_key(key)
        await self._storage.publish_key(key, request[PEER].uri)
        return web.Response(status=204)

    async def _retire_key(self, request: web.Request) -> web.Response:
        await self._storage.retire_key(request.match_info["kid"], request[PEER].uri)
        return web.Response(status=204)

    async def _revoke_key(self, request: web.Request) -> web.Response:
        await self._storage.retire_key(request.match_info["kid"], None)
        return web.Response(status=204)
