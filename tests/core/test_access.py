"""Who may speak to whom: the whole matrix, written out, and the names that it is about."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import MATRIX, Endpoint, Forbidden, Identity, InvalidInput, Role, may, require

E, R = Endpoint, Role

# "cell": the same cell; "jurisdiction": the same jurisdiction; "any": also from another; absent: never
ALLOWED: dict[Endpoint, dict[Role, str]] = {
    E.HEALTH: {R.OPERATOR: "any"},
    E.READY: {R.EDGE: "jurisdiction", R.OPERATOR: "any"},
    E.PINS_FOLLOW: {R.ROUTER: "any", R.EDGE: "any", R.OPERATOR: "any"},
    E.PINS_READ: {R.ROUTER: "any", R.APP: "any", R.GATEWAY: "any", R.OPERATOR: "any"},
    E.PINS_CLAIM: {R.APP: "any"},
    E.PINS_GRANT: {R.GATEWAY: "any"},
    E.PINS_ERASE: {R.GATEWAY: "any"},
    E.PINS_REKEY: {R.GATEWAY: "any"},
    E.PEPPERS_READ: {R.OPERATOR: "any"},
    E.PEPPERS_CHANGE: {R.OPERATOR: "jurisdiction"},
    E.ALIASES: {R.APP: "any"},
    E.TOPOLOGY_READ: {
        R.ROUTER: "any",
        R.EDGE: "any",
        R.APP: "any",
        R.GATEWAY: "any",
        R.KEYS: "any",
        R.BACKUP: "any",
        R.OPERATOR: "any",
        R.LOAD: "any",
    },
    E.TOPOLOGY_PUBLISH: {R.OPERATOR: "jurisdiction"},
    E.SIGNING_KEYS_PUBLISH: {R.ROUTER: "any"},
    E.SIGNING_KEYS_REVOKE: {R.OPERATOR: "jurisdiction"},
    E.RECONCILIATION_READ: {R.GATEWAY: "any", R.OPERATOR: "any"},
    E.RECONCILIATION_REPORT: {R.GATEWAY: "any"},
    E.REPLICAS_READ: {R.OPERATOR: "any"},
    E.DATA_KEYS: {R.APP: "jurisdiction", R.GATEWAY: "jurisdiction"},
    E.KEYS_SHRED: {R.APP: "jurisdiction", R.GATEWAY: "jurisdiction"},
    E.KEYS_ROTATE: {R.OPERATOR: "jurisdiction"},
    E.KEYS_TURN: {R.GATEWAY: "jurisdiction"},
    E.BACKUP_KEYS: {R.BACKUP: "jurisdiction"},
    E.KEYS_RECEIPTS: {R.APP: "jurisdiction", R.GATEWAY: "jurisdiction", R.OPERATOR: "jurisdiction"},
    E.HELD_KEYS: {R.KEYS: "jurisdiction"},
    E.FENCES: {R.APP: "cell"},
    E.FENCES_REKEY: {R.OPERATOR: "jurisdiction"},
    E.FENCES_ERASE: {R.APP: "jurisdiction", R.OPERATOR: "jurisdiction"},
    E.FENCES_SHRED: {R.APP: "cell"},
    E.RECORDS: {R.APP: "cell"},
    E.LEDGER_HEADS: {R.GATEWAY: "any", R.OPERATOR: "any"},
    E.LEDGER_READ: {R.OPERATOR: "jurisdiction"},
    E.LEDGER_CARRIED: {R.ROUTER: "jurisdiction"},
    E.ABROAD_READ: {R.APP: "any"},
    E.RELEASES: {R.OPERATOR: "jurisdiction"},
    E.ARRIVALS: {R.GATEWAY: "any"},
    E.REFERENCES_PULL: {R.GATEWAY: "any"},
    E.REFERENCES_READ: {R.APP: "jurisdiction", R.OPERATOR: "jurisdiction"},
    E.APP_REQUESTS: {R.ROUTER: "jurisdiction", R.EDGE: "jurisdiction"},
    E.GATEWAY_REQUESTS: {R.ROUTER: "jurisdiction"},
    E.ROUTER_INTERNAL: {R.ROUTER: "any"},
    E.EXPLAIN: {R.OPERATOR: "any"},
    E.DECIDE: {R.EDGE: "jurisdiction"},
    E.CELL_STORAGE: {R.APP: "cell", R.GATEWAY: "cell", R.OPERATOR: "jurisdiction"},
    E.KEY_STORAGE: {R.KEYS: "jurisdiction", R.OPERATOR: "jurisdiction"},
    E.REPLICATION: {R.STORAGE: "cell"},
    E.DIRECTORY_STORAGE: {R.DIRECTORY: "jurisdiction", R.OPERATOR: "jurisdiction"},
    E.BACKUP_STREAM: {R.BACKUP: "jurisdiction"},
}
CALLEE = Identity("acme", "eu", R.STORAGE, "eu-1.fra")
DISTANCES = {
    "same cell": ("eu", "eu-1.par"),
    "sibling cell": ("eu", "eu-2.fra"),
    "abroad": ("us", "us-1.iad"),
    "abroad, cell of the same name": ("us", "eu-1.fra"),
    "global": ("global", "eu-1.fra"),
}
REACH = {
    "any": set(DISTANCES),
    "jurisdiction": {"same cell", "sibling cell"},
    "cell": {"same cell"},
    "never": set(),
}


def test_the_table_is_total() -> None:
    assert set(ALLOWED) == set(Endpoint) == set(MATRIX)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_field_of_the_matrix(endpoint: Endpoint) -> None:
    for role, (distance, (jurisdiction, name)) in itertools.product(Role, DISTANCES.items()):
        caller = Identity("acme", jurisdiction, role, name)
        expected = distance in REACH[ALLOWED[endpoint].get(role, "never")]
        assert may(caller, CALLEE, endpoint) is expected, (role, distance)
        assert may(Identity("other", jurisdiction, role, name), CALLEE, endpoint) is False, (role, distance)
        if expected:
            require(caller, CALLEE, endpoint)
        else:
            with pytest.raises(Forbidden) as caught:
                require(caller, CALLEE, endpoint)
            assert caught.value.where == CALLEE.uri


def test_a_process_may_ask_itself_how_it_is_and_nothing_else() -> None:
    for endpoint in (E.HEALTH, E.READY):
        assert may(CALLEE, CALLEE, endpoint)
        assert not may(CALLEE, Identity("acme", "eu", R.STORAGE, "eu-1.par"), endpoint)
    gateway = Identity("acme", "eu", R.GATEWAY, "eu-1.fra")
    assert not may(gateway, gateway, E.RECORDS)


def test_who_names_no_cell_is_in_none() -> None:
    """A key store's name has no cell; that two processes both have none makes them no neighbours."""
    callee = Identity("acme", "eu", R.STORAGE, "fra")
    for role in Role:
        name = "eu-1.fra" if role in (R.APP, R.GATEWAY) else "fra"
        assert not may(Identity("acme", "eu", role, name), callee, E.FENCES)


def test_nodes_of_a_key_store_replicate_among_themselves_only() -> None:
    store = Identity("acme", "eu", R.STORAGE, "fra")
    assert may(Identity("acme", "eu", R.STORAGE, "par"), store, E.REPLICATION)
    for jurisdiction, name in (("eu", "eu-1.par"), ("us", "iad"), ("global", "par")):
        assert not may(Identity("acme", jurisdiction, R.STORAGE, name), store, E.REPLICATION)


@pytest.mark.parametrize(
    ("uri", "jurisdiction", "role", "cell", "zone"),
    [
        ("spiffe://acme/eu/router/fra", "eu", R.ROUTER, None, "fra"),
        ("spiffe://acme/eu/app/eu-1.fra", "eu", R.APP, "eu-1", "fra"),
        ("spiffe://acme-2/global/directory/iad-1", "global", R.DIRECTORY, None, "iad-1"),
        ("spiffe://acme/eu/storage/eu-1.fra", "eu", R.STORAGE, "eu-1", "fra"),
    ],
)
def test_an_identity_is_read_and_written(uri: str, jurisdiction: str, role: Role, cell: str | None, zone: str) -> None:
    identity = Identity.parse(uri)
    assert (identity.jurisdiction, identity.role, identity.cell, identity.zone) == (jurisdiction, role, cell, zone)
    assert identity.uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "acme/eu/router/fra",
        "https://acme/eu/router/fra",
        "SPIFFE://acme/eu/router/fra",
        "spiffe://acme/eu/router",
        "spiffe://acme/eu/router/",
        "spiffe://acme/eu/router/fra/x",
        "spiffe://acme/eu/router/fra?x",
        "spiffe://acme/eu/router/fra#x",
        "spiffe://acme/eu/router/fra\n",
        "spiffe://acme:1/eu/router/fra",
        "spiffe://user@acme/eu/router/fra",
        "spiffe://acme/EU/router/fra",
        "spiffe://acme/e%75/router/fra",
        "spiffe://acme//router/fra",
        "spiffe://acme/eu/../us/router/fra",
        "spiffe://acme/eu/admin/fra",
        "spiffe://acme/eu/app/fra",
        "spiffe://acme/eu/gateway/fra",
        "spiffe://acme/eu/app/a.b.c",
        "spiffe://acme/eu/app/.fra",
        "spiffe://acme/eu/app/eu-1.",
        "spiffe://acmé/eu/router/fra",
        "spiffe://acme/eu/router/" + "a" * 300,
    ],
)
def test_anything_else_is_no_identity(uri: str) -> None:
    with pytest.raises(InvalidInput):
        Identity.parse(uri)


LABEL = st.from_regex(r"\A[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4})?\Z")


@given(LABEL, LABEL, st.sampled_from(Role), LABEL, LABEL)
def test_every_identity_round_trips(deployment: str, jurisdiction: str, role: Role, cell: str, zone: str) -> None:
    identity = Identity(deployment, jurisdiction, role, f"{cell}.{zone}")
    assert Identity.parse(identity.uri) == identity


@given(st.text(max_size=80) | st.text(max_size=20).map(lambda s: "spiffe://acme/eu/router/" + s))
def test_junk_is_refused_or_reads_back_the_same(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except InvalidInput:
        return
    assert identity.uri == text
