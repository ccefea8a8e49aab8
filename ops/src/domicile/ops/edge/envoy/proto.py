"""Envoy's messages as JSON: the few shapes that every part of its configuration is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from domicile.model.manifest import Address
from domicile.ops.edge.equipment import Pair

Message: TypeAlias = dict[str, Any]
_TYPES: Final = "type.googleapis.com/envoy"


def typed(kind: str, **fields: Any) -> Message:
    """A message that says what it is (protobuf's Any in JSON)."""
    return {"@type": f"{_TYPES}.{kind}", **fields}


def extension(name: str, kind: str, **fields: Any) -> Message:
    """An extension by its name and the type of its configuration, both without Envoy's prefix."""
    return {"name": f"envoy.{name}", "typed_config": typed(f"extensions.{kind}", **fields)}


def socket(address: str) -> Message:
    place = Address(address)
    return {"socket_address": {"address": place.host, "port_value": place.port}}


def certificate(pair: Pair) -> Message:
    return {"certificate_chain": {"filename": str(pair.certificate)}, "private_key": {"filename": str(pair.key)}}


def tls(kind: str, common: Message, **fields: Any) -> Message:
    """``kind``: UpstreamTlsContext or DownstreamTlsContext."""
    context = f"transport_sockets.tls.v3.{kind}"
    return extension("transport_sockets.tls", context, common_tls_context=common, **fields)


def seconds(number: float) -> str:
    return f"{number:g}s"


def matching(pattern: str) -> Message:
    """A string matcher: the whole text, by RE2."""
    return {"safe_regex": {"regex": pattern}}


def mutations(steps: Iterable[Message], *, of: str) -> Message:
    """The HTTP filter that changes header fields; ``of``: request or response."""
    return extension(
        "filters.http.header_mutation",
        "filters.http.header_mutation.v3.HeaderMutation",
        mutations={f"{of}_mutations": list(steps)},
    )
