"""The tables of MQTT 5.0, cell by cell, and what the hot path does beside the vectors."""

import pytest

from proxy.errors import MqttError
from proxy.mqtt import packets
from proxy.mqtt.decode import decode_connect, decode_packet, decode_publish
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, Connect, Packet
from proxy.mqtt.topics import TopicName
from tests.support.packets import REASON_CODES
from tests.support.wire import VERSIONS, framed, octets

#: Each packet that has properties, with a place for them.
PLACES = {
    "CONNECT": '10 {{ "MQTT" 05 02 003c {{ {} }} "dev" }}',
    "WILL": '10 {{ "MQTT" 05 06 003c 00 "dev" {{ {} }} "gone" <> }}',
    "CONNACK": "20 {{ 00 00 {{ {} }} }}",
    "PUBLISH": '30 {{ "a" {{ {} }} }}',
    "PUBACK": "40 {{ 0001 00 {{ {} }} }}",
    "PUBREC": "50 {{ 0001 00 {{ {} }} }}",
    "PUBREL": "62 {{ 0001 00 {{ {} }} }}",
    "PUBCOMP": "70 {{ 0001 00 {{ {} }} }}",
    "SUBSCRIBE": '82 {{ 0001 {{ {} }} "a" 00 }}',
    "SUBACK": "90 {{ 0001 {{ {} }} 00 }}",
    "UNSUBSCRIBE": 'a2 {{ 0001 {{ {} }} "a" }}',
    "UNSUBACK": "b0 {{ 0001 {{ {} }} 00 }}",
    "DISCONNECT": "e0 {{ 00 {{ {} }} }}",
    "AUTH": "f0 {{ 00 {{ {} }} }}",
}
_MESSAGE = "PUBLISH WILL"
_ACKS = "PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK"
#: Table 2-4: identifier, one property, its value, and where it may stand.
TABLE = [
    (0x01, "01 01", 1, _MESSAGE),
    (0x02, "02 00000001", 1, _MESSAGE),
    (0x03, '03 "text"', "text", _MESSAGE),
    (0x08, '08 "a/b"', "a/b", _MESSAGE),
    (0x09, "09 <00 ff>", b"\x00\xff", _MESSAGE),
    (0x0B, "0b 808001", [16_384], "PUBLISH SUBSCRIBE"),
    (0x11, "11 fffffffe", 0xFFFFFFFE, "CONNECT CONNACK DISCONNECT"),
    (0x12, '12 "mqk"', "mqk", "CONNACK"),
    (0x13, "13 003c", 60, "CONNACK"),
    (0x15, '15 "PLAIN"', "PLAIN", "CONNECT CONNACK AUTH"),
    (0x16, '15 "PLAIN" 16 <00>', b"\x00", "CONNECT CONNACK AUTH"),
    (0x17, "17 01", 1, "CONNECT"),
    (0x18, "18 0000003c", 60, "WILL"),
    (0x19, "19 01", 1, "CONNECT"),
    (0x1A, '1a "answers"', "answers", "CONNACK"),
    (0x1C, '1c "other:1883"', "other:1883", "CONNACK DISCONNECT"),
    (0x1F, '1f "why"', "why", f"CONNACK {_ACKS} DISCONNECT AUTH"),
    (0x21, "21 0100", 256, "CONNECT CONNACK"),
    (0x22, "22 0100", 256, "CONNECT CONNACK"),
    (0x23, "23 0001", 1, "PUBLISH"),
    (0x24, "24 01", 1, "CONNACK"),
    (0x25, "25 00", 0, "CONNACK"),
    (0x26, '26 "a" "1"', [("a", "1")], " ".join(PLACES)),
    (0x27, "27 00010000", 65_536, "CONNECT CONNACK"),
    (0x28, "28 01", 1, "CONNACK"),
    (0x29, "29 01", 1, "CONNACK"),
    (0x2A, "2a 01", 1, "CONNACK"),
]
CELLS = [(each, place) for each in TABLE for place in PLACES]


def decode(notation: str, version: int = MQTT_5_0) -> Packet:
    framer = framed(octets(notation, version))
    return decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, version)


def refusal(notation: str, version: int = MQTT_5_0) -> int:
    with pytest.raises(MqttError) as refused:
        decode(notation, version)
    return refused.value.reason


def properties_at(place: str, packet: Packet) -> packets.Properties:
    return packet.will.properties if place == "WILL" and isinstance(packet, Connect) else packet.properties


@pytest.mark.parametrize(("row", "place"), CELLS, ids=[f"{row[0]:02x}-{place}" for row, place in CELLS])
def test_where_a_property_may_stand(row: tuple[int, str, object, str], place: str) -> None:
    identifier, notation, value, allowed = row
    if place in allowed.split():
        packet = decode(PLACES[place].format(notation))
        assert properties_at(place, packet)[identifier] == value
    else:
        assert refusal(PLACES[place].format(notation)) == 0x81


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]:02x}" for row in TABLE])
def test_a_property_stands_once(row: tuple[int, str, object, str]) -> None:
    """But for user properties, and the subscription identifiers of a PUBLISH from a server."""
    identifier, notation, value, allowed = row
    place = allowed.split()[0]
    twice = PLACES[place].format(notation + notation)
    if identifier in {0x0B, 0x26}:
        assert properties_at(place, decode(twice))[identifier] == value * 2
    else:
        assert refusal(twice) == 0x82


def test_identifiers_that_are_no_property() -> None:
    known = {row[0] for row in TABLE}
    assert set(packets.PROPERTIES) == known
    for identifier in set(range(0x80)) - known:
        assert refusal(PLACES["PUBLISH"].format(f"{identifier:02x} 00000000")) == 0x81
    assert refusal(PLACES["PUBLISH"].format("8101 00000000")) == 0x81


@pytest.mark.parametrize(
    "notation",
    ["01 02", "17 02", "19 02", "24 02", "25 02", "28 02", "29 02", "2a 02", "21 0000", "27 00000000", "0b 00"],
)
def test_values_that_a_property_may_not_have(notation: str) -> None:
    identifier = int(notation[:2], 16)
    place = next(row[3].split()[0] for row in TABLE if row[0] == identifier)
    assert refusal(PLACES[place].format(notation)) == 0x82


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]:02x}" for row in TABLE])
def test_a_property_that_is_cut_short(row: tuple[int, str, object, str]) -> None:
    """At each of its bytes, with the property length of what is left."""
    _, notation, _, allowed = row
    whole = octets(notation)
    for length in range(1, len(whole)):
        if octets('15 "PLAIN"') == whole[:length]:
            continue  # A whole one stands before the one that is cut.
        assert refusal(PLACES[allowed.split()[0]].format(whole[:length].hex())) == 0x81


@pytest.mark.parametrize("packet_type", REASON_CODES)
def test_reason_codes(packet_type: int) -> None:
    """Every byte, for every packet whose reason codes are checked."""
    head = "0001" if packet_type < packets.SUBSCRIBE else ""
    first_byte = packet_type << 4 | (2 if packet_type == packets.PUBREL else 0)
    for code in range(256):
        notation = f"{first_byte:02x} {{ {head} {code:02x} }}"
        if code in REASON_CODES[packet_type]:
            assert decode(notation).reason_code == code
        else:
            assert refusal(notation) == 0x81


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("flags", "notation"),
    [
        (0, '1{} {{ P 02 003c [00] "dev" }}'),
        (0, "2{} {{ 00 00 [00] }}"),
        (0, "4{} {{ 0001 }}"),
        (0, "5{} {{ 0001 }}"),
        (2, "6{} {{ 0001 }}"),
        (0, "7{} {{ 0001 }}"),
        (2, '8{} {{ 0001 [00] "a" 00 }}'),
        (0, "9{} {{ 0001 [00] 00 }}"),
        (2, 'a{} {{ 0001 [00] "a" }}'),
        (0, "b{} {{ 0001 [00 00] }}"),
        (0, "c{} 00"),
        (0, "d{} 00"),
        (0, "e{} 00"),
    ],
)
def test_flags_of_the_fixed_header(version: int, flags: int, notation: str) -> None:
    """Table 2-2: one value for every packet but PUBLISH. In 3.1 what is sent again may have DUP."""
    right = {flags, flags | 8} if flags and version == MQTT_3_1 else {flags}
    for each in right:
        decode(notation.format(f"{each:x}"), version)
    for wrong in set(range(16)) - right:
        assert refusal(notation.format(f"{wrong:x}"), version) == 0x81


def publish(notation: str, topics: dict[bytes, TopicName]) -> packets.Publish:
    framer = framed(octets(notation))
    return decode_publish(framer.first_byte, framer.buffer, framer.start, framer.stop, MQTT_3_1_1, topics)


def test_a_topic_name_is_checked_once() -> None:
    topics: dict[bytes, TopicName] = {}
    first = publish('30 { "a/b" (1) }', topics)
    first.topic.decision = "somewhere"
    again = publish('30 { "a/b" (2) }', topics)
    assert again.topic is first.topic
    assert publish('30 { "a/c" (3) }', topics).topic.decision is None
    assert list(topics) == [b"a/b", b"a/c"]


def test_a_topic_name_that_is_refused_is_not_remembered() -> None:
    topics: dict[bytes, TopicName] = {}
    with pytest.raises(MqttError):
        publish('30 { "a/#" }', topics)
    assert topics == {}


def test_a_packet_ends_where_the_framer_says() -> None:
    """What lies behind it in the same read is not its own."""
    data = octets('30 { "a" (hi) } 30 { "b" (ho) }')
    body = framed(octets('30 { "a" (hi) }'))
    assert decode_publish(0x30, data, body.start, body.stop, MQTT_3_1_1, {}).payload == b"hi"
    connect = octets('10 { "MQTT" 04 02 003c "dev" }')
    read = framed(connect)
    assert decode_connect(connect + b"\xc0\x00", read.start, read.stop).client_id == "dev"
    with pytest.raises(MqttError):
        decode_connect(connect + b"\xc0\x00", read.start, read.stop - 1)


def test_messages_name_what_is_wrong() -> None:
    for notation, words in [
        ('30 { "a" { 11 00000000 } }', "Session Expiry Interval may not stand in this packet"),
        ('30 { "a" { 7e 00 } }', "0x7e"),
        ('30 { "a" { 01 02 } }', "Payload Format Indicator is 2"),
        ('82 { 0001 00 "a" 40 }', "0x40"),
        ("e0 { 01 }", "0x01"),
        ('10 { "MQTX" 05 02 003c 00 "dev" }', "'MQTX' level 5"),
        ("c0 { 00 00 }", "2 bytes follow"),
        ("f1 00", "0xf1"),
        ("00 00", "type 0"),
    ]:
        with pytest.raises(MqttError) as refused:
            decode(notation)
        assert words in str(refused.value)
