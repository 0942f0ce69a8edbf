"""The real gateway on a scripted client library: each way in which a batch can fail, and what can happen meanwhile."""

import asyncio
import logging
from typing import Any

import pytest
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.errors import ConfigError, GatewayError, Refusal
from proxy.kafka.client import AioKafkaGateway
from proxy.kafka.gateway import Recipient
from tests.kafka.conftest import Clock, StartGateway, until
from tests.kafka.fake_aiokafka import FakeKafka, told
from tests.kafka.outcomes import Outcomes, send

#: Keys of the partitions 0 and 1 of a topic that has two: MD5 ends in 7e and 61.
KEY_0, KEY_1 = b"", b"a"


async def settled(gateway: AioKafkaGateway) -> None:
    await until(lambda: gateway.status().queued_bytes == 0, "everything is settled")


def errors_told(caplog: pytest.LogCaptureFixture) -> str:
    """What log lines say of errors, tracebacks included."""
    return "\n".join(str(vars(record).get("error", record.exc_info)) for record in caplog.records)


def refusals(outcomes: Outcomes) -> dict[int, Refusal | None]:
    """Of the records that were not stored, by token."""
    return {token: error.refusal for token, error in outcomes.errors.items() if error is not None}


# ---- a batch that is not taken ----


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.UnknownTopicOrPartitionError(),
        kafka_errors.KafkaTimeoutError(),
        AssertionError("Unrecognized partition"),
        TypeError("argument of type 'NoneType' is not iterable"),
    ],
    ids=repr,
)
async def test_a_batch_that_is_not_taken_is_offered_again(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.not_taken.extend([error, error])
    send(gateway, "up", b"key", outcomes, range(3))
    await settled(gateway)
    assert outcomes.stored == [0, 1, 2]
    assert fake.values("up") == [b"0", b"1", b"2"]
    assert len(fake.producers) == 1


@pytest.mark.parametrize(
    "error", [kafka_errors.ProducerClosed(), kafka_errors.KafkaError("the sender is dead")], ids=repr
)
async def test_a_dead_producer_is_replaced_and_the_batch_offered_again(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.not_taken.append(error)
    send(gateway, "up", b"key", outcomes, range(3))
    await settled(gateway)
    assert outcomes.stored == [0, 1, 2]
    assert fake.values("up") == [b"0", b"1", b"2"]
    assert [producer.stopped for producer in fake.producers] == [True, False]


async def test_a_topic_that_may_not_be_written_refuses_at_once(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.not_taken.append(kafka_errors.TopicAuthorizationFailedError("up"))
    send(gateway, "up", b"key", outcomes, [1, 2])
    await settled(gateway)
    send(gateway, "up", b"key", outcomes, [3])
    await settled(gateway)
    assert refusals(outcomes) == {1: Refusal.NOT_AUTHORIZED, 2: Refusal.NOT_AUTHORIZED}
    assert outcomes.stored == [3]
    assert len(fake.producers) == 1


# ---- a batch that fails ----


@pytest.mark.parametrize(
    "error", [kafka_errors.MessageSizeTooLargeError(), kafka_errors.RecordListTooLargeError()], ids=repr
)
async def test_of_a_batch_that_is_too_large_only_the_culprit_is_refused(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.answers.extend([error, None, error, None])
    send(gateway, "up", b"key", outcomes, [1, 2, 3])
    await settled(gateway)
    send(gateway, "up", b"key", outcomes, [4, 5])
    await settled(gateway)
    assert refusals(outcomes) == {2: Refusal.TOO_LARGE}
    assert outcomes.order == [1, 2, 3, 4, 5]
    sent = [values for _, _, values in fake.sent]
    assert sent == [[b"1", b"2", b"3"], [b"1"], [b"2"], [b"3"], [b"4", b"5"]]
    assert fake.values("up") == [b"1", b"3", b"4", b"5"]
    # Each failed batch has left a hole in the sequence of its producer.
    assert [producer.stopped for producer in fake.producers] == [True, True, False]


async def test_a_record_found_too_large_makes_the_gateway_ask_for_the_limit_again(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.message_bytes_max["up"] = 20_000
    fake.answers.extend([kafka_errors.MessageSizeTooLargeError(), None, kafka_errors.MessageSizeTooLargeError()])
    destination = gateway.destination("up", b"key")
    gateway.enqueue(destination, b"small", [], outcomes, 1)
    gateway.enqueue(destination, bytes(30_000), [], outcomes, 2)
    await settled(gateway)
    assert refusals(outcomes) == {2: Refusal.TOO_LARGE}
    await until(lambda: not gateway.directory.fits(destination, bytes(30_000), []), "the new limit is known")
    handed_over = len(fake.sent)
    gateway.enqueue(destination, bytes(30_000), [], outcomes, 3)
    assert refusals(outcomes) == {2: Refusal.TOO_LARGE, 3: Refusal.TOO_LARGE}
    assert len(fake.sent) == handed_over


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (kafka_errors.TopicAuthorizationFailedError("up"), Refusal.NOT_AUTHORIZED),
        (kafka_errors.ClusterAuthorizationFailedError(), Refusal.NOT_AUTHORIZED),
        (kafka_errors.InvalidTopicError(), Refusal.UNKNOWN_TOPIC),
        (kafka_errors.PolicyViolationError(), Refusal.INVALID),
        (kafka_errors.UnsupportedForMessageFormatError(), Refusal.INVALID),
    ],
    ids=repr,
)
async def test_what_is_wrong_with_all_of_a_batch_refuses_all_of_it(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception, refusal: Refusal
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.answers.append(error)
    send(gateway, "up", b"key", outcomes, range(100))
    await settled(gateway)
    send(gateway, "up", b"key", outcomes, [100])
    await settled(gateway)
    assert refusals(outcomes) == dict.fromkeys(range(100), refusal)
    assert outcomes.stored == [100]
    assert len(fake.sent) == len(fake.producers) == 2


@pytest.mark.parametrize(
    ("error", "lossy"),
    [
        (kafka_errors.OutOfOrderSequenceNumber(), True),
        (kafka_errors.UnknownProducerId(), True),
        (kafka_errors.InvalidProducerIdMapping(), True),
        (kafka_errors.IllegalSaslStateError(), False),
    ],
    ids=repr,
)
async def test_a_batch_that_was_certainly_not_written_goes_once_more(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception, lossy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    # The first goes through at the second attempt, the second never, the third again at the second.
    fake.answers.extend([error, None, error, error, error, None])
    for token in (1, 2, 3):
        send(gateway, "up", b"key", outcomes, [token])
        await settled(gateway)
    assert refusals(outcomes) == {2: None}
    assert "outcome unknown" in str(outcomes.errors[2])
    assert outcomes.stored == [1, 3]
    assert [values for _, _, values in fake.sent] == [[b"1"], [b"1"], [b"2"], [b"2"], [b"3"], [b"3"]]
    assert len(fake.producers) == 5
    assert ("kafka may have lost acknowledged records" in caplog.text) == lossy


async def test_a_corrupt_batch_goes_once_more_and_then_record_by_record(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    corrupt = kafka_errors.CorruptRecordException()
    fake.answers.extend([corrupt, corrupt, None, corrupt, corrupt])
    send(gateway, "up", b"key", outcomes, [1, 2, 3])
    await settled(gateway)
    assert refusals(outcomes) == {2: Refusal.INVALID}
    assert fake.values("up") == [b"1", b"3"]


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.ProducerFenced(),
        kafka_errors.UnknownError(),
        kafka_errors.LeaderNotAvailableError(),
        RuntimeError(),
    ],
    ids=repr,
)
async def test_any_other_failure_leaves_the_outcome_unknown(
    fake: FakeKafka, start_gateway: StartGateway, error: Exception
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.answers.append(error)
    send(gateway, "up", b"key", outcomes, [1, 2])
    await settled(gateway)
    send(gateway, "up", b"key", outcomes, [3])
    await settled(gateway)
    assert refusals(outcomes) == {1: None, 2: None}
    assert outcomes.errors[1] is not None
    assert outcomes.errors[1].retriable
    assert fake.values("up") == [b"3"]
    assert [producer.stopped for producer in fake.producers] == [True, False]
    assert told(gateway.metrics.failed(type(error).__name__)) == 1


async def test_a_record_that_cannot_be_packed_is_given_up_and_the_partition_lives_on(
    fake: FakeKafka, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    destination = gateway.destination("up", b"key")
    gateway.enqueue(destination, b"0", [], outcomes, 0)
    gateway.enqueue(destination, b"1", [("mqtt.qos", 1)], outcomes, 1)  # type: ignore[list-item]
    gateway.enqueue(destination, b"2", [], outcomes, 2)
    await settled(gateway)
    assert refusals(outcomes) == {0: None, 1: None}
    assert outcomes.stored == [2]
    assert "partition worker failed" in caplog.text


# ---- the producers ----


async def test_a_retired_producer_is_stopped_when_its_last_batch_has_come_down(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 2}), Outcomes()
    fake.silent = True
    send(gateway, "up", KEY_0, outcomes, [1])
    await until(lambda: len(fake.in_flight) == 1, "partition 0 has a batch on its way")
    send(gateway, "up", KEY_1, outcomes, [2])
    await until(lambda: len(fake.in_flight) == 2, "partition 1 too")
    fake.answer(kafka_errors.UnknownError())
    send(gateway, "up", KEY_0, outcomes, [3])
    await until(lambda: len(fake.in_flight) == 2, "partition 0 goes on through another producer")
    assert [producer.stopped for producer in fake.producers] == [False, False]
    fake.answer()
    await until(lambda: fake.producers[0].stopped, "the retired producer is stopped")
    fake.answer()
    await settled(gateway)
    assert outcomes.stored == [2, 3]


async def test_producers_are_replaced_at_a_bounded_rate(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCER_REPLACE_SECONDS_MIN", 0.2)
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    loop = asyncio.get_running_loop()
    began = loop.time()
    fake.answers.extend([kafka_errors.UnknownError()] * 3)
    for token in range(4):
        send(gateway, "up", b"key", outcomes, [token])
        await settled(gateway)
    assert outcomes.stored == [3]
    assert len(fake.producers) == 4
    assert loop.time() - began >= 3 * 0.2


async def test_topics_beyond_the_bound_share_producers(fake: FakeKafka, start_gateway: StartGateway) -> None:
    names = [f"up-{number}" for number in range(limits.PRODUCERS_MAX + 3)]
    fake.message_bytes_max[names[-1]] = 50_000
    gateway, outcomes = await start_gateway(dict.fromkeys(names, 1)), Outcomes()
    for token, name in enumerate(names):
        send(gateway, name, b"key", outcomes, [token])
    await settled(gateway)
    assert sorted(outcomes.stored) == list(range(limits.PRODUCERS_MAX + 3))
    assert len(fake.producers) == limits.PRODUCERS_MAX
    # Who shares with a topic that takes less makes smaller batches.
    smaller = [producer for producer in fake.producers if producer.options["max_batch_size"] < limits.BATCH_BYTES_MAX]
    assert [producer.options["max_batch_size"] for producer in smaller] == [50_000 - limits.KAFKA_FRAMING_BYTES]


async def test_a_batch_waits_as_long_as_the_pace_says(fake: FakeKafka, start_gateway: StartGateway) -> None:
    class Pace:
        def delay(self, now: float) -> float:
            return 0.05

    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    gateway.pace = Pace()  # type: ignore[assignment]
    loop = asyncio.get_running_loop()
    began = loop.time()
    send(gateway, "up", b"key", outcomes, [1])
    await settled(gateway)
    assert loop.time() - began >= 0.05


async def test_urgent_topics_do_not_wait(fake: FakeKafka, start_gateway: StartGateway) -> None:
    class Pace:
        def delay(self, now: float) -> float:
            return 3_600

    gateway, outcomes = await start_gateway({"up": 1, "urgent": 1}), Outcomes()
    gateway.pace = Pace()  # type: ignore[assignment]
    gateway.urgent = frozenset({"urgent"})
    send(gateway, "up", b"key", outcomes, [1])
    send(gateway, "urgent", b"key", outcomes, [2])
    await until(lambda: outcomes.stored == [2], "only the urgent one goes")


async def test_the_hard_mark_is_left_as_soon_as_there_is_room(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 2}, queue_bytes_max=10_000), Outcomes()
    fake.silent = True
    gateway.enqueue(gateway.destination("up", KEY_0), bytes(3_000), [], outcomes, 1)
    gateway.enqueue(gateway.destination("up", KEY_1), bytes(8_000), [], outcomes, 2)
    await until(lambda: len(fake.in_flight) == 2, "both are on their way")
    assert (gateway.congested, gateway.full) == (True, True)
    fake.answer()
    await until(lambda: outcomes.stored == [1], "the smaller one is stored")
    assert (gateway.congested, gateway.full) == (True, False)
    fake.answer()
    await settled(gateway)
    assert (gateway.congested, gateway.full) == (False, False)


async def test_a_batch_is_bounded_in_records_and_in_bytes(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    send(gateway, "up", b"key", outcomes, range(limits.BATCH_RECORDS_MAX + 1))
    await settled(gateway)
    assert [len(values) for _, _, values in fake.sent] == [limits.BATCH_RECORDS_MAX, 1]
    fake.sent.clear()
    destination = gateway.destination("up", b"key")
    half = limits.BATCH_BYTES_MAX // 2
    for token, size in enumerate([half - 3, half - 3, 1, limits.BATCH_BYTES_MAX * 2, 1]):
        gateway.enqueue(destination, bytes(size), [], outcomes, token)
    await settled(gateway)
    assert [[len(value) for value in values] for _, _, values in fake.sent] == [
        [half - 3, half - 3],
        [1],
        [limits.BATCH_BYTES_MAX * 2],
        [1],
    ]


# ---- leaders ----


async def test_nothing_is_handed_over_for_a_partition_without_a_leader(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, outcomes = await start_gateway({"up": 3}), Outcomes()
    send(gateway, "up", b"tlink/pk/dev1/up", outcomes, [0])  # 0x27 % 3: partition 0.
    await settled(gateway)
    [producer] = fake.producers
    producer.leaderless = {("up", 1)}
    producer.unheard = {("up", 2)}
    send(gateway, "up", b"a", outcomes, [1])  # 0x61 % 3
    send(gateway, "up", "größe".encode(), outcomes, [2])  # 0xcb % 3
    await until(lambda: producer.metadata_updates > 3, "it is asked for the leaders")
    assert len(fake.sent) == 1
    producer.leaderless.clear()
    producer.unheard.clear()
    await settled(gateway)
    assert sorted(outcomes.stored) == [0, 1, 2]
    assert len(fake.producers) == 1


# ---- the delivery deadline ----


async def test_records_that_are_overdue_are_told_and_the_batch_keeps_its_slot(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.silent = True
    send(gateway, "up", b"key", outcomes, [1])
    clock.seconds += 5
    send(gateway, "up", b"key", outcomes, [2])
    await until(lambda: len(fake.in_flight) == 1, "both are on their way")
    send(gateway, "up", b"key", outcomes, [3])
    clock.seconds += 5.5
    await until(lambda: bool(outcomes.order), "the first is told")
    assert refusals(outcomes) == {1: None}  # Nobody else before his time.
    assert outcomes.seconds[1] == pytest.approx(10.5)
    clock.seconds += 5
    await until(lambda: len(outcomes.order) == 3, "all are told")
    assert refusals(outcomes) == {1: None, 2: None, 3: None}
    assert await gateway.flush(0) == 0
    assert gateway.status().queued_bytes == 0
    assert gateway.status().oldest_age_seconds == 0
    send(gateway, "up", b"key", outcomes, [4])
    await until(lambda: told(gateway.metrics.overdue) == 3, "they are counted")
    assert len(fake.sent) == 1  # The fourth would overtake what may still be written.
    fake.silent = False
    fake.answer()
    await settled(gateway)
    assert outcomes.stored == [4]
    assert fake.values("up") == [b"1", b"2", b"4"]
    assert told(gateway.metrics.late) == 2
    assert told(gateway.metrics.records) == 3
    assert len(fake.producers) == 1


async def test_records_are_told_in_time_while_no_producer_starts(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 2}, delivery_timeout_seconds=10), Outcomes()
    fake.up.clear()
    send(gateway, "up", KEY_0, outcomes, [1])
    send(gateway, "up", KEY_1, outcomes, [2])
    await until(lambda: len(fake.producers) == 1, "a producer is about to start")
    clock.seconds += 11
    await settled(gateway)
    assert refusals(outcomes) == {1: None, 2: None}
    send(gateway, "up", KEY_0, outcomes, [3])
    fake.up.set()
    await settled(gateway)
    assert outcomes.stored == [3]
    assert fake.written == [("up", 0, [b"3"])]


async def test_records_are_told_in_time_while_a_batch_is_handed_over(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.metadata.clear()
    send(gateway, "up", b"key", outcomes, [1, 2])
    await until(lambda: bool(gateway._workers["up", 0]._in_flight), "they are handed over")
    clock.seconds += 11
    await settled(gateway)
    assert refusals(outcomes) == {1: None, 2: None}
    fake.not_taken.append(kafka_errors.KafkaTimeoutError())
    fake.metadata.set()
    await until(lambda: not fake.not_taken, "they are not taken")
    send(gateway, "up", b"key", outcomes, [3])
    await settled(gateway)
    assert fake.values("up") == [b"3"]
    assert told(gateway.metrics.late) == 0


async def test_records_that_came_back_are_told_in_time_and_not_sent_again(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.silent = True
    send(gateway, "up", b"key", outcomes, [1, 2])
    await until(lambda: len(fake.in_flight) == 1, "they are on their way")
    fake.up.clear()
    fake.answer(kafka_errors.OutOfOrderSequenceNumber())
    await until(lambda: len(fake.producers) == 2, "another producer is about to start")
    assert await gateway.flush(0) == 2
    clock.seconds += 11
    await settled(gateway)
    assert outcomes.order == [1, 2]
    fake.silent = False
    fake.up.set()
    send(gateway, "up", b"key", outcomes, [3])
    await settled(gateway)
    assert fake.values("up") == [b"3"]


async def test_nobody_is_blamed_for_a_neighbour_that_was_told_before(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.silent = True
    send(gateway, "up", b"key", outcomes, [1])
    clock.seconds += 5
    send(gateway, "up", b"key", outcomes, [2])
    await until(lambda: len(fake.in_flight) == 1, "both are on their way")
    clock.seconds += 6
    await until(lambda: bool(outcomes.order), "the first is told")
    fake.silent = False
    fake.answer(kafka_errors.MessageSizeTooLargeError())
    await settled(gateway)
    assert outcomes.stored == [2]


async def test_a_topic_that_is_gone_at_the_deadline_refuses(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, outcomes = await start_gateway({"up": 1, "status": 1}, delivery_timeout_seconds=10), Outcomes()
    fake.not_taken.extend([kafka_errors.UnknownTopicOrPartitionError()] * 1000)
    send(gateway, "up", b"key", outcomes, [1])
    send(gateway, "status", b"key", outcomes, [2])
    del fake.topics["up"]
    await until(lambda: gateway.directory.missing == {"up"}, "the gateway has seen that the topic is gone")
    clock.seconds += 11
    await settled(gateway)
    assert caplog.text.count("topic is gone, and with it what was acknowledged") == 1
    # What aiokafka calls unknown may only be out of its sight; what Kafka calls so is.
    assert refusals(outcomes) == {1: Refusal.UNKNOWN_TOPIC, 2: None}
    fake.topics["up"] = 1
    fake.not_taken.clear()
    await until(lambda: not gateway.directory.missing, "the gateway has seen that the topic is back")
    send(gateway, "up", b"key", outcomes, [3])
    await settled(gateway)
    assert outcomes.stored == [3]


async def test_a_partition_that_is_gone_sends_its_records_back(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 2}), Outcomes()
    fake.silent = True
    generation = gateway.generation
    send(gateway, "up", KEY_1, outcomes, [1])
    await until(lambda: len(fake.in_flight) == 1, "one is on its way")
    send(gateway, "up", KEY_1, outcomes, [2])
    fake.topics["up"] = 1
    await until(lambda: gateway.generation > generation, "the gateway has seen that there is one partition")
    assert refusals(outcomes) == {1: None, 2: None}
    fake.silent = False
    send(gateway, "up", KEY_1, outcomes, [3])
    await settled(gateway)
    assert fake.values("up", 0) == [b"3"]
    assert "no partition 1 any more" in str(outcomes.errors[1])


# ---- withdrawal ----


async def test_what_was_withdrawn_while_it_was_handed_over_is_not_offered_again(
    fake: FakeKafka, start_gateway: StartGateway
) -> None:
    gateway, gone, stays = await start_gateway({"up": 1}), Outcomes(), Outcomes()
    fake.metadata.clear()
    send(gateway, "up", b"key", gone, [1])
    send(gateway, "up", b"key", stays, [2])
    send(gateway, "up", b"key", gone, [3])
    await until(lambda: bool(gateway._workers["up", 0]._in_flight), "they are handed over")
    gateway.withdraw(gone)
    await until(lambda: not gateway._withdrawn, "the withdrawal was looked at")
    fake.not_taken.append(kafka_errors.KafkaTimeoutError())
    fake.metadata.set()
    await settled(gateway)
    assert gone.order == []
    assert stays.stored == [2]
    assert fake.values("up") == [b"2"]


async def test_what_was_withdrawn_on_its_way_is_not_sent_again(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, gone, stays = await start_gateway({"up": 1}), Outcomes(), Outcomes()
    fake.silent = True
    send(gateway, "up", b"key", gone, [1])
    send(gateway, "up", b"key", stays, [2])
    await until(lambda: len(fake.in_flight) == 1, "they are on their way")
    gateway.withdraw(gone)
    fake.silent = False
    fake.answer(kafka_errors.OutOfOrderSequenceNumber())
    await settled(gateway)
    assert gone.order == []
    assert stays.stored == [2]
    assert fake.values("up") == [b"2"]


async def test_what_was_withdrawn_on_its_way_is_settled(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.silent = True
    send(gateway, "up", b"key", outcomes, [1])
    await until(lambda: len(fake.in_flight) == 1, "it is on its way")
    gateway.withdraw(outcomes)
    fake.silent = False
    fake.answer()
    await settled(gateway)
    assert outcomes.stored == [1]


# ---- what must never end ----


async def test_the_gateway_keeps_asking_whatever_is_answered(
    fake: FakeKafka, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway({"up": 1})
    for error in (ValueError("a bug"), OSError("connection reset"), TimeoutError(), kafka_errors.NodeNotReadyError()):
        caplog.clear()
        fake.admin_error = error
        await until(lambda: repr(error) in errors_told(caplog), "the error is told")  # noqa: B023 - waited for at once
    fake.admin_error = None
    fake.topics["up"] = 2
    await until(lambda: gateway.directory.partitions("up") == 2, "the gateway has looked again")


async def test_a_recipient_may_write_to_a_new_partition_when_it_is_told(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Replying:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            send(gateway, "status", b"key", replies, tokens)

    gateway, replies = await start_gateway({"up": 2, "status": 1}, delivery_timeout_seconds=10), Outcomes()
    recipient: Recipient = Replying()
    fake.up.clear()
    for token, key in enumerate((KEY_0, KEY_1)):
        gateway.enqueue(gateway.destination("up", key), b"", [], recipient, token)
    clock.seconds += 11
    fake.up.set()
    await until(lambda: sorted(replies.stored) == [0, 1], "both replies are stored")
    assert "failed" not in caplog.text


async def test_kafka_counts_as_silent_when_nothing_has_answered_for_a_while(
    fake: FakeKafka, start_gateway: StartGateway, clock: Clock
) -> None:
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.admin_error = kafka_errors.NodeNotReadyError()
    await asyncio.sleep(0)
    clock.seconds += limits.KAFKA_SILENCE_SECONDS_MAX - 0.1
    assert gateway.status().ready
    clock.seconds += 0.2
    assert not gateway.status().ready
    send(gateway, "up", b"key", outcomes, [1])
    await settled(gateway)
    assert gateway.status().ready  # A batch that lands is an answer too.


async def test_the_time_of_records_follows_the_wall_clock(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway({"up": 1})
    monkeypatch.setattr("proxy.kafka.client.wall_ms", lambda: 5_000_000)
    await until(lambda: gateway.wall_offset_ms + 1000 * 1000.0 == 5_000_000, "the clock that was set is followed")


# ---- start and stop ----


async def test_start_waits_for_kafka(
    fake: FakeKafka, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    fake.admin_error = kafka_errors.KafkaConnectionError("Unable to bootstrap from kafka:9092")
    starting = asyncio.ensure_future(start_gateway({"up": 1}))
    await until(lambda: len(fake.admins) > 2, "it tries again and again")
    assert "Unable to bootstrap from kafka:9092" in errors_told(caplog)
    fake.admin_error = None
    gateway = await starting
    assert gateway.status().ready
    assert [admin.closed for admin in fake.admins[-2:]] == [True, False]


@pytest.mark.parametrize(
    "passing",
    [
        {"new": kafka_errors.NotControllerError.errno},
        AttributeError("'NoneType' object has no attribute 'nodeId'"),
        TimeoutError(),
        kafka_errors.RequestTimedOutError(),
    ],
    ids=repr,
)
async def test_start_tries_again_when_the_cluster_is_not_ready_to_create_topics(
    fake: FakeKafka, start_gateway: StartGateway, passing: Any
) -> None:
    fake.create_codes.append(passing)
    gateway = await start_gateway({}, "new")
    assert not fake.create_codes
    assert fake.topics == {"new": 12}
    assert gateway.destination("new", b"a").partition == 0x61 % 12


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        (kafka_errors.InvalidReplicationFactorError, "kafka.replication_factor"),
        (kafka_errors.InvalidPartitionsError, "kafka.partitions"),
        (kafka_errors.TopicAuthorizationFailedError, "kafka.create_topics"),
    ],
)
async def test_start_names_the_setting_for_which_a_topic_cannot_be_created(
    fake: FakeKafka, start_gateway: StartGateway, code: Any, setting: str
) -> None:
    fake.create_codes.append({"new": code.errno})
    with pytest.raises(ConfigError, match=f"topic new cannot be created: {code.__name__}") as error:
        await start_gateway({}, "new")
    assert error.value.setting == setting
    assert [admin.closed for admin in fake.admins] == [True]


async def test_start_names_the_topics_that_may_not_be_seen(fake: FakeKafka, start_gateway: StartGateway) -> None:
    fake.hidden = {"up", "ota"}
    with pytest.raises(ConfigError, match="may not describe topics ota, up"):
        await start_gateway({"up": 1, "ota": 1, "status": 1})


async def test_start_loses_no_race_for_a_topic(fake: FakeKafka, start_gateway: StartGateway) -> None:
    fake.create_codes.append({"new": kafka_errors.TopicAlreadyExistsError.errno})
    starting = asyncio.ensure_future(start_gateway({}, "new"))
    await until(lambda: not fake.create_codes, "somebody else was faster")
    fake.topics["new"] = 3  # It takes a moment until everybody sees it.
    assert (await starting).partitions("new") == 3


async def test_stop_waits_for_nobody(fake: FakeKafka, start_gateway: StartGateway) -> None:
    gateway, outcomes = await start_gateway({"up": 2, "status": 1}), Outcomes()
    send(gateway, "up", KEY_1, outcomes, [0])
    await settled(gateway)
    fake.silent = True
    send(gateway, "up", KEY_0, outcomes, [1])
    await until(lambda: len(fake.in_flight) == 1, "one is on its way")
    fake.up.clear()
    send(gateway, "status", b"key", outcomes, [2])
    await until(lambda: len(fake.producers) == 2, "another producer is about to start")
    assert await gateway.flush(0) == 2
    await asyncio.wait_for(gateway.stop(), 1.0)
    assert [producer.stopped for producer in fake.producers] == [True, True]
    send(gateway, "up", KEY_0, outcomes, [3])  # Stragglers do no harm.
    send(gateway, "up", KEY_1, outcomes, [4])
    assert outcomes.order == [0]


async def test_stop_cancels_until_it_is_heard(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCER_STOP_SECONDS_MAX", 0.05)
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    fake.deaf = 1
    fake.metadata.clear()
    send(gateway, "up", b"key", outcomes, [1])
    await until(lambda: bool(gateway._workers["up", 0]._in_flight), "the record is handed over")
    async with asyncio.timeout(1.0):
        await gateway.stop()
    assert fake.deaf == 0


async def test_a_stop_that_hangs_is_given_up(
    fake: FakeKafka, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "PRODUCER_STOP_SECONDS_MAX", 0.05)
    gateway, outcomes = await start_gateway({"up": 1}), Outcomes()
    send(gateway, "up", b"key", outcomes, [1])
    await settled(gateway)
    [producer], [admin] = fake.producers, fake.admins
    for each, method in ((producer, "stop"), (admin, "close")):
        monkeypatch.setattr(each, method, asyncio.Event().wait)
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(gateway.stop(), 1.0)
    assert "producer did not stop cleanly" in caplog.text
    assert "admin client did not stop cleanly" in caplog.text
    assert producer.cut_off
    producer.stopped = admin.closed = True
