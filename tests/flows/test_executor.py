"""Commands on the connections of one replica: messages for devices, kick_out and acl_clean."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy import limits
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Message, Selector
from proxy.flows.access import AccessSettings
from proxy.mqtt import packets
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Ack, Properties, Publish, Subscribe, Subscription
from proxy.mqtt.topics import TopicName
from proxy.policy.authenticators.base import Login
from tests.flows.harness import Device, Replica, connected, disconnect, puback, refused, resuming
from tests.support.fakes import turn, until
from tests.support.wire import octets, proves

#: With these a device may subscribe to everything.
OPEN = AccessSettings(subscribe_default="allow")
TOPIC = "down/device"


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica(access=OPEN)
    yield replica
    assert (replica.listener.bugs, replica.gateway.bugs) == (0, [])


class Outcomes(list[tuple[str, str]]):
    """What is reported, in order."""

    def __call__(self, client_id: str, outcome: str) -> None:
        self.append((client_id, outcome))


def subscribe(device: Device, *filters: str, qos: int = 1, identifier: int | None = None, **options: object) -> bytes:
    """Returns the reason codes."""
    properties: Properties = {packets.SUBSCRIPTION_IDENTIFIER: [identifier]} if identifier else {}
    subscriptions = [Subscription(each, qos, **options) for each in filters]  # type: ignore[arg-type]
    device.send(encode_packet(Subscribe(7, subscriptions, properties), device.version))
    suback = device.take()
    assert suback[0] == 0x90, suback.hex()
    return suback[-len(filters) :]


def subscribed(
    replica: Replica, client_id: str = "device", version: int = MQTT_3_1_1, qos: int = 1, **fields: object
) -> Device:
    device = connected(replica, client_id, version, **fields)
    assert subscribe(device, "down/#", qos=qos) == bytes([qos])
    return device


def deliver(
    payload: bytes = b"hi",
    *,
    qos: int = 1,
    topic: str = TOPIC,
    to: str | None = "device",
    user: str | None = None,
    expires_at_ms: int = 0,
    retain: bool = False,
    properties: Sequence[tuple[str, str]] = (),
) -> Command:
    message = Message(topic, payload, qos, retain, list(properties))
    return Command("t-0-1", DELIVER, Selector(to, user), expires_at_ms, message)


def publish(payload: bytes, qos: int, packet_id: int = 0, version: int = MQTT_3_1_1) -> bytes:
    properties: Properties = {packets.USER_PROPERTY: [("mqk-command-id", "t-0-1")]} if version == MQTT_5_0 else {}
    return encode_packet(
        Publish(TopicName(TOPIC, TOPIC.encode()), payload, qos, packet_id=packet_id, properties=properties), version
    )


def acknowledge(device: Device, packet_id: int, packet_type: int = packets.PUBACK, reason_code: int = 0) -> None:
    device.send(encode_packet(Ack(packet_type, packet_id, reason_code), device.version))


async def execute(replica: Replica, command: Command) -> tuple[list[str], Outcomes]:
    outcomes = Outcomes()
    hit = replica.executor.execute(command, outcomes)
    await turn()
    return hit, outcomes


# ---- deliver ----


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
async def test_qos_0_is_delivered_when_it_is_written(replica: Replica, version: int) -> None:
    device = subscribed(replica, version=version)
    hit, outcomes = await execute(replica, deliver(qos=0))
    assert (hit, outcomes) == (["device"], [("device", "delivered")])
    assert device.take() == publish(b"hi", 0, version=version)
    assert replica.count("mqk_downlinks_total", outcome="delivered") == 1


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
async def test_qos_1_is_delivered_when_it_is_acknowledged(replica: Replica, version: int) -> None:
    device = subscribed(replica, version=version)
    hit, outcomes = await execute(replica, deliver())
    assert (hit, outcomes) == (["device"], [])
    assert device.take() == publish(b"hi", 1, 1, version)
    assert replica.downlink.in_flight == 1
    acknowledge(device, 1)
    assert outcomes == [("device", "delivered")]
    assert (replica.downlink.in_flight, replica.downlink.queued, replica.downlink.queued_bytes) == (0, 0, 0)


async def test_qos_2_is_delivered_with_pubrec(replica: Replica) -> None:
    device = subscribed(replica, qos=2)
    _, outcomes = await execute(replica, deliver(qos=2))
    assert device.take() == publish(b"hi", 2, 1)
    acknowledge(device, 1, packets.PUBREC)
    assert outcomes == [("device", "delivered")]
    assert device.take() == b"\x62\x02\x00\x01"
    # From here on the message is the device's, so what happens to the connection changes nothing.
    device.vanish()
    assert outcomes == [("device", "delivered")]


async def test_a_device_refuses(replica: Replica) -> None:
    device = subscribed(replica, version=MQTT_5_0, qos=2)
    _, one = await execute(replica, deliver(qos=1))
    _, two = await execute(replica, deliver(qos=2))
    acknowledge(device, 1, reason_code=0x80)
    acknowledge(device, 2, packets.PUBREC, 0x97)
    assert (one, two) == ([("device", "refused")], [("device", "refused")])


@proves("3.1.1:MQTT-3.8.4-6", "5.0:MQTT-3.8.4-8")
@pytest.mark.parametrize(("asked", "granted", "sent"), [(0, 1, 0), (1, 0, 0), (2, 1, 1), (2, 2, 2)])
async def test_the_lower_qos_counts(replica: Replica, asked: int, granted: int, sent: int) -> None:
    device = subscribed(replica, qos=granted)
    await execute(replica, deliver(qos=asked))
    assert device.take()[0] == 0x30 | sent << 1


@proves("5.0:MQTT-3.3.4-2", "5.0:MQTT-3.3.4-3", "5.0:MQTT-3.3.4-4")
async def test_overlapping_subscriptions_bring_one_message(replica: Replica) -> None:
    device = connected(replica, version=MQTT_5_0)
    subscribe(device, "down/#", qos=0, identifier=3)
    subscribe(device, "down/+", qos=1, identifier=9)
    subscribe(device, "elsewhere", qos=2, identifier=5)
    await execute(replica, deliver(qos=2))
    expected = octets(f'32 {{ "{TOPIC}" 0001 {{ 26 "mqk-command-id" "t-0-1" 0b 03 0b 09 }} (hi) }}', MQTT_5_0)
    assert device.take() == expected


@proves("5.0:MQTT-3.3.1-13", "5.0:MQTT-3.3.2-6")
async def test_what_a_message_says(replica: Replica) -> None:
    device = connected(replica, version=MQTT_5_0)
    subscribe(device, "down/#", retain_as_published=True)
    now_ms = replica.log.now_ms
    command = deliver(retain=True, expires_at_ms=now_ms + 4_001, properties=[("a", "1"), ("a", "2")])
    await execute(replica, command)
    said = '26 "a" "1" 26 "a" "2" 26 "mqk-command-id" "t-0-1" 02 00000005'
    assert device.take() == octets(f'33 {{ "{TOPIC}" 0001 {{ {said} }} (hi) }}', MQTT_5_0)


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@proves("3.1.1:MQTT-3.3.1-9", "5.0:MQTT-3.3.1-12")
async def test_without_retain_as_published_nothing_is_retained(replica: Replica, version: int) -> None:
    device = subscribed(replica, version=version)
    await execute(replica, deliver(retain=True))
    assert device.take()[0] == 0x32


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@proves("3.1.1:MQTT-3.3.5-1")
async def test_the_highest_of_several_subscriptions_counts(replica: Replica, version: int) -> None:
    device = connected(replica, version=version)
    for topic_filter, qos in (("down/#", 0), ("+/device", 2), (TOPIC, 1)):
        subscribe(device, topic_filter, qos=qos)
    await execute(replica, deliver(qos=2))
    assert device.take() == publish(b"hi", 2, 1, version)


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@pytest.mark.parametrize(
    ("topic_filter", "topic", "sent"),
    [
        ("a/b", "a/b", True),
        ("a/b", "A/b", False),
        ("a/b", "a//b", False),
        ("e\u0301", "\u00e9", False),
        ("a/+", "a/b", True),
        ("a/#", "a/b/c", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
    ],
)
@proves(
    "3.1.1:MQTT-3.3.2-3", "3.1.1:MQTT-3.8.3-2", "3.1.1:MQTT-4.7.2-1", "3.1.1:MQTT-4.7.3-4",
    "5.0:MQTT-3.3.2-3", "5.0:MQTT-4.7.2-1", "5.0:MQTT-4.7.3-4",
)  # fmt: skip
async def test_a_subscription_brings_what_its_filter_matches(
    replica: Replica, version: int, topic_filter: str, topic: str, sent: bool
) -> None:
    device = connected(replica, version=version)
    subscribe(device, topic_filter)
    hit, _ = await execute(replica, deliver(qos=0, topic=topic, to=None))
    assert (hit, bool(device.take())) == ((["device"], True) if sent else ([], False))


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@proves("3.1.1:MQTT-3.8.4-3", "5.0:MQTT-3.8.4-3")
async def test_the_same_filter_again_replaces_its_options(replica: Replica, version: int) -> None:
    device = connected(replica, version=version)
    subscribe(device, "down/#", qos=2)
    subscribe(device, "down/#", qos=0)
    await execute(replica, deliver(qos=2))
    assert device.take() == publish(b"hi", 0, version=version)


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@proves(
    "3.1.1:MQTT-3.10.4-1", "3.1.1:MQTT-3.10.4-2", "3.1.1:MQTT-3.10.4-3",
    "5.0:MQTT-3.10.4-1", "5.0:MQTT-3.10.4-2", "5.0:MQTT-3.10.4-3",
)  # fmt: skip
async def test_unsubscribe_ends_what_comes_and_not_what_is_under_way(replica: Replica, version: int) -> None:
    device = connected(replica, version=version)
    subscribe(device, "down/#", qos=2)
    _, outcomes = await execute(replica, deliver(qos=2))
    device.take()
    # Another filter, though it takes the same topic.
    device.send(octets('a2 { 0008 [00] "down/+" }', version))
    assert (await execute(replica, deliver(qos=0)))[1] == [("device", "delivered")]
    device.send(octets('a2 { 0009 [00] "down/#" }', version))
    assert (await execute(replica, deliver(qos=0, to=None)))[0] == []
    device.take()
    acknowledge(device, 1, packets.PUBREC)
    assert (outcomes, device.take()) == ([("device", "delivered")], b"\x62\x02\x00\x01")


async def test_nobody_named_means_all_subscribers(replica: Replica) -> None:
    one, two = subscribed(replica, "one"), subscribed(replica, "two")
    other = connected(replica, "other")
    subscribe(other, "up/#")
    hit, outcomes = await execute(replica, deliver(qos=0, to=None))
    assert sorted(hit) == ["one", "two"]
    assert sorted(outcomes) == [("one", "delivered"), ("two", "delivered")]
    assert one.take() == two.take() == publish(b"hi", 0)
    assert other.take() == b""


@pytest.mark.parametrize("named", [{"to": "device"}, {"to": None, "user": "u"}])
async def test_a_named_client(replica: Replica, named: dict[str, str]) -> None:
    device = connected(replica, username="u")
    subscribed(replica, "other", username="v")
    assert await execute(replica, deliver(**named)) == (["device"], [("device", "not_subscribed")])  # type: ignore[arg-type]
    subscribe(device, "down/#")
    hit, outcomes = await execute(replica, deliver(qos=0, **named))  # type: ignore[arg-type]
    assert (hit, outcomes) == (["device"], [("device", "delivered")])


async def test_all_clients_of_a_user(replica: Replica) -> None:
    subscribed(replica, "one", username="u")
    subscribed(replica, "two", username="u").disconnect()
    subscribed(replica, "three", username="u")
    hit, _ = await execute(replica, deliver(to=None, user="u"))
    assert sorted(hit) == ["one", "three"]
    assert len(replica.uplink.usernames) == 1


@pytest.mark.parametrize("command", [deliver(to="nobody"), deliver(to=None, user="nobody"), deliver(to=None)])
async def test_nobody_is_hit(replica: Replica, command: Command) -> None:
    connected(replica, username="u")
    assert await execute(replica, command) == ([], [])


@pytest.mark.parametrize("topic", ["", "down/+", "down/#", "down/\0", "down/\ud800", "x" * 65_536])
async def test_what_is_no_topic_reaches_nobody(replica: Replica, topic: str) -> None:
    device = connected(replica)
    subscribe(device, "#")
    assert await execute(replica, deliver(topic=topic)) == ([], [])
    assert device.take() == b""


async def test_a_user_property_that_no_packet_holds(replica: Replica) -> None:
    subscribed(replica, version=MQTT_5_0)
    _, outcomes = await execute(replica, deliver(properties=[("a", "x" * 65_536)]))
    assert outcomes == [("device", "too_large")]


async def test_a_message_that_the_device_does_not_take(replica: Replica) -> None:
    device = connected(replica, version=MQTT_5_0, properties={packets.MAXIMUM_PACKET_SIZE: 100})
    subscribe(device, "down/#")
    _, large = await execute(replica, deliver(b"x" * 100))
    _, small = await execute(replica, deliver(b"x", qos=0))
    assert (large, small) == ([("device", "too_large")], [("device", "delivered")])


async def test_one_that_has_expired(replica: Replica) -> None:
    device = subscribed(replica)
    assert await execute(replica, deliver(expires_at_ms=1)) == (["device"], [("device", "expired")])
    assert device.take() == b""


async def test_the_order_is_that_of_the_commands(replica: Replica) -> None:
    device = subscribed(replica, version=MQTT_5_0)
    replica.executor.execute(deliver(b"1"), Outcomes())
    replica.executor.execute(deliver(b"2", qos=0), Outcomes())
    replica.executor.execute(deliver(b"3"), Outcomes())
    await turn()
    # One write for all of them.
    assert device.transport.writes == [
        publish(b"1", 1, 1, MQTT_5_0) + publish(b"2", 0, 0, MQTT_5_0) + publish(b"3", 1, 2, MQTT_5_0)
    ]


async def test_what_exceeds_receive_maximum_waits(replica: Replica) -> None:
    device = connected(replica, version=MQTT_5_0, properties={packets.RECEIVE_MAXIMUM: 1})
    subscribe(device, "down/#", qos=2)
    _, one = await execute(replica, deliver(b"1", qos=2))
    _, two = await execute(replica, deliver(b"2", qos=0))
    _, three = await execute(replica, deliver(b"3"))
    # The second one needs no room, but keeps its place.
    assert (device.take()[0], two, replica.downlink.queued) == (0x34, [("device", "delivered")], 1)
    acknowledge(device, 1, packets.PUBREC)
    await turn()
    assert (one, three) == ([("device", "delivered")], [])
    acknowledge(device, 1, packets.PUBCOMP)
    await turn()
    assert device.take().endswith(publish(b"3", 1, 2, MQTT_5_0))
    acknowledge(device, 2)
    assert three == [("device", "delivered")]


async def test_a_device_that_never_acknowledges(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_IN_FLIGHT_MAX", 2)
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_MAX", 3)
    device = subscribed(replica)
    told = [(await execute(replica, deliver(b"%d" % number)))[1] for number in range(6)]
    assert [len(device.transport.writes), replica.downlink.in_flight, replica.downlink.queued] == [2, 2, 3]
    assert told == [[], [], [], [], [], [("device", "queue_full")]]
    replica.clock.now += replica.downlink.ack_timeout_seconds - 0.1
    replica.downlink.tick()
    assert told == [[], [], [], [], [], [("device", "queue_full")]]
    replica.clock.now += 0.1
    replica.downlink.tick()
    assert told[:5] == [[("device", "timed_out")]] * 5
    # Late, but the device has room again and its window too.
    acknowledge(device, 1)
    _, after = await execute(replica, deliver(b"6"))
    acknowledge(device, 3)
    assert after == [("device", "delivered")]
    assert (replica.downlink.in_flight, replica.downlink.queued, replica.downlink.queued_bytes) == (0, 0, 0)


@proves("5.0:MQTT-3.3.2-5")
async def test_what_waits_may_expire(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_IN_FLIGHT_MAX", 1)
    device = subscribed(replica)
    await execute(replica, deliver(b"1"))
    _, brief = await execute(replica, deliver(b"2", expires_at_ms=replica.log.now_ms + 1_000))
    _, briefer = await execute(replica, deliver(b"3", expires_at_ms=replica.log.now_ms + 500))
    replica.log.now_ms += 600
    replica.downlink.tick()
    assert (brief, briefer) == ([], [("device", "expired")])
    replica.log.now_ms += 600
    acknowledge(device, 1)
    await turn()
    assert brief == [("device", "expired")]


async def test_time_passes_by_itself(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.001)
    subscribed(replica)
    _, outcomes = await execute(replica, deliver())
    replica.clock.now += 30
    await until(lambda: outcomes == [("device", "timed_out")], "its time is over")


@pytest.mark.parametrize("end", [Device.vanish, Device.disconnect])
async def test_the_connection_is_lost(replica: Replica, end: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_IN_FLIGHT_MAX", 1)
    device = subscribed(replica)
    _, sent = await execute(replica, deliver())
    _, waiting = await execute(replica, deliver())
    (Device.vanish if end is Device.vanish else Device.disconnect)(device)
    assert (sent, waiting) == ([("device", "connection_lost")], [("device", "connection_lost")])
    assert (replica.downlink.in_flight, replica.downlink.queued, replica.downlink.queued_bytes) == (0, 0, 0)
    assert len(replica.uplink.subscribers) == 0
    assert await execute(replica, deliver()) == ([], [])


async def test_a_device_that_reads_nothing(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_MAX", 2)
    device, other = subscribed(replica), subscribed(replica, "other")
    device.connection.pause_writing()
    told = [(await execute(replica, deliver(qos=0)))[1] for _ in range(3)]
    assert told == [[], [], [("device", "queue_full")]]
    assert device.take() == b""
    _, others = await execute(replica, deliver(qos=0, to="other"))
    assert (others, other.take()) == ([("other", "delivered")], publish(b"hi", 0))
    device.connection.resume_writing()
    await turn()
    assert told[:2] == [[("device", "delivered")]] * 2
    assert device.take() == publish(b"hi", 0) * 2


async def test_all_queues_together_are_bounded(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_BYTES_MAX", 10_000)
    devices = [subscribed(replica, f"d{number}") for number in range(3)]
    for device in devices:
        device.connection.pause_writing()
    # A payload that several wait for counts once.
    _, first = await execute(replica, deliver(b"x" * 8_000, qos=0, to=None))
    assert (first, 8_000 < replica.downlink.queued_bytes < 10_000) == ([], True)
    _, second = await execute(replica, deliver(b"x" * 8_000, qos=0, to="d0"))
    _, third = await execute(replica, deliver(b"x", qos=0, to="d0"))
    assert (second, third) == ([], [("d0", "queue_full")])
    for device in devices:
        device.connection.resume_writing()
    await turn()
    assert sorted(first + second) == [(each, "delivered") for each in ("d0", "d0", "d1", "d2")]
    assert replica.downlink.queued_bytes == 0


async def test_what_devices_do_not_read_is_bounded(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_QUEUE_BYTES_MAX", 10_000)
    devices = [subscribed(replica, f"d{number}") for number in range(2)]

    def stuck(data: bytes) -> None:
        devices[0].connection.pause_writing()

    monkeypatch.setattr(devices[0].transport, "write", stuck)
    monkeypatch.setattr(devices[0].transport, "get_write_buffer_size", lambda: 12_000)
    await execute(replica, deliver(b"x" * 9_000, qos=0, to="d0"))
    assert replica.downlink.unread_bytes == 12_000
    assert (await execute(replica, deliver(qos=0, to="d1")))[1] == [("d1", "queue_full")]
    devices[0].connection.resume_writing()
    assert replica.downlink.unread_bytes == 0
    assert (await execute(replica, deliver(qos=0, to="d1")))[1] == [("d1", "delivered")]


async def test_many_devices_are_written_to_in_several_turns(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOWNLINK_DEVICES_PER_TURN_MAX", 2)
    for number in range(5):
        subscribed(replica, f"d{number}")
    _, outcomes = await execute(replica, deliver(qos=0, to=None))
    assert len(outcomes) == 2
    await turn()
    assert len(outcomes) == 4
    await turn()
    assert len(outcomes) == 5


async def test_an_outcome_may_end_another_connection(replica: Replica) -> None:
    one, two = subscribed(replica, "one"), subscribed(replica, "two")
    outcomes = Outcomes()

    def report(client_id: str, outcome: str) -> None:
        outcomes(client_id, outcome)
        two.vanish()

    replica.executor.execute(deliver(qos=0, to="one"), report)
    replica.executor.execute(deliver(qos=0, to="two"), outcomes)
    await turn()
    assert sorted(outcomes) == [("one", "delivered"), ("two", "connection_lost")]
    assert one.take() == publish(b"hi", 0)


# ---- kick ----


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
@pytest.mark.parametrize("selector", [Selector("device"), Selector(None, "u"), Selector("device", "u"), Selector()])
async def test_kick(replica: Replica, version: int, selector: Selector) -> None:
    device = connected(replica, version=version, username="u")
    assert await execute(replica, Command("1", KICK, selector)) == (["device"], [("device", "done")])
    assert device.take() == disconnect(0x98, version)
    assert device.gone
    await replica.gateway.flush(5)
    assert replica.comings_and_goings()[-1] == ("device", "kicked")


@pytest.mark.parametrize("selector", [Selector("other"), Selector(None, "v"), Selector("device", "v")])
async def test_nobody_is_kicked(replica: Replica, selector: Selector) -> None:
    device = connected(replica, username="u")
    assert await execute(replica, Command("1", KICK, selector)) == ([], [])
    assert not device.gone


async def test_one_that_waits_for_its_claim(replica: Replica) -> None:
    replica.log.hold()
    device = Device(replica, MQTT_5_0)
    assert device.connect(username="u") == b""
    assert await execute(replica, Command("1", KICK, Selector(None, "u"))) == (["device"], [("device", "done")])
    assert device.take() == refused(0x88, 3, MQTT_5_0)
    replica.log.release()
    assert (device.take(), len(replica.uplink.connecting)) == (b"", 0)
    assert await execute(replica, deliver()) == ([], [])


class Slow:
    """An authenticator that takes its time; what it is asked to forget."""

    def __init__(self) -> None:
        self.forgotten: list[str | None] = []

    def passes_on(self, login: Login) -> bool:
        return False

    def cached(self, login: Login) -> bool | None:
        return None

    async def authenticate(self, login: Login) -> bool | None:
        await turn()
        await turn()
        return True

    def forget(self, username: str | None) -> None:
        self.forgotten.append(username)

    def close(self) -> None:
        pass


async def test_one_that_waits_for_its_login() -> None:
    replica = Replica(authenticators=[Slow()])
    device = Device(replica)
    assert device.connect(username="u") == b""
    assert await execute(replica, Command("1", KICK, Selector("device"))) == (["device"], [("device", "done")])
    assert device.take() == refused(0x88, 3, MQTT_3_1_1)
    await until(lambda: not replica.uplink.logins_waiting, "the login is over")
    assert device.take() == b""


async def test_an_epoch_means_one_connection(replica: Replica) -> None:
    device = connected(replica)
    (client,) = replica.uplink.clients.values()
    assert await execute(replica, Command("1", KICK, Selector("device"), epoch=client.epoch + 1)) == ([], [])
    hit, _ = await execute(replica, Command("1", KICK, Selector("device"), epoch=client.epoch))
    assert (hit, device.gone) == (["device"], True)


async def test_many_are_kicked_at_a_pace(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KICKS_AT_ONCE_MAX", 2)
    devices = [connected(replica, f"d{number}") for number in range(4)]
    hit, outcomes = await execute(replica, Command("1", KICK, Selector()))
    assert (len(hit), len(outcomes)) == (4, 4)
    await until(lambda: all(device.gone for device in devices), "all are gone")
    assert all(device.take() == b"" for device in devices)


@pytest.mark.parametrize("kind", [KICK, ACL_CLEAN])
async def test_logins_are_checked_anew(kind: str) -> None:
    slow = Slow()
    replica = Replica(authenticators=[slow])
    device = Device(replica)
    device.connect(username="u")
    await until(lambda: bool(replica.uplink.clients), "it is connected")
    await execute(replica, Command("1", kind, Selector("device")))
    await execute(replica, Command("2", kind, Selector(None, "gone")))
    await execute(replica, Command("3", kind, Selector("nobody")))
    assert slow.forgotten == ["u", "gone"]
    await execute(replica, Command("4", kind, Selector()))
    assert slow.forgotten[2] is None


# ---- acl_clean ----


async def test_acl_clean(tmp_path: Path) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("allow subscribe all down/# other/#\n")
    replica = Replica(access=AccessSettings(rules))
    device, other = resuming(replica, username="u"), connected(replica, "other")
    assert subscribe(device, "down/#", "other/#") + subscribe(other, "down/#") == b"\x01\x01\x01"
    rules.write_text("allow subscribe all other/#\n")
    replica.uplink.access.read_again()()
    assert await execute(replica, Command("1", ACL_CLEAN, Selector(None, "u"))) == (["device"], [("device", "done")])
    assert replica.log.records()[-1].state.subscriptions == [["other/#", 1]]  # type: ignore[union-attr]
    assert replica.uplink.access.denied["subscribe"] == 1
    assert (await execute(replica, deliver()))[1] == [("device", "not_subscribed")]
    # Nobody has asked for the other one.
    assert (await execute(replica, deliver(qos=0, to="other")))[1] == [("other", "delivered")]
    device.publish(packet_id=4)
    await replica.gateway.flush(5)
    await turn()
    assert device.take() == puback(4)


async def test_decisions_are_made_anew(replica: Replica) -> None:
    device = connected(replica)
    device.publish()
    (topic,) = device.connection.protocol._topics.values()
    decision = topic.decision
    assert decision is not None
    await execute(replica, Command("1", ACL_CLEAN, Selector("device")))
    assert topic.decision is None
