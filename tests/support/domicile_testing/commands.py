"""``domicile schema`` as an operator runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from domicile.model import Role
from domicile_testing.certificates import Trust
from domicile_testing.databases import Storage


def run_schema(
    trust: Trust, storage: Storage, *arguments: str, command: str = "apply", **changes: str
) -> subprocess.CompletedProcess[str]:
    operator = trust.credentials(storage.jurisdiction, Role.OPERATOR, "root")
    environment = {
        "DOMICILE_DEPLOYMENT": "acme",
        "DOMICILE_CERTIFICATE": str(operator.certificate),
        "DOMICILE_KEY": str(operator.key),
        "DOMICILE_AUTHORITIES": str(operator.authorities),
        "DOMICILE_STORAGE": storage.address,
    }
    console = "from domicile.sdk.store.commands import app; app(prog_name='domicile schema')"
    return subprocess.run(
        [sys.executable, "-c", console, command, *arguments],
        env=os.environ | environment | changes,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
