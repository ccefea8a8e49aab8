"""Fixtures that more than one folder of tests needs; a folder's own conftest may put another in one's place."""

from __future__ import annotations

import signal

import pytest

pytest_plugins = ["domicile_testing.two_cells"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # run in the background of a shell: what is started here would ignore Ctrl-C like its parent
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole worlds first: each is one worker's for a minute, and the small tests fill what is left of the others."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How far the long forms came that are bounded by time (``record_property``)."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
