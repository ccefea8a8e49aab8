"""The application's own sessions: JWTs that are believed by a key of its identity provider, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from domicile.identity.tokens import LEEWAY_SECONDS
from domicile.model import InvalidInput, Peppers, SubjectKey, TokenInvalid
from domicile.model.manifest import ApplicationIdentity
from domicile.router.application_keys import KeySource
from domicile.router.jwks import KeySet
from domicile.router.verified import Verified

MAX_JWT_BYTES: Final = 8192
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Session:
    """Whose, by each pepper, and between which times (seconds since 1970)."""

    keys: tuple[SubjectKey, ...]
    starts: float
    expires: float

    def in_time(self, now: float) -> bool:
        # written so that a NaN is outside its time
        return self.starts <= now + LEEWAY_SECONDS and now - LEEWAY_SECONDS < self.expires


class Sessions:
    """Verifies JWTs: known key, that key's own algorithm, issuer, audience and time. ``clock``: seconds since 1970."""

    def __init__(
        self, keys: KeySource, identity: ApplicationIdentity, peppers: Peppers, *, clock: Clock = time.time
    ) -> None:
        self._keys = keys
        self._identity = identity
        self._peppers = peppers
        self._clock = clock
        self._verified: Verified[Session] = Verified()

    def remembered(self, token: str) -> Session | None:
        """What ``session`` would say of one that it has verified, where it would wait for nothing."""
        keys = self._keys.at_once()
        if keys is None or len(token) > MAX_JWT_BYTES:
            return None
        session = self._verified.find(token.encode("utf-8", "surrogatepass"), keys)
        return session if session is not None and session.in_time(self._clock()) else None

    async def session(self, token: str) -> Session:
        """Whose it is, and for how long.

        Raises TokenInvalid, which says what failed and nothing of what the token held; Unavailable without keys.
        """
        if len(token) > MAX_JWT_BYTES:
            raise TokenInvalid(f"a session token over {MAX_JWT_BYTES} bytes")
        keys = await self._keys.current()
        digest = self._verified.digest(token)
        session = self._verified.get(digest, keys)
        if session is None:
            session, keys = await self._verify(token, keys)
            self._verified.put(digest, keys, session)
        if not session.in_time(self._clock()):
            self._verified.drop(digest)
            raise TokenInvalid("a session token outside its time")
        return session

    async def _verify(self, token: str, keys: KeySet) -> tuple[Session, KeySet]:
        """All but the time, and the keys by which."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):  # the latter two for what is no text or too deep
            raise TokenInvalid("a session token that is no JWT") from None
        kid = str(header.get("kid"))
        if kid not in keys:
            keys = await self._keys.renewed(kid)
        key = keys.get(kid)
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
        subject = claims[self._identity.subject_claim]
        try:
            return Session(
                self._peppers.subject_keys(subject if isinstance(subject, str) else ""), starts, expires
            ), keys
        except InvalidInput:
            raise TokenInvalid("a session token without a usable subject") from None
