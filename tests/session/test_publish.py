"""QoS 1 and 2 from receipt to the last acknowledgement: order, window, identifiers in use, and what is remembered of
topic names.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, Publish, ReasonCode
from proxy.session.events import EndReason
from tests.support.packets import examples
from tests.support.wire import RECEIVE_MAXIMUM, VERSIONS, Session, proves

each_version = pytest.mark.parametrize("version", VERSIONS)
before_50 = pytest.mark.parametrize("version", [MQTT_3_1, MQTT_3_1_1])


def publish(packet_id: int, *, qos: int = 1, dup: bool = False, topic: str = "a") -> str:
    return f'3{qos << 1 | dup << 3:x} {{ "{topic}" {packet_id:04x} [00] (hi) }}'


# ---- acknowledgements ----


@each_version
@proves("3.1.1:MQTT-4.6.0-2", "5.0:MQTT-4.6.0-2")
def test_pubacks_leave_in_the_order_of_receipt(version: int) -> None:
    session = Session(version)
    assert len(session.receive(publish(7) + publish(3) + publish(9))) == 3
    session.protocol.settle_publishes([9], 0)
    assert session.sent() == b""
    session.protocol.settle_publishes([7], 0)
    session.assert_sent("40 { 0007 }")
    session.protocol.settle_publishes([3], 0)
    session.assert_sent("40 { 0003 } 40 { 0009 }")
    assert session.protocol.unsettled == 0


@each_version
def test_nothing_is_acknowledged_before_it_is_settled(version: int) -> None:
    session = Session(version)
    session.receive(publish(1) + "c0 00")
    session.assert_sent("d0 00")
    assert session.protocol.unsettled == 1


@proves("3.1.1:MQTT-3.3.5-2", "5.0:MQTT-3.4.2-1")
@each_version
def test_reason_codes_of_the_application(version: int) -> None:
    """3.1.1 has none: what is refused there is acknowledged."""
    session = Session(version)
    session.receive(publish(1) + publish(2))
    session.protocol.settle_publishes([1], ReasonCode.NO_MATCHING_SUBSCRIBERS)
    session.protocol.settle_publishes([2], ReasonCode.QUOTA_EXCEEDED)
    session.assert_sent("40 { 0001 [10] } 40 { 0002 [97] }")


@each_version
def test_settling_what_nobody_waits_for(version: int) -> None:
    session = Session(version)
    session.receive(publish(1))
    with pytest.raises(KeyError):
        session.protocol.settle_publishes([2], 0)
    session.protocol.settle_publishes([1], 0)
    with pytest.raises(KeyError):
        session.protocol.settle_publishes([1], 0)


@each_version
@proves("5.0:MQTT-3.14.4-1", "5.0:MQTT-3.14.4-2")
def test_acknowledgements_that_are_due_come_before_disconnect(version: int) -> None:
    session = Session(version)
    session.receive(publish(1) + publish(2))
    session.protocol.settle_publishes([1], 0)
    session.protocol.disconnect(ReasonCode.SESSION_TAKEN_OVER, "somebody else came")
    session.assert_sent("40 { 0001 } [e0 ?? 8e *]")
    assert session.protocol.close_expected


@given(st.sampled_from(VERSIONS), st.lists(st.integers(1, 65_535), unique=True, min_size=1, max_size=12), st.data())
@examples(60)
def test_any_order_of_settling(version: int, packet_ids: list[int], data: st.DataObject) -> None:
    session = Session(version, receive_maximum=12)
    session.receive(" ".join(map(publish, packet_ids)))
    sent = b""
    for packet_id in data.draw(st.permutations(packet_ids)):
        session.protocol.settle_publishes([packet_id], 0)
        if data.draw(st.booleans()):
            sent += session.sent()
    sent += session.sent()
    assert sent == session.octets(" ".join(f"40 {{ {packet_id:04x} }}" for packet_id in packet_ids))


# ---- identifiers ----


@each_version
@proves("3.1.1:MQTT-4.3.2-2", "5.0:MQTT-4.3.2-5")
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_is_new_after_its_puback(version: int, dup: bool) -> None:
    session = Session(version)
    session.receive(publish(1))
    session.protocol.settle_publishes([1], 0)
    session.sent()
    assert len(session.receive(publish(1, dup=dup))) == 1
    assert session.sent() == b""
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("40 { 0001 }")


@before_50
def test_a_retry_of_what_is_under_way_is_not_another_message(version: int) -> None:
    session = Session(version)
    assert len(session.receive(publish(1))) == 1
    assert session.receive(publish(1, dup=True)) == []
    assert session.protocol.unsettled == 1
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("40 { 0001 }")


@before_50
@proves("3.1.1:MQTT-2.3.1-2")
def test_an_identifier_in_use_without_dup(version: int) -> None:
    session = Session(version)
    session.receive(publish(1))
    assert session.receive(publish(1)) == []
    assert session.protocol.end == EndReason.PROTOCOL_ERROR
    assert session.sent() == b""


@proves("5.0:MQTT-2.2.1-3")
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_in_use_in_50(dup: bool) -> None:
    """Where resending is for a new connection only, DUP or not."""
    session = Session(MQTT_5_0)
    session.receive(publish(1))
    assert session.receive(publish(1, dup=dup)) == []
    session.assert_sent("e0 ?? 82 *")


@each_version
def test_identifiers_of_other_packets_are_their_own(version: int) -> None:
    session = Session(version)
    assert len(session.receive(publish(1) + '82 { 0001 [00] "a" 00 } a2 { 0001 [00] "a" }')) == 3
    assert not session.protocol.close_expected


# ---- exactly once ----


def settled(version: int, *packet_ids: int) -> Session:
    """QoS 2 messages whose PUBREC was sent."""
    session = Session(version)
    assert len(session.receive("".join(publish(packet_id, qos=2) for packet_id in packet_ids))) == len(packet_ids)
    session.protocol.settle_publishes(list(packet_ids), 0)
    session.assert_sent(" ".join(f"50 {{ {packet_id:04x} }}" for packet_id in packet_ids))
    return session


@each_version
@proves("3.1.1:MQTT-4.3.3-2", "5.0:MQTT-4.3.3-8", "5.0:MQTT-4.3.3-11")
def test_exactly_once(version: int) -> None:
    session = Session(version)
    assert len(session.receive(publish(1, qos=2))) == 1
    assert session.sent() == b""
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")
    assert session.receive("62 { 0001 }") == []
    session.assert_sent("70 { 0001 }")


@each_version
@proves("3.1.1:MQTT-4.3.3-2", "5.0:MQTT-4.3.3-10")
@pytest.mark.parametrize("dup", [False, True])
def test_the_same_message_again_before_its_pubrel(version: int, dup: bool) -> None:
    """PUBREC again, as often as it comes, and it is not handed on again."""
    session = settled(version, 1)
    for _ in range(2):
        assert session.receive(publish(1, qos=2, dup=dup)) == []
        session.assert_sent("50 { 0001 }")
    session.receive("62 { 0001 }")
    session.assert_sent("70 { 0001 }")


@each_version
@proves("3.1.1:MQTT-4.3.3-2", "5.0:MQTT-4.3.3-10")
@pytest.mark.parametrize("dup", [False, True])
def test_the_same_message_again_before_its_pubrec(version: int, dup: bool) -> None:
    """One PUBREC when Kafka has it."""
    session = Session(version)
    session.receive(publish(1, qos=2))
    assert session.receive(publish(1, qos=2, dup=dup)) == []
    assert session.sent() == b""
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")


@each_version
@proves("3.1.1:MQTT-2.3.1-3", "5.0:MQTT-4.3.3-12")
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_is_new_after_its_pubrel(version: int, dup: bool) -> None:
    session = settled(version, 1)
    session.receive("62 { 0001 }")
    assert len(session.receive(publish(1, qos=2, dup=dup))) == 1
    session.assert_sent("70 { 0001 }")
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")


@each_version
@proves("5.0:MQTT-4.3.3-11")
def test_pubrel_again_finds_nothing(version: int) -> None:
    session = settled(version, 1)
    session.receive("62 { 0001 } 62 { 0001 }")
    session.assert_sent("70 { 0001 } 70 { 0001 [92] }")


@each_version
def test_pubrel_before_pubrec_finds_nothing(version: int) -> None:
    """The message stays what it is: under way."""
    session = Session(version)
    session.receive(publish(1, qos=2) + "62 { 0001 }")
    session.assert_sent("70 { 0001 [92] }")
    assert session.receive(publish(1, qos=2)) == []
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")


@each_version
def test_pubrel_finds_no_message_of_qos_1(version: int) -> None:
    session = Session(version)
    session.receive(publish(1) + "62 { 0001 }")
    session.assert_sent("70 { 0001 [92] }")
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("40 { 0001 }")


@proves("5.0:MQTT-4.3.3-9")
def test_an_identifier_is_free_after_a_pubrec_that_refuses() -> None:
    session = Session(MQTT_5_0)
    session.receive(publish(1, qos=2))
    session.protocol.settle_publishes([1], ReasonCode.QUOTA_EXCEEDED)
    session.assert_sent("50 { 0001 97 }")
    session.receive("62 { 0001 }")
    session.assert_sent("70 { 0001 92 }")
    assert len(session.receive(publish(1, qos=2))) == 1
    session.protocol.settle_publishes([1], ReasonCode.NO_MATCHING_SUBSCRIBERS)
    session.assert_sent("50 { 0001 10 }")
    assert session.receive(publish(1, qos=2)) == []
    session.assert_sent("50 { 0001 }")
    session.receive("62 { 0001 }")
    session.assert_sent("70 { 0001 }")


@proves("5.0:MQTT-4.3.3-13")
def test_a_message_that_has_expired_goes_on_to_its_pubcomp() -> None:
    session = Session(MQTT_5_0)
    session.receive('34 { "a" 0001 { 02 00000001 } }')
    session.now += 10
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("50 { 0001 }")
    session.now += 10
    session.receive("62 { 0001 }")
    session.assert_sent("70 { 0001 }")


@before_50
def test_what_is_refused_before_50_has_its_pubrec(version: int) -> None:
    session = Session(version)
    session.receive(publish(1, qos=2))
    session.protocol.settle_publishes([1], ReasonCode.QUOTA_EXCEEDED)
    session.assert_sent("50 { 0001 }")
    session.receive("62 { 0001 }")
    session.assert_sent("70 { 0001 }")


@each_version
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_in_use_at_another_qos(version: int, first: int, second: int, dup: bool) -> None:
    session = Session(version)
    session.receive(publish(1, qos=first))
    assert session.receive(publish(1, qos=second, dup=dup)) == []
    session.assert_sent("[e0 ?? 82 *]")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


@each_version
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_that_waits_for_pubrel_at_qos_1(version: int, dup: bool) -> None:
    session = settled(version, 1)
    assert session.receive(publish(1, dup=dup)) == []
    session.assert_sent("[e0 ?? 82 *]")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


@each_version
@proves("3.1.1:MQTT-4.6.0-2", "3.1.1:MQTT-4.6.0-3", "5.0:MQTT-4.6.0-2", "5.0:MQTT-4.6.0-3")
def test_pubacks_and_pubrecs_leave_in_one_order(version: int) -> None:
    session = Session(version)
    session.receive(publish(7, qos=2) + publish(3) + publish(9, qos=2) + publish(4))
    session.protocol.settle_publishes([9, 3], 0)
    assert session.sent() == b""
    session.protocol.settle_publishes([7], 0)
    session.assert_sent("50 { 0007 } 40 { 0003 } 50 { 0009 }")
    session.receive("62 { 0009 } 62 { 0007 }")
    session.assert_sent("70 { 0009 } 70 { 0007 }")
    session.protocol.settle_publishes([4], 0)
    session.assert_sent("40 { 0004 }")


@given(st.sampled_from(VERSIONS), st.lists(st.integers(1, 2), min_size=1, max_size=12), st.data())
@examples(60)
def test_any_order_of_settling_at_any_qos(version: int, qualities: list[int], data: st.DataObject) -> None:
    session = Session(version, receive_maximum=12)
    sample = list(enumerate(qualities, start=1))
    session.receive(" ".join(publish(packet_id, qos=qos) for packet_id, qos in sample))
    for packet_id, _ in data.draw(st.permutations(sample)):
        session.protocol.settle_publishes([packet_id], 0)
    session.assert_sent(" ".join(f"{'40' if qos == 1 else '50'} {{ {packet_id:04x} }}" for packet_id, qos in sample))
    exactly_once = [packet_id for packet_id, qos in sample if qos == 2]
    released = data.draw(st.permutations(exactly_once))
    session.receive(" ".join(f"62 {{ {packet_id:04x} }}" for packet_id in released))
    session.assert_sent(" ".join(f"70 {{ {packet_id:04x} }}" for packet_id in released))


class Sender:
    """A device that sends each message at QoS 2 until it is done, and repeats itself at random."""

    def __init__(self, version: int) -> None:
        self.session = Session(version)
        self.handled: list[int] = []
        self.unsettled: list[int] = []

    def receive(self, notation: str, number: int) -> None:
        for _ in self.session.receive(notation):
            self.handled.append(number)
            self.unsettled.append(number % 4 + 1)

    def settle(self) -> None:
        for packet_id in self.unsettled:
            self.session.protocol.settle_publishes([packet_id], 0)
        self.unsettled = []


@given(st.sampled_from(VERSIONS), st.integers(1, 12), st.data())
@examples(60)
@proves("3.1.1:MQTT-4.3.3-2", "5.0:MQTT-4.3.3-10", "5.0:MQTT-4.3.3-12", "3.1.1:MQTT-4.1.0-2", "5.0:MQTT-4.1.0-1")
def test_each_message_is_handled_once_however_often_it_comes(version: int, count: int, data: st.DataObject) -> None:
    """Four identifiers, used again and again."""
    sender = Sender(version)
    repeats = st.integers(1, 3)
    for number in range(count):
        packet_id = number % 4 + 1
        for _ in range(data.draw(repeats)):
            sender.receive(publish(packet_id, qos=2, dup=data.draw(st.booleans())), number)
        sender.settle()
        for _ in range(data.draw(repeats) - 1):
            sender.receive(publish(packet_id, qos=2, dup=True), number)
        for _ in range(data.draw(repeats)):
            sender.receive(f"62 {{ {packet_id:04x} }}", number)
    assert sender.handled == list(range(count))
    assert not sender.session.protocol.close_expected


# ---- the window of 5.0; that of 3.x is in test_hold ----


@proves("5.0:MQTT-4.9.0-2")
def test_a_message_of_qos_2_is_in_flight_until_its_pubrel() -> None:
    session = settled(MQTT_5_0, *range(1, RECEIVE_MAXIMUM + 1))
    # A repeated one is none more.
    assert session.receive(publish(1, qos=2)) == []
    session.assert_sent("50 { 0001 }")
    assert session.receive("62 { 0001 }" + publish(5)) != []
    session.assert_sent("70 { 0001 }")
    assert session.receive(publish(6)) == []
    session.assert_sent("e0 ?? 93 *")


@proves("5.0:MQTT-4.9.0-2")
def test_a_message_of_qos_2_that_is_refused_leaves_the_window() -> None:
    session = Session(MQTT_5_0)
    session.receive("".join(publish(packet_id, qos=2) for packet_id in range(1, RECEIVE_MAXIMUM + 1)))
    session.protocol.settle_publishes([1], ReasonCode.QUOTA_EXCEEDED)
    session.assert_sent("50 { 0001 97 }")
    assert len(session.receive(publish(5))) == 1
    session.receive(publish(6))
    session.assert_sent("e0 ?? 93 *")


@before_50
def test_before_50_what_waits_for_pubrel_holds_nobody(version: int) -> None:
    """Nothing is known of a window there, so a device that never sends PUBREL goes on."""
    session = settled(version, *range(1, RECEIVE_MAXIMUM + 1))
    assert len(session.receive(publish(5, qos=2))) == 1


@proves("5.0:MQTT-3.3.4-7", "5.0:MQTT-4.9.0-2")
def test_receive_maximum_exceeded() -> None:
    session = Session(MQTT_5_0)
    events = session.receive("".join(map(publish, range(1, RECEIVE_MAXIMUM + 1))))
    assert len(events) == RECEIVE_MAXIMUM
    assert session.receive(publish(99)) == []
    session.assert_sent("e0 ?? 93 *")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


def test_the_window_opens_with_each_puback_and_only_then() -> None:
    session = Session(MQTT_5_0)
    session.receive("".join(map(publish, range(1, RECEIVE_MAXIMUM + 1))))
    session.protocol.settle_publishes([1, 3], 0)
    session.assert_sent("40 { 0001 }")
    assert len(session.receive(publish(5))) == 1
    # 3 is settled, but its PUBACK waits for that of 2: it is still in flight.
    session.receive(publish(6))
    session.assert_sent("e0 ?? 93 *")


@proves("5.0:MQTT-3.3.4-8", "5.0:MQTT-4.9.0-3")
def test_only_messages_that_are_acknowledged_count() -> None:
    session = Session(MQTT_5_0)
    session.receive("".join(map(publish, range(1, RECEIVE_MAXIMUM + 1))))
    events = session.receive('30 { "a" 00 } 82 { 0001 00 "a" 00 } a2 { 0001 00 "a" } c0 00')
    assert len(events) == 3
    session.assert_sent("d0 00")


# ---- topic names ----


@each_version
def test_what_was_decided_for_a_topic_name_stays_with_it(version: int) -> None:
    session = Session(version)
    first, other = session.receive('30 { "a" [00] } 30 { "b" [00] }')
    first.topic.decision = "somewhere"
    (again,) = session.receive('30 { "a" [00] }')
    assert again.topic.decision == "somewhere"
    assert other.topic.decision is None


@each_version
def test_a_new_topic_name_each_time_does_not_grow_memory(version: int) -> None:
    session = Session(version)
    most = limits.TOPICS_CACHED_PER_CONNECTION_MAX
    for number in range(3 * most):
        (event,) = session.receive(f'30 {{ "topic/{number}" [00] }}')
        assert isinstance(event, Publish)
        assert event.topic.name == f"topic/{number}"
        assert len(session.protocol._topics) <= most
