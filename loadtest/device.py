"""One device: what it has published, what it still waits for, what it says next. No I/O, no clock.

Sequence numbers are everything. A payload follows from its sequence number (`payload.py`) and so does the packet id,
hence the list of unacknowledged messages is a range of numbers with few holes, however long the server is away.
Acknowledgements that come as they should are compared as one block of bytes with what is expected, so that the cost
of a message is its packing.
"""

import struct
from collections import deque
from functools import cache

from loadtest.codec import (
    CONNACK,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    SERVER_DISCONNECT,
    Connack,
    decode_ack,
    decode_connack,
    encode_connect,
    encode_length,
    encode_pubrel,
    encode_successful_acks,
    split_packets,
)
from loadtest.errors import ConnectRefused, MqttViolation
from loadtest.payload import IDENTITY_BYTES, Payloads
from loadtest.ranges import SequenceRanges
from loadtest.repeats import Repeats
from loadtest.settings import LoadSettings
from loadtest.tally import Tally


@cache
def expected_pubacks(packet_ids: int) -> bytes:
    """Two rounds of all packet ids, so that a window which wraps around is still one slice. Half a megabyte."""
    return encode_successful_acks(PUBACK, 2 * packet_ids, packet_ids)


class Device:
    """The owner calls `connect`, then `receive` and `publish` with the time, and `lose_connection` when it is over.

    `first` … `cursor` … `fresh`: everything before `first` is settled, before `cursor` was sent on this connection,
    before `fresh` was sent at least once. `early` are those settled although an older one is not.
    """

    __slots__ = (
        "_early", "_expected", "_heads", "_in_flight", "_pack", "_packet_bytes", "_packet_ids", "_partial", "_payloads",
        "_ping_sent", "_refused", "_releasing", "_repeats", "_replies", "_sent_at", "_settings", "_tail", "_tally",
        "allowed", "client_id", "connected", "cursor", "first", "fresh", "index", "keep_alive", "window",
    )  # fmt: skip

    def __init__(self, index: int, settings: LoadSettings, payloads: Payloads, tally: Tally) -> None:
        self.index = index
        self.client_id = settings.client_id(index)
        self.connected = False
        self.keep_alive = settings.keep_alive_seconds
        self.window = settings.inflight
        self.allowed = 0
        """New messages may be published up to this sequence number."""
        self.first = self.cursor = self.fresh = 0
        self._settings = settings
        self._payloads = payloads
        self._tally = tally
        self._packet_ids = settings.packet_ids
        self._expected = expected_pubacks(settings.packet_ids) if settings.qos == 1 else b""
        seed = settings.run_id + index.to_bytes(4, "big")
        self._repeats = Repeats(settings.repeat, seed, tally) if settings.repeat else None
        self._in_flight = 0
        self._early: set[int] = set()
        self._refused = SequenceRanges()
        self._releasing: dict[int, int] = {}  # QoS 2: packet id → sequence, PUBREC seen and PUBCOMP not
        self._sent_at: deque[tuple[int, float]] = deque()  # (sequence after the last one, when) of each write
        self._partial = b""
        self._replies: list[bytes] = []
        self._ping_sent: float | None = None
        self._prepare_publish(settings.topic.replace("{client}", self.client_id).encode())

    def _prepare_publish(self, topic: bytes) -> None:
        """Everything of a PUBLISH that is the same for all of this device's."""
        qos, properties = self._settings.qos, b"\x00" if self._settings.version == 5 else b""
        named = len(topic).to_bytes(2, "big") + topic
        length = encode_length(len(named) + (2 if qos else 0) + len(properties) + self._settings.size)
        self._heads = [bytes((0x30 | dup | qos << 1,)) + length + named for dup in (0, 8)]
        self._tail = properties + self._payloads.run_id + self.index.to_bytes(4, "big")
        padding = self._settings.size - IDENTITY_BYTES
        identifier = "H" if qos else ""
        layout = struct.Struct(f">{len(self._heads[0])}s{identifier}{len(self._tail)}sI{padding}s")
        self._pack, self._packet_bytes = layout.pack, layout.size

    # The connection.

    def connect(self) -> bytes:
        settings = self._settings
        username = settings.username and settings.username.replace("{client}", self.client_id)
        expiry, keep_alive = settings.session_expiry_seconds, settings.keep_alive_seconds
        return encode_connect(self.client_id, settings.version, keep_alive, expiry, username, settings.password)

    def lose_connection(self) -> None:
        """Whatever the server says about a session, everything unacknowledged will be sent again, oldest first."""
        self.connected = False
        self.cursor = self.first
        self._in_flight = 0
        self._partial = b""
        self._replies.clear()
        self._ping_sent = None
        if self._repeats:
            self._repeats.forget()

    def ping(self, now: float) -> bytes:
        """PINGREQ, or nothing while the last one is unanswered."""
        if self._ping_sent is not None:
            return b""
        self._ping_sent = now
        return PINGREQ

    def ping_age(self, now: float) -> float:
        """How long the answer to a PINGREQ has been awaited."""
        return 0.0 if self._ping_sent is None else now - self._ping_sent

    def end_ping(self, now: float) -> None:
        """Count the round trip of the PINGREQ that is answered, or given up because the run is over.

        At QoS 0 it is also the only word of the server that it has taken all that was written before.
        """
        if self._ping_sent is None:
            return
        publishing = self.index < self._settings.connections
        histogram = self._tally.ping_publishing if publishing else self._tally.ping_idle
        histogram.add(now - self._ping_sent)
        self._ping_sent = None
        if publishing and self._settings.qos == 0:
            self._tally.last_ack = now

    @property
    def acked(self) -> SequenceRanges:
        """What the server has acknowledged with success; at QoS 0 what was written."""
        settled = SequenceRanges([(0, self.first)] if self.first else [])
        for sequence in sorted(self._early):
            settled.add(sequence, sequence + 1)
        return settled.without(self._refused)

    @property
    def outstanding(self) -> int:
        """Messages that were sent and are not settled."""
        return self.fresh - self.first - len(self._early) + len(self._releasing)

    # What goes out.

    def publish(self, now: float) -> bytes:
        """Replies owed, then what is unacknowledged from before this connection, then new messages, as room allows."""
        packets, self._replies = self._replies, []
        room = self.window - self._in_flight if self.connected else 0
        if room > 0 and self.cursor < self.fresh:
            sequences = self._to_resend(room)
            packets += self._encode(sequences, dup=1)
            self._tally.resent += len(sequences)
            self._in_flight += len(sequences)
            room -= len(sequences)
        if room > 0:
            packets += self._new_messages(room, now)
        if self._repeats and self.connected:
            packets += self._encode(self._to_repeat(self._repeats), dup=1)
        return b"".join(packets)

    def _to_resend(self, room: int) -> list[int]:
        sequences: list[int] = []
        while self.cursor < self.fresh and len(sequences) < room:
            if self.cursor not in self._early:
                sequences.append(self.cursor)
            self.cursor += 1
        return sequences

    def _to_repeat(self, repeats: Repeats) -> list[int]:
        waiting = [sequence for sequence in range(self.first, self.cursor) if sequence not in self._early]
        again = repeats.publishes([sequence % self._packet_ids + 1 for sequence in waiting])
        return [sequence for sequence in waiting if sequence % self._packet_ids + 1 in again]

    def _new_messages(self, room: int, now: float) -> list[bytes]:
        # A packet id must not be used again while the message that has it is unsettled.
        oldest = min(self.first, *self._releasing.values()) if self._releasing else self.first
        start, stop = self.fresh, min(self.fresh + room, self.allowed, oldest + self._packet_ids)
        if start >= stop:
            return []
        self.fresh = self.cursor = stop
        self._tally.sent += stop - start
        if self._settings.qos:
            self._in_flight += stop - start
            self._sent_at.append((stop, now))
        else:
            self._forget(start, stop, now)
        return self._encode(range(start, stop), dup=0)

    def _forget(self, start: int, stop: int, now: float) -> None:
        """QoS 0 is settled when it is written."""
        self.first = stop
        self._tally.acked += stop - start
        self._tally.last_ack = now

    def _encode(self, sequences: "range | list[int]", dup: int) -> list[bytes]:
        pack, head, tail, padding = self._pack, self._heads[dup], self._tail, self._payloads.padding
        packet_ids = self._packet_ids
        if self._settings.qos == 0:
            return [pack(head, tail, sequence, padding(sequence)) for sequence in sequences]
        return [pack(head, sequence % packet_ids + 1, tail, sequence, padding(sequence)) for sequence in sequences]

    # What comes in.

    def receive(self, data: bytes, now: float) -> None:
        """Take the server's bytes. Raises ConnectRefused, and MqttViolation for what MQTT does not allow."""
        if not self._partial and self._is_expected(data):
            self._acknowledge_next(len(data) >> 2, now)
            return
        packets, self._partial = split_packets(self._partial + data)
        for first_byte, body in packets:
            self._receive_packet(first_byte, body, now)

    def _is_expected(self, data: bytes) -> bool:
        """True when `data` is exactly the next PUBACKs, all success: almost always, at QoS 1."""
        size = len(data)
        if size & 3 or size >> 2 > self._in_flight or self._early:
            return False
        start = self.first % self._packet_ids * 4
        return data == self._expected[start : start + size]

    def _receive_packet(self, first_byte: int, body: bytes, now: float) -> None:
        if first_byte == CONNACK and not self.connected:
            self._receive_connack(decode_connack(body, self._settings.version))
        elif not self.connected:
            raise MqttViolation(f"packet 0x{first_byte:02x} before CONNACK")
        elif first_byte == PUBACK and self._settings.qos == 1:
            self._receive_ack(*decode_ack(body), now)
        elif first_byte == PUBREC and self._settings.qos == 2:
            self._receive_pubrec(*decode_ack(body), now)
        elif first_byte == PUBCOMP and self._settings.qos == 2:
            self._receive_pubcomp(*decode_ack(body))
        elif first_byte == PINGRESP and self._ping_sent is not None:
            self.end_ping(now)
        elif first_byte == SERVER_DISCONNECT and self._settings.version == 5:
            self._tally.server_disconnects[f"0x{body[0] if body else 0:02x}"] += 1
        else:
            raise MqttViolation(f"unexpected packet 0x{first_byte:02x}")

    def _receive_connack(self, connack: Connack) -> None:
        if connack.reason:
            raise ConnectRefused(f"0x{connack.reason:02x}")
        settings = self._settings
        if settings.qos > connack.maximum_qos:
            raise MqttViolation(f"QoS {settings.qos} asked for, the server's maximum is {connack.maximum_qos}")
        if connack.maximum_packet_size is not None and self._packet_bytes > connack.maximum_packet_size:
            raise MqttViolation(
                f"packets have {self._packet_bytes} B, at most {connack.maximum_packet_size} are allowed"
            )
        self._tally.connacks += 1
        self.connected = True
        self.window = min(settings.inflight, connack.receive_maximum)
        self.keep_alive = connack.server_keep_alive or settings.keep_alive_seconds
        # What the server has received need not be published again: only its release is outstanding.
        self._replies += [encode_pubrel(packet_id) for packet_id in self._releasing]
        self._in_flight = len(self._releasing)

    def _acknowledge_next(self, count: int, now: float) -> None:
        """The `count` oldest messages are acknowledged, in order."""
        start, stop, tally, sent_at = self.first, self.first + count, self._tally, self._sent_at
        self.first = stop
        self._in_flight -= count
        tally.acked += count
        tally.last_ack = now
        while start < stop:
            written, when = sent_at[0]
            tally.ack_latency.add(now - when, min(written, stop) - start)
            if written > stop:
                return
            start = written
            sent_at.popleft()

    def _receive_ack(self, packet_id: int, reason: int, now: float) -> None:
        """PUBACK, or PUBREC as far as it acknowledges."""
        sequence = self._in_flight_sequence(packet_id)
        if sequence is None:
            return
        self._in_flight -= 1
        tally = self._tally
        if sequence != self.first:
            tally.out_of_order_acks += 1
        if reason:
            tally.reasons[f"0x{reason:02x}"] += 1
        if reason >= 0x80:
            tally.refused += 1
            self._refused.add(sequence, sequence + 1)
        else:
            tally.acked += 1
            tally.last_ack = now
            tally.ack_latency.add(now - self._first_sent(sequence))
        self._settle(sequence)

    def _first_sent(self, sequence: int) -> float:
        """When a message in flight was first written. One that is acknowledged ahead of its turn is a recent one."""
        moment = self._sent_at[0][1]
        if sequence > self.first:
            for written, when in reversed(self._sent_at):
                if written <= sequence:
                    break
                moment = when
        return moment

    def _in_flight_sequence(self, packet_id: int) -> int | None:
        """The message that has this packet id now; None, and an error counted, when no message in flight has it."""
        # The latest sequence number before the cursor that has this packet id.
        sequence = self.cursor - 1 - (self.cursor - packet_id) % self._packet_ids if packet_id else -1
        if sequence >= self.first and sequence not in self._early:
            return sequence
        # An id used shortly before was acknowledged twice; one that was not, was made up.
        if sequence >= max(self.cursor - 4 * self.window, 0):
            self._tally.duplicate_acks += 1
        else:
            self._tally.unknown_acks += 1
        return None

    def _settle(self, sequence: int) -> None:
        self._early.add(sequence)
        while self.first in self._early:
            self._early.remove(self.first)
            self.first += 1
        while self._sent_at and self._sent_at[0][0] <= self.first:
            self._sent_at.popleft()

    def _receive_pubrec(self, packet_id: int, reason: int, now: float) -> None:
        if packet_id in self._releasing:
            if not (self._repeats and self._repeats.explain_pubrec(packet_id)):
                self._tally.duplicate_acks += 1
            return
        known = self._in_flight_sequence(packet_id)
        if known is None:
            return
        self._receive_ack(packet_id, reason, now)
        if reason < 0x80:
            self._releasing[packet_id] = known
            self._in_flight += 1
            self._release(packet_id, known)

    def _release(self, packet_id: int, sequence: int) -> None:
        releases = 1
        if self._repeats:
            if self._repeats.publishes([packet_id]):
                self._replies += self._encode([sequence], dup=1)
            releases = self._repeats.releases(packet_id)
        self._replies += [encode_pubrel(packet_id)] * releases

    def _receive_pubcomp(self, packet_id: int, reason: int) -> None:
        if packet_id not in self._releasing:
            self._tally.unknown_acks += 1
            return
        if reason:
            self._tally.reasons[f"0x{reason:02x}"] += 1
        if self._repeats and not self._repeats.completes(packet_id):
            return
        del self._releasing[packet_id]
        self._in_flight -= 1
