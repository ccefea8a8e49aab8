"""The request's target, held to one meaning before anything is decided by it.

A path that its reader may normalise to another one could be classed as one thing here and served as another
there, so dot segments are refused in every spelling instead of being resolved.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from domicile.router.errors import BadRequest

_PLAIN: Final = re.compile(r"/[\x21\x22\x24-\x7e]*")
_SEPARATORS: Final = re.compile(r"[/\\]")


def read_target(raw: str) -> str:
    """Path and query as the client wrote them, in origin form (RFC 9112, 3.2). Raises BadRequest."""
    if not raw.startswith("/"):
        parts = urlsplit(raw)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadRequest("a request target is a path")
        raw = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _PLAIN.fullmatch(raw):
        raise BadRequest("a request target holds printable ASCII and no fragment")
    decoded = unquote(path_of(raw), errors="replace")
    if "\0" in decoded or any(segment in (".", "..") for segment in _SEPARATORS.split(decoded)):
        raise BadRequest("a path holds neither dot segments nor NUL")
    return raw


def path_of(target: str) -> str:
    return target.partition("?")[0]
