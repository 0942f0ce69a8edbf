"""Where a PUBLISH ends up: Kafka topic, key, partition, payload and headers, read back from a real Kafka."""

import hashlib
import random
import time

import pytest

from tests.e2e.conftest import StartProxy
from tests.kafka.conftest import set_message_bytes_max
from tests.support.device import Device
from tests.support.kafka_broker import KafkaBroker, Record
from tests.support.proxy import ProxyProcess

#: MQTT topic → Kafka topic without its prefix, by the default rules: "contains" looks at the whole name, in this order.
ROUTED = {
    "tlink/a/b/ota/x": "ota",
    "tlink/a/total": "ota",
    "tlink/ota/sub/register": "ota",
    "tlink/a/sub/register": "sub_register",
    "tlink/a/sub/login": "sub_status",
    "tlink/a/b/up": "msg",
    "tlink/": "msg",
    "tlink/устройство/größe/温度/😀": "msg",
}
NOWHERE = ("xtlink/a", "other/x", "TLINK/a", "tlink")
SUCCESS, NO_MATCHING_SUBSCRIBERS, TOPIC_NAME_INVALID, QUOTA_EXCEEDED = 0x00, 0x10, 0x90, 0x97
#: How far the clock of a record may be from the test's: both are of one machine.
CLOCK_MS = 2_000

both_versions = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])


def md5_partition(key: str, count: int) -> int:
    """As `emqx_plugin_kafka` chooses: the last byte of MD5 modulo the partition count."""
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()[-2:], 16) % count


def records_of(kafka: KafkaBroker, proxy: ProxyProcess, client_id: str) -> list[Record]:
    """What a client has in any topic of this proxy; its messages were acknowledged, so all of it is there."""
    topics = [topic for topic in kafka.topics() if topic.startswith(proxy.topic_prefix)]
    return [
        record
        for topic in topics
        for record in kafka.read(topic)
        if ("mqtt.clientid", client_id.encode()) in record.headers
    ]


@both_versions
def test_default_rules(proxy: ProxyProcess, kafka: KafkaBroker, version: int) -> None:
    client_id, seconds = f"routed-{version}", time.time()
    payloads = {topic: random.randbytes(300) for topic in ROUTED}
    with Device(proxy.port, version) as device:
        device.connect(client_id)
        for packet_id, (topic, payload) in enumerate(payloads.items(), 1):
            assert device.publish_acknowledged(topic, payload, packet_id=packet_id) == SUCCESS
    partitions = kafka.topics()
    found = {(record.key or b"").decode(): record for record in records_of(kafka, proxy, client_id)}
    assert set(found) == set(ROUTED)
    for topic, suffix in ROUTED.items():
        record, kafka_topic = found[topic], proxy.topic_prefix + suffix
        assert (record.topic, record.partition) == (kafka_topic, md5_partition(topic, partitions[kafka_topic]))
        assert record.value == payloads[topic]
        assert record.headers == [("mqtt.topic", topic.encode()), ("mqtt.clientid", client_id.encode())]
        assert abs(record.timestamp - seconds * 1000) < CLOCK_MS


@both_versions
def test_what_no_rule_takes_is_acknowledged_and_goes_nowhere(
    proxy: ProxyProcess, kafka: KafkaBroker, version: int
) -> None:
    client_id = f"nowhere-{version}"
    unmatched = proxy.metric('mqk_publishes_total{qos="1",result="unmatched"}')
    with Device(proxy.port, version) as device:
        device.connect(client_id)
        for topic in NOWHERE:
            assert device.publish_acknowledged(topic, b"?") == (NO_MATCHING_SUBSCRIBERS if version == 5 else SUCCESS)
        # Topics of the server's own are refused whatever the setting.
        assert device.publish_acknowledged("$SYS/x", b"?") == (TOPIC_NAME_INVALID if version == 5 else SUCCESS)
        assert device.publish_acknowledged("tlink/last", b"!") == SUCCESS
    assert [record.value for record in records_of(kafka, proxy, client_id)] == [b"!"]
    assert proxy.metric('mqk_publishes_total{qos="1",result="unmatched"}') == unmatched + len(NOWHERE) + 1


@both_versions
def test_qos_0(proxy: ProxyProcess, kafka: KafkaBroker, version: int) -> None:
    client_id = f"qos0-{version}"
    with Device(proxy.port, version) as device:
        device.connect(client_id)
        device.publish("tlink/qos0/up", b"first", qos=0)
        device.publish("$SYS/qos0", b"never", qos=0)
        # The same partition, so what is acknowledged here has the other before it.
        assert device.publish_acknowledged("tlink/qos0/up", b"second") == SUCCESS
    assert [record.value for record in records_of(kafka, proxy, client_id)] == [b"first", b"second"]


@both_versions
def test_retain_and_dup_become_headers(proxy: ProxyProcess, kafka: KafkaBroker, version: int) -> None:
    client_id, topic = f"flags-{version}", "tlink/flags/up"
    with Device(proxy.port, version) as device:
        device.connect(client_id)
        device.publish_acknowledged(topic, b"retained", packet_id=7, retain=True)
        device.publish_acknowledged(topic, b"resent", packet_id=65_535, dup=True)
        device.publish_acknowledged(topic, b"both", packet_id=9, retain=True, dup=True)
    usual = [("mqtt.topic", topic.encode()), ("mqtt.clientid", client_id.encode())]
    retain, dup = ("mqtt.retain", b"1"), ("mqtt.dup", b"1")
    assert [(record.value, record.headers) for record in records_of(kafka, proxy, client_id)] == [
        (b"retained", [*usual, retain]),
        (b"resent", [*usual, dup, ("mqtt.packet_id", b"65535")]),
        (b"both", [*usual, retain, dup, ("mqtt.packet_id", b"9")]),
    ]


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 999_000])
def test_payloads_of_any_size(proxy: ProxyProcess, kafka: KafkaBroker, size: int) -> None:
    client_id, payload = f"size-{size}", random.randbytes(size)
    with Device(proxy.port) as device:
        device.connect(client_id)
        assert device.publish_acknowledged(f"tlink/size/{size}", payload) == SUCCESS
    [record] = records_of(kafka, proxy, client_id)
    assert record.value == payload


def test_headers_that_were_asked_for(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    wanted = ["mqtt.clientid", "mqtt.qos", "mqtt.username", "mqtt.node", "mqtt.packet_id"]
    proxy = start_proxy({"kafka.headers": wanted, "node.id": "node-7"})
    with Device(proxy.port) as device:
        device.connect("more", username="größe&pk")
        device.publish("tlink/more", b"0", qos=0)
        device.publish_acknowledged("tlink/more", b"1", packet_id=300)
    with Device(proxy.port) as device:
        device.connect("more")
        device.publish_acknowledged("tlink/more", b"2", dup=True)
    named = {"mqtt.clientid": b"more", "mqtt.node": b"node-7"}
    user = {"mqtt.username": "größe&pk".encode()}
    records = records_of(kafka, proxy, "more")
    assert [(record.value, dict(record.headers)) for record in records] == [
        (b"0", {**named, **user, "mqtt.qos": b"0"}),
        (b"1", {**named, **user, "mqtt.qos": b"1", "mqtt.packet_id": b"300"}),
        (b"2", {**named, "mqtt.qos": b"1", "mqtt.packet_id": b"1", "mqtt.dup": b"1"}),
    ]
    assert all(len(record.headers) == len(dict(record.headers)) for record in records)


def test_unmatched_can_be_rejected(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"routing.unmatched": "reject"})
    for version, reason_code in ((5, TOPIC_NAME_INVALID), (4, SUCCESS)):
        with Device(proxy.port, version) as device:
            device.connect("rejected")
            assert device.publish_acknowledged("other/x", b"?") == reason_code
            assert device.publish_acknowledged("tlink/x", b"!") == SUCCESS
    assert [record.value for record in records_of(kafka, proxy, "rejected")] == [b"!", b"!"]


def test_preset_single_takes_everything_into_one_topic(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"routing.preset": "single"})
    with Device(proxy.port, 5) as device:
        device.connect("single")
        for topic in ("other/x", "tlink/a/ota", "x"):
            assert device.publish_acknowledged(topic, topic.encode()) == SUCCESS
        assert device.publish_acknowledged("$SYS/x", b"?") == TOPIC_NAME_INVALID
    assert {(record.key, record.value, record.partition) for record in kafka.read("emqx-topic")} == {
        (topic.encode(), topic.encode(), md5_partition(topic, 4)) for topic in ("other/x", "tlink/a/ota", "x")
    }


def test_md5_partitions_is_the_count_in_the_hash(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"routing.md5_partitions": 3, "kafka.partitions": 5})
    topics = [f"tlink/{number}" for number in range(20)]
    with Device(proxy.port) as device:
        device.connect("hashed")
        for topic in topics:
            device.publish_acknowledged(topic, b"")
    assert kafka.topics()[f"{proxy.topic_prefix}msg"] == 5
    found = {(record.key or b"").decode(): record.partition for record in records_of(kafka, proxy, "hashed")}
    assert found == {topic: md5_partition(topic, 3) for topic in topics}
    assert set(found.values()) == {0, 1, 2}


def test_what_the_topic_is_too_small_for_becomes_a_dead_letter(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"kafka.topic_prefix": "poison_"})
    fat = random.randbytes(50_000)
    set_message_bytes_max(kafka, "poison_msg", 20_000)
    for version in (5, 4):
        with Device(proxy.port, version) as device:
            device.connect("wide")
            for value in (b"before", fat, b"behind"):
                assert device.publish_acknowledged("tlink/a", value) == SUCCESS
    assert [record.value for record in kafka.read("poison_msg")] == [b"before", b"behind"] * 2
    for letter in kafka.read("poison_dead_letter"):
        assert (letter.key, letter.value) == (b"tlink/a", fat)
        headers = dict(letter.headers)
        assert headers["mqtt.clientid"] == b"wide"
        assert (headers["mqk.cause"], headers["mqk.topic"]) == (b"too_large", b"poison_msg")
    assert proxy.metric('mqk_dead_letters_total{cause="too_large"}') == 2
    assert proxy.metric('mqk_publishes_total{qos="1",result="stored"}') == 6


def test_what_the_topic_is_too_small_for_is_refused_without_dead_letters(
    start_proxy: StartProxy, kafka: KafkaBroker
) -> None:
    kafka.create_topic("narrow_msg", config={"max.message.bytes": "20000"})
    proxy = start_proxy({"kafka.topic_prefix": "narrow_", "routing.dead_letter": False})
    for version, reason_code in ((5, QUOTA_EXCEEDED), (4, SUCCESS)):
        with Device(proxy.port, version) as device:
            device.connect("wide")
            assert device.publish_acknowledged("tlink/a", random.randbytes(20_000)) == reason_code
            assert device.publish_acknowledged("tlink/a", b"fits") == SUCCESS
    assert [record.value for record in kafka.read("narrow_msg")] == [b"fits", b"fits"]
    assert proxy.metric('mqk_publishes_total{qos="1",result="refused"}') == 2
    assert "narrow_dead_letter" not in kafka.topics()
