"""The client's half of MQTT 3.1.1 and 5.0 that a load tool needs: bytes in, bytes out, no state and no I/O.

PUBLISH is not here: `device.py` packs it with a Struct of its own, once per message.
"""

from typing import NamedTuple

from loadtest.errors import MqttViolation

CONNACK, PUBACK, PUBREC, PUBCOMP, PINGRESP, SERVER_DISCONNECT = 0x20, 0x40, 0x50, 0x70, 0xD0, 0xE0
PINGREQ = b"\xc0\x00"

_SESSION_EXPIRY, _SERVER_KEEP_ALIVE, _RECEIVE_MAXIMUM = 0x11, 0x13, 0x21
_MAXIMUM_QOS, _MAXIMUM_PACKET_SIZE = 0x24, 0x27
#: Property identifier → width in bytes of its value; 0: a length-prefixed string, which only has to be skipped.
_PROPERTY_WIDTH = {
    _SESSION_EXPIRY: 4, _SERVER_KEEP_ALIVE: 2, _RECEIVE_MAXIMUM: 2, _MAXIMUM_QOS: 1, _MAXIMUM_PACKET_SIZE: 4,
    0x12: 0, 0x15: 0, 0x16: 0, 0x1A: 0, 0x1C: 0, 0x1F: 0, 0x22: 2, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip
_USER_PROPERTY = 0x26


class Connack(NamedTuple):
    """What the server said to CONNECT. The limits are the protocol's defaults where it named none."""

    session_present: bool
    reason: int
    receive_maximum: int = 65_535
    server_keep_alive: int | None = None
    maximum_qos: int = 2
    maximum_packet_size: int | None = None


def encode_length(length: int) -> bytes:
    """The remaining length of a fixed header."""
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(encoded)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def encode_connect(
    client_id: str, version: int, keep_alive: int, session_expiry: int, username: str | None, password: str | None
) -> bytes:
    """CONNECT that keeps its session: clean session 0, in 5.0 clean start 0 with a session expiry."""
    flags = (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = _string("MQTT") + bytes((version, flags)) + keep_alive.to_bytes(2, "big")
    if version == 5:
        body += b"\x05" + bytes((_SESSION_EXPIRY,)) + session_expiry.to_bytes(4, "big")
    body += _string(client_id)
    body += b"".join(_string(part) for part in (username, password) if part is not None)
    return b"\x10" + encode_length(len(body)) + body


def encode_disconnect(version: int) -> bytes:
    """DISCONNECT; in 5.0 with session expiry 0, so that a finished run leaves no sessions behind."""
    return b"\xe0\x07\x00\x05\x11\x00\x00\x00\x00" if version == 5 else b"\xe0\x00"


def encode_pubrel(packet_id: int) -> bytes:
    return b"\x62\x02" + packet_id.to_bytes(2, "big")


def encode_successful_acks(first_byte: int, count: int, packet_ids: int = 65_535) -> bytes:
    """The shortest success acknowledgements of packet ids 1, 2 … `count`, after `packet_ids` from 1 again."""
    head = bytes((first_byte, 2))
    return b"".join(head + (index % packet_ids + 1).to_bytes(2, "big") for index in range(count))


def split_packets(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The complete packets in `data` as (first byte, body), and the bytes of the incomplete one after them."""
    packets: list[tuple[int, bytes]] = []
    start, end = 0, len(data)
    while True:
        length, position, shift = 0, start + 1, 0
        while position < end:
            digit = data[position]
            length |= (digit & 0x7F) << shift
            position += 1
            shift += 7
            if digit < 0x80:
                break
            if shift == 28:
                raise MqttViolation("remaining length of more than four bytes")
        else:
            return packets, data[start:]
        if position + length > end:
            return packets, data[start:]
        packets.append((data[start], data[position : position + length]))
        start = position + length


def decode_ack(body: bytes) -> tuple[int, int]:
    """Packet id and reason code of PUBACK, PUBREC or PUBCOMP; 3.1.1 has no reason code, which means success."""
    if len(body) < 2:
        raise MqttViolation("acknowledgement without a packet id")
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def decode_connack(body: bytes, version: int) -> Connack:
    if len(body) < 2 or body[0] > 1 or (version == 4 and len(body) != 2):
        raise MqttViolation(f"malformed CONNACK {body.hex()}")
    if version == 4:
        return Connack(bool(body[0]), body[1])
    properties = _decode_properties(body, 2)
    return Connack(
        bool(body[0]),
        body[1],
        properties.get(_RECEIVE_MAXIMUM, 65_535),
        properties.get(_SERVER_KEEP_ALIVE),
        properties.get(_MAXIMUM_QOS, 2),
        properties.get(_MAXIMUM_PACKET_SIZE),
    )


def _decode_properties(body: bytes, start: int) -> dict[int, int]:
    """The numeric properties of a CONNACK; strings are skipped."""
    values: dict[int, int] = {}
    length, position = _decode_length(body, start)
    if position + length != len(body):
        raise MqttViolation("CONNACK properties do not fill the packet")
    while position < len(body):
        identifier = body[position]
        width = _PROPERTY_WIDTH.get(identifier)
        position += 1
        if identifier == _USER_PROPERTY:
            position = _skip_string(body, _skip_string(body, position))
        elif width is None:
            raise MqttViolation(f"property 0x{identifier:02x} in CONNACK")
        elif width == 0:
            position = _skip_string(body, position)
        else:
            values[identifier] = int.from_bytes(body[position : position + width], "big")
            position += width
    if position != len(body):
        raise MqttViolation("CONNACK property longer than the packet")
    return values


def _decode_length(body: bytes, start: int) -> tuple[int, int]:
    """A variable byte integer and the position after it."""
    value = 0
    for count, digit in enumerate(body[start : start + 4]):
        value |= (digit & 0x7F) << 7 * count
        if digit < 0x80:
            return value, start + count + 1
    raise MqttViolation("CONNACK without a property length")


def _skip_string(body: bytes, position: int) -> int:
    return position + 2 + int.from_bytes(body[position : position + 2], "big")
