"""The gateway of one cell: opens fences on pin grants, and shows shareable columns to other jurisdictions."""

from domicile.cells.gateway.api import serve_gateway
from domicile.cells.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "serve_gateway"]
