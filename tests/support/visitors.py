"""Devices that come, use a little of everything and go, as a fleet does all day: what does the proxy keep of them?"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fuzzing import descriptors, rss_bytes
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess
from tests.support.wire import octets

AT_A_TIME = 40
#: Devices whose session lives on, and who come back again and again; each other one comes once.
REGULARS = 500
SETTINGS = {"acl.subscribe_default": "allow", "limits.connects_per_second_max": 100_000}
#: What the end of a session costs for ten minutes, rounded up; docs/metrics.md.
TOMBSTONE_BYTES = 500
#: A connection to Kafka may be a new one, a probe of `/metrics` not closed yet.
DESCRIPTORS_MORE_MAX = 5
#: MQTT 5.0: who it is, for how long its session lives on; it subscribes, and publishes at each QoS.
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
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connect = CONNECT.format(flags="00" if regular else "02", expiry=3_600 if regular else 0, name=name)
    writer.write(octets(connect, 5))
    assert (await _packet(reader))[0] == CONNACK
    writer.write(octets(WORDS.format(name=name, number=number), 5))
    await _hear(reader, {SUBACK, PUBACK, PUBREC})
    if number % 3 == 0:
        writer.transport.abort()
        return
    writer.write(octets(PUBREL, 5))
    await _hear(reader, {PUBCOMP})
    writer.write(octets(DISCONNECT, 5))
    writer.close()


async def _hear(reader: asyncio.StreamReader, wanted: set[int]) -> None:
    while wanted:
        wanted.discard((await _packet(reader))[0])


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Its first byte, and what follows its length."""
    async with asyncio.timeout(30):
        first_byte, length = await reader.readexactly(2)
        return first_byte, await reader.readexactly(length)
