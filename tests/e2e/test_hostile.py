"""Bytes that no client should send, and more clients than there should be: nobody else may notice."""

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import DISCONNECT, Device, packet, text
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

MALFORMED, PROTOCOL_ERROR, TOPIC_ALIAS_INVALID, TOO_LARGE = 0x81, 0x82, 0x94, 0x95
#: 5.0 reason code and 3.1.1 return code of the same answer.
CONNECTION_RATE_EXCEEDED = {4: 3, 5: 0x9F}

#: What a 5.0 device sends after its CONNACK, and the reason of the DISCONNECT that it gets.
AFTER_CONNACK = {
    "reserved packet type": (b"\x00\x00", MALFORMED),
    "length of five bytes": (b"\x30\xff\xff\xff\xff\x01", MALFORMED),
    "larger than the maximum": (b"\x30\xff\xff\xff\x7f", TOO_LARGE),
    "topic longer than the packet": (packet(0x30, b"\xff\xff/"), MALFORMED),
    "topic not UTF-8": (packet(0x30, b"\x00\x02\xc3\x28\x00"), MALFORMED),
    "QoS 3": (packet(0x36, text("tlink/x") + b"\x00\x01\x00"), MALFORMED),
    "packet identifier 0": (packet(0x32, text("tlink/x") + b"\x00\x00\x00"), PROTOCOL_ERROR),
    "topic alias beyond ours": (packet(0x30, text("tlink/x") + b"\x03\x23\xff\xff"), TOPIC_ALIAS_INVALID),
    "topic alias of nothing": (packet(0x30, text("") + b"\x03\x23\x00\x01"), PROTOCOL_ERROR),
    "unknown property": (packet(0x30, text("tlink/x") + b"\x02\x7f\x00"), MALFORMED),
    "what a server sends": (b"\x20\x03\x00\x00\x00", PROTOCOL_ERROR),
    "second CONNECT": (packet(0x10, text("MQTT") + b"\x05\x02\x00\x3c\x00" + text("again")), PROTOCOL_ERROR),
    "DISCONNECT with flags": (b"\xe1\x00", MALFORMED),
}
#: Those that are payload in 3.1.1; a topic name may not be empty there either.
ONLY_IN_5_0 = {"topic alias beyond ours", "unknown property"}
#: What a device sends instead of a CONNECT. The remaining length that a server sees in "GET" is 69.
BEFORE_CONNACK = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303"),
    "PUBLISH": packet(0x30, text("tlink/x")),
    "CONNECT cut short": packet(0x10, text("MQTT") + b"\x04"),
    "CONNECT of 256 MB": b"\x10\xff\xff\xff\x7f",
    "zeros": bytes(2),
}


@pytest.fixture
def witness(proxy: ProxyProcess) -> Iterator[None]:
    """Somebody else, connected all the time: the test is over well when every message of theirs is acknowledged."""
    with Device(proxy.port) as device:
        device.connect("witness")
        device.publish_acknowledged("tlink/witness", b"before")
        yield
        device.publish_acknowledged("tlink/witness", b"after")
    assert proxy.metric("mqk_connections_failed_total") == 0
    assert "Traceback" not in proxy.process.output


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize("name", AFTER_CONNACK)
def test_after_connack(proxy: ProxyProcess, name: str) -> None:
    data, reason_code = AFTER_CONNACK[name]
    with Device(proxy.port, 5) as device:
        device.connect("hostile-5")
        device.send(data)
        assert device.rest() == [(DISCONNECT, bytes([reason_code]))]


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize("name", sorted(set(AFTER_CONNACK) - ONLY_IN_5_0))
def test_after_connack_of_3_1_1_there_is_nothing_to_say(proxy: ProxyProcess, name: str) -> None:
    with Device(proxy.port) as device:
        device.connect("hostile-4")
        device.send(AFTER_CONNACK[name][0])
        assert device.rest() == []


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize("name", BEFORE_CONNACK)
def test_instead_of_connect(proxy: ProxyProcess, name: str) -> None:
    with Device(proxy.port) as device:
        device.send(BEFORE_CONNACK[name])
        assert device.rest() == []


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(proxy: ProxyProcess, seed: int) -> None:
    """Whatever they mean to it, the proxy is there for the next device; the seed of a failure is in the test's name."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        for number in range(50):
            device = stack.enter_context(Device(proxy.port, chance.choice((4, 5))))
            if number % 2:
                device.connect(f"random-{number}")
            first_byte = chance.randrange(256)
            body = chance.randbytes(chance.randrange(300))
            device.send(packet(first_byte, body) if chance.random() < 0.5 else bytes([first_byte]) + body)
    wait_until(lambda: proxy.metric("mqk_connections") == 1, "all of them are gone", 15)


def test_a_device_that_says_nothing_is_cut(start_proxy: StartProxy) -> None:
    proxy = start_proxy({"mqtt.connect_timeout_seconds": 1})
    with Device(proxy.port) as silent, Device(proxy.port) as slow:
        slow.send(b"\x10\x10\x00\x04MQ")
        assert silent.rest() == slow.rest() == []


def test_connections_max(start_proxy: StartProxy) -> None:
    proxy = start_proxy({"limits.connections_max": 2})
    with Device(proxy.port) as first:
        with Device(proxy.port) as second:
            first.connect("first")
            second.connect("second")
            with Device(proxy.port) as third:
                assert third.rest() == []
            first.ping()
            second.disconnect()
        wait_until(lambda: proxy.metric("mqk_connections") == 1, "the second is gone")
        with Device(proxy.port) as third:
            assert third.connect("third").body == b"\x00\x00"
    assert proxy.metric("mqk_connections_refused_total") == 1


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_connects_per_second_max(start_proxy: StartProxy, version: int) -> None:
    proxy = start_proxy({"limits.connects_per_second_max": 1})

    def answer() -> int:
        with Device(proxy.port, version) as device:
            return device.connect("hasty").body[1]

    assert answer() == 0
    assert answer() == CONNECTION_RATE_EXCEEDED[version]
    wait_until(lambda: answer() == 0, "the next second has room for one more")
    assert proxy.metric('mqk_connects_total{result="accepted"}') == 2
