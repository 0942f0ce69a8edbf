"""Starting, and what the admin port says of it: `/livez`, `/readyz`, `/healthz` and `/metrics` of a real process."""

import json
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import Device
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.processes import free_port, wait_until
from tests.support.proxy import ProxyProcess

USAGE = 2
#: settings.md names these; dashboards and alerts depend on them.
METRICS = {
    "mqk_connections",
    "mqk_connects_total",
    "mqk_disconnects_total",
    "mqk_publishes_total",
    "mqk_publish_ack_seconds_bucket",
    "mqk_kafka_queue_bytes",
    "mqk_kafka_oldest_record_seconds",
    "mqk_kafka_ready",
    "mqk_loop_lag_seconds",
    "mqk_build_info",
}


def test_a_healthy_proxy(proxy: ProxyProcess) -> None:
    assert (proxy.get("/livez").status, proxy.get("/readyz").status) == (200, 200)
    status, text = proxy.get("/healthz")
    document = json.loads(text)
    assert (status, document["status"]) == (200, "ok")
    assert {name: check["ok"] for name, check in document["checks"].items()} == {
        "kafka": True,
        "sessions": True,
        "bans": True,
        "started": True,
        "safe": True,
    }
    assert proxy.get("/unknown").status == 404


def test_metrics(proxy: ProxyProcess) -> None:
    stored = 'mqk_publishes_total{qos="1",result="stored"}'
    before = proxy.metric(stored)
    with Device(proxy.port) as device:
        device.connect("metrics")
        device.publish_acknowledged("tlink/metrics", b"counted")
        assert proxy.metric("mqk_connections") >= 1
    assert proxy.metric(stored) == before + 1
    text = proxy.get("/metrics").text
    assert set(re.findall(r"^(\w+)", text, re.MULTILINE)) >= METRICS
    assert 'metrics"' not in text, "a client id or a topic is a label"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kafka.unsafe_acks": "1", "kafka.unsafe_idempotence": False}, ["unsafe_acks", "unsafe_idempotence"]),
        ({"kafka.unsafe_idempotence": False}, ["unsafe_idempotence"]),
    ],
)
def test_unsafe_settings_are_seen(start_proxy: StartProxy, settings: dict[str, object], named: list[str]) -> None:
    proxy = start_proxy(settings)
    status, text = proxy.get("/healthz")
    check = json.loads(text)["checks"]["safe"]
    assert (status, check) == (503, {"ok": False, "detail": [f"kafka.{name}" for name in named]})
    assert proxy.get("/readyz").status == 200
    assert proxy.metric("mqk_unsafe") == 1
    with Device(proxy.port) as device:
        device.connect("unsafe")
        assert device.publish_acknowledged("tlink/unsafe", b"stored all the same") == 0


def test_without_kafka(tmp_path: Path) -> None:
    """It lives, waits, says so, lets nobody in, and ends when it is told to."""
    proxy = ProxyProcess(f"127.0.0.1:{free_port()}", tmp_path)
    try:
        proxy.launch()
        assert [proxy.get(path).status for path in ("/livez", "/readyz", "/healthz")] == [200, 503, 503]
        checks = json.loads(proxy.get("/healthz").text)["checks"]
        assert {name: check["ok"] for name, check in checks.items()} == {
            "kafka": False, "sessions": False, "bans": False, "started": False, "safe": True
        }  # fmt: skip
        with pytest.raises(ConnectionRefusedError):
            Device(proxy.port)
        proxy.process.wait_for_output("kafka does not answer")
        assert proxy.terminate() == 0
    finally:
        proxy.kill()


@pytest.mark.kafka
def test_kafka_may_come_later(tmp_path: Path) -> None:
    broker = KafkaBroker(VERSIONS[0], tmp_path / "kafka")
    proxy = ProxyProcess(broker.bootstrap, tmp_path)
    try:
        proxy.launch()
        proxy.process.wait_for_output("kafka does not answer")
        broker.start()
        proxy.wait_until_ready()
        with Device(proxy.port) as device:
            device.connect("patient")
            assert device.publish_acknowledged("tlink/patient", b"in time") == 0
        wait_until(lambda: proxy.get("/healthz").status == 200, "it is healthy")
    finally:
        proxy.kill()
        broker.kill()


def refused(kafka: KafkaBroker, directory: Path, settings: dict[str, object]) -> str:
    """What a proxy says that cannot be started with these settings."""
    proxy = ProxyProcess(kafka.bootstrap, directory, settings)
    with pytest.raises(RuntimeError, match=f"ended with {USAGE} before"):
        proxy.start()
    return proxy.log.read_text()


def test_missing_topics_are_named_when_they_may_not_be_created(kafka: KafkaBroker, tmp_path: Path) -> None:
    kafka.create_topic("strict_msg")
    said = refused(kafka, tmp_path, {"kafka.create_topics": False, "kafka.topic_prefix": "strict_"})
    for suffix in ("ota", "sub_register", "sub_status", "status", "msg_down", "command_results"):
        assert f"--create --topic strict_{suffix} --partitions 4" in said
    assert "strict_msg " not in said
    assert [topic for topic in kafka.topics() if topic.startswith("strict_")] == ["strict_msg"]


def test_more_partitions_in_the_hash_than_there_are(kafka: KafkaBroker, tmp_path: Path) -> None:
    assert "routing.md5_partitions: 5, but topic" in refused(kafka, tmp_path, {"routing.md5_partitions": 5})


def test_a_port_that_is_taken(proxy: ProxyProcess, kafka: KafkaBroker, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{proxy.port}"
    assert f"cannot listen on {taken}" in refused(kafka, tmp_path, {"listeners": [{"bind": taken}]})
    taken = f"127.0.0.1:{proxy.admin_port}"
    assert f"cannot listen on {taken}" in refused(kafka, tmp_path, {"admin.bind": taken})
