"""Twice 10 000 connections of random, truncated and mutated packets, some stalled, beside a well-behaved device."""

from pathlib import Path

import pytest

from tests.support.fuzzing import two_rounds
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

CONNECTIONS = 10_000
RSS_GROWTH_MAX = 0.05
P99_FACTOR_MAX = 2.0
MESSAGES_BEFORE = 1_000


def test_two_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka, ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        seen = two_rounds(proxy, tmp_path, CONNECTIONS, MESSAGES_BEFORE)
    with capsys.disabled():
        print(
            f"\n2 x {CONNECTIONS} connections: RSS {seen.rss_after[0]} then {seen.rss_after[1]} bytes "
            f"({seen.rss_growth:+.1%}), descriptors {seen.descriptors_before} then {seen.descriptors_after}, p99 "
            f"beside {seen.p99_before_ms:.1f} then {seen.p99_during_ms:.1f} ms over {seen.messages_during} messages"
        )
    assert seen.rss_growth < RSS_GROWTH_MAX
    assert seen.p99_during_ms < P99_FACTOR_MAX * seen.p99_before_ms
