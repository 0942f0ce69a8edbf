"""The window of what a device has sent and has not been told: acknowledgements leave in the order of receipt.

[MQTT-4.6.0-2]: PUBACKs in the order in which the PUBLISH packets came. Kafka settles partitions independently, so an
early settlement waits here for its elders.
"""

from typing import Final

_UNSETTLED: Final = -1


class ReceiveWindow:
    """Packet identifiers of QoS 1 messages, oldest first, each with the reason code it was settled with."""

    __slots__ = ("_settled",)

    def __init__(self) -> None:
        self._settled: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._settled)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._settled

    def open(self, packet_id: int) -> None:
        """A message was received. The caller has checked that its identifier is not in use."""
        self._settled[packet_id] = _UNSETTLED

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
