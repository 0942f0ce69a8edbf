"""Kafka stops behind HAProxy: nobody is cut, because the replicas are ready though they are not healthy."""

import asyncio
import time
from pathlib import Path

from tests.support.device import Device
from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.roamers import Roamer
from tests.support.sessions import without_kafka

CLIENTS = 30
SECONDS = 12.0


def test_kafka_is_away(mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    with BalancedCluster(mortal_kafka, tmp_path, 2) as cluster, Device(cluster.ports[0]) as device:
        device.connect("pinging")
        slowest = asyncio.run(_outage(cluster, device, mortal_kafka))
        assert cluster.balancers[0].all_are("UP")
    assert slowest < 2.0


async def _outage(cluster: BalancedCluster, device: Device, kafka: KafkaBroker) -> float:
    """The longest that a PINGRESP took, in seconds."""
    roamers = [Roamer(f"outage-{number}", cluster.ports) for number in range(CLIENTS)]
    outage = asyncio.create_task(without_kafka(cluster, roamers, kafka, SECONDS))
    slowest = 0.0
    while not outage.done():
        began = time.monotonic()
        await asyncio.to_thread(device.ping)
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.2)
    await outage
    return slowest
