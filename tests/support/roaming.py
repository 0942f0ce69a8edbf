"""Devices of libraries that others wrote, behind a load balancer whose replicas die, or that cuts their connections.

What each application has published, once, from its own list, has to be in Kafka in the end. The sizes are the caller's.
"""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster
from tests.support.couriers import couriers, deliver_all
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import Process
from tests.support.relay import Cuts, Relay
from tests.support.sessions import until

PEERS = Path(__file__).parents[1] / "peers"
LIBRARIES = {
    "paho": [sys.executable, PEERS / "roam_paho.py"],
    "gmqtt": [sys.executable, PEERS / "roam_gmqtt.py"],
    "MQTT.js": ["node", PEERS / "node" / "roam.js"],
}
#: All devices are connected and have messages in Kafka; the machine may be busy.
HEARD_SECONDS = 60.0
#: They give themselves a minute to have everything acknowledged.
END_SECONDS = 90.0
#: All messages of devices whose connections are cut all the time.
DELIVERY_SECONDS = 300.0


@dataclass
class Told:
    """One device, as its library and its application saw it. `refused` are the numbers of messages that the library
    gave back to the application, unsent.
    """

    client_id: str
    session_present: list[bool]
    published: int
    unacknowledged: int
    refused: list[int] = field(default_factory=list)

    @property
    def payloads(self) -> list[str]:
        numbers = range(1, self.published + 1)
        return [self.payload(number) for number in numbers if number not in self.refused]

    def payload(self, number: int) -> str:
        return f"{self.client_id} {number}"


class Peers:
    """Processes with devices, one for each library; as a context manager they are killed at the end."""

    def __init__(
        self, names: Sequence[str], directory: Path, port: int, devices: int, qos: int, seconds: float
    ) -> None:
        options = [str(each) for each in (port, devices, qos, seconds)]
        self.devices = devices * len(names)
        self._stack = contextlib.ExitStack()
        self._processes = {
            name: self._stack.enter_context(Process([*LIBRARIES[name], *options], directory / f"{name}.log"))
            for name in names
        }

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for name, process in self._processes.items():
            print(f"{name}: {process.output[-2000:]}")  # Seen when the test fails.

    async def stop(self) -> dict[str, list[Told]]:
        """Nobody publishes any more; what the devices were told, once everything is acknowledged."""
        ended = (asyncio.to_thread(process.terminate, END_SECONDS) for process in self._processes.values())
        status = dict(zip(self._processes, await asyncio.gather(*ended), strict=True))
        assert not any(status.values()), status
        return {
            name: [Told(**each) for each in json.loads(process.output.splitlines()[-1])]
            for name, process in self._processes.items()
        }


def stored(kafka: KafkaBroker, prefix: str) -> Counter[str]:
    """How often Kafka has each payload."""
    return Counter((record.value or b"").decode() for record in kafka.read(f"{prefix}msg"))


async def all_are_heard(peers: Peers, kafka: KafkaBroker, topic: str) -> None:
    """From now on every device gets another two messages into Kafka; after the second the log knows too that the device
    knows its session.
    """
    since = await asyncio.to_thread(kafka.ends, topic)

    def all_have_published() -> bool:
        by_device = Counter(record.key for record in kafka.read(topic, since=since))
        return len(by_device) == peers.devices and min(by_device.values()) >= 2

    await until(all_have_published, "every device has two more messages in Kafka", HEARD_SECONDS)


async def replicas_die(cluster: Cluster, directory: Path, devices: int, kills: int, seconds: float) -> dict[str, Any]:
    """QoS 1, `devices` of each library, a message every so many seconds: replicas are killed in turn, each back before
    the next one dies.
    """
    async with Relay(cluster.ports) as relay:
        with Peers(list(LIBRARIES), directory, relay.port, devices, 1, seconds) as peers:
            for number in range(kills):
                if number % 2 == 0:  # Each second time devices are still on their way from the last one that died.
                    await all_are_heard(peers, cluster.kafka, f"{cluster.name}_msg")
                replica = cluster.replicas[number % len(cluster.replicas)]
                await asyncio.to_thread(replica.kill)
                await asyncio.to_thread(replica.start)
            told = await peers.stop()
    found = stored(cluster.kafka, f"{cluster.name}_")
    figures = {name: _figures(devices_of, found) for name, devices_of in told.items()}
    for name, devices_of in told.items():
        check_nothing_lost(devices_of, found)
        assert figures[name]["reconnects"] >= kills * devices // (2 * len(cluster.replicas)), figures[name]
        for device in devices_of:
            # The first one is new. Everybody had sent messages before the first replica died.
            assert device.session_present[0] is False
            assert all(device.session_present[1:]), device
    return figures


async def links_break(
    ports: Sequence[int], kafka: KafkaBroker, prefix: str, directory: Path, library: str, devices: int, cuts: Cuts
) -> dict[str, Any]:
    """QoS 2 with a library, over connections that are cut until there were enough."""
    async with Relay(ports, cuts) as relay:
        with Peers([library], directory, relay.port, devices, 2, 0.1) as peers:
            await until(lambda: relay.cut >= cuts.most, f"{cuts.most} cuts", 10 * HEARD_SECONDS)
            told = (await peers.stop())[library]
    found = stored(kafka, prefix)
    check_nothing_lost(told, found)
    return {"cuts": relay.cut, **_figures(told, found)}


async def couriers_cut(
    ports: Sequence[int], kafka: KafkaBroker, prefix: str, devices: int, messages: int, cuts: Cuts
) -> dict[str, Any]:
    """QoS 2 by the book over connections that are cut. A message is in Kafka more than once only if its device was told
    Session Present 0 while nobody could know whether it had arrived.
    """
    async with Relay(ports, cuts) as relay:
        fleet = couriers(relay.port, devices, messages)
        await deliver_all(fleet, DELIVERY_SECONDS)
        figures: dict[str, Any] = {"devices": devices, "published": devices * messages, "cuts": relay.cut}
    found = stored(kafka, prefix)
    payloads = [payload for courier in fleet for payload in courier.payloads]
    lost = [payload for payload in payloads if payload not in found]
    repeated = {payload for payload in payloads if found[payload] > 1}
    anew = {payload for courier in fleet for payload in courier.anew}
    assert not lost, lost
    assert repeated <= anew, sorted(repeated - anew)
    assert not any(courier.told for courier in fleet), [courier.told for courier in fleet]
    present = [each for courier in fleet for each in courier.session_present[1:]]
    return figures | {
        "lost": len(lost),
        "repeats": sum(found[payload] - 1 for payload in payloads),
        "published anew": len(anew),
        "reconnects": len(present),
        "session present 0": present.count(False),
    }


def check_nothing_lost(devices: Sequence[Told], found: Counter[str]) -> None:
    for device in devices:
        lost = [payload for payload in device.payloads if payload not in found]
        assert not lost, (device, lost)
        assert not device.unacknowledged, device
        assert not any(device.payload(number) in found for number in device.refused), device


def _figures(devices: Sequence[Told], found: Counter[str]) -> dict[str, Any]:
    payloads = [payload for device in devices for payload in device.payloads]
    reconnects = [present for device in devices for present in device.session_present[1:]]
    return {
        "devices": len(devices),
        "published": len(payloads),
        "lost": sum(payload not in found for payload in payloads),
        "repeats": sum(max(found[payload] - 1, 0) for payload in payloads),
        "given back": sum(len(device.refused) for device in devices),
        "reconnects": len(reconnects),
        "session present 0": reconnects.count(False),
    }
