"""Rules that need more than a look-up: templates, envelopes, several targets and clusters, and refusals."""

import json
from typing import Any

import msgpack
import pytest

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.flows.forwarding import Joint
from proxy.kafka.batches import md5_partition
from proxy.kafka.dead_letters import DeadLetters
from proxy.mqtt.packets import (
    CONTENT_TYPE,
    CORRELATION_DATA,
    MESSAGE_EXPIRY_INTERVAL,
    MQTT_3_1_1,
    MQTT_5_0,
    PAYLOAD_FORMAT_INDICATOR,
    RESPONSE_TOPIC,
    TOPIC_ALIAS,
    USER_PROPERTY,
    ReasonCode,
)
from proxy.policy.partitioners import murmur2_partition
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes
from tests.flows.harness import Replica, connected, disconnect, puback
from tests.support.fakes import turn, until
from tests.support.kafka_broker import Record

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
DEAD = "t_dead_letter"


def obeying(*rules: RuleSpec, allowed: list[str] | None = None, match_all: bool = False, **options: Any) -> Replica:
    clusters = options.get("clusters", ())
    context = RoutingContext(
        "t_", "node-7", allowed_topics=allowed or [], clusters={"", *clusters}, match_all=match_all
    )
    return Replica(rules=rules, context=context, **options)


def with_dead_letters(replica: Replica) -> Replica:
    for gateway in (replica.gateway, *replica.others.values()):
        gateway.add_topic(DEAD, 1)
        gateway.dead_letters = DeadLetters(gateway, DEAD, replica.metrics.kafka.dead_letters)
    return replica


async def settled(replica: Replica) -> None:
    for gateway in (replica.gateway, *replica.others.values()):
        assert await gateway.flush(5.0) == 0
        assert gateway.bugs == []
    await turn()
    assert replica.listener.bugs == 0


def publishes(replica: Replica, result: str, qos: int = 1) -> float:
    return replica.count("mqk_publishes_total", qos=str(qos), result=result)


def dead(replica: Replica) -> list[Record]:
    return replica.gateway.stored(DEAD)


# ---- templates ----


async def test_topic_key_and_headers_from_device_data() -> None:
    rule = RuleSpec(
        ["${prefix}${plant}-${topic.3}"], "alarms", filter="plants/{plant}/+/alarm", key="${clientid}:${plant}",
        headers={"plant": "${plant}", "user": "${username}", "from": "${peer}", "node": "${node}"},
    )  # fmt: skip
    replica = obeying(rule)
    replica.gateway.add_topic("t_berlin-l7", 4)
    device = connected(replica, "c1", username="u")
    device.publish("plants/berlin/l7/alarm", b"!")
    await settled(replica)
    (record,) = replica.gateway.stored("t_berlin-l7")
    assert (record.key, record.value) == (b"c1:berlin", b"!")
    assert record.partition == md5_partition(b"c1:berlin", 4)
    assert record.headers == [
        ("mqtt.topic", b"plants/berlin/l7/alarm"), ("mqtt.clientid", b"c1"), ("plant", b"berlin"), ("user", b"u"),
        ("from", b"10.0.0.1"), ("node", b"node-7"),
    ]  # fmt: skip


async def test_a_header_that_says_nothing_is_left_out() -> None:
    replica = obeying(RuleSpec(["t_a"], filter="#", headers={"user": "${username}", "always": "x${username}"}))
    connected(replica).publish("a")
    await settled(replica)
    (record,) = replica.gateway.stored("t_a")
    assert [name for name, _ in record.headers] == ["mqtt.topic", "mqtt.clientid", "always"]


async def test_variables_of_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.flows.client.wall_ms", lambda: 1_652_084_485_000)
    rule = RuleSpec(
        ["${prefix}${prop.region}", "t_all"], filter="#", key="${qos}-${prop.region}",
        headers={"ts": "${ts}", "retained": "${retain}"},
    )  # fmt: skip
    replica = obeying(rule)
    for topic in ("t_eu", "t_us"):
        replica.gateway.add_topic(topic, 4)
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("a", b"1", properties={USER_PROPERTY: [("region", "eu")]})
    device.publish("a", b"2", qos=2, packet_id=2, retain=True, properties={USER_PROPERTY: [("region", "us")]})
    await settled(replica)
    (eu,), (us,) = replica.gateway.stored("t_eu"), replica.gateway.stored("t_us")
    assert (eu.key, eu.value, us.key, us.value) == (b"1-eu", b"1", b"2-us", b"2")
    said = ("ts", b"1652084485000")
    usual = [("mqtt.topic", b"a"), ("mqtt.clientid", b"c1")]
    assert eu.headers == [*usual, said, ("retained", b"0")]
    assert us.headers == [*usual, said, ("retained", b"1"), ("mqtt.retain", b"1")]
    assert sorted(record.value or b"" for record in replica.gateway.stored("t_all")) == [b"1", b"2"]
    assert device.take() == puback(1) + b"\x50\x02\x00\x02"
    assert (publishes(replica, "stored", 1), publishes(replica, "stored", 2)) == (1, 1)


@pytest.mark.parametrize("value", ["json", "msgpack"])
async def test_envelopes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr("proxy.flows.client.wall_ms", lambda: 5)
    replica = obeying(RuleSpec(["t_a"], filter="#", value=value))
    connected(replica, "c1", username="u").publish("a/b", b"hi", retain=True)
    await settled(replica)
    (record,) = replica.gateway.stored("t_a")
    said = json.loads(record.value or b"") if value == "json" else msgpack.unpackb(record.value or b"")
    assert {name: said[name] for name in ("topic", "clientid", "username", "qos", "retain", "ts")} == {
        "topic": "a/b", "clientid": "c1", "username": "u", "qos": 1, "retain": True, "ts": 5,
    }  # fmt: skip
    assert said["payload"] == ("hi" if value == "json" else b"hi")


@pytest.mark.parametrize(
    ("partitioner", "partitions"),
    [("round_robin", [0, 1, 2, 3, 0]), ("fixed:2", [2] * 5), ("murmur2", [murmur2_partition(b"a", 4)] * 5)],
)
async def test_partitioners(partitioner: str, partitions: list[int]) -> None:
    replica = obeying(RuleSpec(["t_a"], filter="#", partitioner=partitioner))
    device = connected(replica)
    for number in range(5):
        device.publish("a", b"%d" % number, packet_id=number + 1)
    await settled(replica)
    found = {record.value: record.partition for record in replica.gateway.stored("t_a")}
    assert found == {b"%d" % number: partition for number, partition in enumerate(partitions)}


async def test_a_partition_that_is_not_there_is_a_dead_letter() -> None:
    replica = with_dead_letters(obeying(RuleSpec(["t_a"], "far", filter="#", partitioner="fixed:4")))
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("a", b"x")
    await settled(replica)
    (record,) = dead(replica)
    assert dict(record.headers)["mqk.cause"] == b"unknown_topic"
    assert b"4 partitions, no 4" in dict(record.headers)["mqk.error"]
    assert device.take() == puback(1)


# ---- the hot path ----


async def test_what_needs_no_more_than_a_look_up_is_decided_once() -> None:
    rule = RuleSpec(["t_a"], filter="{a}/#", key="${clientid}", headers={"a": "${a}"}, partitioner="murmur2")
    replica = obeying(rule)
    device = connected(replica, "c1")
    asked: list[str] = []
    match = replica.uplink.routes.match
    replica.uplink.routes.match = lambda name: asked.append(name) or match(name)  # type: ignore[method-assign,func-returns-value]
    for packet_id in (1, 2, 3):
        device.publish("x/y", packet_id=packet_id)
    await settled(replica)
    assert asked == ["x/y"]
    first, second, third = replica.gateway.stored("t_a")
    assert first.headers == second.headers == third.headers
    assert dict(first.headers)["a"] == b"x"


async def test_a_device_with_a_new_topic_for_each_message_is_bounded() -> None:
    replica = obeying(RuleSpec(["t_a", "t_b"], filter="#", key="${topic}", headers={"t": "${topic}"}))
    device = connected(replica)
    topics = device.connection.protocol._topics
    for number in range(limits.TOPICS_CACHED_PER_CONNECTION_MAX * 3):
        device.publish(f"new/{number}", packet_id=number + 1)
        assert len(topics) <= limits.TOPICS_CACHED_PER_CONNECTION_MAX
        if number % 50 == 49:
            await settled(replica)
    await settled(replica)
    assert sum(name.decision is not None for name in topics.values()) <= limits.TOPICS_CACHED_PER_CONNECTION_MAX
    assert len(replica.gateway.stored("t_a")) == limits.TOPICS_CACHED_PER_CONNECTION_MAX * 3
    assert len(replica.uplink.clients["device"]._joint or "") == 0


# ---- several targets ----


@BOTH
@pytest.mark.parametrize("qos", [1, 2])
async def test_it_is_acknowledged_when_all_targets_have_it(version: int, qos: int) -> None:
    replica = obeying(RuleSpec(["t_a", "t_b@backup", "t_c"], filter="#"), clusters=["backup"])
    device = connected(replica, "c1", version)
    replica.gateway.hold()
    replica.others["backup"].hold()
    device.publish("x", b"hi", qos=qos)
    replica.gateway.release()
    await turn()
    assert [len(replica.gateway.stored(topic)) for topic in ("t_a", "t_c")] == [1, 1]
    assert device.take() == b""
    replica.others["backup"].release()
    await turn()
    assert device.take() == (puback(1) if qos == 1 else b"\x50\x02\x00\x01")
    (record,) = replica.others["backup"].stored("t_b")
    assert (record.key, record.value) == (b"x", b"hi")
    assert publishes(replica, "stored", qos) == 1
    assert len(replica.uplink.clients["c1"]._joint or "") == 0


async def test_all_rules_that_match_take_it() -> None:
    replica = obeying(
        RuleSpec(["t_a"], "one", filter="x/#"), RuleSpec(["t_b"], "two", prefix="x"), RuleSpec(["t_c"], filter="y"),
        match_all=True,
    )  # fmt: skip
    device = connected(replica)
    device.publish("x/1", packet_id=1)
    device.publish("xy", packet_id=2)
    await settled(replica)
    assert [len(replica.gateway.stored(topic)) for topic in ("t_a", "t_b", "t_c")] == [1, 2, 0]
    assert device.take() == puback(1) + puback(2)
    assert publishes(replica, "stored") == 2


async def test_qos_0_to_several_targets_is_counted_once() -> None:
    replica = obeying(RuleSpec(["t_a", "t_b"], filter="#"))
    device = connected(replica)
    for _ in range(3):
        device.publish("x", qos=0)
    await settled(replica)
    assert [len(replica.gateway.stored(topic)) for topic in ("t_a", "t_b")] == [3, 3]
    assert publishes(replica, "stored", 0) == 3
    assert len(replica.uplink.joint) == 0


@BOTH
async def test_one_refusal_of_several_is_told(version: int) -> None:
    replica = obeying(RuleSpec(["t_a", "t_b@backup"], filter="#"), clusters=["backup"])
    replica.others["backup"].error = GatewayError("no", Refusal.TOO_LARGE)
    device = connected(replica, "c1", version)
    device.publish("x")
    await settled(replica)
    assert device.take() == puback(1, ReasonCode.QUOTA_EXCEEDED, version)
    assert (publishes(replica, "refused"), publishes(replica, "stored")) == (1, 0)


@BOTH
async def test_one_unknown_outcome_of_several_closes_the_connection(version: int) -> None:
    replica = obeying(RuleSpec(["t_a", "t_b@one", "t_c@two"], filter="#"), clusters=["one", "two"])
    replica.others["one"].error = GatewayError("not in time")
    replica.others["two"].error = GatewayError("no", Refusal.TOO_LARGE)
    device = connected(replica, "c1", version)
    device.publish("x")
    await until(lambda: device.gone, "the goodbye")
    assert device.take() == disconnect(ReasonCode.SERVER_BUSY, version)
    assert publishes(replica, "undelivered") == 1


async def test_a_device_that_goes_takes_all_its_records_with_it() -> None:
    replica = obeying(RuleSpec(["t_a", "t_b@backup"], filter="#"), clusters=["backup"])
    device = connected(replica)
    replica.gateway.hold()
    replica.others["backup"].hold()
    device.publish("x")
    device.vanish()
    await turn()
    replica.gateway.release()
    replica.others["backup"].release()
    await settled(replica)
    assert replica.gateway.stored("t_a") == []
    assert replica.others["backup"].stored("t_b") == []


def test_the_gravest_outcome_counts() -> None:
    told: list[tuple[list[int], GatewayError | None, float]] = []

    class Recipient:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            told.append((tokens, error, seconds))

    joint = Joint(Recipient())
    unknown, refused, other = (
        GatewayError("?"),
        GatewayError("no", Refusal.INVALID),
        GatewayError("no", Refusal.TOO_LARGE),
    )
    for token, outcomes in enumerate(
        [(None, None), (refused, None), (None, unknown), (unknown, refused), (refused, other)]
    ):
        joint.expect(token, 2)
        for outcome in outcomes:
            joint.settle([token], outcome, 0.5)
    assert told == [([0], None, 0.5), ([1], refused, 0.5), ([2], unknown, 0.5), ([3], unknown, 0.5), ([4], other, 0.5)]
    assert len(joint) == 0


def test_a_run_of_messages_is_one_answer() -> None:
    told: list[list[int]] = []

    class Recipient:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            told.append(tokens)

    joint = Joint(Recipient())
    for token in range(5):
        joint.expect(token, 2)
    joint.settle([0, 1, 2, 3, 4], None, 0.1)
    assert told == []
    joint.settle([0, 1, 2], None, 0.1)
    joint.settle([3, 4], None, 0.1)
    assert told == [[0, 1, 2], [3, 4]]


# ---- back-pressure of a further cluster ----


async def test_who_sends_to_a_congested_further_cluster_is_held() -> None:
    replica = obeying(
        RuleSpec(["t_b@backup"], filter="far/#"), RuleSpec(["t_a"], filter="near"), clusters=["backup"]
    )  # fmt: skip
    backup = replica.others["backup"]
    backup.on_relief = replica.listener.relieve
    backup.queue_bytes_max = 2_000
    backup.hold()
    far, near = connected(replica, "far"), connected(replica, "near")
    for packet_id in range(1, 20):
        far.publish("far/x", bytes(100), packet_id=packet_id)
        near.publish("near", packet_id=packet_id)
    await settled_default(replica)
    assert replica.listener.held == 1
    assert near.take() == b"".join(puback(packet_id) for packet_id in range(1, 20))
    backup.release()
    await until(lambda: len(backup.stored("t_b")) == 19, "everything is delivered")
    await turn()
    assert replica.listener.held == 0
    assert far.take() == b"".join(puback(packet_id) for packet_id in range(1, 20))


async def settled_default(replica: Replica) -> None:
    assert await replica.gateway.flush(5.0) == 0
    await turn()


async def test_qos_0_is_dropped_while_one_of_its_clusters_is_full() -> None:
    replica = obeying(RuleSpec(["t_a", "t_b@backup"], filter="#"), clusters=["backup"])
    replica.others["backup"].full = True
    connected(replica).publish("x", qos=0)
    await settled(replica)
    assert replica.gateway.stored("t_a") == []
    assert publishes(replica, "dropped", 0) == 1


# ---- what is never produced ----


def alarms(**fields: Any) -> RuleSpec:
    return RuleSpec(["${prefix}${topic.2}"], "alarms", filter="alarms/#", **fields)


REFUSED = [
    ("alarms/" + "x" * 300, "topic_invalid", ReasonCode.TOPIC_NAME_INVALID),
    ("alarms/größe", "topic_invalid", ReasonCode.TOPIC_NAME_INVALID),
]


@BOTH
@pytest.mark.parametrize(("topic", "cause", "reason"), REFUSED)
async def test_a_name_that_no_topic_has(version: int, topic: str, cause: str, reason: ReasonCode) -> None:
    replica = obeying(alarms())
    device = connected(replica, "c1", version)
    device.publish(topic)
    device.publish(topic, packet_id=2)
    await settled(replica)
    assert device.take() == puback(1, reason, version) + puback(2, reason, version)
    assert publishes(replica, "refused") == 2
    assert not device.gone


@BOTH
@pytest.mark.parametrize(
    ("rule", "allowed", "topic", "cause", "named", "reason"),
    [
        (alarms(), None, "alarms/" + "x" * 300, "topic_invalid", "t_" + "x" * 247, ReasonCode.TOPIC_NAME_INVALID),
        (RuleSpec(["${prefix}${topic}"], "alarms", filter="#"), None, "alarms/b", "topic_invalid", "t_alarms/b",
         ReasonCode.TOPIC_NAME_INVALID),
        (RuleSpec(["${topic.2}"], "alarms", filter="#"), ["*"], "a/_mqk_x", "topic_internal", "_mqk_x",
         ReasonCode.NOT_AUTHORIZED),
        (alarms(), ["t_a*"], "alarms/b", "topic_not_allowed", "t_b", ReasonCode.NOT_AUTHORIZED),
        (RuleSpec(["${topic.2}"], "alarms", filter="#"), None, "a/b", "topic_not_allowed", "b",
         ReasonCode.NOT_AUTHORIZED),
        (RuleSpec(["t_small"], "alarms", filter="#", payload_bytes_max=2), None, "a", "payload_bytes_max", "t_small",
         ReasonCode.QUOTA_EXCEEDED),
    ],
    ids=["long", "slash", "internal", "not allowed", "not allowed by default", "large"],
)  # fmt: skip
async def test_what_routing_refuses(
    version: int, rule: RuleSpec, allowed: list[str] | None, topic: str, cause: str, named: str, reason: ReasonCode
) -> None:
    replica = obeying(rule, allowed=allowed)
    device = connected(replica, "c1", version)
    device.publish(topic, b"pay")
    await settled(replica)
    assert device.take() == puback(1, reason, version)

    replica = with_dead_letters(obeying(rule, allowed=allowed))
    device = connected(replica, "c1", version)
    device.publish(topic, b"pay", retain=True)
    device.publish(topic, b"pay", qos=0)
    await settled(replica)
    assert device.take() == puback(1)
    record, other = dead(replica)
    assert (record.key, record.value) == (topic.encode(), b"pay")
    said = dict(record.headers)
    assert (said["mqk.cause"], said["mqk.rule"], said["mqk.topic"]) == (cause.encode(), b"alarms", named.encode())
    assert (said["mqtt.clientid"], said["mqtt.topic"], said["mqtt.retain"]) == (b"c1", topic.encode(), b"1")
    assert dict(other.headers)["mqk.cause"] == cause.encode()


async def test_a_poisoned_message_harms_no_neighbour() -> None:
    replica = with_dead_letters(obeying(alarms()))
    replica.gateway.add_topic("t_a", 4)
    device = connected(replica)
    device.publish("alarms/a", b"1", packet_id=1)
    device.publish("alarms/ä", b"2", packet_id=2)
    device.publish("alarms/a", b"3", packet_id=3)
    await settled(replica)
    assert [record.value for record in replica.gateway.stored("t_a")] == [b"1", b"3"]
    assert device.take() == puback(1) + puback(2) + puback(3)


async def test_one_bad_target_of_two_is_a_dead_letter_and_the_other_has_it() -> None:
    replica = with_dead_letters(obeying(RuleSpec(["t_all", "${prefix}${topic.2}"], filter="a/#")))
    device = connected(replica)
    device.publish("a/ä", b"x")
    await settled(replica)
    assert ([record.value for record in replica.gateway.stored("t_all")], len(dead(replica))) == ([b"x"], 1)
    assert device.take() == puback(1)


async def test_the_limit_itself_is_no_reason() -> None:
    replica = obeying(RuleSpec(["t_a"], filter="#", payload_bytes_max=3))
    connected(replica).publish("a", b"pay")
    await settled(replica)
    assert len(replica.gateway.stored("t_a")) == 1


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_no_rule_takes_can_be_a_dead_letter(qos: int) -> None:
    replica = with_dead_letters(obeying(RuleSpec(["t_a"], filter="a"), unmatched="dead_letter"))
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("other", b"x", qos=qos)
    await settled(replica)
    (record,) = dead(replica)
    said = dict(record.headers)
    assert (record.key, record.value, said["mqk.cause"], said["mqtt.clientid"]) == (b"other", b"x", b"unmatched", b"c1")
    assert device.take() == {0: b"", 1: puback(1), 2: b"\x50\x02\x00\x01"}[qos]
    device.publish("$SYS/x", packet_id=9)
    await settled(replica)
    assert device.take() == puback(9, ReasonCode.TOPIC_NAME_INVALID, MQTT_5_0)
    assert len(dead(replica)) == 1


async def test_an_unmatched_qos_0_is_dropped_while_the_queue_is_full() -> None:
    replica = with_dead_letters(obeying(RuleSpec(["t_a"], filter="a"), unmatched="dead_letter"))
    device = connected(replica)
    replica.gateway.full = True
    device.publish("other", qos=0)
    await settled(replica)
    assert (dead(replica), publishes(replica, "dropped", 0)) == ([], 1)


# ---- headers of 5.0 ----

ALL = [
    "mqtt.clientid", "mqtt.payload_format", "mqtt.message_expiry", "mqtt.content_type", "mqtt.response_topic",
    "mqtt.correlation_data", "mqtt.user_properties",
]  # fmt: skip
PROPERTIES = {
    PAYLOAD_FORMAT_INDICATOR: 1,
    MESSAGE_EXPIRY_INTERVAL: 60,
    CONTENT_TYPE: "text/plain",
    RESPONSE_TOPIC: "answers/1",
    CORRELATION_DATA: b"\x00\xff",
    USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "ü"), ("mqtt.clientid", "forged"), ("traceparent", "00-1-2-03")],
}


async def sent(headers: list[str], properties: dict[int, Any]) -> list[tuple[str, bytes]]:
    replica = Replica(headers=headers)
    connected(replica, "c1", MQTT_5_0).publish(payload=b"text", properties=properties)
    await settled(replica)
    (record,) = replica.gateway.stored("t_msg")
    return record.headers


async def test_all_properties_become_headers() -> None:
    assert await sent(ALL, PROPERTIES) == [
        ("mqtt.clientid", b"c1"),
        ("mqtt.payload_format", b"1"),
        ("mqtt.message_expiry", b"60"),
        ("mqtt.content_type", b"text/plain"),
        ("mqtt.response_topic", b"answers/1"),
        ("mqtt.correlation_data", b"\x00\xff"),
        ("mqtt.user.b", b"1"),
        ("mqtt.user.a", b"2"),
        ("mqtt.user.b", "ü".encode()),
        # Its own header cannot be forged.
        ("mqtt.user.mqtt.clientid", b"forged"),
        ("mqtt.user.traceparent", b"00-1-2-03"),
        ("traceparent", b"00-1-2-03"),
    ]


async def test_what_is_not_there_is_no_header() -> None:
    assert await sent(ALL, {CONTENT_TYPE: "x"}) == [("mqtt.clientid", b"c1"), ("mqtt.content_type", b"x")]


async def test_without_being_asked_only_the_trace_passes_through() -> None:
    assert await sent(["mqtt.clientid"], PROPERTIES) == [("mqtt.clientid", b"c1"), ("traceparent", b"00-1-2-03")]
    assert await sent(["mqtt.clientid"], {TOPIC_ALIAS: 1}) == [("mqtt.clientid", b"c1")]


async def test_headers_of_one_message_count_as_its_bytes() -> None:
    replica = Replica(headers=ALL)
    device = connected(replica, "c1", MQTT_5_0)
    await settled(replica)
    replica.gateway.hold()
    device.publish()
    plain = replica.gateway.status().queued_bytes
    device.publish(packet_id=2, properties={USER_PROPERTY: [("a", "x" * 10_000)]})
    assert replica.gateway.status().queued_bytes > 2 * plain + 10_000
    replica.gateway.release()
    await settled(replica)


@pytest.mark.parametrize(
    "pairs",
    [[("a", "x" * 60_000)] * 4, [("", "")] * (limits.HEADERS_PER_RECORD_MAX + 1)],
    ids=["too many bytes", "too many"],
)
async def test_more_headers_than_a_record_may_have(pairs: list[tuple[str, str]]) -> None:
    replica = Replica(headers=ALL)
    replica.listener.session_limits.publish_bytes_max = 1_000_000
    device = connected(replica, "c1", MQTT_5_0)
    device.publish(properties={USER_PROPERTY: pairs})
    await settled(replica)
    assert device.take() == puback(1, ReasonCode.QUOTA_EXCEEDED, MQTT_5_0)

    with_dead_letters(replica)
    device.publish(properties={USER_PROPERTY: pairs})
    await settled(replica)
    (record,) = dead(replica)
    assert record.headers[0] == ("mqtt.clientid", b"c1")
    assert dict(record.headers)["mqk.cause"] == b"headers_too_large"
    assert sum(len(name) + len(value) for name, value in record.headers) <= limits.HEADER_BYTES_MAX + 2_000
    assert len(record.headers) <= limits.HEADERS_PER_RECORD_MAX + 5


async def test_rule_headers_that_are_too_large_are_known_before_the_message() -> None:
    replica = obeying(RuleSpec(["t_a"], filter="#", headers={str(number): "${topic}" for number in range(5)}))
    replica.listener.session_limits.publish_bytes_max = 1_000_000
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("x" * 60_000)
    await settled(replica)
    assert device.take() == puback(1, ReasonCode.QUOTA_EXCEEDED, MQTT_5_0)


async def test_a_payload_that_is_not_what_it_promises_goes_to_no_target() -> None:
    replica = obeying(RuleSpec(["t_a", "t_b"], filter="#"))
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("a", b"\xff", properties={PAYLOAD_FORMAT_INDICATOR: 1})
    await settled(replica)
    assert device.take() == puback(1, ReasonCode.PAYLOAD_FORMAT_INVALID, MQTT_5_0)
    assert replica.gateway.stored("t_a") == []


# ---- new rules ----


async def test_new_rules_hold_for_topics_that_were_decided() -> None:
    replica = obeying(RuleSpec(["t_a"], filter="#"))
    device = connected(replica)
    device.publish("x", b"1", packet_id=1)
    replica.gateway.add_topic("t_b")
    replica.uplink.use_routes(compile_routes([RuleSpec(["t_b"], filter="#")], RoutingContext("t_")))
    device.publish("x", b"2", packet_id=2)
    await settled(replica)
    assert [record.value for record in replica.gateway.stored("t_a")] == [b"1"]
    assert [record.value for record in replica.gateway.stored("t_b")] == [b"2"]
    assert device.take() == puback(1) + puback(2)


@pytest.mark.parametrize("target", ["t_a", "t_a@backup"])
async def test_a_partition_that_comes_later_is_found(target: str) -> None:
    replica = obeying(RuleSpec([target], filter="#", partitioner="fixed:4"), clusters=["backup"])
    gateway = replica.others["backup"] if "@" in target else replica.gateway
    device = connected(replica, "c1", MQTT_5_0)
    device.publish("a", b"1", packet_id=1)
    gateway.add_partitions("t_a", 8)
    device.publish("a", b"2", packet_id=2)
    await settled(replica)
    assert [(record.partition, record.value) for record in gateway.stored("t_a")] == [(4, b"2")]
    assert device.take() == puback(1, ReasonCode.TOPIC_NAME_INVALID, MQTT_5_0) + puback(2)
