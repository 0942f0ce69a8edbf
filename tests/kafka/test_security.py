"""A real Kafka that demands something: every way in, what is said when it is barred, and what happens later."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from proxy import limits
from proxy.errors import ConfigError
from proxy.kafka.client import AioKafkaGateway, GatewaySettings
from proxy.kafka.readers import tail
from proxy.kafka.security import ClientSettings, client_options
from proxy.metrics import GatewayMetrics, KafkaCounters
from tests.kafka.conftest import new_gateway, until
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import KafkaBroker
from tests.support.secure_kafka import PASSWORD, REAUTHENTICATION_MS, WAYS, SecureKafka

# aiokafka does not wait until a TLS connection that it has given up is closed, and the test may be over by then.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
#: The number that a batch of records carries for each kind of compression.
CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Client:
    """Gateways for the doors of one Kafka. They stop with the test."""

    def __init__(self, kafka: SecureKafka) -> None:
        self.kafka = kafka
        self.counters = KafkaCounters(CollectorRegistry())
        self.metrics = GatewayMetrics(self.counters, "default")
        self.gateways: list[AioKafkaGateway] = []

    def options(self, way: str, **changed: Any) -> dict[str, Any]:
        given = self.kafka.client(way) | changed
        paths = {name: Path(value) for name, value in given.items() if name.endswith("file") and value}
        return client_options(ClientSettings(**{**given, **paths}), self.metrics.token_request)

    def gateway(self, way: str, **changed: Any) -> AioKafkaGateway:
        settings = GatewaySettings(
            [self.kafka.door(way)], "tests", replication_factor=1, partitions=1, client=self.options(way, **changed)
        )
        self.gateways.append(AioKafkaGateway(settings, self.metrics))
        return self.gateways[-1]

    def tokens(self, result: str) -> float:
        return self.counters.token_requests.labels("default", result)._value.get()


@pytest.fixture
async def client(secure_kafka: SecureKafka) -> AsyncIterator[Client]:
    client = Client(secure_kafka)
    yield client
    for gateway in client.gateways:
        await gateway.stop()


@pytest.mark.parametrize("way", WAYS)
async def test_a_way_in_is_one_for_everything(secure_kafka: SecureKafka, client: Client, topic: str, way: str) -> None:
    gateway, outcomes = client.gateway(way), Outcomes()
    await gateway.start([topic])
    send(gateway, topic, b"key", outcomes, [1, 2, 3])
    assert await gateway.flush(30) == 0
    assert outcomes.stored == [1, 2, 3]
    assert await gateway.directory.refresh()
    assert gateway.status().fault is None
    assert [record.value for record in secure_kafka.broker.read(topic)] == [b"1", b"2", b"3"]
    records = tail({"bootstrap_servers": secure_kafka.door(way), **client.options(way)}, [topic])
    async with asyncio.timeout(30):
        assert [(await anext(records)).value for _ in range(3)] == [b"1", b"2", b"3"]
    await records.aclose()


async def test_an_encrypted_key_is_opened(secure_kafka: SecureKafka, client: Client, topic: str) -> None:
    encrypted = {"ssl_keyfile": secure_kafka.keys.path("encrypted.key"), "ssl_password": "pass word"}
    await client.gateway("mutual", **encrypted).start([topic])


async def test_a_name_that_the_certificate_lacks_can_be_allowed(
    secure_kafka: SecureKafka, client: Client, topic: str
) -> None:
    by_address = [secure_kafka.door("tls").replace("localhost", "127.0.0.1")]
    strict, lax = client.gateway("tls"), client.gateway("tls", ssl_check_hostname=False)
    for gateway in (strict, lax):
        gateway.directory._options["bootstrap_servers"] = by_address
    with pytest.raises(ConfigError, match=r"is not for 127\.0\.0\.1") as raised:
        await strict.start([topic])
    assert raised.value.setting == "kafka.client.ssl_check_hostname"
    await lax.start([topic])


NO_CERTIFICATE = {"ssl_certfile": None, "ssl_keyfile": None}


@pytest.mark.parametrize(
    ("way", "changed", "setting", "words"),
    [
        ("tls", {"ssl_cafile": "other.crt"}, "ssl_cafile", "is not trusted: unable to get local issuer"),
        ("tls", {"ssl_cafile": None}, "ssl_cafile", "is not trusted"),
        ("mutual", NO_CERTIFICATE, "ssl_certfile", "refuses our certificate, or the lack of one"),
        ("mutual", {"ssl_certfile": "expired.crt", "ssl_keyfile": "expired.key"}, "ssl_certfile", "CERTIFICATE"),
        ("mutual", {"ssl_certfile": "stranger.crt", "ssl_keyfile": "stranger.key"}, "ssl_certfile", "CERTIFICATE"),
        ("password", {"sasl_plain_password": "x"}, "sasl_plain_password", "Invalid username or password"),
        ("password", {"sasl_mechanism": "SCRAM-SHA-256"}, "sasl_mechanism", "does not offer SCRAM-SHA-256"),
        ("scram-sha-256", {"sasl_plain_password": "x"}, "sasl_plain_password", "invalid credentials"),
        ("scram-sha-512", {"sasl_plain_username": "x"}, "sasl_plain_password", "invalid credentials"),
        ("scram-sha-512", {"ssl_cafile": "other.crt"}, "ssl_cafile", "is not trusted"),
        ("token", {"sasl_oauth_token_endpoint": "http://127.0.0.1:1/"}, None, "ConnectError"),
    ],
)
async def test_who_is_barred_is_told_which_setting_is_wrong(
    secure_kafka: SecureKafka, client: Client, topic: str, way: str, changed: dict[str, Any], setting: str, words: str
) -> None:
    named = {
        name: str(secure_kafka.keys.path(value)) if name.startswith("ssl") and value else value
        for name, value in changed.items()
    }
    gateway = client.gateway(way, **named)
    if setting is None:
        # What may be over in a moment is waited for, but not in silence.
        starting = asyncio.create_task(gateway.start([topic]))
        await until(lambda: gateway.status().fault is not None, "the fault is known")
        assert words in str(gateway.status().fault)
        starting.cancel()
        return
    async with asyncio.timeout(20):
        with pytest.raises(ConfigError, match=words) as raised:
            await gateway.start([topic])
    assert raised.value.setting == f"kafka.client.{setting}"
    assert PASSWORD not in str(raised.value)


async def test_a_token_that_the_broker_does_not_believe(secure_kafka: SecureKafka, client: Client, topic: str) -> None:
    secure_kafka.tokens.forge = True
    try:
        async with asyncio.timeout(20):
            with pytest.raises(ConfigError, match=r"refuses this client's token: .*invalid_token") as raised:
                await client.gateway("token").start([topic])
    finally:
        secure_kafka.tokens.forge = False
    assert raised.value.setting == "kafka.client.sasl_oauth_client_id"


async def test_an_endpoint_that_knows_no_such_client(secure_kafka: SecureKafka, client: Client, topic: str) -> None:
    refusing = secure_kafka.tokens.answering(401, b'{"error": "invalid_client"}')
    with refusing, pytest.raises(ConfigError, match="HTTP 401 invalid_client") as raised:
        await client.gateway("token").start([topic])
    assert raised.value.setting == "kafka.client.sasl_oauth_client_secret"
    assert client.tokens("refused") >= 1


async def test_an_endpoint_that_is_away_is_waited_for(secure_kafka: SecureKafka, client: Client, topic: str) -> None:
    gateway = client.gateway("token")
    with secure_kafka.tokens.answering(503):
        starting = asyncio.create_task(gateway.start([topic]))
        await until(lambda: "HTTP 503" in str(gateway.status().fault), "the fault is known")
        assert str(gateway.status().fault).startswith("kafka.client.sasl_oauth_token_endpoint: no token from ")
    async with asyncio.timeout(20):
        await starting
    assert gateway.status().fault is None
    assert client.tokens("unavailable") >= 1
    assert client.tokens("granted") == 1


@pytest.mark.parametrize(
    ("way", "changed"),
    [("tls", {"security_protocol": "PLAINTEXT"}), ("password", {"security_protocol": "PLAINTEXT"})],
)
async def test_a_broker_that_hangs_up_may_want_another_protocol(
    client: Client, topic: str, way: str, changed: dict[str, Any]
) -> None:
    gateway = client.gateway(way, **changed)
    starting = asyncio.create_task(gateway.start([topic]))
    await until(lambda: gateway.status().fault is not None, "the fault is known")
    assert str(gateway.status().fault).startswith("kafka.client.security_protocol: broker localhost:")
    assert not starting.done()
    starting.cancel()


async def test_tokens_are_renewed_while_records_flow(
    secure_kafka: SecureKafka, client: Client, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker closes a connection whose token is over; what was on its way is sent again, once."""
    monkeypatch.setattr(secure_kafka.tokens, "token_seconds", 2)
    gateway, outcomes = client.gateway("token"), Outcomes()
    await gateway.start([topic])
    sent = 0
    async with asyncio.timeout(REAUTHENTICATION_MS / 1000 * 8):
        while client.tokens("granted") < 4 or sent < 40:
            sent += 1
            send(gateway, topic, b"key", outcomes, [sent])
            await until(lambda: len(outcomes.order) >= sent, "it is settled")  # noqa: B023 - called at once
            await asyncio.sleep(0.02)
    assert outcomes.stored == list(range(1, sent + 1))
    assert [int(record.value or b"") for record in secure_kafka.broker.read(topic)] == outcomes.stored


async def test_a_broker_that_does_not_believe_a_token_yet_is_tried_again(
    secure_kafka: SecureKafka, client: Client, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the endpoint signs with a new key that the broker has not read: aiokafka takes that for a cluster
    without brokers and never asks again.
    """
    monkeypatch.setattr(limits, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(limits, "TOKEN_RENEWAL_SHARE", 0.0)  # A new one for each connection.
    gateway, outcomes = client.gateway("token"), Outcomes()
    await gateway.start([topic])
    secure_kafka.tokens.forge = True
    try:
        send(gateway, topic, b"key", outcomes, [1])
        await until(lambda: gateway.status().fault is not None, "the fault is known")
        assert str(gateway.status().fault).startswith("kafka.client.sasl_oauth_client_id: the broker refuses")
        assert outcomes.order == []
    finally:
        secure_kafka.tokens.forge = False
    assert await gateway.flush(30) == 0
    assert outcomes.stored == [1]
    assert [record.value for record in secure_kafka.broker.read(topic)] == [b"1"]


async def test_a_password_that_changes_later_is_a_fault_until_it_is_right_again(
    secure_kafka: SecureKafka, client: Client, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that are open stay open, and a new producer cannot start."""
    monkeypatch.setattr(limits, "PROBE_SECONDS", 0.1)
    gateway, outcomes = client.gateway("scram-sha-256"), Outcomes()
    await gateway.start([topic])
    secure_kafka.set_password("another")
    try:
        send(gateway, topic, b"key", outcomes, [1])
        await until(lambda: gateway.status().fault is not None, "the fault is known")
        assert str(gateway.status().fault).startswith("kafka.client.sasl_plain_password: broker localhost:")
        assert outcomes.order == []
    finally:
        secure_kafka.set_password(PASSWORD)
    assert await gateway.flush(30) == 0
    assert outcomes.stored == [1]
    await until(lambda: gateway.status().fault is None, "it is over")


@pytest.mark.parametrize("compression", CODECS)
async def test_batches_are_compressed(secure_kafka: SecureKafka, topic: str, compression: str | None) -> None:
    settings = GatewaySettings(
        [secure_kafka.broker.bootstrap], "tests", replication_factor=1, partitions=1, compression=compression
    )
    gateway, outcomes = new_gateway(settings), Outcomes()
    try:
        await gateway.start([topic])
        destination = gateway.destination(topic, b"key")
        for token in range(100):
            gateway.enqueue(destination, b"a value that is like the others", [], outcomes, token)
        assert await gateway.flush(30) == 0
    finally:
        await gateway.stop()
    assert outcomes.stored == list(range(100))
    assert [record.value for record in secure_kafka.broker.read(topic)] == [b"a value that is like the others"] * 100
    records = tail({"bootstrap_servers": secure_kafka.broker.bootstrap}, [topic])
    async with asyncio.timeout(30):
        assert (await anext(records)).value == b"a value that is like the others"
    await records.aclose()
    assert codec_on_disk(secure_kafka.broker, topic) == CODECS[compression]


def codec_on_disk(broker: KafkaBroker, topic: str) -> int:
    """Of the first batch of partition 0, as the broker has stored it: the last bits of its attributes."""
    stored = (broker.directory / "data" / f"{topic}-0" / f"{0:020}.log").read_bytes()
    attributes: int = struct.unpack_from(">h", stored, 21)[0]
    return attributes & 0b111
