"""100 000 messages at QoS 2 from 50 devices that repeat PUBLISH and PUBREL at random: each exactly once in Kafka."""

from pathlib import Path

import pytest

from tests.support.exactly_once import check_exactly_once, publish_exactly_once
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

CLIENTS = 50
MESSAGES = 100_000


def test_a_hundred_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka, ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        clients = publish_exactly_once(proxy.port, "once", CLIENTS, MESSAGES)
        records = check_exactly_once(kafka, f"{proxy.topic_prefix}msg", clients)
    repeated = sum(client.said.publishes_repeated for client in clients)
    released = sum(client.said.releases_repeated for client in clients)
    with capsys.disabled():
        print(
            f"\n{MESSAGES} messages from {CLIENTS} devices, {repeated} PUBLISH and {released} PUBREL packets repeated: "
            f"{records} records"
        )
    assert records == MESSAGES
