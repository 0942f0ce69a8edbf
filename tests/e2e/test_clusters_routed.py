"""A rule that names a further cluster: what is meant for it waits, and nobody else does."""

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until

pytestmark = pytest.mark.kafka
BACKUP = "kafka.clusters.backup"
SETTINGS = {
    f"{BACKUP}.replication_factor": 1,
    f"{BACKUP}.queue_bytes_max": 1_048_576,
    "routing.rules": [
        {"name": "far", "prefix": "far/", "topic": "${prefix}far@backup"},
        {"name": "both", "prefix": "both/", "topic": ["${prefix}both", "${prefix}both@backup"]},
        {"name": "near", "prefix": "near/", "topic": "${prefix}near"},
    ],
}


def test_a_frozen_cluster_holds_only_who_sends_to_it(
    start_proxy: StartProxy, kafka: KafkaBroker, mortal_kafka: KafkaBroker
) -> None:
    proxy = start_proxy({**SETTINGS, f"{BACKUP}.bootstrap_servers": [mortal_kafka.bootstrap]})
    fat = bytes(100_000)
    with Device(proxy.port, 5) as far, Device(proxy.port, 5) as near:
        far.connect("far")
        near.connect("near")
        far.publish_acknowledged("far/1", b"before")
        far.publish_acknowledged("both/1", b"before")
        mortal_kafka.pause()
        try:
            for packet_id in range(10, 30):
                far.publish("far/1", fat, packet_id=packet_id)
            wait_until(lambda: proxy.metric("mqk_connections_held") == 1, "the device is held")
            for _ in range(20):
                near.publish_acknowledged("near/1", b"stored")
            near.publish("both/1", b"waits", packet_id=99)
            near.ping()
            with Device(proxy.port, 5) as new:
                new.connect("new")
                new.publish_acknowledged("near/2", b"stored")
            assert proxy.metric('mqk_kafka_queue_bytes{cluster="backup"}') < 2 * 1_048_576
        finally:
            mortal_kafka.resume()
        stored = 'mqk_publishes_total{qos="1",result="stored"}'
        wait_until(lambda: proxy.metric(stored) == 2 + 20 + 20 + 1 + 1, "all is stored", 60)
    assert len(mortal_kafka.read(f"{proxy.topic_prefix}far")) == 21
    assert [record.value for record in kafka.read(f"{proxy.topic_prefix}both")] == [b"before", b"waits"]
    assert [record.value for record in mortal_kafka.read(f"{proxy.topic_prefix}both")] == [b"before", b"waits"]
