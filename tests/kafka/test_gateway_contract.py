"""What every `KafkaGateway` does, whatever is behind it. Each test runs in memory and on each version of Kafka."""

import asyncio
import time

import pytest

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.gateway import Destination
from tests.kafka.conftest import Cluster, StartCluster, until
from tests.kafka.outcomes import Outcomes, send

#: More than any of these tests needs on a slow machine.
FLUSH_SECONDS = 30.0


def place(destination: Destination) -> tuple[str, int, bytes]:
    return destination.topic, destination.partition, destination.key


async def test_records_are_stored_byte_for_byte(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    outcomes = Outcomes()
    every_byte = bytes(range(256))
    records = [
        (b"tlink/pk/dev1/up", b"hi", [("mqtt.topic", b"tlink/pk/dev1/up"), ("mqtt.clientid", b"dev1")]),
        ("größe/中".encode(), every_byte * 40, [("b", every_byte), ("a", b""), ("b", b"again")]),
        (b"", b"", []),
    ]
    before_ms = time.time() * 1000
    for token, (key, value, headers) in enumerate(records):
        cluster.gateway.enqueue(cluster.gateway.destination(topic, key), value, headers, outcomes, token)
    after_ms = time.time() * 1000
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    stored = cluster.read(topic)
    assert [(record.key, record.value, record.headers) for record in stored] == records
    # The moment of receipt, although they were sent later; read from two clocks in whole milliseconds.
    assert all(before_ms - 2 <= record.timestamp <= after_ms + 2 for record in stored)
    assert outcomes.errors == {0: None, 1: None, 2: None}


async def test_each_record_is_settled_once_in_the_order_of_its_partition(
    start_cluster: StartCluster, topic: str
) -> None:
    cluster = await start_cluster({topic: 4})
    keys = [b"device-%d" % number for number in range(10)]
    devices = {key: Outcomes() for key in keys}
    # Enough to make several batches, and while they fly others gather.
    for token in range(500):
        for key, outcomes in devices.items():
            send(cluster.gateway, topic, key, outcomes, [token])
        if token % 50 == 0:
            await asyncio.sleep(0)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    stored: dict[bytes | None, list[int]] = {key: [] for key in keys}
    for record in cluster.read(topic):
        assert record.value is not None
        stored[record.key].append(int(record.value))
    for key, outcomes in devices.items():
        assert outcomes.order == list(range(500))
        assert outcomes.stored == stored[key] == list(range(500))
    assert len({cluster.gateway.destination(topic, key).partition for key in keys}) > 1


class Reader:
    """Looks into Kafka at the very moment in which it is told that a record is there."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.cluster = cluster
        self.topic = topic
        self.told: list[int] = []
        self.missing: list[int] = []

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        assert error is None
        stored = {record.value for record in self.cluster.read(self.topic)}
        self.told += tokens
        self.missing += [token for token in tokens if b"%d" % token not in stored]


async def test_what_is_settled_can_be_read(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    reader = Reader(cluster, topic)
    for token in range(3):
        cluster.gateway.enqueue(cluster.gateway.destination(topic, b"key"), b"%d" % token, [], reader, token)
        await until(lambda: len(reader.told) > token, f"{token} is settled")  # noqa: B023 - waited for at once
    assert (reader.told, reader.missing) == ([0, 1, 2], [])


async def test_a_recipient_that_fails_costs_no_other_its_answer(start_cluster: StartCluster, topic: str) -> None:
    class Broken:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            raise RuntimeError("not today")

    cluster = await start_cluster({topic: 1}, queue_bytes_max=1_048_576)
    outcomes = Outcomes()
    destination = cluster.gateway.destination(topic, b"key")
    for token in range(3):
        cluster.gateway.enqueue(destination, b"%d" % token, [], outcomes, token)
        cluster.gateway.enqueue(destination, b"broken", [], Broken(), token)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert outcomes.stored == [0, 1, 2]
    assert cluster.gateway.status().queued_bytes == 0


async def test_records_that_came_together_are_settled_together(start_cluster: StartCluster, topic: str) -> None:
    calls: list[list[int]] = []

    class Counting:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            assert error is None
            assert 0 <= seconds < FLUSH_SECONDS
            calls.append(tokens)

    cluster = await start_cluster({topic: 1})
    recipient, other = Counting(), Outcomes()
    destination = cluster.gateway.destination(topic, b"key")
    for each, token in ((recipient, 1), (recipient, 2), (other, 3), (recipient, 4)):
        cluster.gateway.enqueue(destination, b"%d" % token, [], each, token)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert [token for tokens in calls for token in tokens] == [1, 2, 4]
    assert [4] in calls
    assert other.stored == [3]


async def test_a_key_goes_to_the_partition_that_md5_says(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 7})
    outcomes = Outcomes()
    # The last byte of each digest, written down: md5("tlink/pk/dev1/up") ends in 27.
    expected = {b"tlink/pk/dev1/up": 0x27 % 7, b"": 0x7E % 7, b"a": 0x61 % 7, "größe".encode(): 0xCB % 7}
    for token, key in enumerate(expected):
        send(cluster.gateway, topic, key, outcomes, [token])
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert {record.key: record.partition for record in cluster.read(topic)} == expected


async def test_md5_can_count_other_partitions_than_there_are(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 4}, md5_partitions=6)
    gateway = cluster.gateway
    assert place(gateway.destination(topic, b"a")) == (topic, 0x61 % 6, b"a")
    with pytest.raises(GatewayError, match=f"topic {topic} has 4 partitions, no 5") as error:
        gateway.destination(topic, "größe".encode())  # 0xcb % 6
    assert error.value.refusal is Refusal.UNKNOWN_TOPIC


async def test_a_partitioner_decides_instead_of_md5(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 3}, md5_partitions=7)
    asked: list[tuple[bytes, int]] = []

    def last(key: bytes, partitions: int) -> int:
        asked.append((key, partitions))
        return partitions - 1

    assert place(cluster.gateway.destination(topic, b"a", last, "rule")) == (topic, 2, b"a")
    assert cluster.gateway.destination(topic, b"a", last, "rule").rule == "rule"
    assert asked == [(b"a", 3)] * 2
    for wrong in (-1, 3):
        with pytest.raises(GatewayError, match=f"topic {topic} has 3 partitions, no {wrong}") as error:
            cluster.gateway.destination(topic, b"a", lambda key, partitions: wrong)  # noqa: B023 - asked at once
        assert error.value.refusal is Refusal.UNKNOWN_TOPIC


# ---- topics that are not known ----


async def test_records_for_a_topic_that_is_not_there_wait_for_it_in_order(
    start_cluster: StartCluster, topic: str
) -> None:
    cluster = await start_cluster({topic: 1})
    new, outcomes, neighbours = f"{topic}-new", Outcomes(), Outcomes()
    early = cluster.gateway.destination(new, b"key")
    unused = cluster.gateway.destination(new, b"key")
    for token in range(5):
        cluster.gateway.enqueue(early, b"%d" % token, [], outcomes, token)
        send(cluster.gateway, new, b"key", outcomes, [100 + token])
        send(cluster.gateway, topic, b"key", neighbours, [token])
    await until(lambda: neighbours.stored == [0, 1, 2, 3, 4], "others are stored")
    assert await cluster.gateway.flush(0) == 10
    assert outcomes.order == []
    waiting = 10 * (len(b"key") + limits.RECORD_OVERHEAD_BYTES) + 5 * len(b"0") + 5 * len(b"100")
    assert cluster.gateway.status().queued_bytes == waiting
    cluster.add_topic(new, 2)
    await until(lambda: len(outcomes.order) == 10, "what waited is stored")
    for token, destination in ((5, early), (6, unused), (7, early)):
        cluster.gateway.enqueue(destination, b"%d" % token, [], outcomes, token)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    expected = [number for token in range(5) for number in (token, 100 + token)] + [5, 6, 7]
    assert outcomes.stored == expected
    assert [int(record.value or b"") for record in cluster.read(new)] == expected


async def test_what_waits_for_a_topic_can_be_withdrawn(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    new, gone, stays = f"{topic}-new", Outcomes(), Outcomes()
    send(cluster.gateway, new, b"key", gone, [1, 2])
    send(cluster.gateway, new, b"key", stays, [3])
    cluster.gateway.withdraw(gone)
    cluster.add_topic(new, 1)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert (gone.order, stays.stored) == ([], [3])
    assert [record.value for record in cluster.read(new)] == [b"3"]
    assert cluster.gateway.status().queued_bytes == 0


# ---- dead letters ----


async def test_a_record_that_can_never_be_stored_becomes_a_dead_letter(start_cluster: StartCluster, topic: str) -> None:
    dead = f"{topic}-dead"
    cluster = await start_cluster({topic: 1}, dead_letter_topic=dead)
    outcomes = Outcomes()
    destination = cluster.gateway.destination(topic, b"key", None, "a rule")
    fat = bytes(range(256)) * 5_000
    send(cluster.gateway, topic, b"key", outcomes, [1])
    cluster.gateway.enqueue(destination, fat, [("mqtt.topic", b"t")], outcomes, 2)
    send(cluster.gateway, topic, b"key", outcomes, [3])
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert outcomes.errors == {1: None, 2: None, 3: None}
    assert sorted(outcomes.order) == [1, 2, 3]
    assert [record.value for record in cluster.read(topic)] == [b"1", b"3"]
    [letter] = cluster.read(dead)
    # Too large for this topic too.
    assert (letter.key, letter.value) == (b"key", fat[:65_536])
    first, cause, rule, meant_for, (error, said), cut = letter.headers
    assert first == ("mqtt.topic", b"t")
    assert (cause, rule) == (("mqk.cause", b"too_large"), ("mqk.rule", b"a rule"))
    assert (meant_for, cut) == (("mqk.topic", topic.encode()), ("mqk.value_bytes", b"1280000"))
    assert error == "mqk.error"
    assert said


async def test_somebody_else_can_bury_a_record(start_cluster: StartCluster, topic: str) -> None:
    dead = f"{topic}-dead"
    cluster = await start_cluster({topic: 1}, dead_letter_topic=dead)
    outcomes = Outcomes()
    letters = cluster.gateway.dead_letters
    assert letters is not None
    headers = [("mqtt.topic", b"t")]
    letters.bury(b"key", b"value", headers, outcomes, 1, cause="bad_topic", rule="r", topic="a/b")
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert outcomes.stored == [1]
    [letter] = cluster.read(dead)
    assert (letter.key, letter.value) == (b"key", b"value")
    assert letter.headers == [
        ("mqtt.topic", b"t"), ("mqk.cause", b"bad_topic"), ("mqk.rule", b"r"), ("mqk.topic", b"a/b"),
        ("mqk.error", b"a/b: bad_topic"),
    ]  # fmt: skip
    assert headers == [("mqtt.topic", b"t")]


async def test_a_dead_letter_that_is_refused_too_tells_why_it_was_one(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1}, dead_letter_topic=f"{topic}-dead")
    outcomes = Outcomes()
    destination = cluster.gateway.destination(topic, bytes(1_100_000))
    cluster.gateway.enqueue(destination, b"fits nowhere, for its key", [], outcomes, 1)
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    refused = outcomes.errors[1]
    assert refused is not None
    assert refused.refusal is Refusal.TOO_LARGE
    assert outcomes.order == [1]
    assert cluster.gateway.status().queued_bytes == 0
    assert cluster.read(f"{topic}-dead") == []


async def test_what_is_withdrawn_is_neither_stored_nor_settled(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 2})
    gone, stays, unconcerned = Outcomes(), Outcomes(), Outcomes()
    for token in range(100):
        send(cluster.gateway, topic, b"a", gone, [token])
        send(cluster.gateway, topic, b"a", stays, [1000 + token])
        send(cluster.gateway, topic, b"", gone, [token])  # The other partition.
    cluster.gateway.withdraw(gone)
    cluster.gateway.withdraw(unconcerned)
    assert await cluster.gateway.flush(0) == 100
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert gone.order == []
    assert stays.stored == list(range(1000, 1100))
    assert [record.value for record in cluster.read(topic)] == [b"%d" % token for token in range(1000, 1100)]
    assert cluster.gateway.status().queued_bytes == 0


async def test_a_flush_tells_how_many_records_are_left(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    outcomes = Outcomes()
    assert await cluster.gateway.flush(0) == 0
    send(cluster.gateway, topic, b"key", outcomes, range(5))
    assert await cluster.gateway.flush(0) == 5
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    assert outcomes.stored == list(range(5))


async def test_a_record_that_is_too_large_is_refused_alone(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    outcomes = Outcomes()
    destination = cluster.gateway.destination(topic, b"key")
    # Kafka's limit, less what Kafka itself puts around a record: the first fits exactly, the second is a byte larger.
    room = 1_048_588 - limits.KAFKA_FRAMING_BYTES - len(b"key")
    send(cluster.gateway, topic, b"key", outcomes, [1])
    cluster.gateway.enqueue(destination, bytes(room - len("namecontent")), [("name", b"content")], outcomes, 2)
    cluster.gateway.enqueue(destination, bytes(room - len("namecontent") + 1), [("name", b"content")], outcomes, 3)
    send(cluster.gateway, topic, b"key", outcomes, [4])
    assert await cluster.gateway.flush(FLUSH_SECONDS) == 0
    refused = outcomes.errors.pop(3)
    assert refused is not None
    assert refused.refusal is Refusal.TOO_LARGE
    assert not refused.retriable
    assert outcomes.errors == {1: None, 2: None, 4: None}
    assert sorted(outcomes.order) == [1, 2, 3, 4]
    assert [len(record.value or b"") for record in cluster.read(topic)] == [1, room - 11, 1]


async def test_the_queue_tells_when_it_is_full_and_when_there_is_room_again(
    start_cluster: StartCluster, topic: str
) -> None:
    cluster = await start_cluster({topic: 1}, queue_bytes_max=1_048_576)
    gateway, outcomes = cluster.gateway, Outcomes()
    marks: list[int] = []
    gateway.on_relief = lambda: marks.append(gateway.status().queued_bytes)
    destination = gateway.destination(topic, b"key")
    value = bytes(100_000)
    record_bytes = len(value) + len(b"key") + limits.RECORD_OVERHEAD_BYTES
    seen = []
    for token in range(12):
        seen.append((gateway.congested, gateway.full))
        gateway.enqueue(destination, value, [], outcomes, token)
        assert gateway.status().queued_bytes == (token + 1) * record_bytes
    # Above 0.75 and above 1 of 1 MiB, with some 100.5 kB each.
    assert seen == [(False, False)] * 8 + [(True, False)] * 3 + [(True, True)]
    assert gateway.status().above_high_water
    assert gateway.status().oldest_age_seconds >= 0
    assert await gateway.flush(FLUSH_SECONDS) == 0
    assert len(marks) == 1
    assert marks[0] < 1_048_576 * limits.LOW_WATER
    assert (gateway.congested, gateway.full) == (False, False)
    status = gateway.status()
    assert (status.queued_bytes, status.oldest_age_seconds, status.above_high_water) == (0, 0.0, False)
    assert outcomes.stored == list(range(12))


async def test_added_partitions_are_used(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    gateway, outcomes = cluster.gateway, Outcomes()
    key = b"tlink/pk/dev1/up"  # 0x27 % 2: the second partition as soon as there is one.
    send(gateway, topic, key, outcomes, [1])
    assert await gateway.flush(FLUSH_SECONDS) == 0
    first = gateway.destination(topic, key)
    assert (first.partition, first.generation) == (0, gateway.generation)
    cluster.add_partitions(topic, 2)
    await until(lambda: gateway.generation != first.generation, "the gateway has seen the new partition")
    second = gateway.destination(topic, key)
    assert (second.partition, second.generation) == (1, gateway.generation)
    send(gateway, topic, key, outcomes, [2])
    assert await gateway.flush(FLUSH_SECONDS) == 0
    assert outcomes.stored == [1, 2]
    assert [(record.partition, record.value) for record in cluster.read(topic)] == [(0, b"1"), (1, b"2")]


async def test_a_started_gateway_is_ready(start_cluster: StartCluster, topic: str) -> None:
    cluster = await start_cluster({topic: 1})
    status = cluster.gateway.status()
    assert status.ready
    assert not status.above_high_water
    assert cluster.gateway.generation > 0
