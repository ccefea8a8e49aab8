"""TLS contexts that check who is at the other end, since TLS libraries don't check URI names.

The check runs inside the handshake (``SSLContext.sslobject_class``), so that not one byte of a request is
sent to, or read from, a peer with the wrong name. It holds for a leaf:

- exactly one URI name, of this deployment;
- its issuer is the authority of the jurisdiction that the name claims;
- the jurisdiction and role are among those that this side of the connection expects.

TLS 1.3 only: every peer is ours (a public listener also takes 1.2).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from domicile.identity.authority import common_name
from domicile.model.access import Identity, Role
from domicile.model.errors import InvalidInput, Unauthenticated

PeerCheck = Callable[[Identity], bool]
_ALPN: Final = ["http/1.1"]


def identity_of(certificate: dict[str, Any]) -> Identity:
    """The identity in a verified peer certificate (``SSLObject.getpeercert()``).

    Raises Unauthenticated where it carries none of ours, several, or one that its issuer may not sign.
    """
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise Unauthenticated(f"a peer's certificate carries {len(uris)} URI names, not one")
    try:
        identity = Identity.parse(uris[0])
    except InvalidInput as error:
        raise Unauthenticated(error.what) from None
    issuer = dict(pair for rdn in certificate.get("issuer", ()) for pair in rdn)
    expected = {"organizationName": identity.deployment, "commonName": common_name(identity.jurisdiction)}
    if issuer != expected:
        raise Unauthenticated(f"an authority that is not {identity.jurisdiction}'s signed {identity.uri}")
    return identity


def _checked(connection: ssl.SSLObject | ssl.SSLSocket) -> Identity:
    context = connection.context
    assert isinstance(context, _Context)
    try:
        peer = identity_of(dict(connection.getpeercert() or {}))
    except Unauthenticated as error:
        raise ssl.SSLCertVerificationError(error.what) from None
    if not context.accepts(peer):
        raise ssl.SSLCertVerificationError(f"{peer.uri} is not expected here")
    return peer


class _CheckedPeer(ssl.SSLObject):
    """An SSL object whose handshake fails unless its peer is who the context expects."""

    peer: Identity

    def do_handshake(self) -> None:
        super().do_handshake()
        self.peer = _checked(self)


class _CheckedSocket(ssl.SSLSocket):
    """The same for a blocking socket."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _checked(self)


class _Context(ssl.SSLContext):
    sslobject_class = _CheckedPeer
    sslsocket_class = _CheckedSocket
    accepts: PeerCheck


@dataclass(frozen=True, slots=True)
class Credentials:
    """A process's own certificate and key, and the authorities that it knows (``<jurisdiction>.pem``)."""

    certificate: Path
    key: Path
    authorities: Path

    @property
    def identity(self) -> Identity:
        """Whom this certificate names; raises InvalidInput where it is not one of ours, or can't be read."""
        try:
            return _own_identity(self.certificate, self.certificate.stat().st_mtime_ns)
        except OSError as error:
            raise InvalidInput(
                f"cannot read the certificate: {(error.strerror or 'unreadable').lower()}",
                where=str(self.certificate),
                remedy="see DOMICILE_CERTIFICATE",
            ) from None

    def _context(self, protocol: int, jurisdictions: Collection[str], accepts: PeerCheck) -> ssl.SSLContext:
        context = _Context(protocol)
        context.accepts = accepts
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(_ALPN)
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError:
            # ssl.SSLError is one too; neither says more than that the two files are no pair
            raise InvalidInput(
                "the certificate's private key cannot be read, or belongs to another certificate",
                where=str(self.key),
                remedy="see DOMICILE_KEY",
            ) from None
        if not jurisdictions:
            raise InvalidInput("holds no authority", where=str(self.authorities), remedy="see DOMICILE_AUTHORITIES")
        for jurisdiction in jurisdictions:
            authority = self.authorities / f"{jurisdiction}.pem"
            if not authority.is_file():
                raise InvalidInput(
                    f"no authority for {jurisdiction}", where=str(authority), remedy="run `domicile up` again"
                )
            try:
                context.load_verify_locations(authority)
            except OSError:
                raise InvalidInput(f"the authority of {jurisdiction} cannot be read", where=str(authority)) from None
        return context

    def client(self, jurisdiction: str, roles: Collection[Role], *, cell: str | None = None) -> ssl.SSLContext:
        """To connect to a process of one jurisdiction, in one of ``roles`` (and of one cell, if given)."""
        deployment = self.identity.deployment

        def accepts(peer: Identity) -> bool:
            return (
                peer.deployment == deployment
                and peer.jurisdiction == jurisdiction
                and peer.role in roles
                and (cell is None or peer.cell == cell)
            )

        context = self._context(ssl.PROTOCOL_TLS_CLIENT, [jurisdiction], accepts)
        context.check_hostname = True
        return context

    def server(self, jurisdictions: Collection[str], roles: Collection[Role]) -> ssl.SSLContext:
        """To serve processes of these jurisdictions in these roles, and the own one's probe; each route narrows it by
        the matrix."""
        own = self.identity

        def accepts(peer: Identity) -> bool:
            if peer == own:
                return True
            return peer.deployment == own.deployment and peer.jurisdiction in jurisdictions and peer.role in roles

        return self._context(ssl.PROTOCOL_TLS_SERVER, jurisdictions, accepts)

    def known_jurisdictions(self) -> list[str]:
        return sorted(path.stem for path in self.authorities.glob("*.pem"))


def public_server(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener that the public reaches: no client certificate is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    context.load_cert_chain(certificate, key)
    return context


def peer_of(transport: asyncio.BaseTransport | None) -> Identity:
    """The identity at the other end of an open connection; raises Unauthenticated where there is none."""
    ssl_object = transport.get_extra_info("ssl_object") if transport is not None else None
    if not isinstance(ssl_object, _CheckedPeer):
        raise Unauthenticated("this endpoint is for processes with a certificate of this deployment")
    return ssl_object.peer


@lru_cache(maxsize=32)
def _own_identity(path: Path, _modified: int) -> Identity:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return Identity.parse(uri)
    except (ValueError, x509.ExtensionNotFound, InvalidInput):
        raise InvalidInput("not a certificate with one identity of ours", where=str(path)) from None
