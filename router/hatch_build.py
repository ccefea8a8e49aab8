"""An option for whoever builds the router's wheel: what every request passes through, compiled by mypyc.

``DOMICILE_COMPILED=1 pip install --no-build-isolation ./router`` (or ``pip wheel``) needs a C compiler, and mypy,
setuptools and the router's own dependencies in the environment that builds. Without it, and in a development install,
the router is Python and nothing else, and does the same: the compiled modules are the same source.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH: Final = "DOMICILE_COMPILED"
MODULES: Final = (
    "attempts",
    "body",
    "breaker",
    "chunks",
    "connection",
    "deadline",
    "decide",
    "downstream",
    "ejection",
    "exchange",
    "front",
    "head",
    "headers",
    "health",
    "identify",
    "internal",
    "lines",
    "observe",
    "pins",
    "readers",
    "resolve",
    "retries",
    "shedding",
    "target",
    "verified",
)


class Compiled(BuildHookInterface[Any]):
    """Puts the extension modules beside their source, which takes second place where both are there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or os.environ.get(SWITCH) != "1":
            return
        root, work = Path(self.root), Path(self.directory) / "compiled"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(root / "src" / "domicile", work / "domicile")
        command = [sys.executable, "-m", "mypyc", "--namespace-packages", "--explicit-package-bases"]
        modules = [f"domicile/router/{name}.py" for name in MODULES]
        told = os.environ | {"MYPYPATH": str(root.parent / "core" / "src")}
        subprocess.run([*command, *modules], cwd=work, env=told, check=True)
        shutil.rmtree(work / "build")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for made in [*work.rglob("*.so"), *work.rglob("*.pyd")]:
            build_data["force_include"][str(made)] = str(made.relative_to(work))
