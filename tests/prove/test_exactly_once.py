"""100 000 messages at QoS 2 from 50 devices that repeat PUBLISH and PUBREL at random: each exactly once in Kafka."""

from pathlib import Path

import pytest

from tests.support.exactly_once import publish_exactly_once
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

CLIENTS = 50
MESSAGES = 100_000
SECONDS = 600.0


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_a_hundred_thousand(version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka, ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        figures = publish_exactly_once(proxy, kafka, tmp_path, version, CLIENTS, MESSAGES, SECONDS)
    repeated, verified = figures["repeated"], figures["verify"]
    with capsys.disabled():
        print(
            f"\n{MESSAGES} messages from {CLIENTS} devices in {figures['seconds_to_last_ack']:.0f} s, "
            f"{repeated['publish']} PUBLISH and {repeated['pubrel']} PUBREL packets repeated: "
            f"{verified['records']} records, {verified['lost']} lost, {verified['duplicated']} duplicated"
        )
