"""What the product needs of Kafka to write a record. The real one is in `client`; tests have one in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy import limits
from proxy.errors import GatewayError

if TYPE_CHECKING:
    from proxy.kafka.batches import PartitionQueue
    from proxy.kafka.dead_letters import DeadLetters
    from proxy.kafka.internal import Topic

#: Which partition a key goes to, out of so many. Another number than one of those refuses the record.
Partitioner = Callable[[bytes, int], int]

#: A list because aiokafka takes nothing else.
Headers = list[tuple[str, bytes]]


class Recipient(Protocol):
    """Who is told what became of records. One call covers records that were enqueued one after the other."""

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """`tokens` are those of the records, in order; without an error Kafka has them, after so many seconds."""
        ...


class Destination:
    """Where the records of one key go. Made once by the gateway, used for each record."""

    __slots__ = (
        "bytes", "cause", "generation", "key", "partition", "partitioner", "queue", "refusal", "rule", "topic"
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        key: bytes,
        generation: int,
        queue: "PartitionQueue",
        rule: str = "",
        partitioner: Partitioner | None = None,
    ) -> None:
        self.topic = topic
        #: The gateway sets this and the queue anew when it learns where the topic is; below 0 while it has not.
        self.partition = partition
        self.key = key
        #: Which rule chose the topic; a dead letter names it.
        self.rule = rule
        self.partitioner = partitioner
        #: Of a dead letter: why it is one, which is told when it is refused too.
        self.refusal: GatewayError | None = None
        #: Of a dead letter: `refusal` in one word.
        self.cause = ""
        #: The gateway's when this was made; once that has moved on, ask for a new destination.
        self.generation = generation
        self.queue = queue
        #: What a record costs while it waits, beside its value. Headers are shared between records and not counted.
        self.bytes = len(key) + limits.RECORD_OVERHEAD_BYTES


@dataclass(slots=True)
class GatewayStatus:
    """`ready` is the gateway's. Bytes count the records and their bookkeeping. `fault`: the setting that keeps new
    connections out of the cluster, and why.
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
    #: Where records go that can never be stored; None: their recipients are told of the refusal.
    dead_letters: "DeadLetters | None"

    async def start(self, topics: Sequence[str], internal: Sequence["Topic"] = ()) -> None:
        """Returns once Kafka has answered and every topic is there. Raises ConfigError: a topic is missing, or an
        `internal` one is not as it must be.
        """
        ...

    async def add_topics(self, topics: Sequence[str]) -> None:
        """As `start` does, for topics that are written to from now on. Raises ConfigError: one is missing;
        GatewayError: Kafka does not answer.
        """
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 when it is not known."""
        ...

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination:
        """Where records with this key go; without a partitioner as MD5 says. Raises GatewayError: the topic has no such
        partition. Records for a topic that is not known wait until it is, and are refused when that takes too long.
        """
        ...

    def enqueue(
        self, destination: Destination, value: bytes | None, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        """Takes a record for delivery, in the order of the calls within a partition; without a value: a tombstone.
        `headers` may be shared: nobody changes it. The recipient may be told before this returns when the record can be
        refused at once.
        """
        ...

    def withdraw(self, recipient: Recipient) -> None:
        """Forgets the records of a recipient that sends no more, as far as they were not yet handed to the client
        library; nobody is told.
        """
        ...

    @property
    def ready(self) -> bool:
        """Kafka answered lately."""
        ...

    def status(self) -> GatewayStatus:
        """Looks at every partition in use."""
        ...

    async def flush(self, timeout_seconds: float) -> int:
        """Waits until everything is settled; the number of records that are not when the time is over."""
        ...

    async def stop(self) -> None: ...
