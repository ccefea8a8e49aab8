"""A whole local world for a test, started and ended by the command that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from domicile.model.yaml_text import read_yaml

COMMAND = [sys.executable, "-m", "domicile.ops.main"]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}


def domicile(*arguments: str, seconds: float = 120.0, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *COMMAND, *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )


@dataclass(frozen=True)
class LocalWorld:
    state: Path

    def record(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.state / "world.json").read_text())
        return document

    def process(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.record()["processes"] if each["name"] == name)
        return found

    def pids(self) -> dict[str, int]:
        return {process["name"]: process["pid"] for process in self.record()["processes"]}

    def status(self) -> tuple[int, dict[str, Any]]:
        done = domicile("status", "--json", "--state", str(self.state))
        return done.returncode, json.loads(done.stdout)


def processes_of(state: Path) -> list[str]:
    """Every process of this machine that mentions a state folder: what must be gone when its world is."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        settings = (process.info["environ"] or {}).get("DOMICILE_STATE", "")
        if process.pid != os.getpid() and (str(state) in words or settings.startswith(str(state))):
            found.append(f"{process.pid} {words[:120]}")
    return found


def one_jurisdiction(name: str, path: Path, **settings: Any) -> Path:
    """A manifest of one of the default world's jurisdictions alone, with its cells and router; written to ``path``.

    ``settings``: more of each cell's.
    """
    data: Any = read_yaml((files("domicile.ops") / "default_world.yaml").read_text(), source="the default world")
    countries = data["jurisdictions"][name]["countries"]
    data["jurisdictions"] = {name: data["jurisdictions"][name]}
    cells = data["cells"].items()
    data["cells"] = {cell: each | settings for cell, each in cells if each["jurisdiction"] == name}
    data["routers"] = {zone: each for zone, each in data["routers"].items() if each["country"] in countries}
    with path.open("w") as stream:
        yaml = YAML(typ="safe", pure=True)
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # a cell runs in the zone named first
        yaml.dump(data, stream)
    return path


@contextmanager
def running_world(state: Path, *options: str, seconds: float = 300.0) -> Iterator[LocalWorld]:
    started = domicile("up", "--detach", *options, "--state", str(state), seconds=seconds)
    assert started.returncode == 0, started.stderr
    try:
        yield LocalWorld(state)
    finally:
        stopped = domicile("down", "--state", str(state))
        assert stopped.returncode == 0, stopped.stderr
        left = processes_of(state)
        assert left == [], left
