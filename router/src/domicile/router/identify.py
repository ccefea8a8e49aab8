"""Who a request says it is for, believed only by signature.

Two proofs are read: the application's own JWT, and the residency token that a router handed out earlier. The
JWT is the authority; the token only saves the look-up of somebody who was identified before. A subject id
exists here in memory for as long as it takes to hash it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from domicile.identity.tokens import LEEWAY_SECONDS
from domicile.model import (
    IdentitiesDisagree,
    InvalidInput,
    Peppers,
    ResidencyToken,
    SubjectKey,
    TokenInvalid,
    Unauthenticated,
)
from domicile.model.manifest import ApplicationIdentity
from domicile.model.wire import TOKEN_COOKIE, TOKEN_HEADER
from domicile.router.errors import BadRequest
from domicile.router.headers import Headers, cookie_values
from domicile.router.keys import ApplicationKeys, ResidencyKeys

MAX_JWT_BYTES: Final = 8192
Clock = Callable[[], float]


class Sessions:
    """Verifies the application's JWTs: known key, that key's own algorithm, issuer, audience and time."""

    def __init__(
        self, keys: ApplicationKeys, identity: ApplicationIdentity, peppers: Peppers, *, clock: Clock = time.time
    ) -> None:
        self._keys = keys
        self._identity = identity
        self._peppers = peppers
        self._clock = clock

    def subject(self, token: str) -> tuple[SubjectKey, ...]:
        """Whom it names, by each pepper. Raises TokenInvalid, which says what failed and nothing that it held."""
        if len(token) > MAX_JWT_BYTES:
            raise TokenInvalid(f"a session token over {MAX_JWT_BYTES} bytes")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):  # the latter two for what is no text or too deep
            raise TokenInvalid("a session token that is no JWT") from None
        key = self._keys.get(str(header.get("kid")))
        if key is None:
            raise TokenInvalid("a session token by an unknown key")
        if header.get("alg") != key.algorithm or "crit" in header:
            raise TokenInvalid("a session token with an algorithm or extension that its key is not for")
        required = ["exp", "iss", "aud", self._identity.subject_claim]
        # the clock is ours, so that tests and clock jumps are handled in one place
        options: Any = {"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            claims = jwt.decode(
                token,
                key.key,
                [key.algorithm],
                issuer=self._identity.issuer,
                audience=self._identity.audience,
                options=options,
            )
            expires, starts = float(claims["exp"]), float(claims.get("nbf", 0))
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError) as error:
            raise TokenInvalid(f"not a valid session token: {type(error).__name__}") from None
        now = self._clock()
        # written so that a NaN is outside its time
        if not (starts <= now + LEEWAY_SECONDS and now - LEEWAY_SECONDS < expires):
            raise TokenInvalid("a session token outside its time")
        subject = claims[self._identity.subject_claim]
        try:
            return self._peppers.subject_keys(subject if isinstance(subject, str) else "")
        except InvalidInput:
            raise TokenInvalid("a session token without a usable subject") from None


@dataclass(frozen=True, slots=True)
class Identified:
    """``keys``: whom the request is for, by each pepper; none for nobody. ``authenticated``: by the application's
    JWT. ``token``: a valid residency token that came along.
    """

    keys: tuple[SubjectKey, ...]
    authenticated: bool
    token: ResidencyToken | None


class Identifier:
    """Reads and reconciles the proofs of one request."""

    def __init__(self, tokens: ResidencyKeys, sessions: Sessions | None) -> None:
        self._tokens = tokens
        self._sessions = sessions

    async def identify(self, headers: Headers, *, pinned: bool) -> Identified:
        """Raises TokenInvalid, IdentitiesDisagree, BadRequest; Unauthenticated where ``pinned`` needs somebody.

        An invalid residency token is nobody's proof, and only that: a valid JWT beside it stands, and an
        unpinned path is served without it, since browsers send a stale cookie along to the very log-in.
        """
        session = self._session(headers)
        token, invalid = await self._token(headers)
        if session is not None and token is not None and token.sub not in session:
            raise IdentitiesDisagree("the session and the residency token name different subjects")
        if session is not None:
            return Identified(session, True, token)
        if token is not None:
            return Identified((token.sub,), False, token)
        if pinned:
            raise invalid or Unauthenticated("this path is a subject's own", remedy="send a session token")
        return Identified((), False, None)

    def _session(self, headers: Headers) -> tuple[SubjectKey, ...] | None:
        fields = headers.getall("Authorization", [])
        if len(fields) > 1:
            raise BadRequest("more than one Authorization field")
        scheme, _, value = fields[0].partition(" ") if fields else ("", "", "")
        if scheme.lower() != "bearer" or self._sessions is None:
            return None
        return self._sessions.subject(value.strip())

    async def _token(self, headers: Headers) -> tuple[ResidencyToken | None, TokenInvalid | None]:
        offered = [*headers.getall(TOKEN_HEADER, []), *cookie_values(headers, TOKEN_COOKIE)]
        valid: ResidencyToken | None = None
        invalid: TokenInvalid | None = None
        if len(offered) > 2:
            return None, TokenInvalid("more residency tokens than one header field and one cookie")
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
        return valid, invalid
