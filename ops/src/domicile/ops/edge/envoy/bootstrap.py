"""Envoy's configuration as files: one that says all of it, or several that a running Envoy follows (xDS by files).

Pure: text by name. Who writes the files, and in which order, is ``watch``'s concern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domicile.ops.edge.envoy.clusters import (
    ROUTERS,
    assignment,
    cell_cluster,
    decider_cluster,
    directory_cluster,
    discovered,
    has_names,
    router_cluster,
    written,
)
from domicile.ops.edge.envoy.listener import listener
from domicile.ops.edge.envoy.proto import Message, extension, socket, typed
from domicile.ops.edge.envoy.recipe import Recipe
from domicile.ops.edge.envoy.routes import ROUTES, routes
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import EdgeCell, View

BOOTSTRAP: Final = "envoy.json"
LISTENERS: Final = "listeners.json"
CLUSTERS: Final = "clusters.json"
ROUTE_TABLE: Final = "routes.json"
ENDPOINTS: Final = "endpoints"


def _shown(message: Message) -> str:
    return json.dumps(message, indent=1) + "\n"


def _process(view: View, recipe: Recipe) -> Message:
    limit = extension(
        "resource_monitors.global_downstream_max_connections",
        "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=recipe.tuning.clients,
    )
    admin = {} if recipe.admin is None else {"admin": {"address": socket(recipe.admin)}}
    return {
        "node": {"id": f"edge-{view.zone}", "cluster": f"{view.deployment}-{view.jurisdiction}"},
        "overload_manager": {"resource_monitors": [limit]},
        **admin,
    }


def _others(view: View, equipment: Equipment, recipe: Recipe) -> list[Message]:
    """Whom an edge asks, other than for a client."""
    found = [decider_cluster(view, equipment, recipe.tuning)] if recipe.asks else []
    return found + ([directory_cluster(view, equipment, recipe.tuning)] if recipe.needs_directory else [])


def static(view: View, equipment: Equipment, recipe: Recipe | None = None) -> str:
    """A bootstrap file (JSON, which Envoy takes as it takes YAML) as of one topology."""
    recipe = recipe or Recipe()
    tuning = recipe.tuning
    clusters = [cell_cluster(view, equipment, cell, recipe, written(cell.name, view, cell)) for cell in view.cells]
    clusters.append(router_cluster(view, equipment, tuning, written(ROUTERS, view)))
    clusters += _others(view, equipment, recipe)
    open_at = listener(view, equipment, recipe, {"route_config": routes(view, recipe)})
    resources = {"listeners": [open_at], "clusters": clusters}
    return _shown({**_process(view, recipe), "static_resources": resources})


@dataclass(frozen=True, slots=True)
class Files:
    """What a running Envoy follows. ``clusters`` by name; ``endpoints``: text by the name of the file, below the
    folder."""

    bootstrap: str
    listeners: str
    routes: str
    clusters: Mapping[str, Message]
    endpoints: Mapping[str, str]


def _source(path: Path) -> Message:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def resources(kind: str, found: list[Message]) -> str:
    """The content of a file of one kind of resource: Listener, Cluster, and so on, by the end of its type's name."""
    return _shown({"resources": [typed(kind, **each) for each in found]})


def clusters_text(clusters: Mapping[str, Message]) -> str:
    return resources("config.cluster.v3.Cluster", list(clusters.values()))


def dynamic(view: View, equipment: Equipment, folder: Path, recipe: Recipe | None = None) -> Files:
    """Files for ``folder``. What changes with the topology is in others than the listener: a changed listener would
    end its connections."""
    recipe = recipe or Recipe()
    tuning = recipe.tuning
    endpoints: dict[str, str] = {}

    def endpoints_of(name: str, cell: EdgeCell | None = None) -> Message:
        if has_names(view, cell):
            return written(name, view, cell)
        file = f"{ENDPOINTS}/{name}.json"
        found = assignment(name, view, cell)
        endpoints[file] = resources("config.endpoint.v3.ClusterLoadAssignment", [found])
        return discovered(_source(folder / file))

    found = [cell_cluster(view, equipment, cell, recipe, endpoints_of(cell.name, cell)) for cell in view.cells]
    found.append(router_cluster(view, equipment, tuning, endpoints_of(ROUTERS)))
    found += _others(view, equipment, recipe)
    followed = {"rds": {"route_config_name": ROUTES, "config_source": _source(folder / ROUTE_TABLE)}}
    bootstrap = {
        **_process(view, recipe),
        "dynamic_resources": {
            "lds_config": _source(folder / LISTENERS),
            "cds_config": _source(folder / CLUSTERS),
        },
    }
    return Files(
        bootstrap=_shown(bootstrap),
        listeners=resources("config.listener.v3.Listener", [listener(view, equipment, recipe, followed)]),
        routes=resources("config.route.v3.RouteConfiguration", [routes(view, recipe)]),
        clusters={each["name"]: each for each in found},
        endpoints=endpoints,
    )
