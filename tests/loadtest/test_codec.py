"""The bytes of the load tool's MQTT, written out by hand from the standards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.codec import (
    Connack,
    decode_ack,
    decode_connack,
    encode_connect,
    encode_disconnect,
    encode_length,
    encode_successful_acks,
    split_packets,
)
from loadtest.errors import MqttViolation


@pytest.mark.parametrize(
    ("length", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (2_097_152, "80808001"), (268_435_455, "ffffff7f")],
)
def test_remaining_length(length: int, encoded: str) -> None:
    assert encode_length(length).hex() == encoded


def test_connect_3_1_1_keeps_the_session() -> None:
    packet = encode_connect("d", 4, 60, 300, "u", "pw")
    assert packet.hex(" ") == "10 14 00 04 4d 51 54 54 04 c0 00 3c 00 01 64 00 01 75 00 02 70 77"


def test_connect_5_0_keeps_the_session_for_its_expiry() -> None:
    packet = encode_connect("d", 5, 60, 300, None, None)
    assert packet.hex(" ") == "10 13 00 04 4d 51 54 54 05 00 00 3c 05 11 00 00 01 2c 00 01 64"


def test_disconnect_5_0_ends_the_session() -> None:
    assert encode_disconnect(5).hex(" ") == "e0 07 00 05 11 00 00 00 00"
    assert encode_disconnect(4).hex(" ") == "e0 00"


def test_acks_wrap_around_after_the_last_packet_id() -> None:
    acks = encode_successful_acks(0x40, 65_536)
    assert acks[:8].hex(" ") == "40 02 00 01 40 02 00 02"
    assert acks[-8:].hex(" ") == "40 02 ff ff 40 02 00 01"


@given(st.lists(st.tuples(st.sampled_from([0x20, 0x40, 0xD0]), st.binary(max_size=200))), st.data())
def test_packets_are_the_same_however_the_bytes_are_split(
    packets: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(bytes((kind,)) + encode_length(len(body)) + body for kind, body in packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    found: list[tuple[int, bytes]] = []
    rest = b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        complete, rest = split_packets(rest + stream[start:stop])
        found += complete
    assert found == packets
    assert rest == b""


def test_a_length_without_end_is_refused() -> None:
    with pytest.raises(MqttViolation, match="remaining length"):
        split_packets(b"\x40\xff\xff\xff\xff\x01")


def test_ack_reason_is_success_unless_there_is_one() -> None:
    assert decode_ack(b"\x01\x02") == (0x102, 0)
    assert decode_ack(b"\x01\x02\x97") == (0x102, 0x97)
    assert decode_ack(b"\x01\x02\x10\x00") == (0x102, 0x10)
    with pytest.raises(MqttViolation):
        decode_ack(b"\x01")


def test_connack_3_1_1() -> None:
    assert decode_connack(b"\x01\x00", 4) == Connack(session_present=True, reason=0)
    assert decode_connack(b"\x00\x05", 4) == Connack(session_present=False, reason=5)


def test_connack_5_0_reads_the_limits_and_skips_the_rest() -> None:
    properties = bytes.fromhex("21 0014  12 0003 646576  24 01  26 0001 6b 0001 76  13 001e  27 00010000  2a 00")
    body = b"\x00\x00" + bytes((len(properties),)) + properties
    assert decode_connack(body, 5) == Connack(
        session_present=False,
        reason=0,
        receive_maximum=20,
        server_keep_alive=30,
        maximum_qos=1,
        maximum_packet_size=65_536,
    )


@pytest.mark.parametrize(
    "body",
    ["", "00", "0200", "0000", "000001", "0000 03 21 00", "0000 02 21 00", "0000 02 fe 00", "0000 05 12 0009 61 62"],
)
def test_malformed_connack_5_0(body: str) -> None:
    with pytest.raises(MqttViolation):
        decode_connack(bytes.fromhex(body), 5)
