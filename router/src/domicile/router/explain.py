"""``domicile explain``: a request that an operator describes, taken through every step but the last.

The steps are those that requests take; nothing is forwarded, no token is handed out, and of the request nothing is
logged but the kind of its decision. Subject key, pin and zones are told to operators of the home's jurisdiction.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from domicile.model import DomicileError, Endpoint, Identity, Pin, PinState, require
from domicile.model.explanation import ExplainRequest, Explanation, RuleReading
from domicile.model.manifest import Router
from domicile.router.atlas import Atlas
from domicile.router.country import Countries
from domicile.router.decide import Decision, Forward, Hairpin, Listener, Question, Redirect, Refuse, decide
from domicile.router.head import REQUEST_NAMES
from domicile.router.health import Health
from domicile.router.identify import Identified, Identifier
from domicile.router.lines import Fields
from domicile.router.pins import Pins
from domicile.router.readers import Evidence
from domicile.router.resolve import Resolver
from domicile.router.target import path_of, read_target
from domicile.service import PEER, Service, json_response, read_body
from domicile.telemetry import BORDER, log

REDIRECT: Final = 307


def explain_route(service: Service, explainer: Explainer) -> None:
    """Where operators ask: on the internal listener."""

    async def answer(request: web.Request) -> web.Response:
        asked = await read_body(request, ExplainRequest)
        return json_response(await explainer.explain(asked, request[PEER]))

    service.route("POST", "/v1/explain", Endpoint.EXPLAIN, answer)


class Explainer:
    """Of one router."""

    def __init__(
        self,
        place: Router,
        atlas: Atlas,
        identifier: Identifier,
        pins: Pins,
        resolver: Resolver,
        health: Health,
        countries: Countries,
    ) -> None:
        self._countries = countries
        self._place = place
        self._atlas = atlas
        self._identifier = identifier
        self._pins = pins
        self._resolver = resolver
        self._health = health

    async def explain(self, asked: ExplainRequest, operator: Identity) -> Explanation:
        """For ``operator``. Raises nothing for a request that is refused: the refusal is the explanation."""
        told: dict[str, Any] = {"rules": []}
        pin: Pin | None = None
        try:
            pin = await self._decided(asked, told)
        except DomicileError as error:
            told |= {"decision": "refuse", "status": error.status, "code": error.code, "why": error.what}
        vantage = self._atlas.vantage
        home = pin.jurisdiction if pin is not None else vantage.jurisdiction
        withheld = operator.jurisdiction != home
        if withheld:
            for name in ("subject_key", "cell", "epoch", "state", "to"):
                told.pop(name, None)
            if pin is not None and told["decision"] == "refuse":
                told["why"] = "by what is known of the subject's home"  # the full reason names the cell
        verdict = "withheld" if withheld else "whole"
        log("explained", kind=told["decision"], from_jurisdiction=home, to_jurisdiction=operator.jurisdiction,
            verdict=verdict)  # fmt: skip
        if withheld:
            BORDER.labels(home, operator.jurisdiction, "explanation", verdict).inc()
        return Explanation(zone=vantage.zone, jurisdiction=vantage.jurisdiction, withheld=withheld, **told)

    async def _decided(self, asked: ExplainRequest, told: dict[str, Any]) -> Pin | None:
        """Puts into ``told`` what each step found, as far as it comes; the pin that counted."""
        url = urlsplit(asked.url)
        path = path_of(read_target((url.path or "/") + (f"?{url.query}" if url.query else ""), url.netloc))
        pinned = not self._place.is_unpinned(path)
        told["path_class"] = "pinned" if pinned else "unpinned"
        headers = Fields.of(asked.headers, REQUEST_NAMES)
        listener = Listener.PUBLIC if asked.router is None else Listener.INTERNAL
        told["listener"] = listener.value
        router = None if asked.router is None else Identity.parse(asked.router)
        if router is not None:
            require(router, self._atlas.vantage, Endpoint.ROUTER_INTERNAL)
        elif not pinned and asked.peer is not None:
            told["country"] = self._countries.observe(asked.peer, headers.getall("X-Forwarded-For", []))
        host = headers.get("Host", url.netloc)
        evidence = Evidence(headers, path, pinned, host=host, peer=asked.peer, router=router)
        who = await self._identifier.identify(
            evidence, lambda rule, found: told["rules"].append(RuleReading(rule=rule, found=found))
        )
        pin = await self._pin(who, told, pinned=pinned, listener=listener)
        question = Question(path, asked.method, pinned, listener, pin, down=self._health.down())
        told |= self._outcome(decide(question, self._atlas), pin)
        return pin

    async def _pin(self, who: Identified, told: dict[str, Any], *, pinned: bool, listener: Listener) -> Pin | None:
        told["rule"] = who.rule
        if not who.keys:
            return None
        known = self._pins.known(*who.keys)
        pin = await self._resolver.pin(who, pinned=pinned, listener=listener)
        # not before it is known whose subject that is
        told["subject_key"] = pin.subject_key if pin is not None else who.keys[0]
        if pin is not None:
            told["pin_from"] = "replica" if pin == known else "directory"
            told |= {"home": pin.jurisdiction, "cell": pin.cell, "epoch": pin.epoch, "state": pin.state}
        return pin

    def _outcome(self, decision: Decision, pin: Pin | None) -> dict[str, Any]:
        match decision:
            case Forward(home, None):
                whose = "" if pin is None or pin.state is PinState.ERASED else ", and the subject's home is elsewhere"
                why = f"the path is nobody's own{whose}: an open cell of {home.jurisdiction} takes it"
                to = self._health.order(home.upstreams)
                return {"decision": "forward", "why": why, "to": [each.zone for each in to]}
            case Forward(home, _):
                to = self._health.order(home.upstreams)
                why = "the subject's home is in this jurisdiction"
                return {"decision": "forward", "why": why, "to": [each.zone for each in to]}
            case Redirect(jurisdiction, host, _):
                why = f"the home is in {jurisdiction}, which has travellers on this path redirected"
                return {"decision": "redirect", "status": REDIRECT, "why": why, "public_host": host}
            case Hairpin(routers, _):
                why = f"the home is in {routers.jurisdiction}, which has travellers on this path carried through"
                return {"decision": "hairpin", "why": why, "to": [each.zone for each in routers.upstreams]}
            case Refuse(error, _):
                return {"decision": "refuse", "status": error.status, "code": error.code, "why": error.what}
