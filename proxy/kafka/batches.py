"""What waits for Kafka, per partition, in order; and which partition a key belongs to. Pure bookkeeping."""

from collections import deque
from collections.abc import Callable
from hashlib import md5

from proxy import limits
from proxy.kafka.gateway import ProducerRecord, Settle

#: A record that waits: record, settle, owner, token, when it was taken (monotonic seconds), its bytes. A plain tuple,
#: because one is made for each message.
Entry = tuple[ProducerRecord, Settle, object | None, object, float, int]


def md5_partition(key: bytes, partitions: int) -> int:
    """The last byte of MD5(key) modulo the partition count, as `emqx_plugin_kafka` chooses: at most 256 are reached."""
    return md5(key, usedforsecurity=False).digest()[-1] % partitions


def record_bytes(record: ProducerRecord) -> int:
    """Bytes that a record costs while it waits: its content and our bookkeeping (headers are shared, not counted)."""
    return len(record.value) + len(record.key) + limits.RECORD_OVERHEAD_BYTES


class PartitionQueue:
    """The FIFO of one partition. What leaves it is either handed to the client library or settled by the caller."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def oldest(self) -> float | None:
        """When the record at the head was taken."""
        return self.entries[0][4] if self.entries else None

    def move(self, taken: list[Entry], append: Callable[[ProducerRecord, float], bool], most: int) -> None:
        """Moves entries from the head to `taken`: as many as `append` accepts, `most` at the most."""
        entries = self.entries
        while entries and len(taken) < most:
            entry = entries[0]
            if not append(entry[0], entry[4]):
                break
            taken.append(entries.popleft())

    def take_head(self) -> list[Entry]:
        """Takes out the oldest record, if there is one."""
        return [self.entries.popleft()] if self.entries else []

    def put_back(self, taken: list[Entry]) -> None:
        """Returns entries that were certainly not written to the head, in their order."""
        self.entries.extendleft(reversed(taken))

    def remove_owners(self, owners: set[object]) -> list[Entry]:
        """Takes out what belongs to these owners."""
        removed = [entry for entry in self.entries if entry[2] in owners]
        if removed:
            self.entries = deque(entry for entry in self.entries if entry[2] not in owners)
        return removed

    def take_older_than(self, when: float) -> list[Entry]:
        """Takes out what was accepted before `when`."""
        taken = []
        while self.entries and self.entries[0][4] < when:
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
        """Seconds that a batch which is ready now has to wait; 0 counts it as started."""
        theoretical = max(self._theoretical, now)
        if theoretical - now > self._burst_seconds:
            return self.tick_seconds - now % self.tick_seconds
        self._theoretical = theoretical + self._interval
        return 0.0
