"""One connection: what it writes and when, when it reads, and that it ends once, whatever ends it."""

import logging

import pytest

from proxy import limits
from proxy.mqtt.encode import PINGRESP, encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Connect, Disconnect, Pingreq, Publish
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.session.events import EndReason
from tests.net.harness import Net
from tests.support.fakes import FakeTransport, break_session, turn

PINGREQ = encode_packet(Pingreq(), MQTT_3_1_1)
CONNACK = b"\x20\x02\x00\x00"
#: A packet type that does not exist.
MALFORMED = b"\x00\x00"


def connect(version: int = MQTT_3_1_1, keep_alive: int = 0) -> bytes:
    return encode_packet(Connect(version, "device", keep_alive=keep_alive), version)


def publish(packet_id: int, payload: bytes = b"x") -> bytes:
    return encode_packet(Publish(TopicName("a", b"a"), payload, 1, packet_id=packet_id), MQTT_3_1_1)


def pubacks(*packet_ids: int) -> bytes:
    return b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids)


def connected(net: Net, version: int = MQTT_3_1_1, keep_alive: int = 0) -> tuple[MqttConnection, FakeTransport]:
    connection, transport = net.attach()
    connection.data_received(connect(version, keep_alive))
    assert transport.take()[:1] == CONNACK[:1]
    return connection, transport


async def test_settlements_of_one_turn_leave_in_one_write_per_connection(net: Net) -> None:
    both = [connected(net), connected(net)]
    for connection, _ in both:
        connection.data_received(b"".join(publish(packet_id) for packet_id in range(1, 101)))
    for packet_id in range(1, 101):
        for connection, transport in both:
            connection.protocol.settle_publishes([packet_id], 0)
            connection.flush_soon()
            assert transport.writes == []
    await turn()
    for _, transport in both:
        assert transport.writes == [pubacks(*range(1, 101))]


async def test_the_next_turn_writes_again(net: Net) -> None:
    connection, transport = connected(net)
    connection.data_received(publish(1) + publish(2))
    for packet_id in (1, 2):
        connection.protocol.settle_publishes([packet_id], 0)
        connection.flush_soon()
        await turn()
    assert transport.writes == [pubacks(1), pubacks(2)]


async def test_what_was_written_meanwhile_is_not_written_twice(net: Net) -> None:
    connection, transport = connected(net)
    connection.data_received(publish(1))
    connection.protocol.settle_publishes([1], 0)
    connection.flush_soon()
    connection.data_received(PINGREQ)
    await turn()
    assert transport.writes == [pubacks(1) + PINGRESP]


async def test_answers_to_one_read_leave_in_one_write(net: Net) -> None:
    connection, transport = net.attach()
    connection.data_received(connect() + PINGREQ * 3)
    assert transport.written == CONNACK + PINGRESP * 3
    transport.writes.clear()
    connection.data_received(PINGREQ * 50)
    assert transport.writes == [PINGRESP * 50]


async def test_a_full_window_holds_back_and_goes_on_as_it_empties(net: Net) -> None:
    net = Net(receive_maximum=2)
    connection, transport = connected(net)
    handler = net.handlers[0]
    connection.data_received(b"".join(publish(packet_id) for packet_id in range(1, 6)) + PINGREQ)
    assert [each.packet_id for each in handler.published] == [1, 2]
    assert transport.take() == PINGRESP
    connection.protocol.settle_publishes([1, 2], 0)
    connection.flush_soon()
    await turn()
    assert [each.packet_id for each in handler.published] == [1, 2, 3, 4]
    assert transport.take() == pubacks(1, 2)


async def test_a_device_that_does_not_read_is_not_read(net: Net) -> None:
    connection, transport = connected(net)
    connection.pause_writing()
    assert (transport.reading, connection.writable) == (False, False)
    connection.pause_writing()
    connection.resume_writing()
    assert (transport.reading, connection.writable) == (True, True)
    assert net.handlers[0].rooms == 1


async def test_what_a_device_does_not_read_is_known(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, transport = connected(net)
    monkeypatch.setattr(transport, "get_write_buffer_size", lambda: 7)
    assert connection.unread_bytes == 7
    transport.abort()
    await turn()
    assert connection.unread_bytes == 0
    # uvloop may still say it when there is nobody to be told.
    connection.resume_writing()
    assert net.handlers[0].rooms == 0


async def test_messages_to_the_device(net: Net) -> None:
    connection, _ = connected(net)
    for qos in (1, 2):
        connection.protocol.send_publish(Publish(TopicName("down", b"down"), b"", qos))
    connection.data_received(b"\x40\x02\x00\x01" + b"\x50\x02\x00\x02")
    handler = net.handlers[0]
    assert ([each.packet_id for each in handler.acknowledged], handler.rooms) == ([1, 2], 0)
    connection.data_received(b"\x70\x02\x00\x02")
    assert (len(handler.acknowledged), handler.rooms) == (2, 1)


@pytest.mark.parametrize("place", ["on_acknowledged", "on_room"])
async def test_a_bug_in_handling_them(net: Net, place: str) -> None:
    connection, transport = connected(net)
    connection.protocol.send_publish(Publish(TopicName("down", b"down"), b"", 1))
    net.handlers[0].raises_in = place
    connection.data_received(b"\x40\x02\x00\x01")
    if place == "on_room":
        connection.pause_writing()
        connection.resume_writing()
    assert transport.aborted
    net.bugs_wanted = 1


async def test_reading_waits_for_both_the_device_and_kafka(net: Net) -> None:
    connection, transport = connected(net)
    net.congestion.congested = True
    connection.data_received(publish(1, bytes(limits.HELD_BYTES_MAX)))
    assert not transport.reading
    connection.pause_writing()
    connection.resume_writing()
    assert not transport.reading
    net.congestion.congested = False
    connection.pause_writing()
    net.listener.relieve()
    assert [each.packet_id for each in net.handlers[0].published] == [1]
    assert not transport.reading
    connection.resume_writing()
    assert transport.reading


async def test_a_device_that_left_with_a_full_buffer_is_cut_after_a_while(net: Net) -> None:
    clock = net.stop_the_clock()
    connection, transport = connected(net)
    transport.stuck = True
    connection.data_received(MALFORMED)
    assert transport.closed
    assert net.handlers[0].ends == 1
    clock.now += limits.CLOSE_LINGER_SECONDS - 0.001
    connection.tick(clock.now)
    assert not transport.aborted
    clock.now += 0.002
    connection.tick(clock.now)
    assert transport.aborted
    await turn()
    assert net.listener.connections == set()
    assert net.handlers[0].ends == 1


async def test_a_connect_that_does_not_come_in_time(net: Net) -> None:
    clock = net.stop_the_clock()
    connection, transport = net.attach()
    connection.data_received(connect()[:-1])
    clock.now += 9.9
    connection.tick(clock.now)
    assert not transport.closed
    clock.now += 0.1
    connection.tick(clock.now)
    assert transport.closed
    assert transport.written == b""
    assert connection.protocol.end == EndReason.PROTOCOL_ERROR


async def test_a_keep_alive_that_is_over(net: Net) -> None:
    clock = net.stop_the_clock()
    connection, transport = connected(net, MQTT_5_0, keep_alive=10)
    clock.now += 14.0
    connection.data_received(PINGREQ)
    assert transport.take() == PINGRESP
    clock.now += 14.9
    connection.tick(clock.now)
    assert not transport.closed
    clock.now += 0.1
    connection.tick(clock.now)
    goodbye = transport.take()
    assert (goodbye[0], goodbye[2]) == (0xE0, 0x8D)
    assert transport.closed


async def test_a_device_that_says_goodbye(net: Net) -> None:
    connection, transport = connected(net)
    connection.data_received(publish(1) + encode_packet(Disconnect(), MQTT_3_1_1) + publish(2))
    assert transport.closed
    await turn()
    handler = net.handlers[0]
    assert ([each.packet_id for each in handler.published], handler.ends) == ([1], 1)
    assert connection.protocol.end == EndReason.NORMAL


async def test_the_end_of_the_stream_ends_the_connection_once(net: Net) -> None:
    connection, transport = connected(net)
    assert connection.eof_received() is False
    assert transport.closed
    await turn()
    assert net.handlers[0].ends == 1
    assert connection.protocol.end == EndReason.TCP_CLOSED
    assert net.listener.connections == set()


async def test_what_was_set_aside_is_handled_before_the_end(net: Net) -> None:
    connection, _ = connected(net)
    net.congestion.congested = True
    connection.data_received(publish(1) + publish(2) + encode_packet(Disconnect(), MQTT_3_1_1))
    assert net.handlers[0].published == []
    connection.eof_received()
    assert [each.packet_id for each in net.handlers[0].published] == [1, 2]
    assert connection.protocol.end == EndReason.NORMAL
    assert net.listener.held == 0


async def test_a_connection_that_breaks_before_connect(net: Net) -> None:
    connection, transport = net.attach()
    connection.connection_lost(ConnectionResetError())
    assert net.handlers[0].ends == 1
    assert connection.protocol.end == EndReason.TCP_CLOSED
    assert net.listener.connections == set()
    assert transport.writes == []


async def test_abort_ends_it_once(net: Net) -> None:
    connection, transport = connected(net)
    connection.abort()
    connection.abort()
    assert transport.aborted
    await turn()
    assert net.handlers[0].ends == 1
    connection.abort()


async def test_nothing_is_written_after_the_end(net: Net) -> None:
    connection, transport = connected(net)
    connection.data_received(publish(1))
    connection.protocol.settle_publishes([1], 0)
    connection.flush_soon()
    connection.abort()
    await turn()
    connection.flush_soon()
    connection.resume()
    await turn()
    assert transport.writes == []


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.7", 1883), "10.0.0.7"),
        (("::ffff:10.0.0.7", 1883, 0, 0), "10.0.0.7"),
        (("2001:db8:0::7", 1883, 0, 0), "2001:db8::7"),
        (("fe80::7%eth0", 1883, 0, 2), "fe80::7"),
        (None, ""),
    ],
)
async def test_address(net: Net, peer: tuple[object, ...] | None, address: str) -> None:
    connection, _ = net.attach(peer)
    assert connection.address == address
    connection.connection_lost(None)
    assert connection.address == ""


@pytest.mark.parametrize(
    ("place", "data"),
    [
        ("on_connect", connect()),
        ("on_publish", connect() + publish(1)),
        ("on_subscribe", connect() + b"\x82\x06\x00\x01\x00\x01a\x00"),
        ("on_unsubscribe", connect() + b"\xa2\x05\x00\x01\x00\x01a"),
        ("on_end", connect() + MALFORMED),
    ],
)
async def test_a_bug_in_a_handler_drops_its_connection_alone(
    net: Net, caplog: pytest.LogCaptureFixture, place: str, data: bytes
) -> None:
    net.bugs_wanted = 1
    other, other_transport = connected(net)
    net.raises_in = place
    connection, transport = net.attach()
    connection.data_received(data)
    assert transport.aborted
    await turn()
    assert net.listener.connections == {other}
    assert [handler.ends for handler in net.handlers] == [0, 1]
    assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [(logging.ERROR, True)]
    other.data_received(PINGREQ)
    assert other_transport.take() == PINGRESP


@pytest.mark.parametrize("method", ["receive_data", "data_to_send", "want_read"])
async def test_a_bug_in_the_session_drops_its_connection_alone(net: Net, method: str) -> None:
    net.bugs_wanted = 1
    other, other_transport = connected(net)
    connection, transport = connected(net)
    net.congestion.congested = True
    break_session(connection, method)
    connection.data_received(publish(1))
    assert transport.aborted
    await turn()
    assert net.listener.connections == {other}
    assert net.listener.held == 0
    assert net.handlers[1].ends == 1
    other.data_received(PINGREQ)
    assert other_transport.take() == PINGRESP


async def test_a_bug_in_a_common_flush_leaves_the_others_their_writes(net: Net) -> None:
    net.bugs_wanted = 1
    three = [connected(net) for _ in range(3)]
    for connection, _ in three:
        connection.data_received(publish(1))
        connection.protocol.settle_publishes([1], 0)
        connection.flush_soon()
    broken, transport = three[1]
    break_session(broken, "data_to_send")
    await turn()
    assert [each.take() for _, each in three] == [pubacks(1), b"", pubacks(1)]
    assert transport.aborted
    await turn()
    assert net.listener.connections == {three[0][0], three[2][0]}


async def test_a_bug_behind_the_end_of_the_stream_is_a_connection_less(net: Net) -> None:
    net.bugs_wanted = 1
    connection, transport = connected(net)
    net.congestion.congested = True
    connection.data_received(publish(1))
    net.handlers[0].raises_in = "on_publish"
    connection.eof_received()
    assert transport.aborted
    await turn()
    assert net.listener.connections == set()
    assert net.handlers[0].ends == 1


async def test_a_bug_while_the_connection_breaks_leaves_nothing_behind(net: Net) -> None:
    net.bugs_wanted = 1
    connection, _ = connected(net)
    net.congestion.congested = True
    connection.data_received(publish(1))
    net.handlers[0].raises_in = "on_publish"
    connection.connection_lost(None)
    assert net.listener.connections == set()
    assert (net.listener.held, net.handlers[0].ends) == (0, 1)
