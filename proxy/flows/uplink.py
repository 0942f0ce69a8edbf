"""From a device's CONNECT to its PUBLISH in Kafka: who may come in, where a message goes, what the device is told.

`Uplink` is the replica's, `Client` is one connection's. The hot path is `Client.on_publish` and `Client.settle`.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.clock import monotonic
from proxy.errors import AuthError, GatewayError, Refusal
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.presence import Presence
from proxy.kafka.gateway import Headers, KafkaGateway, ProducerRecord
from proxy.metrics import Metrics
from proxy.mqtt.packets import MQTT_5_0, Connect, Publish, ReasonCode, Subscribe, Unsubscribe, Will
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.policy.authenticators.base import Chain, Login
from proxy.policy.quotas import Rate
from proxy.policy.routes import RouteTable
from proxy.session.events import EndReason, Grant
from proxy.session.protocol import CONNECTING

log = logging.getLogger(__name__)

#: What 5.0 hears when Kafka can never store its message; 3.1.1 has no refusal and is acknowledged: a close would make
#: it send the same again for ever.
_REFUSALS: Final = {
    Refusal.TOO_LARGE: ReasonCode.QUOTA_EXCEEDED,
    Refusal.NOT_AUTHORIZED: ReasonCode.NOT_AUTHORIZED,
    Refusal.INVALID: ReasonCode.PAYLOAD_FORMAT_INVALID,
    Refusal.UNKNOWN_TOPIC: ReasonCode.TOPIC_NAME_INVALID,
}


class Destination:
    """What was decided for a topic name of one client. Without a Kafka topic the message goes nowhere."""

    __slots__ = ("generation", "headers", "key", "partition", "reason_code", "topic")

    def __init__(self, generation: int, reason_code: int, topic: str, partition: int, key: bytes, headers: Headers):
        self.generation = generation
        #: What the device is told when the message goes nowhere.
        self.reason_code = reason_code
        self.topic = topic
        self.partition = partition
        self.key = key
        self.headers = headers


@dataclass(slots=True, frozen=True)
class UplinkSettings:
    """`headers` is `kafka.headers`; `reject_unmatched` comes from `routing.unmatched`."""

    node: str
    headers: Sequence[str]
    reject_unmatched: bool
    connects_per_second_max: int


class Uplink:
    """What all connections of a replica share."""

    def __init__(
        self,
        settings: UplinkSettings,
        gateway: KafkaGateway,
        routes: RouteTable,
        chain: Chain,
        presence: Presence,
        goodbyes: Goodbyes,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.gateway = gateway
        self.routes = routes
        self.chain = chain
        self.presence = presence
        self.goodbyes = goodbyes
        self.metrics = metrics
        self.publishes = metrics.publishes
        #: Connected clients by client identifier.
        self.clients: dict[str, Client] = {}
        #: Set while the replica lets its devices go: nobody new comes in.
        self.draining = False
        self.connect_rate = Rate(settings.connects_per_second_max)
        #: Headers that differ from message to message and are wanted with every one.
        self.with_qos = "mqtt.qos" in settings.headers
        self.with_packet_id = "mqtt.packet_id" in settings.headers
        self._logins: set[asyncio.Task[None]] = set()

    def new_client(self, connection: MqttConnection) -> "Client":
        return Client(self, connection)

    def refusal(self, now: float) -> tuple[ReasonCode, str] | None:
        """Why nobody may come in at the moment, whoever it is."""
        if self.draining:
            return ReasonCode.SERVER_UNAVAILABLE, "shutting down"
        if not self.gateway.status().ready:
            return ReasonCode.SERVER_UNAVAILABLE, "kafka does not answer"
        if not self.connect_rate.allows(now):
            return ReasonCode.CONNECTION_RATE_EXCEEDED, "limits.connects_per_second_max is reached"
        return None

    def log_in(self, login: "asyncio.Task[None]") -> None:
        """Keeps the task of a login that has to wait; the authenticator bounds how many there are."""
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)

    def settle_unawaited(self, token: object, error: GatewayError | None) -> None:
        """The outcome of a message that no device waits for: QoS 0, or a will."""
        if error is None:
            self.publishes.stored[0] += 1
        elif error.refusal is not None:
            self.publishes.refused[0] += 1
        else:
            self.publishes.undelivered[0] += 1


class Client:
    """One connection, and after CONNECT the device behind it."""

    __slots__ = ("_connect", "_uplink", "address", "client_id", "connection")

    def __init__(self, uplink: Uplink, connection: MqttConnection) -> None:
        self._uplink = uplink
        self._connect: Connect | None = None
        self.connection = connection
        self.client_id = ""
        self.address = ""

    # ---- CONNECT ----

    def on_connect(self, connect: Connect) -> None:
        uplink = self._uplink
        self.address = self.connection.address
        refusal = uplink.refusal(monotonic())
        if refusal is not None:
            self._refuse(*refusal)
            return
        login = Login(connect.client_id, connect.username, connect.password, self.address, None)
        allowed = uplink.chain.cached(login)
        if allowed is None:
            uplink.log_in(asyncio.create_task(self._authenticate(connect, login)))
        else:
            self._answer(connect, allowed)

    async def _authenticate(self, connect: Connect, login: Login) -> None:
        try:
            allowed = await self._uplink.chain.authenticate(login)
        except AuthError as error:
            if self.connection.protocol.state == CONNECTING:
                self._refuse(error.reason, str(error))
        else:
            # The device may have gone while its password was checked.
            if self.connection.protocol.state == CONNECTING:
                self._answer(connect, allowed)

    def _answer(self, connect: Connect, allowed: bool) -> None:
        if not allowed:
            self._refuse(ReasonCode.BAD_USER_NAME_OR_PASSWORD, "bad user name or password")
            return
        uplink = self._uplink
        assigned = None if connect.client_id else f"mqk-{secrets.token_hex(10)}"
        self.client_id = assigned or connect.client_id
        older = uplink.clients.get(self.client_id)
        if older is not None:
            # One connection per client identifier [MQTT-3.1.4-3]; 3.1.1: [MQTT-3.1.4-2].
            older.disconnect(ReasonCode.SESSION_TAKEN_OVER, "another connection has this client identifier")
        uplink.clients[self.client_id] = self
        self._connect = connect
        uplink.metrics.connects.labels("accepted").inc()
        uplink.presence.connected(self.client_id, self.address, connect)
        self.connection.deliver(self.connection.protocol.accept_connect(Grant(assigned)))

    def _refuse(self, reason_code: int, detail: str) -> None:
        self._uplink.metrics.connects.labels(ReasonCode(reason_code).name.lower()).inc()
        log.info("connect refused", extra={"address": self.address, "detail": detail})
        self.connection.protocol.refuse_connect(reason_code, detail)
        self.connection.flush()

    # ---- PUBLISH ----

    def on_publish(self, publish: Publish) -> None:
        uplink = self._uplink
        gateway = uplink.gateway
        destination = publish.topic.decision
        if not isinstance(destination, Destination) or destination.generation != gateway.generation:
            destination = self._decide(publish.topic)
        if not destination.topic:
            self._goes_nowhere(publish, destination)
            return
        headers = destination.headers
        if publish.retain or publish.dup or uplink.with_qos or uplink.with_packet_id:
            headers = headers + self._message_headers(publish)
        record = ProducerRecord(destination.topic, destination.partition, destination.key, publish.payload, headers)
        if publish.qos:
            gateway.enqueue(record, self.settle, self, publish.packet_id)
        elif gateway.full:
            uplink.publishes.dropped[0] += 1
        else:
            gateway.enqueue(record, uplink.settle_unawaited, None, None)

    def settle(self, token: object, error: GatewayError | None) -> None:
        """The outcome of a QoS 1 message: its PUBACK, or what the device has to know instead."""
        connection = self.connection
        if error is not None:
            self._settle_failed(token, error)
            return
        self._uplink.publishes.stored[1] += 1
        if not connection.protocol.close_expected:
            connection.protocol.settle_publish(token, 0)  # type: ignore[arg-type]
            connection.flush_soon()

    def _settle_failed(self, packet_id: Any, error: GatewayError) -> None:
        uplink, connection = self._uplink, self.connection
        counts = uplink.publishes.undelivered if error.refusal is None else uplink.publishes.refused
        counts[1] += 1
        if connection.protocol.close_expected:
            return
        if error.refusal is None:
            # Neither PUBACK nor refusal would be true, and 5.0 may not send again what was refused [MQTT-4.4.0-2].
            uplink.goodbyes.say(self, ReasonCode.SERVER_BUSY, str(error))
        else:
            log.debug("publish refused", extra={"clientid": self.client_id, "error": str(error)})
            self._acknowledge(packet_id, _REFUSALS[error.refusal])

    def _acknowledge(self, packet_id: int, reason_code: int) -> None:
        protocol = self.connection.protocol
        protocol.settle_publish(packet_id, reason_code if protocol.version == MQTT_5_0 else ReasonCode.SUCCESS)
        self.connection.flush_soon()

    def _goes_nowhere(self, publish: Publish, destination: Destination) -> None:
        self._uplink.publishes.unmatched[publish.qos] += 1
        if publish.qos:
            self._acknowledge(publish.packet_id, destination.reason_code)

    def _decide(self, topic: TopicName) -> Destination:
        """Where messages with this topic name go; asked once per name and connection."""
        uplink = self._uplink
        gateway = uplink.gateway
        rule = uplink.routes.match(topic.name)
        try:
            partition = gateway.partition(rule.topic, topic.raw) if rule is not None else 0
        except GatewayError as error:
            log.warning("no destination", extra={"clientid": self.client_id, "topic": topic.name, "error": str(error)})
            rule = None
        if rule is None:
            refused = uplink.settings.reject_unmatched or topic.name.startswith("$")
            reason = ReasonCode.TOPIC_NAME_INVALID if refused else ReasonCode.NO_MATCHING_SUBSCRIBERS
            destination = Destination(gateway.generation, reason, "", 0, b"", [])
        else:
            headers = self._topic_headers(topic)
            destination = Destination(gateway.generation, 0, rule.topic, partition, topic.raw, headers)
        topic.decision = destination
        return destination

    def _topic_headers(self, topic: TopicName) -> Headers:
        """The headers that every message of this device under this name carries."""
        settings = self._uplink.settings
        username = self._connect.username if self._connect is not None else None
        values = {
            "mqtt.topic": topic.raw,
            "mqtt.clientid": self.client_id.encode(),
            "mqtt.username": username.encode() if username is not None else None,
            "mqtt.node": settings.node.encode(),
        }
        return [(name, value) for name in settings.headers if (value := values.get(name)) is not None]

    def _message_headers(self, publish: Publish) -> Headers:
        """The headers of this one message: what says something, or was asked for."""
        uplink = self._uplink
        headers = []
        if publish.retain:
            headers.append(("mqtt.retain", b"1"))
        if publish.dup:
            headers.append(("mqtt.dup", b"1"))
        if uplink.with_qos:
            headers.append(("mqtt.qos", b"%d" % publish.qos))
        if publish.qos and (publish.dup or uplink.with_packet_id):
            headers.append(("mqtt.packet_id", b"%d" % publish.packet_id))
        return headers

    # ---- everything else ----

    def on_subscribe(self, subscribe: Subscribe) -> None:
        """Nothing comes down to devices yet, so nothing is granted."""
        refused = [int(ReasonCode.NOT_AUTHORIZED)] * len(subscribe.subscriptions)
        self.connection.protocol.acknowledge_subscribe(subscribe.packet_id, refused)

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        nothing = [int(ReasonCode.NO_SUBSCRIPTION_EXISTED)] * len(unsubscribe.topic_filters)
        self.connection.protocol.acknowledge_unsubscribe(unsubscribe.packet_id, nothing)

    def disconnect(self, reason_code: int, detail: str) -> None:
        """Ends the connection now."""
        self.connection.protocol.disconnect(reason_code, detail)
        self.connection.flush()

    def on_end(self) -> None:
        uplink, connect, protocol = self._uplink, self._connect, self.connection.protocol
        reason = protocol.end or EndReason.TCP_CLOSED
        if connect is None:
            return
        uplink.metrics.disconnects.labels(reason.value).inc()
        if uplink.clients.get(self.client_id) is self:
            del uplink.clients[self.client_id]
        if reason != EndReason.NORMAL:
            # The device will send again what it was not told. After its own DISCONNECT it may not, so what it had sent
            # by then is kept.
            uplink.gateway.withdraw(self)
        if protocol.with_will and connect.will is not None:
            self._publish_will(connect.will)
        uplink.presence.disconnected(self.client_id, connect.username, reason)

    def _publish_will(self, will: Will) -> None:
        self.on_publish(Publish(will.topic, will.payload, 0, will.retain))
