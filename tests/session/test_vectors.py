"""The vectors at the height of `ServerProtocol`: events, answers, and whether the connection lives on."""

import pytest

from proxy.mqtt.decode import decode_packet
from proxy.mqtt.packets import REASON_STRING, Connect, Publish, Subscribe, Unsubscribe
from proxy.mqtt.topics import parse_topic_name
from proxy.session.events import EndReason, end_reason
from proxy.session.protocol import CLOSED, CONNECTED
from tests.support.wire import CONNECT, Session, Vector, answer, framed, octets, vectors

ALL = vectors()
PINGREQ = "c0 00"
PINGRESP = b"\xd0\x00"


def session_for(vector: Vector) -> Session:
    """As it is when the vector's packet comes."""
    session = Session(vector.version, connect="")
    events = session.feed(vector.after)
    while events:
        events += answer(session.protocol, events.pop(0))
    session.sent()
    return session


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is None], ids=str)
def test_is_accepted(vector: Vector) -> None:
    session = session_for(vector)
    framer = framed(vector.data)
    packet = decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, vector.version)
    if vector.means is not None:
        assert isinstance(packet, Publish)
        packet.topic = parse_topic_name(vector.means.encode())
    events = session.feed(vector.data)
    assert events == ([packet] if isinstance(packet, Connect | Publish | Subscribe | Unsubscribe) else [])
    for event in events:
        answer(session.protocol, event)
    sent = session.sent()
    assert vector.answer.fullmatch(sent), sent.hex(" ")
    assert (session.protocol.end, session.protocol.close_expected) == (vector.end, vector.end is not None)
    # It lives, or it does not.
    session.receive(PINGREQ)
    assert session.sent() == (b"" if vector.end else PINGRESP)


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is not None], ids=str)
def test_is_refused(vector: Vector) -> None:
    session = session_for(vector)
    before = session.protocol.state
    assert session.feed(vector.data) == []
    sent = session.sent()
    assert vector.answer.fullmatch(sent), sent.hex(" ")
    assert session.protocol.state == CLOSED
    assert_explained(sent, session)
    if before == CONNECTED:
        assert session.protocol.end == end_reason(vector.reason)
    else:
        # Nobody is told more than that, and what a peer is that cannot even say CONNECT does not matter.
        assert session.protocol.end not in {None, EndReason.NORMAL, EndReason.TCP_CLOSED}
    # Every later byte is discarded, a CONNECT too.
    for later in (CONNECT, PINGREQ, '30 { "a" [00] }'):
        assert session.receive(later) == []
    assert session.sent() == b""


def assert_explained(sent: bytes, session: Session) -> None:
    """One answer at most, and the words in it are those that go to the log."""
    assert session.protocol.detail
    if sent:
        framer = framed(sent)
        packet = decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, session.protocol.version)
        assert packet.properties in ({}, {REASON_STRING: session.protocol.detail})


def test_reasons_of_vectors_may_stand_in_a_disconnect() -> None:
    """[MQTT-3.14.2-1] for what 5.0 hears of the vectors: the codes of table 3-10 that a server may send."""
    sent_by_servers = octets("00 80 81 82 83 87 89 8b 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2")
    heard = {each.reason for each in ALL if each.version == 5 and each.reason is not None and each.after}
    assert heard <= set(sent_by_servers)
