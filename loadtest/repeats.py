"""QoS 2 said more than once: which packets a device says again, at random, and which answers that explains. No I/O.

What may be repeated is what the standard lets a client repeat: PUBLISH before its PUBREL [MQTT-4.3.3-5], PUBREL at any
time. A server answers each with a PUBREC or PUBCOMP more, or answers several PUBLISH packets with one PUBREC.
"""

import random
from collections import Counter
from collections.abc import Iterable

from loadtest.tally import Tally


class Repeats:
    """What one device has said again, by packet id, until the message that has it is complete."""

    __slots__ = ("_chance", "_explained", "_owed", "_share", "_tally")

    def __init__(self, share: float, seed: bytes, tally: Tally) -> None:
        self._share = share
        self._chance = random.Random(seed)
        self._tally = tally
        self._explained: Counter[int] = Counter()  # packet id → PUBRECs that may still come beside the first
        self._owed: Counter[int] = Counter()  # packet id → PUBCOMPs that must come before the last

    def forget(self) -> None:
        """The connection is over, and with it all answers to what was said on it."""
        self._explained.clear()
        self._owed.clear()

    def publishes(self, packet_ids: Iterable[int]) -> list[int]:
        """Those of the messages without a PUBREC whose PUBLISH is said again now."""
        again = [packet_id for packet_id in packet_ids if self._chance.random() < self._share]
        self._explained.update(again)
        self._tally.publishes_repeated += len(again)
        return again

    def releases(self, packet_id: int) -> int:
        """How many PUBREL packets follow a PUBREC."""
        if self._chance.random() >= self._share:
            return 1
        self._owed[packet_id] += 1
        self._tally.releases_repeated += 1
        return 2

    def explain_pubrec(self, packet_id: int) -> bool:
        """Whether a PUBREC after the first answers a repeated PUBLISH."""
        if not self._explained[packet_id]:
            return False
        self._explained[packet_id] -= 1
        self._tally.pubrecs_repeated += 1
        return True

    def completes(self, packet_id: int) -> bool:
        """Whether this PUBCOMP is the last, so that another message may have the packet id."""
        if self._owed[packet_id]:
            self._owed[packet_id] -= 1
            return False
        del self._explained[packet_id], self._owed[packet_id]
        return True
