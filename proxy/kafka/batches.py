"""What waits for Kafka, per partition, in order; and which partition a key belongs to. Pure bookkeeping."""

from collections import deque
from collections.abc import Callable
from hashlib import md5
from typing import Any, Final

from proxy.errors import GatewayError
from proxy.kafka.gateway import Destination, Headers, Recipient

#: A record that waits: destination, value, headers, recipient, token, when it was taken (monotonic seconds), its bytes.
#: A plain tuple, because one is made for each message. A record without a value is a tombstone of ours.
Entry = tuple[Destination, bytes | None, Headers, Recipient, int, float, int]

#: Stands behind the last record where a run of records ends: it is nobody's.
_END: Final[Any] = (None, b"", [], None, 0, 0.0, 0)


def md5_partition(key: bytes, partitions: int) -> int:
    """The last byte of MD5(key) modulo the partition count, as `emqx_plugin_kafka` chooses: at most 256 are reached."""
    return md5(key, usedforsecurity=False).digest()[-1] % partitions


def settle_entries(entries: list[Entry], error: GatewayError | None, now: float) -> list[Exception]:
    """Tells the recipients, in order, with one call for records of one recipient that were taken at one time. Returns
    what recipients raised, which costs no other one its answer.
    """
    bugs: list[Exception] = []
    tokens: list[int] = []
    recipient, taken_at = None, 0.0
    for entry in [*entries, _END]:
        if entry[3] is not recipient or entry[5] != taken_at:
            if recipient is not None:
                try:
                    recipient.settle(tokens, error, now - taken_at)
                except Exception as bug:
                    bugs.append(bug)
            _, _, _, recipient, _, taken_at, _ = entry
            tokens = []
        tokens.append(entry[4])
    return bugs


class PartitionQueue:
    """The FIFO of one partition. What leaves it is either handed to the client library or settled by the caller."""

    __slots__ = ("easy_bytes", "entries", "wake")

    def __init__(self, easy_bytes: int) -> None:
        self.entries: deque[Entry] = deque()
        #: A record of at most this size certainly fits into the topic, whatever its headers are.
        self.easy_bytes = easy_bytes
        #: Called once when there is something to send again; None while nobody waits for that.
        self.wake: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def oldest(self) -> float | None:
        """When the record at the head was taken."""
        return self.entries[0][5] if self.entries else None

    def move(self, taken: list[Entry], append: Callable[..., object], offset_ms: float, most: int) -> None:
        """Moves entries from the head to `taken`: as many as `append` takes, which says None when it is full, `most` at
        the most. `offset_ms` is the wall clock, in milliseconds, when the monotonic one is 0.
        """
        entries = self.entries
        while entries and len(taken) < most:
            destination, value, headers, _, _, taken_at, _ = entry = entries[0]
            timestamp = int(taken_at * 1000 + offset_ms)
            if append(timestamp=timestamp, key=destination.key, value=value, headers=headers) is None:
                break
            taken.append(entry)
            entries.popleft()

    def take_head(self) -> list[Entry]:
        """Takes out the oldest record, if there is one."""
        return [self.entries.popleft()] if self.entries else []

    def put_back(self, taken: list[Entry]) -> None:
        """Returns entries that were certainly not written to the head, in their order."""
        self.entries.extendleft(reversed(taken))

    def remove(self, recipients: set[Recipient]) -> list[Entry]:
        """Takes out what belongs to these recipients."""
        removed = [entry for entry in self.entries if entry[3] in recipients]
        if removed:
            self.entries = deque(entry for entry in self.entries if entry[3] not in recipients)
        return removed

    def take_older_than(self, when: float) -> list[Entry]:
        """Takes out what was accepted before `when`."""
        taken = []
        while self.entries and self.entries[0][5] < when:
            taken.append(self.entries.popleft())
        return taken


class BatchPace:
    """Keeps batches worth their fixed cost: free while there are few, on a common tick when there are many.

    A batch costs about 0.3 ms whatever is in it. Up to `per_second` of them start when they like, so a lone device
    waits for nobody. Above that they wait for the next tick, where those of all partitions share one request. The wait
    is at most `tick_seconds`.
    """

    __slots__ = ("_burst_seconds", "_interval", "_theoretical", "tick_seconds")

    def __init__(self, per_second: float, burst: int, tick_seconds: float) -> None:
        self._interval = 1.0 / per_second
        self._burst_seconds = burst * self._interval
        self._theoretical = 0.0
        self.tick_seconds = tick_seconds

    def delay(self, now: float) -> float:
        """Seconds that a batch which is ready now has to wait; either way it counts as one of those of this second."""
        theoretical = max(self._theoretical, now)
        self._theoretical = min(theoretical, now + self._burst_seconds) + self._interval
        if theoretical - now > self._burst_seconds:
            return self.tick_seconds - now % self.tick_seconds
        return 0.0
