"""The whole of Envoy's configuration in one file, as of one topology."""

from __future__ import annotations

import json
from pathlib import Path

from domicile.model.manifest import Address
from domicile.ops.edge.envoy.clusters import ROUTERS, cell_cluster, directory_cluster, router_cluster, written
from domicile.ops.edge.envoy.listener import listener
from domicile.ops.edge.envoy.proto import Message, socket
from domicile.ops.edge.envoy.routes import routes
from domicile.ops.edge.envoy.tuning import Tuning
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import View


def admin(address: Address | None) -> Message:
    return {} if address is None else {"admin": {"address": socket(address)}}


def static(
    view: View,
    equipment: Equipment,
    *,
    tuning: Tuning | None = None,
    jwks: Path | None = None,
    admin_at: Address | None = None,
) -> str:
    """A bootstrap file (JSON, which Envoy takes as it takes YAML) that needs nobody to go on.

    ``jwks``: a file in place of the directory's key set. Pure.
    """
    tuning = tuning or Tuning()
    clusters = [cell_cluster(view, equipment, cell, tuning, written(cell.name, view, cell)) for cell in view.cells]
    clusters.append(router_cluster(view, equipment, tuning, written(ROUTERS, view)))
    if jwks is None:
        clusters.append(directory_cluster(view, equipment, tuning))
    open_at = listener(view, equipment, tuning, {"route_config": routes(view, tuning)}, jwks=jwks)
    resources = {"listeners": [open_at], "clusters": clusters}
    return json.dumps({**admin(admin_at), "static_resources": resources}, indent=1)
