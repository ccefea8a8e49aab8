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
import traceback
from datetime import UTC, datetime
from pathlib import Path
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
        "place",  # file:line of our own code or a library's
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
PLAIN: Final = re.compile(r"[\w.:/{}\[\]*-]{0,200}", re.ASCII)
_EVENT: Final = re.compile(r"[a-z][a-z0-9-]{0,60}")
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
        fields = getattr(record, "domicile_fields", None)
        if fields is not None:
            line |= {"event": record.msg} | fields
        else:
            # other people's libraries log free text; only where from, and which exception, is kept
            line |= {"event": "library", "kind": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "place": place_of(record.exc_info[1])}
        return json.dumps(line, separators=(",", ":"))


def place_of(error: BaseException) -> str:
    """Where an exception was raised, as file:line: what may be told of it beside its class."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "unknown"
    frame, line = frames[-1]
    path = Path(frame.f_code.co_filename)
    return re.sub(r"[^\w.:/-]", "_", f"{path.parent.name}/{path.name}:{line}", flags=re.ASCII)


def configure_logs(process: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process, its libraries' included, to ``stream`` (standard error).

    Also of those that have set up handlers of their own by now, as some frameworks do when they are imported.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines(process))
    root = logging.getLogger()
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level.upper())
    logging.captureWarnings(True)


def log(event: str, *, level: int = logging.INFO, **fields: str | int | float | bool | None) -> None:
    """Write one line. Raises FieldNotAllowed for a field off the list or a value that isn't plain."""
    if not _EVENT.fullmatch(event):
        raise FieldNotAllowed("a log event is a code such as topology-loaded")
    for name, value in fields.items():
        if name not in FIELDS:
            raise FieldNotAllowed(f"log field {name!r} is not on the list in domicile.telemetry.logs")
        if not (PLAIN.fullmatch(value) if isinstance(value, str) else isinstance(value, int | float | None)):
            raise FieldNotAllowed(f"log field {name!r} holds more than a plain code or name")
    _LOGGER.log(level, event, extra={"domicile_fields": fields})


def warn(event: str, **fields: str | int | float | bool | None) -> None:
    log(event, level=logging.WARNING, **fields)
