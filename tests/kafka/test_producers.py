"""What is known of aiokafka's producers, and how they are made."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from proxy import limits
from proxy.kafka.client import GatewaySettings
from tests.kafka.conftest import gateway_settings, new_gateway
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import KafkaBroker


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
    reader = AIOKafkaConsumer()
    assert callable(reader._client.force_metadata_update)
    await reader.stop()


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
