"""From the first byte to CONNACK: timeouts, what is announced, what is refused, and what came too early."""

import pytest

from proxy import limits
from proxy.errors import SessionError
from proxy.mqtt.packets import Connect, Publish, ReasonCode
from proxy.session.events import EndReason, Grant, Heard
from proxy.session.protocol import CONNECTED, CONNECTING
from tests.support.wire import (
    CONNECT,
    CONNECT_TIMEOUT_SECONDS,
    VERSIONS,
    Session,
    proves,
)

pytestmark = pytest.mark.parametrize("version", VERSIONS)
WITH_WILL = '10 { P 06 003c [00] "dev" [00] "gone" <> }'


def asking(version: int, connect: str = CONNECT, **limits: float) -> Session:
    """A session whose CONNECT waits for an answer."""
    session = Session(version, connect="", **limits)
    (event,) = session.receive(connect)
    assert isinstance(event, Connect)
    assert session.protocol.state == CONNECTING
    return session


# ---- the timeout ----


def test_timeout(version: int) -> None:
    session = Session(version, connect="")
    opened = session.now
    assert session.protocol.next_deadline == opened + CONNECT_TIMEOUT_SECONDS
    session.protocol.tick(opened + CONNECT_TIMEOUT_SECONDS - 0.001)
    assert not session.protocol.close_expected
    session.protocol.tick(opened + CONNECT_TIMEOUT_SECONDS)
    assert session.protocol.close_expected
    assert session.protocol.end == EndReason.PROTOCOL_ERROR
    assert session.sent() == b""


def test_bytes_that_trickle_in_do_not_prolong_the_timeout(version: int) -> None:
    session = Session(version, connect="")
    due = session.protocol.next_deadline
    for byte in session.octets(CONNECT)[:-1]:
        session.now += 1
        session.feed(bytes((byte,)))
        assert session.protocol.next_deadline == due
    session.protocol.tick(session.now)
    assert session.protocol.close_expected


def test_back_pressure_does_not_prolong_the_timeout(version: int) -> None:
    session = Session(version, connect="")
    due = session.protocol.next_deadline
    session.protocol.hold()
    session.protocol.resume(session.now + 5)
    assert session.protocol.next_deadline == due


def test_a_login_may_take_longer_than_the_timeout(version: int) -> None:
    """CONNECT came in time; who checks passwords has bounds of its own."""
    session = asking(version)
    session.protocol.tick(session.now + 10 * CONNECT_TIMEOUT_SECONDS)
    assert not session.protocol.close_expected
    session.protocol.accept_connect(Grant())
    session.assert_sent("20 ?? 00 00 *")


# ---- too early ----


@proves("3.1.1:MQTT-3.1.0-1", "5.0:MQTT-3.1.0-1")
@pytest.mark.parametrize("first", ['30 { "a" [00] }', '82 { 0001 [00] "a" 00 }', "e0 00", "62 { 0001 }", "c0 00"])
def test_back_pressure_sets_nothing_aside_before_connect(version: int, first: str) -> None:
    """Else it would be handled once the CONNECT behind it is accepted, and fill memory until then."""
    session = Session(version, connect="")
    session.protocol.hold()
    assert session.receive(f"{first} {CONNECT}") == []
    assert session.protocol.close_expected
    assert session.sent() == b""


def test_connect_is_heard_during_back_pressure(version: int) -> None:
    session = Session(version, connect="")
    session.protocol.hold()
    (event,) = session.receive(CONNECT)
    assert isinstance(event, Connect)
    session.protocol.accept_connect(Grant())
    session.assert_sent("20 ?? 00 00 *")


@proves("3.1.1:MQTT-3.2.0-1", "5.0:MQTT-3.2.0-1")
def test_packets_behind_connect_wait_for_connack(version: int) -> None:
    session = Session(version, connect="")
    behind = 'c0 00 30 { "a" [00] (1) } 82 { 0001 [00] "b" 00 }'
    events = session.receive(f"{CONNECT} {behind}")
    assert len(events) == 1
    assert session.receive('30 { "a" [00] (2) }') == []
    assert session.sent() == b""
    events = session.protocol.accept_connect(Grant())
    session.assert_sent("20 ?? 00 00 * d0 00")
    assert [type(event).__name__ for event in events] == ["Publish", "Subscribe", "Publish"]


@proves("3.1.1:MQTT-3.1.4-5", "5.0:MQTT-3.1.4-6")
def test_packets_behind_connect_are_never_handled_after_a_refusal(version: int) -> None:
    session = Session(version, connect="")
    session.receive(f'{CONNECT} c0 00 30 {{ "a" [00] }}')
    session.protocol.refuse_connect(ReasonCode.NOT_AUTHORIZED, "not you")
    session.assert_sent('20 { 00 [87|05] [{ 1f "not you" }] }')
    assert session.receive("c0 00") == []
    assert session.sent() == b""
    assert session.protocol.close_expected


def test_what_is_wrong_behind_connect_is_found_after_connack(version: int) -> None:
    session = Session(version, connect="")
    session.receive(f"{CONNECT} c1 00")
    assert not session.protocol.close_expected
    assert session.protocol.accept_connect(Grant()) == []
    session.assert_sent("20 ?? 00 00 * [e0 ?? 81 *]")
    assert session.protocol.end == EndReason.MALFORMED_PACKET


def test_what_waits_for_connack_is_bounded(version: int) -> None:
    session = asking(version)
    message = '30 { "a" [00] (x)*1000 }'
    while session.protocol.want_read:
        session.receive(message)
    most = limits.HELD_BYTES_MAX + len(session.octets(message))
    assert limits.HELD_BYTES_MAX <= session.protocol._framer.unread_bytes <= most
    assert len(session.protocol.accept_connect(Grant())) >= 16
    assert session.protocol.want_read


# ---- accepted ----


def test_the_limits_that_are_announced(version: int) -> None:
    session = asking(
        version, receive_maximum=7, publish_bytes_max=5_000, topic_alias_maximum=9, keep_alive_max_seconds=30
    )
    session.protocol.accept_connect(Grant())
    session.assert_sent("20 { 00 00 [{ 21 0007 27 00001388 22 0009 2a 00 13 001e }] }")


def test_an_assigned_client_identifier(version: int) -> None:
    """3.1 has to say one."""
    session = asking(version, '10 { P 02 003c [00] [""|""|"dev"] }')
    session.protocol.accept_connect(Grant(assigned_client_id="mqk-7"))
    session.assert_sent('[20 ?? 00 00 * 12 "mqk-7"|20 02 00 00]')


@proves("3.1.1:MQTT-3.2.2-2", "5.0:MQTT-3.2.2-3")
def test_session_present(version: int) -> None:
    """3.1 has no such flag."""
    session = asking(version, '10 { P 00 003c [00] "dev" }')
    session.protocol.accept_connect(Grant(session_present=True))
    session.assert_sent("20 ?? [01|01|00] 00 *")


def test_the_size_limit_of_connect_ends_with_it(version: int) -> None:
    session = Session(version, connect="10 { P 02 003c [00] <(x)*2000> }", publish_bytes_max=1_000)
    assert session.protocol.state == CONNECTED
    assert session.receive("30 e507") == []  # 997 bytes and a header of three.
    session = Session(version, connect="10 { P 02 003c [00] <(x)*2000> }", publish_bytes_max=1_000)
    assert session.receive("30 e607") == []
    session.assert_sent("[e0 ?? 95 *]")
    assert session.protocol.end == EndReason.PACKET_TOO_LARGE


def test_larger_than_any_connect_after_it(version: int) -> None:
    session = Session(version)
    (event,) = session.receive('30 { "a" [00] (x)*99000 }')
    assert len(event.payload) == 99_000


# ---- refused ----

#: Reason of 5.0, and the return code of 3.1.1 for it.
REFUSALS = [
    (ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
    (ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, 2),
    (ReasonCode.SERVER_UNAVAILABLE, 3),
    (ReasonCode.SERVER_BUSY, 3),
    (ReasonCode.CONNECTION_RATE_EXCEEDED, 3),
    (ReasonCode.QUOTA_EXCEEDED, 3),
    (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
    (ReasonCode.NOT_AUTHORIZED, 5),
    (ReasonCode.BANNED, 5),
]


@proves(
    "3.1.1:MQTT-3.2.2-4",
    "3.1.1:MQTT-3.2.2-5",
    "5.0:MQTT-3.2.2-6",
    "5.0:MQTT-3.2.2-7",
    "5.0:MQTT-3.1.3-8",
    "5.0:MQTT-3.1.4-2",
)
@pytest.mark.parametrize(("reason", "return_code"), REFUSALS)
def test_refused(version: int, reason: ReasonCode, return_code: int) -> None:
    session = asking(version, WITH_WILL)
    session.protocol.refuse_connect(reason, "because")
    session.assert_sent(f'20 {{ 00 [{reason:02x}|{return_code:02x}] [{{ 1f "because" }}] }}')
    assert session.protocol.close_expected
    assert session.protocol.detail == "because"
    assert not session.protocol.with_will


@proves("5.0:MQTT-3.2.2-8")
@pytest.mark.parametrize("reason", [code for code in ReasonCode if code >= 0x80])
def test_any_reason_becomes_one_that_connack_has(version: int, reason: ReasonCode) -> None:
    """Table 3-1 of 5.0, and table 3.1 of 3.1.1."""
    known = bytes.fromhex("80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f")
    session = asking(version)
    session.protocol.refuse_connect(reason, "because")
    code = session.sent()[3]
    if version == 5:
        assert code == (reason if reason in known else ReasonCode.SERVER_UNAVAILABLE)
    else:
        assert code in {1, 2, 3, 4, 5}


@proves("5.0:MQTT-3.14.0-1")
@pytest.mark.parametrize("reason", [ReasonCode.SERVER_SHUTTING_DOWN, ReasonCode.SESSION_TAKEN_OVER])
def test_never_disconnect_before_connack(version: int, reason: ReasonCode) -> None:
    session = asking(version)
    session.protocol.disconnect(reason, "go")
    session.assert_sent('20 { 00 [88|03] [{ 1f "go" }] }')
    assert session.protocol.close_expected


@proves("3.1.1:MQTT-3.1.0-2", "5.0:MQTT-3.1.0-2", "5.0:MQTT-3.2.0-2", "5.0:MQTT-3.14.2-1")
@pytest.mark.parametrize("second", ['10 { "MQTT" 09 02 003c "dev" }', "10 00", "1f 00", "10 { (anything) }"])
def test_a_second_connect_is_a_protocol_error_whatever_is_in_it(version: int, second: str) -> None:
    session = Session(version)
    session.receive(second)
    session.assert_sent("[e0 ?? 82 *]")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


# ---- reasons in words ----

#: What a CONNECT asks for, and whether CONNACK and DISCONNECT say why in words.
WORDS = [
    ("00", True),
    ("{ 17 01 }", True),
    ("{ 17 00 }", False),
    ("{ 27 00000010 }", True),
    ("{ 27 0000000f }", False),
    ("{ 17 00 27 0000ffff }", False),
]


@proves("5.0:MQTT-3.1.2-24", "5.0:MQTT-3.1.2-29", "5.0:MQTT-3.2.2-19")
@pytest.mark.parametrize(("asked", "said"), WORDS)
def test_words_in_connack_are_wanted_and_fit(version: int, asked: str, said: bool) -> None:
    """CONNACK with this reason string is 16 bytes."""
    session = asking(version, f'10 {{ P 02 003c [{asked}] "dev" }}')
    session.protocol.refuse_connect(ReasonCode.NOT_AUTHORIZED, "not you!")
    session.assert_sent(f"20 {{ 00 [87|05] [{'{ 1f <(not you!)> }' if said else '00'}] }}")


@proves("5.0:MQTT-3.1.2-24", "5.0:MQTT-3.1.2-29", "5.0:MQTT-3.14.2-3", "5.0:MQTT-3.14.2-2")
@pytest.mark.parametrize(("asked", "said"), WORDS)
def test_words_in_disconnect_are_wanted_and_fit(version: int, asked: str, said: bool) -> None:
    """DISCONNECT with this reason string is 16 bytes."""
    session = Session(version, f'10 {{ P 02 003c [{asked}] "dev" }}')
    session.protocol.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "goodbye :")
    session.assert_sent(f"[e0 {{ 8b {'{ 1f <(goodbye :)> }' if said else ''} }}]")


@proves("5.0:MQTT-3.1.2-24")
@pytest.mark.parametrize("size", [1, 2])
def test_who_takes_no_packet_gets_none(version: int, size: int) -> None:
    """Only 5.0 can ask for that, and the others hear nothing anyway."""
    session = Session(version, f'10 {{ P 02 003c [{{ 27 {size:08x} }}] "dev" }}')
    session.receive("c1 00")
    assert session.sent() == b""
    assert session.protocol.end == EndReason.MALFORMED_PACKET


# ---- what the application may not do ----


def test_answers_that_nobody_waits_for(version: int) -> None:
    session = Session(version, connect="")
    with pytest.raises(SessionError):
        session.protocol.accept_connect(Grant())
    session = Session(version)
    with pytest.raises(SessionError):
        session.protocol.accept_connect(Grant())
    with pytest.raises(SessionError):
        session.protocol.refuse_connect(ReasonCode.NOT_AUTHORIZED, "too late")
    assert session.sent() == b""
    assert session.protocol.state == CONNECTED


def test_a_client_that_went_while_its_login_was_checked(version: int) -> None:
    session = asking(version, WITH_WILL)
    assert session.protocol.receive_eof() == []
    assert session.protocol.end == EndReason.TCP_CLOSED
    # Its CONNECT was never accepted, so there is no will [MQTT-3.1.2-7].
    assert not session.protocol.with_will
    with pytest.raises(SessionError):
        session.protocol.accept_connect(Grant())
    assert session.sent() == b""


@pytest.mark.parametrize(
    ("goodbye", "end", "with_will"), [("e0 00", EndReason.NORMAL, False), ("", EndReason.TCP_CLOSED, True)]
)
def test_a_client_that_does_not_wait_for_its_connack(
    version: int, goodbye: str, end: EndReason, with_will: bool
) -> None:
    """Clients need not (3.1.4): what it said in one breath, before it closed its side, counts once it is let in."""
    session = asking(version, WITH_WILL)
    assert session.receive(f'30 {{ "a" [00] (x) }} {goodbye}') == []
    assert session.protocol.receive_eof() == []
    assert not session.protocol.close_expected
    (publish,) = session.protocol.accept_connect(Grant())
    assert isinstance(publish, Publish)
    assert publish.payload == b"x"
    assert (session.protocol.end, session.protocol.with_will) == (end, with_will)


def test_a_client_that_does_not_wait_may_be_turned_away(version: int) -> None:
    session = asking(version)
    session.receive('30 { "a" [00] (x) }')
    session.protocol.receive_eof()
    session.protocol.refuse_connect(ReasonCode.BAD_USER_NAME_OR_PASSWORD, "bad user name or password")
    assert session.protocol.close_expected


def test_a_connection_that_breaks_before_its_connack_is_not_waited_for(version: int) -> None:
    session = asking(version)
    session.receive('30 { "a" [00] (x) }')
    session.protocol.receive_eof()
    assert session.protocol.connection_lost() == []
    assert session.protocol.end == EndReason.TCP_CLOSED


# ---- the device knows its session ----


def test_the_device_is_heard_once_after_its_connack(version: int) -> None:
    """What it sent before it had its CONNACK says nothing: only the next read shows that it knows of its session."""
    session = Session(version, connect="")
    (connect,) = session.feed(session.octets(CONNECT + " c0 00"))
    assert isinstance(connect, Connect)
    session.protocol.accept_connect(Grant())
    assert session.heard == 0
    session.receive("c0 00")
    session.receive("c0 00")
    assert session.heard == 1


def test_being_heard_comes_before_what_was_said(version: int) -> None:
    session = Session(version)
    events = session.protocol.receive_data(session.octets('30 { "a" [00] (x) }'), session.now)
    assert [type(event) for event in events] == [Heard, Publish]


def test_identifiers_of_the_session_are_known_to_the_window(version: int) -> None:
    """PUBREL for a message of an earlier connection, and that message again, as MQTT-4.4.0-1 has them sent."""
    session = Session(version, connect="")
    session.receive(CONNECT)
    session.protocol.accept_connect(Grant(session_present=True, unreleased=[7, 8]))
    session.sent()
    assert session.protocol.unreleased == [7, 8]
    assert session.receive('3c { "a" 0007 [00] (x) }') == []
    session.assert_sent("50 { 0007 }")
    session.receive("62 { 0007 }")
    session.assert_sent("70 { 0007 }")
    assert session.protocol.unreleased == [8]
    session.protocol.restore([9])
    assert session.protocol.unreleased == [8, 9]
