"""Reading a manifest from disk, for commands: one clear line for each way in which that fails."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from domicile.model.addresses import literal
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Manifest, load_manifest, parse_manifest
from domicile.model.yaml_text import MAX_MANIFEST_BYTES, read_yaml
from domicile.ops.layout import Layout
from domicile.ops.plan import other_zone
from domicile.ops.ports import choose_ports, free_address


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_MANIFEST_BYTES + 1).decode()
    except OSError as error:
        raise InvalidInput(
            f"cannot be read: {(error.strerror or 'unreadable').lower()}", where=str(path), remedy="name a manifest"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"is not UTF-8 at byte {error.start}", where=str(path), remedy="save it as UTF-8 text"
        ) from None


def load_file(path: Path) -> Manifest:
    """Raises InvalidInput for a file that can't be read, ManifestError for a manifest that doesn't load."""
    return load_manifest(read_text(path), source=str(path))


def local_manifest(path: Path | None, layout: Layout, *, backups: bool = False, second_keys: bool = False) -> Manifest:
    """The manifest of a local world, with its ports chosen; written to the state folder as it is used.

    ``backups``: where it names no backup target, one in the state folder. ``second_keys``: where it names one address
    of a key service, another one in a second zone.
    """
    if path is None:
        text, source = files("domicile.ops").joinpath("default_world.yaml").read_text(), "the default world"
    else:
        text, source = read_text(path), str(path)
    data: Any = choose_ports(read_yaml(text, source=source), set())
    identity = data.get("identity") if isinstance(data, dict) else None
    manifest = parse_manifest(data, source=source)
    if backups:
        _add_targets(data, manifest)
    if second_keys:
        _add_key_services(data, manifest)
    if backups or second_keys:
        manifest = parse_manifest(data, source=source)
    if isinstance(identity, dict):
        identity["jwks"] = str(_own_key_set(layout.root, identity["jwks"], source))
        manifest = parse_manifest(data, source=source)
    layout.prepare()
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # a cell runs in the zone named first
    with layout.manifest.open("w") as stream:
        yaml.dump(data, stream)
    return manifest


def _add_targets(data: Any, manifest: Manifest) -> None:
    """Each in the country of a place that the data is in already."""
    data["directory"].setdefault(
        "backups", {"country": manifest.directory.sites[0].country, "folder": "backups/global"}
    )
    for name, jurisdiction in manifest.jurisdictions.items():
        target = {"country": jurisdiction.countries[0], "folder": f"backups/{name}"}
        for cell in manifest.cells_of(name).values():
            target["country"] = next(iter(cell.zones.values())).country
            break
        data["jurisdictions"][name].setdefault("backups", target)


def _add_key_services(data: Any, manifest: Manifest) -> None:
    """At the place in the second zone's network that the first one has in its own."""
    for name, jurisdiction in manifest.jurisdictions.items():
        place = literal(jurisdiction.keys.service[0])
        zones = {zone: each for cell in manifest.cells_of(name).values() for zone, each in cell.zones.items()}
        first = next((zone for zone, each in zones.items() if place is not None and place in each.network), "")
        other = other_zone(manifest, name, first)
        if place is None or other is None or len(jurisdiction.keys.service) > 1:
            continue
        offset = int(place) - int(zones[first].network.network_address)
        host = str(other[1].network[offset % other[1].network.num_addresses])
        data["jurisdictions"][name]["keys"]["service"].append(free_address(host, set()))


def _own_key_set(root: Path, jwks: str, source: str) -> Path:
    """Where the sample application's key set is written. Raises InvalidInput for a place outside the state folder."""
    path = (root / jwks).resolve()
    if "://" in jwks or not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise InvalidInput(
            "the local world writes its own users' key set here, and only inside its state folder",
            where=f"{source}: identity.jwks",
            remedy="name a relative path, such as trust/sessions.jwks.json",
        )
    return path
