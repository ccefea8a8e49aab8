"""What a forger would send: tokens whose claims were altered, and sessions for people who never came."""

from __future__ import annotations

import base64
import json
import time

import jwt

from domicile.identity import Signer
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Manifest


def altered(token: str) -> str:
    """The token with another subject or epoch in its claims, under the signature of the old ones."""
    try:
        head, body, signature = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError:
        raise InvalidInput("there is no token to alter", where="demo") from None
    claims["sub"] = claims["sub"] if "epoch" in claims else claims["sub"] + "x"
    if "epoch" in claims:
        claims["epoch"] += 1
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{forged}.{signature}"


def session_for(manifest: Manifest, signer: Signer, subject: str) -> str:
    """A session as the application itself would sign it."""
    if manifest.identity is None:
        raise InvalidInput("this world's manifest has no identity section", where="identity")
    now = int(time.time())
    claims = {
        "iss": manifest.identity.issuer,
        "aud": manifest.identity.audience,
        manifest.identity.subject_claim: subject,
        "iat": now,
        "exp": now + 600,
    }
    return jwt.encode(claims, signer.key, "EdDSA", headers={"kid": signer.kid})
