"""What a fleet behind HAProxy goes through. The sizes are the caller's: small in the test suite, large in the proof."""

import asyncio
import time
from collections.abc import Sequence

from tests.support.device import Device
from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.roamers import Roamer
from tests.support.sessions import roaming, until


async def outage(
    cluster: BalancedCluster, roamers: Sequence[Roamer], pinging: Sequence[Device], kafka: KafkaBroker, seconds: float
) -> dict[str, float]:
    """Kafka stops and comes back: nobody is cut, HAProxy takes no replica for down, and every PINGREQ is answered."""
    async with roaming(roamers):
        await asyncio.to_thread(kafka.stop)
        slowest, pings, end = 0.0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for device in pinging:
                began = time.monotonic()
                await asyncio.to_thread(device.ping)
                slowest, pings = max(slowest, time.monotonic() - began), pings + 1
            await asyncio.sleep(0.2)
        assert {replica.get("/healthz").status for replica in cluster.replicas} == {503}
        assert all(balancer.all_are("UP") for balancer in cluster.balancers)
        await asyncio.to_thread(kafka.start)
        await until(lambda: _healthy(cluster), "all replicas are healthy again", 60)
        assert not any(roamer.broken for roamer in roamers), "a connection was cut"
    return {"connections": len(roamers), "pings": pings, "slowest PINGRESP ms": round(slowest * 1000, 1)}


def _healthy(cluster: BalancedCluster) -> bool:
    return all(replica.get("/healthz").status == 200 for replica in cluster.replicas)
