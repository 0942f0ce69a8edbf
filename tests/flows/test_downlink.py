"""Messages to devices in any order of events: each has one outcome, true to what its device saw; nothing is left."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from proxy import limits
from proxy.cluster.commands import DELIVER, KICK, Command, Message, Selector
from proxy.flows.access import AccessSettings
from proxy.mqtt import packets
from proxy.mqtt.decode import decode_publish
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.framing import Framer
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Ack, Subscribe, Subscription
from tests.flows.harness import Device, Replica
from tests.support.fakes import turn
from tests.support.live import LiveDevice

CLIENTS = 4
STEPS = 300
#: Of one kind of answer, beside those that do nothing.
ANSWERS = {packets.PUBLISH: (0, packets.PUBACK, packets.PUBREC), packets.PUBREL: (packets.PUBCOMP,) * 3}


class Listener(Device):
    """A device that takes down what it is sent, and answers when the test says so."""

    def __init__(self, replica: Replica, client_id: str, version: int, receive_maximum: int) -> None:
        super().__init__(replica, version)
        properties = {packets.RECEIVE_MAXIMUM: receive_maximum} if version == MQTT_5_0 else {}
        self.connect(client_id, properties=properties)
        self.send(encode_packet(Subscribe(1, [Subscription("all", 2), Subscription(client_id, 1)]), version))
        self.take()
        self.client_id = client_id
        #: Numbers of the commands whose messages have arrived, in order, and those that were acknowledged.
        self.heard: list[int] = []
        self.acknowledged: set[int] = set()
        #: What it owes: the type of the answer and its packet identifier.
        self.owes: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}

    def listen(self) -> None:
        framer = Framer(1_000_000)
        framer.feed(self.take())
        while framer.next_packet():
            kind = framer.first_byte >> 4
            if kind == packets.PUBLISH:
                message = decode_publish(framer.first_byte, framer.buffer, framer.start, framer.stop, self.version, {})
                self.heard.append(int(message.payload[:8]))
                if message.qos:
                    self._numbers[message.packet_id] = self.heard[-1]
                    self.owes.append((ANSWERS[kind][message.qos], message.packet_id))
            elif kind == packets.PUBREL:
                packet_id = int.from_bytes(framer.buffer[framer.start : framer.start + 2])
                self.owes.append((packets.PUBCOMP, packet_id))

    def answer(self, chance: random.Random) -> None:
        if self.owes and not self.gone:
            kind, packet_id = self.owes.pop(chance.randrange(len(self.owes)))
            if kind != packets.PUBCOMP:
                self.acknowledged.add(self._numbers[packet_id])
            self.send(encode_packet(Ack(kind, packet_id), self.version))


class Run:
    """One sequence of events, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.replica = Replica(access=AccessSettings(subscribe_default="allow"))
        self.devices: dict[str, Listener] = {}
        self.all_devices: list[Listener] = []
        #: By command: its QoS and topic, who was hit, and what was reported.
        self.qos: list[int] = []
        self.topics: list[str] = []
        self.hit: list[Counter[str]] = []
        self.told: list[dict[str, str]] = []
        for number in range(CLIENTS):
            self.connect(f"d{number}")

    def connect(self, client_id: str) -> None:
        version = self.chance.choice((MQTT_3_1_1, MQTT_5_0))
        device = Listener(self.replica, client_id, version, self.chance.randrange(1, 5))
        self.devices[client_id] = device
        self.all_devices.append(device)

    async def step(self) -> None:
        chance, replica = self.chance, self.replica
        client_id = chance.choice(list(self.devices))
        device = self.devices[client_id]
        match chance.choices(range(7), (30, 40, 6, 8, 6, 2, 1))[0]:
            case 0:
                self.deliver(client_id)
            case 1:
                device.answer(chance)
            case 2:
                device.connection.pause_writing()
            case 3:
                device.connection.resume_writing()
            case 4:
                seconds = chance.choice((0.5, 5, 40))
                replica.clock.now += seconds
                replica.log.now_ms += int(seconds * 1000)
                replica.downlink.tick()
            case 5:
                if chance.random() < 0.5:
                    device.vanish()
                self.connect(client_id)
            case 6:
                replica.executor.execute(Command("k", KICK, Selector(client_id)), lambda *_: None)
                self.connect(client_id)
        if chance.random() < 0.7:
            await turn()
        for each in self.all_devices:
            each.listen()

    def deliver(self, client_id: str) -> None:
        chance, number = self.chance, len(self.qos)
        named = chance.random() < 0.7
        expires_at_ms = self.replica.log.now_ms + chance.randrange(1, 10_000) if chance.random() < 0.3 else 0
        payload = b"%08d" % number + bytes(chance.choice((0, 100, 90_000)))
        message = Message(chance.choice(("all", client_id)), payload, chance.randrange(3))
        told: dict[str, str] = {}

        def report(who: str, outcome: str) -> None:
            assert who not in told, "told twice"
            told[who] = outcome

        self.qos.append(message.qos)
        self.topics.append(message.topic)
        self.told.append(told)
        selector = Selector(client_id) if named else Selector()
        command = Command(str(number), DELIVER, selector, expires_at_ms, message)
        self.hit.append(Counter(self.replica.executor.execute(command, report)))

    async def end(self) -> None:
        for device in self.devices.values():
            device.vanish()
        await turn()
        await turn()

    def wrongs(self) -> Iterator[str]:
        """What is not as it has to be."""
        heard = Counter((device.client_id, number) for device in self.all_devices for number in device.heard)
        acknowledged = {(device.client_id, number) for device in self.all_devices for number in device.acknowledged}
        for number, (hit, told) in enumerate(zip(self.hit, self.told, strict=True)):
            if hit != Counter(list(told)):
                yield f"{number}: hit {hit}, told {told}"
            for who, outcome in told.items():
                times = heard[who, number]
                if times > 1 or (outcome in {"expired", "queue_full", "not_subscribed", "too_large"} and times):
                    yield f"{number}: {outcome}, and {who} heard it {times} times"
                has = (who, number) in acknowledged if self.qos_of(number, who) else times
                if outcome == "delivered" and not has:
                    yield f"{number}: delivered, and {who} did not have it"
        for device in self.all_devices:
            if device.heard != sorted(device.heard):
                yield f"{device.client_id}: {device.heard} are not in order"

    def qos_of(self, number: int, who: str) -> int:
        """What arrives: it has subscribed to its own topic at QoS 1, and to all at QoS 2."""
        return min(self.qos[number], 1 if self.topics[number] == who else 2)


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_events(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_MAX", 6)
    monkeypatch.setattr(limits, "DOWNLINK_IN_FLIGHT_MAX", 3)
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_BYTES_MAX", 500_000)
    monkeypatch.setattr(limits, "DOWNLINK_DEVICES_PER_TURN_MAX", 2)
    run = Run(seed)
    for _ in range(STEPS):
        await run.step()
    await run.end()
    assert list(run.wrongs()) == []
    downlink = run.replica.downlink
    assert (downlink.queued, downlink.queued_bytes, downlink.in_flight, downlink.unread_bytes) == (0, 0, 0, 0)
    assert (len(run.replica.uplink.subscribers), len(run.replica.uplink.clients)) == (0, 0)
    assert (run.replica.listener.bugs, run.replica.gateway.bugs) == (0, [])


async def test_the_orders_of_events_reach_every_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would say little."""
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_MAX", 6)
    monkeypatch.setattr(limits, "DOWNLINK_IN_FLIGHT_MAX", 3)
    outcomes: Counter[str] = Counter()
    for seed in range(4):
        run = Run(seed)
        for _ in range(STEPS):
            await run.step()
        await run.end()
        outcomes.update(outcome for told in run.told for outcome in told.values())
    assert set(outcomes) == {"delivered", "expired", "queue_full", "timed_out", "connection_lost"}


async def test_a_device_that_reads_nothing_from_its_socket() -> None:
    """It is not this process that keeps what it does not read, and others do not notice."""
    replica = Replica(access=AccessSettings(subscribe_default="allow"))
    port = await replica.listener.listen("127.0.0.1", 0)
    outcomes: list[tuple[str, str]] = []

    def execute(client_id: str) -> None:
        message = Message("down", bytes(60_000))
        replica.executor.execute(
            Command("1", DELIVER, Selector(client_id), message=message), lambda *told: outcomes.append(told)
        )

    async with await LiveDevice.on(port) as deaf, await LiveDevice.on(port) as other:
        for device, name in ((deaf, "deaf"), (other, "other")):
            device.sends(f'10 {{ P 02 003c "{name}" }} 82 {{ 0001 "down" 00 }}')
            await device.hears("20 02 00 00", "90 { 0001 00 }")
        # The kernel and asyncio's reader take some megabytes before the device's window is shut.
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while ("deaf", "queue_full") not in outcomes:
            execute("deaf")
            await turn()
            assert len(outcomes) < 10_000
        (connection,) = (each.connection for each in replica.uplink.clients.values() if each.client_id == "deaf")
        assert 0 < connection.unread_bytes <= limits.WRITE_BUFFER_BYTES_MAX + 60_020
        assert replica.downlink.queued == limits.DOWNLINK_QUEUE_MAX
        execute("other")
        assert len(await other.packet()) > 60_000
        taken = sum(outcome == "delivered" for name, outcome in outcomes if name == "deaf")
        deaf.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(taken + limits.DOWNLINK_QUEUE_MAX):
            assert len(await deaf.packet()) > 60_000
        assert (replica.downlink.queued, replica.downlink.unread_bytes) == (0, 0)
    replica.listener.stop()
    assert (replica.listener.bugs, replica.gateway.bugs) == (0, [])
