"""Rules of one's own, through the real process into a real Kafka."""

import base64
import json
import time
from collections.abc import Mapping, Sequence

import msgpack
import pytest

from proxy.policy.partitioners import murmur2_partition
from tests.e2e.conftest import StartProxy
from tests.support.device import Device, text
from tests.support.kafka_broker import KafkaBroker, Record
from tests.support.proxy import ProxyProcess

SUCCESS, NOT_AUTHORIZED, TOPIC_NAME_INVALID, QUOTA_EXCEEDED = 0x00, 0x87, 0x90, 0x97
#: A reload takes milliseconds; the machine may be busy.
RELOAD_TIMEOUT_SECONDS = 20.0


def user_property(name: str, value: str) -> bytes:
    return b"\x26" + text(name) + text(value)


def publish(
    proxy: ProxyProcess, messages: Sequence[tuple[str, bytes]], version: int = 5, **options: object
) -> list[int]:
    """One device sends these at QoS 1; the reason codes of their PUBACKs."""
    with Device(proxy.port, version) as device:
        device.connect("c1", username="dev1&pk1")
        return [
            device.publish_acknowledged(topic, payload, packet_id=number, **options)
            for number, (topic, payload) in enumerate(messages, 1)
        ]


def by_value(kafka: KafkaBroker, topic: str) -> Mapping[bytes, Record]:
    return {record.value or b"": record for record in kafka.read(topic)}


def said(record: Record) -> dict[str, bytes]:
    return dict(record.headers)


def test_filters_prefixes_and_expressions_in_their_order(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    rules = [
        {"name": "alarms", "regex": "^plants/(?P<plant>[^/]+)/.*alarm", "topic": "${prefix}alarms", "key": "${plant}"},
        {"name": "ota", "filter": "tlink/{pk}/{dn}/ota/#", "topic": "${prefix}ota", "key": "${pk}/${dn}",
         "headers": {"product": "${pk}", "level": "${topic.5}"}},
        {"name": "legacy", "prefix": "tlink/", "contains": "register", "topic": "${prefix}register"},
        {"name": "rest", "filter": "#", "topic": "${prefix}rest"},
    ]  # fmt: skip
    proxy = start_proxy({"routing.rules": rules})
    topics = ["plants/berlin/l1/alarm", "tlink/p/d/ota/v2", "tlink/p/d/ota", "tlink/p/sub/register", "x/y"]
    assert publish(proxy, [(topic, topic.encode()) for topic in topics]) == [SUCCESS] * 5
    found = {
        topic: {(record.key, record.value) for record in kafka.read(proxy.topic_prefix + topic)}
        for topic in ("alarms", "ota", "register", "rest")
    }
    assert found == {
        "alarms": {(b"berlin", b"plants/berlin/l1/alarm")},
        "ota": {(b"p/d", b"tlink/p/d/ota/v2"), (b"p/d", b"tlink/p/d/ota")},
        "register": {(b"tlink/p/sub/register",) * 2},
        "rest": {(b"x/y",) * 2},
    }
    ota = by_value(kafka, f"{proxy.topic_prefix}ota")
    assert said(ota[b"tlink/p/d/ota/v2"])["level"] == b"v2"
    assert {name for name, _ in ota[b"tlink/p/d/ota"].headers} == {"mqtt.topic", "mqtt.clientid", "product"}


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_several_targets_envelopes_and_partitioners(start_proxy: StartProxy, kafka: KafkaBroker, version: int) -> None:
    rules = [
        {"name": "murmur2", "filter": "m/#", "topic": ["${prefix}m", "${prefix}all"], "partitioner": "murmur2"},
        {"name": "json", "filter": "j/#", "topic": "${prefix}j", "value": "json", "partitioner": "round_robin"},
        {"name": "msgpack", "filter": "p/#", "topic": "${prefix}p", "value": "msgpack", "partitioner": "fixed:3"},
        {"name": "every", "prefix": "", "topic": "${prefix}every", "partitioner": "sticky"},
    ]
    proxy = start_proxy({"routing.rules": rules, "routing.match": "all"})
    keys = [f"m/{number}" for number in range(40)]
    before = time.time() * 1000
    messages = [(key, key.encode()) for key in keys] + [("j/1", b"text"), ("j/2", b"\xff\x00"), ("p/1", b"\xff\x00")]
    assert set(publish(proxy, messages, version)) == {SUCCESS}
    for topic in ("m", "all"):
        records = kafka.read(proxy.topic_prefix + topic)
        assert {(record.key or b"").decode(): record.partition for record in records} == {
            key: murmur2_partition(key.encode(), 4) for key in keys
        }
    first, second = sorted(kafka.read(f"{proxy.topic_prefix}j"), key=lambda record: record.key or b"")
    assert {first.partition, second.partition} == {0, 1}
    envelope = json.loads(first.value or b"")
    assert before - 2_000 < envelope.pop("ts") < before + 60_000
    assert envelope == {
        "topic": "j/1", "clientid": "c1", "username": "dev1&pk1", "qos": 1, "retain": False, "payload": "text",
        "payload_encoding": "utf-8",
    }  # fmt: skip
    assert base64.b64decode(json.loads(second.value or b"")["payload"]) == b"\xff\x00"
    (packed,) = kafka.read(f"{proxy.topic_prefix}p")
    assert (packed.partition, msgpack.unpackb(packed.value or b"")["payload"]) == (3, b"\xff\x00")
    assert len(kafka.read(f"{proxy.topic_prefix}every")) == len(messages)


def test_topics_made_of_device_data(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    """The third point of what must be shown: internal, unknown, 300 characters, with a slash."""
    rules = [{"name": "by level", "filter": "to/#", "topic": "${prop.topic}"}]
    kafka.create_topic("made-berlin", 4)
    proxy = start_proxy(
        {
            "routing.rules": rules, "routing.allowed_topics": ["made-*", "_ours_*"],
            "kafka.internal_prefix": "_ours_",
            "kafka.delivery_timeout_seconds": 3,
        }
    )  # fmt: skip
    causes = {
        "_ours_sessions": b"topic_internal",
        "made-" + "x" * 295: b"topic_invalid",
        "made-a/b": b"topic_invalid",
        "other": b"topic_not_allowed",
        "made-nowhere": b"unknown_topic",
    }
    with Device(proxy.port, 5) as device:
        device.connect("c1")
        for packet_id, topic in enumerate(["made-berlin", *causes, "made-berlin"], 1):
            properties = user_property("topic", topic)
            device.publish(f"to/{packet_id}", topic.encode(), packet_id=packet_id, properties=properties)
        assert [device.puback(packet_id) for packet_id in range(1, 8)] == [SUCCESS] * 7
    assert [record.value for record in kafka.read("made-berlin")] == [b"made-berlin"] * 2
    letters = by_value(kafka, f"{proxy.topic_prefix}dead_letter")
    assert {topic: said(letters[topic.encode()])["mqk.cause"] for topic in causes} == causes
    assert {said(letter)["mqk.rule"] for letter in letters.values()} == {b"by level"}
    assert said(letters[b"made-a/b"])["mqk.topic"] == b"made-a/b"
    assert proxy.metric('mqk_dead_letters_total{cause="topic_invalid"}') == 2


def test_without_dead_letters_the_device_hears_of_it(start_proxy: StartProxy) -> None:
    rules = [
        {"filter": "small", "topic": "${prefix}small", "payload_bytes_max": 2},
        {"filter": "+/#", "topic": "${topic.2}"},
    ]
    proxy = start_proxy({"routing.rules": rules, "routing.dead_letter": False})
    messages = [("small", b"pay"), ("a/_mqk_x", b""), ("a/ä", b""), ("a/other", b""), ("small", b"ok")]
    expected = [QUOTA_EXCEEDED, NOT_AUTHORIZED, TOPIC_NAME_INVALID, NOT_AUTHORIZED, SUCCESS]
    assert publish(proxy, messages) == expected
    assert publish(proxy, messages, version=4) == [SUCCESS] * 5
    assert proxy.metric('mqk_publishes_total{qos="1",result="refused"}') == 8


def test_unmatched_messages_can_be_kept(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"routing.rules": [{"filter": "a", "topic": "${prefix}a"}], "routing.unmatched": "dead_letter"})
    assert publish(proxy, [("b/c", b"kept"), ("$SYS/b", b"never")]) == [SUCCESS, TOPIC_NAME_INVALID]
    (letter,) = kafka.read(f"{proxy.topic_prefix}dead_letter")
    assert (letter.key, letter.value, said(letter)["mqk.cause"]) == (b"b/c", b"kept", b"unmatched")


def test_a_target_on_another_cluster(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    rules = [{"filter": "#", "topic": ["${prefix}here", "${prefix}there@backup"]}]
    clusters = {"backup": {"bootstrap_servers": [kafka.bootstrap], "partitions": 2, "replication_factor": 1}}
    proxy = start_proxy({"routing.rules": rules, "kafka.clusters": clusters})
    assert publish(proxy, [("a", b"1"), ("b", b"2")]) == [SUCCESS] * 2
    for topic in ("here", "there"):
        assert set(by_value(kafka, proxy.topic_prefix + topic)) == {b"1", b"2"}
    assert kafka.topics()[f"{proxy.topic_prefix}there"] == 2


def test_properties_become_headers(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    wanted = ["mqtt.content_type", "mqtt.response_topic", "mqtt.correlation_data", "mqtt.user_properties",
              "mqtt.payload_format", "mqtt.message_expiry"]  # fmt: skip
    proxy = start_proxy({"kafka.headers": wanted})
    properties = (
        b"\x01\x01" + b"\x02\x00\x00\x00\x3c" + b"\x03" + text("text/plain") + b"\x08" + text("answers")
        + b"\x09\x00\x02\xff\x00" + user_property("b", "1") + user_property("a", "2")
        + user_property("traceparent", "00-1")
    )  # fmt: skip
    assert publish(proxy, [("tlink/p", b"x")], properties=properties) == [SUCCESS]
    (record,) = kafka.read(f"{proxy.topic_prefix}msg")
    assert record.headers == [
        ("mqtt.payload_format", b"1"), ("mqtt.message_expiry", b"60"), ("mqtt.content_type", b"text/plain"),
        ("mqtt.response_topic", b"answers"), ("mqtt.correlation_data", b"\xff\x00"), ("mqtt.user.b", b"1"),
        ("mqtt.user.a", b"2"), ("mqtt.user.traceparent", b"00-1"), ("traceparent", b"00-1"),
    ]  # fmt: skip


def test_sighup(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"routing.rules": [{"filter": "#", "topic": "${prefix}old"}]})

    def reload(rules: object, result: str) -> None:
        counter = f'mqk_reloads_total{{result="{result}"}}'
        before = proxy.metric(counter)
        proxy.reload({"routing.rules": rules})
        proxy.process.wait_until(lambda: proxy.metric(counter) > before, f"reload {result}", RELOAD_TIMEOUT_SECONDS)

    with Device(proxy.port) as device:
        device.connect("stays")
        device.publish_acknowledged("a", b"1", packet_id=1)
        reload([{"filter": "#", "topic": "${prefix}new"}], "applied")
        device.publish_acknowledged("a", b"2", packet_id=2)
        reload([{"name": "bad", "filter": "#", "topic": "${nope}"}], "refused")
        device.publish_acknowledged("a", b"3", packet_id=3)
    assert set(by_value(kafka, f"{proxy.topic_prefix}old")) == {b"1"}
    assert set(by_value(kafka, f"{proxy.topic_prefix}new")) == {b"2", b"3"}
    assert kafka.topics()[f"{proxy.topic_prefix}new"] == 4
    assert 'routing.rules[0] "bad": topic: unknown variable ${nope}' in proxy.process.output.replace('\\"', '"')
