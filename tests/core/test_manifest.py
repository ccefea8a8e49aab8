"""Everything that a manifest is refused for, each with its YAML path and its reason."""

from __future__ import annotations

import json

import pytest
from domicile_testing.good_manifest import DATA, GOOD, REMOVE, changed
from domicile_testing.manifests import problems_of

from domicile.model import Travellers, load_manifest, parse_manifest
from domicile.model.manifest import Address, Operators
from domicile.model.rules import PathRule


def test_a_good_manifest_loads_with_its_defaults() -> None:
    manifest = load_manifest(GOOD)
    eu = manifest.cells["eu-1"]
    assert (eu.weight, eu.state, eu.accept) == (100, "open", [])
    assert manifest.jurisdictions["eu"].travellers is Travellers.REDIRECT
    assert manifest.jurisdictions["eu"].keys.cache_seconds == 300
    assert manifest.losses() == []


def test_it_answers_where_things_lie() -> None:
    manifest = load_manifest(GOOD)
    assert manifest.jurisdiction_of("FR") == "eu"
    assert manifest.jurisdiction_of("US") == "us"
    assert manifest.jurisdiction_of("JP") is None
    assert list(manifest.cells_of("eu")) == ["eu-1"]
    assert manifest.cells_of("jp") == {}
    assert list(manifest.routers_of("eu")) == ["muc"]
    assert manifest.routers_of("us") == {}


def test_norway_is_a_country() -> None:
    assert load_manifest(GOOD).jurisdiction_of("NO") == "eu"


RULES: list[tuple[str, object, str, str]] = [
    # a zone or witness outside the cell's jurisdiction
    ("cells/eu-1/zones/par/country", "US", "cells.eu-1.zones.par.country", "US lies outside eu"),
    ("cells/eu-1/zones/par/country", "JP", "cells.eu-1.zones.par.country", "JP lies outside eu"),
    ("cells/eu-1/witness/country", "US", "cells.eu-1.witness.country", "US lies outside eu"),
    # an address outside its zone's network
    *(
        (
            f"cells/eu-1/zones/fra/{f}",
            "127.10.2.9:1",
            f"cells.eu-1.zones.fra.{f}",
            "127.10.2.9:1 lies outside 127.10.1.0/24",
        )
        for f in ("app", "gateway", "storage")
    ),
    ("cells/us-1/zones/iad/app", "127.10.1.77:1", "cells.us-1.zones.iad.app", "127.10.1.77:1 lies outside fd00:1::/64"),
    (
        "cells/eu-1/zones/fra/app",
        "[::ffff:127.10.2.9]:1",
        "cells.eu-1.zones.fra.app",
        "[::ffff:7f0a:209]:1 lies outside 127.10.1.0/24",
    ),
    (
        "jurisdictions/eu/keys/service/0",
        "127.30.2.9:1",
        "jurisdictions.eu.keys.service[0]",
        "127.30.2.9:1 lies in no zone of eu",
    ),
    # an etcd that elects a jurisdiction's leaders from abroad, or by a name
    *(
        (
            "jurisdictions/eu/lease",
            {"etcd": {"hosts": ["127.10.1.20:2379", host]}},
            "jurisdictions.eu.lease.etcd.hosts[1]",
            f"{host} is no address in a zone of the jurisdiction",
        )
        for host in ("127.30.2.9:2379", "etcd.eu.example:2379")
    ),
    # overlapping jurisdictions
    ("jurisdictions/us/countries", ["US", "DE"], "jurisdictions.us.countries[1]", "DE already belongs to eu"),
    ("jurisdictions/us/countries", ["US", "US"], "jurisdictions.us.countries[1]", "US already belongs to us"),
    ("jurisdictions/us/public_host", "EU.acme.example", "jurisdictions.us.public_host", "eu.acme.example is also eu's"),
    # overlapping networks of two jurisdictions
    (
        "cells/eu-1/zones/par/network",
        "127.0.0.0/8",
        "cells.us-1.zones.pdx.network",
        "127.30.2.0/24 overlaps 127.0.0.0/8 of eu",
    ),
    # one data zone, no third-zone witness
    ("cells/eu-1/zones/par", REMOVE, "cells.eu-1.zones", "one data zone only"),
    ("cells/eu-1/witness", REMOVE, "cells.eu-1.witness", "no witness in a third zone"),
    ("cells/eu-1/witness", {"zone": "par", "country": "FR"}, "cells.eu-1.witness", "no witness in a third zone"),
    # what has no network of its own: routers, collectors, key sets
    ("routers/muc/internal", "127.30.2.9:443", "routers.muc.internal", "its address lies in 127.30.2.0/24 of us"),
    ("routers/muc/public", "[fd00:1::9]:443", "routers.muc.public", "its address lies in fd00:1::/64 of us"),
    (
        "jurisdictions/eu/collector",
        "https://127.30.2.9/x",
        "jurisdictions.eu.collector",
        "its address lies in 127.30.2.0/24 of us",
    ),
    (
        "jurisdictions/eu/collector",
        "https://[fd00:1::9]",
        "jurisdictions.eu.collector",
        "its address lies in fd00:1::/64 of us",
    ),
    (
        "jurisdictions/eu/collector_networks",
        ["127.30.0.0/16"],
        "jurisdictions.eu.collector_networks[0]",
        "127.30.0.0/16 overlaps 127.30.2.0/24 of us",
    ),
    (
        "jurisdictions/eu/collector",
        "https://",
        "jurisdictions.eu.collector",
        "is reached over https://, at a host",
    ),
    (
        "identity/jwks",
        "http://idp.example/jwks",
        "identity.jwks",
        "a key set is a file, or an https:// address without a user name and a fragment",
    ),
    # names, routers, listeners
    ("routers/muc/country", "JP", "routers.muc.country", "JP lies in no jurisdiction"),
    (
        "routers/muc/internal",
        "127.10.1.5:443",
        "routers.muc.internal",
        "127.10.1.5:443 is also the address of routers.muc.public",
    ),
    (
        "cells/eu-1/zones/fra/gateway",
        "127.10.1.1:1",
        "cells.eu-1.zones.fra.gateway",
        "127.10.1.1:1 is also the address of cells.eu-1.zones.fra.app",
    ),
    (
        "cells/us-1/zones/iad/gateway",
        "[FD00:1:0::1]:1",
        "cells.us-1.zones.iad.gateway",
        "[fd00:1::1]:1 is also the address of cells.us-1.zones.iad.app",
    ),
    (
        "routers/muc/public",
        "169.254.169.254:80",
        "routers.muc.public",
        "169.254.169.254:80 is link-local, multicast or unspecified",
    ),
    (
        "routers/muc/public",
        "[::ffff:169.254.1.1]:80",
        "routers.muc.public",
        "[::ffff:a9fe:101]:80 is link-local, multicast or unspecified",
    ),
    ("routers/muc/public", "0.0.0.0:80", "routers.muc.public", "0.0.0.0:80 is link-local, multicast or unspecified"),
    (
        "directory/sites/0/address",
        "[fe80::1]:80",
        "directory.sites[0].address",
        "[fe80::1]:80 is link-local, multicast or unspecified",
    ),
    # shapes
    ("version", 2, "version", "only version 1 is known here"),
    ("version", True, "version", "input should be a valid integer"),
    ("version", "1", "version", "input should be a valid integer"),
    ("version", REMOVE, "version", "required key is missing"),
    ("deployment", "Acme Inc", "deployment", "string should match pattern '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'"),
    ("deployment", 3, "deployment", "input should be a valid string"),
    ("deployment", "a" * 33, "deployment", "string should have at most 32 characters"),
    ("directory/sites", [], "directory.sites", "list should have at least 1 item after validation, not 0"),
    (
        "directory/sites/0/country",
        "Germany",
        "directory.sites[0].country",
        "'Germany' is not an ISO 3166-1 alpha-2 country code (upper case, such as DE)",
    ),
    ("jurisdictions", {}, "jurisdictions", "dictionary should have at least 1 item after validation, not 0"),
    ("jurisdictions", ["eu"], "jurisdictions", "input should be a valid dictionary"),
    ("jurisdictions/eu", None, "jurisdictions.eu", "input should be a valid dictionary or instance of Jurisdiction"),
    (
        "jurisdictions/eu/countries",
        ["DE", "XX"],
        "jurisdictions.eu.countries[1]",
        "'XX' is not an ISO 3166-1 alpha-2 country code (upper case, such as DE)",
    ),
    ("jurisdictions/eu/countries", ["DE", False], "jurisdictions.eu.countries[1]", "input should be a valid string"),
    ("jurisdictions/eu/countries", "DE", "jurisdictions.eu.countries", "input should be a valid list"),
    (
        "jurisdictions/eu/countries",
        [],
        "jurisdictions.eu.countries",
        "list should have at least 1 item after validation, not 0",
    ),
    (
        "jurisdictions/eu/travellers",
        "teleport",
        "jurisdictions.eu.travellers",
        "input should be 'redirect', 'hairpin' or 'refuse'",
    ),
    ("jurisdictions/eu/keys", REMOVE, "jurisdictions.eu.keys", "required key is missing"),
    (
        "jurisdictions/eu/keys/domains",
        {"default": {"country": "DE", "holder": ["10.0.0.1:1"]}},
        "jurisdictions.eu.keys.domains.default",
        "the service holds this one itself",
    ),
    (
        "jurisdictions/eu/keys/domains",
        {"bank": {"country": "US", "holder": ["10.0.0.1:1"]}},
        "jurisdictions.eu.keys.domains.bank.country",
        "US lies outside the jurisdiction",
    ),
    (
        "jurisdictions/eu/keys/domains",
        {"bank": {"country": "DE"}},
        "jurisdictions.eu.keys.domains.bank",
        "has not one holder",
    ),
    (
        "jurisdictions/eu/keys/domains",
        {"bank": {"country": "DE", "holder": ["10.0.0.1:1"], "transit": {"address": "https://v.example", "key": "k"}}},
        "jurisdictions.eu.keys.domains.bank",
        "has not one holder",
    ),
    (
        "jurisdictions/eu/keys/domains",
        {"bank": {"country": "DE", "transit": {"address": "http://v.example", "key": "k"}}},
        "jurisdictions.eu.keys.domains.bank.transit.address",
        "is reached over https://, at a host",
    ),
    (
        "jurisdictions/eu/keys/cache_seconds",
        0,
        "jurisdictions.eu.keys.cache_seconds",
        "input should be greater than or equal to 1",
    ),
    (
        "jurisdictions/eu/keys/cache_seconds",
        3601,
        "jurisdictions.eu.keys.cache_seconds",
        "input should be less than or equal to 3600",
    ),
    (
        "jurisdictions/us/collector",
        "http://c.example",
        "jurisdictions.us.collector",
        "is reached over https://, at a host",
    ),
    ("cells", {}, "cells", "dictionary should have at least 1 item after validation, not 0"),
    ("cells/eu-1/weight", 0, "cells.eu-1.weight", "input should be greater than or equal to 1"),
    ("cells/eu-1/weight", True, "cells.eu-1.weight", "input should be a valid integer"),
    ("cells/eu-1/weight", "100", "cells.eu-1.weight", "input should be a valid integer"),
    ("cells/eu-1/state", "opened", "cells.eu-1.state", "input should be 'open', 'draining' or 'closed'"),
    (
        "cells/eu-1/accept",
        ["everything"],
        "cells.eu-1.accept[0]",
        "input should be 'single-zone', 'shared-witness' or 'unreplicated-writes'",
    ),
    ("cells/eu-1/zones", {}, "cells.eu-1.zones", "dictionary should have at least 1 item after validation, not 0"),
    (
        "cells/eu-1/zones/fra/network",
        "127.10.1.1/24",
        "cells.eu-1.zones.fra.network",
        "'127.10.1.1/24' is not a network such as 127.10.1.0/24, with no bit set behind the slash",
    ),
    (
        "cells/eu-1/zones/fra/network",
        "inside",
        "cells.eu-1.zones.fra.network",
        "'inside' is not a network such as 127.10.1.0/24, with no bit set behind the slash",
    ),
    ("cells/eu-1/zones/fra/network", 5, "cells.eu-1.zones.fra.network", "a network is written like 127.10.1.0/24"),
    (
        "routers/muc/trusted_peers",
        ["all"],
        "routers.muc.trusted_peers[0]",
        "'all' is not a network such as 127.10.1.0/24, with no bit set behind the slash",
    ),
    (
        "routers/muc/rules/0/path",
        "signup",
        "routers.muc.rules[0].path",
        "string should match pattern '^/[^\\s?#*]*\\*?$'",
    ),
    (
        "routers/muc/rules/0/path",
        "/*/x",
        "routers.muc.rules[0].path",
        "string should match pattern '^/[^\\s?#*]*\\*?$'",
    ),
    ("routers/muc/rules/0/class", "mine", "routers.muc.rules[0].class", "input should be 'unpinned' or 'pinned'"),
    ("identity/issuer", REMOVE, "identity.issuer", "required key is missing"),
    ("secrets/pepper", ["a"], "secrets.pepper", "input should be a valid string"),
    # unknown keys, at every depth
    *(
        (path, 1, path.replace("/0/", "[0].").replace("/", "."), "unknown key")
        for path in (
            "verzion",
            "directory/site",
            "directory/sites/0/region",
            "jurisdictions/eu/country",
            "jurisdictions/eu/keys/cache",
            "cells/eu-1/jurisdictions",
            "cells/eu-1/zones/fra/port",
            "cells/eu-1/witness/host",
            "routers/muc/publik",
            "routers/muc/rules/0/method",
            "operators/key",
            "identity/claim",
        )
    ),
]


@pytest.mark.parametrize(("path", "value", "where", "reason"), RULES, ids=lambda v: str(v)[:40])
def test_each_refusal_has_its_path_and_its_reason(path: str, value: object, where: str, reason: str) -> None:
    assert problems_of(changed((path, value))) == [(where, reason)]


def test_a_reference_table_is_written_in_a_cell_that_there_is() -> None:
    assert parse_manifest(changed(("references", {"plans": "eu-1"}))).references == {"plans": "eu-1"}
    assert "references" not in parse_manifest(changed()).topology(), "older programs read it as before"
    assert problems_of(changed(("references", {"plans": "eu-9"}))) == [("references.plans", "unknown cell 'eu-9'")]
    assert [path for path, _ in problems_of(changed(("references", {"Plans": "eu-1"})))] == ["references.Plans"]


@pytest.mark.parametrize("key", ["Eu-1", "eu_1", "", "1eu", "eu--1", "a" * 33])
def test_a_cells_name_is_a_name(key: str) -> None:
    data = changed()
    data["cells"][key] = data["cells"].pop("eu-1")
    assert [path for path, _ in problems_of(data)] == [f"cells.{key}"]


def test_a_jurisdictions_name_fits_the_head_of_a_sealed_value() -> None:
    data = changed(("cells/eu-1/jurisdiction", "europeunion-long"))
    data["jurisdictions"]["europeunion-long"] = data["jurisdictions"].pop("eu")
    assert [path for path, _ in problems_of(data)] == ["jurisdictions.europeunion-long", "cells.eu-1.jurisdiction"]


def test_the_directorys_own_domain_is_no_jurisdiction() -> None:
    data = changed(("cells/us-1/jurisdiction", "global"))
    data["jurisdictions"]["global"] = data["jurisdictions"].pop("us")
    assert problems_of(data) == [("jurisdictions.global", "'global' is the directory's own trust domain")]


def test_a_directory_site_is_listed_once() -> None:
    sites = [*DATA["directory"]["sites"], {"zone": "fra", "country": "DE", "address": "127.20.2.1:1"}]
    assert problems_of(changed(("directory/sites", sites))) == [("directory.sites[1].zone", "fra is listed twice")]


def test_a_cell_of_a_jurisdiction_that_is_not_there() -> None:
    assert problems_of(changed(("cells/eu-1/jurisdiction", "jp"))) == [
        ("jurisdictions.eu.keys.service[0]", "127.10.1.9:7300 lies in no zone of eu"),
        ("cells.eu-1.jurisdiction", "unknown jurisdiction 'jp'"),
    ]


def test_a_zone_lies_in_one_country_wherever_it_is_named() -> None:
    assert problems_of(changed(("directory/sites/0/country", "FR"))) == [
        ("cells.eu-1.zones.fra.country", "zone fra lies in DE here and in FR at directory.sites[0]"),
    ]


def test_a_jurisdiction_without_a_zone_has_no_place_for_its_keys() -> None:
    assert problems_of(changed(("cells/us-1", REMOVE), ("jurisdictions/us/keys/service", ["127.30.1.1:1"]))) == [
        ("jurisdictions.us.keys.service[0]", "127.30.1.1:1 lies in no zone of us")
    ]


@pytest.mark.parametrize(
    "address",
    ["", "127.10.1.1", ":80", "127.10.1.1:", "127.10.1.1:0", "127.10.1.1:65536", "127.10.1.1:x", "127.10.1.1:-1",
     "127.10.1.1:080", "127.10.1.1:\u0661", "127.10.1.1:\u00b2", "fd00:1::1:80", "[127.10.1.1]:80", "[fd00::1]80",
     "[fd00::1%eth0]:80", "a b:80", "a/b:80", "u@h:80", "h\n:80", "h,h:80",
     "\u00e9:80", "-h:80", "h-:80", ".h:80", "h.:80",
     "127.1:80", "2130706433:80", "0x7f.1:80", "0x7f000001:80", "127.10.1.300:80", "a" * 64 + ":80", "https://h:80"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    ((path, reason),) = problems_of(changed(("cells/eu-1/zones/fra/app", address)))
    assert path == "cells.eu-1.zones.fra.app"
    assert reason.startswith(f"{address!r} is not host:port")


@pytest.mark.parametrize("address", [8080, None, ["a:1"], True])
def test_an_address_is_text(address: object) -> None:
    assert problems_of(changed(("cells/eu-1/zones/fra/app", address))) == [
        ("cells.eu-1.zones.fra.app", "input should be a valid string")
    ]


@pytest.mark.parametrize(
    "host", ["", "eu acme", "eu/acme", "https://eu", "eu\r\nX: y", "eu?x", "u@eu", "eu:", "eu:0", "é.eu"]
)
def test_what_is_no_public_host_is_refused(host: str) -> None:
    ((path, reason),) = problems_of(changed(("jurisdictions/eu/public_host", host)))
    assert path == "jurisdictions.eu.public_host"
    assert reason == f"{host!r} is not a host name, with or without a port"


def test_an_address_has_one_spelling() -> None:
    manifest = parse_manifest(
        changed(("cells/eu-1/zones/fra/storage", "DB.Fra:5432"), ("cells/us-1/zones/iad/app", "[FD00:1:0:0::0a]:1"))
    )
    assert manifest.cells["eu-1"].zones["fra"].storage == "db.fra:5432"
    address = Address(manifest.cells["us-1"].zones["iad"].app)
    assert (address, address.host, address.port) == ("[fd00:1::a]:1", "fd00:1::a", 1)


def test_all_problems_are_reported_at_once() -> None:
    spanning = changed(
        ("cells/eu-1/zones/par/country", "US"),
        ("cells/eu-1/witness", REMOVE),
        ("cells/us-1/zones/pdx/app", "127.10.1.50:1"),
        ("jurisdictions/us/countries", ["US", "NL"]),
        ("routers/muc/country", "JP"),
    )
    assert {path for path, _ in problems_of(spanning)} == {
        "jurisdictions.us.countries[1]",
        "cells.eu-1.zones.par.country",
        "cells.eu-1.witness",
        "cells.us-1.zones.pdx.app",
        "routers.muc.country",
    }
    shapes = changed(("version", 9), ("deployment", REMOVE), ("cells/eu-1/wait", 1), ("cells/us-1/state", "ajar"))
    assert [path for path, _ in problems_of(shapes)] == ["version", "deployment", "cells.eu-1.wait", "cells.us-1.state"]


@pytest.mark.parametrize(
    ("changes", "accept", "lost"),
    [
        ([("zones/par", REMOVE)], "single-zone", "cell eu-1: losing zone fra loses the cell and its data"),
        ([("witness", REMOVE)], "shared-witness",
         "cell eu-1: without a third zone, losing one zone stops writes until a person acts"),
    ],
)  # fmt: skip
def test_an_accepted_risk_loads_and_says_what_is_lost(
    changes: list[tuple[str, object]], accept: str, lost: str
) -> None:
    weaker = [(f"cells/eu-1/{path}", value) for path, value in changes]
    other = ({"single-zone", "shared-witness"} - {accept}).pop()
    assert len(problems_of(changed(*weaker, ("cells/eu-1/accept", [other])))) == 1
    assert parse_manifest(changed(*weaker, ("cells/eu-1/accept", [accept]))).losses() == [lost]


def test_a_risk_that_is_accepted_and_not_run_costs_nothing() -> None:
    assert parse_manifest(changed(("cells/eu-1/accept", ["single-zone", "shared-witness"]))).losses() == []


def test_the_topology_loads_again_and_holds_no_path_of_a_secret() -> None:
    manifest = load_manifest(GOOD)
    topology = manifest.topology()
    text = json.dumps(topology)
    assert "secrets" not in topology
    assert "operators" not in topology
    assert "/run/secrets" not in text
    assert "operators/a.pem" not in text
    again = parse_manifest(json.loads(text))
    assert again == manifest.model_copy(update={"secrets": {}, "operators": Operators()})
    assert again.topology() == topology


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [("/a", "/a", True), ("/a", "/a/", False), ("/a", "/ab", False), ("/a/*", "/a/b", True), ("/a/*", "/a/", True),
     ("/a/*", "/a", False), ("/a*", "/ab", True), ("/*", "/", True), ("/a", "/A", False)],
)  # fmt: skip
def test_path_rules(rule: str, path: str, expected: bool) -> None:
    assert PathRule(path=rule, kind="unpinned").matches(path) is expected
    router = parse_manifest(changed(("routers/muc/rules", [{"path": rule, "class": "unpinned"}]))).routers["muc"]
    assert router.is_unpinned(path) is expected


def test_a_manifest_is_not_changed_after_it_loaded() -> None:
    manifest = load_manifest(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        manifest.version = 2  # type: ignore[misc]


# --- YAML
