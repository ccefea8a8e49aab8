"""Who is speaking: authorities, TLS contexts that check names, signed statements."""

from domicile.identity.authority import Authority, sync_folder, write_private
from domicile.identity.endorsements import check_endorsed, endorse
from domicile.identity.heads import HeadSigner, verify_head
from domicile.identity.keyring import Keyring, retirement_seconds
from domicile.identity.statements import signed, signer
from domicile.identity.tls import Credentials, identity_of, peer_of, public_server
from domicile.identity.tokens import (
    Signer,
    Verifier,
    fingerprint,
    key_id,
    public_key,
    sign_topology,
    verify_receipt,
    verify_topology,
)

__all__ = [
    "Authority",
    "Credentials",
    "HeadSigner",
    "Keyring",
    "Signer",
    "Verifier",
    "check_endorsed",
    "endorse",
    "fingerprint",
    "identity_of",
    "key_id",
    "peer_of",
    "public_key",
    "public_server",
    "retirement_seconds",
    "sign_topology",
    "signed",
    "signer",
    "sync_folder",
    "verify_head",
    "verify_receipt",
    "verify_topology",
    "write_private",
]
