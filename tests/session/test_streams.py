"""Properties of a session that hold for any stream of bytes, however it is cut and whatever the application does."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.errors import SessionError
from proxy.mqtt import packets
from proxy.mqtt.decode import decode_packet
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.framing import Framer
from proxy.mqtt.packets import Ack, Packet, Publish, ReasonCode
from proxy.mqtt.topics import TopicName
from proxy.session.events import Event
from proxy.session.protocol import AWAITING_CONNECT, CLOSED, CONNECTED, ServerProtocol
from tests.support.packets import client_packets, examples, publishes, subscribes
from tests.support.wire import CONNECT, VERSIONS, Session, answer, octets, session_limits, vectors

SAMPLES = {
    version: sorted({v.data for v in vectors() if v.version == version and len(v.data) < 200}) for version in VERSIONS
}
versions = st.sampled_from(VERSIONS)
splits = st.lists(st.integers(0, 2_000), max_size=8)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The stream, cut at these places as far as it has them."""
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@st.composite
def streams(draw: st.DrawFn, version: int) -> bytes:
    """Packets of a client, some of them changed, some bytes that are none."""
    good = client_packets(version).map(lambda packet: encode_packet(packet, version))
    parts = draw(st.lists(st.one_of(good, good, st.sampled_from(SAMPLES[version])), max_size=6))
    if draw(st.booleans()):
        parts.append(draw(st.binary(max_size=12)))
    return b"".join(parts)


STREAMS = {version: streams(version) for version in VERSIONS}


# ---- the split makes no difference ----


def outcome(version: int, reads: list[bytes]) -> tuple[Any, ...]:
    """Everything that a session said and became."""
    session = Session(version, receive_maximum=3)
    events = [event for data in reads for event in session.feed(data)]
    protocol = session.protocol
    sent = session.sent()
    late = protocol.receive_eof()
    return events, sent, late, session.sent(), protocol.end, protocol.detail, protocol.with_will


@given(versions, st.data(), splits)
@examples(150)
def test_any_split_of_the_bytes(version: int, data: st.DataObject, cuts: list[int]) -> None:
    stream = data.draw(STREAMS[version])
    whole = outcome(version, [stream])
    assert outcome(version, pieces(stream, cuts)) == whole
    assert outcome(version, [stream[at : at + 1] for at in range(len(stream))]) == whole


def answers(version: int, reads: list[bytes]) -> tuple[list[Event], dict[int, list[bytes]]]:
    """As the product works: after each read its events are answered. Answers by packet type, as only those of one type
    have an order.
    """
    session = Session(version, receive_maximum=100)
    handled: list[Event] = []
    framer = Framer(packets.PACKET_BYTES_MAX)
    for data in reads:
        events = session.feed(data)
        while events or session.protocol.resumable:
            for event in events:
                answer(session.protocol, event)
            handled += events
            framer.feed(session.sent())
            events = session.protocol.resume(session.now) if session.protocol.resumable else []
        framer.feed(session.sent())
    by_type: dict[int, list[bytes]] = defaultdict(list)
    while framer.next_packet():
        by_type[framer.first_byte].append(framer.buffer[framer.start : framer.stop])
    return handled, by_type


@given(versions, st.data(), splits)
@examples(100)
def test_any_split_of_the_bytes_gets_the_same_answers(version: int, data: st.DataObject, cuts: list[int]) -> None:
    stream = b""
    for number, packet in enumerate(data.draw(st.lists(client_packets(version), max_size=8)), start=1):
        if isinstance(packet, Publish) and packet.qos:
            packet.packet_id = number
        elif isinstance(packet, Ack):
            # Of nothing: a client waits for PUBREC before it sends PUBREL, and this one does not.
            packet.packet_id = 100 + number
        one = encode_packet(packet, version)
        alone = Session(version)
        alone.feed(one)
        if not alone.protocol.close_expected:
            stream += one
    assert answers(version, pieces(stream, cuts)) == answers(version, [stream])


# ---- nothing is raised, whatever comes ----


class Application:
    """Does to a session whatever an application may do, in any order, and looks at what it says."""

    def __init__(self, accepts: bool) -> None:
        self.accepts = accepts
        self.now = 0.0
        self.protocol = ServerProtocol(session_limits(publish_bytes_max=200, receive_maximum=3), self.now)
        self.unsettled: list[int] = []
        self.sent = b""

    def do(self, action: str, data: bytes) -> None:
        protocol = self.protocol
        events: list[Event] = []
        match action:
            case "read":
                if protocol.want_read:
                    events = protocol.receive_data(data, self.now)
            case "hold":
                protocol.hold()
            case "resume":
                events = protocol.resume(self.now)
            case "settle" if self.unsettled and protocol.state != CLOSED:
                protocol.settle_publishes([self.unsettled.pop()], 0)
            case "send" if protocol.state == CONNECTED:
                self.send(data)
            case "wait":
                self.now += 20.0
                if self.now >= protocol.next_deadline:
                    protocol.tick(self.now)
            case "disconnect" if protocol.state != AWAITING_CONNECT:
                protocol.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "shutting down")
            case "eof":
                events = protocol.receive_eof()
        self.handle(events)
        self.sent += b"".join(protocol.data_to_send())
        while protocol.resumable:
            self.handle(protocol.resume(self.now))
            self.sent += b"".join(protocol.data_to_send())

    def send(self, payload: bytes) -> None:
        """A message to the device, of a QoS that the payload decides; it may not take it."""
        message = Publish(TopicName("down", b"down"), payload, qos=len(payload) % 3)
        with suppress(SessionError):
            self.protocol.send_publish(message)

    def handle(self, events: list[Event]) -> None:
        protocol = self.protocol
        for event in events:
            if isinstance(event, packets.Connect) and not self.accepts:
                protocol.refuse_connect(ReasonCode.NOT_AUTHORIZED, "no")
            elif isinstance(event, Publish):
                self.unsettled += [event.packet_id] if event.qos else []
            elif protocol.state != CLOSED:
                self.handle(answer(protocol, event))

    def said(self, version: int) -> list[Packet]:
        """Everything that was sent, as the client reads it."""
        framer = Framer(packets.PACKET_BYTES_MAX)
        framer.feed(self.sent)
        said = []
        while framer.next_packet():
            said.append(decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, version))
        assert not framer.unread_bytes
        return said


actions = st.sampled_from(["read"] * 6 + ["hold", "resume", "settle", "settle", "send", "wait", "disconnect", "eof"])


@st.composite
def fuzz(draw: st.DrawFn, version: int) -> bytes:
    """One read. Most are good, or no session would live long enough to get into trouble."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.one_of(STREAMS[version], st.just(octets(CONNECT, version)), st.binary(max_size=40)))
    good = st.one_of(publishes(version), subscribes(version), st.just(packets.Pingreq()))
    data = b"".join(encode_packet(packet, version) for packet in draw(st.lists(good, min_size=1, max_size=3)))
    if kind == 1:
        position = draw(st.integers(0, len(data) - 1))
        data = data[:position] + draw(st.binary(max_size=2)) + data[position + 1 :]
    return data


FUZZ = {version: st.lists(st.tuples(actions, fuzz(version)), max_size=12) for version in VERSIONS}


@given(versions, st.booleans(), st.integers(0, 5), st.data())
@examples(200)
def test_nothing_is_raised_and_what_is_said_is_mqtt(
    version: int, accepts: bool, without_connect: int, data: st.DataObject
) -> None:
    """[MQTT-3.2.0-1, -2], [MQTT-3.14.0-1], [MQTT-3.14.4-1] of 5.0, whatever happens."""
    application = Application(accepts)
    if without_connect:
        application.do("read", octets(CONNECT, version))
    for action, read in data.draw(FUZZ[version]):
        application.do(action, read)
    said = [type(packet).__name__ for packet in application.said(application.protocol.version)]
    assert said[:1] in ([], ["Connack"])
    assert said.count("Connack") <= 1
    assert "Disconnect" not in said[:-1]
    ended = application.protocol.state == CLOSED
    assert ended == (application.protocol.end is not None)
    assert ended or "Disconnect" not in said


# ---- memory ----

CONNECT_MAX, PUBLISH_MAX, HELD_MAX = 150, 200, 400


@given(versions, st.data())
@examples(150)
def test_what_is_kept_is_bounded_by_what_was_announced(version: int, data: st.DataObject) -> None:
    """And one read, which a peer sends before it can know."""
    with patch.multiple(limits, CONNECT_BYTES_MAX=CONNECT_MAX, HELD_BYTES_MAX=HELD_MAX):
        application = Application(accepts=True)
        if data.draw(st.booleans()):
            application.do("read", octets(CONNECT, version))
        for action, read in data.draw(FUZZ[version]):
            application.do(action, read)
            assert_bounded(application.protocol, len(read))


def assert_bounded(protocol: ServerProtocol, read: int) -> None:
    unread, held = protocol._framer.unread_bytes, protocol._held_bytes
    if protocol.state == AWAITING_CONNECT:
        assert (unread < CONNECT_MAX, held) == (True, 0)
    elif protocol.undisturbed:
        assert (unread < PUBLISH_MAX, held) == (True, 0)
    elif protocol.state != CLOSED:
        assert held < HELD_MAX + PUBLISH_MAX + limits.HELD_PACKET_OVERHEAD_BYTES
        assert unread < HELD_MAX + read
    else:
        assert held == 0
