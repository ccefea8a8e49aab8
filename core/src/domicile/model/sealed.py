"""The head of a sealed value, so that a scanner can find strays without any key.

Layout: magic (4) ‖ length of the jurisdiction (1) ‖ jurisdiction ‖ nonce (12) ‖ ciphertext and tag (≥ 16).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from domicile.model.errors import InvalidInput
from domicile.model.ids import MAX_JURISDICTION_BYTES

MAGIC: Final = b"\xd0\x4dS\x01"
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_JURISDICTION: Final = re.compile(rf"(?=.{{1,{MAX_JURISDICTION_BYTES}}}$)[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


class Sealed(NamedTuple):
    jurisdiction: str
    nonce: bytes
    ciphertext: bytes


@lru_cache(maxsize=256)
def prefix(jurisdiction: str) -> bytes:
    """What every sealed value of a jurisdiction begins with; raises InvalidInput for what is no name of one."""
    if not _JURISDICTION.fullmatch(jurisdiction):
        raise InvalidInput("not a jurisdiction's name")
    code = jurisdiction.encode("ascii")
    return MAGIC + bytes([len(code)]) + code


def frame(sealed: Sealed) -> bytes:
    return prefix(sealed.jurisdiction) + sealed.nonce + sealed.ciphertext


def parse(raw: bytes) -> Sealed:
    """Take a sealed value apart; raises InvalidInput for bytes that are none."""
    head = len(MAGIC) + 1
    if raw[: len(MAGIC)] != MAGIC or len(raw) < head:
        raise InvalidInput("not a sealed value")
    end = head + raw[len(MAGIC)]
    if len(raw) < end + NONCE_BYTES + TAG_BYTES:
        raise InvalidInput("a sealed value that was cut short")
    jurisdiction = raw[head:end].decode("ascii", "replace")
    if not _JURISDICTION.fullmatch(jurisdiction):
        raise InvalidInput("a sealed value with a malformed jurisdiction")
    return Sealed(jurisdiction, raw[end : end + NONCE_BYTES], raw[end + NONCE_BYTES :])
