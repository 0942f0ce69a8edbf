"""What a fleet behind HAProxy goes through. The sizes are the caller's: small in the test suite, large in the proof."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.device import Device
from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess
from tests.support.roamers import Roamer
from tests.support.roaming import LIBRARIES, Peers, all_are_heard, check_nothing_lost, stored
from tests.support.sessions import roaming, until

#: `node.drain_seconds` and some.
DRAINED_SECONDS = 45.0


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


async def who_moves(cluster: BalancedCluster, roamers: Sequence[Roamer], victim: int) -> dict[str, int]:
    """The same device goes to the same replica. When that is killed only its devices move; when it is back they come
    home at their next connect.
    """
    async with roaming(roamers):
        first = await _homes(cluster, roamers)
    assert set(first.values()) == {replica.node for replica in cluster.replicas}
    dead = cluster.replicas[victim]
    async with roaming(roamers):
        assert await _homes(cluster, roamers) == first
        dead.kill()
        lost = [roamer for roamer in roamers if first[roamer.client_id] == dead.node]
        await until(lambda: all(each.broken and each.connected for each in lost), "the lost are back", 60)
        await until(lambda: dead.node not in cluster.homes().values(), "status knows who has moved", 60)
        moved = await _homes(cluster, roamers)
        assert {name for name in moved if moved[name] != first[name]} == {each.client_id for each in lost}
        assert not any(each.broken for each in roamers if each not in lost), "another replica's device was cut"
        # One session each: no replica has a connection beside these.
        assert connections(cluster, dead) == len(roamers)
    await asyncio.to_thread(dead.start)
    await asyncio.to_thread(cluster.wait_until_up)
    async with roaming(roamers):
        assert await _homes(cluster, roamers) == first
    return {"clients": len(roamers), "moved": len(lost), **Counter(first.values())}


async def both_ways(cluster: BalancedCluster, client_ids: Sequence[str], rounds: int, seed: int = 1) -> dict[str, int]:
    """Each client identifier through one HAProxy or the other, again and again, while its older connection lives."""
    rng = random.Random(seed)
    living: dict[str, Roamer] = {}
    reading: list[asyncio.Task[None]] = []

    async def connect_again(client_id: str) -> None:
        for _ in range(rounds):
            newer = Roamer(client_id, cluster.ports)
            assert await newer.connect(rng.choice(cluster.ports)), "CONNACK"
            reading.append(asyncio.create_task(newer.read()))
            living[client_id] = newer

    await asyncio.gather(*map(connect_again, client_ids))
    await until(lambda: connections(cluster) == len(client_ids), "one connection each is left", 30)
    assert all(roamer.connected for roamer in living.values())
    homes = await _homes(cluster, list(living.values()))
    for roamer in living.values():
        roamer.close()
    await asyncio.gather(*reading)
    return {"client ids": len(homes), "connects": len(reading)}


def connections(cluster: BalancedCluster, *without: ProxyProcess) -> int:
    """Of all replicas but these."""
    return sum(int(each.metric("mqk_connections")) for each in cluster.replicas if each not in without)


async def rolling_restart(cluster: BalancedCluster, most: float) -> dict[str, object]:
    """One replica after the other; then devices are sent home until no replica has more than `most` times the mean."""
    for replica in cluster.replicas:
        assert await asyncio.to_thread(replica.terminate, DRAINED_SECONDS) == 0
        await asyncio.to_thread(replica.start)
        await asyncio.to_thread(cluster.wait_until_up)
    before = _shares(cluster)
    seconds = await until(lambda: max(_shares(cluster)) <= most, f"no replica is above {most} times the mean", 240)
    told = [int(each.metric("mqk_rebalanced_total")) for each in cluster.replicas]
    return {"shares before": before, "shares": _shares(cluster), "balanced after s": round(seconds), "sent home": told}


async def libraries_restarted(
    cluster: BalancedCluster, directory: Path, devices: int, most: float
) -> dict[str, object]:
    """So many devices of each library go through a rolling restart and are sent home: what their applications published
    is in Kafka, and every reconnect found its session.
    """
    with Peers(list(LIBRARIES), directory, cluster.ports[0], devices, 1, 0.5) as peers:
        await all_are_heard(peers, cluster.kafka, f"{cluster.name}_msg")
        figures = await rolling_restart(cluster, most)
        told = await peers.stop()
    found = stored(cluster.kafka, f"{cluster.name}_")
    for name, devices_of in told.items():
        check_nothing_lost(devices_of, found)
        for device in devices_of:
            assert all(device.session_present[1:]), device
        figures[f"{name}: published"] = sum(len(device.payloads) for device in devices_of)
        figures[f"{name}: reconnects"] = sum(len(device.session_present) - 1 for device in devices_of)
    return figures


def _shares(cluster: BalancedCluster) -> list[float]:
    """Connections of each replica, as multiples of the mean."""
    counts = [each.metric("mqk_connections") for each in cluster.replicas]
    mean = max(1.0, sum(counts) / len(counts))
    return [round(count / mean, 2) for count in counts]


async def _homes(cluster: BalancedCluster, roamers: Sequence[Roamer]) -> dict[str, str]:
    """Once `status` knows them all."""
    names = {roamer.client_id for roamer in roamers}
    await until(lambda: names <= cluster.homes().keys(), "status knows the fleet", 60)
    homes = await asyncio.to_thread(cluster.homes)
    return {client_id: node for client_id, node in homes.items() if client_id in names}
