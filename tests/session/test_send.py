"""Messages to the device: QoS 0, 1 and 2 until their last acknowledgement, and what the device says it takes."""

import pytest

from proxy.errors import SessionError
from proxy.mqtt import packets
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, Properties, Publish
from proxy.mqtt.topics import TopicName
from proxy.session.events import Acknowledged, Completed, Event
from tests.support.wire import VERSIONS, Session, proves

each_version = pytest.mark.parametrize("version", VERSIONS)
before_50 = pytest.mark.parametrize("version", [MQTT_3_1, MQTT_3_1_1])


def message(qos: int, payload: bytes = b"hi", properties: Properties | None = None) -> Publish:
    return Publish(TopicName("down", b"down"), payload, qos, properties=properties or {})


def in_flight(version: int, qos: int) -> Session:
    """One message is on its way, with packet identifier 1."""
    session = Session(version)
    assert session.protocol.send_publish(message(qos)) == 1
    session.sent()
    return session


def outcomes(events: list[Event]) -> list[tuple[int, int]]:
    """Nothing but outcomes: packet identifiers with their reason codes. At QoS 2 PUBREC has it."""
    assert all(isinstance(event, Acknowledged | Completed) for event in events)
    return [(event.packet_id, event.reason_code) for event in events if isinstance(event, Acknowledged)]


# ---- one message ----


@each_version
@proves("3.1.1:MQTT-2.3.1-5", "3.1.1:MQTT-4.3.1-1", "5.0:MQTT-2.2.1-2", "5.0:MQTT-4.3.1-1")
def test_qos_0(version: int) -> None:
    session = Session(version)
    assert session.protocol.send_publish(message(0)) is None
    session.assert_sent('30 { "down" [00] (hi) }')


@each_version
@proves("3.1.1:MQTT-2.3.1-4", "3.1.1:MQTT-4.3.2-1", "5.0:MQTT-2.2.1-4", "5.0:MQTT-4.3.2-1", "5.0:MQTT-4.3.2-2")
def test_qos_1(version: int) -> None:
    session = Session(version)
    assert session.protocol.send_publish(message(1)) == 1
    session.assert_sent('32 { "down" 0001 [00] (hi) }')
    assert outcomes(session.receive("40 { 0001 }")) == [(1, 0)]
    assert session.sent() == b""
    assert session.receive("40 { 0001 }") == []


@each_version
@proves(
    "3.1.1:MQTT-4.3.3-1",
    "5.0:MQTT-4.3.3-1",
    "5.0:MQTT-4.3.3-2",
    "5.0:MQTT-4.3.3-3",
    "5.0:MQTT-4.3.3-4",
    "5.0:MQTT-4.3.3-6",
)
def test_qos_2(version: int) -> None:
    session = Session(version)
    assert session.protocol.send_publish(message(2)) == 1
    session.assert_sent('34 { "down" 0001 [00] (hi) }')
    assert outcomes(session.receive("50 { 0001 }")) == [(1, 0)]
    session.assert_sent("62 { 0001 }")
    assert session.receive("70 { 0001 }") == [Completed(1)]
    assert session.sent() == b""
    assert session.receive("70 { 0001 }") == []


def test_properties_go_with_it() -> None:
    session = Session(MQTT_5_0)
    properties: Properties = {packets.CONTENT_TYPE: "text/plain", packets.USER_PROPERTY: [("b", "1"), ("a", "2")]}
    session.protocol.send_publish(message(0, properties=properties))
    session.assert_sent('30 { "down" { 03 "text/plain" 26 "b" "1" 26 "a" "2" } (hi) }')


# ---- refused by the device ----


@pytest.mark.parametrize("reason", [0x10, 0x80, 0x87, 0x97])
def test_the_reason_of_puback(reason: int) -> None:
    session = in_flight(MQTT_5_0, 1)
    assert outcomes(session.receive(f"40 {{ 0001 {reason:02x} }}")) == [(1, reason)]


@proves("5.0:MQTT-4.4.0-2")
@pytest.mark.parametrize("reason", [0x80, 0x87, 0x97, 0x99])
def test_a_pubrec_that_refuses_ends_the_message(reason: int) -> None:
    session = in_flight(MQTT_5_0, 2)
    assert outcomes(session.receive(f"50 {{ 0001 {reason:02x} }}")) == [(1, reason)]
    assert session.sent() == b""


@proves("5.0:MQTT-4.3.3-4")
def test_a_pubrec_whose_reason_is_no_refusal() -> None:
    session = in_flight(MQTT_5_0, 2)
    assert outcomes(session.receive("50 { 0001 10 }")) == [(1, 0x10)]
    session.assert_sent("62 { 0001 }")
    assert session.receive("70 { 0001 }") == [Completed(1)]


def test_a_pubcomp_that_found_nothing() -> None:
    session = in_flight(MQTT_5_0, 2)
    session.receive("50 { 0001 }")
    assert session.receive("70 { 0001 92 }") == [Completed(1)]


# ---- acknowledgements that nobody waits for ----


@proves("5.0:MQTT-4.3.2-3", "5.0:MQTT-4.3.3-3")
@each_version
@pytest.mark.parametrize(("qos", "packet"), [(1, "70"), (1, "50"), (2, "40"), (2, "70")])
def test_an_acknowledgement_of_another_kind(version: int, qos: int, packet: str) -> None:
    """It changes nothing: the message is still on its way."""
    session = in_flight(version, qos)
    assert session.receive(f"{packet} {{ 0001 }}") == []
    session.assert_sent("[62 { 0001 92 }]" if packet == "50" else "")
    assert outcomes(session.receive("40 { 0001 }" if qos == 1 else "50 { 0001 } 70 { 0001 }")) == [(1, 0)]


@each_version
@pytest.mark.parametrize("packet", ["40", "50", "70"])
def test_an_identifier_that_nobody_knows(version: int, packet: str) -> None:
    session = in_flight(version, 1)
    assert session.receive(f"{packet} {{ 0002 }}") == []
    session.assert_sent("[62 { 0002 92 }]" if packet == "50" else "")
    assert not session.protocol.close_expected


def test_a_pubrec_that_refuses_what_nobody_knows_gets_no_answer() -> None:
    session = in_flight(MQTT_5_0, 1)
    assert session.receive("50 { 0002 80 }") == []
    assert session.sent() == b""


# ---- identifiers and the window ----


@each_version
@proves("3.1.1:MQTT-2.3.1-4", "5.0:MQTT-2.2.1-4")
def test_each_message_has_its_own_identifier_and_its_place(version: int) -> None:
    session = Session(version)
    given = [session.protocol.send_publish(message(qos)) for qos in (1, 2, 0, 1)]
    assert given == [1, 2, None, 3]
    session.assert_sent(
        '32 { "down" 0001 [00] (hi) } 34 { "down" 0002 [00] (hi) } 30 { "down" [00] (hi) } 32 { "down" 0003 [00] (hi) }'
    )


@each_version
@proves("3.1.1:MQTT-4.6.0-4", "5.0:MQTT-4.6.0-4")
def test_pubrels_are_in_the_order_of_pubrecs(version: int) -> None:
    session = Session(version)
    for _ in range(3):
        session.protocol.send_publish(message(2))
    session.sent()
    session.receive("50 { 0002 } 50 { 0003 } 50 { 0001 }")
    session.assert_sent("62 { 0002 } 62 { 0003 } 62 { 0001 }")
    assert session.receive("70 { 0003 } 70 { 0001 } 70 { 0002 }") == [Completed(3), Completed(1), Completed(2)]


@proves("5.0:MQTT-2.2.1-4")
def test_an_identifier_in_use_is_not_given_again() -> None:
    """Also when all others were in between."""
    session = in_flight(MQTT_5_0, 1)
    given = []
    for _ in range(65_535):
        packet_id = session.protocol.send_publish(message(1, b""))
        given.append(packet_id)
        session.protocol.data_to_send()
        session.receive(f"40 {{ {packet_id:04x} }}")
    assert given[:-1] == list(range(2, 65_536))
    assert given[-1] == 2


def test_an_identifier_of_theirs_is_not_one_of_ours() -> None:
    session = Session(MQTT_5_0)
    session.receive('34 { "a" 0001 00 }')
    assert session.protocol.send_publish(message(2)) == 1
    session.protocol.settle_publishes([1], 0)
    session.assert_sent('34 { "down" 0001 00 (hi) } 50 { 0001 }')
    assert outcomes(session.receive("50 { 0001 }")) == [(1, 0)]
    session.assert_sent("62 { 0001 }")
    assert session.receive("62 { 0001 }") == []
    session.assert_sent("70 { 0001 }")
    assert session.receive("70 { 0001 }") == [Completed(1)]


@proves("5.0:MQTT-3.3.4-9", "5.0:MQTT-4.9.0-1")
@pytest.mark.parametrize(("qos", "done"), [(1, "40 {{ {:04x} }}"), (2, "50 {{ {0:04x} }} 70 {{ {0:04x} }}")])
def test_no_more_in_flight_than_receive_maximum(qos: int, done: str) -> None:
    session = Session(MQTT_5_0, '10 { P 02 003c { 21 0002 } "dev" }')
    assert [session.protocol.send_publish(message(qos)) for _ in range(2)] == [1, 2]
    session.sent()
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(qos))
    assert session.sent() == b""
    # QoS 0 does not count [MQTT-3.3.4-9].
    assert session.protocol.send_publish(message(0)) is None
    session.receive(done.format(2))
    assert session.protocol.send_publish(message(qos)) == 3
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(qos))


@proves("5.0:MQTT-4.9.0-1", "5.0:MQTT-4.3.3-5")
def test_a_message_of_qos_2_is_in_flight_until_its_pubcomp() -> None:
    session = Session(MQTT_5_0, '10 { P 02 003c { 21 0001 } "dev" }')
    session.protocol.send_publish(message(2))
    session.receive("50 { 0001 }")
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(1))
    session.receive("70 { 0001 }")
    assert session.protocol.send_publish(message(1)) == 2


def test_a_refused_message_is_in_flight_no_more() -> None:
    session = Session(MQTT_5_0, '10 { P 02 003c { 21 0001 } "dev" }')
    session.protocol.send_publish(message(2))
    session.receive("50 { 0001 97 }")
    assert session.protocol.send_publish(message(2)) == 2


@each_version
@proves("5.0:MQTT-4.9.0-3", "5.0:MQTT-3.3.4-10")
def test_a_full_window_stops_nothing_else(version: int) -> None:
    session = Session(version, '10 { P 02 003c [{ 21 0001 }] "dev" }')
    session.protocol.send_publish(message(1))
    session.sent()
    assert len(session.receive('32 { "a" 0001 [00] } c0 00 82 { 0002 [00] "a" 00 }')) == 2
    session.assert_sent("d0 00")


@before_50
def test_before_50_there_is_a_window_too(version: int) -> None:
    """As large as there are packet identifiers."""
    session = Session(version)
    for _ in range(65_535):
        session.protocol.send_publish(message(1, b""))
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(1))


# ---- what does not fit ----


@proves("5.0:MQTT-3.1.2-24", "5.0:MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_no_message_larger_than_the_device_takes(qos: int) -> None:
    session = Session(MQTT_5_0, '10 { P 02 003c { 27 00000020 } "dev" }')
    head = 9 + (2 if qos else 0)
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(qos, b"x" * (32 - head + 1)))
    assert session.sent() == b""
    # What was not sent uses no identifier and no place in the window.
    assert session.protocol.send_publish(message(qos, b"x" * (32 - head))) == (1 if qos else None)
    assert len(session.sent()) == 32


@each_version
def test_only_while_connected(version: int) -> None:
    with pytest.raises(SessionError):
        Session(version, connect="").protocol.send_publish(message(0))
    session = Session(version)
    session.receive("e0 00")
    with pytest.raises(SessionError):
        session.protocol.send_publish(message(0))
    assert session.sent() == b""
