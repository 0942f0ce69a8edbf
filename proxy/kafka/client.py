"""The gateway to a real Kafka cluster, over aiokafka's batch interface.

aiokafka alone can stop a partition for ever or stall all of them; this class closes those gaps: records wait in a FIFO
of ours until their batch is settled, one batch per partition is in flight, each topic has a producer that is replaced
after any failed batch, and the delivery deadline is ours. No other module touches aiokafka's producer.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.clock import wall_ms
from proxy.errors import ConfigError, GatewayError, Refusal
from proxy.kafka.batches import BatchPace, Entry, PartitionQueue, md5_partition, settle_entries
from proxy.kafka.gateway import Destination, GatewayStatus, Headers, Recipient
from proxy.kafka.producers import Producer, ProducerSlot
from proxy.kafka.topics import UNREACHABLE, TopicDirectory
from proxy.metrics import GatewayMetrics

log = logging.getLogger(__name__)

#: Kafka refused the batch, so nothing of it was written and never will be.
_REFUSED: Final = {
    kafka_errors.MessageSizeTooLargeError: Refusal.TOO_LARGE,
    kafka_errors.RecordListTooLargeError: Refusal.TOO_LARGE,
    kafka_errors.CorruptRecordException: Refusal.INVALID,
    kafka_errors.InvalidTimestampError: Refusal.INVALID,
    kafka_errors.PolicyViolationError: Refusal.INVALID,
    kafka_errors.UnsupportedForMessageFormatError: Refusal.INVALID,
    kafka_errors.TopicAuthorizationFailedError: Refusal.NOT_AUTHORIZED,
    kafka_errors.ClusterAuthorizationFailedError: Refusal.NOT_AUTHORIZED,
    kafka_errors.InvalidTopicError: Refusal.UNKNOWN_TOPIC,
}
#: Refusals that one record of a batch brings upon its neighbours: who it is is found one by one.
_ONE_TO_BLAME: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.CorruptRecordException,
    kafka_errors.InvalidTimestampError,
)
#: The producer lost its place in the sequence.
_OUT_OF_SEQUENCE: Final = (
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.InvalidProducerIdMapping,
)
#: Nothing of the batch was written, and it may go better through a new producer: tried once. The last is the answer on
#: a connection whose token the broker does not believe.
_ONCE_MORE: Final = (*_OUT_OF_SEQUENCE, kafka_errors.CorruptRecordException, kafka_errors.IllegalSaslStateError)
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
    #: As `security.client_options` makes them, and the name of the table that they were read from.
    client: dict[str, Any] = field(default_factory=dict)
    client_table: str = "kafka.client"
    compression: str | None = None


class AioKafkaGateway:
    """See `KafkaGateway`. Lives on one event loop; nothing of it may be called from another thread."""

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.generation = 0
        self.congested = False
        self.full = False
        self.pace = BatchPace(limits.FREE_BATCHES_PER_SECOND, limits.FREE_BATCHES_BURST, limits.BATCH_TICK_SECONDS)
        self.on_relief: Callable[[], object] = lambda: None
        self._queued_bytes = 0
        self._high_bytes = int(settings.queue_bytes_max * limits.HIGH_WATER)
        self._low_bytes = int(settings.queue_bytes_max * limits.LOW_WATER)
        #: The event loop's own clock: a look at it costs less than a system call, and it stands still within a turn.
        self.now = asyncio.get_running_loop().time
        #: What to add to `now`, in milliseconds, for the time of a record as Kafka counts it.
        self.wall_offset_ms = 0.0
        self.directory = TopicDirectory(
            settings.bootstrap_servers, settings.client_id, settings.client, settings.client_table
        )
        self._workers: dict[tuple[str, int], _PartitionWorker] = {}
        self._producers: dict[str, ProducerSlot] = {}
        self._withdrawn: set[Recipient] = set()
        self._last_answer = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._read_wall_clock()

    # ---- life ----

    async def start(self, topics: Sequence[str]) -> None:
        settings, directory = self.settings, self.directory
        while True:
            try:
                await directory.connect()
                await directory.ensure(
                    topics,
                    create=settings.create_topics,
                    partitions=settings.partitions,
                    replication_factor=settings.replication_factor,
                )
                directory.fault = None
                break
            except UNREACHABLE as error:
                await directory.close()
                fault = await directory.look_for_fault()
                if fault:
                    raise fault from error
                log.warning("kafka does not answer", extra={"error": repr(error), "fault": directory.fault})
                await asyncio.sleep(limits.RETRY_SECONDS)
            except ConfigError:
                await directory.close()
                raise
        self.heard()
        self.generation += 1
        self._tasks = [
            asyncio.create_task(self._every(limits.PROBE_SECONDS, self._probe)),
            asyncio.create_task(self._every(limits.RETRY_SECONDS, self._watch)),
        ]

    async def flush(self, timeout_seconds: float) -> int:
        self.drop_withdrawn()
        deadline = self.now() + timeout_seconds
        while self._unsettled() and self.now() < deadline:  # noqa: ASYNC110 - an event would cost each record something
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)
        if self._unsettled():
            log.warning("records left unsettled", extra={"records": self._unsettled()})
        return self._unsettled()

    async def stop(self) -> None:
        tasks = {*self._tasks, *(worker.task for worker in self._workers.values())}
        while tasks:
            # Again, because whatever waits with `asyncio.wait_for`, as aiokafka does, may overlook a cancellation that
            # comes together with an answer.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=limits.PRODUCER_STOP_SECONDS_MAX)
        await asyncio.gather(*(slot.stop() for slot in set(self._producers.values())), self.directory.close())

    # ---- what the product calls ----

    def destination(self, topic: str, key: bytes) -> Destination:
        count = self.directory.partitions(topic)
        partition = md5_partition(key, self.settings.md5_partitions or count)
        if partition >= count:
            raise GatewayError(f"topic {topic} has {count} partitions, no {partition}", Refusal.UNKNOWN_TOPIC)
        return Destination(topic, partition, key, self.generation, self._worker(topic, partition).queue)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises GatewayError: the topic is not known."""
        return self.directory.partitions(topic)

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        queue = destination.queue
        size = destination.bytes + len(value)
        if size > queue.easy_bytes and not self.directory.fits(destination, value, headers):
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
            fault=self.directory.fault,
        )

    # ---- what the partition workers call ----

    def heard(self) -> None:
        """Kafka has answered."""
        self._last_answer = self.now()

    def drop_withdrawn(self) -> None:
        """Takes out what belongs to closed connections."""
        if self._withdrawn:
            for worker in list(self._workers.values()):
                self.forget(worker.withdraw(self._withdrawn))
            self._withdrawn.clear()

    def settle(self, entries: list[Entry], error: GatewayError | None) -> None:
        """Tells everyone who waits for one of these records."""
        for bug in settle_entries(entries, error, self.now()):
            log.error("a recipient failed", exc_info=bug)
        self.forget(entries)

    def forget(self, entries: list[Entry]) -> None:
        """These no longer wait."""
        self._queued_bytes -= sum([entry[6] for entry in entries])
        if self.congested:
            self.full = self._queued_bytes > self.settings.queue_bytes_max
            if self._queued_bytes < self._low_bytes:
                self.congested = False
                self.on_relief()

    # ---- inside ----

    def _unsettled(self) -> int:
        return sum(worker.unsettled for worker in self._workers.values())

    def _worker(self, topic: str, partition: int) -> "_PartitionWorker":
        worker = self._workers.get((topic, partition))
        if worker is None:
            queue = PartitionQueue(self.directory.easy_bytes(topic))
            worker = _PartitionWorker(self, topic, partition, self._producer_slot(topic), queue)
            self._workers[topic, partition] = worker
        return worker

    def _producer_slot(self, topic: str) -> ProducerSlot:
        """One producer per topic while there are few topics, so that a sick one holds up no other; then they share."""
        slot = self._producers.get(topic)
        if slot is None:
            slots = list(dict.fromkeys(self._producers.values()))
            few = len(slots) < limits.PRODUCERS_MAX
            slot = ProducerSlot(self._make_producer) if few else slots[len(self._producers) % len(slots)]
            slot.topics.append(topic)
            self._producers[topic] = slot
        return slot

    def _make_producer(self, topics: Collection[str]) -> AIOKafkaProducer:
        settings = self.settings
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap_servers,
            client_id=settings.client_id,
            acks=settings.acks,
            enable_idempotence=settings.idempotence,
            linger_ms=0,  # with send_batch it only delays: nothing more is filled in
            max_batch_size=min(self.directory.batch_bytes(topic) for topic in topics),
            request_timeout_ms=int(limits.KAFKA_REQUEST_SECONDS_MAX * 1000),
            retry_backoff_ms=100,
            metadata_max_age_ms=30_000,
            compression_type=settings.compression,
            **settings.client,
        )
        # A batch that waits for a leader would fail after request_timeout_ms and leave a hole in the sequence; the
        # deadline is ours. Private, as what `producers` reaches into; a test asserts that all of it exists.
        producer._message_accumulator._batch_ttl = float("inf")
        return producer

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        """Takes a step again and again; a bug in one must not be the last of them."""
        while True:
            try:
                await step()
            except Exception:
                log.exception("gateway step failed", extra={"step": step.__name__})
            await asyncio.sleep(seconds)

    async def _probe(self) -> None:
        """Asks the cluster whether it is there, and what has become of the topics."""
        directory = self.directory
        if await directory.refresh():
            self.heard()
            # Connections that are open stay open when a password is changed or a certificate expires; new ones fail.
            if any(slot.shut_out for slot in self._producers.values()):
                await directory.look_for_fault()
            else:
                directory.fault = None
        for worker in self._workers.values():
            worker.queue.easy_bytes = directory.easy_bytes(worker.topic)
        if directory.changed:
            directory.changed = False
            self.generation += 1
            for worker in list(self._workers.values()):
                if worker.partition >= directory.partitions(worker.topic):
                    # The topic was made anew with fewer partitions. Sent again, these find the one of their key.
                    gone = GatewayError(f"topic {worker.topic} has no partition {worker.partition} any more")
                    self.settle(worker.take_overdue(math.inf), gone)

    async def _watch(self) -> None:
        """Enforces the delivery deadline and forgets what was withdrawn."""
        self._read_wall_clock()
        self.drop_withdrawn()
        overdue = self.now() - self.settings.delivery_timeout_seconds
        for worker in list(self._workers.values()):
            late = worker.take_overdue(overdue)
            if late:
                self.metrics.overdue.inc(len(late))
                refusal = Refusal.UNKNOWN_TOPIC if worker.topic in self.directory.missing else None
                self.settle(late, GatewayError(f"not delivered to {worker.topic} in time", refusal))

    def _read_wall_clock(self) -> None:
        """Again and again, because it may be set while the other one goes on."""
        self.wall_offset_ms = wall_ms() - self.now() * 1000


class _PartitionWorker:
    """Sends the records of one partition: one batch in flight, while it flies the next one gathers."""

    def __init__(
        self, gateway: AioKafkaGateway, topic: str, partition: int, producers: ProducerSlot, queue: PartitionQueue
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.queue = queue
        self._gateway = gateway
        self._producers = producers
        #: The records of the batch that is on its way, without those that have been told that it is late.
        self._in_flight: list[Entry] = []
        #: How many of that batch have been told.
        self._told_late = 0
        #: Whose connection has closed since that batch left.
        self._withdrawn: set[Recipient] = set()
        #: So many records go one by one, to find out which of them Kafka refuses.
        self._singly = 0
        #: The records at the head have been sent again after a producer had lost its place.
        self._resent = False
        self.task = asyncio.create_task(self._run(), name=f"{topic}-{partition}")

    @property
    def unsettled(self) -> int:
        return len(self.queue) + len(self._in_flight)

    def withdraw(self, recipients: set[Recipient]) -> list[Entry]:
        """Takes out what belongs to these recipients. What is on its way cannot be called back, but should it come back
        by itself it is not sent again.
        """
        self._withdrawn.update(entry[3] for entry in self._in_flight if entry[3] in recipients)
        return self.queue.remove(recipients)

    def age(self, now: float) -> float:
        """Seconds that the oldest unsettled record has waited."""
        oldest = self._in_flight[0][5] if self._in_flight else self.queue.oldest
        return now - oldest if oldest is not None else 0.0

    def take_overdue(self, when: float) -> list[Entry]:
        """What was taken before `when`. A batch in flight cannot be called back: it keeps its slot, and what it becomes
        is told to nobody.
        """
        late = [entry for entry in self._in_flight if entry[5] < when]
        del self._in_flight[: len(late)]
        self._told_late += len(late)
        return late + self.queue.take_older_than(when)

    async def _run(self) -> None:
        while True:
            if not self.queue:
                await self._something_to_send()
            try:
                await self._send_next()
            except Exception:
                # A bug, or a way to fail that is not known yet: the partition must live on, so the record at the head,
                # which may be the cause, goes too.
                log.exception("partition worker failed", extra={"topic": self.topic, "partition": self.partition})
                self._gateway.settle(self._land() + self.queue.take_head(), GatewayError("internal error"))
                await asyncio.sleep(limits.RETRY_SECONDS)

    async def _something_to_send(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            self.queue.wake = None
            if not waiter.done():  # It is when the gateway has stopped.
                waiter.set_result(None)

        self.queue.wake = wake
        await waiter

    async def _send_next(self) -> None:
        delay = self._gateway.pace.delay(self._gateway.now())
        if delay:
            await asyncio.sleep(delay)
        producer = await self._producers.get()
        try:
            await self._send_batch(producer)
        except Exception:
            producer.retired = True
            raise
        finally:
            self._producers.done_with(producer)

    async def _send_batch(self, producer: Producer) -> None:
        if not self._has_leader(producer):
            await asyncio.sleep(limits.RETRY_SECONDS)
            return
        self._gateway.drop_withdrawn()
        builder = self._fill(producer.client)
        if not self._in_flight:
            return
        try:
            future = await producer.client.send_batch(builder, self.topic, partition=self.partition)
        except kafka_errors.TopicAuthorizationFailedError as error:
            self._batch_failed(error)
        except (kafka_errors.KafkaError, AssertionError, TypeError) as error:
            await self._offer_again(producer, error)
        else:
            await self._settle_batch(producer, future)
        finally:
            self._told_late = 0
            self._withdrawn.clear()

    def _has_leader(self, producer: Producer) -> bool:
        """Without a leader aiokafka would ask for metadata without pause, and a partition that it has not heard of yet
        it would refuse. Topics that it does not know are left to `send_batch`, which asks for them.
        """
        cluster = producer.client.client.cluster
        if cluster.partitions_for_topic(self.topic) is None:
            return True
        if cluster.leader_for_partition(TopicPartition(self.topic, self.partition)) in {None, -1}:
            producer.client.client.force_metadata_update()
            return False
        return True

    def _fill(self, client: AIOKafkaProducer) -> Any:
        builder = client.create_batch()
        most = 1 if self._singly else limits.BATCH_RECORDS_MAX
        self.queue.move(self._in_flight, builder.append, self._gateway.wall_offset_ms, most)
        return builder

    async def _settle_batch(self, producer: Producer, future: "asyncio.Future[Any]") -> None:
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
            gateway.metrics.records.inc(len(landed) + self._told_late)
            gateway.metrics.late.inc(self._told_late)
            self._went_through()
            gateway.settle(landed, None)

    def _went_through(self) -> None:
        """The records at the head are settled, in whatever way."""
        self._resent = False
        self._singly = max(0, self._singly - 1)

    def _batch_failed(self, error: Exception) -> None:
        """aiokafka gives up a batch only for good; what it can retry it retries in place."""
        gateway = self._gateway
        gateway.metrics.failed_batches.labels(type(error).__name__).inc()
        # Out of sequence although the last batch went well: the cluster no longer has it.
        lossy = isinstance(error, _OUT_OF_SEQUENCE)
        log.error(
            "batch out of sequence: kafka may have lost acknowledged records" if lossy else "batch failed",
            extra={"topic": self.topic, "partition": self.partition, "error": repr(error)},
        )
        landed = self._land()
        refusal = _REFUSED.get(type(error))
        if isinstance(error, _ONCE_MORE) and not self._resent:
            self._resent = True
            self._put_back(landed)
        elif isinstance(error, _ONE_TO_BLAME) and len(landed) + self._told_late > 1:
            gateway.directory.forget_limits()
            self._singly = len(landed)
            self._put_back(landed)
        else:
            self._went_through()
            said = f"{self.topic}: {error!r}" if refusal else f"{self.topic}: outcome unknown: {error!r}"
            gateway.settle(landed, GatewayError(said, refusal))

    async def _offer_again(self, producer: Producer, error: Exception) -> None:
        """`send_batch` itself refused: nothing was handed over, so the records go back and are offered again."""
        self._put_back(self._land())
        log.warning("batch not taken", extra={"topic": self.topic, "partition": self.partition, "error": repr(error)})
        if not isinstance(error, _NOT_TAKEN):
            producer.retired = True
        await asyncio.sleep(limits.RETRY_SECONDS)

    def _put_back(self, landed: list[Entry]) -> None:
        """What was certainly not written is first in the queue again, unless it was withdrawn meanwhile."""
        if self._withdrawn:
            self._gateway.forget([entry for entry in landed if entry[3] in self._withdrawn])
            landed = [entry for entry in landed if entry[3] not in self._withdrawn]
        self.queue.put_back(landed)

    def _land(self) -> list[Entry]:
        landed, self._in_flight = self._in_flight, []
        return landed
