"""A router's rules: what each may say, what is refused with its YAML path, and what holds where none is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from domicile_testing.manifests import problems_of, valid

from domicile.model import Travellers, parse_manifest
from domicile.model.rules import JwtRule, PathRule, TokenRule, described, identity_rules, is_unpinned

PEER = "spiffe://acme/us/router/iad"
SOUND: list[dict[str, Any]] = [
    {"by": "jwt"},
    {"by": "jwt", "cookie": "session"},
    {"by": "token"},
    {"by": "header", "name": "X-Tenant", "networks": ["10.1.0.0/16", "fd00::/8"], "peers": [PEER]},
    {"by": "path", "pattern": "/t/{subject}/*"},
    {"by": "path", "pattern": "/{subject}"},
    {"by": "host", "pattern": "{subject}.app.acme.example"},
    {"path": "/support/mine", "class": "pinned"},
    {"path": "/support/*", "class": "unpinned"},
]


def with_rules(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = valid()
    data["routers"]["fra"] |= {"rules": list(rules), **more}
    return data


def test_sound_rules_load_and_come_back_from_the_topology() -> None:
    manifest = parse_manifest(with_rules(*SOUND, rules_next={"percent": 12.5, "rules": SOUND}))
    router = manifest.routers["fra"]
    assert len(router.rules) == len(SOUND)
    again = parse_manifest(json.loads(json.dumps(manifest.topology())))
    assert again.routers == manifest.routers
    assert [described(rule) for rule in identity_rules(router.rules, sessions=True)] == [
        "by jwt",
        "by jwt in cookie session",
        "by token",
        "by header X-Tenant",
        "by path /t/{subject}/*",
        "by path /{subject}",
        "by host {subject}.app.acme.example",
    ]


def test_the_first_path_rule_that_matches_holds() -> None:
    router = parse_manifest(with_rules(*SOUND)).routers["fra"]
    assert router.is_unpinned("/support/x")
    assert not router.is_unpinned("/support/mine")
    assert not router.is_unpinned("/t/alice/x")
    assert not is_unpinned([], "/")


@pytest.mark.parametrize(
    "path",
    ["/support/%6dine", "/support/%256dine", "/support%2Fmine", "/support//mine", "/support;v=1/mine",
     "/support/mine;v=1", "/support\\mine", "/support%5Cmine", "//support/mine"],
)  # fmt: skip
def test_a_path_that_some_server_reads_as_a_stricter_one_counts_as_that(path: str) -> None:
    data = with_rules({"path": "/support/mine", "class": "pinned"}, {"path": "/*", "class": "unpinned"})
    data["jurisdictions"]["eu"] |= {
        "travellers": "hairpin", "traveller_paths": [{"path": "/support/mine", "travellers": "refuse"}],
    }  # fmt: skip
    manifest = parse_manifest(data)
    assert not manifest.routers["fra"].is_unpinned(path)
    assert manifest.jurisdictions["eu"].travellers_on(path) is Travellers.REFUSE


@pytest.mark.parametrize("path", ["/support/%C3%A9", "/support/a;b", "/support//x", "/support/100%25"])
def test_an_odd_path_that_all_read_as_an_unpinned_one_is_unpinned(path: str) -> None:
    rules = parse_manifest(with_rules({"path": "/support/*", "class": "unpinned"})).routers["fra"].rules
    assert is_unpinned(rules, path)
    assert not is_unpinned(rules, path.replace("/s", "/%73")), "as it is written it has to be one too"


def test_without_identity_rules_session_and_token_are_read() -> None:
    classes = [PathRule(path="/about", kind="unpinned")]
    assert identity_rules(classes, sessions=True) == [JwtRule(by="jwt"), TokenRule(by="token")]
    assert identity_rules(classes, sessions=False) == [TokenRule(by="token")]
    assert identity_rules([TokenRule(by="token")], sessions=True) == [TokenRule(by="token")]


KIND = "a rule has a path and a class, or by: token, jwt, header, path or host"
NARROW = "is everybody, and a header is believed from a trusted peer only"
OWN = "has a meaning of its own, and is no place for an identity"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"by": "cookie"}, "", KIND),
    ({"by": ["jwt"]}, "", KIND),
    ({"by": None}, "", KIND),
    ({"by": "token", "cookie": "x"}, ".cookie", "unknown key"),
    ({"by": "jwt", "cookie": "a b"}, ".cookie", "string should match pattern"),
    ({"by": "header", "name": "X-Tenant"}, "", "a header is believed from a trusted peer only"),
    ({"by": "header", "networks": ["10.0.0.0/8"]}, ".name", "required key is missing"),
    ({"by": "header", "name": "X-Tenant", "networks": ["0.0.0.0/0"]}, ".networks[0]", f"0.0.0.0/0 {NARROW}"),
    ({"by": "header", "name": "X-Tenant", "networks": ["::/0"]}, ".networks[0]", f"::/0 {NARROW}"),
    ({"by": "header", "name": "X-Tenant", "networks": ["10.0.0.1/8"]}, ".networks[0]", "'10.0.0.1/8' is not a network"),
    *(
        ({"by": "header", "name": name, "networks": ["10.0.0.0/8"]}, ".name", f"{name} {OWN}")
        for name in ("Authorization", "cookie", "Host", "Domicile-Subject-Key", "X-Forwarded-For", "Connection", "TE")
    ),
    *(
        ({"by": "header", "name": name, "networks": ["10.0.0.0/8"]}, ".name", "string should match pattern")
        for name in ("X_Tenant", "X Tenant", "X-Tenant:", "", "X-Tenänt")
    ),
    ({"by": "header", "name": "X-Tenant", "peers": ["iad"]}, ".peers[0]", "a peer is a router's identity"),
    (
        {"by": "header", "name": "X-Tenant", "peers": ["spiffe://acme/us/app/us-1.iad"]},
        ".peers[0]",
        "a peer is a router's identity",
    ),
    *(
        ({"by": "header", "name": "X-Tenant", "peers": [uri]}, ".peers[0]", f"{uri} is no router of this manifest")
        for uri in ("spiffe://other/us/router/iad", "spiffe://acme/eu/router/iad", "spiffe://acme/us/router/pdx")
    ),
    *(
        ({"by": "path", "pattern": pattern}, ".pattern", "a path pattern has one whole segment {subject}")
        for pattern in (
            "/t", "{subject}", "/t/x{subject}", "/{subject}/{subject}", "/t/{subject}x", "/t/{subject}?x",
            "/*/{subject}", "/t/%7bsubject%7d", "//{subject}", "/t/{subject}//", "/t/{id}",
        )
    ),
    *(
        ({"by": "host", "pattern": pattern}, ".pattern", "a host pattern has one whole label {subject}")
        for pattern in (
            "acme.example", "{subject}", "x{subject}.acme.example", "{subject}.*", "{subject}.Acme.example",
            "{subject}.acme.example:443", "{subject}..example", "{subject}.{subject}.example",
        )
    ),
    ({"path": "/x"}, ".class", "required key is missing"),
    ({"path": "/x", "class": "unpinned", "by": "path"}, ".pattern", "required key is missing"),
    ({"path": "/x", "class": "pinned", "travellers": "refuse"}, ".travellers", "unknown key"),
    ({"path": "/first", "class": "unpinned"}, "", "repeats routers.fra.rules[0], which comes first"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "where", "reason"), REFUSED)
def test_a_rule_is_refused_with_its_path_and_a_reason(rule: dict[str, Any], where: str, reason: str) -> None:
    first = {"path": "/first", "class": "pinned"}
    found = problems_of(with_rules(first, rule))
    assert any(path == f"routers.fra.rules[1]{where}" and why.startswith(reason) for path, why in found), found
    found = problems_of(with_rules(rules_next={"rules": [first, rule]}))
    assert any(path == f"routers.fra.rules_next.rules[1]{where}" for path, _ in found), found


@pytest.mark.parametrize("rule", ["jwt", None, ["by"], 3])
def test_a_rule_is_a_mapping(rule: Any) -> None:
    assert ("routers.fra.rules[0]", KIND) in problems_of(with_rules(rule))


def test_a_jwt_rule_needs_somebody_whose_tokens_they_are() -> None:
    data = with_rules({"by": "jwt"})
    del data["identity"]
    assert problems_of(data) == [("routers.fra.rules[0].by", "whose JWT is not said anywhere")]


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), "x"])
def test_a_percentage_is_one(percent: object) -> None:
    found = problems_of(with_rules(rules_next={"percent": percent, "rules": []}))
    assert [path for path, _ in found] == ["routers.fra.rules_next.percent"]


def test_classes_of_paths_are_not_rolled_out_by_subject() -> None:
    """The guards of the cells go by ``rules`` for everybody."""
    live, other = {"path": "/a", "class": "unpinned"}, {"path": "/b", "class": "unpinned"}
    assert problems_of(with_rules(live, rules_next={"percent": 1, "rules": [other]})) == [
        (
            "routers.fra.rules_next.percent",
            "paths are classed differently from rules, by which the cells' guards go",
        )
    ]
    parse_manifest(with_rules(live, rules_next={"percent": 0, "rules": [other]}))
    parse_manifest(with_rules(live, rules_next={"percent": 1, "rules": [live, {"by": "token"}]}))


@pytest.mark.parametrize(
    "place",
    [
        "http://id.example/jwks",
        "https://",
        "https://user@id.example/",
        "https://id.example/#x",
        "https://id.example:x/",
    ],
)
def test_keys_come_from_a_file_or_over_https(place: str) -> None:
    data = valid()
    data["identity"]["jwks"] = place
    assert [path for path, _ in problems_of(data)] == ["identity.jwks"]


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]"])
def test_keys_are_not_fetched_from_an_address_of_no_host(host: str) -> None:
    data = valid()
    data["identity"]["jwks"] = f"https://{host}/jwks"
    assert "link-local, multicast or unspecified" in problems_of(data)[0][1]


def test_the_bounds_on_keys_are_in_order() -> None:
    data = valid()
    data["identity"] |= {"jwks": "https://id.example/jwks", "refresh_seconds": 60, "outage_seconds": 59}
    assert problems_of(data) == [("identity.outage_seconds", "shorter than refresh_seconds")]


def test_the_home_may_have_another_policy_for_some_paths() -> None:
    data = valid()
    data["jurisdictions"]["eu"]["traveller_paths"] = [
        {"path": "/export/*", "travellers": "refuse"},
        {"path": "/export/public", "travellers": "hairpin"},
    ]
    eu = parse_manifest(data).jurisdictions["eu"]
    assert eu.travellers_on("/export/public") is Travellers.REFUSE, "the first that matches"
    assert eu.travellers_on("/other") is Travellers.REDIRECT
    data["jurisdictions"]["eu"]["traveller_paths"][0]["travellers"] = "wave"
    assert [path for path, _ in problems_of(data)] == ["jurisdictions.eu.traveller_paths[0].travellers"]
