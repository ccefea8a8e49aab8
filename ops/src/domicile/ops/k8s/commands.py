"""``domicile k8s``: what a cluster is told, from the manifest that every other part goes by."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

from domicile.model.errors import InvalidInput
from domicile.ops.k8s.render import ROOT, render
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, emit_json, refusals

app = typer.Typer(help="Render what a Kubernetes cluster is told.", no_args_is_help=True)
MARKER: Final = "rendered-by-domicile"
_KINDS: Final = ("authorities", "operators")


@app.callback()
def _k8s() -> None:
    """Nothing here speaks to a cluster: files are written, and applied by whoever may."""


def read_trust(folder: Path) -> dict[str, dict[str, str]]:
    """The public files (``*.pem``) of ``authorities/`` and ``operators/``. Raises InvalidInput for a private key."""
    found: dict[str, dict[str, str]] = {}
    for kind in _KINDS:
        found[kind] = {}
        for path in sorted((folder / kind).glob("*.pem")):
            text = path.read_text(errors="replace")
            if "PRIVATE KEY" in text:
                raise InvalidInput("holds a private key", where=str(path), remedy="put public ones there alone")
            found[kind][path.name] = text
    return found


def write(files: dict[str, str], place: Path) -> None:
    """All of them or none, in the place of an earlier rendering. Raises InvalidInput for a folder of other things."""
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not (place / MARKER).exists())):
        raise InvalidInput("is not empty and was not rendered", where=str(place), remedy="name another folder")
    draft = place.with_name(f".{place.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for name, text in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (draft / MARKER).write_text("Rendered from a manifest: change that, and render again.\n")
        if place.exists():
            shutil.rmtree(place)
        draft.replace(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@app.command("render", epilog="Example: domicile k8s render domicile.yaml --trust trust -o build/k8s")
def render_command(
    manifest: Annotated[Path, typer.Argument(help="The manifest, with a kubernetes section.")] = Path("domicile.yaml"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an earlier rendering goes.")] = Path(
        "build/k8s"
    ),
    trust: Annotated[
        Path, typer.Option(help="Folder with authorities/<jurisdiction>.pem and operators/*.pem: public files alone.")
    ] = Path("trust"),
    json_output: JsonOption = False,
) -> None:
    """Write kustomizations: bases, an overlay for each cell, jurisdiction and the directory, a root for each cluster.

    Example: domicile k8s render domicile.yaml --trust trust -o build/k8s
    """
    with refusals(as_json=json_output):
        files = render(load_file(manifest), read_trust(trust))
        write(files, output)
    roots = [str(output / Path(name).parent) for name in files if name.startswith(f"{ROOT}/")]
    if json_output:
        emit_json({"ok": True, "files": len(files), "clusters": roots})
        return
    typer.echo(f"{output}: {len(files)} files")
    for root in roots:
        typer.echo(f"kubectl apply --server-side -k {root}")
