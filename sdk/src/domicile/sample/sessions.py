"""Sessions: JWTs that a cell signs for its own users, and checks again on each request.

Each cell has a key of its own, so a session of another cell is refused here even where a router took it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import jwt

from domicile.identity import Signer
from domicile.model import TokenInvalid, Unauthenticated
from domicile.model.manifest import ApplicationIdentity

SESSION_SECONDS: Final = 3600
MAX_SESSION_BYTES: Final = 4096
_ALGORITHM: Final = "EdDSA"


@cache
def _own_key(state: str) -> Signer:
    return Signer.load_or_create(Path(state) / "session.key")


class Sessions:
    """``identity`` is the manifest's section on the application's users."""

    def __init__(
        self, signer: Signer, identity: ApplicationIdentity, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._signer = signer
        self._identity = identity
        self._clock = clock

    @classmethod
    def open(cls, identity: ApplicationIdentity) -> Sessions:
        """Of the key in this process's own folder, ``DOMICILE_STATE``; made there when it is first asked for."""
        return cls(_own_key(os.environ["DOMICILE_STATE"]), identity)

    def issue(self, user: str) -> str:
        """A session for one hour."""
        now = int(self._clock())
        claims = {
            "iss": self._identity.issuer,
            "aud": self._identity.audience,
            self._identity.subject_claim: user,
            "iat": now,
            "exp": now + SESSION_SECONDS,
        }
        return jwt.encode(claims, self._signer.key, _ALGORITHM, headers={"kid": self._signer.kid})

    def user(self, authorization: str | None) -> str:
        """Whose session an ``Authorization`` header carries.

        Raises Unauthenticated for none, TokenInvalid for one that this cell did not sign or that is over.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("no session", remedy="sign in")
        return self._verify(token.strip())

    def _verify(self, token: str) -> str:
        required = ["exp", "iss", "aud", self._identity.subject_claim]
        # the clock is ours
        options: Any = {"require": required, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
        try:
            if len(token) > MAX_SESSION_BYTES or jwt.get_unverified_header(token).get("kid") != self._signer.kid:
                raise TokenInvalid("not a session of this cell", remedy="sign in")
            claims = jwt.decode(
                token,
                self._signer.key.public_key(),
                [_ALGORITHM],
                issuer=self._identity.issuer,
                audience=self._identity.audience,
                options=options,
            )
        except jwt.InvalidTokenError:
            raise TokenInvalid("not a session of this cell", remedy="sign in") from None
        user, over = claims[self._identity.subject_claim], claims["exp"]
        if not isinstance(user, str) or not isinstance(over, int | float) or over <= self._clock():
            raise TokenInvalid("a session that is over", remedy="sign in")
        return user
