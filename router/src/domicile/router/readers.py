"""What each kind of identity rule reads from a request. A subject id exists here for as long as it takes to hash it.

A reader finds a subject, finds nothing, or refuses: a ``strict`` one ends the request, of the others the refusal
counts only where nobody else is found, since browsers send a stale cookie along to the very log-in.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Final, Protocol
from urllib.parse import unquote

from domicile.model import (
    IdentitiesDisagree,
    Identity,
    InvalidInput,
    Manifest,
    Peppers,
    ResidencyToken,
    SubjectKey,
    TokenInvalid,
)
from domicile.model.rules import (
    SUBJECT_SLOT,
    HeaderRule,
    HostIdentityRule,
    IdentityRule,
    JwtRule,
    PathIdentityRule,
    TokenRule,
    described,
    readings,
)
from domicile.model.wire import TOKEN_HEADER
from domicile.router.country import read_address
from domicile.router.errors import BadRequest
from domicile.router.headers import cookie_values, parted
from domicile.router.keys import ResidencyKeys
from domicile.router.lines import Fields
from domicile.router.sessions import Sessions

_DEFAULT_PORT: Final = re.compile(r":[0-9]*\Z")


class Evidence:
    """A request, as far as it may say whose it is.

    ``path``: without the query, as the client wrote it. ``pinned``: whether it belongs to a subject. ``peer``: the
    address at the other end of the connection. ``router``: which router that is, on the internal listener.
    """

    __slots__ = ("headers", "host", "path", "peer", "pinned", "router")

    def __init__(
        self,
        headers: Fields,
        path: str,
        pinned: bool,
        host: str = "",
        peer: str | None = None,
        router: Identity | None = None,
    ) -> None:
        self.headers = headers
        self.path = path
        self.pinned = pinned
        self.host = host
        self.peer = peer
        self.router = router


class Proof:
    """``keys``: whom it names, by each pepper that its reader knows. ``authenticated``: somebody vouches for it who
    may; a token, a path or a host only says so. ``until``: seconds since 1970.
    """

    __slots__ = ("authenticated", "keys", "token", "until")

    def __init__(
        self,
        keys: tuple[SubjectKey, ...],
        authenticated: bool,
        token: ResidencyToken | None = None,
        until: float = math.inf,
    ) -> None:
        self.keys = keys
        self.authenticated = authenticated
        self.token = token
        self.until = until


class Later(Exception):
    """What a reader would find cannot be told at once: ``read`` finds it."""


class Reader(Protocol):
    label: str
    strict: bool

    def glance(self, evidence: Evidence) -> Proof | None:
        """What ``read`` finds, where that takes no waiting and no checking of signatures. Raises Later, and as it."""
        ...

    async def read(self, evidence: Evidence) -> Proof | None:
        """Raises TokenInvalid, IdentitiesDisagree, BadRequest, Unavailable."""
        ...


class _Seen(ABC):
    """A reader that has all that it needs in the request."""

    @abstractmethod
    def glance(self, evidence: Evidence) -> Proof | None: ...

    async def read(self, evidence: Evidence) -> Proof | None:
        return self.glance(evidence)


class JwtReader:
    """``Authorization: Bearer`` is strict: whoever sends it means it."""

    def __init__(self, rule: JwtRule, sessions: Sessions) -> None:
        self.label = described(rule)
        self._cookie = rule.cookie
        self.strict = rule.cookie is None
        self._sessions = sessions

    def glance(self, evidence: Evidence) -> Proof | None:
        headers = evidence.headers
        if self._cookie is None and "authorization" not in headers.special:
            return None
        token = self._token(headers)
        if token is None:
            return None
        session = self._sessions.remembered(token)
        if session is None:
            raise Later
        return Proof(session.keys, True, until=session.expires)

    async def read(self, evidence: Evidence) -> Proof | None:
        token = self._token(evidence.headers)
        if token is None:
            return None
        session = await self._sessions.session(token)
        return Proof(session.keys, True, until=session.expires)

    def _token(self, headers: Fields) -> str | None:
        return self._bearer(headers) if self._cookie is None else self._of_cookie(headers)

    @staticmethod
    def _bearer(headers: Fields) -> str | None:
        fields = headers.getall("Authorization", [])
        if len(fields) > 1:
            raise BadRequest("more than one Authorization field")
        scheme, _, value = fields[0].partition(" ") if fields else ("", "", "")
        return value.strip() if scheme.lower() == "bearer" else None

    def _of_cookie(self, headers: Fields) -> str | None:
        assert self._cookie is not None
        values = cookie_values(headers, self._cookie)
        if len(set(values)) > 1:
            raise TokenInvalid("two cookies of a session's name")
        return values[0] if values else None


class TokenReader:
    strict = False

    def __init__(self, rule: TokenRule, tokens: ResidencyKeys) -> None:
        self.label = described(rule)
        self._tokens = tokens

    def glance(self, evidence: Evidence) -> Proof | None:
        headers = evidence.headers
        offered = parted(headers)[0]
        if "domicile-token" in headers.special or len(offered) > 1:
            raise Later  # they have to be compared
        if not offered:
            return None
        token = self._tokens.remembered(offered[0])
        if token is None:
            raise Later
        return Proof((token.sub,), False, token)

    async def read(self, evidence: Evidence) -> Proof | None:
        headers = evidence.headers
        cookies = [token.decode("utf-8", "surrogateescape") for token in parted(headers)[0]]
        offered = [*headers.getall(TOKEN_HEADER, []), *cookies]
        if len(offered) > 2:
            raise TokenInvalid("more residency tokens than one header field and one cookie")
        valid: ResidencyToken | None = None
        invalid: TokenInvalid | None = None
        for text in offered:
            try:
                token = await self._tokens.verify(text)
            except TokenInvalid as error:
                invalid = error
                continue
            if valid is not None and valid.sub != token.sub:
                raise IdentitiesDisagree("two residency tokens name different subjects")
            if valid is None or token.epoch > valid.epoch:
                valid = token
        if valid is not None:
            return Proof((valid.sub,), False, valid, valid.exp)
        if invalid is not None:
            raise invalid
        return None


def _named(peppers: Peppers, subject: str, where: str) -> tuple[SubjectKey, ...]:
    try:
        return peppers.subject_keys(subject)
    except InvalidInput:
        raise BadRequest(f"{where} holds no usable subject") from None


class HeaderReader(_Seen):
    strict = True

    def __init__(self, rule: HeaderRule, peppers: Peppers) -> None:
        self.label = described(rule)
        self.name = rule.name
        self._networks = rule.networks
        self._peers = frozenset(rule.peers)
        self._peppers = peppers

    def trusts(self, evidence: Evidence) -> bool:
        """Whether who sent this request may set the field. Another router is known by its certificate alone."""
        if evidence.router is not None:
            return evidence.router.uri in self._peers
        address = read_address(evidence.peer) if evidence.peer and self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def glance(self, evidence: Evidence) -> Proof | None:
        values = evidence.headers.getall(self.name, [])
        if not values or not self.trusts(evidence):
            return None
        if len(values) > 1:
            raise BadRequest(f"more than one {self.name} field")
        return Proof(_named(self._peppers, values[0], self.name), True)


class PathReader(_Seen):
    """Pinned paths only: any other belongs to nobody, whatever its segments look like."""

    strict = True

    def __init__(self, rule: PathIdentityRule, peppers: Peppers) -> None:
        self.label = described(rule)
        pattern = re.escape(rule.pattern.removesuffix("*"))
        pattern = pattern.replace(re.escape(SUBJECT_SLOT), "([^/]+)")
        self._pattern = re.compile(pattern + (".*" if rule.pattern.endswith("*") else ""), re.DOTALL)
        self._peppers = peppers

    def glance(self, evidence: Evidence) -> Proof | None:
        if not evidence.pinned:
            return None
        match = self._pattern.fullmatch(evidence.path)
        if match is None:
            if any(self._pattern.fullmatch(reading) for reading in readings(evidence.path)[1:]):
                raise BadRequest("a path that names a subject is written plainly")
            return None
        try:
            subject = unquote(match[1], errors="strict")
        except UnicodeDecodeError:
            raise BadRequest("a subject in a path is UTF-8") from None
        if "/" in subject or "\\" in subject:
            # another reader of this path would find another segment there
            raise BadRequest("a subject in a path holds no slash")
        return Proof(_named(self._peppers, subject, "the path"), False)


class HostReader(_Seen):
    strict = True

    def __init__(self, rule: HostIdentityRule, peppers: Peppers, own: Collection[str]) -> None:
        """``own``: public hosts of jurisdictions, which name no subject."""
        self.label = described(rule)
        pattern = re.escape(rule.pattern).replace(re.escape(SUBJECT_SLOT), "([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)")
        self._pattern = re.compile(pattern)
        self._own = frozenset(host.partition(":")[0] for host in own)
        self._peppers = peppers

    def glance(self, evidence: Evidence) -> Proof | None:
        host = _DEFAULT_PORT.sub("", evidence.host.lower()).removesuffix(".")
        match = None if host in self._own else self._pattern.fullmatch(host)
        return None if match is None else Proof(_named(self._peppers, match[1], "the host"), False)


def reader(
    rule: IdentityRule, tokens: ResidencyKeys, sessions: Sessions | None, peppers: Peppers, manifest: Manifest
) -> Reader:
    match rule:
        case TokenRule():
            return TokenReader(rule, tokens)
        case JwtRule():
            assert sessions is not None, "a manifest with a JWT rule says whose"
            return JwtReader(rule, sessions)
        case HeaderRule():
            return HeaderReader(rule, peppers)
        case PathIdentityRule():
            return PathReader(rule, peppers)
        case HostIdentityRule():
            return HostReader(rule, peppers, [each.public_host for each in manifest.jurisdictions.values()])


def readers(
    rules: Sequence[IdentityRule],
    tokens: ResidencyKeys,
    sessions: Sessions | None,
    peppers: Peppers,
    manifest: Manifest,
) -> list[Reader]:
    return [reader(rule, tokens, sessions, peppers, manifest) for rule in rules]
