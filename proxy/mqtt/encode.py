"""Packets to bytes. Writes what it is given: whether a property is wanted or fits is the session's business."""

from struct import Struct
from typing import Final

from proxy.mqtt import packets
from proxy.mqtt.packets import MQTT_5_0, Packet, Properties, PropertyValue, Publish

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_SHORT_ACK: Final = Struct(">BBH")
_FLAGS: Final[dict[int, int]] = {packets.PUBREL: 2, packets.SUBSCRIBE: 2, packets.UNSUBSCRIBE: 2}
PINGRESP: Final = b"\xd0\x00"


def encode_varint(value: int) -> bytes:
    """Variable byte integer (1.5.5), at most 268 435 455."""
    if value < 0x80:
        return value.to_bytes(1, "big")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_ack(packet_type: int, packet_id: int, reason_code: int, version: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP without properties; four bytes in all but the refusals of 5.0."""
    first_byte = packet_type << 4 | _FLAGS.get(packet_type, 0)
    if not reason_code or version < MQTT_5_0:
        return _SHORT_ACK.pack(first_byte, 2, packet_id)
    return _SHORT_ACK.pack(first_byte, 3, packet_id) + reason_code.to_bytes(1, "big")


def encode_pubacks(settled: list[tuple[int, int]]) -> bytes:
    """PUBACKs for (packet_id, reason_code) pairs; a reason other than 0 only for 5.0."""
    pack = _SHORT_ACK.pack
    return b"".join(
        [
            pack(0x40, 2, packet_id) if not reason_code else pack(0x40, 3, packet_id) + bytes((reason_code,))
            for packet_id, reason_code in settled
        ]
    )


def encode_packet(packet: Packet, version: int) -> bytes:
    """Any packet, for a connection of this protocol version."""
    match packet:
        case Publish():
            return _encode_publish(packet, version)
        case packets.Connect():
            return _frame(packets.CONNECT, _connect_body(packet))
        case packets.Connack():
            body = bytes((packet.session_present, packet.reason_code))
            return _frame(packets.CONNACK, body + _properties(packet.properties, version))
        case packets.Ack():
            if not packet.properties:
                return encode_ack(packet.packet_type, packet.packet_id, packet.reason_code, version)
            body = _U16.pack(packet.packet_id) + bytes((packet.reason_code,))
            return _frame(packet.packet_type, body + _properties(packet.properties, version))
        case packets.Subscribe():
            body = b"".join(_text(entry.topic_filter) + bytes((_options(entry),)) for entry in packet.subscriptions)
            return _identified(packets.SUBSCRIBE, packet.packet_id, packet.properties, body, version)
        case packets.Unsubscribe():
            body = b"".join(map(_text, packet.topic_filters))
            return _identified(packets.UNSUBSCRIBE, packet.packet_id, packet.properties, body, version)
        case packets.Suback():
            return _identified(packets.SUBACK, packet.packet_id, packet.properties, bytes(packet.reason_codes), version)
        case packets.Unsuback():
            return _identified(
                packets.UNSUBACK, packet.packet_id, packet.properties, bytes(packet.reason_codes), version
            )
        case packets.Pingreq():
            return b"\xc0\x00"
        case packets.Pingresp():
            return PINGRESP
        case packets.Disconnect():
            return _frame(packets.DISCONNECT, _reason_body(packet.reason_code, packet.properties, version))
        case packets.Auth():
            return _frame(packets.AUTH, _reason_body(packet.reason_code, packet.properties, version))


def _frame(packet_type: int, body: bytes) -> bytes:
    return bytes((packet_type << 4 | _FLAGS.get(packet_type, 0),)) + encode_varint(len(body)) + body


def _identified(packet_type: int, packet_id: int, properties: Properties, body: bytes, version: int) -> bytes:
    return _frame(packet_type, _U16.pack(packet_id) + _properties(properties, version) + body)


def _reason_body(reason_code: int, properties: Properties, version: int) -> bytes:
    if version < MQTT_5_0 or (not reason_code and not properties):
        return b""
    return bytes((reason_code,)) + (_properties(properties, version) if properties else b"")


def _encode_publish(publish: Publish, version: int) -> bytes:
    first_byte = packets.PUBLISH << 4 | publish.dup << 3 | publish.qos << 1 | publish.retain
    identifier = _U16.pack(publish.packet_id) if publish.qos else b""
    head = _binary(publish.topic.raw) + identifier + _properties(publish.properties, version)
    return bytes((first_byte,)) + encode_varint(len(head) + len(publish.payload)) + head + publish.payload


def _connect_body(connect: packets.Connect) -> bytes:
    will = connect.will
    flags = (
        connect.clean_start << 1
        | (will is not None) << 2
        | (connect.password is not None) << 6
        | (connect.username is not None) << 7
    )
    if will is not None:
        flags |= will.qos << 3 | will.retain << 5
    version = connect.protocol_version
    name = b"MQIsdp" if version == packets.MQTT_3_1 else b"MQTT"
    parts = [_binary(name), bytes((version, flags)), _U16.pack(connect.keep_alive)]
    parts += [_properties(connect.properties, version), _text(connect.client_id)]
    if will is not None:
        parts += [_properties(will.properties, version), _binary(will.topic.raw), _binary(will.payload)]
    if connect.username is not None:
        parts.append(_text(connect.username))
    if connect.password is not None:
        parts.append(_binary(connect.password))
    return b"".join(parts)


def _options(entry: packets.Subscription) -> int:
    return entry.qos | entry.no_local << 2 | entry.retain_as_published << 3 | entry.retain_handling << 4


def _binary(value: bytes) -> bytes:
    return _U16.pack(len(value)) + value


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _properties(properties: Properties, version: int) -> bytes:
    """The property block with its length; nothing at all before 5.0."""
    if version < MQTT_5_0:
        return b""
    if not properties:
        return b"\x00"
    body = b"".join(_property(identifier, value) for identifier, value in properties.items())
    return encode_varint(len(body)) + body


def _property(identifier: int, value: PropertyValue) -> bytes:
    key = encode_varint(identifier)
    match value:
        case bytes():
            return key + _binary(value)
        case str():
            return key + _text(value)
        case list():
            return b"".join(key + _entry(entry) for entry in value)
        case _:
            return key + _NUMBERS[packets.PROPERTIES[identifier].wire](value)


def _entry(entry: int | tuple[str, str]) -> bytes:
    """One subscription identifier or one user property."""
    return encode_varint(entry) if isinstance(entry, int) else _text(entry[0]) + _text(entry[1])


_NUMBERS: Final = {
    "flag": lambda value: bytes((value,)),
    "byte2": _U16.pack,
    "byte4": _U32.pack,
    "positive2": _U16.pack,
    "positive4": _U32.pack,
}
