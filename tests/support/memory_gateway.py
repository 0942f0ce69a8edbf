"""A `KafkaGateway` without Kafka, for tests of what writes through one.

It settles on the next turn of the event loop, or later, or when a test says so; it can fail, refuse, be silent or full.
The same contract tests run against it and against the real one. Nothing that only some test needs belongs here.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import Entry, PartitionQueue, md5_partition, settle_entries
from proxy.kafka.gateway import Destination, GatewayStatus, Headers, Recipient
from tests.support.kafka_broker import Record

#: Partitions of a topic unless it is told otherwise.
PARTITIONS = 4
#: Of key, value and headers together: what Kafka takes by default.
RECORD_BYTES_MAX = 1_048_588 - limits.KAFKA_FRAMING_BYTES


class MemoryGateway:
    """A Kafka cluster that is a dictionary. Its attributes are there to be set by tests, before or while it runs."""

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        *,
        queue_bytes_max: int = 67_108_864,
        md5_partitions: int | None = None,
    ) -> None:
        #: Every record that was stored, by topic and partition.
        self.log: dict[tuple[str, int], list[Record]] = {}
        #: What becomes of every record that is handed over from now on; None: it is stored.
        self.error: GatewayError | None = None
        #: How long Kafka takes.
        self.delay_seconds = 0.0
        self.ready = True
        self.fault: str | None = None
        self.record_bytes_max = RECORD_BYTES_MAX
        self.queue_bytes_max = queue_bytes_max
        #: What recipients raised: a test in which they should not asserts that there is none.
        self.bugs: list[Exception] = []
        self.generation = 1
        self.congested = False
        self.full = False
        self.on_relief: Callable[[], object] = lambda: None
        self._partitions = dict(topics or {})
        self._md5_partitions = md5_partitions
        self._loop = asyncio.get_running_loop()
        self._queue = PartitionQueue(easy_bytes=0)  # One for all partitions: the order is that of the calls.
        self._queued_bytes = 0
        self._held = False
        self._turn: asyncio.Handle | None = None

    # ---- what only tests call ----

    def hold(self) -> None:
        """From now on records wait until `release`."""
        self._held = True

    def release(self, records: int | None = None) -> None:
        """Settles the oldest of them now. Without a number all of them, and records no longer wait."""
        if records is None:
            self._held = False
        self._settle(len(self._queue) if records is None else records)

    def add_partitions(self, topic: str, partitions: int) -> None:
        """The topic has so many from now on."""
        self._partitions[topic] = partitions
        self.generation += 1

    def stored(self, topic: str) -> list[Record]:
        """The records of a topic by partition and offset."""
        return [record for (name, _), records in sorted(self.log.items()) if name == topic for record in records]

    # ---- KafkaGateway ----

    async def start(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._partitions.setdefault(topic, PARTITIONS)

    def destination(self, topic: str, key: bytes) -> Destination:
        count = self._partitions.get(topic)
        if count is None:
            raise GatewayError(f"topic {topic} is not known", Refusal.UNKNOWN_TOPIC)
        partition = md5_partition(key, self._md5_partitions or count)
        if partition >= count:
            raise GatewayError(f"topic {topic} has {count} partitions, no {partition}", Refusal.UNKNOWN_TOPIC)
        return Destination(topic, partition, key, self.generation, self._queue)

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        record_bytes = len(value) + len(destination.key) + sum(len(name) + len(content) for name, content in headers)
        if record_bytes > self.record_bytes_max:
            recipient.settle([token], GatewayError("too large", Refusal.TOO_LARGE), 0.0)
            return
        size = destination.bytes + len(value)
        self._queue.entries.append((destination, value, headers, recipient, token, self._loop.time(), size))
        self._count(size)
        if self._turn is None and not self._held:
            self._turn = self._loop.call_later(self.delay_seconds, self._take_turn)

    def withdraw(self, recipient: Recipient) -> None:
        self._count(-sum(entry[6] for entry in self._queue.remove({recipient})))

    def status(self) -> GatewayStatus:
        oldest = self._queue.oldest
        age = self._loop.time() - oldest if oldest is not None else 0.0
        return GatewayStatus(self.ready, self._queued_bytes, age, self.congested, self.fault)

    async def flush(self, timeout_seconds: float) -> int:
        deadline = self._loop.time() + timeout_seconds
        while self._queue and self._loop.time() < deadline:  # noqa: ASYNC110 - as the real one does
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)
        return len(self._queue)

    async def stop(self) -> None:
        if self._turn is not None:
            self._turn.cancel()

    # ---- inside ----

    def _take_turn(self) -> None:
        self._turn = None
        if not self._held:
            self._settle(len(self._queue))

    def _settle(self, records: int) -> None:
        taken = [self._queue.entries.popleft() for _ in range(min(records, len(self._queue)))]
        if self.error is None:
            for entry in taken:
                self._store(entry)
        self.bugs += settle_entries(taken, self.error, self._loop.time())
        self._count(-sum(entry[6] for entry in taken))

    def _store(self, entry: Entry) -> None:
        destination, value, headers, _, _, taken_at, _ = entry
        topic, partition = destination.topic, destination.partition
        timestamp = time.time() - self._loop.time() + taken_at
        records = self.log.setdefault((topic, partition), [])
        record = Record(topic, partition, len(records), destination.key, value, list(headers), int(timestamp * 1000))
        records.append(record)

    def _count(self, added: int) -> None:
        self._queued_bytes += added
        self.full = self._queued_bytes > self.queue_bytes_max
        if self._queued_bytes > self.queue_bytes_max * limits.HIGH_WATER:
            self.congested = True
        elif self.congested and self._queued_bytes < self.queue_bytes_max * limits.LOW_WATER:
            self.congested = False
            self.on_relief()
