"""Envoy (1.40 or newer): requests with a valid token of this jurisdiction go to their cell, all others to a router."""

from domicile.ops.edge.envoy.bootstrap import static
from domicile.ops.edge.envoy.tuning import Tuning

__all__ = ["Tuning", "static"]
