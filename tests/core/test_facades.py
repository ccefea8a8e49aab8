"""The public surface of core is a decision: what is added or dropped is added or dropped here, too."""

from __future__ import annotations

from importlib import import_module

import pytest

FACADES = {
    "domicile.model": """
        ALIAS_KINDS COUNTRIES GLOBAL MATRIX PIN_GRANT_SECONDS RESIDENCY_TOKEN_SECONDS Address AliasKey Cell
        CellState Conflict CrossBorderAccess Destroyed DomicileError Endpoint FenceRefused FieldClass Forbidden
        IdentitiesDisagree Identity InvalidInput Jurisdiction KeyDestroyed KeyWithheld Manifest ManifestError
        ManifestProblem Misdirected ModelError NotFound Pepper Peppers Personal Pin PinGrant PinState Position
        Principal ResidencyToken Risk Role Router Rule Scope Shareable SubjectKey TokenInvalid TokenType TooLarge
        TooMany Travellers Unauthenticated Unavailable UnknownSubject UnsupportedQuery Withheld WrongCell
        WrongJurisdiction Zone by_code extend_taxonomy load_manifest may normalise_alias parse_manifest read_yaml
        require
    """,
    "domicile.identity": """
        Authority Credentials HeadSigner Keyring Signer Verifier check_endorsed endorse fingerprint identity_of key_id
        peer_of public_key public_server retirement_seconds sign_topology signed signer sync_folder verify_head
        verify_receipt verify_topology write_private
    """,
    "domicile.detect": "MAX_TEXT Detector Finding Rule",
    "domicile.client": """
        BackupKeyClient Change DirectoryClient GatewayClient Gateways JailedResolver KeyClient KeyOperatorClient
        KeyTurnClient Peer RouterClient Topology
    """,
    "domicile.telemetry": """
        BACKUP_AGE BACKUP_FAILURES BORDER BORDER_BYTES DECISIONS DURATION FIELDS HOLDER_DURATION HOLDER_FAILURES
        LEDGER_ALARM LEDGER_HEAD_AGE LEDGER_LINES LEDGER_REFUSED LOG_LAG LOG_LOSSES LOG_WAITING REFERENCE_AGE
        REFERENCE_BEHIND REFERENCE_VERSION REFUSALS RELEASE_FAULTS REPLICA_LAG
        REPLICA_PINS REPLICA_STALENESS REQUESTS RULE_DISAGREEMENTS SHED STALE_READS STORAGE_LAG UNANSWERED_COMMITS
        UPSTREAM_DURATION UPSTREAM_EJECTIONS UPSTREAM_REQUESTS UPSTREAM_RETRIES FieldNotAllowed configure_logs
        log place_of render_metrics warn
    """,
    "domicile.service": """
        MAX_BODY_BYTES PEER Addresses Operation ProcessSettings Service cannot_listen ended json_response load_settings
        operator_keys_in problem_middleware problem_of problem_response read_body repeated run where_invalid
    """,
}


@pytest.mark.parametrize("name", FACADES)
def test_the_facade_is_frozen(name: str) -> None:
    facade = import_module(name)
    assert sorted(facade.__all__) == sorted(FACADES[name].split())
    assert [each for each in facade.__all__ if not hasattr(facade, each)] == []
