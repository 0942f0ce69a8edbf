"""Percentiles are right to the width of a bucket, never too small, and survive merging."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram


@given(st.lists(st.integers(1, 100_000_000), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_percentile_is_the_ranked_value_to_within_a_bucket(microseconds: list[int], fraction: float) -> None:
    halves = Histogram(), Histogram()
    for position, each in enumerate(microseconds):
        halves[position % 2].add(each / 1e6)
    merged = Histogram()
    for half in halves:
        merged.merge(half)
    rank = next(rank for rank in range(1, len(microseconds) + 1) if rank >= fraction * len(microseconds))
    exact = sorted(microseconds)[rank - 1] / 1e6
    percentile = merged.percentile(fraction)
    assert percentile is not None
    assert exact - 2e-6 <= percentile <= exact * (1 + 1 / 64) + 2e-6


def test_counts_many_at_once_and_keeps_the_exact_maximum() -> None:
    histogram = Histogram()
    histogram.add(0.001, 98)
    histogram.add(1.0, 2)
    assert histogram.summary_ms() == {"count": 100, "p50": 1.008, "p95": 1.008, "p99": 1000.0, "max": 1000.0}


def test_a_latency_beyond_the_last_bucket_counts_there() -> None:
    histogram = Histogram()
    histogram.add(10**6)
    assert histogram.percentile(0.5) == pytest.approx(2**36 / 1e6)


def test_empty() -> None:
    assert Histogram().summary_ms() == {"count": 0, "p50": None, "p95": None, "p99": None, "max": None}
