"""How a connection ends: keep alive, DISCONNECT from either side, errors; who is told, and what becomes of the will."""

from collections.abc import Callable

import pytest

from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, ReasonCode
from proxy.session.events import EndReason
from tests.support.wire import KEEP_ALIVE_MAX_SECONDS, VERSIONS, Session, proves

each_version = pytest.mark.parametrize("version", VERSIONS)
before_50 = pytest.mark.parametrize("version", [MQTT_3_1, MQTT_3_1_1])
WITH_WILL = '10 { P 06 003c [00] "dev" [00] "gone" <> }'


def connect(keep_alive: int) -> str:
    return f'10 {{ P 02 {keep_alive:04x} [00] "dev" }}'


# ---- keep alive ----


@each_version
@proves("3.1.1:MQTT-3.1.2-24", "5.0:MQTT-3.1.2-22", "5.0:MQTT-3.2.2-22")
@pytest.mark.parametrize("keep_alive", [1, 60, 3_600])
def test_one_and_a_half_times_the_keep_alive(version: int, keep_alive: int) -> None:
    session = Session(version, connect(keep_alive))
    due = session.now + 1.5 * keep_alive
    assert session.protocol.next_deadline == due
    session.protocol.tick(due - 0.001)
    assert not session.protocol.close_expected
    session.protocol.tick(due)
    assert session.protocol.close_expected
    session.assert_sent("[e0 ?? 8d *]")
    assert session.protocol.end == EndReason.KEEPALIVE_TIMEOUT


@each_version
@pytest.mark.parametrize("packet", ["c0 00", '30 { "a" [00] }', '82 { 0001 [00] "a" 00 }', "40 { 0001 }"])
def test_every_packet_counts_from_its_arrival(version: int, packet: str) -> None:
    session = Session(version, connect(10))
    session.now += 14.9
    session.receive(packet)
    assert session.protocol.next_deadline == session.now + 15
    session.protocol.tick(session.now + 14.9)
    assert not session.protocol.close_expected


@before_50
def test_no_keep_alive_before_50(version: int) -> None:
    session = Session(version, connect(0))
    assert session.protocol.next_deadline == float("inf")
    session.protocol.tick(session.now + 1e9)
    assert not session.protocol.close_expected


@before_50
def test_who_comes_before_50_keeps_the_keep_alive_it_asked_for(version: int) -> None:
    """It cannot be told another."""
    session = Session(version, connect(65_535))
    assert session.protocol.next_deadline == session.now + 1.5 * 65_535


@proves("5.0:MQTT-3.1.2-21", "5.0:MQTT-3.2.2-21")
@pytest.mark.parametrize("asked", [0, KEEP_ALIVE_MAX_SECONDS + 1, 65_535])
def test_50_is_held_to_the_server_keep_alive(asked: int) -> None:
    session = Session(MQTT_5_0, connect(asked))
    assert session.protocol.next_deadline == session.now + 1.5 * KEEP_ALIVE_MAX_SECONDS


# ---- the will ----

ENDINGS: list[tuple[str, Callable[[Session], object], EndReason, bool]] = [
    ("DISCONNECT", lambda session: session.receive("e0 00"), EndReason.NORMAL, False),
    ("the connection breaks", lambda session: session.protocol.receive_eof(), EndReason.TCP_CLOSED, True),
    ("keep alive", lambda session: session.protocol.tick(session.now + 90), EndReason.KEEPALIVE_TIMEOUT, True),
    ("malformed packet", lambda session: session.receive("c1 00"), EndReason.MALFORMED_PACKET, True),
    ("protocol error", lambda session: session.receive("d0 00"), EndReason.PROTOCOL_ERROR, True),
    ("packet too large", lambda session: session.receive("30 ffffff7f"), EndReason.PACKET_TOO_LARGE, True),
    ("malformed DISCONNECT", lambda session: session.receive("e1 00"), EndReason.MALFORMED_PACKET, True),
    ("taken over", lambda session: session.protocol.disconnect(0x8E, "new"), EndReason.TAKEN_OVER, True),
    ("Kafka", lambda session: session.protocol.disconnect(0x89, "late"), EndReason.KAFKA_UNAVAILABLE, True),
    ("shutdown", lambda session: session.protocol.disconnect(0x8B, "bye"), EndReason.SERVER_SHUTTING_DOWN, True),
    ("not authorised", lambda session: session.protocol.disconnect(0x87, "no"), EndReason.NOT_AUTHORIZED, True),
    ("quota", lambda session: session.protocol.disconnect(0x96, "much"), EndReason.QUOTA_EXCEEDED, True),
    (
        "without will",
        lambda session: session.protocol.disconnect(0x98, "kicked", with_will=False),
        EndReason.KICKED,
        False,
    ),
]


@each_version
@proves(
    "3.1.1:MQTT-3.1.2-8",
    "3.1.1:MQTT-3.1.2-10",
    "3.1.1:MQTT-3.14.4-3",
    "5.0:MQTT-3.1.2-8",
    "5.0:MQTT-3.1.2-10",
    "5.0:MQTT-3.1.2-7",
)
@pytest.mark.parametrize(("name", "end", "reason", "with_will"), ENDINGS, ids=[name for name, *_ in ENDINGS])
def test_the_will(
    version: int, name: str, end: Callable[[Session], object], reason: EndReason, with_will: bool
) -> None:
    session = Session(version, WITH_WILL)
    assert session.protocol.connect
    assert session.protocol.connect.will
    end(session)
    assert session.protocol.close_expected
    assert (session.protocol.end, session.protocol.with_will) == (reason, with_will)
    assert session.protocol.detail


@each_version
@proves("3.1.1:MQTT-3.1.2-12")
@pytest.mark.parametrize(("name", "end"), [row[:2] for row in ENDINGS], ids=[name for name, *_ in ENDINGS])
def test_no_will_where_there_was_none(version: int, name: str, end: Callable[[Session], object]) -> None:
    session = Session(version)
    end(session)
    assert session.protocol.close_expected
    assert not session.protocol.with_will


@proves("5.0:MQTT-3.14.4-3")
@pytest.mark.parametrize(("reason", "with_will"), [(0x00, False), (0x04, True), (0x80, True), (0x93, True)])
def test_50_says_what_becomes_of_its_will(reason: int, with_will: bool) -> None:
    session = Session(MQTT_5_0, WITH_WILL)
    session.receive(f"e0 {{ {reason:02x} }}")
    assert (session.protocol.end, session.protocol.with_will) == (EndReason.NORMAL, with_will)


# ---- the end is the end ----


@each_version
@proves("3.1.1:MQTT-3.14.4-2", "5.0:MQTT-3.14.4-1")
def test_data_after_disconnect_is_discarded(version: int) -> None:
    session = Session(version, WITH_WILL)
    events = session.receive('30 { "a" [00] (1) } e0 00 30 { "a" [00] (2) } c0 00 ff ff')
    assert [event.payload for event in events] == [b"1"]
    assert session.receive('30 { "a" [00] (3) } c0 00') == []
    assert session.sent() == b""
    assert (session.protocol.end, session.protocol.with_will) == (EndReason.NORMAL, False)


@each_version
def test_what_came_before_an_error_is_handled(version: int) -> None:
    session = Session(version)
    events = session.receive('32 { "a" 0001 [00] (1) } c1 00 32 { "a" 0002 [00] (2) }')
    assert [event.payload for event in events] == [b"1"]
    session.assert_sent("[e0 ?? 81 *]")


@each_version
@pytest.mark.parametrize(("name", "end"), [row[:2] for row in ENDINGS], ids=[name for name, *_ in ENDINGS])
def test_nothing_follows_the_end(version: int, name: str, end: Callable[[Session], object]) -> None:
    session = Session(version, WITH_WILL)
    end(session)
    before = (session.protocol.end, session.protocol.detail, session.protocol.with_will)
    session.sent()
    assert session.receive('c0 00 30 { "a" [00] } e0 00') == []
    session.protocol.tick(session.now + 1e6)
    session.protocol.disconnect(0x8B, "again")
    assert session.protocol.receive_eof() == []
    assert session.protocol.resume(session.now) == []
    assert session.sent() == b""
    assert (session.protocol.end, session.protocol.detail, session.protocol.with_will) == before


@each_version
def test_what_comes_after_the_end_is_not_kept(version: int) -> None:
    session = Session(version)
    session.receive("c1 00")
    kept = session.protocol._framer.unread_bytes
    for _ in range(100):
        session.receive("30 { (x)*1000 }")
    assert session.protocol._framer.unread_bytes == kept


@proves("5.0:MQTT-3.14.2-1", "5.0:MQTT-4.13.2-1")
@pytest.mark.parametrize("reason", [0x80, 0x82, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x96, 0x97, 0x98, 0x9C, 0xA0])
def test_50_hears_why_and_others_do_not(reason: ReasonCode) -> None:
    for version in VERSIONS:
        session = Session(version)
        session.protocol.disconnect(reason, "because")
        session.assert_sent(f'[e0 {{ {reason:02x} {{ 1f "because" }} }}]')
        assert session.protocol.close_expected
        assert session.protocol.detail == "because"


# ---- what else the application answers ----


@each_version
def test_suback_of_the_application(version: int) -> None:
    """In 3.1.1 every refusal is 0x80 [MQTT-3.9.3-2]; 3.1 has no refusal."""
    session = Session(version)
    session.receive('82 { 0007 [00] "a" 00 "b" 01 "c" 02 "d" 00 }')
    session.protocol.acknowledge_subscribe(7, [0, 1, 2, 0x97])
    session.assert_sent("90 { 0007 [00] 00 01 02 [97|80|00] }")


@each_version
def test_unsuback_of_the_application(version: int) -> None:
    session = Session(version)
    session.receive('a2 { 0007 [00] "a" "b" }')
    session.protocol.acknowledge_unsubscribe(7, [0, 0x11])
    session.assert_sent("b0 { 0007 [00 00 11] }")
