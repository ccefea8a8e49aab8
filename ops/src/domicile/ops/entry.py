"""The program ``domicile``: so small that Ctrl-C is one exit status (130) even while the commands are being loaded."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from domicile.ops.main import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
