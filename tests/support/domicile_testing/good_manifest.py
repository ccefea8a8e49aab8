"""A manifest that loads, and what becomes of it when something is put elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from domicile.model import ManifestError, load_manifest, read_yaml

GOOD = """
version: 1
deployment: acme
directory: {sites: [{zone: fra, country: DE, address: "127.20.1.1:7000"}]}
jurisdictions:
  eu:
    countries: [AT, DE, FR, NL, NO]
    public_host: eu.acme.example
    keys: {service: ["127.10.1.9:7300"]}
  us:
    countries: [US]
    travellers: hairpin
    public_host: us.acme.example:8443
    collector: https://collector.us.acme.example
    keys: {service: ["keys.us.internal:7300"], cache_seconds: 60}
cells:
  eu-1:
    jurisdiction: eu
    zones:
      fra: {country: DE, network: 127.10.1.0/24, app: "127.10.1.1:1", gateway: "127.10.1.1:2", storage: "127.10.1.1:3"}
      par: {country: FR, network: 127.10.2.0/24, app: "127.10.2.1:1", gateway: "127.10.2.1:2", storage: "127.10.2.1:3"}
    witness: {zone: ams, country: NL}
  us-1:
    jurisdiction: us
    weight: 50
    state: draining
    zones:
      iad: {country: US, network: "fd00:1::/64", app: "[fd00:1::1]:1", gateway: "[fd00:1::1]:2", storage: "db.iad:3"}
      pdx: {country: US, network: 127.30.2.0/24, app: "127.30.2.1:1", gateway: "127.30.2.1:2", storage: "127.30.2.1:3"}
    witness: {zone: ord, country: US}
routers:
  muc:
    country: DE
    public: "127.10.1.5:443"
    internal: "127.10.1.5:7443"
    trusted_peers: [127.0.0.0/8]
    rules: [{path: /signup, class: unpinned}, {path: "/support/*", class: unpinned}]
operators: {keys: [operators/a.pem]}
identity: {jwks: trust/jwks.json, issuer: sample.acme, audience: acme}
secrets: {pepper: /run/secrets/pepper}
"""
DATA: dict[str, Any] = read_yaml(GOOD)  # type: ignore[assignment]
REMOVE = "(absent)"


def changed(*changes: tuple[str, object]) -> dict[str, Any]:
    """GOOD with values put at (or taken from) slash-separated paths; a number is an index."""
    data = copy.deepcopy(DATA)
    for path, value in changes:
        *steps, last = path.split("/")
        place: Any = data
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if value is REMOVE:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return data


def yaml_problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(text, source="domicile.yaml")
    assert str(caught.value).startswith("domicile.yaml: ")
    assert "\n" not in str(caught.value)
    return [(problem.path, problem.reason) for problem in caught.value.problems]
