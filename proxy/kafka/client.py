"""The gateway to a real Kafka cluster, over aiokafka's batch interface.

aiokafka alone can stop a partition for ever or stall all of them; this class closes those gaps: records wait in a FIFO
of ours until their batch is settled, one batch per partition is in flight, each topic has a producer that is replaced
after any failed batch, and the delivery deadline is ours. No other module touches aiokafka's producer.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import BatchPace, Entry, PartitionQueue, md5_partition, settle_entries
from proxy.kafka.gateway import Destination, GatewayStatus, Headers, Recipient
from proxy.kafka.topics import TopicDirectory
from proxy.metrics import GatewayMetrics

log = logging.getLogger(__name__)

#: Kafka refused the batch, so nothing of it was written: which of its records is to blame is found one by one.
_REFUSED: Final = {
    kafka_errors.MessageSizeTooLargeError: Refusal.TOO_LARGE,
    kafka_errors.RecordListTooLargeError: Refusal.TOO_LARGE,
    kafka_errors.InvalidMessageError: Refusal.INVALID,
    kafka_errors.InvalidTimestampError: Refusal.INVALID,
    kafka_errors.PolicyViolationError: Refusal.INVALID,
    kafka_errors.UnsupportedForMessageFormatError: Refusal.INVALID,
    kafka_errors.TopicAuthorizationFailedError: Refusal.NOT_AUTHORIZED,
    kafka_errors.ClusterAuthorizationFailedError: Refusal.NOT_AUTHORIZED,
    kafka_errors.InvalidTopicError: Refusal.UNKNOWN_TOPIC,
}
#: The producer lost its place in the sequence, so nothing of the batch was written: once more through a new producer.
_DESYNCHRONISED: Final = (
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.InvalidProducerIdMapping,
)
#: `send_batch` could not take the batch, and the producer is none the worse for it. The last two are how aiokafka says
#: that a partition or a topic has just vanished.
_NOT_TAKEN: Final = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.KafkaTimeoutError,
    AssertionError,
    TypeError,
)


@dataclass(slots=True)
class GatewaySettings:
    """The `[kafka]` settings that a gateway obeys; `client_id` names this replica to the brokers."""

    bootstrap_servers: list[str]
    client_id: str
    delivery_timeout_seconds: float = 120.0
    queue_bytes_max: int = 67_108_864
    acks: int | str = "all"
    idempotence: bool = True
    md5_partitions: int | None = None
    create_topics: bool = True
    partitions: int = 12
    replication_factor: int = 3
    client: dict[str, Any] = field(default_factory=dict)


class AioKafkaGateway:
    """See `KafkaGateway`. Lives on one event loop; nothing of it may be called from another thread."""

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.generation = 0
        self.congested = False
        self.full = False
        self.pace = BatchPace(limits.FREE_BATCHES_PER_SECOND, limits.FREE_BATCHES_BURST, limits.BATCH_TICK_SECONDS)
        #: Called when the queue has fallen below its low-water mark after it was above the high one.
        self.on_relief: Callable[[], object] = lambda: None
        self._queued_bytes = 0
        self._high_bytes = int(settings.queue_bytes_max * limits.HIGH_WATER)
        self._low_bytes = int(settings.queue_bytes_max * limits.LOW_WATER)
        #: The event loop's own clock: a look at it costs less than a system call, and it stands still within a turn.
        self.now = asyncio.get_running_loop().time
        self._workers: dict[tuple[str, int], _PartitionWorker] = {}
        self._producers: dict[str, _ProducerSlot] = {}
        self._withdrawn: set[Recipient] = set()
        self._last_answer = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._directory = TopicDirectory(settings.bootstrap_servers, settings.client_id, settings.client)

    # ---- life ----

    async def start(self, topics: Sequence[str]) -> None:
        settings = self.settings
        while True:
            await self._directory.connect()
            try:
                await self._directory.ensure(
                    topics,
                    create=settings.create_topics,
                    partitions=settings.partitions,
                    replication_factor=settings.replication_factor,
                )
                break
            except kafka_errors.KafkaError as error:
                log.warning("kafka went away during start", extra={"error": repr(error)})
                await self._directory.close()
                await asyncio.sleep(limits.RETRY_SECONDS)
        self.heard()
        self.generation += 1
        self._tasks = [asyncio.create_task(self._probe()), asyncio.create_task(self._watch())]

    async def flush(self, timeout_seconds: float) -> int:
        deadline = self.now() + timeout_seconds
        while self._unsettled() and self.now() < deadline:  # noqa: ASYNC110 - an event would cost each record something
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)
        if self._unsettled():
            log.warning("records left unsettled", extra={"records": self._unsettled()})
        return self._unsettled()

    async def stop(self) -> None:
        tasks = [*self._tasks, *(worker.task for worker in self._workers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(slot.stop() for slot in set(self._producers.values())), self._directory.close())

    # ---- what the product calls ----

    def destination(self, topic: str, key: bytes) -> Destination:
        count = self._directory.partitions(topic)
        partition = md5_partition(key, self.settings.md5_partitions or count)
        if partition >= count:
            raise GatewayError(f"topic {topic} has {count} partitions, no {partition}", Refusal.UNKNOWN_TOPIC)
        return Destination(topic, partition, key, self.generation, self._worker(topic, partition).queue)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises GatewayError: the topic is not known."""
        return self._directory.partitions(topic)

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        queue = destination.queue
        size = destination.bytes + len(value)
        if size > queue.easy_bytes and not self._directory.fits(destination, value, headers):
            too_large = GatewayError(f"record of {len(value)} bytes for {destination.topic}", Refusal.TOO_LARGE)
            recipient.settle([token], too_large, 0.0)
            return
        queue.entries.append((destination, value, headers, recipient, token, self.now(), size))
        if queue.wake is not None:
            queue.wake()
        self._queued_bytes += size
        if self._queued_bytes > self._high_bytes:
            self.congested = True
            self.full = self._queued_bytes > self.settings.queue_bytes_max

    def withdraw(self, recipient: Recipient) -> None:
        """Recipients are collected and their records taken out together, at the next look at the queues: at the latest
        before a batch is filled.
        """
        if self._queued_bytes:
            self._withdrawn.add(recipient)

    def status(self) -> GatewayStatus:
        now = self.now()
        return GatewayStatus(
            ready=now - self._last_answer < limits.KAFKA_SILENCE_SECONDS_MAX,
            queued_bytes=self._queued_bytes,
            oldest_age_seconds=max((worker.age(now) for worker in self._workers.values()), default=0.0),
            above_high_water=self.congested,
        )

    # ---- what the partition workers call ----

    def heard(self) -> None:
        """Kafka has answered."""
        self._last_answer = self.now()

    def producer_slot(self, topic: str) -> "_ProducerSlot":
        """One producer per topic while there are few topics, so that a sick one holds up no other; then they share."""
        slot = self._producers.get(topic)
        if slot is None:
            slots = list(dict.fromkeys(self._producers.values()))
            few = len(slots) < limits.PRODUCERS_MAX
            slot = _ProducerSlot(self.settings) if few else slots[len(self._producers) % len(slots)]
            self._producers[topic] = slot
        return slot

    def drop_withdrawn(self) -> None:
        """Takes out what belongs to closed connections."""
        if not self._withdrawn:
            return
        for worker in self._workers.values():
            self._forget(worker.queue.remove(self._withdrawn))
        self._withdrawn.clear()

    def settle(self, entries: list[Entry], error: GatewayError | None) -> None:
        """Tells everyone who waits for one of these records."""
        settle_entries(entries, error, self.now())
        self._forget(entries)

    def _forget(self, entries: list[Entry]) -> None:
        self._queued_bytes -= sum([entry[6] for entry in entries])
        if self.congested and self._queued_bytes < self._low_bytes:
            self.congested = self.full = False
            self.on_relief()

    # ---- inside ----

    def _unsettled(self) -> int:
        return sum(worker.unsettled for worker in self._workers.values())

    def _worker(self, topic: str, partition: int) -> "_PartitionWorker":
        worker = self._workers.get((topic, partition))
        if worker is None:
            queue = PartitionQueue(self._directory.easy_bytes(topic))
            worker = _PartitionWorker(self, topic, partition, self.producer_slot(topic), queue)
            self._workers[topic, partition] = worker
        return worker

    async def _probe(self) -> None:
        """Asks the cluster whether it is there, and what has become of the topics."""
        while True:
            if await self._directory.refresh():
                self.heard()
            for worker in self._workers.values():
                worker.queue.easy_bytes = self._directory.easy_bytes(worker.topic)
            if self._directory.changed:
                self._directory.changed = False
                self.generation += 1
            await asyncio.sleep(limits.PROBE_SECONDS)

    async def _watch(self) -> None:
        """Enforces the delivery deadline and forgets what was withdrawn."""
        while True:
            await asyncio.sleep(limits.RETRY_SECONDS)
            self.drop_withdrawn()
            overdue = self.now() - self.settings.delivery_timeout_seconds
            for worker in self._workers.values():
                late = worker.take_overdue(overdue)
                if late:
                    self.metrics.overdue.inc(len(late))
                    refusal = Refusal.UNKNOWN_TOPIC if worker.topic_unknown else None
                    self.settle(late, GatewayError(f"not delivered to {worker.topic} in time", refusal))


class _PartitionWorker:
    """Sends the records of one partition: one batch in flight, while it flies the next one gathers."""

    def __init__(
        self,
        gateway: AioKafkaGateway,
        topic: str,
        partition: int,
        producers: "_ProducerSlot",
        queue: PartitionQueue,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.producers = producers
        self.queue = queue
        self._gateway = gateway
        self._in_flight: list[Entry] = []
        self._singly = 0
        self._resent = False
        self._untold = 0
        #: The last batch was not taken because the topic does not exist.
        self.topic_unknown = False
        self._wall_offset_ms = wall_ms() - gateway.now() * 1000
        self.task = asyncio.create_task(self._run(), name=f"{topic}-{partition}")

    @property
    def unsettled(self) -> int:
        return len(self.queue) + len(self._in_flight)

    def age(self, now: float) -> float:
        """Seconds that the oldest unsettled record has waited."""
        oldest = self._in_flight[0][5] if self._in_flight else self.queue.oldest
        return now - oldest if oldest is not None else 0.0

    def take_overdue(self, when: float) -> list[Entry]:
        """What was taken before `when`. A batch in flight cannot be called back: it keeps its slot, untold."""
        late: list[Entry] = []
        if self._in_flight and self._in_flight[0][5] < when:
            late = self._land()
            self._untold += len(late)
        return late + self.queue.take_older_than(when)

    async def _run(self) -> None:
        gateway = self._gateway
        while True:
            if not self.queue:
                await self._something_to_send()
            delay = gateway.pace.delay(gateway.now())
            if delay:
                await asyncio.sleep(delay)
            producer = await self.producers.get()
            try:
                await self._send_batch(producer)
            except Exception:
                # A bug, or a way to fail that is not known yet: the partition must live on, so the record at the head,
                # which may be the cause, goes too.
                log.exception("partition worker failed", extra={"topic": self.topic, "partition": self.partition})
                producer.retired = True
                gateway.settle(self._land() + self.queue.take_head(), GatewayError("internal error"))
                await asyncio.sleep(limits.RETRY_SECONDS)
            finally:
                self.producers.done_with(producer)

    async def _something_to_send(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            self.queue.wake = None
            waiter.set_result(None)

        self.queue.wake = wake
        await waiter

    async def _send_batch(self, producer: "_Producer") -> None:
        client = producer.client
        if not self._has_leader(client):
            await asyncio.sleep(limits.RETRY_SECONDS)
            return
        self._gateway.drop_withdrawn()
        builder = self._fill(client)
        if not self._in_flight:
            return
        try:
            future = await client.send_batch(builder, self.topic, partition=self.partition)
        except kafka_errors.TopicAuthorizationFailedError as error:
            self._gateway.settle(self._land(), GatewayError(str(error), Refusal.NOT_AUTHORIZED))
        except (kafka_errors.KafkaError, AssertionError, TypeError) as error:
            await self._offer_again(producer, error)
        else:
            await self._settle_batch(producer, future)

    def _has_leader(self, producer: AIOKafkaProducer) -> bool:
        """Without a leader aiokafka would ask for metadata without pause; unknown topics are left to `send_batch`."""
        cluster = producer.client.cluster
        partitions = cluster.partitions_for_topic(self.topic)
        if not partitions or self.partition not in partitions:
            return True
        if cluster.leader_for_partition(TopicPartition(self.topic, self.partition)) in {None, -1}:
            producer.client.force_metadata_update()
            return False
        return True

    def _fill(self, producer: AIOKafkaProducer) -> Any:
        builder = producer.create_batch()
        most = 1 if self._singly else limits.BATCH_RECORDS_MAX
        self.queue.move(self._in_flight, builder.append, self._wall_offset_ms, most)
        return builder

    async def _settle_batch(self, producer: "_Producer", future: "asyncio.Future[Any]") -> None:
        gateway = self._gateway
        try:
            await future
        except Exception as error:
            producer.retired = True
            self._batch_failed(error)
        else:
            gateway.heard()
            landed = self._land()
            gateway.metrics.batches.inc()
            gateway.metrics.records.inc(len(landed))
            gateway.metrics.late.inc(self._untold)
            self._resent = self.topic_unknown = False
            self._singly = max(0, self._singly - 1)
            gateway.settle(landed, None)
        self._untold = 0

    def _batch_failed(self, error: Exception) -> None:
        """aiokafka gives up a batch only for good; what it can retry it retries in place."""
        gateway = self._gateway
        landed = self._land()
        gateway.metrics.failed_batches.labels(type(error).__name__).inc()
        log.warning("batch failed", extra={"topic": self.topic, "partition": self.partition, "error": repr(error)})
        refusal = _REFUSED.get(type(error))
        if refusal is not None and len(landed) > 1:
            self._singly = len(landed)
            self.queue.put_back(landed)
        elif refusal is not None:
            gateway.settle(landed, GatewayError(f"{self.topic}: {error!r}", refusal))
            self._singly = max(0, self._singly - 1)
        elif isinstance(error, _DESYNCHRONISED) and not self._resent:
            self._resent = True
            self.queue.put_back(landed)
        else:
            gateway.settle(landed, GatewayError(f"{self.topic}: outcome unknown: {error!r}"))

    async def _offer_again(self, producer: "_Producer", error: Exception) -> None:
        """`send_batch` itself refused: nothing was handed over, so the records go back and are offered again."""
        self.queue.put_back(self._land())
        log.warning("batch not taken", extra={"topic": self.topic, "partition": self.partition, "error": repr(error)})
        self.topic_unknown = isinstance(error, kafka_errors.UnknownTopicOrPartitionError)
        if not isinstance(error, _NOT_TAKEN):
            producer.retired = True
        await asyncio.sleep(limits.RETRY_SECONDS)

    def _land(self) -> list[Entry]:
        landed, self._in_flight = self._in_flight, []
        return landed


class _Producer:
    """An aiokafka producer and how many partitions have a batch with it. Once retired it takes no more."""

    __slots__ = ("client", "retired", "users")

    def __init__(self, client: AIOKafkaProducer) -> None:
        self.client = client
        self.users = 0
        self.retired = False


class _ProducerSlot:
    """The producer of a topic, replaceable: after a failed batch its sequence numbers have a hole that nothing mends.

    A retired producer is stopped when its last batch has come down, so at most one per partition lingers.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._current: _Producer | None = None
        self._lock = asyncio.Lock()
        self._started_at = float("-inf")
        self._stopping: set[asyncio.Task[None]] = set()

    async def get(self) -> _Producer:
        """The producer to use for one batch; give it back with `done_with`."""
        async with self._lock:
            current = self._current
            while current is None or current.retired:
                await asyncio.sleep(max(0.0, self._started_at + limits.PRODUCER_REPLACE_SECONDS_MIN - monotonic()))
                self._started_at = monotonic()
                self._current = current = await self._start()
        current.users += 1
        return current

    def done_with(self, producer: _Producer) -> None:
        producer.users -= 1
        if producer.retired and not producer.users:
            task = asyncio.create_task(self._stop(producer))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def stop(self) -> None:
        """Stops what is left, bounded in time."""
        if self._current is not None and not self._current.retired:
            await self._stop(self._current)
        await asyncio.gather(*self._stopping)

    async def _start(self) -> _Producer | None:
        """None when the cluster does not answer: the caller tries again."""
        settings = self._settings
        client = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap_servers,
            client_id=settings.client_id,
            acks=settings.acks,
            enable_idempotence=settings.idempotence,
            linger_ms=0,  # with send_batch it only delays: nothing more is filled in
            max_batch_size=limits.BATCH_BYTES_MAX,
            request_timeout_ms=int(limits.KAFKA_REQUEST_SECONDS_MAX * 1000),
            retry_backoff_ms=100,
            metadata_max_age_ms=30_000,
            **settings.client,
        )
        # A batch that waits for a leader would fail after request_timeout_ms and leave a hole in the sequence; the
        # deadline is ours. The only private name used; a test asserts that it exists.
        client._message_accumulator._batch_ttl = float("inf")
        try:
            await client.start()
        except kafka_errors.KafkaError as error:
            log.warning("producer did not start", extra={"error": repr(error)})
            await self._stop(_Producer(client))
            return None
        return _Producer(client)

    async def _stop(self, producer: _Producer) -> None:
        """aiokafka's `stop` hangs while brokers do not answer."""
        try:
            await asyncio.wait_for(producer.client.stop(), limits.PRODUCER_STOP_SECONDS_MAX)
        except (TimeoutError, kafka_errors.KafkaError) as error:
            log.warning("producer did not stop cleanly", extra={"error": repr(error)})
