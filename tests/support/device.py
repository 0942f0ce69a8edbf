"""A device on a plain socket: it sends any bytes, right or wrong, and sees every byte of the answer.

It shares no code with `proxy/mqtt`. Whoever wants a well-behaved client takes one that others wrote (`tests/peers`).
"""

import socket
import struct
from typing import Any, NamedTuple, Self

from loadtest.codec import encode_length, split_packets

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 0x20, 0x30, 0x40, 0x90, 0xB0, 0xD0, 0xE0
#: Longer than anything that the proxy answers to takes while Kafka works.
ANSWER_TIMEOUT_SECONDS = 15.0
#: Properties of a CONNECT: Request Problem Information 0.
NO_WORDS = b"\x02\x17\x00"


class Packet(NamedTuple):
    """One packet from the server."""

    first_byte: int
    body: bytes


class Will(NamedTuple):
    """The message that the server publishes when the device vanishes."""

    topic: str
    payload: bytes
    retain: bool = False


class Device:
    """One connection. As a context manager it closes its socket at the end, as a device that vanishes does."""

    def __init__(self, port: int, version: int = 4, address: str = "127.0.0.1") -> None:
        """`version`: 4 is MQTT 3.1.1, 5 is MQTT 5.0; `address` is the device's own."""
        self.version = version
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_SECONDS, (address, 0))
        self._packets: list[Packet] = []
        self._partial = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket without a word."""
        self._socket.close()

    # ---- what goes out ----

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def connect(self, client_id: str, **options: Any) -> Packet:
        """Sends CONNECT with the options of `send_connect`; returns the CONNACK."""
        self.send_connect(client_id, **options)
        return self.receive()

    def send_connect(
        self,
        client_id: str,
        *,
        keep_alive: int = 60,
        username: str | None = None,
        password: str | None = None,
        will: Will | None = None,
        clean: bool = True,
    ) -> None:
        """In 5.0 without reasons in words, so that answers are a few known bytes."""
        flags = 0x02 * clean
        payload = text(client_id)
        properties = NO_WORDS if self.version == 5 else b""
        if will is not None:
            flags |= 0x04 | will.retain << 5
            payload += (b"\x00" if self.version == 5 else b"") + text(will.topic) + binary(will.payload)
        for flag, value in ((0x80, username), (0x40, password)):
            if value is not None:
                flags |= flag
                payload += text(value)
        head = text("MQTT") + struct.pack(">BBH", self.version, flags, keep_alive)
        self.send(packet(0x10, head + properties + payload))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        packet_id: int = 1,
        qos: int = 1,
        dup: bool = False,
        retain: bool = False,
        properties: bytes = b"",
    ) -> None:
        """`properties` as 5.0 has them on the wire, without their length."""
        identifier = struct.pack(">H", packet_id) if qos else b""
        properties = encode_length(len(properties)) + properties if self.version == 5 else b""
        first_byte = PUBLISH | dup << 3 | qos << 1 | retain
        self.send(packet(first_byte, text(topic) + identifier + properties + payload))

    def publish_acknowledged(self, topic: str, payload: bytes, **options: Any) -> int:
        """QoS 1; returns the reason code of the PUBACK, 0 in 3.1.1, once it is here."""
        self.publish(topic, payload, **options)
        return self.puback(options.get("packet_id", 1))

    def puback(self, packet_id: int, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> int:
        """The next packet has to be the PUBACK of this message; returns its reason code, 0 in 3.1.1."""
        first_byte, body = self.receive(timeout_seconds)
        expected = struct.pack(">H", packet_id)
        assert (first_byte, body[:2]) == (PUBACK, expected), f"0x{first_byte:02x} {body.hex()}, not PUBACK {packet_id}"
        return body[2] if len(body) > 2 else 0

    def ping(self) -> None:
        """PINGREQ, and the next packet has to be its answer."""
        self.send(b"\xc0\x00")
        first_byte, body = self.receive()
        assert (first_byte, body) == (PINGRESP, b""), f"0x{first_byte:02x} {body.hex()} instead of PINGRESP"

    def disconnect(self, reason_code: int = 0) -> None:
        """DISCONNECT; returns when the server has closed the connection."""
        self.send(packet(DISCONNECT, bytes([reason_code]) if reason_code else b""))
        assert self.rest() == []

    # ---- what comes in ----

    def receive(self, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> Packet:
        """The next packet. EOFError when the server has closed instead, TimeoutError when it says nothing."""
        self._socket.settimeout(timeout_seconds)
        while not self._packets:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError(f"closed by the server, {len(self._partial)} bytes of a packet before")
            packets, self._partial = split_packets(self._partial + data)
            self._packets += [Packet(*each) for each in packets]
        return self._packets.pop(0)

    def rest(self) -> list[Packet]:
        """All packets until the server closes the connection, which it has to do."""
        packets = []
        while True:
            try:
                packets.append(self.receive())
            except (EOFError, ConnectionResetError):
                return packets


def packet(first_byte: int, body: bytes) -> bytes:
    return bytes([first_byte]) + encode_length(len(body)) + body


def binary(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def text(value: str) -> bytes:
    return binary(value.encode())
