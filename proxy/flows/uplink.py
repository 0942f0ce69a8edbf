"""From a device's CONNECT to its PUBLISH in Kafka: who may come in, where a message goes, what the device is told.

`Uplink` is the replica's, `Client` is one connection's. The hot path is `Client.on_publish` and `Client.settle`.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.clock import monotonic
from proxy.errors import AuthError, GatewayError, Refusal
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.presence import Presence
from proxy.kafka.gateway import Destination, Headers, KafkaGateway
from proxy.metrics import Metrics, PublishCounter
from proxy.mqtt.packets import PAYLOAD_FORMAT_INDICATOR, Connect, Publish, ReasonCode, Subscribe, Unsubscribe, Will
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.policy.authenticators.base import Chain, Login
from proxy.policy.quotas import Rate
from proxy.policy.routes import RouteTable
from proxy.session.events import EndReason, Grant
from proxy.session.protocol import CLOSED, CONNECTING

log = logging.getLogger(__name__)

#: What 5.0 hears when Kafka can never store its message; 3.1.1 has no refusal and is acknowledged: a close would make
#: it send the same again for ever.
_REFUSALS: Final = {
    Refusal.TOO_LARGE: ReasonCode.QUOTA_EXCEEDED,
    Refusal.NOT_AUTHORIZED: ReasonCode.NOT_AUTHORIZED,
    Refusal.INVALID: ReasonCode.PAYLOAD_FORMAT_INVALID,
    Refusal.UNKNOWN_TOPIC: ReasonCode.TOPIC_NAME_INVALID,
}

#: How connections end every day; other ends are worth a line in the log.
_UNREMARKABLE: Final = frozenset({EndReason.NORMAL, EndReason.TCP_CLOSED, EndReason.SERVER_SHUTTING_DOWN})


class Decision:
    """What was decided for a topic name of one client. Without a destination the message goes nowhere."""

    __slots__ = ("destination", "generation", "headers", "reason_code")

    def __init__(self, generation: int, destination: Destination | None, headers: Headers, reason_code: int) -> None:
        self.generation = generation
        self.destination = destination
        #: Those that every message of this client under this name carries.
        self.headers = headers
        #: What the device is told when the message goes nowhere.
        self.reason_code = reason_code


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
        self.ack_seconds = metrics.ack_seconds
        #: Connected clients by client identifier.
        self.clients: dict[str, Client] = {}
        #: Set while the replica lets its devices go: nobody new comes in.
        self.draining = False
        self.connect_rate = Rate(settings.connects_per_second_max)
        #: Headers that differ from message to message and are wanted with every one.
        self.with_qos = "mqtt.qos" in settings.headers
        self.with_packet_id = "mqtt.packet_id" in settings.headers
        self.with_message_headers = self.with_qos or self.with_packet_id
        self._logins: set[asyncio.Task[None]] = set()

    def new_client(self, connection: MqttConnection) -> "Client":
        return Client(self, connection)

    def refusal(self, now: float) -> tuple[ReasonCode, str] | None:
        """Why nobody may come in at the moment, whoever it is."""
        if self.draining:
            return ReasonCode.SERVER_UNAVAILABLE, "shutting down"
        if not self.gateway.ready:
            return ReasonCode.SERVER_UNAVAILABLE, "kafka does not answer"
        if self.gateway.full:
            # Else devices that come and go would fill the queue with status records.
            return ReasonCode.SERVER_BUSY, "the queue for kafka is full"
        if not self.connect_rate.allows(now):
            return ReasonCode.CONNECTION_RATE_EXCEEDED, "limits.connects_per_second_max is reached"
        return None

    @property
    def logins_waiting(self) -> int:
        """Devices whose login is being checked."""
        return len(self._logins)

    def log_in(self, login: "asyncio.Task[None]") -> None:
        """Keeps the task of a login that has to wait: one at most for each connection."""
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """The outcome of messages that no device waits for, QoS 0 and wills: as a `Recipient` of the gateway."""
        _outcome(self.publishes, error)[0] += len(tokens)


class Client:
    """One connection, and after CONNECT the device behind it."""

    __slots__ = ("_connect", "_exactly_once", "_refusal", "_uplink", "address", "client_id", "connection")

    def __init__(self, uplink: Uplink, connection: MqttConnection) -> None:
        self._uplink = uplink
        #: Set once the device is accepted.
        self._connect: Connect | None = None
        #: Packet identifiers of QoS 2 messages that Kafka has not settled; made when there is one.
        self._exactly_once: set[int] | None = None
        #: What `mqk_connects_total` calls our refusal.
        self._refusal = ""
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
            # The device may have gone while its password was checked.
            if self.connection.protocol.state == CONNECTING:
                self._answer(connect, allowed)
        except AuthError as error:
            if self.connection.protocol.state == CONNECTING:
                self._refuse(error.reason, str(error))
        except Exception:
            self.connection.fail()

    def _answer(self, connect: Connect, allowed: bool) -> None:
        if not allowed:
            self._refuse(ReasonCode.BAD_USER_NAME_OR_PASSWORD, "bad user name or password")
            return
        uplink = self._uplink
        if uplink.draining:
            # Shutdown began while the password was checked, and has its list of those whom it lets go.
            self._refuse(ReasonCode.SERVER_UNAVAILABLE, "shutting down")
            return
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
        self._refusal = ReasonCode(reason_code).name.lower()
        self.connection.protocol.refuse_connect(reason_code, detail)
        self.connection.flush()

    # ---- PUBLISH ----

    def on_publish(self, publish: Publish) -> None:
        uplink = self._uplink
        gateway = uplink.gateway
        decision = publish.topic.decision
        if not isinstance(decision, Decision) or decision.generation != gateway.generation:
            decision = self._decide(publish.topic)
        destination = decision.destination
        if destination is None:
            self._refuse_publish(publish, uplink.publishes.unmatched, decision.reason_code)
            return
        if publish.properties and not _is_as_announced(publish):
            self._refuse_publish(publish, uplink.publishes.invalid, ReasonCode.PAYLOAD_FORMAT_INVALID)
            return
        headers = decision.headers
        if publish.retain or publish.dup or uplink.with_message_headers:
            headers = headers + self._message_headers(publish)
        if publish.qos == 1:
            gateway.enqueue(destination, publish.payload, headers, self, publish.packet_id)
        elif publish.qos == 2:
            self._exactly_once = self._exactly_once or set()
            self._exactly_once.add(publish.packet_id)
            gateway.enqueue(destination, publish.payload, headers, self, publish.packet_id)
        elif gateway.full:
            uplink.publishes.dropped[0] += 1
        else:
            gateway.enqueue(destination, publish.payload, headers, uplink, 0)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """The outcome of QoS 1 and 2 messages, by packet identifier: PUBACK, PUBREC, or what is to be said instead."""
        uplink = self._uplink
        self._count(_outcome(uplink.publishes, error), tokens)
        if self.connection.protocol.state == CLOSED:
            return
        try:
            if error is None:
                uplink.ack_seconds.observe(seconds, len(tokens))
                self.connection.protocol.settle_publishes(tokens, 0)
                self.connection.flush_soon()
            elif error.refusal is None:
                # Neither PUBACK nor refusal would be true, and 5.0 may not send again what was refused [MQTT-4.4.0-2].
                uplink.goodbyes.say(self, ReasonCode.SERVER_BUSY, str(error))
            else:
                log.debug("publish refused", extra={"clientid": self.client_id, "error": str(error)})
                self._acknowledge(tokens, _REFUSALS[error.refusal])
        except Exception:
            # Other devices of the same batch wait to be told too.
            self.connection.fail()

    def _acknowledge(self, packet_ids: list[int], reason_code: int) -> None:
        protocol = self.connection.protocol
        # A packet behind this message may have ended the connection, and nothing follows a DISCONNECT [MQTT-3.14.4-1].
        if protocol.state != CLOSED:
            protocol.settle_publishes(packet_ids, reason_code)
            self.connection.flush_soon()

    def _count(self, counts: list[int], packet_ids: list[int]) -> None:
        """Adds settled messages to an outcome, each under its QoS."""
        if not self._exactly_once:
            counts[1] += len(packet_ids)
            return
        twos = self._exactly_once.intersection(packet_ids)
        self._exactly_once -= twos
        counts[2] += len(twos)
        counts[1] += len(packet_ids) - len(twos)

    def _refuse_publish(self, publish: Publish, counts: list[int], reason_code: int) -> None:
        """Says what is known without asking Kafka."""
        counts[publish.qos] += 1
        if publish.qos:
            self._acknowledge([publish.packet_id], reason_code)

    def _decide(self, topic: TopicName) -> Decision:
        """Where messages with this topic name go; asked once per name and connection."""
        uplink = self._uplink
        gateway = uplink.gateway
        rule = uplink.routes.match(topic.name)
        destination = None
        refused = uplink.settings.reject_unmatched or topic.name.startswith("$")
        try:
            destination = gateway.destination(rule.topic, topic.raw) if rule is not None else None
        except GatewayError as error:
            refused = True
            log.warning("no destination", extra={"clientid": self.client_id, "topic": topic.name, "error": str(error)})
        reason = ReasonCode.TOPIC_NAME_INVALID if refused else ReasonCode.NO_MATCHING_SUBSCRIBERS
        decision = Decision(gateway.generation, destination, self._topic_headers(topic), reason)
        topic.decision = decision
        return decision

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
        protocol = self.connection.protocol
        if protocol.state != CLOSED:
            refused = [int(ReasonCode.NOT_AUTHORIZED)] * len(subscribe.subscriptions)
            protocol.acknowledge_subscribe(subscribe.packet_id, refused)

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        protocol = self.connection.protocol
        if protocol.state != CLOSED:
            nothing = [int(ReasonCode.NO_SUBSCRIPTION_EXISTED)] * len(unsubscribe.topic_filters)
            protocol.acknowledge_unsubscribe(unsubscribe.packet_id, nothing)

    def disconnect(self, reason_code: int, detail: str) -> None:
        """Ends the connection now."""
        self.connection.protocol.disconnect(reason_code, detail)
        self.connection.flush()

    def on_end(self) -> None:
        uplink, connect, protocol = self._uplink, self._connect, self.connection.protocol
        reason = protocol.end or EndReason.TCP_CLOSED
        if connect is None:
            self._turned_away(reason)
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
        if reason not in _UNREMARKABLE:
            said = {"clientid": self.client_id, "reason": reason.value, "detail": protocol.detail}
            log.info("disconnected", extra=said)

    def _turned_away(self, reason: EndReason) -> None:
        """The end of a connection that was never accepted. Who only looks whether the port is open is not counted."""
        if reason != EndReason.TCP_CLOSED:
            self._uplink.metrics.connects.labels(self._refusal or reason.value).inc()
            said = {"address": self.connection.address, "detail": self.connection.protocol.detail}
            log.info("connect refused", extra=said)

    def _publish_will(self, will: Will) -> None:
        self.on_publish(Publish(will.topic, will.payload, 0, will.retain, properties=will.properties))


def _is_as_announced(publish: Publish) -> bool:
    """Payload Format Indicator 1 promises UTF-8 (3.3.2.3.2)."""
    if publish.properties.get(PAYLOAD_FORMAT_INDICATOR) != 1:
        return True
    try:
        publish.payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _outcome(publishes: PublishCounter, error: GatewayError | None) -> list[int]:
    """What a settled message counts as, by its QoS."""
    if error is None:
        return publishes.stored
    return publishes.undelivered if error.refusal is None else publishes.refused
