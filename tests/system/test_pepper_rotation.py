"""The pepper is rotated in a whole world, as docs/rotation.md has it: everybody is found before, amid and after."""

from __future__ import annotations

import json
import re
import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.worlds import COMMAND, clean_environment, running_world
from ruamel.yaml import YAML

pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.xdist_group("pepper")]
USERS = {"anna": "DE", "bert": "FR", "carl": "US"}
RESIDENCES = USERS | {"dora": "DE"}


class Client:
    """Calls the router in Frankfurt as a browser would; redirects are followed by hand."""

    def __init__(self, state: Path) -> None:
        manifest = YAML(typ="safe").load((state / "domicile.yaml").read_text())
        self._routers = {zone: router["public"] for zone, router in manifest["routers"].items()}
        self._authorities = state / "trust" / "authorities"

    def ask(
        self, path: str, body: dict[str, Any] | None, *, zone: str, session: str = ""
    ) -> tuple[int, dict[str, Any]]:
        context = ssl.create_default_context(cafile=self._authorities / f"{'eu' if zone == 'fra' else 'us'}.pem")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {session}"} if session else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{self._routers[zone]}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, {}

    def log_in(self, user: str) -> str:
        zone = "iad" if RESIDENCES[user] == "US" else "fra"
        status, answer = self.ask("/login", {"email": f"{user}@example.org", "password": "pw"}, zone=zone)
        assert status == 200, (user, status)
        session: str = answer["session"]
        status, profile = self.ask("/profile", None, zone=zone, session=session)
        assert (status, profile.get("user")) == (200, user)
        return session

    def sign_up(self, user: str) -> int:
        body = {
            "user": user,
            "email": f"{user}@example.org",
            "password": "pw",
            "plan": "pro",
            "residence": RESIDENCES[user],
        }
        return self.ask("/signup", body, zone="iad" if RESIDENCES[user] == "US" else "fra")[0]


class Operator:
    """Runs ``domicile pin`` with the certificate of an operator of one jurisdiction."""

    def __init__(self, state: Path, record: dict[str, Any], jurisdiction: str) -> None:
        folder = state / "operators" / jurisdiction
        directories = [p["address"] for p in record["processes"] if p["role"] == "directory"]
        self._environment = clean_environment() | {
            "DOMICILE_DEPLOYMENT": "acme",
            "DOMICILE_CERTIFICATE": str(folder / "cert.pem"),
            "DOMICILE_KEY": str(folder / "key.pem"),
            "DOMICILE_AUTHORITIES": str(state / "trust" / "authorities"),
            "DOMICILE_OPERATORS": str(state / "trust" / "operators"),
            "DOMICILE_PEPPER": str(state / "secrets" / "pepper"),
            "DOMICILE_DIRECTORY": ",".join(directories),
        }

    def pin(self, *arguments: str, given: str = "") -> dict[str, Any]:
        command = [*COMMAND, "pin", *arguments, "--json"]
        done = subprocess.run(
            command, env=self._environment, input=given, capture_output=True, text=True, timeout=60, check=False
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["ok"] is (done.returncode == 0), done
        return answer


def commands_of_the_page() -> list[list[str]]:
    page = (Path(__file__).parents[2] / "docs" / "rotation.md").read_text()
    return [line.split()[2:] for line in re.findall(r"^ *(domicile pin .*)$", page, re.MULTILINE)]


def lines() -> str:
    subjects = [{"subject": user, "aliases": {"email": f"{user}@example.org"}} for user in [*USERS, "nobody"]]
    return "".join(json.dumps(subject) + "\n" for subject in subjects)


def test_everybody_is_found_before_amid_and_after_a_rotation(tmp_path: Path) -> None:
    announce, rekey, count, forget = commands_of_the_page()
    state = tmp_path / "world"
    with running_world(state) as world:
        client = Client(state)
        assert [client.sign_up(user) for user in USERS] == [201, 201, 201]
        sessions = [client.log_in(user) for user in USERS]
        central = Operator(state, world.record(), "global")
        assert central.pin(*announce) == {"ok": True, "version": 2}
        assert client.sign_up("dora") == 409, "processes without the new pepper give nobody a home any more"
    file = state / "secrets" / "pepper"
    old, new = file.read_text().strip(), f"2:{secrets.token_hex(32)}"
    file.write_text(f"{new}\n{old}\n")
    with running_world(state) as world:
        client = Client(state)
        for user in USERS:
            client.log_in(user)
        assert client.sign_up("anna") == 409
        assert client.sign_up("dora") == 201
        central = Operator(state, world.record(), "global")
        refused = central.pin(*forget)
        assert (refused["ok"], refused["code"]) == (False, "conflict")
        expected = {"eu": (2, 1), "us": (1, 2)}
        for jurisdiction, (mine, others) in expected.items():
            operator = Operator(state, world.record(), jurisdiction)
            (tmp_path / rekey[1]).write_text(lines())
            outcome = operator.pin(rekey[0], str(tmp_path / rekey[1]))
            counts = {"rekeyed": mine, "already": 0, "elsewhere": others, "unknown": 1, "failed": 0}
            assert outcome == {"ok": True, "failures": []} | counts
            assert operator.pin("rekey", given=lines())["already"] == mine
            bad = operator.pin("rekey", given='{"subject": "anna"}\n{"subject": 7}\n')
            assert (bad["code"], bad["where"]) == ("invalid-input", "line 2")
        for user, session in zip(USERS, sessions, strict=True):
            zone = "iad" if RESIDENCES[user] == "US" else "fra"
            assert client.ask("/profile", None, zone=zone, session=session)[0] == 200, "an older session holds"
            client.log_in(user)
        versions = {each["version"]: each for each in central.pin(*count)["versions"]}
        assert (versions[1]["pins"], versions[1]["aliases"], versions[2]["pins"]) == (0, 0, 4)
        assert central.pin(*forget)["ok"]
        for user in USERS:
            client.log_in(user)
    file.write_text(f"{new}\n")
    with running_world(state):
        client = Client(state)
        for user in USERS:
            client.log_in(user)
        assert client.sign_up("anna") == 409
