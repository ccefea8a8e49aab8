"""Personal values don't escape by accident: generated ones are looked for in all that a program writes meanwhile."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any
from uuid import uuid4

import pytest
from domicile_testing.logged import logged
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domicile.sdk import DomicileError, Personal, Range, Record, Shareable, UnsupportedQuery, Withheld
from domicile.sdk.abroad import AbroadRow
from domicile.sdk.testing import MemoryKeys, MemoryStore, memory_home


class Patient(Record, table="patients"):
    name: Annotated[str, Personal("user.name", find=True)]
    notes: Annotated[str | None, Personal("user.health_and_medical.notes")] = None
    number: Annotated[int, Personal("user.government_id", find="cell")]
    scan: Annotated[bytes, Personal("user.biometric")]
    born: Annotated[date, Personal("user.demographic.date_of_birth", sealed=False)]
    ward: Annotated[str, Shareable("user.health_and_medical.ward")]


CANARIES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=6, max_size=30).map(lambda text: f"§{text}")
PATIENTS = st.fixed_dictionaries(
    {
        "name": CANARIES,
        "notes": CANARIES,
        "number": st.integers(10**9, 10**12),
        "scan": st.binary(min_size=8, max_size=40),
        "born": st.dates(date(1900, 1, 1), date(1999, 1, 1)),
    }
)


def spellings(values: dict[str, Any]) -> list[bytes]:
    """How each value might be written, personal and sealed ones."""
    found = [values["name"].encode(), values["notes"].encode(), str(values["number"]).encode(), values["scan"]]
    found += [values["scan"].hex().encode(), repr(values["scan"])[2:-1].encode()]
    found += [json.dumps(values[name])[1:-1].encode() for name in ("name", "notes")]
    return found


def chain(error: BaseException | None) -> str:
    told = ""
    while error is not None:
        told += f"{error} {error!r} {error.args} {vars(error)} {''.join(traceback.format_exception(error))}"
        error = error.__cause__ or error.__context__
    return told


async def written(values: dict[str, Any]) -> tuple[str, bytes]:
    """What a program tells while it works with a patient, and what lies at rest."""
    told: list[str] = []
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))  # no gate of ours between
    tracer = provider.get_tracer("application")
    store, keys = MemoryStore(), MemoryKeys()
    home = memory_home("eu", store=store, keys=keys)
    patient = home.new(Patient, ward="A", **values)
    await home.put(patient, idempotency_key=values["name"])
    page = await home.page(Patient, {"name": values["name"], "born": Range(at_least=values["born"])}, size=1)
    told += [repr(patient), str(patient), f"{patient}", repr([patient]), repr(page), repr(home), home.ticket()]
    told += [repr(Range(at_least=values["born"])), repr(copy.deepcopy(patient)), repr(patient.model_copy())]
    attempts: list[Callable[[], Any]] = [
        lambda: home.put(patient.model_copy(update={"born": values["name"]})),
        lambda: home.put(patient.model_copy(update={"ward": values["name"] + "\0"})),
        lambda: home.put(patient.model_copy(update={"number": values["name"]})),
        lambda: home.put(patient.model_copy(update={"jurisdiction": values["name"]})),
        lambda: home.put(patient, version=7),
        lambda: home.put_many([patient, patient]),
        lambda: home.put(patient.model_copy(update={"name": "x"}), idempotency_key=values["name"]),
        lambda: home.update(patient, ward=values["scan"]),
        lambda: home.find(Patient, **{"notes": values["notes"]}),
        lambda: home.find(Patient, number=values["name"]),
        lambda: home.page(Patient, {"name": values["name"]}, after=values["name"]),
        lambda: home.new(Patient, ward="A", **{**values, "born": values["name"]}),
        lambda: Patient.model_validate_json(json.dumps({"jurisdiction": "eu", "name": values["name"], "born": 7})),
        lambda: pickle.dumps(patient),
    ]
    for attempt in attempts:
        try:
            with tracer.start_as_current_span("attempt", attributes={"patient": repr(patient)}):
                outcome = attempt()
                if asyncio.iscoroutine(outcome):
                    await outcome
        except DomicileError as error:
            told.append(chain(error))
            logging.getLogger("other").error("failed with %r for %r", error, patient, exc_info=error)
        else:
            raise AssertionError("not refused")
    keys.shred(home)
    with pytest.raises(DomicileError) as refusal:
        await home.get(Patient, patient.id)
    told.append(chain(refusal.value))
    spans = exporter.get_finished_spans()
    assert [event.name for span in spans for event in span.events] == ["exception"] * len(attempts)
    told += [span.to_json(indent=None) for span in spans]
    rows = store.subject(home.subject_key, 1).tables[Patient.domicile_table.name].values()
    table = Patient.domicile_table
    hidden = [name for name, _, _ in table.stored if name not in ("born", "ward")]
    return "\n".join(told), b"\n".join(bytes(row.values[name]) for row in rows for name in hidden)


@given(PATIENTS)
@settings(max_examples=30, deadline=None)
def test_no_generated_value_is_told_or_lies_in_clear(values: dict[str, Any]) -> None:
    with logged() as lines:
        told, at_rest = asyncio.run(written(values))
    assert lines.getvalue().count("\n") >= 13, "the failures were logged"
    for spelling in spellings(values):
        assert spelling not in at_rest
        assert spelling.decode("utf-8", "replace") not in told
        assert spelling.decode("utf-8", "replace") not in lines.getvalue()
    assert values["born"].isoformat() not in told + lines.getvalue()


def test_a_record_is_not_pickled_and_can_be_copied() -> None:
    patient = memory_home("eu").new(Patient, name="a", number=1, scan=b"x", born=date(1950, 1, 1), ward="B")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(UnsupportedQuery, match="pickle"):
            pickle.dumps({"patient": patient}, protocol)
    assert copy.copy(patient) == copy.deepcopy(patient) == patient


WITHHELD = Withheld("user.name", "us")


@pytest.mark.parametrize(
    "use",
    [
        str,
        "{}".format,
        lambda value: f"{value:>10}",
        bool,
        len,
        list,
        int,
        float,
        bytes,
        hash,
        lambda value: value == "x",
        lambda value: value == value,
        lambda value: value != "x",
        lambda value: value < "x",
        lambda value: sorted([value, value]),
        lambda value: value in {"x"},
        lambda value: value in ["x"],
        json.dumps,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda value: value + "x",
        lambda value: "x" + value,
        lambda value: value["x"],
        lambda value: value.lower(),
        lambda value: {"x": "y"}[value],
    ],
)
def test_what_is_withheld_is_not_used_as_if_it_were_data(use: Callable[[Any], Any]) -> None:
    with pytest.raises((UnsupportedQuery, TypeError, AttributeError)):
        use(WITHHELD)


def test_what_is_withheld_says_what_it_is() -> None:
    assert repr(WITHHELD) == "<withheld user.name in us>"
    row: AbroadRow[Patient] = AbroadRow("us", uuid4(), {"name": WITHHELD, "ward": "A"})
    assert "<withheld user.name in us>" in repr(row)
    with pytest.raises(UnsupportedQuery):
        pickle.dumps(row)
