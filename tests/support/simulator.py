"""A seeded simulation of one replica: devices on a bad network, a Kafka that is slow, refuses and fails, and the rules.

The product's own listener, connections, sessions and uplink run on a virtual clock; everything around them obeys one
random number generator. After every turn of the event loop the rules of `World.check` must hold, and with each packet
that the server writes those of `Talk.on_write`. Devices are well-behaved, so no connection may end for their fault.

The devices share no code with `proxy/mqtt`.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from loadtest.codec import split_packets
from proxy import limits
from proxy.errors import GatewayError, Refusal, SessionError
from proxy.flows.client import Client
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.presence import Presence
from proxy.flows.sessions import Sessions
from proxy.flows.uplink import Uplink, UplinkSettings
from proxy.flows.wills import Wills
from proxy.kafka.batches import Entry, PartitionQueue, settle_entries
from proxy.kafka.gateway import Destination, Headers, Partitioner, Recipient
from proxy.kafka.records import CLAIM
from proxy.metrics import Metrics
from proxy.mqtt.packets import Publish
from proxy.mqtt.topics import TopicName
from proxy.net.listener import Listener
from proxy.policy.authenticators.base import Chain
from proxy.policy.rules import RoutingContext, compile_routes, preset_specs
from proxy.session.events import EndReason, SessionLimits
from proxy.session.protocol import CONNECTED
from tests.support.device import CONNACK, PUBACK, PUBLISH, packet, text
from tests.support.memory_gateway import MemoryGateway
from tests.support.session_log import SessionLog
from tests.support.virtual import READ_BYTES_MAX, Link, VirtualLoop

PUBREC, PUBREL, PUBCOMP = 0x50, 0x62, 0x70
RECEIVE_MAXIMUM = 4
TOPIC_ALIAS_MAXIMUM = 2
KEEP_ALIVE_SECONDS = 4
PAYLOAD_BYTES_MAX = 1_200
#: Of one PUBLISH, with topic and properties.
PACKET_BYTES_MAX = PAYLOAD_BYTES_MAX + 64
#: A few dozen records, so that back-pressure is met often.
QUEUE_BYTES_MAX = 24_000
#: What a held connection may keep: its budget, the packet and the read with which it is passed, part of a packet.
HELD_BYTES_MAX = limits.HELD_BYTES_MAX + limits.HELD_PACKET_OVERHEAD_BYTES + READ_BYTES_MAX + 2 * PACKET_BYTES_MAX
DEVICES = 4
#: How long devices publish and things go wrong; then everything works, and all that is open must be settled.
TROUBLE_SECONDS = 4.0
RECOVERY_SECONDS = 60.0
#: What the session log takes to come to rest, and what a session outlives its connection at the most.
LOG_SECONDS = 5.0
EXPIRY_SECONDS_MAX = 1_000
#: No rule takes a name that begins otherwise than with `tlink/`.
ROUTED, UNROUTED = ("tlink/a/up", "tlink/b/ota", "tlink/c/sub/login", "tlink/d/up", "tlink/e/up"), "elsewhere"
#: How a connection with a well-behaved device may end.
INNOCENT = {EndReason.NORMAL, EndReason.TCP_CLOSED, EndReason.TAKEN_OVER, EndReason.KAFKA_UNAVAILABLE}
SERVER_BUSY, NO_MATCHING_SUBSCRIBERS, FAILURE = 0x89, 0x10, 0x80


class Violation(AssertionError):
    """A rule was broken."""


@dataclass(eq=False)
class Message:
    """One application message and what became of it. Its payload is like no other's."""

    packet_id: int
    qos: int
    topic: str
    payload: bytes
    alias: int = 0
    repeats: int = 0
    #: Records that the proxy made of it, and what Kafka said to them.
    produced: int = 0
    stored: int = 0
    refused: int = 0
    failed: int = 0
    #: PUBACK or PUBREC, as the server wrote them; the reason code of the latest.
    told: int = 0
    reason: int = 0
    #: PUBRECs beyond the first are due for repeated PUBLISH packets only.
    repeats_told: int = 0
    #: PUBREL packets, and their PUBCOMP.
    released: int = 0
    completed: int = 0


class SimulatedGateway(MemoryGateway):
    """Kafka with a batch in flight for each partition: they end in any order, and not all of them well."""

    def __init__(self, world: "World", topics: dict[str, int]) -> None:
        super().__init__(topics, queue_bytes_max=QUEUE_BYTES_MAX)
        self._world = world
        self._chance = world.chance
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._in_flight: set[tuple[str, int]] = set()

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination:
        found = super().destination(topic, key, partitioner, rule)
        found.queue = self._queues.setdefault((topic, found.partition), PartitionQueue(easy_bytes=0))
        return found

    def enqueue(
        self, destination: Destination, value: bytes, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        self._world.produced(value)
        size = destination.bytes + len(value)
        destination.queue.entries.append((destination, value, headers, recipient, token, self._loop.time(), size))
        self._count(size)
        self._start_batch((destination.topic, destination.partition))

    def withdraw(self, recipient: Recipient) -> None:
        for queue in self._queues.values():
            self._count(-sum(entry[6] for entry in queue.remove({recipient})))

    def _start_batch(self, partition: tuple[str, int]) -> None:
        queue = self._queues[partition]
        if partition in self._in_flight or not queue:
            return
        self._in_flight.add(partition)
        count = self._chance.randint(1, len(queue))
        batch = [queue.entries.popleft() for _ in range(count)]
        error = self._fate()
        seconds = 0.5 * self._chance.random() ** 2 if self._world.trouble else 0.01
        if self._world.trouble and self._chance.random() < 0.1:
            seconds += 2.0
        self._loop.call_later(seconds, self._end_batch, partition, batch, error)

    def _fate(self) -> GatewayError | None:
        luck = self._chance.random()
        if not self._world.trouble or luck < 0.9:
            return None
        if luck < 0.96:
            refusal = self._chance.choice(list(Refusal))
            return GatewayError(f"refused: {refusal}", refusal)
        return GatewayError("nobody knows")

    def _end_batch(self, partition: tuple[str, int], batch: list[Entry], error: GatewayError | None) -> None:
        self._in_flight.discard(partition)
        # Kafka may have what it failed to acknowledge.
        stored = error is None or (error.refusal is None and self._chance.random() < 0.5)
        for entry in batch:
            if stored:
                self._store(entry)
            self._world.settled(entry[1], stored, error)
        self.bugs += settle_entries(batch, error, self._loop.time())
        self._count(-sum(entry[6] for entry in batch))
        self._start_batch(partition)


class SimulatedLog(SessionLog):
    """A session log that takes its time to append a record and to show it; now and then nobody knows if it did."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.hold()
        self._world = world
        self._sending: deque[tuple[bytes, bytes | None, Headers, Recipient, int]] = deque()
        #: Connections whose CLAIM has been read back.
        self.claimed: set[int] = set()

    def enqueue(
        self, destination: bytes, value: bytes | None, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        self._sending.append((destination, value, headers, recipient, token))
        if len(self._sending) == 1:
            self._world.later(0.05, self._arrive)

    def _arrive(self) -> None:
        chance, loop = self._world.chance, self._world.loop
        key, value, headers, recipient, token = self._sending.popleft()
        error = GatewayError("nobody knows") if self._world.trouble and chance.random() < 0.01 else None
        if error is None or chance.random() < 0.5:
            self.append_raw(key, value, headers)
            loop.call_later(0.2 * chance.random() ** 2, self._show)
        if self._sending:
            self._world.later(0.05, self._arrive)
        recipient.settle([token], error, 0.0)

    def _show(self) -> None:
        """The oldest record that nobody has read."""
        self.now_ms = int(self._world.loop.time() * 1000)
        record = self.next_record()
        if record.kind == CLAIM:
            self.claimed.add(record.connection)
        self.release(1)


class Talk:
    """One connection as its device sees it, and the rules for what the server may say on it."""

    def __init__(self, device: "SimulatedDevice", connect: bytes) -> None:
        world = device.world
        self.device, self.world, self.chance = device, world, world.chance
        self.link = Link(world.chance, world.listener)
        self.link.on_write, self.link.on_data = self.on_write, self.on_data
        self.link.on_read, self.link.on_lost = self.on_read, self.on_lost
        self.accepted = False
        #: In the order in which they were sent: PUBLISH packets that wait to be answered, repetitions among them.
        self.expected: deque[tuple[Message, bool]] = deque()
        #: By packet identifier, until it may be used again.
        self.open: dict[int, Message] = {}
        #: The same, for as long as the connection lives: identifiers of repeated messages are not used again.
        self.latest: dict[int, Message] = {}
        self.aliases: dict[int, str] = {}
        self.retired: set[int] = set()
        self.pings = self.pongs = self.asked = self.answered = 0
        self.inbound: dict[int, int] = {}
        self._sent_bytes = self._read_bytes = 0
        self._ping_ends: deque[int] = deque()
        self._written, self._received = b"", b""
        self._silent_for_ever = False
        self._connacks = 0
        self.send(connect)

    @property
    def quiet(self) -> bool:
        """Nothing is due to the device; it may be gone."""
        waits = any(not repeat for _, repeat in self.expected)
        return self.link.lost or not (
            waits or self.open or self.inbound or self.pings > self.pongs or self.asked > self.answered
        )

    def send(self, data: bytes) -> None:
        if not self.link.lost:
            self._sent_bytes += len(data)
            self.link.send(data)

    # ---- what a device does ----

    def act(self) -> None:
        """One thing that a device does of its own accord."""
        actions = [self.publish] * 6 + [self.repeat] * 3 + [self.ping, self.ask]
        self.chance.choice(actions)()

    def publish(self) -> None:
        """A 5.0 device keeps to Receive Maximum; an older one does not know it."""
        window = RECEIVE_MAXIMUM if self.device.version == 5 else 4 * RECEIVE_MAXIMUM
        if len(self.open) >= window and self.chance.random() < 0.8:
            return
        qos = self.chance.choice((0, 1, 1, 2, 2, 2)) if len(self.open) < window else 0
        packet_id = 0
        while qos and (not packet_id or packet_id in self.open or packet_id in self.retired):
            packet_id = self.chance.randint(1, 8 * RECEIVE_MAXIMUM + len(self.retired))
        topic = self.chance.choice((*ROUTED, *ROUTED, UNROUTED))
        message = self.world.new_message(packet_id, qos, topic)
        if self.device.version == 5 and self.chance.random() < 0.5:
            message.alias = self.chance.randint(1, TOPIC_ALIAS_MAXIMUM)
        if qos:
            self.open[packet_id] = self.latest[packet_id] = message
            self.expected.append((message, False))
        self.send(self._encode(message, dup=False))

    def repeat(self) -> None:
        """Allowed until the device was answered, and at QoS 1 before 5.0 only [MQTT-4.4.0-1], [MQTT-4.3.3-5]."""
        candidates = [
            message
            for message in self.open.values()
            if not message.released and (message.qos == 2 or self.device.version < 5)
        ]
        if not candidates:
            return
        message = self.chance.choice(candidates)
        message.repeats += 1
        # Its answer may be that of the repetition, so that nobody can tell when the identifier is free.
        self.retired.add(message.packet_id)
        self.expected.append((message, True))
        self.send(self._encode(message, dup=True))

    def ping(self) -> None:
        self.pings += 1
        self.send(b"\xc0\x00")
        self._ping_ends.append(self._sent_bytes)

    def ask(self) -> None:
        """SUBSCRIBE: refused or not, it has to be answered."""
        self.asked += 1
        properties = b"\x00" if self.device.version == 5 else b""
        self.send(packet(0x82, struct.pack(">H", 60_000) + properties + text("a/#") + b"\x01"))

    def release(self, message: Message) -> None:
        """PUBREL, now and then more than one."""
        if self.open.get(message.packet_id) is message and message.completed < 1:
            message.released += 1
            self.send(packet(PUBREL, struct.pack(">H", message.packet_id)))
            if self.chance.random() < 0.2:
                # The PUBCOMP of the repetition may come when the identifier is somebody else's.
                self.retired.add(message.packet_id)
                self.world.later(0.3, lambda: self.release(message))

    def _encode(self, message: Message, *, dup: bool) -> bytes:
        topic, properties = message.topic, b""
        if self.device.version == 5:
            if message.alias and self.aliases.get(message.alias) == topic and self.chance.random() < 0.8:
                topic = ""
            elif message.alias:
                self.aliases[message.alias] = topic
            properties = packet(0, b"\x23" + struct.pack(">H", message.alias))[1:] if message.alias else b"\x00"
        identifier = struct.pack(">H", message.packet_id) if message.qos else b""
        return packet(PUBLISH | dup << 3 | message.qos << 1, text(topic) + identifier + properties + message.payload)

    # ---- what reaches the device ----

    def on_data(self, data: bytes) -> None:
        packets, self._received = split_packets(self._received + data)
        for first_byte, body in packets:
            packet_id = int.from_bytes(body[:2], "big")
            match first_byte & 0xF0:
                case 0x20 if body[1] == 0:
                    self.accepted = True
                case 0x40 | 0x50 as kind:
                    self._answered(packet_id, kind, body[2] if len(body) > 2 else 0)
                case 0x70:
                    if packet_id in self.open and self.open[packet_id].released:
                        del self.open[packet_id]
                case 0x30 | 0x60:
                    self._take(first_byte, body)

    def _answered(self, packet_id: int, kind: int, reason: int) -> None:
        message = self.open.get(packet_id)
        if message is None or message.released:
            return
        if kind == PUBREC and reason >= FAILURE and message.repeats:
            # A repetition may begin the message anew, and nobody can tell when its identifier is free.
            self.link.cut()
        elif kind == PUBACK or reason >= FAILURE:
            del self.open[packet_id]
        else:
            self.release(message)

    def _take(self, first_byte: int, body: bytes) -> None:
        """A message for the device, or the PUBREL of one: answered later."""
        if first_byte & 0xF0 == 0x60:
            packet_id, answer = int.from_bytes(body[:2], "big"), PUBCOMP
        else:
            qos, length = first_byte >> 1 & 3, int.from_bytes(body[:2], "big")
            packet_id = int.from_bytes(body[2 + length : 4 + length], "big")
            answer = (0, PUBACK, PUBREC)[qos]
        if answer:
            self.world.later(0.5, lambda: self._acknowledge(answer, packet_id))

    def _acknowledge(self, answer: int, packet_id: int) -> None:
        if answer != PUBREC:
            self.inbound.pop(packet_id, None)
        self.send(packet(answer, struct.pack(">H", packet_id)))

    def on_lost(self) -> None:
        self.device.on_lost()

    # ---- the rules for this connection ----

    def on_read(self, size: int) -> None:
        """Every PINGREQ that was read is answered at once."""
        self._read_bytes += size
        protocol = self.link.connection.protocol
        pings_read = sum(end <= self._read_bytes for end in self._ping_ends)
        if protocol.state == CONNECTED and protocol.want_read and self.pongs < pings_read:
            self.broken(f"{pings_read} PINGREQ packets were read, {self.pongs} were answered")

    def on_write(self, data: bytes) -> None:
        packets, self._written = split_packets(self._written + data)
        if self._written:
            self.broken("half a packet was written")
        for first_byte, body in packets:
            self._check_packet(first_byte, body)

    def _check_packet(self, first_byte: int, body: bytes) -> None:
        if self._silent_for_ever:
            self.broken(f"0x{first_byte:02x} behind DISCONNECT")
        if len(packet(first_byte, body)) > self.device.packet_bytes_max:
            self.broken(f"0x{first_byte:02x} is larger than the device takes")
        if (first_byte == CONNACK) is not (self._connacks == 0):
            self.broken(f"0x{first_byte:02x} as packet {self._connacks}")
        self._connacks += 1
        packet_id = int.from_bytes(body[:2], "big")
        match first_byte:
            case 0x40 | 0x50:
                self._check_answer(first_byte, packet_id, body[2] if len(body) > 2 else 0)
            case 0x70:
                self._check_pubcomp(packet_id)
            case 0xD0:
                self.pongs += 1
                if self.pongs > self.pings:
                    self.broken("PINGRESP without PINGREQ")
            case 0x90:
                self.answered += 1
                if self.answered > self.asked:
                    self.broken("SUBACK without SUBSCRIBE")
            case 0xE0:
                self._silent_for_ever = True
            case _ if first_byte & 0xF0 == PUBLISH:
                self._check_sending(first_byte, body)

    def _check_answer(self, kind: int, packet_id: int, reason: int) -> None:
        """PUBACK and PUBREC: in the order of receipt [MQTT-4.6.0-2, -3], and only of what is true."""
        message = self.latest.get(packet_id)
        if message is not None and message.qos == 2 and message.told and message.reason < FAILURE:
            message.repeats_told += 1
            if kind != PUBREC or message.repeats_told > message.repeats:
                self.broken(f"packet {packet_id} was answered once more than it was sent")
            self.expected.remove((message, True))
            return
        while self.expected and self.expected[0][1] and self.expected[0][0].packet_id != packet_id:
            self.expected.popleft()
        if not self.expected or self.expected[0][0].packet_id != packet_id:
            oldest = self.expected[0][0].packet_id if self.expected else "nothing"
            self.broken(f"packet {packet_id} was answered, {oldest} was to be answered first")
            return
        message, _ = self.expected.popleft()
        if kind != (PUBACK if message.qos == 1 else PUBREC):
            self.broken(f"0x{kind:02x} for packet {packet_id} of QoS {message.qos}")
        message.told += 1
        message.reason = reason
        self._check_truth(message, reason)

    def _check_truth(self, message: Message, reason: int) -> None:
        known = message.stored + message.refused
        if message.topic == UNROUTED:
            true = message.produced == 0 and reason in {0, NO_MATCHING_SUBSCRIBERS}
        elif self.device.version < 5:
            true = reason == 0 and message.told <= known
        else:
            true = message.told <= known and bool(message.stored if reason == 0 else message.refused)
        if not true:
            self.broken(f"reason 0x{reason:02x} for {message}")

    def _check_pubcomp(self, packet_id: int) -> None:
        message = self.open.get(packet_id)
        # One that is not open any more was retired: the PUBCOMP is that of a repeated PUBREL.
        if message is None:
            if packet_id not in self.retired:
                self.broken(f"PUBCOMP for packet {packet_id}, which is not open")
            return
        message.completed += 1
        if message.completed > message.released:
            self.broken(f"packet {packet_id} was completed before it was released")

    def _check_sending(self, first_byte: int, body: bytes) -> None:
        """Our own window: identifiers are free [MQTT-2.2.1-4], and no more than Receive Maximum [MQTT-3.3.4-9]."""
        if not first_byte >> 1 & 3:
            return
        length = int.from_bytes(body[:2], "big")
        packet_id = int.from_bytes(body[2 + length : 4 + length], "big")
        if packet_id in self.inbound:
            self.broken(f"identifier {packet_id} was sent while it was in use")
        self.inbound[packet_id] = first_byte
        if len(self.inbound) > self.device.receive_maximum:
            self.broken(f"{len(self.inbound)} messages in flight to a device that takes {self.device.receive_maximum}")

    def broken(self, rule: str) -> None:
        self.world.broken(f"{self.device.client_id}, MQTT {self.device.version}: {rule}")


class SimulatedDevice:
    """Connects, talks, and comes back when the connection is lost."""

    def __init__(self, world: "World", number: int) -> None:
        chance = world.chance
        self.world = world
        #: Now and then two devices have the same name, and take the place from each other.
        self.client_id = f"device-{chance.randrange(number + 1)}"
        self.version = chance.choice((3, 4, 5, 5))
        self.receive_maximum = chance.randint(1, 3) if self.version == 5 else 65_535
        self.packet_bytes_max = chance.choice((60, 1_000)) if self.version == 5 else 268_435_460
        self.talk = Talk(self, self._connect())
        world.later(1.0, self.act)
        self._keep_alive()

    def act(self) -> None:
        if not self.world.trouble:
            return
        talk = self.talk
        if talk.link.lost:
            self.world.later(0.5, self.act)
            return
        if talk.accepted:
            for _ in range(self.world.chance.choice((1, 1, 2, 30))):
                talk.act()
            if self.world.chance.random() < 0.03:
                talk.link.cut()
        self.world.later(0.4, self.act)

    def on_lost(self) -> None:
        if self.world.trouble:
            self.world.later(1.0, self._come_back)

    def _come_back(self) -> None:
        self.talk = Talk(self, self._connect())

    def _keep_alive(self) -> None:
        if self.talk.accepted:
            self.talk.ping()
        self.world.loop.call_later(KEEP_ALIVE_SECONDS / 2, self._keep_alive)

    def _connect(self) -> bytes:
        name = text("MQIsdp" if self.version == 3 else "MQTT")
        properties = b""
        if self.version == 5:
            announced = struct.pack(">BHBI", 0x21, self.receive_maximum, 0x27, self.packet_bytes_max)
            properties = bytes([len(announced)]) + announced
        return packet(0x10, name + bytes([self.version, 2, 0, KEEP_ALIVE_SECONDS]) + properties + text(self.client_id))


@dataclass(eq=False)
class World:
    """One run. `devices`, `listener` and `gateway` are there from `run` on."""

    seed: int
    loop: VirtualLoop = field(default_factory=VirtualLoop)
    trouble: bool = True
    messages: dict[bytes, Message] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Raises Violation, which names the seed."""
        self.chance = Random(self.seed)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            self.loop.after_turn = lambda: None
            self.loop.run_until_complete(self._stop())
            self.loop.close()

    # ---- what the parts call ----

    def later(self, seconds_max: float, action: Callable[[], None]) -> None:
        self.loop.call_later(seconds_max * self.chance.random(), action)

    def broken(self, rule: str) -> None:
        self.violations.append(rule)

    def new_message(self, packet_id: int, qos: int, topic: str) -> Message:
        size = int(PAYLOAD_BYTES_MAX * self.chance.random() ** 4)
        payload = f"{len(self.messages)}:".encode().ljust(min(size, PAYLOAD_BYTES_MAX), b".")
        message = self.messages[payload] = Message(packet_id, qos, topic, payload)
        return message

    def produced(self, payload: bytes) -> None:
        """A message becomes a record: at QoS 2 once, unless Kafka has refused it and it was sent again."""
        message = self.messages.get(payload)
        if message is None:
            return  # What the status topic is told.
        pending = message.produced > message.stored + message.refused + message.failed
        if pending or (message.produced and (message.qos != 1 and not message.refused)):
            self.broken(f"produced again: {message}")
        message.produced += 1

    def settled(self, payload: bytes, stored: bool, error: GatewayError | None) -> None:
        message = self.messages.get(payload)
        if message is None:
            return
        if error is not None:
            message.refused += error.refusal is not None
            message.failed += error.refusal is None
        else:
            message.stored += stored

    # ---- the run ----

    async def _run(self) -> None:
        self._build()
        self.loop.set_exception_handler(lambda loop, context: self.broken(repr(context)))
        self.devices = [SimulatedDevice(self, number) for number in range(DEVICES)]
        self.later(0.5, self._send_something)
        self.loop.after_turn = self.check
        await asyncio.sleep(TROUBLE_SECONDS)
        self.trouble = False
        deadline = self.loop.time() + RECOVERY_SECONDS
        while not all(device.talk.quiet for device in self.devices):
            if self.loop.time() > deadline:
                stuck = [
                    (device.client_id, device.version, device.talk.expected, device.talk.open, device.talk.inbound)
                    for device in self.devices
                    if not device.talk.quiet
                ]
                raise Violation(f"seed {self.seed}: not settled in the end: {stuck}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(LOG_SECONDS)
        self._check_rest()

    def _check_rest(self) -> None:
        """The session log names each connection that there is, and no other."""
        there = {
            client.client_id: client.attachment.local.epoch
            for client in self._clients()
            if client.connection.protocol.state == CONNECTED and client.attachment is not None
        }
        (table,) = self.sessions.tables
        views = [view for client_id in table.client_ids() if (view := table.view(client_id)) is not None]
        named = {view.client_id: view.epoch for view in views if not view.rel}
        if named != there:
            raise Violation(f"seed {self.seed}: the session log names {named}, there are {there}")

    def _build(self) -> None:
        metrics = Metrics()
        routes = compile_routes(preset_specs("tlink"), RoutingContext("t_"))
        self.gateway = SimulatedGateway(self, dict.fromkeys(routes.topics(), 2) | {"t_status": 1})
        self.log = SimulatedLog(self)
        presence = Presence(
            self.gateway, metrics, "t_status", key_is_action=False, wall_ms=lambda: int(self.loop.time() * 1000)
        )
        self.sessions = Sessions(self.log, "t_sessions", presence, self.loop.time)  # type: ignore[arg-type]
        self.uplink = Uplink(
            UplinkSettings("node", ["mqtt.topic"], "drop", 1_000_000, session_expiry_seconds_max=EXPIRY_SECONDS_MAX),
            {"": self.gateway},
            routes,
            Chain((), anonymous=True),
            self.sessions,
            Goodbyes(),
            metrics,
        )
        presence.wills = Wills(self.uplink)
        presence.begin({}, 1)
        presence.take_turns(frozenset({0}))
        self.sessions.begin("node", 1, 1)
        self.sessions.tables[0].sweeping = True
        self.log.readers.append(self.sessions)
        session_limits = SessionLimits(10, 60, PACKET_BYTES_MAX, RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM)
        self.listener = Listener(session_limits, 1_000, self.gateway, self.uplink.new_client)
        self.gateway.on_relief = lambda: self.loop.call_soon(self.listener.relieve)
        self._tick()

    def _tick(self) -> None:
        """What the listener does for connections whose time is over."""
        for connection in list(self.listener.connections):
            connection.tick(self.loop.time())
        self.sessions.tick()
        self.loop.call_later(limits.TICK_SECONDS, self._tick)

    def _send_something(self) -> None:
        """Messages for devices, as many as their windows take."""
        if not self.trouble:
            return
        for client in list(self.uplink.clients.values()):
            qos = self.chance.randrange(3)
            topic = TopicName("down", b"down")
            try:
                client.connection.protocol.send_publish(Publish(topic, bytes(self.chance.randrange(80)), qos))
            except SessionError:
                continue  # As many as it takes, or larger than it takes: that is what the rules look at.
            client.connection.flush()
        self.later(0.5, self._send_something)

    async def _stop(self) -> None:
        """Every task ends, so that no run leaves anything to the next one."""
        tasks = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- the rules that hold at any time ----

    def check(self) -> None:
        """Called after every turn of the event loop."""
        if self.listener.bugs or self.gateway.bugs:
            self.broken(f"a bug: {self.gateway.bugs or 'see the log'}")
        connected: dict[str, Client] = {}
        for client in self._clients():
            protocol = client.connection.protocol
            if protocol.end is not None and protocol.end not in INNOCENT:
                self.broken(f"{client.client_id}: {protocol.end}, {protocol.detail}")
            if protocol.state != CONNECTED:
                continue
            if client.client_id in connected:
                self.broken(f"two connections of {client.client_id}")
            if client.attachment is None or client.attachment.local.connection not in self.log.claimed:
                self.broken(f"{client.client_id}: CONNACK before its CLAIM was read back")
            connected[client.client_id] = client
            if protocol.unsettled > RECEIVE_MAXIMUM:
                self.broken(f"{client.client_id}: {protocol.unsettled} messages taken, {RECEIVE_MAXIMUM} allowed")
            held = protocol._held_bytes + protocol._framer.unread_bytes
            if held > HELD_BYTES_MAX:
                self.broken(f"{client.client_id}: {held} bytes held")
        if self.violations:
            raise Violation(f"seed {self.seed}: " + "; ".join(self.violations))

    def _clients(self) -> list[Client]:
        return [client for each in self.listener.connections if isinstance(client := each._handler, Client)]


def simulate(seed: int) -> World:
    """One run. Raises Violation, which names the seed."""
    world = World(seed)
    world.run()
    return world
