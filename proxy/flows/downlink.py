"""Messages on their way to devices: each device has a queue, takes as many as it wants, and is given its time.

What becomes of a message is reported once: `delivered` when the device has it (QoS 0: written to its socket, QoS 1:
PUBACK, QoS 2: PUBREC, from which on it is the device's), else why it has not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.cluster.commands import Command, Message
from proxy.errors import MessageTooLarge, SendWindowFull
from proxy.metrics import Metrics
from proxy.mqtt.packets import (
    MESSAGE_EXPIRY_INTERVAL,
    MQTT_5_0,
    SUBSCRIPTION_IDENTIFIER,
    USER_PROPERTY,
    Properties,
    Publish,
    ReasonCode,
)
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.policy.subscribers import Subscribed, qos_of
from proxy.session.protocol import CONNECTED

DELIVERED: Final = "delivered"
EXPIRED: Final = "expired"
NOT_SUBSCRIBED: Final = "not_subscribed"
TOO_LARGE: Final = "too_large"
QUEUE_FULL: Final = "queue_full"
TIMED_OUT: Final = "timed_out"
CONNECTION_LOST: Final = "connection_lost"
#: The device has answered with a reason code of 0x80 or above.
REFUSED: Final = "refused"
OUTCOMES: Final = (DELIVERED, EXPIRED, NOT_SUBSCRIBED, TOO_LARGE, QUEUE_FULL, TIMED_OUT, CONNECTION_LOST, REFUSED)

#: The user property that tells a 5.0 device which command a message belongs to.
COMMAND_ID: Final = "mqk-command-id"

Report = Callable[[str, str], None]


class Parcel:
    """What all deliveries of one command share."""

    __slots__ = ("bytes", "expires_at_ms", "holders", "message", "topic", "user_properties")

    def __init__(self, command: Command, message: Message, topic: TopicName) -> None:
        self.message = message
        self.topic = topic
        self.expires_at_ms = command.expires_at_ms
        self.user_properties = [*message.user_properties, (COMMAND_ID, command.id)]
        self.bytes = len(topic.raw) + len(message.payload) + limits.DOWNLINK_MESSAGE_OVERHEAD_BYTES
        #: Queues that it stands in.
        self.holders = 0


class Delivery:
    """One message for one device."""

    __slots__ = ("_report", "deadline", "identifiers", "parcel", "qos", "retain")

    def __init__(self, parcel: Parcel, subscriptions: Iterable[Subscribed], report: Report, deadline: float) -> None:
        subscriptions = list(subscriptions)
        self.parcel = parcel
        self.qos = min(parcel.message.qos, qos_of(subscriptions))
        # [MQTT-3.3.1-12, -13]
        self.retain = parcel.message.retain and any(each.retain_as_published for each in subscriptions)
        # [MQTT-3.3.4-3, -4]
        self.identifiers = [each.identifier for each in subscriptions if each.identifier is not None]
        self.deadline = deadline
        self._report = report

    def settle(self, client_id: str, outcome: str) -> None:
        self._report(client_id, outcome)

    def is_expired(self, now_ms: int) -> bool:
        return 0 < self.parcel.expires_at_ms <= now_ms

    def publish(self, version: int, now_ms: int) -> Publish:
        """The packet; before 5.0 it has no properties, and a message for a subscription is never retained there."""
        parcel = self.parcel
        if version < MQTT_5_0:
            return Publish(parcel.topic, parcel.message.payload, self.qos)
        properties: Properties = {USER_PROPERTY: list(parcel.user_properties)}
        if parcel.expires_at_ms:
            # What is left of it [MQTT-3.3.2-6], rounded up, as 0 would be no time at all.
            properties[MESSAGE_EXPIRY_INTERVAL] = min(-((now_ms - parcel.expires_at_ms) // 1000), 0xFFFFFFFF)
        if self.identifiers:
            properties[SUBSCRIPTION_IDENTIFIER] = list(self.identifiers)
        return Publish(parcel.topic, parcel.message.payload, self.qos, self.retain, properties=properties)


class Downlink:
    """What all devices of a replica share: how much may wait, who is written to next, and the time."""

    def __init__(
        self,
        ack_timeout_seconds: float,
        metrics: Metrics,
        now: Callable[[], float] = monotonic,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.ack_timeout_seconds = ack_timeout_seconds
        self.now = now
        self.now_ms = now_ms
        #: Messages that wait, and what that takes.
        self.queued = 0
        self.queued_bytes = 0
        #: Messages that a device has not acknowledged yet.
        self.in_flight = 0
        #: What devices do not read, as far as it lies here.
        self.unread_bytes = 0
        self._outcomes = {outcome: metrics.downlinks.labels(outcome) for outcome in OUTCOMES}
        self._ready: dict[Outbox, None] = {}
        #: Devices for which something waits or is in flight.
        self._busy: dict[Outbox, None] = {}
        self._turn_wanted = False
        self._timer: asyncio.TimerHandle | None = None

    def settle(self, client_id: str, delivery: Delivery, outcome: str) -> None:
        """Reports what has become of a message."""
        self._outcomes[outcome].inc()
        delivery.settle(client_id, outcome)

    def refuse(self, client_id: str, report: Report, outcome: str) -> None:
        """Reports what never came to a message."""
        self._outcomes[outcome].inc()
        report(client_id, outcome)

    @property
    def has_room(self) -> bool:
        return self.queued_bytes + self.unread_bytes < limits.DOWNLINK_QUEUE_BYTES_MAX

    def enqueued(self, outbox: "Outbox", parcel: Parcel) -> None:
        """One more message waits."""
        self.queued += 1
        self.queued_bytes += limits.DOWNLINK_MESSAGE_OVERHEAD_BYTES
        self.queued_bytes += 0 if parcel.holders else parcel.bytes
        parcel.holders += 1
        self._busy[outbox] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(limits.TICK_SECONDS, self._tick)
        self.wake(outbox)

    def dequeued(self, parcel: Parcel) -> None:
        """It waits no longer."""
        parcel.holders -= 1
        self.queued -= 1
        self.queued_bytes -= limits.DOWNLINK_MESSAGE_OVERHEAD_BYTES
        self.queued_bytes -= 0 if parcel.holders else parcel.bytes

    def wake(self, outbox: "Outbox") -> None:
        """Writes to this device in the next turn of the event loop, or in a later one: all in turn."""
        self._ready[outbox] = None
        self._want_turn()

    def tick(self) -> None:
        """Settles what has waited too long."""
        now, now_ms = self.now(), self.now_ms()
        for outbox in list(self._busy):
            outbox.expire(now, now_ms)
            if outbox.is_idle:
                self._busy.pop(outbox, None)

    def forget(self, outbox: "Outbox") -> None:
        """Its connection is over."""
        self._ready.pop(outbox, None)
        self._busy.pop(outbox, None)

    def _want_turn(self) -> None:
        if not self._turn_wanted:
            self._turn_wanted = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_wanted = False
        for outbox in list(islice(self._ready, limits.DOWNLINK_DEVICES_PER_TURN_MAX)):
            # The outcome of another's message may have ended its connection.
            if outbox in self._ready:
                del self._ready[outbox]
                outbox.send()
        if self._ready:
            self._want_turn()

    def _tick(self) -> None:
        self._timer = None
        self.tick()
        if self._busy:
            self._timer = asyncio.get_running_loop().call_later(limits.TICK_SECONDS, self._tick)


class Outbox:
    """The messages for one device, in the order in which they were given."""

    __slots__ = ("_client_id", "_connection", "_downlink", "_in_flight", "_queue", "_unread")

    def __init__(self, downlink: Downlink, client_id: str, connection: MqttConnection) -> None:
        self._downlink = downlink
        self._client_id = client_id
        self._connection = connection
        self._queue: deque[Delivery] = deque()
        #: By packet identifier.
        self._in_flight: dict[int, Delivery] = {}
        #: What of the last write was not read when there was no more to write to.
        self._unread = 0

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self._in_flight

    def put(self, delivery: Delivery) -> None:
        """One more message. Where too much waits already it is not taken."""
        downlink = self._downlink
        if len(self._queue) >= limits.DOWNLINK_QUEUE_MAX or not downlink.has_room:
            downlink.settle(self._client_id, delivery, QUEUE_FULL)
        else:
            self._queue.append(delivery)
            downlink.enqueued(self, delivery.parcel)

    def send(self) -> None:
        """Sends what the device takes now, with as few writes as its reading allows."""
        try:
            while self._queue and self._send_some():
                pass
        except Exception:
            self._connection.fail()

    def room(self) -> None:
        """The device takes more."""
        self._downlink.unread_bytes -= self._unread
        self._unread = 0
        if self._queue:
            self._downlink.wake(self)

    def acknowledge(self, packet_id: int, reason_code: int) -> None:
        """The device has a message, or refuses it."""
        delivery = self._in_flight.pop(packet_id, None)
        if delivery is not None:
            self._downlink.in_flight -= 1
            outcome = REFUSED if reason_code >= ReasonCode.UNSPECIFIED_ERROR else DELIVERED
            self._downlink.settle(self._client_id, delivery, outcome)
        if self._queue:
            self._downlink.wake(self)

    def expire(self, now: float, now_ms: int) -> None:
        """Settles what the device has had its time for. Its packet identifiers stay in use until it answers."""
        late = [packet_id for packet_id, each in self._in_flight.items() if each.deadline <= now]
        for packet_id in late:
            self._downlink.in_flight -= 1
            self._downlink.settle(self._client_id, self._in_flight.pop(packet_id), TIMED_OUT)
        waiting, self._queue = self._queue, deque()
        over: list[tuple[Delivery, str]] = []
        for each in waiting:
            if each.is_expired(now_ms):
                over.append((each, EXPIRED))
            elif each.deadline <= now:
                over.append((each, TIMED_OUT))
            else:
                self._queue.append(each)
        for each, outcome in over:
            self._downlink.dequeued(each.parcel)
            self._downlink.settle(self._client_id, each, outcome)

    def close(self) -> None:
        """The connection is over: nobody knows whether the device has what it did not acknowledge."""
        downlink = self._downlink
        downlink.forget(self)
        downlink.unread_bytes -= self._unread
        waiting, in_flight = list(self._queue), list(self._in_flight.values())
        self._unread = 0
        self._queue.clear()
        self._in_flight.clear()
        downlink.in_flight -= len(in_flight)
        for delivery in waiting:
            downlink.dequeued(delivery.parcel)
        for delivery in in_flight + waiting:
            downlink.settle(self._client_id, delivery, CONNECTION_LOST)

    def _send_some(self) -> bool:
        """Sends as much as one write may hold. False when the device takes no more for now."""
        connection, size = self._connection, 0
        written: list[Delivery] = []
        if not connection.writable or connection.protocol.state != CONNECTED:
            return False
        going_on = True
        for delivery in self._next():
            going_on = self._send(delivery, written)
            size += len(delivery.parcel.message.payload)
            if not going_on or size >= limits.WRITE_BUFFER_BYTES_MAX:
                break
        connection.flush()
        self._count_unread()
        outcome = DELIVERED if connection.protocol.state == CONNECTED else CONNECTION_LOST
        for delivery in written:
            self._downlink.settle(self._client_id, delivery, outcome)
        return going_on

    def _next(self) -> Iterator[Delivery]:
        while self._queue:
            yield self._queue[0]

    def _send(self, delivery: Delivery, written: list[Delivery]) -> bool:
        """The first of the queue. False when it has to wait."""
        downlink, protocol = self._downlink, self._connection.protocol
        now_ms = downlink.now_ms()
        if delivery.is_expired(now_ms):
            self._drop(delivery, EXPIRED)
            return True
        if delivery.qos and protocol.in_flight >= limits.DOWNLINK_IN_FLIGHT_MAX:
            return False
        if downlink.unread_bytes >= limits.DOWNLINK_QUEUE_BYTES_MAX:
            # So many devices read nothing that what is written to one more may stay here too.
            self._drop(delivery, QUEUE_FULL)
            return True
        try:
            packet_id = protocol.send_publish(delivery.publish(protocol.version, now_ms))
        except SendWindowFull:
            return False
        except MessageTooLarge:
            self._drop(delivery, TOO_LARGE)
            return True
        self._queue.popleft()
        downlink.dequeued(delivery.parcel)
        if packet_id is None:
            written.append(delivery)
        else:
            self._in_flight[packet_id] = delivery
            downlink.in_flight += 1
        return True

    def _drop(self, delivery: Delivery, outcome: str) -> None:
        self._queue.popleft()
        self._downlink.dequeued(delivery.parcel)
        self._downlink.settle(self._client_id, delivery, outcome)

    def _count_unread(self) -> None:
        connection = self._connection
        if not connection.writable and connection.protocol.state == CONNECTED:
            self._downlink.unread_bytes -= self._unread
            self._unread = connection.unread_bytes
            self._downlink.unread_bytes += self._unread
