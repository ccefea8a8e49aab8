"""How the parts reach each other: typed clients over mutual TLS, with errors of our own tree."""

from domicile.client.directory import Change, DirectoryClient
from domicile.client.gateway import GatewayClient, Gateways
from domicile.client.http import JailedResolver, Peer
from domicile.client.keys import BackupKeyClient, KeyClient, KeyOperatorClient, KeyTurnClient
from domicile.client.router import RouterClient
from domicile.client.topology import Topology

__all__ = [
    "BackupKeyClient",
    "Change",
    "DirectoryClient",
    "GatewayClient",
    "Gateways",
    "JailedResolver",
    "KeyClient",
    "KeyOperatorClient",
    "KeyTurnClient",
    "Peer",
    "RouterClient",
    "Topology",
]
