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
from proxy.kafka.dead_letters import DeadLetters
from proxy.kafka.gateway import Destination, GatewayStatus, Headers, Partitioner, Recipient
from proxy.kafka.internal import Topic
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
        #: A test that wants dead letters puts `DeadLetters(gateway, topic, counter)` here.
        self.dead_letters: DeadLetters | None = None
        self._partitions = dict(topics or {})
        #: Records for topics that are not there.
        self._unknown: dict[str, PartitionQueue] = {}
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

    def add_topic(self, topic: str, partitions: int = PARTITIONS) -> None:
        """The topic is there now, and takes what has waited for it."""
        self._partitions[topic] = partitions
        for destination, value, headers, recipient, token, _, size in self._unknown.pop(
            topic, PartitionQueue(0)
        ).entries:
            self._count(-size)
            self.enqueue(destination, value, headers, recipient, token)

    def stored(self, topic: str) -> list[Record]:
        """The records of a topic by partition and offset."""
        return [record for (name, _), records in sorted(self.log.items()) if name == topic for record in records]

    # ---- KafkaGateway ----

    async def start(self, topics: Sequence[str], internal: Sequence[Topic] = ()) -> None:
        for topic in (*topics, *(each.name for each in internal)):
            self._partitions.setdefault(topic, PARTITIONS)

    async def add_topics(self, topics: Sequence[str]) -> None:
        await self.start(topics)
        self.generation += 1

    def partitions(self, topic: str) -> int:
        return self._partitions.get(topic, 0)

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination:
        destination = Destination(topic, -1, key, self.generation, self._queue, rule, partitioner)
        self._place(destination)
        return destination

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        size = destination.bytes + len(value or b"")
        entry = (destination, value, headers, recipient, token, self._loop.time(), size)
        try:
            if destination.partition < 0:
                self._place(destination)
            if not self.fits(destination, value or b"", headers):
                raise GatewayError("too large", Refusal.TOO_LARGE)
        except GatewayError as error:
            self._refuse(entry, error)
            return
        self._count(size)
        if destination.partition < 0:
            self._unknown.setdefault(destination.topic, PartitionQueue(0)).entries.append(entry)
            return
        self._queue.entries.append(entry)
        if self._turn is None and not self._held:
            self._turn = self._loop.call_later(self.delay_seconds, self._take_turn)

    def fits(self, destination: Destination, value: bytes, headers: Headers) -> bool:
        record_bytes = len(value) + len(destination.key) + sum(len(name) + len(content) for name, content in headers)
        return record_bytes <= self.record_bytes_max

    def withdraw(self, recipient: Recipient) -> None:
        for queue in (self._queue, *self._unknown.values()):
            self._count(-sum(entry[6] for entry in queue.remove({recipient})))

    def status(self) -> GatewayStatus:
        oldest = self._queue.oldest
        age = self._loop.time() - oldest if oldest is not None else 0.0
        return GatewayStatus(self.ready, self._queued_bytes, age, self.congested, self.fault)

    async def flush(self, timeout_seconds: float) -> int:
        deadline = self._loop.time() + timeout_seconds
        while self._unsettled() and self._loop.time() < deadline:  # noqa: ASYNC110 - as the real one does
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)
        return self._unsettled()

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
        if self.error is not None and self.error.refusal is not None and self.dead_letters is not None:
            for entry in taken:
                self._refuse(entry, self.error)
        else:
            self.bugs += settle_entries(taken, self.error, self._loop.time())
        self._count(-sum(entry[6] for entry in taken))

    def _refuse(self, entry: Entry, error: GatewayError) -> None:
        """As the real one: to the dead letters, unless there are none or it is one."""
        destination, value, headers, recipient, token, _, _ = entry
        if self.dead_letters is None or destination.refusal is not None:
            self.bugs += settle_entries([entry], destination.refusal or error, self._loop.time())
            return
        cause, rule, topic = str(error.refusal), destination.rule, destination.topic
        self.dead_letters.bury(
            destination.key, value, headers, recipient, token, cause=cause, rule=rule, topic=topic, error=error
        )

    def _place(self, destination: Destination) -> None:
        topic, key, partitioner = destination.topic, destination.key, destination.partitioner
        count = self._partitions.get(topic)
        if count is None:
            return
        partition = partitioner(key, count) if partitioner else md5_partition(key, self._md5_partitions or count)
        if not 0 <= partition < count:
            raise GatewayError(f"topic {topic} has {count} partitions, no {partition}", Refusal.UNKNOWN_TOPIC)
        destination.partition = partition

    def _unsettled(self) -> int:
        return len(self._queue) + sum(map(len, self._unknown.values()))

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
