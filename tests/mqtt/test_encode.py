"""What the server writes, where the vectors do not show it."""

import pytest

from proxy.mqtt import packets
from proxy.mqtt.encode import encode_ack, encode_packet, encode_pubacks, encode_varint
from proxy.mqtt.packets import Ack, Connack, Disconnect, Suback, Unsuback
from tests.support.wire import VERSIONS, octets


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"),
        (2_097_151, "ffff7f"), (2_097_152, "80808001"), (268_435_455, "ffffff7f"),
    ],
)  # fmt: skip
def test_variable_byte_integer(value: int, encoded: str) -> None:
    """Table 2-1, or 1-1 in 5.0: the first and the last value of each length."""
    assert encode_varint(value) == octets(encoded)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("packet", "notation"),
    [
        (Connack(False, 0), "20 { 00 00 [00] }"),
        (Connack(True, 0), "20 { 01 00 [00] }"),
        (Connack(False, 5), "20 { 00 05 [00] }"),
        (Ack(packets.PUBACK, 1), "40 { 0001 }"),
        (Ack(packets.PUBREC, 2, 0x10), "50 { 0002 [10] }"),
        (Ack(packets.PUBREL, 3, 0x92), "62 { 0003 [92] }"),
        (Ack(packets.PUBCOMP, 65_535, 0x92), "70 { ffff [92] }"),
        (Suback(1, [0, 1, 2, 0x80]), "90 { 0001 [00] 00 01 02 80 }"),
        (Unsuback(1, []), "b0 { 0001 [00] }"),
        (Disconnect(0x8B), "e0 { [8b] }"),
        (Disconnect(0), "e0 00"),
        (packets.Pingresp(), "d0 00"),
    ],
)
def test_packet(packet: packets.Packet, notation: str, version: int) -> None:
    """5.0 has reasons and properties, 3.1.1 has neither."""
    assert encode_packet(packet, version) == octets(notation, version)


def test_properties_are_written_in_their_order() -> None:
    connack = Connack(False, 0, {packets.RECEIVE_MAXIMUM: 4, packets.USER_PROPERTY: [("b", "1"), ("a", "2")]})
    assert encode_packet(connack, 5) == octets('20 { 00 00 { 21 0004 26 "b" "1" 26 "a" "2" } }')


def test_many_pubacks_are_the_same_as_one_by_one() -> None:
    settled = [(1, 0), (65_535, 0), (7, 0x97), (8, 0), (9, 0x10)]
    one_by_one = b"".join(encode_ack(packets.PUBACK, packet_id, reason, 5) for packet_id, reason in settled)
    assert encode_pubacks(settled) == one_by_one
    assert one_by_one == octets("40 { 0001 } 40 { ffff } 40 { 0007 97 } 40 { 0008 } 40 { 0009 10 }")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("packet_type", "first_byte"),
    [(packets.PUBACK, "40"), (packets.PUBREC, "50"), (packets.PUBREL, "62"), (packets.PUBCOMP, "70")],
)
def test_before_five_an_ack_has_no_reason(packet_type: int, first_byte: str, version: int) -> None:
    assert encode_ack(packet_type, 1, 0x97, version) == octets(f"{first_byte} {{ 0001 [97] }}", version)
    assert encode_ack(packet_type, 1, 0, version) == octets(f"{first_byte} {{ 0001 }}")
