"""What a process logs, as it goes out, and its logging as it was before."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from domicile.telemetry import configure_logs


@contextmanager
def logged() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("domicile")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    lines = io.StringIO()
    configure_logs("test", stream=lines)
    try:
        yield lines
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        logging.captureWarnings(False)
