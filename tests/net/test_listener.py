"""All connections of a replica: who is let in, who is held back and goes on, and that one cannot harm the others."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from proxy import limits
from proxy.mqtt.encode import PINGRESP, encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, Connect, Pingreq, Publish
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from tests.net.harness import Congestion, Net
from tests.support.fakes import FakeTransport, break_session, turn, until

CONNECT = encode_packet(Connect(MQTT_3_1_1, "device"), MQTT_3_1_1)
CONNACK = b"\x20\x02\x00\x00"
PINGREQ = encode_packet(Pingreq(), MQTT_3_1_1)


def publish(payload: bytes) -> bytes:
    return encode_packet(Publish(TopicName("a", b"a"), payload), MQTT_3_1_1)


def hold(net: Net, count: int) -> list[tuple[MqttConnection, FakeTransport]]:
    """Connections that send one PUBLISH each, numbered, while the queue is congested."""
    attached = [net.attach() for _ in range(count)]
    for connection, _ in attached:
        connection.data_received(CONNECT)
    net.congestion.congested = True
    for number, (connection, _) in enumerate(attached):
        connection.data_received(publish(b"%d" % number))
    assert published(net) == []
    return attached


def published(net: Net) -> list[bytes]:
    """The payloads that came through, connection by connection."""
    return [each.payload for handler in net.handlers for each in handler.published]


# ---- back-pressure ----


async def test_a_held_connection_still_hears_pingresp(net: Net) -> None:
    ((connection, transport),) = hold(net, 1)
    transport.take()
    connection.data_received(publish(b"1") + PINGREQ)
    connection.data_received(PINGREQ)
    assert transport.writes == [PINGRESP, PINGRESP]
    assert transport.reading
    assert net.listener.held == 1
    assert published(net) == []


async def test_what_is_held_has_a_bound(net: Net) -> None:
    ((connection, transport),) = hold(net, 1)
    while transport.reading:
        connection.data_received(publish(bytes(1000)))
        assert len(net.handlers[0].published) == 0
    received = 1000 * (limits.HELD_BYTES_MAX // 1000)
    net.congestion.congested = False
    net.listener.relieve()
    assert transport.reading
    assert 0.8 * received < sum(map(len, published(net))) <= received + 1000


async def test_who_sends_nothing_is_not_held(net: Net) -> None:
    connection, _ = net.attach()
    connection.data_received(CONNECT)
    net.congestion.congested = True
    assert net.listener.held == 0


async def test_a_device_can_connect_while_others_are_held(net: Net) -> None:
    hold(net, 1)
    connection, transport = net.attach()
    connection.data_received(CONNECT + publish(b"new"))
    assert transport.written == CONNACK
    assert published(net) == []


async def test_relief_lets_the_longest_held_go_first_and_few_in_a_turn(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESUMES_PER_TURN_MAX", 2)
    hold(net, 5)
    net.congestion.congested = False
    net.listener.relieve()
    assert published(net) == [b"0", b"1"]
    await turn()
    assert published(net) == [b"0", b"1", b"2", b"3"]
    await turn()
    assert published(net) == [b"0", b"1", b"2", b"3", b"4"]
    assert net.listener.held == 0


async def test_relief_stops_when_the_queue_is_congested_again(net: Net) -> None:
    hold(net, 5)
    full = net.handlers[1]
    take = full.on_publish

    def fills(publish: Publish) -> None:
        take(publish)
        net.congestion.congested = True

    full.on_publish = fills  # type: ignore[method-assign]
    net.congestion.congested = False
    net.listener.relieve()
    await turn()
    assert published(net) == [b"0", b"1"]
    assert net.listener.held == 3
    net.congestion.congested = False
    net.listener.relieve()
    assert published(net) == [b"0", b"1", b"2", b"3", b"4"]


async def test_who_is_relieved_and_sends_on_while_congested_waits_behind_the_others(net: Net) -> None:
    (first, _), *_ = hold(net, 3)
    net.listener.release(first)
    first.resume()
    first.data_received(publish(b"0 again"))
    net.congestion.congested = False
    order: list[int] = []
    for number, handler in enumerate(net.handlers):
        handler.on_publish = lambda _, number=number: order.append(number)  # type: ignore[method-assign, misc]
    net.listener.relieve()
    assert order == [1, 2, 0]


async def test_who_leaves_is_not_held_any_more(net: Net) -> None:
    (first, _), (second, _) = hold(net, 2)
    first.abort()
    second.data_received(b"\x00\x00")
    await turn()
    assert net.listener.held == 0


async def test_a_bug_while_one_goes_on_does_not_hold_the_others_for_ever(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.bugs_wanted = 2
    monkeypatch.setattr(limits, "RESUMES_PER_TURN_MAX", 3)
    (broken, broken_transport), *_ = hold(net, 5)
    break_session(broken, "resume")
    net.handlers[1].raises_in = "on_publish"
    net.congestion.congested = False
    net.listener.relieve()
    await turn()
    assert broken_transport.aborted
    assert published(net)[-3:] == [b"2", b"3", b"4"]


# ---- back-pressure of a further cluster ----


def hold_for(net: Net, count: int, cluster: Congestion) -> list[tuple[MqttConnection, FakeTransport]]:
    """Connections that have sent a message to a further cluster that is congested, and then one more each."""
    attached = [net.attach() for _ in range(count)]
    for number, (connection, _) in enumerate(attached):
        connection.data_received(CONNECT)
        connection.hold_for(cluster)
        connection.data_received(publish(b"%d" % number))
    return attached


async def test_a_congested_further_cluster_holds_only_who_sends_to_it(net: Net) -> None:
    cluster = Congestion()
    cluster.congested = True
    other, _ = net.attach()
    other.data_received(CONNECT)
    hold_for(net, 2, cluster)
    other.data_received(publish(b"other"))
    assert published(net) == [b"other"]
    assert net.listener.held == 2
    net.listener.relieve()
    assert net.listener.held == 2
    cluster.congested = False
    net.listener.relieve()
    assert published(net) == [b"other", b"0", b"1"]
    assert net.listener.held == 0


async def test_relief_of_one_cluster_lets_nobody_go_who_waits_for_another(net: Net) -> None:
    one, two = Congestion(), Congestion()
    one.congested = two.congested = True
    hold_for(net, 2, one)
    hold_for(net, 1, two)
    two.congested = False
    net.listener.relieve()
    assert (published(net), net.listener.held) == ([b"0"], 2)
    one.congested = False
    net.listener.relieve()
    assert (len(published(net)), net.listener.held) == (3, 0)


async def test_who_was_held_for_a_further_cluster_stays_held_while_nobody_may_send(net: Net) -> None:
    cluster = Congestion()
    cluster.congested = net.congestion.congested = True
    hold_for(net, 1, cluster)
    cluster.congested = False
    net.listener.relieve()
    assert (published(net), net.listener.held) == ([], 1)
    net.congestion.congested = False
    net.listener.relieve()
    assert (published(net), net.listener.held) == ([b"0"], 0)


async def test_one_that_goes_on_may_end_another(net: Net) -> None:
    hold(net, 2)
    first, second = net.handlers
    first.on_publish = lambda _: net.listener.forget(second.connection)  # type: ignore[method-assign]
    net.congestion.congested = False
    net.listener.relieve()
    assert (published(net), net.listener.held) == ([], 0)


async def test_who_has_left_is_not_held(net: Net) -> None:
    cluster = Congestion()
    cluster.congested = True
    connection, _ = net.attach()
    connection.data_received(CONNECT)
    connection.connection_lost(None)
    connection.hold_for(cluster)
    assert net.listener.held == 0


# ---- on real sockets ----


async def enter(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A device's socket, connected, CONNECT sent and CONNACK here."""
    device = socket.socket()
    device.setblocking(False)
    if receive_buffer is not None:
        device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(device, ("127.0.0.1", port))
    await loop.sock_sendall(device, CONNECT)
    assert await receive(device, len(CONNACK)) == CONNACK
    return device


async def receive(device: socket.socket, count: int) -> bytes:
    """So many bytes; fewer when the proxy ends the connection."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        try:
            more = await asyncio.wait_for(loop.sock_recv(device, count - len(data)), 5)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    return data


async def ping(device: socket.socket) -> bytes:
    await asyncio.get_running_loop().sock_sendall(device, PINGREQ)
    return await receive(device, len(PINGRESP))


async def test_more_than_connections_max_are_refused() -> None:
    net = Net(connections_max=2)
    port = await net.listener.listen("127.0.0.1", 0)
    with await enter(port) as first, await enter(port) as second:
        with socket.create_connection(("127.0.0.1", port)) as third:
            third.setblocking(False)
            assert await receive(third, 1) == b""
        assert net.listener.refused == 1
        assert len(net.listener.connections) == 2
        assert await ping(first) == await ping(second) == PINGRESP
        first.close()
        await until(lambda: len(net.listener.connections) == 1, "the first has left")
        with await enter(port) as fourth:
            assert await ping(fourth) == PINGRESP
    # Who was refused has come and gone without an end that anybody would have to handle.
    assert [handler.ends for handler in net.handlers][2] == 0
    net.listener.stop()


async def test_a_device_that_does_not_read_costs_a_bounded_buffer(net: Net) -> None:
    port = await net.listener.listen("127.0.0.1", 0)
    with await enter(port, receive_buffer=4096) as device:
        (connection,) = net.listener.connections
        transport = connection._transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        asked = 0
        while connection._reading:
            with contextlib.suppress(BlockingIOError):
                asked += device.send(PINGREQ * 1000)
            await turn()
        # What is in the buffer is at most the limit and the answers to what was read at once.
        assert transport.get_write_buffer_size() <= limits.WRITE_BUFFER_BYTES_MAX + 262_144
        # What the kernel still takes is left to it, and is answered once the device reads.
        assert len(await receive(device, asked // 2 * 2)) == asked // 2 * 2
        await until(lambda: connection._reading, "reading again")


@pytest.mark.parametrize("place", ["on_publish", "on_end"])
async def test_the_others_never_notice_a_bug(net: Net, place: str) -> None:
    net.bugs_wanted = 1
    port = await net.listener.listen("127.0.0.1", 0)
    with await enter(port) as other:
        net.raises_in = place
        with await enter(port) as device:
            await asyncio.get_running_loop().sock_sendall(device, publish(b"x") + b"\x00\x00")
            assert await receive(device, 1) == b""
        await until(lambda: len(net.listener.connections) == 1, "one has been dropped")
        assert await ping(other) == PINGRESP


@pytest.mark.parametrize("end", ["close", "half", "reset"])
async def test_every_way_to_go_is_an_end(net: Net, end: str) -> None:
    port = await net.listener.listen("127.0.0.1", 0)
    with await enter(port) as device:
        if end == "half":
            device.shutdown(socket.SHUT_WR)
            assert await receive(device, 1) == b""
        elif end == "reset":
            device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await until(lambda: not net.listener.connections, "the connection is over")
    assert net.handlers[0].ends == 1


async def test_the_address_of_a_real_peer(net: Net) -> None:
    port = await net.listener.listen("127.0.0.1", 0)
    with await enter(port):
        (connection,) = net.listener.connections
        assert connection.address == "127.0.0.1"


async def test_a_port_that_is_taken(net: Net) -> None:
    port = await net.listener.listen("127.0.0.1", 0)
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        await net.listener.listen("127.0.0.1", port)


async def test_connections_stay_when_no_more_are_accepted(net: Net) -> None:
    ports = [await net.listener.listen("127.0.0.1", 0) for _ in range(2)]
    with await enter(ports[0]) as device:
        net.listener.stop_accepting()
        await turn()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        assert await ping(device) == PINGRESP
        net.listener.stop()
        assert await receive(device, 1) == b""
    assert net.listener.connections == set()
    assert net.handlers[0].ends == 1


# ---- deadlines ----


@pytest.fixture
def fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.001)


@pytest.mark.usefixtures("fast_ticks")
async def test_the_tick_enforces_deadlines(net: Net) -> None:
    clock = net.stop_the_clock()
    port = await net.listener.listen("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as silent, await enter(port) as device:
        silent.setblocking(False)
        await until(lambda: len(net.listener.connections) == 2, "both are here")
        clock.now += 11.0
        assert await receive(silent, 1) == b""
        assert await ping(device) == PINGRESP


@pytest.mark.usefixtures("fast_ticks")
async def test_a_bug_in_a_tick_does_not_end_the_ticks(net: Net) -> None:
    net.bugs_wanted = 1
    clock = net.stop_the_clock()
    port = await net.listener.listen("127.0.0.1", 0)
    broken, transport = net.attach()
    break_session(broken, "next_deadline")
    await until(lambda: transport.aborted and not net.listener.connections, "the broken one is dropped")
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.setblocking(False)
        await until(lambda: net.listener.connections, "the silent one is here")
        clock.now += 11.0
        assert await receive(silent, 1) == b""


@pytest.mark.usefixtures("fast_ticks")
async def test_a_late_tick_is_measured(net: Net) -> None:
    clock = net.stop_the_clock()
    await net.listener.listen("127.0.0.1", 0)
    # On time as far as this clock knows, which stands still.
    await turn()
    assert net.listener.lag_seconds == 0.0
    clock.now += 3.0
    await until(lambda: net.listener.lag_seconds > 0, "a tick")
    assert net.listener.lag_seconds == pytest.approx(3.0 - limits.TICK_SECONDS)


async def test_a_turn_of_the_loop_is_scheduled_once(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled: list[Callable[..., object]] = []
    connections = [net.attach()[0] for _ in range(3)]

    class Loop:
        def call_soon(self, callback: Callable[[], object]) -> None:
            scheduled.append(callback)

    monkeypatch.setattr(net.listener, "_loop", Loop())
    for connection in connections * 2:
        connection.flush_soon()
    assert len(scheduled) == 1
    assert len(net.listener._to_flush) == 3
    scheduled.pop()()
    connections[0].flush_soon()
    assert len(scheduled) == 1


async def test_the_kernel_watches_connections_that_have_no_keep_alive(net: Net) -> None:
    port = await net.listener.listen("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: len(net.listener.connections) == 1, "it is accepted")
    (connection,) = net.listener.connections
    assert connection._transport is not None
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == limits.TCP_KEEPALIVE_IDLE_SECONDS
    writer.close()
    await until(lambda: not net.listener.connections, "it is gone")
