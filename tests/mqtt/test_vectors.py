"""The vectors at the height of the codec: what is read, what is refused, and that encoding gives the same bytes."""

import pytest

from proxy import limits
from proxy.errors import MqttError
from proxy.mqtt.decode import decode_packet
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.framing import Framer
from tests.support.wire import PACKET_BYTES_MAX, Vector, assert_fields, framed, octets, pattern, vectors

ALL = vectors()


def decode(vector: Vector) -> object:
    framer = framed(vector.data)
    return decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, vector.version)


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is None or each.by == "session"], ids=str)
def test_is_read(vector: Vector) -> None:
    packet = decode(vector)
    assert_fields(vector.packet, packet, vector.version)
    encoded = encode_packet(packet, vector.version)
    assert (encoded == vector.data) is vector.canonical


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is not None and each.by == "codec"], ids=str)
def test_is_refused_by_the_codec(vector: Vector) -> None:
    with pytest.raises(MqttError) as refused:
        decode(vector)
    assert refused.value.reason == vector.reason


@pytest.mark.parametrize("vector", [each for each in ALL if each.by == "framing"], ids=str)
def test_is_refused_by_the_framer(vector: Vector) -> None:
    framer = Framer(PACKET_BYTES_MAX if vector.after else limits.CONNECT_BYTES_MAX)
    framer.feed(vector.data)
    with pytest.raises(MqttError) as refused:
        framer.next_packet()
    assert refused.value.reason == vector.reason


def test_names_are_unique() -> None:
    """Else a failure would not say which line it is."""
    names = [str(each) for each in ALL]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("notation", "four", "five"),
    [
        ("0a ff", b"\x0a\xff", b"\x0a\xff"),
        ('(hi) "é"', b"hi\x00\x02\xc3\xa9", b"hi\x00\x02\xc3\xa9"),
        ("<(a)*300>", b"\x01\x2c" + b"a" * 300, b"\x01\x2c" + b"a" * 300),
        ("{ (ab)*100 }", b"\xc8\x01" + b"ab" * 100, b"\xc8\x01" + b"ab" * 100),
        ("V [01] [02|03] [|04]", b"\x04\x03\x04", b"\x05\x01\x02"),
        ("{ 01 { 02 [{ 03 }] } }", b"\x03\x01\x01\x02", b"\x05\x01\x03\x02\x01\x03"),
    ],
)
def test_notation(notation: str, four: bytes, five: bytes) -> None:
    assert octets(notation, 4) == four
    assert octets(notation, 5) == five


def test_notation_of_3_1() -> None:
    assert octets("P [01] [02|03] [02|03|04] [|04]", 3) == b"\x00\x06MQIsdp\x03\x03\x04\x04"
    assert octets("P [01|02|03]", 4) == b"\x00\x04MQTT\x04\x02"
    assert octets("P [01|02|03]", 5) == b"\x00\x04MQTT\x05\x01"


@pytest.mark.parametrize("wrong", ["0", "xy", "{ 01", "01 }", "[ 01 | 02 | 03 | 04 ]", "{ 01 >", '"open'])
def test_notation_that_is_wrong(wrong: str) -> None:
    with pytest.raises(ValueError):
        octets(wrong)


def test_wildcards() -> None:
    assert pattern("20 ?? * 12", 5).fullmatch(b"\x20\x01\x02\x03\x12")
    assert not pattern("20 ?? 12", 5).fullmatch(b"\x20\x12")
    with pytest.raises(ValueError):
        octets("20 ??")
