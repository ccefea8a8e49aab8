"""``python -m domicile.identity.probe ready``: asks the process beside it how it is, with its own certificate.

An orchestrator's probe has no certificate, and one that could ask any process would be an operator's. It takes
what the process was told (``DOMICILE_BIND``, ``_CERTIFICATE``, ``_KEY``, ``_AUTHORITIES``), says nothing where all is
well, and imports little: it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Final

from domicile.identity.tls import Credentials
from domicile.model.addresses import Address
from domicile.model.errors import DomicileError, InvalidInput

PATHS: Final = {"live": "/healthz", "ready": "/readyz"}
SECONDS: Final = 3.0
_USAGE: Final = "usage: python -m domicile.identity.probe live|ready"
_UNSPECIFIED: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def _told(name: str) -> str:
    if value := os.environ.get(f"DOMICILE_{name}"):
        return value
    raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="probe with the process's own environment")


def ask(credentials: Credentials, address: Address, path: str) -> int:
    """The status that the process at ``address`` answers. Raises InvalidInput, or OSError where nobody answers."""
    own = credentials.identity
    context = credentials.client(own.jurisdiction, [own.role], cell=own.cell)
    host = _UNSPECIFIED.get(address.host, address.host)
    plain = socket.create_connection((host, address.port), timeout=SECONDS)
    connection = http.client.HTTPConnection(own.dns_name, timeout=SECONDS)
    try:
        connection.sock = plain
        connection.sock = context.wrap_socket(plain, server_hostname=own.dns_name)
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(None, f"no answer: {type(error).__name__}") from None
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """Exit status: 0 well, 1 not, 2 asked in a wrong way."""
    if len(arguments) != 1 or arguments[0] not in PATHS:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        credentials = Credentials(Path(_told("CERTIFICATE")), Path(_told("KEY")), Path(_told("AUTHORITIES")))
        status = ask(credentials, Address(_told("BIND")), PATHS[arguments[0]])
    except DomicileError as error:
        print(f"probe: {error}", file=sys.stderr)
        return 2
    except ssl.SSLError as error:
        print(f"probe: {error.reason or 'no handshake'}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"probe: {(error.strerror or type(error).__name__).lower()}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"probe: status {status}", file=sys.stderr)
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
