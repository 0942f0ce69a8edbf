"""The proxy before a Kafka that asks who comes, as its operator sees it: log, `/healthz`, exit code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.device import Device
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess
from tests.support.secure_kafka import CLIENT_SECRET, SecureKafka

USAGE = 2


def proxy_for(
    kafka: SecureKafka, directory: Path, way: str, changed: dict[str, Any] | None = None, **settings: object
) -> ProxyProcess:
    client = {**kafka.client(way), **(changed or {})}
    return ProxyProcess(kafka.door(way), directory, {"kafka.client": client, **settings})


@pytest.mark.parametrize("way", ["scram-sha-512", "token"])
def test_messages_arrive(secure_kafka: SecureKafka, tmp_path: Path, way: str) -> None:
    shutil.copy(secure_kafka.keys.authority, tmp_path / "ca.crt")
    # Relative to the configuration file, wherever the proxy was started.
    with proxy_for(secure_kafka, tmp_path, way, {"ssl_cafile": "ca.crt"}, **{"kafka.compression": "zstd"}) as proxy:
        with Device(proxy.port) as device:
            device.connect("secure")
            assert device.publish_acknowledged("tlink/secure", b"over TLS") == 0
            # Announced by the sweeper that read it in the session log: its consumers are let in too.
            [status] = secure_kafka.broker.read(f"{proxy.topic_prefix}status", 1)
            assert (status.key, json.loads(status.value or b"")["action"]) == (b"secure", "connected")
        health = proxy.get("/healthz")
        assert (health.status, json.loads(health.text)["checks"]["kafka"]["detail"]["fault"]) == (200, None)
        [record] = secure_kafka.broker.read(f"{proxy.topic_prefix}msg")
        assert record.value == b"over TLS"


@pytest.mark.parametrize(
    ("way", "changed", "said"),
    [
        ("password", {"sasl_plain_password": "hunter2"}, "mqk: kafka.client.sasl_plain_password: broker localhost:"),
        ("tls", {"ssl_cafile": "other.crt"}, "mqk: kafka.client.ssl_cafile: the certificate of broker localhost:"),
        ("tls", {"ssl_cafile": "missing.crt"}, "mqk: kafka.client.ssl_cafile: "),
    ],
)
def test_a_proxy_that_kafka_refuses_ends_and_names_the_setting(
    secure_kafka: SecureKafka, tmp_path: Path, way: str, changed: dict[str, str], said: str
) -> None:
    shutil.copy(secure_kafka.keys.other_authority, tmp_path / "other.crt")
    proxy = proxy_for(secure_kafka, tmp_path, way, changed)
    with pytest.raises(RuntimeError, match=f"ended with {USAGE} before"):
        proxy.start()
    written = proxy.log.read_text()
    assert said in written
    assert "hunter2" not in written
    assert "Traceback" not in written


def test_a_proxy_waits_for_a_token_endpoint_that_is_away_and_says_so(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    proxy = proxy_for(secure_kafka, tmp_path, "token")
    try:
        with secure_kafka.tokens.answering(503):
            proxy.launch()
            wait_until(lambda: "HTTP 503" in proxy.get("/healthz").text, "the fault is in /healthz")
            assert proxy.get("/healthz").status == 503
            assert "kafka.client.sasl_oauth_token_endpoint: no token from " in proxy.get("/healthz").text
            proxy.process.wait_for_output("kafka.client.sasl_oauth_token_endpoint")
        proxy.wait_until_ready()
        wait_until(lambda: proxy.get("/healthz").status == 200, "it is healthy")
        assert CLIENT_SECRET not in proxy.process.output
    finally:
        proxy.kill()
