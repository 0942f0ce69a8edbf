"""One device: its CONNECT, its PUBLISH packets on their way into Kafka, and what it is told.

The hot path is `Client.on_publish` and `Client.settle`. What all devices of a replica share is its `Uplink`.
"""

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from proxy.clock import monotonic, wall_ms
from proxy.errors import AuthError, GatewayError, Refusal
from proxy.flows.attachment import Attachment, local_session
from proxy.flows.downlink import Downlink, Outbox
from proxy.flows.forwarding import UNMATCHED, Decision, Joint, is_as_announced, outcome, outlets, refuse
from proxy.flows.headers import user_properties
from proxy.flows.subscriptions import Subscriptions
from proxy.kafka.gateway import Headers, Recipient
from proxy.mqtt.packets import MQTT_5_0, Connect, Publish, ReasonCode, Subscribe, Unsubscribe
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.policy.acl import PUBLISH, Who
from proxy.policy.authenticators.base import Login
from proxy.policy.subscribers import Subscribed
from proxy.policy.templates import Scope
from proxy.session.events import Acknowledged, EndReason, Grant
from proxy.session.protocol import CLOSED, CONNECTED, CONNECTING

if TYPE_CHECKING:
    from proxy.flows.uplink import Uplink

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
_UNREMARKABLE: Final = frozenset(
    {EndReason.NORMAL, EndReason.TCP_CLOSED, EndReason.SERVER_SHUTTING_DOWN, EndReason.USE_ANOTHER_SERVER}
)
#: The device is told to come back at once: its will is not for that.
_COMES_BACK: Final = frozenset({EndReason.SERVER_SHUTTING_DOWN, EndReason.USE_ANOTHER_SERVER})


class Client:
    """One connection, and after CONNECT the device behind it."""

    __slots__ = (
        "_accepted", "_assigned", "_connect", "_exactly_once", "_joint", "_outbox", "_refusal", "_subscriptions",
        "_uplink", "address", "attachment", "client_id", "connection", "username",
    )  # fmt: skip

    def __init__(self, uplink: "Uplink", connection: MqttConnection) -> None:
        self._uplink = uplink
        #: Set once the device has authenticated.
        self._connect: Connect | None = None
        #: Its part in the session log, made at the same time; and whether that has let it in.
        self.attachment: Attachment | None = None
        self._accepted = False
        self._assigned: str | None = None
        #: Packet identifiers of QoS 2 messages that Kafka has not settled; made when there is one.
        self._exactly_once: set[int] | None = None
        #: Messages that became several records; made when there is one.
        self._joint: Joint | None = None
        #: What it has subscribed to, and the messages on their way to it; made when there are some.
        self._subscriptions: Subscriptions | None = None
        self._outbox: Outbox | None = None
        #: What `mqk_connects_total` calls our refusal.
        self._refusal = ""
        self.connection = connection
        #: What its CONNECT says, so nothing is certain of them before it is accepted.
        self.client_id = ""
        self.username: str | None = None
        self.address = ""

    # ---- CONNECT ----

    def on_connect(self, connect: Connect) -> None:
        uplink = self._uplink
        self.address = self.connection.address
        refusal = uplink.refusal(monotonic())
        if refusal is not None:
            self._refuse(*refusal)
            return
        if uplink.banned(connect.client_id, connect.username, self.address):
            self._refuse(ReasonCode.BANNED, "banned")
            return
        self._assigned = None if connect.client_id else f"mqk-{secrets.token_hex(10)}"
        self.client_id, self.username = self._assigned or connect.client_id, connect.username
        uplink.connecting.add(self)
        login = Login(connect.client_id, connect.username, connect.password, self.address, self.connection.peer_cert_cn)
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
            self._refuse(ReasonCode.SERVER_UNAVAILABLE, "this replica lets its devices go")
            return
        if not self._owns(connect):
            self._refuse(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "the client identifier belongs to another user")
            return
        self._connect = connect
        connection = self.connection
        local = local_session(
            self.client_id,
            connect,
            connection.address,
            connection.peer_cert_cn,
            uplink.settings.session_expiry_seconds_max,
        )
        self.attachment = Attachment(self, uplink.sessions, local)
        self.attachment.claim()

    def _owns(self, connect: Connect) -> bool:
        """`auth.bind_client_id`: whether no other user has a session under this identifier."""
        uplink = self._uplink
        if not uplink.settings.bind_client_id or not connect.client_id:
            return True
        view = uplink.sessions.view(connect.client_id)
        if view is None or (view.rel and (view.state is None or view.session_expires_ms <= wall_ms())):
            return True
        return view.about.username == connect.username

    def accept(self, session_present: bool, unreleased: list[int], *, hold: bool) -> None:
        """The session log has given this connection its place: CONNACK. One that is to `hold` takes no message until
        it is told to go on.
        """
        uplink, protocol, attachment = self._uplink, self.connection.protocol, self.attachment
        if protocol.state != CONNECTING or attachment is None:
            return
        if uplink.draining:
            self._refuse(ReasonCode.SERVER_UNAVAILABLE, "this replica lets its devices go")
            return
        if uplink.banned(self.client_id, self.username, self.address):
            # Since its CONNECT: who is connected is let go by the ban itself.
            self._refuse(ReasonCode.BANNED, "banned")
            return
        self._accepted = True
        uplink.connecting.discard(self)
        uplink.clients[self.client_id] = self
        if self.username is not None:
            uplink.usernames.add(self.username, self)
        if attachment.local.subscriptions:
            self._subscriptions_made().restore(attachment.local.subscriptions)
        uplink.metrics.connects.labels("accepted").inc()
        if hold:
            protocol.hold()
        grant = Grant(self._assigned, session_present, attachment.local.expiry_seconds, unreleased)
        self.connection.deliver(protocol.accept_connect(grant))

    def go_on(self) -> None:
        """Takes messages again."""
        self.connection.resume()

    def superseded(self) -> None:
        """One connection per client identifier [MQTT-3.1.4-3]; 3.1.1: [MQTT-3.1.4-2]."""
        self.disconnect(ReasonCode.SESSION_TAKEN_OVER, "another connection has this client identifier")

    def log_failed(self, detail: str) -> None:
        """What cannot be written into the session log cannot be promised to the device."""
        self.disconnect(ReasonCode.SERVER_BUSY, detail)

    def _refuse(self, reason_code: int, detail: str) -> None:
        self._refusal = ReasonCode(reason_code).name.lower()
        self.connection.protocol.refuse_connect(reason_code, detail)
        self.connection.flush()

    # ---- PUBLISH ----

    def on_publish(self, publish: Publish) -> None:
        uplink = self._uplink
        gateway = uplink.gateway
        decision = publish.topic.decision
        if publish.qos == 2 and self.attachment is not None and not self.attachment.receive_exactly_once(publish):
            return
        if not isinstance(decision, Decision) or decision.generation != gateway.generation:
            decision = self._decide(publish.topic)
        destination = decision.destination
        if destination is None or (publish.properties and not uplink.telling_properties.isdisjoint(publish.properties)):
            self._forward(publish, decision)
            return
        headers = decision.headers
        if publish.retain or publish.dup or uplink.with_message_headers:
            headers = headers + uplink.headers.of_message(publish)
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

    def _forward(self, publish: Publish, decision: Decision) -> None:
        """A message that takes more than a look-up: it goes nowhere, to several places, or where it says itself."""
        uplink = self._uplink
        if decision.denied:
            self._deny(publish)
            return
        if not decision.outlets:
            self._unmatched(publish, decision)
            return
        if not is_as_announced(publish):
            self._refuse_publish(publish, uplink.publishes.invalid, ReasonCode.PAYLOAD_FORMAT_INVALID)
            return
        if not publish.qos and any(outlet.gateway.full for outlet in decision.outlets):
            uplink.publishes.dropped[0] += 1
            return
        scope = self._scope(publish.topic.name)
        scope.qos, scope.retain, scope.ts = publish.qos, publish.retain, wall_ms()
        scope.user_properties = user_properties(publish.properties)
        headers = self._own_headers(publish)
        recipient, token = self._recipient(publish, len(decision.outlets))
        for outlet in decision.outlets:
            outlet.forward(scope, publish.payload, headers, decision.topic_headers, recipient, token)
            if outlet.gateway is not uplink.gateway and outlet.gateway.congested:
                self.connection.hold_for(outlet.gateway)

    def _deny(self, publish: Publish) -> None:
        """Access control says no. Who has no way of being told is acknowledged or closed [MQTT-3.3.5-2]."""
        uplink = self._uplink
        uplink.access.denied[PUBLISH] += 1
        told = publish.qos and self.connection.protocol.version == MQTT_5_0
        if told or not uplink.access.closes:
            self._refuse_publish(publish, uplink.publishes.denied, ReasonCode.NOT_AUTHORIZED)
        else:
            uplink.publishes.denied[publish.qos] += 1
            self.disconnect(ReasonCode.NOT_AUTHORIZED, "access control does not allow the topic")

    def _recipient(self, publish: Publish, records: int) -> tuple[Recipient, int]:
        """Who is told of a message that becomes so many records, and under which token."""
        uplink = self._uplink
        if publish.qos == 2:
            self._exactly_once = self._exactly_once or set()
            self._exactly_once.add(publish.packet_id)
        if records == 1:
            return (self, publish.packet_id) if publish.qos else (uplink, 0)
        if publish.qos:
            joint, token = self._joint or Joint(self), publish.packet_id
            self._joint = joint
        else:
            joint, token = uplink.joint, uplink.next_joint_token()
        joint.expect(token, records)
        return joint, token

    def _unmatched(self, publish: Publish, decision: Decision) -> None:
        """No rule takes it. What begins with `$` is refused in any case."""
        uplink = self._uplink
        unmatched = "reject" if publish.topic.name.startswith("$") else uplink.settings.unmatched
        if unmatched != "dead_letter":
            reason = ReasonCode.TOPIC_NAME_INVALID if unmatched == "reject" else ReasonCode.NO_MATCHING_SUBSCRIBERS
            self._refuse_publish(publish, uplink.publishes.unmatched, reason)
        elif not publish.qos and uplink.gateway.full:
            uplink.publishes.dropped[0] += 1
        else:
            headers = decision.topic_headers + self._own_headers(publish)
            recipient, token = self._recipient(publish, 1)
            key = publish.topic.raw
            refuse(uplink.gateway, UNMATCHED, "", "", key, publish.payload, headers, recipient, token)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """The outcome of QoS 1 and 2 messages, by packet identifier: PUBACK, PUBREC, or what is to be said instead."""
        uplink = self._uplink
        twos = self._count(outcome(uplink.publishes, error), tokens)
        try:
            if twos and self.attachment is not None and not self.attachment.settle_exactly_once(twos, error):
                tokens = [token for token in tokens if token not in twos]
            if self.connection.protocol.state == CLOSED or not tokens:
                return
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

    def acknowledge(self, packet_ids: list[int]) -> None:
        """QoS 2 messages whose outcome was known before are safe now."""
        self._acknowledge(packet_ids, ReasonCode.SUCCESS)

    def restore(self, packet_ids: list[int]) -> None:
        """Messages of an earlier connection are in Kafka: they wait for PUBREL."""
        self.connection.protocol.restore(packet_ids)

    def take(self, publish: Publish) -> None:
        """A QoS 2 message that had to wait may go on: for the log, or for the outcome of what it repeats."""
        self.on_publish(publish)

    @property
    def unreleased(self) -> list[int]:
        """QoS 2 packet identifiers that wait for PUBREL."""
        return self.connection.protocol.unreleased

    @property
    def unsettled_exactly_once(self) -> set[int]:
        """QoS 2 messages whose outcome in Kafka is not known."""
        return self._exactly_once or set()

    def _acknowledge(self, packet_ids: list[int], reason_code: int) -> None:
        protocol = self.connection.protocol
        # A packet behind this message may have ended the connection, and nothing follows a DISCONNECT [MQTT-3.14.4-1].
        if protocol.state != CLOSED:
            protocol.settle_publishes(packet_ids, reason_code)
            self.connection.flush_soon()

    def _count(self, counts: list[int], packet_ids: list[int]) -> set[int] | None:
        """Adds settled messages to an outcome, each under its QoS; returns those of QoS 2."""
        if not self._exactly_once:
            counts[1] += len(packet_ids)
            return None
        twos = self._exactly_once.intersection(packet_ids)
        self._exactly_once -= twos
        counts[2] += len(twos)
        counts[1] += len(packet_ids) - len(twos)
        return twos

    def _refuse_publish(self, publish: Publish, counts: list[int], reason_code: int) -> None:
        """Says what is known without asking Kafka."""
        counts[publish.qos] += 1
        if publish.qos:
            self._acknowledge([publish.packet_id], reason_code)

    def _decide(self, topic: TopicName) -> Decision:
        """Whether messages with this topic name are taken, and where they go; asked once per name and connection."""
        uplink, ways = self._uplink, []
        headers = uplink.headers.of_topic(topic.raw, self.client_id, self.username)
        allowed = uplink.access.allows_publish(topic.name, self._who)
        if allowed:
            routes = uplink.routes
            ways = outlets(routes.match(topic.name), uplink.gateways, routes.names, self._scope(topic.name), headers)
        decision = Decision(uplink.gateway, ways, headers, denied=not allowed)
        topic.decision = decision
        return decision

    def _scope(self, topic_name: str) -> Scope:
        return Scope(topic_name, self.client_id, self.username, self.address, self.connection.peer_cert_cn)

    @property
    def _who(self) -> Who:
        return Who(self.client_id, self.username, self.address)

    def _own_headers(self, publish: Publish) -> Headers:
        """The headers of this one message."""
        plan = self._uplink.headers
        headers = plan.of_message(publish)
        return headers + plan.of_properties(publish.properties) if publish.properties else headers

    # ---- SUBSCRIBE ----

    def on_subscribe(self, subscribe: Subscribe) -> None:
        if self.connection.protocol.state != CLOSED:
            self._subscriptions_made().subscribe(subscribe)

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        if self.connection.protocol.state != CLOSED:
            self._subscriptions_made().unsubscribe(unsubscribe)

    def may_subscribe(self, topic_filter: str) -> bool:
        """What access control says."""
        return self._uplink.access.allows_subscribe(topic_filter, self._who)

    def _subscriptions_made(self) -> Subscriptions:
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self, self._uplink.subscribers, self._uplink.access.denied)
        return self._subscriptions

    # ---- what comes down ----

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent to it."""
        return self.connection.protocol.state == CONNECTED

    @property
    def epoch(self) -> int:
        """Which connection of its client it is; -1 while nobody knows."""
        return self.attachment.local.epoch if self.attachment is not None else -1

    def matching(self, topic_name: str) -> list[Subscribed]:
        """Its subscriptions that take a topic name."""
        return self._subscriptions.matching(topic_name) if self._subscriptions is not None else []

    def outbox_of(self, downlink: Downlink) -> Outbox:
        """Where messages for it go; made with the first one."""
        if self._outbox is None:
            self._outbox = Outbox(downlink, self.client_id, self.connection)
        return self._outbox

    def on_acknowledged(self, acknowledged: Acknowledged) -> None:
        if self._outbox is not None:
            self._outbox.acknowledge(acknowledged.packet_id, acknowledged.reason_code)

    def on_room(self) -> None:
        if self._outbox is not None:
            self._outbox.room()

    def clean_acl(self) -> None:
        """Everything that access control has said about this client is asked again."""
        self.connection.protocol.forget_decisions()
        if self._subscriptions is not None and self.is_connected:
            self._subscriptions.check_again()

    # ---- everything else ----

    def on_heard(self) -> None:
        if self.attachment is not None:
            self.attachment.heard()

    def disconnect(self, reason_code: int, detail: str) -> None:
        """Ends the connection now."""
        self.connection.protocol.disconnect(reason_code, detail)
        self.connection.flush()

    def on_end(self) -> None:
        uplink, connect, protocol = self._uplink, self._connect, self.connection.protocol
        reason = protocol.end or EndReason.TCP_CLOSED
        uplink.connecting.discard(self)
        if self.attachment is None or connect is None:
            self._turned_away(reason)
            return
        expiry = protocol.session_expiry_seconds
        with_will = protocol.with_will and reason not in _COMES_BACK
        if reason != EndReason.NORMAL and not (self.attachment.local.expiry_seconds and self._exactly_once):
            # The device will send again what it was not told. After its own DISCONNECT it may not, and of what its
            # session remembers the outcome must become known: so that is kept.
            for gateway in uplink.gateways.values():
                gateway.withdraw(self)
                if self._joint is not None:
                    gateway.withdraw(self._joint)
        if expiry is not None:
            expiry = min(expiry, uplink.settings.session_expiry_seconds_max)
        self.attachment.end(reason.value, expiry, with_will=with_will)
        if not self._accepted:
            self._turned_away(reason)
            return
        uplink.metrics.disconnects.labels(reason.value).inc()
        if uplink.clients.get(self.client_id) is self:
            del uplink.clients[self.client_id]
        if self.username is not None:
            uplink.usernames.remove(self.username, self)
        self._end_downlink()
        if reason not in _UNREMARKABLE:
            said = {"clientid": self.client_id, "reason": reason.value, "detail": protocol.detail}
            log.info("disconnected", extra=said)

    def _end_downlink(self) -> None:
        if self._subscriptions is not None:
            self._subscriptions.close()
        if self._outbox is not None:
            self._outbox.close()

    def _turned_away(self, reason: EndReason) -> None:
        """The end of a connection that was never accepted. Who only looks whether the port is open is not counted."""
        if reason != EndReason.TCP_CLOSED:
            self._uplink.metrics.connects.labels(self._refusal or reason.value).inc()
            said = {"address": self.connection.address, "detail": self.connection.protocol.detail}
            log.info("connect refused", extra=said)
