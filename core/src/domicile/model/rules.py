"""A router's rules as data: which paths belong to a subject, and by what a request says whose it is.

A rule is a mapping. With ``class`` it classes paths; with ``by`` it reads an identity. Among the path rules
the first that matches holds. Identity rules are all read, and must agree; the first that finds somebody is
the one that fired. They are also what a trusted header, a path or a host may be used for: nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from domicile.model.access import Identity, Role
from domicile.model.addresses import Network, NetworkField, may_listen
from domicile.model.errors import InvalidInput, ManifestProblem

SUBJECT_SLOT: Final = "{subject}"
_PARAMETERS: Final = re.compile(r";[^/]*")
_SLASHES: Final = re.compile(r"//+")
_ENCODED: Final = 3
"""Times that a path may be percent-encoded: more are for routers to refuse, and cost work without bound."""
_TOKEN: Final = r"^[!#$%&'*+.^`|~0-9A-Za-z-]+$"
"""RFC 9110, 5.6.2, without the underscore, which some servers read as a hyphen."""
_NOT_FOR_IDENTITIES: Final = frozenset(
    """
    accept accept-encoding accept-language age allow authorization cache-control connection content-encoding
    content-length content-type cookie date etag expect forwarded from host if-match if-none-match keep-alive
    max-forwards origin proxy-authorization proxy-connection range referer te trailer transfer-encoding upgrade
    user-agent via x-real-ip traceparent tracestate
    """.split()
)
_SEGMENT: Final = r"[A-Za-z0-9._~!$&'()+,;=:@-]+"
_PATH_PATTERN: Final = re.compile(rf"(?:/{_SEGMENT})*/\{{subject\}}(?:/{_SEGMENT})*(?:/|/\*)?")
_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_PATTERN: Final = re.compile(rf"(?:{_DNS_LABEL}\.)*\{{subject\}}(?:\.{_DNS_LABEL})+")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Travellers(StrEnum):
    """What a router abroad does with a request for a subject of this jurisdiction."""

    REDIRECT = "redirect"
    HAIRPIN = "hairpin"
    REFUSE = "refuse"


PathPattern = Annotated[str, Field(pattern=r"^/[^\s?#*]*\*?$", max_length=256)]
"""Exact, or a prefix when it ends in ``*``."""


def readings(path: str) -> tuple[str, ...]:
    """A path in every way in which a server may read it; one, for most.

    As it is written; decoded, up to three times; and that without parameters (RFC 3986, 3.3) and empty
    segments, backslashes taken for slashes. What holds for a path holds for all of them, or the stricter counts.
    """
    if not ("%" in path or ";" in path or "//" in path or "\\" in path):
        return (path,)
    decoded = path
    for _ in range(_ENCODED):
        decoded = unquote(decoded)
    bare = _SLASHES.sub("/", _PARAMETERS.sub("", decoded.replace("\\", "/")))
    return tuple({path: None, decoded: None, bare: None})


def matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


class PathRule(Strict):
    """``unpinned`` paths open no home; ``pinned`` takes one out of an ``unpinned`` prefix that follows it."""

    path: PathPattern
    kind: Literal["unpinned", "pinned"] = Field(alias="class")

    def matches(self, path: str) -> bool:
        return matches(self.path, path)


class TravellerPath(Strict):
    """The home's policy for travellers on some paths, instead of its general one."""

    path: PathPattern
    travellers: Travellers


class TokenRule(Strict):
    """The residency token, as cookie or header. A hint by signature: it authenticates nobody."""

    by: Literal["token"]


class JwtRule(Strict):
    """The application's own JWT (``identity``), in ``Authorization: Bearer`` or in a cookie of that name."""

    by: Literal["jwt"]
    cookie: Annotated[str, Field(pattern=_TOKEN, max_length=64)] | None = None


def _header(name: str) -> str:
    low = name.lower()
    if low in _NOT_FOR_IDENTITIES or low.startswith(("domicile-", "x-forwarded-", "sec-", "access-control-")):
        raise ValueError(f"{name} has a meaning of its own, and is no place for an identity")
    return name


def _narrow(network: Network) -> Network:
    if network.prefixlen == 0:
        raise ValueError(f"{network} is everybody, and a header is believed from a trusted peer only")
    return network


def router_name(uri: str) -> str:
    """A router's identity. Raises ValueError for anything else."""
    try:
        known = Identity.parse(uri).role is Role.ROUTER
    except InvalidInput:
        known = False
    if not known:
        raise ValueError("a peer is a router's identity, such as spiffe://acme/us/router/iad")
    return uri


class HeaderRule(Strict):
    """A field that holds the subject id, set by a trusted peer: one whose connection comes from ``networks``,
    or another router, by its certificate, on the internal listener. From anybody else the field is dropped."""

    by: Literal["header"]
    name: Annotated[str, Field(pattern=_TOKEN, max_length=64), AfterValidator(_header)]
    networks: list[Annotated[NetworkField, AfterValidator(_narrow)]] = Field(default_factory=list, max_length=64)
    peers: list[Annotated[str, AfterValidator(router_name)]] = Field(default_factory=list, max_length=64)


def _path_pattern(pattern: str) -> str:
    if not _PATH_PATTERN.fullmatch(pattern):
        raise ValueError(f"a path pattern has one whole segment {SUBJECT_SLOT}, such as /t/{SUBJECT_SLOT}/*")
    return pattern


def _host_pattern(pattern: str) -> str:
    if not _HOST_PATTERN.fullmatch(pattern):
        raise ValueError(f"a host pattern has one whole label {SUBJECT_SLOT}, such as {SUBJECT_SLOT}.acme.example")
    return pattern


class PathIdentityRule(Strict):
    """A segment of the path holds the subject id. It proves nothing: whoever asks learns where that home is."""

    by: Literal["path"]
    pattern: Annotated[str, Field(max_length=256), AfterValidator(_path_pattern)]


class HostIdentityRule(Strict):
    """A label of the host holds the subject id, in lower case. It proves no more than a path does."""

    by: Literal["host"]
    pattern: Annotated[str, Field(max_length=253), AfterValidator(_host_pattern)]


IdentityRule = TokenRule | JwtRule | HeaderRule | PathIdentityRule | HostIdentityRule
_KINDS: Final = frozenset({"token", "jwt", "header", "path", "host"})


def _tag(value: Any) -> str | None:
    """Which rule a mapping is meant to be; tags begin with a parenthesis, and are no part of a YAML path."""
    if isinstance(value, Mapping):
        by = value.get("by")
        return "(class)" if "by" not in value else f"({by})" if isinstance(by, str) and by in _KINDS else None
    return f"({getattr(value, 'by', 'class')})" if isinstance(value, Strict) else None


Rule = Annotated[
    Annotated[PathRule, Tag("(class)")]
    | Annotated[TokenRule, Tag("(token)")]
    | Annotated[JwtRule, Tag("(jwt)")]
    | Annotated[HeaderRule, Tag("(header)")]
    | Annotated[PathIdentityRule, Tag("(path)")]
    | Annotated[HostIdentityRule, Tag("(host)")],
    Discriminator(
        _tag,
        custom_error_type="rule_kind",
        custom_error_message="a rule has a path and a class, or by: token, jwt, header, path or host",
    ),
]
Rules = Annotated[list[Rule], Field(max_length=256)]


def _key_set(place: str) -> str:
    """A file, or an https address: keys that came in clear could be anybody's."""
    if "://" not in place:
        return place
    try:
        parts = urlsplit(place)
        port = parts.port or 443
    except ValueError:
        raise ValueError("not an address") from None
    host = parts.hostname or ""
    if parts.scheme != "https" or not host or parts.username is not None or parts.fragment:
        raise ValueError("a key set is a file, or an https:// address without a user name and a fragment")
    if not may_listen(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"):
        raise ValueError(f"{host} is link-local, multicast or unspecified")
    return place


class ApplicationIdentity(Strict):
    """The application's own users: where their keys are (a file, or an https address), and which claim is whose.

    A key that the address no longer names is believed for at most ``refresh_seconds`` more; while the address
    does not answer, for ``outage_seconds`` after it last did, and then no JWT is. A file is looked at every second.
    """

    jwks: Annotated[str, AfterValidator(_key_set)]
    issuer: str
    audience: str
    subject_claim: str = "sub"
    refresh_seconds: int = Field(default=300, ge=10, le=3600, strict=True)
    outage_seconds: int = Field(default=86_400, ge=10, le=7 * 86_400, strict=True)

    @property
    def by_address(self) -> bool:
        return "://" in self.jwks


class NextRules(Strict):
    """Rules that are to take the place of ``rules``: compared with them on each request, and used for ``percent``
    of the subjects. At 0 they run dry."""

    percent: Annotated[float, Field(ge=0, le=100)] = 0
    rules: Rules


def is_unpinned(rules: Sequence[Rule], path: str) -> bool:
    """Whether a path opens no home, by every reading of it."""
    return all(_is_unpinned(rules, reading) for reading in readings(path))


def _is_unpinned(rules: Sequence[Rule], path: str) -> bool:
    for rule in rules:
        if isinstance(rule, PathRule) and rule.matches(path):
            return rule.kind == "unpinned"
    return False


def identity_rules(rules: Sequence[Rule], *, sessions: bool) -> list[IdentityRule]:
    """Those that read an identity; where none is written, the application's JWT (if ``sessions``) and the token."""
    written: list[IdentityRule] = [rule for rule in rules if not isinstance(rule, PathRule)]
    if written:
        return written
    return [*([JwtRule(by="jwt")] if sessions else []), TokenRule(by="token")]


def described(rule: IdentityRule) -> str:
    """A rule in one line that holds nothing of a request."""
    match rule:
        case HeaderRule():
            return f"by header {rule.name}"
        case JwtRule(cookie=str(cookie)):
            return f"by jwt in cookie {cookie}"
        case PathIdentityRule() | HostIdentityRule():
            return f"by {rule.by} {rule.pattern}"
        case _:
            return f"by {rule.by}"


def classes_of(rules: Sequence[Rule]) -> list[PathRule]:
    return [rule for rule in rules if isinstance(rule, PathRule)]


def rule_problems(
    path: str, rules: Sequence[Rule], *, sessions: bool, deployment: str, routers: Collection[tuple[str, str]]
) -> Iterator[ManifestProblem]:
    """What no single rule shows. ``routers``: (jurisdiction, zone) of each."""
    seen: dict[str, int] = {}
    for position, rule in enumerate(rules):
        where = f"{path}[{position}]"
        told = rule.model_dump_json(include={"path"} if isinstance(rule, PathRule) else None)
        if (first := seen.setdefault(told, position)) != position:
            yield ManifestProblem(where, f"repeats {path}[{first}], which comes first", "remove one of the two")
        if isinstance(rule, JwtRule) and not sessions:
            yield ManifestProblem(f"{where}.by", "whose JWT is not said anywhere", "add an identity section")
        if isinstance(rule, HeaderRule):
            if not rule.networks and not rule.peers:
                yield ManifestProblem(
                    where, "a header is believed from a trusted peer only", "name its networks or peers"
                )
            for number, uri in enumerate(rule.peers):
                peer = Identity.parse(uri)
                if peer.deployment != deployment or (peer.jurisdiction, peer.zone) not in routers:
                    yield ManifestProblem(
                        f"{where}.peers[{number}]", f"{uri} is no router of this manifest", "see routers"
                    )
