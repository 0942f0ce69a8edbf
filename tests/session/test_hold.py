"""Back-pressure: while Kafka or the window of 3.1.1 is full, PUBLISH packets are set aside in order; PINGREQ is not."""

import sys

import pytest

from proxy import limits
from proxy.mqtt.packets import MQTT_3_1_1, Publish, Subscribe, Unsubscribe
from proxy.session.events import EndReason, Event, Grant
from proxy.session.protocol import ServerProtocol
from tests.support.wire import CONNECT, RECEIVE_MAXIMUM, VERSIONS, Session, proves

each_version = pytest.mark.parametrize("version", VERSIONS)
WITH_WILL = '10 { P 06 003c [00] "dev" [00] "gone" <> }'


def message(number: int, qos: int = 1) -> str:
    """Its packet identifier is its payload."""
    identifier = f"{number:04x}" if qos else ""
    return f'3{qos << 1} {{ "a" {identifier} [00] {number:04x} }}'


def numbers(events: list[Event]) -> list[int]:
    return [int.from_bytes(event.payload, "big") for event in events if isinstance(event, Publish)]


def held(version: int, connect: str = CONNECT) -> Session:
    session = Session(version, connect)
    session.protocol.hold()
    return session


# ---- the application holds ----


@each_version
def test_publishes_wait_in_their_order(version: int) -> None:
    session = held(version)
    assert session.receive(message(1) + message(2, qos=0) + message(3)) == []
    assert session.receive(message(4, qos=0)) == []
    assert session.protocol.unsettled == 0
    events = session.protocol.resume(session.now)
    assert numbers(events) == [1, 2, 3, 4]
    assert numbers(session.receive(message(5, qos=0))) == [5]


@each_version
@proves("3.1.1:MQTT-3.12.4-1", "5.0:MQTT-3.12.4-1")
def test_pingreq_is_answered_between_them(version: int) -> None:
    session = held(version)
    session.receive(message(1) + "c0 00" + message(2) + "c0 00")
    session.assert_sent("d0 00 d0 00")
    assert numbers(session.protocol.resume(session.now)) == [1, 2]
    assert session.sent() == b""


@each_version
def test_whatever_else_has_an_order_waits_too(version: int) -> None:
    session = held(version)
    assert session.receive(message(1) + '82 { 0002 [00] "a" 00 } a2 { 0003 [00] "a" } 62 { 0004 }' + message(5)) == []
    assert session.sent() == b""
    events = session.protocol.resume(session.now)
    assert [type(event) for event in events] == [Publish, Subscribe, Unsubscribe, Publish]
    session.assert_sent("70 { 0004 [92] }")


@each_version
@proves("3.1.1:MQTT-4.3.3-2", "5.0:MQTT-4.3.3-10")
def test_pubrel_does_not_overtake_a_repeated_message(version: int) -> None:
    """Else what was sent again before PUBREL would be a new message when it is handled."""
    session = Session(version)
    assert numbers(session.receive(message(1, qos=2))) == [1]
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")
    session.protocol.hold()
    session.receive(message(1, qos=2) + "62 { 0001 }" + message(1, qos=2))
    assert session.sent() == b""
    assert numbers(session.protocol.resume(session.now)) == [1]
    session.assert_sent("50 { 0001 } 70 { 0001 }")


@each_version
def test_held_again_before_all_was_handled(version: int) -> None:
    session = held(version)
    session.receive(message(1))
    assert numbers(session.protocol.resume(session.now)) == [1]
    session.protocol.hold()
    session.receive(message(2))
    assert numbers(session.protocol.resume(session.now)) == [2]


@each_version
def test_what_arrives_behind_what_waits_does_not_overtake_it(version: int) -> None:
    """Also when it is cut by a read, and when the hold began in the middle of a packet."""
    session = Session(version)
    whole = session.octets(message(1) + message(2) + message(3))
    cut = len(whole) // 2
    events = session.feed(whole[:cut])
    session.protocol.hold()
    assert session.feed(whole[cut:]) == []
    events += session.protocol.resume(session.now)
    assert numbers(events) == [1, 2, 3]


@each_version
def test_what_came_behind_connect_waits_as_well(version: int) -> None:
    session = Session(version, connect="")
    session.protocol.hold()
    session.receive(CONNECT + message(1) + "c0 00")
    assert session.protocol.accept_connect(Grant()) == []
    session.assert_sent("20 ?? 00 00 * d0 00")
    assert numbers(session.protocol.resume(session.now)) == [1]


@each_version
def test_what_is_wrong_is_found_in_its_turn(version: int) -> None:
    session = held(version)
    session.receive(message(1) + '30 { "a/#" [00] }' + message(2))
    assert not session.protocol.close_expected
    assert numbers(session.protocol.resume(session.now)) == [1]
    session.assert_sent("[e0 ?? 90 *]")
    assert session.protocol.close_expected


@each_version
def test_what_is_not_set_aside_ends_the_connection_at_once(version: int) -> None:
    session = held(version, WITH_WILL)
    session.receive(message(1) + "c1 00")
    session.assert_sent("[e0 ?? 81 *]")
    assert session.protocol.with_will
    assert session.protocol.resume(session.now) == []


# ---- the budget ----


def set_aside(protocol: ServerProtocol) -> int:
    """What the packets that wait take in memory."""
    return sum(sys.getsizeof(entry) + sys.getsizeof(entry[1]) for entry in protocol._held or ())


@each_version
@pytest.mark.parametrize("packet", [message(1, qos=0), '30 { "a" [00] (x)*5000 }', "e0 00", "62 { 0001 }"])
def test_reading_stops_when_enough_waits(version: int, packet: str) -> None:
    """Memory is bounded whatever waits, even packets that have no body."""
    session = held(version)
    one = len(session.octets(packet))
    for _ in range(limits.HELD_BYTES_MAX):
        if not session.protocol.want_read:
            break
        session.receive(packet)
    assert not session.protocol.want_read
    assert set_aside(session.protocol) <= limits.HELD_BYTES_MAX + one + limits.HELD_PACKET_OVERHEAD_BYTES
    assert set_aside(session.protocol) >= limits.HELD_BYTES_MAX // 2
    session.protocol.resume(session.now)
    assert session.protocol.close_expected or session.protocol.want_read


@each_version
@pytest.mark.parametrize("packet", ["e0 00", message(1, qos=0)])
def test_one_read_of_many_small_packets(version: int, packet: str) -> None:
    """What is beyond the budget stays as it came, and is handled in its turn."""
    session = held(version)
    one = len(session.octets(packet))
    data = session.octets(packet) * (60_000 // one) + session.octets("c0 00")
    session.feed(data)
    assert not session.protocol.want_read
    assert set_aside(session.protocol) <= limits.HELD_BYTES_MAX + one + limits.HELD_PACKET_OVERHEAD_BYTES
    assert session.sent() == b""
    events = session.protocol.resume(session.now)
    if session.protocol.close_expected:
        assert session.protocol.end == EndReason.NORMAL
    else:
        assert len(events) == 60_000 // one
        session.assert_sent("d0 00")


@each_version
def test_what_was_handled_leaves_the_budget(version: int) -> None:
    session = Session(version)
    packet = '30 { "a" [00] (x)*1000 }'
    for _ in range(3 * limits.HELD_BYTES_MAX // 1000):
        session.protocol.hold()
        session.receive(packet)
        assert session.protocol.want_read
        assert len(session.protocol.resume(session.now)) == 1


@each_version
def test_half_a_packet_counts_too(version: int) -> None:
    session = held(version)
    session.feed(session.octets("30 { (x)*90000 }")[: limits.HELD_BYTES_MAX - 1])
    assert session.protocol.want_read
    session.feed(b"x")
    assert not session.protocol.want_read


@each_version
def test_a_connection_that_is_not_held_is_always_read(version: int) -> None:
    session = Session(version)
    session.feed(session.octets("30 { (x)*90000 }")[:80_000])
    assert session.protocol.want_read


# ---- time ----


@each_version
def test_what_is_not_read_cannot_be_overdue(version: int) -> None:
    session = held(version)
    while session.protocol.want_read:
        session.receive('30 { "a" [00] (x)*5000 }')
    assert session.protocol.next_deadline == float("inf")
    session.now += 10_000
    session.protocol.tick(session.now)
    assert not session.protocol.close_expected
    session.protocol.resume(session.now)
    assert session.protocol.next_deadline == session.now + 90


@each_version
def test_a_held_connection_that_is_read_has_its_keep_alive(version: int) -> None:
    session = held(version)
    session.receive(message(1))
    assert session.protocol.next_deadline == session.now + 90
    session.now += 90
    session.protocol.tick(session.now)
    session.assert_sent("[e0 ?? 8d *]")
    assert session.protocol.end == EndReason.KEEPALIVE_TIMEOUT


# ---- the end ----


@each_version
@proves("3.1.1:MQTT-3.14.4-3", "5.0:MQTT-3.14.4-3")
def test_disconnect_behind_messages_that_wait(version: int) -> None:
    """The device said goodbye, so what it had sent is handled, and it is no accident that it goes."""
    session = held(version, WITH_WILL)
    assert session.receive(message(1) + message(2, qos=0) + "e0 00") == []
    assert not session.protocol.close_expected
    assert numbers(session.protocol.receive_eof()) == [1, 2]
    assert session.protocol.end == EndReason.NORMAL
    assert not session.protocol.with_will


@each_version
def test_disconnect_behind_messages_that_go_on(version: int) -> None:
    session = held(version, WITH_WILL)
    session.receive(message(1) + "e0 00")
    assert numbers(session.protocol.resume(session.now)) == [1]
    assert session.protocol.end == EndReason.NORMAL


@each_version
@proves("3.1.1:MQTT-3.1.2-8", "5.0:MQTT-3.1.2-8")
def test_the_connection_breaks_while_messages_wait(version: int) -> None:
    session = held(version, WITH_WILL)
    session.receive(message(1) + message(2, qos=0))
    assert numbers(session.protocol.receive_eof()) == [1, 2]
    assert session.protocol.end == EndReason.TCP_CLOSED
    assert session.protocol.with_will


@each_version
def test_ended_by_us_while_messages_wait(version: int) -> None:
    """They are the device's to send again."""
    session = held(version)
    session.receive(message(1))
    session.protocol.disconnect(0x8B, "shutting down")
    session.assert_sent("[e0 ?? 8b *]")
    assert session.protocol.resume(session.now) == []
    assert session.protocol.receive_eof() == []


# ---- the window of 3.1.1 ----


def full() -> Session:
    """As many messages in flight as 3.1.1 may have."""
    session = Session(MQTT_3_1_1)
    first = range(1, RECEIVE_MAXIMUM + 1)
    assert numbers(session.receive("".join(map(message, first)))) == list(first)
    return session


def settle_and_go_on(session: Session, *packet_ids: int) -> list[int]:
    """What the shell does after writing."""
    events: list[Event] = []
    session.protocol.settle_publishes(list(packet_ids), 0)
    session.sent()
    while session.protocol.resumable:
        events += session.protocol.resume(session.now)
        session.sent()
    return numbers(events)


def test_a_full_window_holds() -> None:
    session = full()
    assert session.receive(message(5) + message(6, qos=0) + "c0 00" + message(7)) == []
    session.assert_sent("d0 00")
    assert not session.protocol.undisturbed
    assert not session.protocol.resumable
    assert settle_and_go_on(session, 1) == [5]
    # A QoS 0 message needs no place in the window, but its place in the order.
    assert settle_and_go_on(session, 2) == [6, 7]
    assert settle_and_go_on(session, 3, 4, 5, 7) == []
    assert session.protocol.undisturbed
    assert numbers(session.receive(message(8))) == [8]


def test_a_window_that_opens_out_of_order_stays_full() -> None:
    session = full()
    session.receive(message(5))
    assert settle_and_go_on(session, 2, 3, 4) == []
    assert settle_and_go_on(session, 1) == [5]


def test_more_than_a_window_in_one_read() -> None:
    session = Session(MQTT_3_1_1)
    count = 5 * RECEIVE_MAXIMUM
    handled = numbers(session.receive("".join(map(message, range(1, count + 1)))))
    assert handled == [1, 2, 3, 4]
    for number in range(1, count + 1):
        handled += settle_and_go_on(session, number)
    assert handled == list(range(1, count + 1))


def test_pingreq_alone_does_not_wait_for_the_window() -> None:
    session = full()
    session.receive("c0 00")
    session.assert_sent("d0 00")
    assert settle_and_go_on(session, 1, 2, 3, 4) == []
    assert numbers(session.receive(message(5))) == [5]


def test_the_application_holds_on_when_the_window_opens() -> None:
    session = full()
    session.receive(message(5))
    session.protocol.hold()
    assert settle_and_go_on(session, 1, 2, 3, 4) == []
    assert not session.protocol.resumable
    assert numbers(session.protocol.resume(session.now)) == [5]


def test_the_window_holds_on_when_the_application_lets_go() -> None:
    session = full()
    session.protocol.hold()
    session.receive(message(5))
    assert session.protocol.resume(session.now) == []
    assert settle_and_go_on(session, 1) == [5]


def test_the_connection_breaks_while_the_window_is_full() -> None:
    """Then nobody waits for an acknowledgement, and what was received is handled."""
    session = full()
    session.receive(message(5) + message(6) + "e0 00")
    assert numbers(session.protocol.receive_eof()) == [5, 6]
    assert session.protocol.end == EndReason.NORMAL


def test_reading_stops_when_enough_waits_for_the_window() -> None:
    session = full()
    packet = '30 { "a" (x)*1000 }'
    while session.protocol.want_read:
        session.receive(packet)
    most = limits.HELD_BYTES_MAX + len(session.octets(packet)) + limits.HELD_PACKET_OVERHEAD_BYTES
    assert set_aside(session.protocol) <= most
    assert settle_and_go_on(session, 1)
    assert session.protocol.want_read
