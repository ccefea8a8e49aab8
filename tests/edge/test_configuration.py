"""Envoy itself takes every form of what is printed, and what is printed is printed by the command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from domicile_testing.edges import equipment, trusted_signer, view
from domicile_testing.routing import World
from domicile_testing.worlds import clean_environment
from loadtests.cases import Unmeasured
from loadtests.programs import envoy

from domicile.identity import Signer
from domicile.model import Address, InvalidInput, parse_manifest
from domicile.model.wire import JWKS
from domicile.ops.edge.commands import equipment_of
from domicile.ops.edge.envoy import Health, Recipe, static
from domicile.ops.edge.envoy.recipe import Tuning
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.source import Source, residency_keys
from domicile.ops.layout import Layout


@pytest.fixture
def program() -> str:
    try:
        return envoy()
    except Unmeasured as error:
        pytest.skip(str(error))


def accepted(program: str, file: Path) -> None:
    done = subprocess.run(
        [program, "--mode", "validate", "-c", str(file), "--log-level", "warning"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "[warning]" in line or "[error]" in line]
    assert said == [], "nothing deprecated, nothing that is not yet stable"


@pytest.mark.parametrize("form", ["by token", "keys in a file", "asking", "plain", "by names", "grpc"])
async def test_envoy_takes_what_is_printed(world: World, tmp_path: Path, program: str, form: str) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(JWKS(keys=[trusted_signer(world).public("residency")]).model_dump_json())
    recipe = {
        "keys in a file": Recipe(jwks=keys, admin=Address("127.0.0.1:9901")),
        "asking": Recipe(asks=True),
        "grpc": Recipe(health=Health.GRPC, tuning=Tuning(clients=10)),
    }.get(form, Recipe())
    manifest = world.manifest
    if form == "by names":
        data = manifest.topology()
        data["cells"]["eu-1"]["zones"]["fra"]["app"] = "app.eu-1.example:8443"
        data["routers"]["fra"]["public"] = "router.example:443"
        manifest = parse_manifest(data)
    file = tmp_path / "envoy.json"
    file.write_text(static(view(world, manifest=manifest), equipment(world, plain=form == "plain"), recipe))
    accepted(program, file)


def told(world: World, brought: Equipment) -> dict[str, str]:
    """The environment of an edge's command."""
    values = {
        "CERTIFICATE": brought.own.certificate,
        "KEY": brought.own.key,
        "AUTHORITIES": brought.own.authorities,
        "DIRECTORY": world.manifest.directory.sites[0].address,
        "OPERATORS": world.folder / "operators",
    }
    return {f"DOMICILE_{name}": str(value) for name, value in values.items()}


async def test_the_command_prints_it_with_the_environments_certificate(world: World) -> None:
    brought = equipment(world)
    assert brought.public is not None
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "domicile.ops.main", "edge", "envoy", "--listen", brought.listen],
        *["--public-certificate", str(brought.public.certificate), "--public-key", str(brought.public.key)],
        env=clean_environment() | told(world, brought),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(printed) == json.loads(static(view(world), brought))


def test_keys_in_a_file_sign_residency_tokens_alone(tmp_path: Path) -> None:
    signer = Signer.load_or_create(tmp_path / "one.key")
    tokens, grants = (signer.public(use).model_dump() for use in ("residency", "pin-grant"))
    file = tmp_path / "keys.json"
    for keys, expected in (
        ({"keys": [tokens, grants]}, f"other things: {grants['kid']}"),
        ({"keys": []}, "holds no key"),
        ([tokens], "no set of the directory's keys"),
        ({"keys": [{"kty": "RSA", "n": "x", "e": "AQAB", "kid": "1"}]}, "no set of the directory's keys"),
    ):
        file.write_text(json.dumps(keys))
        with pytest.raises(InvalidInput, match=expected):
            residency_keys(file)
    with pytest.raises(InvalidInput, match="No such file"):
        residency_keys(tmp_path / "missing.json")
    file.write_text(json.dumps({"keys": [tokens]}))
    assert residency_keys(file) == file


async def test_half_of_what_is_needed_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = equipment(world)
    assert brought.public is not None
    for name, value in told(world, brought).items():
        monkeypatch.setenv(name, value)
    source = Source.found(Layout.at(None), None)
    with pytest.raises(InvalidInput, match="one is nothing without the other"):
        equipment_of(source, brought.listen, brought.public.certificate, None, None)
    with pytest.raises(InvalidInput, match="host:port"):
        equipment_of(source, "nowhere", brought.public.certificate, brought.public.key, None)
    monkeypatch.delenv("DOMICILE_OPERATORS")
    with pytest.raises(InvalidInput, match="DOMICILE_OPERATORS"):
        Source.found(Layout.at(None), None)
