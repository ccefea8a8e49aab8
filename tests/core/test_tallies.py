"""What is tallied reads exactly as if it had been counted one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from domicile.telemetry.tallies import settle, tally, times

BOUNDS = (0.001, 0.5, 2.0)


@given(st.lists(st.one_of(st.sampled_from([0.0, 0.001, 0.5, 2.0, 2.5]), st.floats(0, 5))), st.integers(0, 5))
def test_a_tally_reads_as_its_series_would(seconds: list[float], settled_after: int) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = [Counter("a", "b", ["c"], registry=each).labels("d") for each in (ours, theirs)]
    histograms = [Histogram("e", "f", ["c"], buckets=BOUNDS, registry=each).labels("d") for each in (ours, theirs)]
    for number, each in enumerate(seconds):
        tally(counters[0]).count += 1
        times(histograms[0]).add(each)
        counters[1].inc()
        histograms[1].observe(each)
        if number == settled_after:
            settle()
    settle()
    settle()
    read, expected = (
        {
            (sample.name, *sample.labels.items()): sample.value
            for metric in each.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }
        for each in (ours, theirs)
    )
    assert read == pytest.approx(expected)
    assert generate_latest(ours)
