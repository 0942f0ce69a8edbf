"""One device without a socket: windows, acknowledgements right and wrong, resending."""

import random
import struct
from typing import Any, NamedTuple

import pytest

from loadtest.codec import encode_successful_acks, split_packets
from loadtest.device import Device
from loadtest.errors import ConnectRefused, MqttViolation
from loadtest.payload import Payloads
from loadtest.ranges import SequenceRanges
from loadtest.settings import PACKET_IDS, LoadSettings
from loadtest.tally import Tally

CONNACK = {4: b"\x20\x02\0\0", 5: b"\x20\x03\0\0\0"}


class Sent(NamedTuple):
    """A PUBLISH of the device, taken apart."""

    packet_id: int
    dup: bool
    sequence: int


class Bench:
    """A device that is connected and may publish, its tally, and a reader of what it sends."""

    def __init__(self, connack: bytes | None = None, allowed: int = 0xFFFF_FFFF, **settings: Any) -> None:
        self.settings = LoadSettings(host="test", port=1883, **settings)
        self.payloads = Payloads(self.settings.run_id, self.settings.size)
        self.tally = Tally()
        self.device = Device(3, self.settings, self.payloads, self.tally)
        self.device.allowed = allowed
        self.connack = connack or CONNACK[self.settings.version]
        self.connect()

    def connect(self) -> None:
        self.device.connect()
        self.device.receive(self.connack, 0.0)

    def publish(self, now: float = 0.0) -> list[Sent]:
        packets, rest = split_packets(self.device.publish(now))
        assert not rest
        self.others = [(first_byte, body) for first_byte, body in packets if first_byte & 0xF0 != 0x30]
        return [self._take_apart(first_byte, body) for first_byte, body in packets if first_byte & 0xF0 == 0x30]

    def _take_apart(self, first_byte: int, body: bytes) -> Sent:
        topic = b"tlink/lt/dev000003/up"
        assert body.startswith(len(topic).to_bytes(2, "big") + topic)
        rest = body[2 + len(topic) :]
        packet_id = 0
        if self.settings.qos:
            (packet_id,), rest = struct.unpack(">H", rest[:2]), rest[2:]
        if self.settings.version == 5:
            assert rest[0] == 0
            rest = rest[1:]
        identity = self.payloads.identify(rest)
        assert identity is not None
        assert rest == self.payloads.payload(3, identity[1])
        assert first_byte >> 1 & 3 == self.settings.qos
        return Sent(packet_id, bool(first_byte & 8), identity[1])

    def ack(self, *packet_ids: int, kind: int = 0x40, reason: int = 0, now: float = 0.0) -> None:
        code = bytes((reason,)) if reason else b""
        acks = (bytes((kind, 2 + len(code))) + each.to_bytes(2, "big") + code for each in packet_ids)
        self.device.receive(b"".join(acks), now)

    def errors(self) -> tuple[int, int, int]:
        return self.tally.unknown_acks, self.tally.duplicate_acks, self.tally.out_of_order_acks


@pytest.mark.parametrize("version", [4, 5])
def test_fills_the_window_and_refills_it_as_acks_come(version: int) -> None:
    bench = Bench(inflight=3, version=version)
    assert bench.publish() == [Sent(1, False, 0), Sent(2, False, 1), Sent(3, False, 2)]
    assert bench.publish() == []
    bench.ack(1, 2)
    assert bench.publish() == [Sent(4, False, 3), Sent(5, False, 4)]
    assert bench.tally.acked == 2
    assert bench.errors() == (0, 0, 0)


def test_publishes_nothing_before_connack_nor_beyond_what_is_allowed() -> None:
    bench = Bench(inflight=5, allowed=2)
    assert len(bench.publish()) == 2
    bench.device.lose_connection()
    bench.device.connect()
    assert bench.publish() == []


def test_latency_runs_from_the_first_sending() -> None:
    bench = Bench(inflight=2)
    bench.publish(now=1.0)
    bench.ack(1, now=1.5)
    bench.publish(now=2.0)
    bench.ack(2, 3, now=4.0)
    assert bench.tally.ack_latency.total == 3
    assert bench.tally.ack_latency.percentile(0.01) == pytest.approx(0.5, rel=0.02)
    assert bench.tally.ack_latency.percentile(0.5) == pytest.approx(2.0, rel=0.02)
    assert bench.tally.ack_latency.maximum == 3.0
    assert bench.tally.last_ack == 4.0


def test_resends_the_unacknowledged_in_order_with_dup_and_the_same_ids_before_new_ones() -> None:
    bench = Bench(inflight=4)
    bench.publish()
    bench.ack(1)
    bench.device.lose_connection()
    bench.connect()
    assert bench.publish() == [Sent(2, True, 1), Sent(3, True, 2), Sent(4, True, 3), Sent(5, False, 4)]
    assert bench.tally.resent == 3
    bench.ack(2, 3, 4, 5)
    assert bench.device.acked == SequenceRanges([(0, 5)])
    assert bench.errors() == (0, 0, 0)


def test_does_not_resend_what_was_acknowledged_ahead_of_its_turn() -> None:
    bench = Bench(inflight=3)
    bench.publish()
    bench.ack(2)
    bench.device.lose_connection()
    bench.connect()
    assert bench.publish()[:2] == [Sent(1, True, 0), Sent(3, True, 2)]


def test_half_an_ack_waits_for_its_other_half() -> None:
    bench = Bench(inflight=3)
    bench.publish()
    acks = encode_successful_acks(0x40, 3)
    bench.device.receive(acks[:7], 0.0)
    assert bench.tally.acked == 1
    bench.device.receive(acks[7:], 0.0)
    assert bench.tally.acked == 3
    bench.publish()
    bench.device.receive(acks[:3], 0.0)
    bench.device.lose_connection()
    bench.connect()
    assert bench.device.outstanding == 3


def test_packet_ids_wrap_around() -> None:
    bench = Bench(inflight=PACKET_IDS - 1, allowed=PACKET_IDS - 1)
    bench.device.publish(0.0)
    bench.device.receive(encode_successful_acks(0x40, PACKET_IDS - 1), 0.0)
    bench.device.allowed = PACKET_IDS + 2
    assert bench.publish() == [Sent(65_535, False, 65_534), Sent(1, False, 65_535), Sent(2, False, 65_536)]
    bench.ack(65_535, 1, 2)
    assert bench.device.acked == SequenceRanges([(0, 65_537)])
    assert bench.tally.acked == 65_537
    assert bench.errors() == (0, 0, 0)


def test_a_packet_id_is_not_used_again_while_its_message_waits() -> None:
    bench = Bench(inflight=5_000, size=16)
    answered = 1
    while bench.device.fresh < PACKET_IDS:
        assert bench.device.publish(0.0)
        bench.ack(*range(answered + 1, bench.device.fresh + 1))
        answered = bench.device.fresh
    assert bench.device.publish(0.0) == b""
    bench.ack(1)
    assert bench.publish()[0] == Sent(1, False, PACKET_IDS)


def test_wrong_acks_are_told_apart() -> None:
    bench = Bench(inflight=3)
    bench.publish()
    bench.ack(9)
    assert bench.errors() == (1, 0, 0)
    bench.ack(0)
    assert bench.errors() == (2, 0, 0)
    bench.ack(1)
    bench.ack(1)
    assert bench.errors() == (2, 1, 0)
    bench.ack(3)
    assert bench.errors() == (2, 1, 1)
    bench.ack(3)
    assert bench.errors() == (2, 2, 1)
    bench.ack(2)
    assert bench.errors() == (2, 2, 1)
    assert bench.tally.acked == 3
    assert bench.device.outstanding == 0


def test_an_ack_for_a_message_not_yet_resent_on_this_connection_is_wrong() -> None:
    bench = Bench(inflight=2)
    bench.publish()
    bench.device.lose_connection()
    bench.connect()
    bench.ack(1)
    assert bench.tally.acked == 0
    assert sum(bench.errors()) == 1


def test_a_refusal_is_not_an_acknowledgement_and_is_not_resent() -> None:
    bench = Bench(inflight=3, version=5)
    bench.publish()
    bench.ack(1, reason=0x10)
    bench.ack(2, reason=0x97)
    bench.ack(3)
    assert (bench.tally.acked, bench.tally.refused) == (2, 1)
    assert bench.tally.reasons == {"0x10": 1, "0x97": 1}
    assert bench.device.acked == SequenceRanges([(0, 1), (2, 3)])
    bench.device.lose_connection()
    bench.connect()
    assert bench.publish()[0] == Sent(4, False, 3)


def test_honours_the_server_s_limits() -> None:
    bench = Bench(b"\x20\x09\0\0\x06\x21\x00\x02\x13\x00\x07", inflight=10, version=5)
    assert len(bench.publish()) == 2
    assert bench.device.keep_alive == 7


@pytest.mark.parametrize(
    ("connack", "settings"),
    [(b"\x20\x05\0\0\x02\x24\x01", {"qos": 2}), (b"\x20\x08\0\0\x05\x27\0\0\0\x80", {"size": 101})],
)
def test_what_the_server_does_not_take_is_not_tried(connack: bytes, settings: dict[str, int]) -> None:
    with pytest.raises(MqttViolation):
        Bench(connack, version=5, **settings)


def test_a_refused_connect_is_told_with_its_reason() -> None:
    with pytest.raises(ConnectRefused, match="0x05"):
        Bench(b"\x20\x02\0\x05")


def test_qos_2_is_acknowledged_by_pubrec_and_holds_its_place_until_pubcomp() -> None:
    bench = Bench(inflight=2, qos=2)
    bench.publish()
    bench.ack(1, 2, kind=0x50)
    assert bench.tally.acked == 2
    assert bench.publish() == []
    assert bench.others == [(0x62, b"\0\x01"), (0x62, b"\0\x02")]
    bench.ack(1, kind=0x70)
    assert bench.publish() == [Sent(3, False, 2)]
    assert bench.device.outstanding == 2
    bench.ack(2, kind=0x70)
    bench.ack(2, kind=0x70)
    assert bench.errors() == (1, 0, 0)


def test_qos_2_resends_pubrel_for_what_was_received_and_publish_for_the_rest() -> None:
    bench = Bench(inflight=2, qos=2)
    bench.publish()
    bench.ack(1, kind=0x50)
    bench.publish()
    bench.device.lose_connection()
    bench.connect()
    assert bench.publish() == [Sent(2, True, 1)]
    assert bench.others == [(0x62, b"\0\x01")]
    bench.ack(1, kind=0x50)
    assert bench.errors() == (0, 1, 0)


def test_qos_0_is_settled_when_written() -> None:
    bench = Bench(inflight=2, qos=0)
    assert bench.publish() == [Sent(0, False, 0), Sent(0, False, 1)]
    assert bench.publish() == [Sent(0, False, 2), Sent(0, False, 3)]
    assert bench.tally.acked == 4
    assert bench.device.outstanding == 0


def test_ping_is_measured_once_at_a_time_and_by_kind_of_connection() -> None:
    bench = Bench()
    assert bench.device.ping(1.0) == b"\xc0\0"
    assert bench.device.ping(2.0) == b""
    assert bench.device.ping_age(3.0) == 2.0
    bench.device.receive(b"\xd0\0", 4.0)
    assert (bench.tally.ping_idle.total, bench.tally.ping_idle.maximum) == (1, 3.0)
    publishing = Bench(connections=4)
    publishing.device.ping(1.0)
    publishing.device.end_ping(8.0)
    assert publishing.tally.ping_publishing.maximum == 7.0


@pytest.mark.parametrize("packet", [b"\xd0\0", b"\x30\x03\0\x01a", b"\x50\x02\0\x01", b"\x20\x02\0\0", b"\xe0\0"])
def test_what_no_server_may_send_is_a_violation(packet: bytes) -> None:
    with pytest.raises(MqttViolation):
        Bench().device.receive(packet, 0.0)


def test_nothing_may_come_before_connack() -> None:
    bench = Bench()
    bench.device.lose_connection()
    with pytest.raises(MqttViolation):
        bench.device.receive(b"\x40\x02\0\x01", 0.0)


def test_a_disconnect_of_the_server_is_counted_by_reason() -> None:
    bench = Bench(version=5)
    bench.device.receive(b"\xe0\x01\x8b", 0.0)
    assert bench.tally.server_disconnects == {"0x8b": 1}


@pytest.mark.parametrize("seed", range(20))
def test_a_good_server_on_a_bad_network_gets_everything_once_it_is_acknowledged(seed: int) -> None:
    """Acks are delayed, split and lost with their connection; the server forgets nothing and acks in order."""
    rng = random.Random(seed)
    bench = Bench(inflight=rng.choice([1, 4, 50]), allowed=200)
    arrived: list[int] = []
    in_the_network = b""
    while bench.device.outstanding or bench.device.fresh < 200:
        for sent in bench.publish():
            assert sent.sequence not in arrived or sent.dup
            arrived.append(sent.sequence)
            in_the_network += b"\x40\x02" + sent.packet_id.to_bytes(2, "big")
        if rng.random() < 0.1:
            bench.device.lose_connection()
            bench.connect()
            in_the_network = b""
        cut = rng.randint(0, len(in_the_network))
        bench.device.receive(in_the_network[:cut], 0.0)
        in_the_network = in_the_network[cut:]
    assert bench.device.acked == SequenceRanges([(0, 200)])
    assert bench.tally.acked == bench.tally.sent == bench.tally.ack_latency.total == 200
    assert list(dict.fromkeys(arrived)) == list(range(200))
    assert bench.errors() == (0, 0, 0)
