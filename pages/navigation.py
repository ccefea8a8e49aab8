"""The ways through the pages, in the order in which a reader goes: the site's navigation, and what tests hold it to.

A page that is named here and isn't there is left out, so that a page can be announced before it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"
WAYS: Final[dict[str, dict[str, str]]] = {
    "Start": {
        "Home": "index.md",
        "The local world": "local-world.md",
        "Architecture": "architecture.md",
        "Beside its neighbours": "comparison.md",
    },
    "Application developer": {
        "Your first record": "first-record.md",
        "Classify your fields": "classification.md",
        "Ask for records": "queries.md",
        "Read from abroad": "abroad.md",
        "An application on FastAPI": "application.md",
        "Background jobs": "background-jobs.md",
        "Test your application": "testing.md",
        "Logs and traces": "telemetry.md",
    },
    "Edge team": {
        "Keep your own edge": "edge.md",
        "Rules, decisions, explain": "router.md",
    },
    "SRE": {
        "Bring up: one machine": "local-world.md",
        "Bring up: Kubernetes": "kubernetes.md",
        "Observe": "observe.md",
        "Drill": "drills.md",
        "Upgrade": "upgrade.md",
        "Rotate": "rotation.md",
        "Back up and restore": "backup.md",
        "What each loss means": "availability.md",
        "The map of pins": "pins.md",
        "The directory's engine": "directory-engines.md",
        "Load": "load.md",
        "Scaling": "scaling.md",
        "Performance": "performance.md",
    },
    "Security and privacy": {
        "Threat model": "threat-model.md",
        "Articles of law": "law.md",
        "Keys and erasure": "keys.md",
        "Releases over a border": "border.md",
        "The ledger": "ledger.md",
        "Prove that nothing strayed": "scan.md",
    },
    "Reference": {
        "Manifest": "reference/manifest.md",
        "Commands": "reference/commands.md",
        "Settings": "reference/settings.md",
        "Errors": "reference/errors.md",
        "Status codes, the policy": "status-codes.md",
        "Metrics and alerts": "reference/metrics.md",
        "HTTP APIs": "reference/http.md",
    },
}


def navigation() -> list[dict[str, list[dict[str, str]]]]:
    """As the generator takes it: each page once, where it is named first."""
    seen: set[str] = set()
    found = []
    for way, pages in WAYS.items():
        named = {title: page for title, page in pages.items() if (DOCS / page).exists() and page not in seen}
        seen.update(named.values())
        found.append({way: [{title: page} for title, page in named.items()]})
    return found
