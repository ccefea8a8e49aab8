"""``domicile explain``: what a zone's router would do with a request, and why, without sending it anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from domicile.client import RouterClient
from domicile.model.errors import InvalidInput
from domicile.model.explanation import ExplainRequest, Explanation
from domicile.model.manifest import Manifest
from domicile.ops.health import operator_given
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, StateOption, emit_json, refusals, table

MAX_HEADER_FILE_BYTES: Final = 64 * 1024


def explain_command(
    request: Annotated[str, typer.Argument(help="Method and URL, such as 'GET https://app.acme.example/notes'.")],
    zone: Annotated[str, typer.Option("--from", help="The zone of the router that is asked.")],
    header: Annotated[
        list[str] | None,
        typer.Option("-H", "--header", help="'Name: value'; @FILE reads them from a file, @- from standard input."),
    ] = None,
    peer: Annotated[str | None, typer.Option(help="The address that the request would come from.")] = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="Another router's identity (spiffe://...), as if it came from there, on the internal listener."
        ),
    ] = None,
    jurisdiction: Annotated[
        str | None, typer.Option("--as", help="Whose operator asks; the router's own jurisdiction's without it.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The manifest that names the router.", show_default="the state folder's")
    ] = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Tell which rule fires for a request, the pin, the decision and why. Nothing is forwarded.

    The certificate is the state folder's operator's, or DOMICILE_CERTIFICATE, _KEY and _AUTHORITIES. An operator of
    another jurisdiction than the subject's home is not told the subject key, the pin or the zones. Exit status 1
    where the request would be refused.

    Example: domicile explain 'GET https://eu.acme.example/notes' -H @session.txt --from fra
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        asked = _request(request, header or [], peer, router)
        loaded = load_file(manifest or layout.manifest)
        found = asyncio.run(_ask(loaded, layout, zone, jurisdiction, asked))
    if json_output:
        emit_json({"ok": found.decision != "refuse"} | found.model_dump(mode="json"))
    else:
        _print(found)
    if found.decision == "refuse":
        raise typer.Exit(1)


def _request(line: str, headers: list[str], peer: str | None, router: str | None) -> ExplainRequest:
    method, _, url = line.strip().rpartition(" ")
    lines = [each for text in headers for each in _lines(text)]
    try:
        return ExplainRequest(
            method=method.strip().upper() or "GET",
            url=url,
            headers=[_field(each) for each in lines],
            peer=peer,
            router=router,
        )
    except ValidationError as error:
        where = error.errors(include_input=False, include_url=False)[0]["loc"][0]
        raise InvalidInput(
            f"not a request by its {where}", where="explain", remedy="'GET https://host/path' -H 'Name: value'"
        ) from None


def _lines(text: str) -> list[str]:
    if not text.startswith("@"):
        return [text]
    try:
        with open(0 if text == "@-" else text[1:], "rb", closefd=text != "@-") as stream:
            raw = stream.read(MAX_HEADER_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput((error.strerror or "unreadable").lower(), where=text[1:], remedy="name a file") from None
    if len(raw) > MAX_HEADER_FILE_BYTES:
        raise InvalidInput(f"over {MAX_HEADER_FILE_BYTES} bytes", where=text[1:], remedy="name a file of headers")
    return [line for line in raw.decode("latin-1").splitlines() if line.strip()]


def header_fields(file: Path) -> dict[str, str]:
    """The fields in a file of header lines. Raises InvalidInput."""
    return dict(_field(line) for line in _lines(f"@{file}"))


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


async def _ask(
    manifest: Manifest, layout: Layout, zone: str, jurisdiction: str | None, asked: ExplainRequest
) -> Explanation:
    router = manifest.routers.get(zone)
    home = manifest.jurisdiction_of(router.country) if router is not None else None
    if router is None or home is None:
        raise InvalidInput(
            f"no router in zone {zone!r}", where="--from", remedy=f"one of {', '.join(manifest.routers) or 'none'}"
        )
    client = RouterClient(operator_given(layout, jurisdiction or home), router.internal, home)
    try:
        return await client.explain(asked)
    finally:
        await client.close()


def _print(found: Explanation) -> None:
    rows = [["router", f"{found.zone} ({found.jurisdiction})"], ["path", found.path_class or "not read"]]
    if found.listener != "public":
        rows.append(["listener", found.listener])
    if found.country is not None:
        rows.append(["country", found.country])
    rows += [[f"rule {each.rule}", each.found] for each in found.rules]
    rows.append(["fired", found.rule or "none"])
    if found.subject_key is not None:
        rows.append(["subject", str(found.subject_key)])
    if found.cell is not None:
        rows.append(["pin", f"{found.home}/{found.cell}, epoch {found.epoch}, {found.state} (by the {found.pin_from})"])
    elif found.home is not None:
        rows.append(["home", found.home])
    answer = f", {found.status}" if found.status else ""
    place = f" to {found.public_host}" if found.public_host else f" to {', '.join(found.to)}" if found.to else ""
    rows.append(["decision", f"{found.decision}{answer}{place}"])
    rows.append(["why", found.why + (f" ({found.code})" if found.code else "")])
    table(["", ""], rows, failed=lambda row: row[0] == "decision" and found.decision == "refuse")
    if found.withheld:
        typer.echo("what only an operator of the home's jurisdiction may see is left out", err=True)
