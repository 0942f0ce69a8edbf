"""Topics that the gateway learns of while it runs: what waits for them, for how long, how many, and when they go."""

import pytest
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.errors import Refusal
from proxy.kafka.client import AioKafkaGateway
from tests.kafka.conftest import Clock, StartGateway, until
from tests.kafka.fake_aiokafka import FakeKafka, told
from tests.kafka.outcomes import Outcomes, send
from tests.kafka.test_client import refusals, settled

DEAD = "dead_letter"


async def learned(gateway: AioKafkaGateway, *topics: str) -> None:
    """Writes to each topic once and waits until that is stored."""
    for topic in topics:
        outcomes = Outcomes()
        send(gateway, topic, b"key", outcomes, [0])
        await until(lambda: outcomes.stored == [0], f"{topic} is learned")  # noqa: B023 - waited for at once


async def test_a_topic_that_never_comes_refuses_at_the_deadline(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    send(gateway, "nowhere", b"key", outcomes, [1])
    clock.seconds += 6
    send(gateway, "nowhere", b"key", outcomes, [2])
    assert gateway.status().oldest_age_seconds == 6
    await until(lambda: "nowhere" in gateway._unknown._denied, "Kafka has said that it is not there")
    assert outcomes.order == []
    clock.seconds += 4.5
    await until(lambda: bool(outcomes.order), "the first is told")
    assert refusals(outcomes) == {1: Refusal.UNKNOWN_TOPIC}
    assert gateway.unknown_topics == 1
    fake.topics["nowhere"] = 1
    await settled(gateway)
    assert outcomes.stored == [2]
    assert told(gateway.metrics.overdue) == 1
    assert (gateway.unknown_topics, gateway.learned_topics) == (0, 1)


async def test_of_what_kafka_never_answered_the_outcome_is_no_refusal(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.admin_error = kafka_errors.KafkaConnectionError()
    send(gateway, "nowhere", b"key", outcomes, [1])
    clock.seconds += 11
    await settled(gateway)
    assert refusals(outcomes) == {1: None}
    assert "nothing was heard of topic nowhere in time" in str(outcomes.errors[1])


async def test_a_topic_that_never_comes_makes_dead_letters(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    fake.topics[DEAD] = 1
    settings = {"delivery_timeout_seconds": 10, "dead_letter_topic": DEAD}
    gateway, outcomes = await start_gateway({"up": 1}, **settings), Outcomes()
    send(gateway, "nowhere", b"key", outcomes, [1, 2])
    await until(lambda: "nowhere" in gateway._unknown._denied, "Kafka has said that it is not there")
    clock.seconds += 11
    await settled(gateway)
    assert outcomes.stored == [1, 2]
    assert fake.values(DEAD) == [b"1", b"2"]
    assert told(gateway.metrics.dead_letters.labels("unknown_topic")) == 2


async def test_names_that_wait_are_bounded_and_others_are_not_concerned(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNKNOWN_TOPICS_MAX", 3)
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    for token in range(5):
        send(gateway, f"invented-{token}", b"key", outcomes, [token])
    send(gateway, "invented-0", b"key", outcomes, [5])
    assert refusals(outcomes) == {3: Refusal.UNKNOWN_TOPIC, 4: Refusal.UNKNOWN_TOPIC}
    assert gateway.unknown_topics == 3
    send(gateway, "up", b"key", outcomes, [6])
    await until(lambda: outcomes.stored == [6], "who knows where to go is not held up")
    # Once there is room again, the destination that was refused takes records.
    stays = gateway.destination("invented-4", b"key")
    gateway.withdraw(outcomes)
    await until(lambda: gateway.unknown_topics == 0, "what was withdrawn is forgotten")
    fake.topics["invented-4"] = 1
    gateway.enqueue(stays, b"7", [], outcomes, 7)
    await until(lambda: outcomes.stored == [6, 7], "it is stored")


async def test_bytes_that_wait_are_bounded(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, queue_bytes_max=1_048_576), Outcomes()
    destination = gateway.destination("invented", b"key")
    record_bytes = 100_000 + len(b"key") + limits.RECORD_OVERHEAD_BYTES
    for token in range(10):
        gateway.enqueue(destination, bytes(100_000), [], outcomes, token)
    # A quarter of 1 MiB.
    assert gateway.status().queued_bytes == 2 * record_bytes
    assert refusals(outcomes) == dict.fromkeys(range(2, 10), Refusal.UNKNOWN_TOPIC)
    assert not gateway.congested
    fake.topics["invented"] = 1
    await settled(gateway)
    assert outcomes.stored == [0, 1]
    # One record may wait whatever its size.
    gateway.enqueue(gateway.destination("elsewhere", b"key"), bytes(400_000), [], outcomes, 10)
    assert gateway.unknown_topics == 1


async def test_a_record_that_turns_out_too_large_for_a_learned_topic_is_refused_alone(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    destination = gateway.destination("new", b"key")
    for token, size in enumerate((10, 20_000, 20)):
        gateway.enqueue(destination, bytes(size), [], outcomes, token)
    fake.message_bytes_max["new"] = 10_000
    fake.topics["new"] = 1
    await settled(gateway)
    assert refusals(outcomes) == {1: Refusal.TOO_LARGE}
    assert outcomes.stored == [0, 2]


async def test_a_partition_that_a_learned_topic_does_not_have_refuses(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    gateway.enqueue(gateway.destination("new", b"key", lambda key, count: 5), b"", [], outcomes, 1)
    fake.topics["new"] = 3
    await settled(gateway)
    assert refusals(outcomes) == {1: Refusal.UNKNOWN_TOPIC}
    assert "topic new has 3 partitions, no 5" in str(outcomes.errors[1])


# ---- topics that are let go ----


async def test_a_learned_topic_that_is_not_used_for_long_is_let_go_and_comes_back(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    fake.topics |= {"a": 2, "b": 1}
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    send(gateway, "up", b"key", outcomes, [0])
    await learned(gateway, "a", "b")
    stale = gateway.destination("a", b"key")
    clock.seconds += limits.LEARNED_TOPIC_IDLE_SECONDS - 1
    send(gateway, "b", b"key", outcomes, [1])
    await settled(gateway)
    clock.seconds += 2
    await until(lambda: gateway.learned_topics == 1, "one is let go")
    assert sorted(topic for topic, _ in gateway._workers) == ["b", "up"]
    assert gateway.partitions("a") == 0
    await until(lambda: [producer.stopped for producer in fake.producers] == [False, True, False], "so is its producer")
    # Who has written there before does not notice.
    gateway.enqueue(stale, b"2", [], outcomes, 2)
    send(gateway, "a", b"key", outcomes, [3])
    await settled(gateway)
    gateway.enqueue(stale, b"4", [], outcomes, 4)
    await settled(gateway)
    assert outcomes.stored == [0, 1, 2, 3, 4]
    assert [value for partition in (0, 1) for value in fake.values("a", partition)] == [b"0", b"2", b"3", b"4"]
    assert gateway.learned_topics == 2


async def test_what_a_setting_names_is_never_let_go(fake: FakeKafka, start_gateway: StartGateway, clock: Clock) -> None:
    fake.topics["a"] = 1
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    send(gateway, "up", b"key", outcomes, [0])
    await learned(gateway, "a")
    clock.seconds += 10 * limits.LEARNED_TOPIC_IDLE_SECONDS
    await until(lambda: gateway.learned_topics == 0, "the learned one is let go")
    assert list(gateway._workers) == [("up", 0)]


async def test_when_there_are_too_many_the_one_that_was_not_used_for_longest_goes(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEARNED_TOPICS_MAX", 2)
    fake.topics |= {"a": 1, "b": 1, "c": 1}
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    for topic in "ab":
        await learned(gateway, topic)
        clock.seconds += 1
    await learned(gateway, "a")
    clock.seconds += 1
    await learned(gateway, "c")
    assert sorted(topic for topic, _ in gateway._workers) == ["a", "c"]
    fake.silent = True
    for token, topic in enumerate("ac"):
        send(gateway, topic, b"key", outcomes, [token])
    await until(lambda: len(fake.in_flight) == 2, "both are busy")
    send(gateway, "b", b"key", outcomes, [2])
    await until(lambda: "b" in gateway._unknown._denied, "there is no room for another one")
    assert gateway.learned_topics == 2
    clock.seconds += gateway.settings.delivery_timeout_seconds + 1
    await settled(gateway)
    assert refusals(outcomes)[2] is Refusal.UNKNOWN_TOPIC
    assert "is one more than the 2 that can be in use" in str(outcomes.errors[2])
    fake.silent = False
    fake.answer()
    fake.answer()


async def test_a_topic_that_takes_less_than_those_it_shares_with_renews_their_producer(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_MAX", 1)
    gateway = await start_gateway({"up": 1})
    await learned(gateway, "up")
    fake.message_bytes_max["small"] = 20_000
    fake.topics["small"] = 1
    await learned(gateway, "small", "up")
    assert [producer.options["max_batch_size"] for producer in fake.producers] == [
        limits.BATCH_BYTES_MAX,
        20_000 - limits.KAFKA_FRAMING_BYTES,
    ]
    await until(lambda: fake.producers[0].stopped, "the old one is stopped")
