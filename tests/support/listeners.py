"""Devices that wait for messages: each subscribes to a topic of its own, acknowledges, and notes what it heard.

They connect again when they lose their replica, to the next one. Some are made to be silent, or not to read at all.
"""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Sequence

from loadtest.codec import CONNACK, split_packets
from tests.support.device import PUBLISH, SUBACK, packet, text
from tests.support.sessions import until

#: Before a device that lost its connection tries the next replica.
RETRY_SECONDS = 0.2
#: Connections that are opened at a time.
OPENING = 50


class Listener(asyncio.Protocol):
    """One device, MQTT 3.1.1 with a clean session. `heard` are the payloads with the time of their arrival."""

    def __init__(self, client_id: str, ports: Sequence[int], *, acknowledges: bool = True, reads: bool = True) -> None:
        self.client_id = client_id
        self.topic = f"to/{client_id}"
        #: How it is written to: one that does not read is sent large messages that it need not acknowledge.
        self.qos = 1 if reads else 0
        self.padding = b"" if reads else b" " * 20_000
        self.ready = False
        self.heard: list[tuple[bytes, float]] = []
        #: Payloads whose PUBACK was written.
        self.acknowledged: set[bytes] = set()
        self._ports = list(ports)
        self.acknowledges = acknowledges
        self._reads = reads
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._lost = asyncio.Event()

    async def stay(self, opening: asyncio.Semaphore) -> None:
        """Connected, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            with contextlib.suppress(OSError):
                async with opening:
                    await loop.create_connection(lambda: self, "127.0.0.1", self._ports[0])
                await self._lost.wait()
            self._ports.append(self._ports.pop(0))
            await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- as asyncio calls it ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._partial = transport, b""
        head = text("MQTT") + struct.pack(">BBH", 4, 0x02, 0)
        transport.write(packet(0x10, head + text(self.client_id)))

    def connection_lost(self, error: Exception | None) -> None:
        self.ready = False
        self._transport = None
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        now = time.time()
        packets, self._partial = split_packets(self._partial + data)
        for first_byte, body in packets:
            if first_byte & 0xF0 == PUBLISH:
                self._hear(first_byte >> 1 & 3, body, now)
            elif first_byte == CONNACK and body[1]:
                self.close()
            elif first_byte == CONNACK:
                self._write(packet(0x82, b"\0\1" + text(self.topic) + b"\1"))
            elif first_byte == SUBACK:
                self.ready = True
                if not self._reads and self._transport is not None:
                    self._transport.pause_reading()

    def _hear(self, qos: int, body: bytes, now: float) -> None:
        start = 2 + int.from_bytes(body[:2], "big")
        payload = body[start + 2 * bool(qos) :].rstrip()
        self.heard.append((payload, now))
        if qos and self.acknowledges:
            self.acknowledged.add(payload)
            self._write(b"\x40\x02" + body[start : start + 2])

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


@contextlib.asynccontextmanager
async def listening(listeners: Sequence[Listener]) -> AsyncIterator[None]:
    """All of them are connected and have subscribed; afterwards they are cut."""
    opening = asyncio.Semaphore(OPENING)
    tasks = [asyncio.create_task(listener.stay(opening)) for listener in listeners]
    try:
        await until(lambda: all(listener.ready for listener in listeners), "all have subscribed", 120)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for listener in listeners:
            listener.close()


def audience(ports: Sequence[int], size: int) -> list[Listener]:
    """Devices whose first replicas take turns."""
    ports = list(ports)
    return [
        Listener(f"listener-{number}", ports[number % len(ports) :] + ports[: number % len(ports)])
        for number in range(size)
    ]
