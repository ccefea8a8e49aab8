"""The request's target, held to one meaning before anything is decided by it.

A path that its reader may normalise to another one could be classed as one thing here and served as another
there, so dot segments are refused in every spelling instead of being resolved.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from domicile.model.rules import readings
from domicile.router.errors import BadRequest

_PLAIN: Final = re.compile(r"/[\x21\x22\x24-\x7e]*")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE)
_SEPARATORS: Final = re.compile(r"[/\\]")


def read_target(raw: str, host: str) -> str:
    """Path and query as the client wrote them, in origin form (RFC 9112, 3.2).

    ``host``: of the ``Host`` field, which a target in absolute form must agree with. Raises BadRequest.
    """
    if not raw.startswith("/"):
        parts = _ABSOLUTE.fullmatch(raw)
        if parts is None:
            raise BadRequest("a request target is a path")
        if parts[1].lower() != host.lower():
            raise BadRequest("the request's target and its Host field name different hosts")
        raw = parts[2] if parts[2].startswith("/") else f"/{parts[2]}"
    if not _PLAIN.fullmatch(raw):
        raise BadRequest("a request target holds printable ASCII and no fragment")
    path = path_of(raw)
    if "%" in path or "/." in path or "\\" in path:
        for reading in readings(path):
            if "\0" in reading or any(segment in (".", "..") for segment in _SEPARATORS.split(reading)):
                raise BadRequest("a path holds neither dot segments nor NUL")
        if unquote(reading) != reading:
            raise BadRequest("a path is not encoded over and over")
    return raw


def path_of(target: str) -> str:
    return target.partition("?")[0]
