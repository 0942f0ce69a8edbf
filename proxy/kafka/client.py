"""The gateway to a real Kafka cluster, over aiokafka's batch interface.

aiokafka alone can stop a partition for ever or stall all of them; this class closes those gaps: records wait in a FIFO
of ours until their batch is settled, one batch per partition is in flight, each topic has a producer that is replaced
after any failed batch, and the delivery deadline is ours. No other module touches aiokafka's producer.
"""

import asyncio
import logging
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer

from proxy import limits
from proxy.clock import wall_ms
from proxy.errors import ConfigError, GatewayError, Refusal
from proxy.kafka.batches import BatchPace, Entry, PartitionQueue, md5_partition, settle_entries
from proxy.kafka.dead_letters import DeadLetters
from proxy.kafka.gateway import Destination, GatewayStatus, Headers, Partitioner, Recipient
from proxy.kafka.internal import Topic
from proxy.kafka.partitions import PartitionWorker
from proxy.kafka.producers import ProducerSlot
from proxy.kafka.topics import UNREACHABLE, TopicDirectory
from proxy.kafka.unknown import UnknownTopics
from proxy.metrics import GatewayMetrics

log = logging.getLogger(__name__)


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
    #: Created at start with the others; None: no dead letters.
    dead_letter_topic: str | None = None
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
        #: Topics whose batches do not wait for the pace: their writers gather records themselves.
        self.urgent: frozenset[str] = frozenset()
        self.on_relief: Callable[[], object] = lambda: None
        topic = settings.dead_letter_topic
        self.dead_letters = DeadLetters(self, topic, metrics.dead_letters) if topic else None
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
        self._workers: dict[tuple[str, int], PartitionWorker] = {}
        self._producers: dict[str, ProducerSlot] = {}
        self._withdrawn: set[Recipient] = set()
        #: Records for topics that are not known come here first, and are handed on one by one.
        self._unplaced = PartitionQueue(sys.maxsize)
        self._unplaced.wake = partial(self.place_anew, self._unplaced)
        self._unknown = UnknownTopics(int(settings.queue_bytes_max * limits.UNKNOWN_TOPICS_SHARE))
        self._start_topics: frozenset[str] = frozenset()
        #: Topics that no setting names, and when each was last written to.
        self._learned: dict[str, float] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._last_answer = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._read_wall_clock()

    # ---- life ----

    async def start(self, topics: Sequence[str], internal: Sequence[Topic] = ()) -> None:
        settings, directory = self.settings, self.directory
        if not self._tasks:
            # The deadline holds for what waits for the start too.
            self._tasks = [asyncio.create_task(self._every(limits.RETRY_SECONDS, self._watch))]
        topics = [*topics, settings.dead_letter_topic] if settings.dead_letter_topic else topics
        self._start_topics = frozenset((*topics, *(topic.name for topic in internal)))
        while True:
            try:
                await directory.connect()
                await directory.ensure(
                    topics,
                    create=settings.create_topics,
                    partitions=settings.partitions,
                    replication_factor=settings.replication_factor,
                    internal=internal,
                )
                directory.fault = None
                break
            except UNREACHABLE as error:
                await directory.close()
                fault = await directory.look_for_fault()
                if fault:
                    raise fault from error
                log.warning("kafka does not answer", extra=directory.trouble(error))
                await asyncio.sleep(limits.RETRY_SECONDS)
            except ConfigError:
                await directory.close()
                raise
        self.heard()
        self.generation += 1
        self._tasks += [
            asyncio.create_task(self._every(limits.PROBE_SECONDS, self._probe)),
            asyncio.create_task(self._every(limits.RETRY_SECONDS, self._learn)),
        ]

    async def add_topics(self, topics: Sequence[str]) -> None:
        settings = self.settings
        try:
            async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                await self.directory.ensure(
                    topics,
                    create=settings.create_topics,
                    partitions=settings.partitions,
                    replication_factor=settings.replication_factor,
                )
        except UNREACHABLE as error:
            raise GatewayError(f"kafka does not answer: {error!r}") from error
        self._start_topics |= set(topics)
        for topic in topics:
            self._learned.pop(topic, None)
        self.generation += 1

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
        slots = set(self._producers.values())
        await asyncio.gather(*(slot.stop() for slot in slots), *self._leaving, self.directory.close())

    # ---- what the product calls ----

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination:
        destination = Destination(topic, -1, key, self.generation, self._unplaced, rule, partitioner)
        self._place(destination)
        return destination

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 when it is not known."""
        return self.directory.partitions(topic)

    def enqueue(
        self, destination: Destination, value: bytes | None, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        queue = destination.queue
        size = destination.bytes + len(value or b"")
        if size > queue.easy_bytes and not self.directory.fits(destination, value or b"", headers):
            self._refuse(destination, value, headers, recipient, token, _too_large(destination, value or b""))
            return
        queue.entries.append((destination, value, headers, recipient, token, self.now(), size))
        self._queued_bytes += size
        if queue.wake is not None:
            queue.wake()
        if self._queued_bytes > self._high_bytes:
            self.congested = True
            self.full = self._queued_bytes > self.settings.queue_bytes_max

    def fits(self, destination: Destination, value: bytes, headers: Headers) -> bool:
        """Whether the topic takes this record, as far as is known."""
        return self.directory.fits(destination, value, headers)

    def withdraw(self, recipient: Recipient) -> None:
        """Recipients are collected and their records taken out together, at the next look at the queues: at the latest
        before a batch is filled.
        """
        if self._queued_bytes:
            self._withdrawn.add(recipient)

    @property
    def ready(self) -> bool:
        return self.now() - self._last_answer < limits.KAFKA_SILENCE_SECONDS_MAX

    def status(self) -> GatewayStatus:
        now = self.now()
        ages = [worker.age(now) for worker in self._workers.values()]
        return GatewayStatus(
            ready=self.ready,
            queued_bytes=self._queued_bytes,
            oldest_age_seconds=max([now - (self._unknown.oldest or now), *ages]),
            above_high_water=self.congested,
            fault=self.directory.fault,
        )

    @property
    def unknown_topics(self) -> int:
        """Topics for which records wait although Kafka does not have them, or has not said so."""
        return len(self._unknown)

    @property
    def learned_topics(self) -> int:
        """Topics in use that no setting names."""
        return len(self._learned)

    # ---- what the partition workers call ----

    def heard(self) -> None:
        """Kafka has answered."""
        self._last_answer = self.now()

    def drop_withdrawn(self) -> None:
        """Takes out what belongs to closed connections."""
        if self._withdrawn:
            for worker in list(self._workers.values()):
                self.forget(worker.withdraw(self._withdrawn))
            self.forget(self._unknown.withdraw(self._withdrawn))
            self._withdrawn.clear()

    def settle(self, entries: list[Entry], error: GatewayError | None) -> None:
        """Tells everyone who waits for one of these records; what can never be stored becomes a dead letter."""
        if error is not None and error.refusal is not None and self.dead_letters is not None:
            for destination, value, headers, recipient, token, _, _ in entries:
                self._refuse(destination, value, headers, recipient, token, error)
        else:
            self._tell(entries, error)
        self.forget(entries)

    def forget(self, entries: list[Entry]) -> None:
        """These no longer wait."""
        self._queued_bytes -= sum([entry[6] for entry in entries])
        if self.congested:
            self.full = self._queued_bytes > self.settings.queue_bytes_max
            if self._queued_bytes < self._low_bytes:
                self.congested = False
                self.on_relief()

    def place_anew(self, queue: PartitionQueue) -> None:
        """Hands on what came to this queue although nobody sends from it: the topic is not known, or was let go."""
        entries, queue.entries = queue.entries, deque()
        for entry in entries:
            entry[0].partition, entry[0].queue = -1, self._unplaced
            self._place_entry(entry)

    # ---- inside ----

    def _unsettled(self) -> int:
        return sum(worker.unsettled for worker in self._workers.values()) + self._unknown.records

    def _tell(self, entries: list[Entry], error: GatewayError | None) -> None:
        for bug in settle_entries(entries, error, self.now()):
            log.error("a recipient failed", exc_info=bug)

    def _refuse(
        self,
        destination: Destination,
        value: bytes | None,
        headers: Headers,
        recipient: Recipient,
        token: int,
        error: GatewayError,
    ) -> None:
        """Makes a dead letter of a record that a rule sent. When that is refused too, its recipient is told why it was
        one. What the proxy itself writes is nobody's letter.
        """
        routed = bool(destination.rule) and destination.refusal is None
        if self.dead_letters is not None and value is not None and routed:
            self.dead_letters.bury(
                destination.key, value, headers, recipient, token,
                cause=str(error.refusal), rule=destination.rule, topic=destination.topic, error=error,
            )  # fmt: skip
            return
        if destination.refusal is not None:
            log.error("dead letter refused", extra={"topic": destination.topic, "error": str(error)})
        told = destination.refusal or error
        self._tell([(destination, value, headers, recipient, token, self.now(), 0)], told)

    def _place(self, destination: Destination) -> None:
        """Gives a destination its partition and queue if its topic is known. Raises GatewayError: no such partition."""
        topic, key, partitioner = destination.topic, destination.key, destination.partitioner
        count = self.directory.partitions(topic)
        if not count or topic in self._unknown:
            return
        if partitioner is None:
            partition = md5_partition(key, self.settings.md5_partitions or count)
        else:
            partition = partitioner(key, count)
        if not 0 <= partition < count:
            raise GatewayError(f"topic {topic} has {count} partitions, no {partition}", Refusal.UNKNOWN_TOPIC)
        destination.partition = partition
        destination.queue = self._worker(topic, partition).queue

    def _place_entry(self, entry: Entry) -> None:
        destination, value, headers, *_, size = entry
        try:
            self._place(destination)
            if destination.partition < 0:
                self._unknown.add(entry)
                return
            if size > destination.queue.easy_bytes and not self.directory.fits(destination, value or b"", headers):
                raise _too_large(destination, value or b"")
        except GatewayError as error:
            self.settle([entry], error)
            return
        destination.queue.entries.append(entry)
        if destination.queue.wake is not None:
            destination.queue.wake()

    def _worker(self, topic: str, partition: int) -> "PartitionWorker":
        worker = self._workers.get((topic, partition))
        if worker is None:
            queue = PartitionQueue(self.directory.easy_bytes(topic))
            worker = PartitionWorker(self, topic, partition, self._producer_slot(topic), queue)
            self._workers[topic, partition] = worker
        return worker

    def _producer_slot(self, topic: str) -> ProducerSlot:
        """One producer per topic while there are few topics, so that a sick one holds up no other; then they share."""
        slot = self._producers.get(topic)
        if slot is None:
            slots = list(dict.fromkeys(self._producers.values()))
            few = len(slots) < limits.PRODUCERS_MAX
            slot = ProducerSlot(self._make_producer) if few else slots[len(self._producers) % len(slots)]
            if any(self.directory.batch_bytes(topic) < self.directory.batch_bytes(other) for other in slot.topics):
                slot.renew()
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
        self._let_go_idle()

    async def _learn(self) -> None:
        """Asks Kafka for the topics that records wait for."""
        await self._unknown.wanted.wait()
        names = self._unknown.names
        there = await self.directory.learn(names)
        if there is None:
            return
        self._unknown.deny(set(names) - there, "does not exist, or may not be seen")
        for topic in sorted(there):
            if self._make_room_for(topic):
                for entry in self._unknown.release(topic):
                    self._place_entry(entry)
            else:
                self.directory.forget(topic)
                self._unknown.deny([topic], f"is one more than the {limits.LEARNED_TOPICS_MAX} that can be in use")

    def _make_room_for(self, topic: str) -> bool:
        """Counts a topic among the learned ones, if there is room or one of them has nothing to do."""
        if topic not in self._start_topics and topic not in self._learned:
            if len(self._learned) >= limits.LEARNED_TOPICS_MAX:
                self._let_go(self._idle_topics()[:1])
            if len(self._learned) >= limits.LEARNED_TOPICS_MAX:
                return False
            self._learned[topic] = self.now()
        return True

    def _idle_topics(self) -> list[str]:
        """Learned topics that nothing waits for, that which was not written to for longest first."""
        busy = set()
        for worker in self._workers.values():
            if worker.topic in self._learned:
                self._learned[worker.topic] = max(self._learned[worker.topic], worker.used_at)
                if not worker.idle:
                    busy.add(worker.topic)
        return sorted(self._learned.keys() - busy, key=self._learned.__getitem__)

    def _let_go_idle(self) -> None:
        since = self.now() - limits.LEARNED_TOPIC_IDLE_SECONDS
        self._let_go([topic for topic in self._idle_topics() if self._learned[topic] < since])

    def _let_go(self, topics: list[str]) -> None:
        """Ends what serves these topics. Who still has a destination there is served: it is learned again."""
        for place, worker in list(self._workers.items()):
            if worker.topic in topics:
                worker.retire()
                del self._workers[place]
        for topic in topics:
            slot = self._producers.pop(topic, None)
            if slot is not None and slot.leave(topic):
                task = asyncio.create_task(slot.stop())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
            del self._learned[topic]
            self.directory.forget(topic)

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
        for error, late in self._unknown.take_overdue(overdue):
            self.metrics.overdue.inc(len(late))
            self.settle(late, error)

    def _read_wall_clock(self) -> None:
        """Again and again, because it may be set while the other one goes on."""
        self.wall_offset_ms = wall_ms() - self.now() * 1000


def _too_large(destination: Destination, value: bytes) -> GatewayError:
    return GatewayError(f"record of {len(value)} bytes for {destination.topic}", Refusal.TOO_LARGE)
