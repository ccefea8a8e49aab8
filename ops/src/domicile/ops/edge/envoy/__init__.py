"""Envoy (1.40 or newer): requests with a valid token of this jurisdiction go to their cell, all others to a router."""

from domicile.ops.edge.envoy.bootstrap import dynamic, static
from domicile.ops.edge.envoy.recipe import Health, Recipe, Tuning
from domicile.ops.edge.envoy.watch import follow

__all__ = ["Health", "Recipe", "Tuning", "dynamic", "follow", "static"]
