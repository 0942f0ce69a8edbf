"""Who is told what became of records, in tests, and ways to send some."""

from collections.abc import Iterable

from proxy.errors import GatewayError
from proxy.kafka.gateway import KafkaGateway


class Outcomes:
    """A `Recipient` that remembers. A token that is told twice is in `order` twice."""

    def __init__(self) -> None:
        #: Every token as often as it was told, in that order.
        self.order: list[int] = []
        self.errors: dict[int, GatewayError | None] = {}
        self.seconds: dict[int, float] = {}

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        self.order += tokens
        self.errors.update(dict.fromkeys(tokens, error))
        self.seconds.update(dict.fromkeys(tokens, seconds))

    @property
    def stored(self) -> list[int]:
        """The tokens of which it was told that Kafka has them."""
        return [token for token in self.order if self.errors[token] is None]


def send(gateway: KafkaGateway, topic: str, key: bytes, outcomes: Outcomes, tokens: Iterable[int]) -> None:
    """Enqueues a record for each token; the token is its value."""
    destination = gateway.destination(topic, key)
    for token in tokens:
        gateway.enqueue(destination, b"%d" % token, [], outcomes, token)
