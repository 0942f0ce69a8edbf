"""What the product needs of Kafka to write a record. The real one is in `client`; tests have one in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import GatewayError

#: A list because aiokafka takes nothing else.
Headers = list[tuple[str, bytes]]
#: Called once for each record with the token it came with; None means that Kafka has it.
Settle = Callable[[object, GatewayError | None], None]


class ProducerRecord:
    """One record and where it goes. `headers` may be shared between records: nobody changes it."""

    __slots__ = ("headers", "key", "partition", "topic", "value")

    def __init__(self, topic: str, partition: int, key: bytes, value: bytes, headers: Headers) -> None:
        self.topic = topic
        self.partition = partition
        self.key = key
        self.value = value
        self.headers = headers


@dataclass(slots=True)
class GatewayStatus:
    """`ready`: Kafka answered lately. Bytes count the records and their bookkeeping."""

    ready: bool
    queued_bytes: int
    oldest_age_seconds: float
    above_high_water: bool


class KafkaGateway(Protocol):
    """One Kafka cluster, for writing."""

    #: Changes whenever an answer of `partition` may have changed.
    generation: int
    #: True while the queue is above its high-water mark: take no more.
    congested: bool
    #: True while it is above its hard mark: drop what nobody waits for.
    full: bool

    async def start(self, topics: Sequence[str]) -> None:
        """Returns once Kafka has answered and every topic is there. Raises ConfigError: a topic is missing."""
        ...

    def partition(self, topic: str, key: bytes) -> int:
        """The partition of a key. Raises GatewayError: the topic is not known."""
        ...

    def enqueue(self, record: ProducerRecord, settle: Settle, owner: object | None, token: object) -> None:
        """Takes a record for delivery, in the order of the calls within a partition. `settle` may be called before this
        returns when the record can be refused at once.
        """
        ...

    def withdraw(self, owner: object) -> None:
        """Forgets the records of this owner that were not yet handed to the client library; nobody is told."""
        ...

    def status(self) -> GatewayStatus: ...

    async def flush(self, timeout_seconds: float) -> int:
        """Waits until everything is settled; the number of records that are not when the time is over."""
        ...

    async def stop(self) -> None: ...
