"""Devices that always want to be connected, wherever: when a connection breaks they try the next replica.

They share no code with the proxy. What a device was told stays with it: each CONNACK, each DISCONNECT.
"""

import asyncio
import contextlib
import itertools
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.codec import CONNACK, PINGREQ, SERVER_DISCONNECT, decode_connack, encode_length, split_packets

#: Between two tries.
RETRY_SECONDS = 0.25
CONNACK_SECONDS_MAX = 15.0
KEEP_ALIVE_SECONDS = 20


@dataclass
class Roamer:
    """One device. `broken` counts the connections that ended after their CONNACK, `unanswered` those before it."""

    client_id: str
    ports: Sequence[int]
    username: str | None = None
    password: str | None = None
    will_topic: str | None = None
    version: int = 5
    clean_start: bool = True
    expiry_seconds: int = 0
    port: int = 0
    connected: bool = False
    broken: int = 0
    unanswered: int = 0
    told: list[int] = field(default_factory=list)
    session_present: list[bool] = field(default_factory=list)
    #: From the first try after a break to the CONNACK.
    back_after_seconds: list[float] = field(default_factory=list)
    connack_seconds: list[float] = field(default_factory=list)
    _writer: asyncio.StreamWriter | None = None

    async def connect(self, port: int) -> bool:
        """One try. True once the CONNACK says so; afterwards `read` has to be called."""
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        self._reader, self._writer, self._partial = reader, writer, b""
        try:
            writer.write(self._connect_packet())
            async with asyncio.timeout(CONNACK_SECONDS_MAX):
                packets = await self._receive()
        except (OSError, EOFError, TimeoutError):
            self.unanswered += 1
            writer.close()
            return False
        first_byte, body = packets[0]
        connack = decode_connack(body, self.version) if first_byte == CONNACK else None
        if connack is None or connack.reason:
            writer.close()
            return False
        self.port, self.connected = port, True
        self.session_present.append(connack.session_present)
        self.connack_seconds.append(time.monotonic() - began)
        return True

    async def read(self) -> None:
        """Until the connection is over."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                for first_byte, body in await self._receive():
                    if first_byte == SERVER_DISCONNECT:
                        self.told.append(body[0] if body else 0)
        self.connected = False
        self.broken += 1
        self.close()

    async def stay_connected(self) -> None:
        """Until it is cancelled."""
        ports = itertools.cycle(self.ports)
        while True:
            began = time.monotonic()
            while not await self.connect(next(ports)):  # noqa: ASYNC110 - a device has nobody who would tell it
                await asyncio.sleep(RETRY_SECONDS)
            self.back_after_seconds.append(time.monotonic() - began)
            async with asyncio.TaskGroup() as group:
                pinging = group.create_task(self._ping())
                await self.read()
                pinging.cancel()

    def publish(self, topic: str, payload: bytes) -> None:
        """QoS 0: also what tells the server that the device knows its session."""
        if self._writer is not None:
            body = _text(topic) + (b"\0" if self.version == 5 else b"") + payload
            self._writer.write(b"\x30" + encode_length(len(body)) + body)

    def close(self) -> None:
        """Cuts the connection without a word."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _ping(self) -> None:
        while self._writer is not None:
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            if self._writer is not None:
                self._writer.write(PINGREQ)

    async def _receive(self) -> list[tuple[int, bytes]]:
        while True:
            data = await self._reader.read(65_536)
            if not data:
                raise EOFError
            packets, self._partial = split_packets(self._partial + data)
            if packets:
                return packets

    def _connect_packet(self) -> bytes:
        flags = 0x02 if self.clean_start else 0
        payload = _text(self.client_id)
        properties = b""
        if self.version == 5:
            properties = b"\x07\x17\x00\x11" + struct.pack(">I", self.expiry_seconds)
        if self.will_topic is not None:
            flags |= 0x04
            payload += (b"\0" if self.version == 5 else b"") + _text(self.will_topic) + _text("gone")
        for flag, value in ((0x80, self.username), (0x40, self.password)):
            if value is not None:
                flags |= flag
                payload += _text(value)
        head = _text("MQTT") + struct.pack(">BBH", self.version, flags, KEEP_ALIVE_SECONDS)
        body = head + properties + payload
        return b"\x10" + encode_length(len(body)) + body


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value.encode())) + value.encode()
