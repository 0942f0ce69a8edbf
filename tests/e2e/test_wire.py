"""A connection as a device sees it: bytes however they are split, what CONNACK promises, answers in their order."""

import struct

import pytest

from tests.support.device import CONNACK, DISCONNECT, PINGRESP, PUBACK, SUBACK, UNSUBACK, Device, packet, text
from tests.support.proxy import ProxyProcess

RECEIVE_MAXIMUM = 128
NOT_AUTHORIZED, NO_SUBSCRIPTION_EXISTED, RECEIVE_MAXIMUM_EXCEEDED = 0x87, 0x11, 0x93
CONNECT = {
    4: packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("split")),
    5: packet(0x10, text("MQTT") + b"\x05\x02\x00\x3c\x00" + text("split")),
}
PINGREQ, GOODBYE = b"\xc0\x00", b"\xe0\x00"

both_versions = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])


def publish(version: int, topic: str, packet_id: int) -> bytes:
    properties = b"\x00" if version == 5 else b""
    return packet(0x32, text(topic) + struct.pack(">H", packet_id) + properties + b"payload")


@both_versions
@pytest.mark.parametrize("size", [1, 3, 10_000], ids=["byte by byte", "by threes", "at once"])
def test_bytes_come_as_they_like(proxy: ProxyProcess, version: int, size: int) -> None:
    data = CONNECT[version] + publish(version, "tlink/split", 1) + PINGREQ + publish(version, "tlink/split", 2)
    with Device(proxy.port, version) as device:
        for start in range(0, len(data), size):
            device.send(data[start : start + size])
        assert device.receive().first_byte == CONNACK
        answers = sorted(device.receive().first_byte for _ in range(3))
        assert answers == [PUBACK, PUBACK, PINGRESP]
        device.send(GOODBYE)
        assert device.rest() == []


@both_versions
def test_acknowledgements_are_in_the_order_of_receipt(proxy: ProxyProcess, version: int) -> None:
    """Forty topics in four Kafka topics with four partitions each, which answer when they like."""
    topics = [f"tlink/{number}/{('up', 'ota', 'sub/login', 'sub/register')[number % 4]}" for number in range(40)]
    with Device(proxy.port, version) as device:
        device.connect("ordered")
        for _ in range(5):
            packet_ids = range(1, RECEIVE_MAXIMUM + 1)
            device.send(b"".join(publish(version, topics[each % 40], each) for each in packet_ids))
            for packet_id in packet_ids:
                assert device.puback(packet_id) == 0


def test_what_is_beyond_the_window_of_3_1_1_waits(proxy: ProxyProcess) -> None:
    with Device(proxy.port) as device:
        device.connect("beyond")
        packet_ids = range(1, 10 * RECEIVE_MAXIMUM)
        device.send(b"".join(publish(4, "tlink/beyond", each) for each in packet_ids))
        for packet_id in packet_ids:
            device.puback(packet_id)


def test_what_is_beyond_the_window_of_5_0_ends_the_connection(proxy: ProxyProcess) -> None:
    with Device(proxy.port, 5) as device:
        device.connect("beyond")
        device.send(b"".join(publish(5, "tlink/beyond", each) for each in range(1, 10 * RECEIVE_MAXIMUM)))
        assert device.rest()[-1] == (DISCONNECT, bytes([RECEIVE_MAXIMUM_EXCEEDED]))


def test_connack_promises_only_what_is_there(proxy: ProxyProcess) -> None:
    with Device(proxy.port, 5) as device:
        first_byte, body = device.connect("promised", keep_alive=7_200)
    assert (first_byte, body[:2]) == (CONNACK, b"\x00\x00")
    assert set(properties(body[2:])) == {
        ("Receive Maximum", RECEIVE_MAXIMUM),
        ("Maximum Packet Size", 1_000_000),
        ("Topic Alias Maximum", 16),
        ("Shared Subscription Available", 0),
        ("Server Keep Alive", 3_600),
    }


def properties(data: bytes) -> list[tuple[str, int]]:
    """The numeric properties of a CONNACK by their names."""
    known = {
        0x11: ("Session Expiry Interval", 4),
        0x13: ("Server Keep Alive", 2),
        0x21: ("Receive Maximum", 2),
        0x22: ("Topic Alias Maximum", 2),
        0x24: ("Maximum QoS", 1),
        0x25: ("Retain Available", 1),
        0x27: ("Maximum Packet Size", 4),
        0x28: ("Wildcard Subscription Available", 1),
        0x29: ("Subscription Identifier Available", 1),
        0x2A: ("Shared Subscription Available", 1),
    }
    length, position, found = data[0], 1, []
    assert len(data) == 1 + length
    while position < len(data):
        name, width = known[data[position]]
        found.append((name, int.from_bytes(data[position + 1 : position + 1 + width], "big")))
        position += 1 + width
    return found


def test_nothing_can_be_subscribed_to_yet(proxy: ProxyProcess) -> None:
    with Device(proxy.port) as device:
        device.connect("subscriber")
        device.send(packet(0x82, b"\x00\x07" + text("tlink/#") + b"\x01" + text("a/+") + b"\x00"))
        assert device.receive() == (SUBACK, b"\x00\x07\x80\x80")
        device.send(packet(0xA2, b"\x00\x08" + text("tlink/#")))
        assert device.receive() == (UNSUBACK, b"\x00\x08")
    with Device(proxy.port, 5) as device:
        device.connect("subscriber")
        device.send(packet(0x82, b"\x00\x07\x00" + text("tlink/#") + b"\x01" + text("a/+") + b"\x00"))
        assert device.receive() == (SUBACK, bytes([0, 7, 0, NOT_AUTHORIZED, NOT_AUTHORIZED]))
        device.send(packet(0xA2, b"\x00\x08\x00" + text("tlink/#")))
        assert device.receive() == (UNSUBACK, bytes([0, 8, 0, NO_SUBSCRIPTION_EXISTED]))
        device.ping()
