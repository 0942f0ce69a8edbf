"""A message on its way along rules that need more than a look-up: templates, envelopes, several targets, dead letters.

What one static target takes as it is never comes here; see `Client.on_publish`.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.gateway import Destination, Headers, KafkaGateway, Recipient
from proxy.metrics import PublishCounter
from proxy.mqtt.packets import PAYLOAD_FORMAT_INDICATOR, Publish
from proxy.policy.kafka_topics import KafkaTopics, Objection
from proxy.policy.routes import Rule, Target
from proxy.policy.templates import Scope

log = logging.getLogger(__name__)

#: What a dead letter of `routing.unmatched` says.
UNMATCHED: Final = Objection("unmatched", Refusal.UNKNOWN_TOPIC, "no rule takes the topic")


class Outlet:
    """One target of a rule, for one topic name of one client: what is known of the record before its message."""

    __slots__ = (
        "_captures", "_headers", "_key", "_names", "_objection", "_target", "_topic", "destination", "gateway", "rule"
    )  # fmt: skip

    def __init__(
        self, rule: Rule, target: Target, gateway: KafkaGateway, names: KafkaTopics, scope: Scope, headers: Headers
    ) -> None:
        self.rule = rule
        self.gateway = gateway
        self._target = target
        self._names = names
        self._captures = scope.captures = rule.captures(scope.topic)
        #: What follows is None where each message has its own.
        self._topic = None if target.topic.per_message else target.topic.render(scope)
        self._key = None if rule.key is not None and rule.key.per_message else _key(rule, scope)
        per_message = any(template.per_message for _, template in rule.headers)
        self._headers = None if per_message else headers + _rule_headers(rule, scope)
        self._objection = self._object_to_topic(self._topic) if self._topic is not None else None
        #: Where its records go when all of them go to one place.
        self.destination: Destination | None = None
        self._settle_destination(scope)

    def _settle_destination(self, scope: Scope) -> None:
        fixed = self._topic is not None and self._key is not None and self.rule.partition_by_key
        if not fixed or self._objection is not None or self._topic is None or self._key is None:
            return
        self._objection = _object_to_headers(self._headers or [])
        if self._objection is not None:
            return
        try:
            self.destination = self._ask(self._topic, self._key)
        except GatewayError as error:
            # Each message asks again and is refused, until the topic has grown.
            said = {"clientid": scope.client_id, "topic": scope.topic, "error": str(error)}
            log.warning("no destination", extra=said)

    @property
    def plain_headers(self) -> Headers | None:
        """The headers of every record when payloads go to the one destination as they are; else None."""
        rule = self.rule
        plain = self.destination is not None and rule.envelope is None and not rule.payload_bytes_max
        return self._headers if plain else None

    def forward(
        self, message: Scope, payload: bytes, own_headers: Headers, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        """`own_headers` are those of this one message, `headers` those of its topic name."""
        rule = self.rule
        message.captures = self._captures
        topic = self._topic if self._topic is not None else self._target.topic.render(message)
        key = self._key if self._key is not None else _key(rule, message)
        if self._headers is None:
            own_headers = _rule_headers(rule, message) + own_headers
        headers = (headers if self._headers is None else self._headers) + own_headers
        objection = self._object(topic, payload, headers)
        value = payload if rule.envelope is None or objection is not None else rule.envelope(message, payload)
        place = self._place(topic, key, own_headers) if objection is None else objection
        if isinstance(place, Objection):
            refuse(self.gateway, place, rule.name, topic, key, payload, headers, recipient, token)
        else:
            self.gateway.enqueue(place, value, headers, recipient, token)

    def _object(self, topic: str, payload: bytes, headers: Headers) -> Objection | None:
        rule = self.rule
        objection = self._object_to_topic(topic) if self._topic is None else self._objection
        if objection is None and 0 < rule.payload_bytes_max < len(payload):
            said = f"payload of {len(payload)} bytes, {rule.name} takes {rule.payload_bytes_max}"
            return Objection("payload_bytes_max", Refusal.TOO_LARGE, said)
        return objection or _object_to_headers(headers)

    def _object_to_topic(self, topic: str) -> Objection | None:
        """What the operator wrote out was checked when the rules were loaded."""
        return None if self._target.topic.constant is not None else self._names.objection_to_made(topic)

    def _place(self, topic: str, key: bytes, own_headers: Headers) -> Destination | Objection:
        """Headers of one message are not shared, so they count as bytes of its record."""
        destination = self.destination
        if destination is None or destination.generation != self.gateway.generation or own_headers:
            try:
                destination = self._ask(topic, key)
            except GatewayError as error:
                refusal = error.refusal or Refusal.UNKNOWN_TOPIC
                return Objection(refusal.value, refusal, str(error))
            destination.bytes += _bytes(own_headers) + limits.HEADER_OVERHEAD_BYTES * len(own_headers)
        return destination

    def _ask(self, topic: str, key: bytes) -> Destination:
        return self.gateway.destination(topic, key, self.rule.partitioner, self.rule.name)


class Decision:
    """What was decided for a topic name of one client. Without outlets the message goes nowhere."""

    __slots__ = ("denied", "destination", "generation", "headers", "outlets", "topic_headers")

    def __init__(
        self, gateway: KafkaGateway, ways: list[Outlet], topic_headers: Headers, *, denied: bool = False
    ) -> None:
        self.generation = gateway.generation
        #: Access control does not let the client publish under this name.
        self.denied = denied
        self.outlets = ways
        #: Those that every message of this client under this name carries, whatever rule takes it.
        self.topic_headers = topic_headers
        #: Set when every message goes there as it is, to the default cluster, and all that it needs is known here.
        self.destination: Destination | None = None
        self.headers: Headers = []
        if len(ways) == 1 and ways[0].gateway is gateway and ways[0].plain_headers is not None:
            self.destination, self.headers = ways[0].destination, ways[0].plain_headers


def outlets(
    rules: Sequence[Rule], gateways: Mapping[str, KafkaGateway], names: KafkaTopics, scope: Scope, headers: Headers
) -> list[Outlet]:
    """Every target of every rule that takes a topic name."""
    return [
        Outlet(rule, target, gateways[target.cluster], names, scope, headers)
        for rule in rules
        for target in rule.targets
    ]


def refuse(
    gateway: KafkaGateway,
    objection: Objection,
    rule: str,
    topic: str,
    key: bytes,
    payload: bytes,
    headers: Headers,
    recipient: Recipient,
    token: int,
) -> None:
    """Into the dead-letter topic with its cause; where there is none the device hears of it."""
    error = GatewayError(objection.detail, objection.refusal)
    if gateway.dead_letters is None:
        recipient.settle([token], error, 0.0)
        return
    headers = headers if _object_to_headers(headers) is None else _as_many_as_fit(headers)
    topic = topic[: limits.KAFKA_TOPIC_CHARACTERS_MAX]
    gateway.dead_letters.bury(
        key, payload, headers, recipient, token, cause=objection.cause, rule=rule, topic=topic, error=error
    )


_HEADERS_TOO_LARGE: Final = Objection(
    "headers_too_large",
    Refusal.TOO_LARGE,
    f"more than {limits.HEADERS_PER_RECORD_MAX} headers or {limits.HEADER_BYTES_MAX} bytes of them",
)


def _object_to_headers(headers: Headers) -> Objection | None:
    fits = len(headers) <= limits.HEADERS_PER_RECORD_MAX and _bytes(headers) <= limits.HEADER_BYTES_MAX
    return None if fits else _HEADERS_TOO_LARGE


def _as_many_as_fit(headers: Headers) -> Headers:
    """The first ones, which are those that say where the message came from."""
    sizes = accumulate(len(name) + len(value) for name, value in headers[: limits.HEADERS_PER_RECORD_MAX])
    return headers[: sum(size <= limits.HEADER_BYTES_MAX for size in sizes)]


def _key(rule: Rule, scope: Scope) -> bytes:
    return (rule.key.render(scope) if rule.key is not None else scope.topic).encode()


def _rule_headers(rule: Rule, scope: Scope) -> Headers:
    """A header whose variables have no value says nothing and is left out."""
    rendered = ((name, template.render(scope)) for name, template in rule.headers)
    return [(name, text.encode()) for name, text in rendered if text]


def _bytes(headers: Headers) -> int:
    return sum([len(name) + len(value) for name, value in headers])


class _Waiting:
    __slots__ = ("error", "records")

    def __init__(self, records: int) -> None:
        self.records = records
        self.error: GatewayError | None = None


class Joint:
    """Tells a recipient of a message once, when all the records that were made of it are settled."""

    __slots__ = ("_recipient", "_waiting")

    def __init__(self, recipient: Recipient) -> None:
        self._recipient = recipient
        #: By token; as many at most as the recipient has messages that are not settled.
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, token: int, records: int) -> None:
        """So many records will be settled under this token."""
        self._waiting[token] = _Waiting(records)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient`. What counts is the last one's time and the gravest error: an outcome that nobody knows
        before a refusal before success.
        """
        stored: list[int] = []
        for token in tokens:
            waiting = self._waiting[token]
            waiting.records -= 1
            if error is not None and (waiting.error is None or waiting.error.refusal is not None):
                waiting.error = error
            if waiting.records:
                continue
            del self._waiting[token]
            if waiting.error is None:
                stored.append(token)
            else:
                self._recipient.settle([token], waiting.error, seconds)
        if stored:
            self._recipient.settle(stored, None, seconds)


def is_as_announced(publish: Publish) -> bool:
    """Payload Format Indicator 1 promises UTF-8 (3.3.2.3.2)."""
    if publish.properties.get(PAYLOAD_FORMAT_INDICATOR) != 1:
        return True
    try:
        publish.payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def outcome(publishes: PublishCounter, error: GatewayError | None) -> list[int]:
    """What a settled message counts as, by its QoS."""
    if error is None:
        return publishes.stored
    return publishes.undelivered if error.refusal is None else publishes.refused
