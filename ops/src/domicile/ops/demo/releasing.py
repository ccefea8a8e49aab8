"""The demo's release: declared, run and read back by the ``domicile`` commands, as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 60.0
_DECLARATION: Final = """
name: plans
to: {jurisdiction: us, cell: us-1}
purpose: analytics:plans
source: {records: profiles}
columns:
  plan: {treatment: shareable}
  email: {treatment: %s}
quasi_identifiers: [%s]
k: 2
"""


class Releasing:
    """Beside the world whose state folder is ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def run(self, *arguments: str, text: str = "") -> dict[str, Any]:
        """What a command answers with ``--json``; without an answer, its exit status as its ``code``."""
        done = subprocess.run(
            [sys.executable, "-m", "domicile.ops.main", *arguments, "--json"], capture_output=True, text=True,
            timeout=SECONDS, check=False, input=text, env=os.environ | {"DOMICILE_STATE": str(self._root)},
        )  # fmt: skip
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = None
        return said if isinstance(said, dict) else {"ok": False, "code": f"exit status {done.returncode}"}

    def refused(self) -> str:
        """E-mails as they are, called shareable."""
        said = self._declare(_DECLARATION % ("shareable", "plan, email"))
        return "declared" if said.get("ok") else str(said.get("code"))

    def released(self) -> str:
        """Plans, with a pseudonym in the place of each e-mail."""
        said = self._declare(_DECLARATION % ("pseudonym", "plan"))
        if not said.get("ok"):
            return str(said.get("code"))
        said = self.run("release", "run", "plans", "--cell", "eu-1", "--as", "eu")
        state = str(said.get("state") or said.get("code"))
        return f"{state}, k at least 2" if said.get("k", 0) >= 2 else f"{state}: {said.get('reason', '')}"

    def arrived(self) -> str:
        said = self.run("release", "list", "--cell", "us-1", "--as", "us")
        found = [each for each in said.get("arrived", ()) if (each["source"], each["state"]) == ("eu", "accepted")]
        return ", ".join(f"{each['name']} {each['revision']} from {each['cell']}" for each in found) or "nothing"

    def lines(self, side: str) -> str:
        """How many lines of it that passed are on the ledgers of a side."""
        said = self.run("audit", "show", "--from", "eu", "--to", "us", "--kind", "release", "--as", side)
        passed = [row["lines"] for row in said.get("rows", ()) if row["outcome"] == "passed"]
        return f"{side}: {sum(passed)}"

    def _declare(self, text: str) -> dict[str, Any]:
        return self.run("release", "declare", "/dev/stdin", "--cell", "eu-1", "--as", "eu", text=text)
