"""Devices at QoS 2 that do exactly what the standards say after a reconnect, whatever their connections do to them.

They share no code with the proxy. With Session Present 1 a device goes on where it was, PUBLISH or PUBREL, in the old
order [MQTT-4.4.0-1]; with 0 it has no session: what got its PUBREC is in good hands, of the rest nobody knows, and the
application publishes it anew.
"""

import asyncio
import itertools
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.codec import (
    CONNACK,
    PUBCOMP,
    PUBREC,
    SERVER_DISCONNECT,
    decode_ack,
    decode_connack,
    encode_connect,
    encode_length,
    encode_pubrel,
    split_packets,
)

SESSION_EXPIRY_SECONDS = 3600
#: Few identifiers, so that each is another message's soon after its PUBCOMP.
PACKET_IDS = 8
#: Between two tries, and for any answer: the proxy gives a CONNACK 10 s.
RETRY_SECONDS = 0.05
ANSWER_SECONDS_MAX = 15.0
IDENTIFIER_NOT_FOUND = 0x92


@dataclass
class InFlight:
    payload: str
    released: bool = False


@dataclass
class Courier:
    """One device with `messages` to publish. `anew` are those that it had to publish a second time."""

    client_id: str
    port: int
    version: int
    messages: int
    session_present: list[bool] = field(default_factory=list)
    anew: set[str] = field(default_factory=set)
    told: list[int] = field(default_factory=list)
    _in_flight: dict[int, InFlight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = deque(self.payloads)
        self._ids = itertools.cycle(range(1, PACKET_IDS + 1))

    @property
    def payloads(self) -> list[str]:
        return [f"{self.client_id} {number}" for number in range(self.messages)]

    async def deliver(self) -> None:
        """Returns when every message has its PUBCOMP."""
        while self._waiting or self._in_flight:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                await self._talk(reader, writer)
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        writer.write(encode_connect(self.client_id, self.version, 60, SESSION_EXPIRY_SECONDS, None, None))
        partial, connected = b"", False
        while not connected or self._waiting or self._in_flight:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                data = await reader.read(65_536)
            if not data:
                raise EOFError
            packets, partial = split_packets(partial + data)
            for first_byte, body in packets:
                if first_byte == CONNACK:
                    connack = decode_connack(body, self.version)
                    if connack.reason:
                        raise EOFError
                    connected = True
                    writer.writelines(self._begin(connack.session_present))
                else:
                    writer.writelines(self._receive(first_byte, body))
            writer.writelines(self._fill())

    def _begin(self, session_present: bool) -> list[bytes]:
        self.session_present.append(session_present)
        if session_present:
            return [
                encode_pubrel(packet_id) if message.released else self._publish(packet_id, message, dup=True)
                for packet_id, message in self._in_flight.items()
            ]
        unknown = [message.payload for message in self._in_flight.values() if not message.released]
        self._in_flight.clear()
        self.anew.update(unknown)
        self._waiting.extendleft(reversed(unknown))
        return []

    def _receive(self, first_byte: int, body: bytes) -> list[bytes]:
        if first_byte == SERVER_DISCONNECT:
            self.told.append(body[0] if body else 0)
            return []
        packet_id, reason = decode_ack(body)
        message = self._in_flight[packet_id]
        if first_byte == PUBREC:
            assert not reason, f"PUBREC 0x{reason:02x}"
            message.released = True
            return [encode_pubrel(packet_id)]
        assert first_byte == PUBCOMP and message.released, f"0x{first_byte:02x} for {message}"
        assert reason in {0, IDENTIFIER_NOT_FOUND}, f"PUBCOMP 0x{reason:02x}"
        del self._in_flight[packet_id]
        return []

    def _fill(self) -> list[bytes]:
        packets = []
        while self._waiting and len(self._in_flight) < PACKET_IDS and self.session_present:
            packet_id = next(each for each in self._ids if each not in self._in_flight)
            message = self._in_flight[packet_id] = InFlight(self._waiting.popleft())
            packets.append(self._publish(packet_id, message, dup=False))
        return packets

    def _publish(self, packet_id: int, message: InFlight, *, dup: bool) -> bytes:
        topic = f"tlink/{self.client_id}/up".encode()
        body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", packet_id)
        body += (b"\0" if self.version == 5 else b"") + message.payload.encode()
        return bytes((0x34 | dup << 3,)) + encode_length(len(body)) + body


def couriers(port: int, devices: int, messages: int) -> Sequence[Courier]:
    """Half of them speak 3.1.1, half 5.0."""
    return [Courier(f"courier-{number}", port, 4 + number % 2, messages) for number in range(devices)]


async def deliver_all(fleet: Sequence[Courier], seconds: float) -> None:
    """TimeoutError when a device has not delivered all by then; what one sees that may not be is raised."""
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        for courier in fleet:
            group.create_task(courier.deliver())
