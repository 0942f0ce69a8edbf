"""A client at QoS 2 that says everything more than once: PUBLISH until it is answered, PUBREL until it is.

Raw bytes on a plain stream. What it may repeat is what the standard lets it: PUBLISH before its PUBREL [MQTT-4.3.3-5].
"""

import asyncio
import struct
from dataclasses import dataclass
from random import Random

from loadtest.codec import split_packets
from tests.support.device import CONNACK, packet, text
from tests.support.kafka_broker import KafkaBroker

PUBLISH, DUP, PUBREC, PUBREL, PUBCOMP = 0x34, 0x08, 0x50, 0x62, 0x70
IDENTIFIER_NOT_FOUND = 0x92
#: Messages in flight; the proxy's Receive Maximum is 128.
WINDOW = 20
#: How often anything is said again.
REPEAT = 0.3
#: Nothing heard for this long: something is wrong.
SILENCE_SECONDS = 60.0


@dataclass(slots=True)
class InFlight:
    """A message on its way. It is over when every PUBREL has its PUBCOMP."""

    encoded: bytes
    releases: int = 0
    completed: int = 0


@dataclass(slots=True)
class Said:
    """What a client did."""

    publishes_repeated: int = 0
    releases_repeated: int = 0
    pubrecs: int = 0


class ExactlyOnce:
    """One connection that publishes `count` messages to one topic. Payloads are their numbers."""

    def __init__(self, port: int, version: int, client_id: str, topic: str, count: int) -> None:
        self.said = Said()
        self.client_id, self.topic, self.count = client_id, topic, count
        self._port, self._version = port, version
        self._chance = Random(client_id)
        self._in_flight: dict[int, InFlight] = {}
        self._out: list[bytes] = []
        self._next = 0

    async def run(self) -> None:
        """Returns when every message is complete; AssertionError when the server says what it may not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        properties = b"\x00" if self._version == 5 else b""
        connect = text("MQTT") + bytes([self._version, 2, 0, 60]) + properties + text(self.client_id)
        writer.write(packet(0x10, connect))
        received = b""
        try:
            while self._next < self.count or self._in_flight:
                data = await asyncio.wait_for(reader.read(65_536), SILENCE_SECONDS)
                assert data, f"{self.client_id}: closed by the server"
                packets, received = split_packets(received + data)
                for first_byte, body in packets:
                    self._receive(first_byte, body)
                self._publish()
                self._repeat()
                writer.write(b"".join(self._out))
                self._out.clear()
                await writer.drain()
            writer.write(b"\xe0\x00")
            await writer.drain()
        finally:
            writer.close()

    def _publish(self) -> None:
        """As many as the window has room for, each with an identifier that was somebody else's a moment ago."""
        while self._next < self.count and len(self._in_flight) < WINDOW:
            packet_id = self._chance.randint(1, 2 * WINDOW)
            if packet_id in self._in_flight:
                continue
            properties = b"\x00" if self._version == 5 else b""
            body = text(self.topic) + struct.pack(">H", packet_id) + properties + b"%d" % self._next
            self._in_flight[packet_id] = InFlight(packet(PUBLISH, body))
            self._out.append(self._in_flight[packet_id].encoded)
            self._next += 1

    def _repeat(self) -> None:
        for message in self._in_flight.values():
            if not message.releases and self._chance.random() < REPEAT / 2:
                self._say_again(message)

    def _say_again(self, message: InFlight) -> None:
        self._out.append(bytes([message.encoded[0] | DUP]) + message.encoded[1:])
        self.said.publishes_repeated += 1

    def _receive(self, first_byte: int, body: bytes) -> None:
        if first_byte == CONNACK:
            assert body[1] == 0, f"{self.client_id}: refused with {body[1]}"
            return
        packet_id, reason = int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0
        message = self._in_flight.get(packet_id)
        assert message is not None, f"{self.client_id}: 0x{first_byte:02x} {body.hex()}"
        # The second PUBREL of a message finds nothing left to release.
        assert reason in ({0, IDENTIFIER_NOT_FOUND} if message.completed else {0}), f"{self.client_id}: {body.hex()}"
        if first_byte == PUBREC:
            self.said.pubrecs += 1
            self._release(packet_id, message)
        else:
            assert first_byte == PUBCOMP, f"{self.client_id}: 0x{first_byte:02x} {body.hex()}"
            message.completed += 1
            assert message.completed <= message.releases, f"{self.client_id}: {packet_id} was completed too early"
            if message.completed == message.releases:
                del self._in_flight[packet_id]

    def _release(self, packet_id: int, message: InFlight) -> None:
        """The answer to the first PUBREC; the others are those of repeated PUBLISH packets."""
        if message.releases:
            return
        if self._chance.random() < REPEAT:
            self._say_again(message)
        message.releases = 1 + (self._chance.random() < REPEAT)
        self.said.releases_repeated += message.releases - 1
        self._out.append(packet(PUBREL, struct.pack(">H", packet_id)) * message.releases)


async def _run_all(clients: list[ExactlyOnce]) -> None:
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())


def publish_exactly_once(port: int, prefix: str, clients: int, messages: int) -> list[ExactlyOnce]:
    """`messages` in all, from so many connections, half of them 3.1.1 and half 5.0; returns when all are complete."""
    made = [
        ExactlyOnce(port, (4, 5)[number % 2], f"{prefix}-{number}", f"tlink/{prefix}/{number}", messages // clients)
        for number in range(clients)
    ]
    asyncio.run(_run_all(made))
    return made


def check_exactly_once(kafka: KafkaBroker, kafka_topic: str, clients: list[ExactlyOnce]) -> int:
    """Every message of every client is in Kafka once, in its order; returns how many records that are."""
    values: dict[bytes, list[int]] = {client.topic.encode(): [] for client in clients}
    for record in kafka.read(kafka_topic, timeout_seconds=120.0):
        if record.key in values:
            values[record.key].append(int(record.value or b""))
    for client in clients:
        assert values[client.topic.encode()] == list(range(client.count)), client.client_id
        assert client.said.publishes_repeated and client.said.releases_repeated, "nothing was repeated"
        assert client.said.pubrecs > client.count, "no repeated PUBLISH was answered"
    return sum(map(len, values.values()))
