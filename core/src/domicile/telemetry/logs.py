"""One shape of log line, with allow-listed fields: what is not on the list cannot be logged.

A line is a JSON object: ``time`` (RFC 3339, UTC), ``level``, ``process``, ``event`` and some of ``FIELDS``.
There is no free text, because free text is where personal values escape. Subject ids, client addresses,
query strings and header values have no field; subject keys have none either, since a log needs none.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

FIELDS: Final = frozenset(
    {
        "address",  # of a process of ours, never of a client
        "attempt",
        "cell",
        "code",
        "count",
        "duration_ms",
        "endpoint",
        "epoch",
        "error",  # the class of an exception, never its text
        "from_jurisdiction",
        "jurisdiction",
        "kind",
        "method",
        "peer_role",
        "reason",  # a code from a closed set
        "revision",
        "role",
        "route",  # a route's pattern, never a path
        "status",
        "table",
        "to_jurisdiction",
        "verdict",
        "zone",
    }
)
_PLAIN: Final = re.compile(r"[\w .:/{}\[\]*@<>-]{0,200}", re.ASCII)
_LOGGER: Final = logging.getLogger("domicile")


class FieldNotAllowed(ValueError):
    """A programming error: a log field that is not on the list, or a value that is not plain."""


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
        }
        if record.name == _LOGGER.name:
            line["event"] = record.msg
            line |= getattr(record, "fields", {})
        else:
            # other people's libraries log free text; only where from, and which exception, is kept
            line |= {"event": "library", "kind": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, separators=(",", ":"))


def configure_logs(process: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process, its libraries' included, to ``stream`` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level.upper())


def log(event: str, *, level: int = logging.INFO, **fields: str | int | float | bool | None) -> None:
    """Write one line. Raises FieldNotAllowed for a field off the list or a value that isn't plain."""
    if not _LOGGER.isEnabledFor(level):
        return
    for name, value in fields.items():
        if name not in FIELDS:
            raise FieldNotAllowed(f"log field {name!r} is not on the list in domicile.telemetry.logs")
        if isinstance(value, str) and not _PLAIN.fullmatch(value):
            raise FieldNotAllowed(f"log field {name!r} holds more than a plain code or name")
    _LOGGER.log(level, event, extra={"fields": fields})


def warn(event: str, **fields: str | int | float | bool | None) -> None:
    log(event, level=logging.WARNING, **fields)
