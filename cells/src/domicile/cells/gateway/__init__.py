"""The gateway of one cell: opens fences on pin grants, and shows shareable columns to other jurisdictions."""

from domicile.cells.gateway.api import GatewaySettings, serve_gateway

__all__ = ["GatewaySettings", "serve_gateway"]
