"""Through whom a device comes: who must send a PROXY header, who may not, and that nothing is left of it afterwards."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from proxy import limits
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, Connect
from proxy.net.connection import MqttConnection
from proxy.net.doorstep import Doorstep, is_among
from tests.net.harness import Net
from tests.net.test_proxy_header import CN, FOUR, GOOD, PROXY, TCP4, tls, version2
from tests.support.fakes import until

CONNECT = encode_packet(Connect(MQTT_3_1_1, "device"), MQTT_3_1_1)
CONNACK = b"\x20\x02\x00\x00"
HEADER = version2(PROXY, TCP4, FOUR + tls(0x03, 0, CN))
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
ELSEWHERE = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::/0")]


@pytest.fixture
async def through_proxy(net: Net) -> int:
    return await net.listener.listen("127.0.0.1", 0, LOOPBACK)


@pytest.fixture
async def direct(net: Net) -> int:
    return await net.listener.listen("127.0.0.1", 0, ELSEWHERE)


@pytest.fixture
async def device() -> AsyncIterator[socket.socket]:
    with socket.socket() as device:
        device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield device


async def open_to(device: socket.socket, port: int) -> None:
    device.setblocking(False)
    await asyncio.get_running_loop().sock_connect(device, ("127.0.0.1", port))


async def send(device: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(device, data)


async def receive(device: socket.socket) -> bytes:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(device, 100), 5)
    except ConnectionResetError:
        return b""


def only(net: Net) -> MqttConnection:
    (connection,) = net.listener.connections
    return connection


async def test_header_and_connect_in_one_segment(net: Net, through_proxy: int, device: socket.socket) -> None:
    await open_to(device, through_proxy)
    await send(device, HEADER + CONNECT)
    assert await receive(device) == CONNACK
    assert (only(net).address, only(net).peer_cert_cn) == ("10.1.2.3", "gerät-1")
    # From here on the connection has its socket to itself: nothing is between them that would cost something.
    transport = only(net)._transport
    assert transport is not None
    assert transport.get_protocol() is only(net)


@pytest.mark.parametrize("header", [HEADER, b"PROXY TCP4 10.1.2.3 10.0.0.1 40000 1883\r\n"], ids=["v2", "v1"])
async def test_any_split(net: Net, through_proxy: int, header: bytes) -> None:
    data = header + CONNECT
    for place in range(1, len(data)):
        with socket.socket() as device:
            await open_to(device, through_proxy)
            await send(device, data[:place])
            await until(lambda: net.listener.connections, "it is accepted")
            await asyncio.sleep(0)
            await send(device, data[place:])
            assert await receive(device) == CONNACK, place
            assert only(net).address == "10.1.2.3"
        await until(lambda: not net.listener.connections, "it has left")


async def test_byte_by_byte(net: Net, through_proxy: int, device: socket.socket) -> None:
    await open_to(device, through_proxy)
    for byte in HEADER + CONNECT:
        await send(device, bytes([byte]))
        await asyncio.sleep(0)
    assert await receive(device) == CONNACK
    assert only(net).peer_cert_cn == "gerät-1"


@pytest.mark.parametrize("header", [header for header, (address, _) in GOOD.items() if address is None])
async def test_what_is_not_told_is_seen(net: Net, through_proxy: int, device: socket.socket, header: bytes) -> None:
    await open_to(device, through_proxy)
    await send(device, header + CONNECT)
    assert await receive(device) == CONNACK
    assert only(net).address == "127.0.0.1"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(CONNECT, "does not begin with a PROXY header"), (b"PROXY TCP4 nonsense\r\n", "TCP4 or TCP6")],
)
async def test_a_proxy_must_send_one(
    net: Net, through_proxy: int, device: socket.socket, caplog: pytest.LogCaptureFixture, data: bytes, complaint: str
) -> None:
    await open_to(device, through_proxy)
    with caplog.at_level(logging.WARNING):
        await send(device, data)
        assert await receive(device) == b""
    assert net.listener.headers_refused == 1
    (record,) = caplog.records
    assert (record.message, record.address) == ("proxy header refused", "127.0.0.1")  # type: ignore[attr-defined]
    assert complaint in record.detail  # type: ignore[attr-defined]
    await until(lambda: not net.listener.connections, "the connection is over")


@pytest.mark.parametrize("data", [HEADER + CONNECT, b"PROXY UNKNOWN\r\n" + CONNECT, b"\r"], ids=["v2", "v1", "begun"])
@pytest.mark.parametrize("proxies", [[], ELSEWHERE], ids=["no proxies", "others"])
async def test_nobody_else_may(
    net: Net, device: socket.socket, caplog: pytest.LogCaptureFixture, data: bytes, proxies: list[ipaddress.IPv4Network]
) -> None:
    await open_to(device, await net.listener.listen("127.0.0.1", 0, proxies))
    with caplog.at_level(logging.WARNING):
        await send(device, data)
        assert await receive(device) == b""
    assert net.listener.headers_refused == 1
    (record,) = caplog.records
    assert record.address == "127.0.0.1"  # type: ignore[attr-defined]
    assert "does not name" in record.detail  # type: ignore[attr-defined]


async def test_others_come_as_they_are(net: Net, direct: int, device: socket.socket) -> None:
    await open_to(device, direct)
    await send(device, CONNECT)
    assert await receive(device) == CONNACK
    assert (only(net).address, only(net).peer_cert_cn) == ("127.0.0.1", None)
    assert net.listener.headers_refused == 0


async def test_a_header_that_never_ends_is_not_waited_for(
    net: Net, through_proxy: int, device: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for a CONNECT is running."""
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.001)
    net.listener.session_limits.connect_timeout_seconds = 0.05
    await open_to(device, through_proxy)
    await send(device, HEADER[:20])
    assert await receive(device) == b""


@pytest.mark.parametrize("sent", [b"", HEADER[:20], HEADER])
async def test_a_check_of_the_port_leaves_nothing(net: Net, through_proxy: int, sent: bytes) -> None:
    with socket.socket() as device:
        await open_to(device, through_proxy)
        await send(device, sent)
        await until(lambda: net.listener.connections, "it is accepted")
    await until(lambda: not net.listener.connections, "it is over")
    assert net.handlers[0].ends == 1
    assert net.listener.headers_refused == 0


async def test_it_passes_on_what_the_socket_says(net: Net) -> None:
    """As it has to while a CONNACK that refuses waits to be read."""
    connection = MqttConnection(net.listener)
    doorstep = Doorstep(connection, [])
    doorstep.pause_writing()
    assert connection._write_paused
    doorstep.resume_writing()
    assert not connection._write_paused


@pytest.mark.parametrize(
    ("address", "expected"), [("10.9.9.9", True), ("127.0.0.1", False), ("2001:db8::1", True), ("", False)]
)
def test_who_is_a_proxy(address: str, expected: bool) -> None:
    assert is_among(address, ELSEWHERE) is expected
