"""Kafka is away for a minute under load: frozen, stopped, killed. Nobody is cut, nothing is lost, memory is bounded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.outage import QUEUE_BYTES_MAX, SETTINGS, Seen, check, outage
from tests.support.proxy import ProxyProcess

SECONDS = 60.0
WAYS: dict[str, tuple[Callable[[KafkaBroker], None], Callable[[KafkaBroker], None]]] = {
    "frozen": (KafkaBroker.pause, KafkaBroker.resume),
    "stopped": (KafkaBroker.stop, KafkaBroker.start),
    "killed": (KafkaBroker.kill, KafkaBroker.start),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_minute(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop, start = WAYS[way]
    with (
        KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka,
        ProxyProcess(kafka.bootstrap, tmp_path, SETTINGS) as proxy,
    ):
        seen, figures = outage(proxy, kafka, tmp_path, SECONDS, lambda: stop(kafka), lambda: start(kafka))
        with capsys.disabled():
            print(f"\n{way} for {SECONDS:g} s: {described(seen, figures)}")
        check(proxy, seen, figures)


def described(seen: Seen, figures: dict[str, Any]) -> str:
    measured = {
        "slowest PINGRESP (ms)": seen.slowest_ping_ms,
        "/healthz 503 after (s)": round(seen.unhealthy_after_seconds or 0, 1),
        "queue (bytes)": f"{max(seen.queue_bytes):.0f} of {QUEUE_BYTES_MAX}",
        "RSS growth (bytes)": seen.rss_growth_bytes,
        "CPU share": round(seen.cpu_share, 3),
        "resumed after (s)": round(seen.resumed_after_seconds, 2),
        "acknowledged": figures["acked"],
        **{name: figures["verify"][name] for name in ("lost", "reordered", "duplicated")},
    }
    return ", ".join(f"{name} {value}" for name, value in measured.items())
