"""Both windows: what a device has sent and was not told, and what we have sent and it has not acknowledged.

[MQTT-4.6.0-2, -3]: PUBACKs and PUBRECs leave in the order in which the PUBLISH packets came. Kafka settles partitions
independently, so an early settlement waits here for its elders.
"""

from typing import Final

_UNSETTLED: Final = -1
#: Reason codes from here on say that a message was not taken; its identifier is free.
_REFUSED: Final = 0x80


class ReceiveWindow:
    """Packet identifiers of QoS 1 and 2 messages, oldest first, each with the reason code it was settled with."""

    __slots__ = ("_exactly_once", "_settled", "_unreleased")

    def __init__(self) -> None:
        self._settled: dict[int, int] = {}
        #: The QoS 2 identifiers among them; made when there is one.
        self._exactly_once: set[int] | None = None
        #: QoS 2 identifiers whose PUBREC was sent and whose PUBREL was not received.
        self._unreleased: set[int] | None = None

    def __len__(self) -> int:
        """What counts against Receive Maximum: a QoS 2 message does until its PUBREL (4.9)."""
        return len(self._settled) if self._unreleased is None else len(self._settled) + len(self._unreleased)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._settled or (self._unreleased is not None and packet_id in self._unreleased)

    @property
    def unsettled(self) -> int:
        """Messages whose outcome the device has not been told."""
        return len(self._settled)

    def open(self, packet_id: int, qos: int) -> None:
        """A message was received. The caller has checked that its identifier is not in use."""
        self._settled[packet_id] = _UNSETTLED
        if qos == 2:
            if self._exactly_once is None:
                self._exactly_once, self._unreleased = set(), set()
            self._exactly_once.add(packet_id)

    def settle(self, packet_ids: list[int], reason_code: int) -> list[tuple[int, int]]:
        """The outcome of some messages is known. Takes out the settled ones that no unsettled one precedes and returns
        them, (packet_id, reason_code) in order of receipt. Raises KeyError, a bug of ours: nobody waits for one.
        """
        settled = self._settled
        for packet_id in packet_ids:
            if settled[packet_id] != _UNSETTLED:
                raise KeyError(packet_id)
            settled[packet_id] = reason_code
        released = []
        for pair in settled.items():
            if pair[1] == _UNSETTLED:
                break
            released.append(pair)
        for packet_id, _ in released:
            del settled[packet_id]
        return released

    @property
    def unreleased(self) -> list[int]:
        """QoS 2 identifiers whose PUBREL is due; those too whose PUBREC waits for its elders."""
        if self._exactly_once is None or self._unreleased is None:
            return []
        waiting = {each for each in self._exactly_once if 0 <= self._settled[each] < _REFUSED}
        return sorted(self._unreleased | waiting)

    def restore(self, packet_ids: list[int]) -> None:
        """These were received on an earlier connection of the session, and wait for PUBREL."""
        if self._exactly_once is None or self._unreleased is None:
            self._exactly_once, self._unreleased = set(), set()
        self._unreleased.update(packet_ids)

    @property
    def has_exactly_once(self) -> bool:
        """Whether any message of QoS 2 was ever received here."""
        return self._exactly_once is not None

    def receive_of(self, packet_id: int, refused: bool) -> bool:
        """Whether a released identifier is answered with PUBREC; it is then in use until its PUBREL unless refused
        [MQTT-4.3.3-9].
        """
        if self._exactly_once is None or self._unreleased is None or packet_id not in self._exactly_once:
            return False
        self._exactly_once.discard(packet_id)
        if not refused:
            self._unreleased.add(packet_id)
        return True

    def is_exactly_once(self, packet_id: int) -> bool:
        """Whether an identifier in use is that of a QoS 2 message."""
        return packet_id not in self._settled or (self._exactly_once is not None and packet_id in self._exactly_once)

    def awaits_release(self, packet_id: int) -> bool:
        """Whether the PUBREC of this identifier was sent and its PUBREL is due."""
        return self._unreleased is not None and packet_id in self._unreleased

    def release(self, packet_id: int) -> bool:
        """PUBREL was received; False when nobody waits for it."""
        if not self.awaits_release(packet_id) or self._unreleased is None:
            return False
        self._unreleased.discard(packet_id)
        return True


#: What a message that we sent waits for.
_PUBACK: Final = 4
_PUBREC: Final = 5
_PUBCOMP: Final = 7


class SendWindow:
    """Packet identifiers of what we have sent at QoS 1 and 2; at most `maximum`, the peer's Receive Maximum."""

    __slots__ = ("_awaited", "_last", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._awaited: dict[int, int] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._awaited)

    @property
    def full(self) -> bool:
        return len(self._awaited) >= self.maximum

    def next_id(self) -> int:
        """An identifier that is not in use [MQTT-2.2.1-4]. The caller has checked that there is room."""
        packet_id = self._last % 65_535 + 1
        while packet_id in self._awaited:
            packet_id = packet_id % 65_535 + 1
        return packet_id

    def open(self, packet_id: int, qos: int) -> None:
        """One more message is on its way."""
        self._last = packet_id
        self._awaited[packet_id] = _PUBACK if qos == 1 else _PUBREC

    def receive(self, packet_type: int, packet_id: int, refused: bool) -> bool | None:
        """An acknowledgement came. True: the message is done; False: PUBREL is due; None: nobody waits for this."""
        if self._awaited.get(packet_id) != packet_type:
            return None
        if packet_type == _PUBREC and not refused:
            self._awaited[packet_id] = _PUBCOMP
            return False
        del self._awaited[packet_id]
        return True
