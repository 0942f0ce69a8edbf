"""The sender of one partition: one batch in flight, and what becomes of it, whatever aiokafka says.

Which answer means what is written in the tables here; who waits for an answer is the gateway's business.
"""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import Entry, PartitionQueue
from proxy.kafka.gateway import Recipient
from proxy.kafka.producers import Producer, ProducerSlot

if TYPE_CHECKING:
    from proxy.kafka.client import AioKafkaGateway

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


class PartitionWorker:
    """Sends the records of one partition: one batch in flight, while it flies the next one gathers."""

    def __init__(
        self, gateway: "AioKafkaGateway", topic: str, partition: int, producers: ProducerSlot, queue: PartitionQueue
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
        #: When something was last sent.
        self.used_at = gateway.now()
        self.task = asyncio.create_task(self._run(), name=f"{topic}-{partition}")

    @property
    def unsettled(self) -> int:
        return len(self.queue) + len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do until there is a record."""
        return self.queue.wake is not None and not self.queue

    def retire(self) -> None:
        """Ends this worker while it is idle. Whoever still writes to its queue is sent on."""
        self.task.cancel()
        self.queue.wake = partial(self._gateway.place_anew, self.queue)

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
        self.used_at = self._gateway.now()
        if self.topic not in self._gateway.urgent:
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
            if gateway.dead_letters is not None and gateway.dead_letters.topic == self.topic:
                gateway.dead_letters.count(landed)
            self._went_through()
            gateway.settle(landed, None)

    def _went_through(self) -> None:
        """The records at the head are settled, in whatever way."""
        self._resent = False
        self._singly = max(0, self._singly - 1)

    def _batch_failed(self, error: Exception) -> None:
        """aiokafka gives up a batch only for good; what it can retry it retries in place."""
        gateway = self._gateway
        gateway.metrics.failed(type(error).__name__).inc()
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
