"""QoS 1 from receipt to PUBACK: order, window, identifiers in use, and what is remembered of topic names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Publish, ReasonCode
from proxy.session.events import EndReason
from tests.support.packets import examples
from tests.support.wire import RECEIVE_MAXIMUM, VERSIONS, Session, proves

each_version = pytest.mark.parametrize("version", VERSIONS)


def publish(packet_id: int, *, dup: bool = False, topic: str = "a") -> str:
    return f'{"3a" if dup else "32"} {{ "{topic}" {packet_id:04x} [00] (hi) }}'


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
    session.assert_sent("40 { 0001 } [e0 { 8e }]")
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


def test_a_retry_of_what_is_under_way_is_not_another_message_in_311() -> None:
    session = Session(MQTT_3_1_1)
    assert len(session.receive(publish(1))) == 1
    assert session.receive(publish(1, dup=True)) == []
    assert session.protocol.unsettled == 1
    session.protocol.settle_publishes([1], 0)
    session.assert_sent("40 { 0001 }")


@proves("3.1.1:MQTT-2.3.1-2")
def test_an_identifier_in_use_without_dup_in_311() -> None:
    session = Session(MQTT_3_1_1)
    session.receive(publish(1))
    assert session.receive(publish(1)) == []
    assert session.protocol.end == EndReason.PROTOCOL_ERROR
    assert session.sent() == b""


@proves("5.0:MQTT-2.2.1-3", "5.0:MQTT-4.4.0-1")
@pytest.mark.parametrize("dup", [False, True])
def test_an_identifier_in_use_in_50(dup: bool) -> None:
    """Where resending is for a new connection only, DUP or not."""
    session = Session(MQTT_5_0)
    session.receive(publish(1))
    assert session.receive(publish(1, dup=dup)) == []
    session.assert_sent("e0 { 82 }")


@each_version
def test_identifiers_of_other_packets_are_their_own(version: int) -> None:
    session = Session(version)
    assert len(session.receive(publish(1) + '82 { 0001 [00] "a" 00 } a2 { 0001 [00] "a" }')) == 3
    assert not session.protocol.close_expected


# ---- the window of 5.0; that of 3.1.1 is in test_hold ----


@proves("5.0:MQTT-3.3.4-7", "5.0:MQTT-4.9.0-2")
def test_receive_maximum_exceeded() -> None:
    session = Session(MQTT_5_0)
    events = session.receive("".join(map(publish, range(1, RECEIVE_MAXIMUM + 1))))
    assert len(events) == RECEIVE_MAXIMUM
    assert session.receive(publish(99)) == []
    session.assert_sent("e0 { 93 }")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


def test_the_window_opens_with_each_puback_and_only_then() -> None:
    session = Session(MQTT_5_0)
    session.receive("".join(map(publish, range(1, RECEIVE_MAXIMUM + 1))))
    session.protocol.settle_publishes([1, 3], 0)
    session.assert_sent("40 { 0001 }")
    assert len(session.receive(publish(5))) == 1
    # 3 is settled, but its PUBACK waits for that of 2: it is still in flight.
    session.receive(publish(6))
    session.assert_sent("e0 { 93 }")


@proves("5.0:MQTT-3.3.4-8", "5.0:MQTT-4.9.0-3")
def test_only_qos_1_counts() -> None:
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
