"""A message on its way: where it goes, what the record carries, and what the device is told in every case."""

import logging
from collections.abc import Callable

import pytest

from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import Destination, Partitioner
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5_0,
    PAYLOAD_FORMAT_INDICATOR,
    Publish,
    ReasonCode,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from proxy.mqtt.topics import TopicName
from tests.flows.harness import UP, Device, Replica, connected, disconnect, puback
from tests.support.fakes import turn, until

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
MALFORMED = b"\x00\x00"
UNDELIVERED = GatewayError("not delivered in time")


def publishes(replica: Replica, result: str, qos: int = 1) -> float:
    return replica.count("mqk_publishes_total", qos=str(qos), result=result)


def values(replica: Replica) -> list[bytes | None]:
    return [record.value for record in replica.gateway.stored(UP)]


async def settled(replica: Replica) -> None:
    """Everything that was enqueued has had its answer, and the answers are written."""
    assert await replica.gateway.flush(5.0) == 0
    await turn()


@pytest.fixture
def destinations(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Kafka topics that the gateway was asked about, in order."""
    asked = []
    destination = replica.gateway.destination

    def ask(topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = "") -> Destination:
        asked.append(topic)
        return destination(topic, key, partitioner, rule)

    monkeypatch.setattr(replica.gateway, "destination", ask)
    return asked


# ---- QoS 1 ----


@BOTH
async def test_the_puback_follows_kafka(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    replica.gateway.hold()
    device.publish("tlink/pk/dev/up", b"\x00\xff", packet_id=7)
    assert device.take() == b""
    await turn()
    assert device.take() == b""
    assert values(replica) == []
    replica.gateway.release()
    await turn()
    assert device.take() == puback(7)
    (record,) = replica.gateway.stored(UP)
    assert (record.key, record.value) == (b"tlink/pk/dev/up", b"\x00\xff")
    assert record.partition == md5_partition(b"tlink/pk/dev/up", 4)
    assert record.headers == [("mqtt.topic", b"tlink/pk/dev/up"), ("mqtt.clientid", b"c1")]
    assert publishes(replica, "stored") == 1
    assert replica.count("mqk_publish_ack_seconds_count") == 1


async def test_many_settlements_are_one_write(replica: Replica) -> None:
    device = connected(replica)
    replica.gateway.hold()
    for packet_id in range(1, 51):
        device.publish(packet_id=packet_id)
    replica.gateway.release()
    await turn()
    assert device.transport.writes == [b"".join(puback(packet_id) for packet_id in range(1, 51))]


@BOTH
@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Refusal.TOO_LARGE, ReasonCode.QUOTA_EXCEEDED),
        (Refusal.NOT_AUTHORIZED, ReasonCode.NOT_AUTHORIZED),
        (Refusal.INVALID, ReasonCode.PAYLOAD_FORMAT_INVALID),
        (Refusal.UNKNOWN_TOPIC, ReasonCode.TOPIC_NAME_INVALID),
    ],
)
async def test_what_kafka_can_never_store(replica: Replica, version: int, refusal: Refusal, reason: ReasonCode) -> None:
    device = connected(replica, "c1", version)
    await settled(replica)
    replica.gateway.error = GatewayError("no", refusal)
    device.publish(packet_id=1)
    device.publish(packet_id=2)
    await settled(replica)
    assert device.take() == puback(1, reason, version) + puback(2, reason, version)
    assert not device.gone
    assert publishes(replica, "refused") == 2


def test_every_refusal_has_an_answer() -> None:
    from proxy.flows.client import _REFUSALS

    assert set(_REFUSALS) == set(Refusal)


async def test_a_refusal_at_once_is_told_too(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    replica.gateway.record_bytes_max = 100
    device.publish(payload=bytes(100))
    await turn()
    assert device.take() == puback(1, ReasonCode.QUOTA_EXCEEDED, MQTT_5_0)


@BOTH
async def test_what_was_not_delivered_is_not_acknowledged(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(packet_id=1)
    device.publish(packet_id=2)
    replica.gateway.error = UNDELIVERED
    replica.gateway.release()
    replica.gateway.error = None
    await until(lambda: device.gone, "the goodbye")
    assert device.take() == disconnect(ReasonCode.SERVER_BUSY, version)
    await until(lambda: len(replica.told()) == 2, "the status record")
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "kafka_unavailable")]
    assert publishes(replica, "undelivered") == 2
    assert replica.count("mqk_publish_ack_seconds_count") == 0


async def test_what_was_stored_before_is_acknowledged_before_the_goodbye(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    await settled(replica)
    replica.gateway.hold()
    for packet_id in (1, 2, 3):
        device.publish(packet_id=packet_id)
    replica.gateway.release(1)
    replica.gateway.error = UNDELIVERED
    replica.gateway.release(1)
    replica.gateway.error = None
    replica.gateway.release()
    await until(lambda: device.gone, "the goodbye")
    # Nothing may be said of 3 before 2, and of 2 there is nothing true to say.
    assert device.take() == puback(1) + disconnect(ReasonCode.SERVER_BUSY, MQTT_5_0)


@pytest.mark.parametrize("error", [None, UNDELIVERED, GatewayError("no", Refusal.INVALID)])
async def test_an_outcome_after_the_end_is_only_counted(replica: Replica, error: GatewayError | None) -> None:
    device = connected(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish()
    device.disconnect()
    device.take()
    replica.gateway.error = error
    replica.gateway.release()
    await turn()
    assert device.take() == b""
    assert len(replica.uplink.goodbyes) == 0
    assert publishes(replica, "stored") + publishes(replica, "undelivered") + publishes(replica, "refused") == 1


@pytest.mark.parametrize(
    ("leave", "kept"),
    [
        (Device.disconnect, [b"x"]),
        (Device.vanish, []),
        (lambda device: device.send(MALFORMED), []),
        (lambda device: device.connection.connection_lost(ConnectionResetError()), []),
    ],
    ids=["DISCONNECT", "end of stream", "malformed", "broken"],
)
async def test_what_waits_is_withdrawn_unless_the_device_said_goodbye(
    replica: Replica, leave: Callable[[Device], object], kept: list[bytes]
) -> None:
    device = connected(replica)
    other = connected(replica, "other")
    replica.gateway.hold()
    device.publish()
    other.publish(payload=b"of the other")
    leave(device)
    replica.gateway.release()
    assert sorted(filter(None, values(replica))) == sorted([b"of the other", *kept])


async def test_a_bug_in_one_settlement_leaves_the_others_their_acknowledgements(replica: Replica) -> None:
    devices = [connected(replica, f"c{number}") for number in range(3)]
    replica.gateway.hold()
    for device in devices:
        device.publish()
    window = devices[1].connection.protocol._window
    window.settle([1], 0)  # So that nobody waits for it when Kafka answers.
    replica.gateway.release()
    await turn()
    assert [device.take() for device in devices] == [puback(1), b"", puback(1)]
    assert devices[1].transport.aborted
    assert replica.listener.bugs == 1
    replica.listener.bugs = 0


# ---- QoS 2 ----


@BOTH
async def test_the_pubrec_follows_kafka_and_nothing_is_stored_twice(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    replica.gateway.hold()
    device.publish(qos=2, packet_id=7)
    device.publish(qos=2, packet_id=7, dup=True)
    await turn()
    assert device.take() == b""
    replica.gateway.release()
    await turn()
    assert device.take() == b"\x50\x02\x00\x07"
    device.publish(qos=2, packet_id=7, dup=True)
    device.send(b"\x62\x02\x00\x07")
    assert device.take() == b"\x50\x02\x00\x07" + b"\x70\x02\x00\x07"
    await settled(replica)
    assert values(replica) == [b"x"]
    assert publishes(replica, "stored", 2) == 1
    device.publish(payload=b"another", qos=2, packet_id=7)
    await settled(replica)
    assert device.take() == b"\x50\x02\x00\x07"
    assert values(replica) == [b"x", b"another"]


async def test_each_message_counts_under_its_qos(replica: Replica) -> None:
    device = connected(replica)
    replica.gateway.hold()
    for packet_id, qos in enumerate([2, 1, 2, 1, 1], start=1):
        device.publish(qos=qos, packet_id=packet_id)
    replica.gateway.release()
    await settled(replica)
    assert [publishes(replica, "stored", qos) for qos in (0, 1, 2)] == [0, 3, 2]
    device.publish(topic="elsewhere", qos=2, packet_id=9)
    await settled(replica)
    assert [publishes(replica, "unmatched", qos) for qos in (0, 1, 2)] == [0, 0, 1]


async def test_what_kafka_can_never_store_at_qos_2(replica: Replica) -> None:
    """PUBREC says why, and the identifier is free."""
    device = connected(replica, "c1", MQTT_5_0)
    replica.gateway.error = GatewayError("no", Refusal.TOO_LARGE)
    device.publish(qos=2)
    await settled(replica)
    assert device.take() == b"\x50\x03\x00\x01" + bytes([ReasonCode.QUOTA_EXCEEDED])
    replica.gateway.error = None
    device.publish(qos=2)
    await settled(replica)
    assert device.take() == b"\x50\x02\x00\x01"
    assert (publishes(replica, "refused", 2), publishes(replica, "stored", 2)) == (1, 1)


# ---- what 5.0 says of its payload ----


@pytest.mark.parametrize(
    ("indicator", "payload", "stored"),
    [(1, "gerät".encode(), True), (1, b"\xff", False), (0, b"\xff", True), (1, b"", True), (1, b"a\0b", True)],
)
async def test_a_payload_is_what_it_claims_to_be(
    replica: Replica, indicator: int, payload: bytes, stored: bool
) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    device.publish(payload=payload, properties={PAYLOAD_FORMAT_INDICATOR: indicator})
    await settled(replica)
    assert device.take() == puback(1, 0 if stored else ReasonCode.PAYLOAD_FORMAT_INVALID, MQTT_5_0)
    assert values(replica) == ([payload] if stored else [])
    assert publishes(replica, "stored" if stored else "invalid") == 1


# ---- QoS 0 ----


async def test_qos_0_is_stored_and_never_answered(replica: Replica) -> None:
    device = connected(replica)
    device.publish(qos=0)
    assert device.take() == b""
    await settled(replica)
    assert device.take() == b""
    assert values(replica) == [b"x"]
    assert publishes(replica, "stored", 0) == 1
    assert replica.count("mqk_publish_ack_seconds_count") == 0


@pytest.mark.parametrize(
    ("error", "result"), [(UNDELIVERED, "undelivered"), (GatewayError("no", Refusal.INVALID), "refused")]
)
async def test_qos_0_that_is_lost_is_counted(replica: Replica, error: GatewayError, result: str) -> None:
    device = connected(replica)
    await settled(replica)
    replica.gateway.error = error
    device.publish(qos=0)
    await settled(replica)
    assert publishes(replica, result, 0) == 1
    assert not device.gone


async def test_only_qos_0_is_dropped_when_the_queue_is_full(replica: Replica) -> None:
    device = connected(replica)
    replica.gateway.full = True
    device.publish(qos=0, payload=b"0")
    device.publish(payload=b"1")
    await settled(replica)
    assert values(replica) == [b"1"]
    assert publishes(replica, "dropped", 0) == 1
    assert publishes(replica, "stored") == 1


async def test_qos_0_is_kept_when_its_device_vanishes(replica: Replica) -> None:
    device = connected(replica)
    replica.gateway.hold()
    device.publish(qos=0)
    device.vanish()
    replica.gateway.release()
    assert values(replica) == [b"x"]


# ---- where it goes ----


async def test_the_destination_is_asked_for_once_per_topic_and_device(
    replica: Replica, destinations: list[str]
) -> None:
    one, two = connected(replica, "c1"), connected(replica, "c2")
    destinations.clear()
    for packet_id in (1, 2, 3):
        one.publish("tlink/a/up", packet_id=packet_id)
    assert destinations == [UP]
    one.publish("tlink/b/ota", packet_id=4)
    two.publish("tlink/a/up")
    assert destinations == [UP, "t_ota", UP]


async def test_a_topic_that_grew_is_asked_for_again(replica: Replica, destinations: list[str]) -> None:
    device = connected(replica)
    topic = "tlink/dev/1/up"
    assert md5_partition(topic.encode(), 4) != md5_partition(topic.encode(), 64)
    device.publish(topic, packet_id=1)
    await settled(replica)
    replica.gateway.add_partitions(UP, 64)
    device.publish(topic, packet_id=2)
    device.publish(topic, packet_id=3)
    await settled(replica)
    assert destinations[1:] == [UP, UP]
    partitions = {record.partition for record in replica.gateway.stored(UP)}
    assert partitions == {md5_partition(topic.encode(), 4), md5_partition(topic.encode(), 64)}


@BOTH
@pytest.mark.parametrize("reject", [False, True], ids=["drop", "reject"])
@pytest.mark.parametrize("topic", ["other/x", "xtlink/a", "TLINK/a", "$SYS/a", "$tlink/a"])
async def test_a_topic_that_no_rule_takes(version: int, reject: bool, topic: str) -> None:
    replica = Replica(unmatched="reject" if reject else "drop")
    device = connected(replica, "c1", version)
    await settled(replica)
    device.publish(topic)
    device.publish(topic, packet_id=2)
    device.publish(topic, qos=0)
    await turn()
    refused = reject or topic.startswith("$")
    reason = ReasonCode.TOPIC_NAME_INVALID if refused else ReasonCode.NO_MATCHING_SUBSCRIBERS
    assert device.take() == puback(1, reason, version) + puback(2, reason, version)
    assert not device.gone
    assert {topic for topic, _ in replica.gateway.log} == {"t_status"}
    assert (publishes(replica, "unmatched"), publishes(replica, "unmatched", 0)) == (2, 1)


async def test_more_than_a_window_of_answers_at_once(replica: Replica) -> None:
    device = connected(replica)
    message = Publish(TopicName("other", b"other"), b"", 1)
    packets = []
    for packet_id in range(1, 501):
        message.packet_id = packet_id
        packets.append(encode_packet(message, MQTT_3_1_1))
    device.send(b"".join(packets))
    for _ in range(5):
        await turn()
    assert device.take() == b"".join(puback(packet_id) for packet_id in range(1, 501))


@BOTH
async def test_a_partition_that_does_not_exist(caplog: pytest.LogCaptureFixture, version: int) -> None:
    replica = Replica(md5_partitions=64)
    replica.gateway.add_partitions("t_status", 64)
    topic = "tlink/dev/1/up"
    assert md5_partition(topic.encode(), 64) >= 4
    device = connected(replica, "c1", version)
    device.publish(topic)
    await turn()
    assert device.take() == puback(1, ReasonCode.TOPIC_NAME_INVALID, version)
    assert publishes(replica, "refused") == 1
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert vars(record)["topic"] == topic
    assert "4 partitions" in vars(record)["error"]


# ---- headers ----


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, []),
        ({"retain": True}, [("mqtt.retain", b"1")]),
        ({"dup": True, "packet_id": 9}, [("mqtt.dup", b"1"), ("mqtt.packet_id", b"9")]),
        ({"retain": True, "qos": 0}, [("mqtt.retain", b"1")]),
    ],
)
async def test_headers_that_come_when_they_say_something(
    replica: Replica, fields: dict[str, object], headers: list[tuple[str, bytes]]
) -> None:
    device = connected(replica, "c1")
    device.publish("tlink/a", **fields)  # type: ignore[arg-type]
    await settled(replica)
    (record,) = replica.gateway.stored(UP)
    assert record.headers == [("mqtt.topic", b"tlink/a"), ("mqtt.clientid", b"c1"), *headers]


async def test_one_message_with_a_header_leaves_the_next_without(replica: Replica) -> None:
    device = connected(replica, "c1")
    device.publish("tlink/a", packet_id=1, retain=True)
    device.publish("tlink/a", packet_id=2)
    await settled(replica)
    assert [len(record.headers) for record in replica.gateway.stored(UP)] == [3, 2]


@pytest.mark.parametrize(
    ("username", "expected"),
    [("ü&pk", [("mqtt.username", "ü&pk".encode())]), ("", [("mqtt.username", b"")]), (None, [])],
)
async def test_headers_that_were_asked_for(username: str | None, expected: list[tuple[str, bytes]]) -> None:
    replica = Replica(headers=["mqtt.qos", "mqtt.node", "mqtt.username", "mqtt.packet_id"])
    device = connected(replica, "c1", username=username)
    device.publish(packet_id=300)
    device.publish(qos=0)
    await settled(replica)
    first, second = replica.gateway.stored(UP)
    common = [("mqtt.node", b"node-7"), *expected]
    assert first.headers == [*common, ("mqtt.qos", b"1"), ("mqtt.packet_id", b"300")]
    assert second.headers == [*common, ("mqtt.qos", b"0")]


async def test_no_headers() -> None:
    replica = Replica(headers=[])
    connected(replica).publish()
    await settled(replica)
    assert replica.gateway.stored(UP)[0].headers == []


# ---- what else a device may send ----


@BOTH
async def test_nothing_is_granted_and_nothing_was_there_to_give_back(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    code = b"\x80" if version == MQTT_3_1_1 else b"\x87"
    subscribe = Subscribe(5, [Subscription("a/#", 1), Subscription("b")])
    device.send(encode_packet(subscribe, version))
    suback = device.take()
    assert (suback[0], suback[-2:]) == (0x90, code * 2)
    device.send(encode_packet(Unsubscribe(6, ["a", "b"]), version))
    unsuback = device.take()
    assert unsuback[0] == 0xB0
    assert unsuback.endswith(b"\x11\x11") == (version == MQTT_5_0)
    assert not device.gone


@BOTH
@pytest.mark.parametrize("packet", ["publish", "subscribe", "unsubscribe"])
async def test_nothing_follows_our_disconnect(replica: Replica, version: int, packet: str) -> None:
    device = connected(replica, "c1", version)
    first = {
        "publish": b"\x32\x08\x00\x03x/y\x00\x01" + b"\x00",
        "subscribe": encode_packet(Subscribe(1, [Subscription("a")]), version),
        "unsubscribe": encode_packet(Unsubscribe(1, ["a"]), version),
    }[packet]
    device.send(first + MALFORMED)
    await turn()
    await turn()
    assert device.gone
    assert device.take() == disconnect(ReasonCode.MALFORMED_PACKET, version)


# ---- the will ----


@pytest.mark.parametrize("leave", [Device.vanish, lambda device: device.send(MALFORMED)], ids=["vanishes", "malformed"])
async def test_a_will_is_published_when_its_device_is_lost(replica: Replica, leave: Callable[[Device], object]) -> None:
    topic = "tlink/a/last"
    device = connected(replica, "c1", will=Will(TopicName(topic, topic.encode()), b"gone", qos=1, retain=True))
    leave(device)
    await until(lambda: len(replica.told()) == 2, "the status record")
    (record,) = replica.gateway.stored(UP)
    assert (record.key, record.value) == (topic.encode(), b"gone")
    assert record.headers == [
        ("mqtt.topic", topic.encode()),
        ("mqtt.clientid", b"c1"),
        ("mqtt.retain", b"1"),
        # Its connection began with the first record of the session log and ended with the second.
        ("mqk.offset", b"1"),
        ("mqk.epoch", b"0"),
    ]


async def test_a_will_goes_with_a_normal_disconnect(replica: Replica) -> None:
    device = connected(replica, will=Will(TopicName("tlink/w", b"tlink/w"), b"gone"))
    device.disconnect()
    await until(lambda: len(replica.told()) == 2, "the status record")
    assert values(replica) == []


async def test_a_will_that_no_rule_takes_is_counted(replica: Replica) -> None:
    connected(replica, will=Will(TopicName("x", b"x"), b"gone")).vanish()
    await until(lambda: len(replica.told()) == 2, "the status record")
    assert publishes(replica, "unmatched", 0) == 1
