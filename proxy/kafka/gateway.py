"""What the product needs of Kafka to write a record. The real one is in `client`; tests have one in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy import limits
from proxy.errors import GatewayError

if TYPE_CHECKING:
    from proxy.kafka.batches import PartitionQueue

#: A list because aiokafka takes nothing else.
Headers = list[tuple[str, bytes]]


class Recipient(Protocol):
    """Who is told what became of records. One call covers records that were enqueued one after the other."""

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """`tokens` are those of the records, in order; without an error Kafka has them, after so many seconds."""
        ...


class Destination:
    """Where the records of one key go. Made once by the gateway, used for each record."""

    __slots__ = ("bytes", "generation", "key", "partition", "queue", "topic")

    def __init__(self, topic: str, partition: int, key: bytes, generation: int, queue: "PartitionQueue") -> None:
        self.topic = topic
        self.partition = partition
        self.key = key
        #: The gateway's when this was made; once that has moved on, ask for a new destination.
        self.generation = generation
        self.queue = queue
        #: What a record costs while it waits, beside its value. Headers are shared between records and not counted.
        self.bytes = len(key) + limits.RECORD_OVERHEAD_BYTES


@dataclass(slots=True)
class GatewayStatus:
    """`ready`: Kafka answered lately. Bytes count the records and their bookkeeping. `fault`: the setting that keeps
    new connections out of the cluster, and why.
    """

    ready: bool
    queued_bytes: int
    oldest_age_seconds: float
    above_high_water: bool
    fault: str | None = None


class KafkaGateway(Protocol):
    """One Kafka cluster, for writing."""

    #: Changes whenever an answer of `destination` may have changed.
    generation: int
    #: True while the queue is above its high-water mark: take no more.
    congested: bool
    #: True while it is above its hard mark: drop what nobody waits for.
    full: bool
    #: Called when the queue has fallen below its low-water mark after it was above the high one.
    on_relief: Callable[[], object]

    async def start(self, topics: Sequence[str]) -> None:
        """Returns once Kafka has answered and every topic is there. Raises ConfigError: a topic is missing."""
        ...

    def destination(self, topic: str, key: bytes) -> Destination:
        """Where records with this key go. Raises GatewayError: the topic or its partition does not exist."""
        ...

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        """Takes a record for delivery, in the order of the calls within a partition. `headers` may be shared: nobody
        changes it. The recipient may be told before this returns when the record can be refused at once.
        """
        ...

    def withdraw(self, recipient: Recipient) -> None:
        """Forgets the records of a recipient that sends no more, as far as they were not yet handed to the client
        library; nobody is told.
        """
        ...

    def status(self) -> GatewayStatus: ...

    async def flush(self, timeout_seconds: float) -> int:
        """Waits until everything is settled; the number of records that are not when the time is over."""
        ...

    async def stop(self) -> None: ...
