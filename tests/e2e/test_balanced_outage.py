"""Kafka stops behind HAProxy: nobody is cut, because the replicas are ready though they are not healthy."""

import asyncio
from pathlib import Path

from tests.support.balanced import outage
from tests.support.device import Device
from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.roamers import Roamer


def test_kafka_is_away(mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    with BalancedCluster(mortal_kafka, tmp_path, 2) as cluster, Device(cluster.ports[0]) as device:
        device.connect("pinging")
        roamers = [Roamer(f"outage-{number}", cluster.ports) for number in range(30)]
        figures = asyncio.run(outage(cluster, roamers, [device], mortal_kafka, 12.0))
    assert figures["slowest PINGRESP ms"] < 2_000
