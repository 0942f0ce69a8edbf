"""Packets from bytes. Every check that needs no knowledge of the connection is made here.

Functions take the body of a packet as `buffer[start:stop]`, as the framer found it. From bytes only MqttError can
arise. The order of the checks is the order of the bytes.
"""

from struct import Struct
from typing import Final

from proxy.errors import MqttError
from proxy.mqtt import packets
from proxy.mqtt.packets import NO_PROPERTIES, Packet, Properties, PropertyValue, Publish, ReasonCode
from proxy.mqtt.topics import TopicName, decode_text, parse_topic_filter, parse_topic_name

_U32: Final = Struct(">I")
_MALFORMED: Final = int(ReasonCode.MALFORMED_PACKET)
_PROTOCOL_ERROR: Final = int(ReasonCode.PROTOCOL_ERROR)
#: Bits 3-0 of the fixed header that must be set (2.1.3); PUBLISH uses its own.
_FLAGS: Final[dict[int, int]] = {packets.PUBREL: 2, packets.SUBSCRIBE: 2, packets.UNSUBSCRIBE: 2}
#: 3.1 repeats these packets with the DUP flag; later versions do not.
_DUP_IN_3_1: Final = 8
_PROTOCOLS: Final = {
    (b"MQIsdp", packets.MQTT_3_1),
    (b"MQTT", packets.MQTT_3_1_1),
    (b"MQTT", packets.MQTT_5_0),
}
_CONNECT_WILL: Final = 0x04
_CONNECT_WILL_QOS: Final = 0x18
_CONNECT_WILL_RETAIN: Final = 0x20
_CONNECT_PASSWORD: Final = 0x40
_CONNECT_USERNAME: Final = 0x80


class _Reader:
    """Walks over one packet and refuses to leave it."""

    __slots__ = ("buffer", "position", "stop")

    def __init__(self, buffer: bytes, start: int, stop: int) -> None:
        self.buffer = buffer
        self.position = start
        self.stop = stop

    def take(self, count: int) -> bytes:
        start = self.position
        if start + count > self.stop:
            raise MqttError(_MALFORMED, "packet is shorter than its fields")
        self.position = start + count
        return self.buffer[start : start + count]

    def byte(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        pair = self.take(2)
        return pair[0] << 8 | pair[1]

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise MqttError(_MALFORMED, "variable byte integer is not encoded in the fewest bytes")
                return value
        raise MqttError(_MALFORMED, "variable byte integer is longer than four bytes")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        return decode_text(self.binary())

    def packet_id(self) -> int:
        packet_id = self.u16()
        if not packet_id:
            # [MQTT-2.2.1-3]; 3.1.1: [MQTT-2.3.1-1]
            raise MqttError(_PROTOCOL_ERROR, "packet identifier is 0")
        return packet_id

    @property
    def more(self) -> bool:
        return self.position < self.stop

    def end(self) -> None:
        if self.position != self.stop:
            raise MqttError(_MALFORMED, f"{self.stop - self.position} bytes follow the last field")

    def properties(self, packet_type: int) -> Properties:
        length = self.varint()
        if not length:
            return NO_PROPERTIES
        stop = self.position + length
        if stop > self.stop:
            raise MqttError(_MALFORMED, "properties are longer than the packet")
        inner = _Reader(self.buffer, self.position, stop)
        self.position = stop
        return _decode_properties(inner, packet_type)


def _decode_properties(reader: _Reader, packet_type: int) -> Properties:
    """Known, allowed in this packet, and once unless the standard lets it repeat [MQTT-2.2.2]."""
    found: Properties = {}
    users: list[tuple[str, str]] = []
    subscription_ids: list[int] = []
    while reader.more:
        identifier = reader.varint()
        kind = packets.PROPERTIES.get(identifier)
        if kind is None or packet_type not in kind.packets:
            name = kind.name if kind else f"0x{identifier:02x}"
            raise MqttError(_MALFORMED, f"property {name} may not stand in this packet")
        if identifier == packets.USER_PROPERTY:
            users.append((reader.text(), reader.text()))
            found[identifier] = users
        elif identifier == packets.SUBSCRIPTION_IDENTIFIER:
            if subscription_ids and packet_type != packets.PUBLISH:
                raise MqttError(_PROTOCOL_ERROR, f"property {kind.name} stands twice")
            subscription_ids.append(_positive(reader.varint(), kind.name))
            found[identifier] = subscription_ids
        elif identifier in found:
            raise MqttError(_PROTOCOL_ERROR, f"property {kind.name} stands twice")
        else:
            found[identifier] = _decode_value(reader, kind)
    return found


def _decode_value(reader: _Reader, kind: packets.PropertyKind) -> PropertyValue:
    match kind.wire:
        case "flag":
            value = reader.byte()
            if value > 1:
                raise MqttError(_PROTOCOL_ERROR, f"property {kind.name} is {value}, not 0 or 1")
            return value
        case "byte2":
            return reader.u16()
        case "byte4":
            return reader.u32()
        case "positive2":
            return _positive(reader.u16(), kind.name)
        case "positive4":
            return _positive(reader.u32(), kind.name)
        case "text":
            return reader.text()
        case "topic":
            # [MQTT-3.3.2-14]
            return parse_topic_name(reader.binary()).name
        case _:
            return reader.binary()


def _positive(value: int, name: str) -> int:
    if not value:
        raise MqttError(_PROTOCOL_ERROR, f"property {name} is 0")
    return value


def decode_publish(
    first_byte: int, buffer: bytes, start: int, stop: int, version: int, topics: dict[bytes, TopicName]
) -> Publish:
    """The hot path: offsets into `buffer`, no reader object. `topics` remembers names that were checked; the caller
    bounds it. Raises MqttError.
    """
    qos = first_byte >> 1 & 3
    if qos == 3 or first_byte & 0x0E == 8:
        # [MQTT-3.3.1-2, -4]
        raise MqttError(_MALFORMED, "PUBLISH has QoS 3, or DUP at QoS 0")
    position = start + 2
    if position > stop:
        raise MqttError(_MALFORMED, "PUBLISH is shorter than its fields")
    topic_stop = position + (buffer[start] << 8 | buffer[start + 1])
    payload_start = topic_stop + 2 if qos else topic_stop
    if payload_start > stop:
        raise MqttError(_MALFORMED, "PUBLISH is shorter than its fields")
    raw = buffer[position:topic_stop]
    topic = topics.get(raw)
    if topic is None:
        topic = topics[raw] = parse_topic_name(raw)
    packet_id = 0
    if qos:
        packet_id = buffer[topic_stop] << 8 | buffer[topic_stop + 1]
        if not packet_id:
            # [MQTT-2.2.1-3]; 3.1.1: [MQTT-2.3.1-1]
            raise MqttError(_PROTOCOL_ERROR, "packet identifier is 0")
    properties = NO_PROPERTIES
    if version == packets.MQTT_5_0:
        if payload_start < stop and not buffer[payload_start]:
            payload_start += 1
        else:
            reader = _Reader(buffer, payload_start, stop)
            properties = reader.properties(packets.PUBLISH)
            payload_start = reader.position
    return Publish(
        topic, buffer[payload_start:stop], qos, first_byte & 1 == 1, first_byte & 8 == 8, packet_id, properties
    )


def decode_packet(first_byte: int, buffer: bytes, start: int, stop: int, version: int) -> Packet:
    """Any packet, in either direction. `version` is that of the connection; a CONNECT brings its own.

    Raises MqttError.
    """
    packet_type = first_byte >> 4
    if packet_type == packets.PUBLISH:
        return decode_publish(first_byte, buffer, start, stop, version, {})
    flags = first_byte & 0x0F
    if version == packets.MQTT_3_1 and packet_type in _FLAGS:
        flags &= ~_DUP_IN_3_1
    if flags != _FLAGS.get(packet_type, 0):
        # [MQTT-2.1.3-1]; 3.1.1: [MQTT-2.2.2-2]
        raise MqttError(_MALFORMED, f"fixed header 0x{first_byte:02x} has reserved flags set")
    decode = _DECODERS.get(packet_type)
    if decode is None or (packet_type == packets.AUTH and version != packets.MQTT_5_0):
        raise MqttError(_MALFORMED, f"packet type {packet_type} does not exist")
    reader = _Reader(buffer, start, stop)
    packet = decode(reader, packet_type, version)
    reader.end()
    return packet


def decode_connect(buffer: bytes, start: int, stop: int) -> packets.Connect:
    """A CONNECT's body; the caller has looked at the fixed header. Raises MqttError."""
    reader = _Reader(buffer, start, stop)
    connect = _decode_connect(reader, packets.CONNECT, 0)
    reader.end()
    return connect


def _decode_connect(reader: _Reader, _type: int, _version: int) -> packets.Connect:
    version = _protocol_version(reader)
    flags = reader.byte()
    _check_connect_flags(flags, version)
    keep_alive = reader.u16()
    five = version == packets.MQTT_5_0
    properties = reader.properties(packets.CONNECT) if five else NO_PROPERTIES
    if packets.AUTHENTICATION_DATA in properties and packets.AUTHENTICATION_METHOD not in properties:
        raise MqttError(_PROTOCOL_ERROR, "Authentication Data without Authentication Method")
    client_id = reader.text()
    will = _decode_will(reader, flags, five) if flags & _CONNECT_WILL else None
    username = reader.text() if flags & _CONNECT_USERNAME else None
    password = reader.binary() if flags & _CONNECT_PASSWORD else None
    return packets.Connect(version, client_id, flags & 2 == 2, keep_alive, username, password, will, properties)


def _protocol_version(reader: _Reader) -> int:
    name, version = reader.binary(), reader.byte()
    if (name, version) not in _PROTOCOLS:
        # [MQTT-3.1.2-1, -2]
        raise MqttError(
            ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, f"protocol {name[:12]!r} level {version} is not supported"
        )
    return version


def _check_connect_flags(flags: int, version: int) -> None:
    """[MQTT-3.1.2-3, -11 to -15, -22]"""
    if flags & 1:
        raise MqttError(_MALFORMED, "CONNECT has its reserved flag set")
    if not flags & _CONNECT_WILL and flags & (_CONNECT_WILL_QOS | _CONNECT_WILL_RETAIN):
        raise MqttError(_MALFORMED, "CONNECT has will flags and no will")
    if flags & _CONNECT_WILL_QOS == _CONNECT_WILL_QOS:
        raise MqttError(_MALFORMED, "CONNECT has will QoS 3")
    if version < packets.MQTT_5_0 and flags & _CONNECT_PASSWORD and not flags & _CONNECT_USERNAME:
        raise MqttError(_MALFORMED, "CONNECT has a password and no user name")


def _decode_will(reader: _Reader, flags: int, five: bool) -> packets.Will:
    properties = reader.properties(packets.WILL) if five else NO_PROPERTIES
    topic = parse_topic_name(reader.binary())
    if not topic.raw:
        raise MqttError(ReasonCode.TOPIC_NAME_INVALID, "will topic is empty")
    return packets.Will(topic, reader.binary(), flags >> 3 & 3, bool(flags & _CONNECT_WILL_RETAIN), properties)


def _decode_connack(reader: _Reader, _type: int, version: int) -> Packet:
    flags, reason = reader.byte(), reader.byte()
    if flags > 1:
        raise MqttError(_MALFORMED, "CONNACK has reserved flags set")
    properties = reader.properties(packets.CONNACK) if version == packets.MQTT_5_0 else NO_PROPERTIES
    return packets.Connack(flags == 1, reason, properties)


def _decode_ack(reader: _Reader, packet_type: int, version: int) -> Packet:
    packet_id = reader.packet_id()
    reason, properties = _reason_and_properties(reader, packet_type, version)
    return packets.Ack(packet_type, packet_id, reason, properties)


def _reason_and_properties(reader: _Reader, packet_type: int, version: int) -> tuple[int, Properties]:
    """5.0 lets both be left out when they say nothing (3.4.2.1, 3.14.2.1)."""
    if version != packets.MQTT_5_0 or not reader.more:
        return ReasonCode.SUCCESS, NO_PROPERTIES
    reason = reader.byte()
    if reason not in _REASON_CODES[packet_type]:
        raise MqttError(_MALFORMED, f"reason code 0x{reason:02x} may not stand in this packet")
    return reason, reader.properties(packet_type) if reader.more else NO_PROPERTIES


def _decode_subscribe(reader: _Reader, packet_type: int, version: int) -> Packet:
    packet_id = reader.packet_id()
    properties = reader.properties(packet_type) if version == packets.MQTT_5_0 else NO_PROPERTIES
    subscriptions = []
    while reader.more:
        subscriptions.append(_decode_subscription(reader, version))
    if not subscriptions:
        # [MQTT-3.8.3-2]; 3.1.1: [MQTT-3.8.3-3]
        raise MqttError(_PROTOCOL_ERROR, "SUBSCRIBE without a topic filter")
    return packets.Subscribe(packet_id, subscriptions, properties)


def _decode_subscription(reader: _Reader, version: int) -> packets.Subscription:
    topic_filter, options = parse_topic_filter(reader.binary()), reader.byte()
    if options & (0xC0 if version == packets.MQTT_5_0 else 0xFC):
        # [MQTT-3.8.3-5]; 3.1.1: [MQTT-3.8.3-4]
        raise MqttError(_MALFORMED, f"subscription options 0x{options:02x} are reserved")
    retain_handling = options >> 4 & 3
    if options & 3 == 3 or retain_handling == 3:
        # 3.8.3.1; 3.1.1: [MQTT-3.8.3-4]
        raise MqttError(_PROTOCOL_ERROR, "subscription with QoS 3 or retain handling 3")
    return packets.Subscription(topic_filter, options & 3, options & 4 == 4, options & 8 == 8, retain_handling)


def _decode_suback(reader: _Reader, packet_type: int, version: int) -> Packet:
    packet_id = reader.packet_id()
    properties = reader.properties(packet_type) if version == packets.MQTT_5_0 else NO_PROPERTIES
    reasons = list(reader.take(reader.stop - reader.position))
    cls = packets.Suback if packet_type == packets.SUBACK else packets.Unsuback
    return cls(packet_id, reasons, properties)


def _decode_unsubscribe(reader: _Reader, packet_type: int, version: int) -> Packet:
    packet_id = reader.packet_id()
    properties = reader.properties(packet_type) if version == packets.MQTT_5_0 else NO_PROPERTIES
    topic_filters = []
    while reader.more:
        topic_filters.append(parse_topic_filter(reader.binary()))
    if not topic_filters:
        # [MQTT-3.10.3-2]
        raise MqttError(_PROTOCOL_ERROR, "UNSUBSCRIBE without a topic filter")
    return packets.Unsubscribe(packet_id, topic_filters, properties)


def _decode_pingreq(_reader: _Reader, _type: int, _version: int) -> Packet:
    return packets.Pingreq()


def _decode_pingresp(_reader: _Reader, _type: int, _version: int) -> Packet:
    return packets.Pingresp()


def _decode_disconnect(reader: _Reader, packet_type: int, version: int) -> Packet:
    return packets.Disconnect(*_reason_and_properties(reader, packet_type, version))


def _decode_auth(reader: _Reader, packet_type: int, version: int) -> Packet:
    return packets.Auth(*_reason_and_properties(reader, packet_type, version))


_RECEIVED: Final = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_RELEASED: Final = frozenset({0x00, 0x92})
#: Reason codes that each packet may carry (table 2-6), where the decoder checks them.
_REASON_CODES: Final[dict[int, frozenset[int]]] = {
    packets.PUBACK: _RECEIVED,
    packets.PUBREC: _RECEIVED,
    packets.PUBREL: _RELEASED,
    packets.PUBCOMP: _RELEASED,
    packets.DISCONNECT: frozenset({0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)}),
    packets.AUTH: frozenset({0x00, 0x18, 0x19}),
}  # fmt: skip
_DECODERS: Final = {
    packets.CONNECT: _decode_connect,
    packets.CONNACK: _decode_connack,
    packets.PUBACK: _decode_ack,
    packets.PUBREC: _decode_ack,
    packets.PUBREL: _decode_ack,
    packets.PUBCOMP: _decode_ack,
    packets.SUBSCRIBE: _decode_subscribe,
    packets.SUBACK: _decode_suback,
    packets.UNSUBSCRIBE: _decode_unsubscribe,
    packets.UNSUBACK: _decode_suback,
    packets.PINGREQ: _decode_pingreq,
    packets.PINGRESP: _decode_pingresp,
    packets.DISCONNECT: _decode_disconnect,
    packets.AUTH: _decode_auth,
}
