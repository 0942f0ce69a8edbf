"""What is known of aiokafka's producers, how they are made, and the pace at which one may ask for metadata."""

import asyncio
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from proxy import limits
from proxy.kafka.client import GatewaySettings
from proxy.kafka.producers import MetadataPace
from tests.kafka.conftest import gateway_settings, new_gateway
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import KafkaBroker


class Cluster:
    """Answers every question at once, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    def force_metadata_update(self) -> "asyncio.Future[bool]":
        self.asked += 1
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(False)
        return answer


async def test_a_cluster_that_answers_at_once_is_not_asked_without_pause() -> None:
    cluster = Cluster()
    pace = MetadataPace(cluster.force_metadata_update)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        assert await pace.force_metadata_update() is False
    assert cluster.asked == 4
    assert loop.time() - began >= 3 * limits.METADATA_GAP_SECONDS - 0.01


async def test_who_asks_while_an_answer_is_due_waits_for_the_same() -> None:
    cluster = Cluster()
    pace = MetadataPace(cluster.force_metadata_update)
    await pace.force_metadata_update()
    assert await asyncio.gather(*(pace.force_metadata_update() for _ in range(5))) == [False] * 5
    assert cluster.asked == 2


async def test_a_question_that_is_cancelled_is_answered_no() -> None:
    question: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = MetadataPace(lambda: question).force_metadata_update()
    question.cancel()
    assert await asked is False


async def test_aiokafka_has_what_we_reach_into() -> None:
    """Private names, so the version is pinned: look at all of this before it is raised."""
    pinned = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert "aiokafka~=0.14.0" in pinned
    assert version("aiokafka").startswith("0.14.")
    as_it_comes = AIOKafkaProducer(request_timeout_ms=5_000)
    assert as_it_comes._message_accumulator._batch_ttl == 5.0
    assert as_it_comes._sender.sender_task is None
    assert callable(as_it_comes.client.force_metadata_update)
    assert callable(as_it_comes.client.close)
    assert callable(as_it_comes.client.bootstrap)
    assert as_it_comes.client.cluster.brokers() == set()
    await as_it_comes.stop()
    assert callable(AIOKafkaAdminClient._send_request)


async def test_a_producer_is_made_as_the_promise_needs_it() -> None:
    producer = new_gateway(GatewaySettings(["127.0.0.1:9092"], "mqk-node"))._make_producer(["up"])
    accumulator = producer._message_accumulator
    # A batch never gives up by itself: it would leave a hole in the sequence, and the deadline is the gateway's.
    batch = accumulator._append_batch(producer.create_batch(), TopicPartition("up", 0))
    batch._ctime = float("-1e9")
    assert not batch.expired()
    batch.done_noack()
    accumulator._batches.clear()
    assert (producer._sender._acks, producer._txn_manager is not None) == (-1, True)
    assert (accumulator._linger_time, accumulator._batch_size) == (0.0, limits.BATCH_BYTES_MAX)
    assert (producer.client._client_id, producer.client._request_timeout_ms) == ("mqk-node", 5_000)
    await producer.stop()


@pytest.mark.parametrize("acks", [1, 0])
async def test_a_weaker_promise_can_be_made(kafka: KafkaBroker, topic: str, acks: int) -> None:
    kafka.create_topic(topic)  # Without acknowledgement nobody hears of a partition that has no leader yet.
    gateway, outcomes = new_gateway(gateway_settings(kafka, acks=acks, idempotence=False)), Outcomes()
    await gateway.start([topic])
    try:
        send(gateway, topic, b"key", outcomes, range(50))
        assert await gateway.flush(30) == 0
        assert outcomes.stored == list(range(50))
        assert [record.value for record in kafka.read(topic, 50)] == [b"%d" % token for token in range(50)]
    finally:
        await gateway.stop()
