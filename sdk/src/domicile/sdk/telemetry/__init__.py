"""Telemetry that stays clean: a logging filter, an OpenTelemetry processor and a propagator by allow-list.

    gate = TelemetryGate(["http.route", "cart.size"], countries=["DE", "FR"])
    for handler in logging.getLogger().handlers:
        handler.addFilter(PersonalFilter(gate))
    provider.add_span_processor(PersonalProcessor(BatchSpanProcessor(exporter), gate))
    set_global_textmap(DeclaredBaggage(gate))

An application can use them alone, without a cell or a directory.
"""

from domicile.sdk.telemetry.gate import TelemetryGate
from domicile.sdk.telemetry.logs import PersonalFilter
from domicile.sdk.telemetry.spans import DeclaredBaggage, PersonalProcessor

__all__ = ["DeclaredBaggage", "PersonalFilter", "PersonalProcessor", "TelemetryGate"]
