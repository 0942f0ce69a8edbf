"""Where a record goes that Kafka can never store: the dead-letter topic, with what is known about why."""

from typing import Final, Protocol

from prometheus_client import Counter

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import Entry, md5_partition
from proxy.kafka.gateway import Destination, Headers, Partitioner, Recipient

#: Headers of a dead letter, behind those that the record had.
CAUSE: Final = "mqk.cause"
RULE: Final = "mqk.rule"
TOPIC: Final = "mqk.topic"
ERROR: Final = "mqk.error"
#: Only where the value was cut: how long it was.
VALUE_BYTES: Final = "mqk.value_bytes"


class _Gateway(Protocol):
    """What a dead letter needs of the gateway that writes it."""

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination: ...

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None: ...

    def fits(self, destination: Destination, value: bytes, headers: Headers) -> bool: ...


class DeadLetters:
    """The dead-letter topic of one cluster. Its records wait, are withdrawn and settled like all others."""

    def __init__(self, gateway: _Gateway, topic: str, counter: Counter) -> None:
        self.topic = topic
        self._gateway = gateway
        self._counter = counter

    def bury(
        self,
        key: bytes,
        value: bytes,
        headers: Headers,
        recipient: Recipient,
        token: int,
        *,
        cause: str,
        rule: str,
        topic: str,
        error: GatewayError | None = None,
    ) -> None:
        """Writes a record to the dead-letter topic. The recipient is settled without an error once Kafka has it, and
        with `error` (by default a refusal as UNKNOWN_TOPIC) when Kafka refuses this one too. `topic` is the Kafka topic
        that it was meant for.
        """
        error = error or GatewayError(f"{topic or 'no topic'}: {cause}", Refusal.UNKNOWN_TOPIC)
        destination = self._gateway.destination(self.topic, key, md5_partition, rule)
        destination.refusal = error
        destination.cause = cause
        said = str(error).encode()[: limits.DEAD_LETTER_ERROR_BYTES_MAX]
        headers = [*headers, (CAUSE, cause.encode()), (RULE, rule.encode()), (TOPIC, topic.encode()), (ERROR, said)]
        if not self._gateway.fits(destination, value, headers):
            headers.append((VALUE_BYTES, b"%d" % len(value)))
            value = value[: limits.DEAD_LETTER_VALUE_BYTES_MAX]
        self._gateway.enqueue(destination, value, headers, recipient, token)

    def count(self, stored: list[Entry]) -> None:
        """These are in the dead-letter topic. A rule may have sent others there."""
        for entry in stored:
            if entry[0].refusal is not None:
                self._counter.labels(entry[0].cause).inc()
