"""A device sends every message under a new topic for a minute: memory is bounded, nobody else notices much of it."""

from pathlib import Path

import pytest

from tests.support.inventor import SETTINGS, Seen, check, invention
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

SECONDS = 60.0
#: How much later the others may hear, at the 99th percentile.
P99_RATIO_MAX = 2.0


@pytest.mark.parametrize("kind", ["new", "made"])
def test_a_minute(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka,
        ProxyProcess(kafka.bootstrap, tmp_path, SETTINGS) as proxy,
    ):
        alone = invention(proxy, kafka.bootstrap, tmp_path, SECONDS / 3, "")
        seen = invention(proxy, kafka.bootstrap, tmp_path, SECONDS, kind)
        before, during = p99_ms(alone), p99_ms(seen)
        with capsys.disabled():
            print(f"\n{kind}: {seen.topics} topics, memory +{seen.rss_growth_bytes} B, p99 {before} -> {during} ms")
        check(proxy, seen)
        assert during < before * P99_RATIO_MAX


def p99_ms(seen: Seen) -> float:
    return float(seen.figures["ack_ms"]["p99"])
