"""100 000 connections come, use a little of everything and go, as a fleet does all day: nothing is kept of them."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.mqtt.packets import MQTT_5_0
from tests.support.fuzzing import descriptors, rss_bytes
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.live import LiveDevice
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

#: Until then the proxy still gets what it needs for good: caches, and arenas of the allocator.
WARM_UP = 30_000
CONNECTIONS = 100_000
AT_A_TIME = 40
#: Devices whose session lives on, and who come back again and again; each other one comes once.
REGULARS = 500
SETTINGS = {"acl.subscribe_default": "allow", "limits.connects_per_second_max": 100_000}
#: The smallest thing that each connection could leave behind is larger.
GROWTH_BYTES_MAX = 50 * CONNECTIONS
#: What the end of a session costs for ten minutes, rounded up; docs/metrics.md.
TOMBSTONE_BYTES = 500
#: A connection to Kafka may be a new one, a probe of `/metrics` not closed yet.
DESCRIPTORS_MORE_MAX = 5
#: Who it is, and for how long its session lives on; it subscribes, and publishes at each QoS.
CONNECT = '10 {{ "MQTT" 05 {flags} 003c {{ 11 {expiry:08x} }} "{name}" }}'
WORDS = (
    '82 {{ 0001 00 "down/{name}/#" 01 }} 30 {{ "tlink/{name}" 00 (0) }} '
    '32 {{ "tlink/{name}/{number}" 0002 00 (1)*100 }} 34 {{ "tlink/a" 0003 00 (2) }}'
)
PUBREL, DISCONNECT = "62 { 0003 }", "e0 00"
CONNACK, SUBACK, PUBACK, PUBREC, PUBCOMP = 0x20, 0x90, 0x40, 0x50, 0x70


@dataclass(slots=True)
class Kept:
    """By the proxy, when all have gone."""

    rss_bytes: int
    tombstones: float
    descriptors: int

    def growth_bytes(self, since: "Kept") -> float:
        """Beyond what the ends of sessions cost."""
        return self.rss_bytes - since.rss_bytes - TOMBSTONE_BYTES * max(0.0, self.tombstones - since.tombstones)


def visit(proxy: ProxyProcess, numbers: range) -> Kept:
    """So many connections; returns when the last one has ended."""
    asyncio.run(_visits(proxy.port, iter(numbers)))
    wait_until(lambda: proxy.metric("mqk_connections") == 0, "all have gone", 30)
    pid = proxy.process.pid
    return Kept(rss_bytes(pid), proxy.metric("mqk_session_tombstones"), descriptors(pid))


async def _visits(port: int, numbers: Iterator[int]) -> None:
    async def work() -> None:
        for number in numbers:
            await _visit(port, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(work())


async def _visit(port: int, number: int) -> None:
    regular = number % 2 == 0
    name = f"regular-{number % REGULARS}" if regular else f"once-{number}"
    device = await LiveDevice.on(port, MQTT_5_0)
    device.sends(CONNECT.format(flags="00" if regular else "02", expiry=3_600 if regular else 0, name=name))
    await _hears(device, {CONNACK})
    device.sends(WORDS.format(name=name, number=number))
    await _hears(device, {SUBACK, PUBACK, PUBREC})
    if number % 3 == 0:
        device.writer.transport.abort()
        return
    device.sends(PUBREL)
    await _hears(device, {PUBCOMP})
    device.sends(DISCONNECT)
    device.writer.close()


async def _hears(device: LiveDevice, types: set[int]) -> None:
    """One packet of each, in whatever order."""
    while types:
        types.remove((await device.packet())[0])


def test_nothing_is_kept_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka,
        ProxyProcess(kafka.bootstrap, tmp_path, SETTINGS) as proxy,
    ):
        before = visit(proxy, range(WARM_UP))
        after = visit(proxy, range(WARM_UP, WARM_UP + CONNECTIONS))
    with capsys.disabled():
        growth = round(after.growth_bytes(before))
        print(f"\n{CONNECTIONS} connections: {before} became {after}, {growth} bytes of that unexplained")
    assert after.growth_bytes(before) < GROWTH_BYTES_MAX
    assert after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX
