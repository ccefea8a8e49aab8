"""The directory's routes as they are served and described: what goes in, what comes out, who may, what is refused."""

from __future__ import annotations

from typing import Any, Final

from domicile.model import (
    ALIAS_KINDS,
    Conflict,
    DomicileError,
    Endpoint,
    NotFound,
    Pin,
    TooMany,
    UnknownSubject,
    WrongCell,
)
from domicile.model.ids import KEY_BYTES
from domicile.model.wire import (
    JWKS,
    RESIDENCY_KEYS_PATH,
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
from domicile.service import Operation

_KEY: Final = {"type": "string", "pattern": f"^[0-9a-f]{{{2 * KEY_BYTES}}}$"}
_POSITION: Final = {"type": "string", "pattern": "^[0-9a-f-]{36}:[0-9]{1,19}$"}
PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "subject_key": _KEY,
    "alias_key": _KEY,
    "kind": {"type": "string", "enum": list(ALIAS_KINDS)},
    "version": {"type": "string", "pattern": "^(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])$"},
    "kid": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
}
_PIN: Final = "/v1/pins/{subject_key}"
_ALIAS: Final = "/v1/aliases/{kind}/{alias_key}"
_AT_HOME: Final[tuple[type[DomicileError], ...]] = (UnknownSubject, WrongCell, Conflict)

ROUTES: Final[dict[str, tuple[str, str, Endpoint, Operation]]] = {
    "snapshot": (
        "GET",
        "/v1/pins/snapshot",
        Endpoint.PINS_FOLLOW,
        Operation(
            "Every pin, or those after a key, as blocks of fixed-size records with digests",
            {200: "application/octet-stream"},
            query={"after": _KEY},
        ),
    ),
    "get_pin": (
        "GET",
        _PIN,
        Endpoint.PINS_READ,
        Operation("A subject's home; 404 may be cached as its head says", {200: Pin}, refuses=(UnknownSubject,)),
    ),
    "put_pin": (
        "PUT",
        _PIN,
        Endpoint.PINS_CLAIM,
        Operation(
            "Claim a home: the first writer wins (201), repeating it is harmless (200)",
            {200: Pin, 201: Pin},
            body=ClaimRequest,
            refuses=(Conflict,),
        ),
    ),
    "erase": (
        "DELETE",
        _PIN,
        Endpoint.PINS_ERASE,
        Operation(
            "Leave a tombstone above a subject's epoch, and release its aliases, for a gateway of its home",
            {200: Pin},
            query={"epoch": {"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}},
            required=frozenset({"epoch"}),
            refuses=_AT_HOME,
        ),
    ),
    "release_aliases": (
        "DELETE",
        f"{_PIN}/aliases",
        Endpoint.PINS_ERASE,
        Operation(
            "Take every alias from a subject whose own key was shredded, for a gateway of its home",
            {204: None},
            refuses=_AT_HOME,
        ),
    ),
    "rekey": (
        "POST",
        f"{_PIN}/rekey",
        Endpoint.PINS_REKEY,
        Operation(
            "Name a subject by its key under another pepper, for a gateway of its home",
            {200: Pin},
            body=RekeyRequest,
            refuses=_AT_HOME,
        ),
    ),
    "get_peppers": (
        "GET",
        "/v1/peppers",
        Endpoint.PEPPERS_READ,
        Operation("What is named by each pepper's keys, counted", {200: PeppersDocument}),
    ),
    "announce_pepper": (
        "PUT",
        "/v1/peppers/{version}",
        Endpoint.PEPPERS_CHANGE,
        Operation("Have every subject named by another pepper's keys too", {204: None}, refuses=(Conflict,)),
    ),
    "forget_pepper": (
        "DELETE",
        "/v1/peppers/{version}",
        Endpoint.PEPPERS_CHANGE,
        Operation("Refuse a pepper's keys from now on, once it names nobody", {204: None}, refuses=(Conflict,)),
    ),
    "resolve": (
        "POST",
        "/v1/pins:resolve",
        Endpoint.PINS_READ,
        Operation("The homes of up to 1,000 subjects", {200: ResolveResponse}, body=ResolveRequest),
    ),
    "changes": (
        "GET",
        "/v1/changes",
        Endpoint.PINS_FOLLOW,
        Operation(
            "What becomes of pins, in the order of commits, as server-sent events without end",
            {200: "text/event-stream"},
            query={"after": _POSITION},
        ),
    ),
    "grant": (
        "POST",
        f"{_PIN}/grants",
        Endpoint.PINS_GRANT,
        Operation(
            "The statement that opens the home cell's fence, for a gateway of that cell",
            {201: GrantResponse},
            body=GrantRequest,
            refuses=_AT_HOME,
        ),
    ),
    "put_alias": (
        "PUT",
        _ALIAS,
        Endpoint.ALIASES,
        Operation(
            "Give an alias to a subject at home in the caller's cell",
            {200: AliasDocument, 201: AliasDocument},
            body=AliasRequest,
            refuses=(*_AT_HOME, TooMany),
        ),
    ),
    "get_alias": (
        "GET",
        _ALIAS,
        Endpoint.ALIASES,
        Operation("Whose alias it is", {200: AliasDocument}, refuses=(NotFound, TooMany)),
    ),
    "delete_alias": (
        "DELETE",
        _ALIAS,
        Endpoint.ALIASES,
        Operation(
            "Take an alias from a subject at home in the caller's cell; harmless where it is not its own",
            {204: None},
            query={"subject_key": _KEY},
            required=frozenset({"subject_key"}),
            refuses=(*_AT_HOME, TooMany),
        ),
    ),
    "get_topology": (
        "GET",
        "/v1/topology",
        Endpoint.TOPOLOGY_READ,
        Operation("The current topology, as an operator signed it", {200: TopologyDocument}, refuses=(NotFound,)),
    ),
    "put_topology": (
        "PUT",
        "/v1/topology",
        Endpoint.TOPOLOGY_PUBLISH,
        Operation("Publish the next revision", {204: None}, body=TopologyDocument, refuses=(Conflict,)),
    ),
    "get_keys": (
        "GET",
        "/.well-known/jwks.json",
        Endpoint.TOPOLOGY_READ,
        Operation("The keys that sign grants and residency tokens (RFC 7517)", {200: JWKS}),
    ),
    "get_residency_keys": (
        "GET",
        RESIDENCY_KEYS_PATH,
        Endpoint.TOPOLOGY_READ,
        Operation("The keys that sign residency tokens, for verifiers that look at no typ", {200: JWKS}),
    ),
    "put_key": (
        "PUT",
        "/v1/signing-keys/{kid}",
        Endpoint.SIGNING_KEYS_PUBLISH,
        Operation("Publish a router's key for residency tokens", {204: None}, body=SigningKey, refuses=(Conflict,)),
    ),
    "retire_key": (
        "DELETE",
        "/v1/signing-keys/{kid}",
        Endpoint.SIGNING_KEYS_PUBLISH,
        Operation(
            "Take a router's own key out of the set, when its last token has expired",
            {204: None},
            refuses=(NotFound,),
        ),
    ),
    "revoke_key": (
        "POST",
        "/v1/signing-keys/{kid}/revoke",
        Endpoint.SIGNING_KEYS_REVOKE,
        Operation("Take anybody's key out of the set at once", {204: None}, refuses=(NotFound,)),
    ),
    "get_reconciliation": (
        "GET",
        "/v1/reconciliation",
        Endpoint.RECONCILIATION_READ,
        Operation("Whether the database has lost pins, and what it waits for", {200: ReconciliationDocument}),
    ),
    "get_replicas": (
        "GET",
        "/v1/replicas",
        Endpoint.REPLICAS_READ,
        Operation("This process's read replicas, and how late each one is", {200: ReplicasDocument}),
    ),
    "post_fences": (
        "POST",
        "/v1/reconciliation/fences",
        Endpoint.RECONCILIATION_REPORT,
        Operation("One page of the fences of the caller's cell", {204: None}, body=FencesReport, refuses=(Conflict,)),
    ),
}
