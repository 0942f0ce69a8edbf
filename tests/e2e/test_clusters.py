"""A second Kafka cluster in the settings: what the process says of it, and that devices do not depend on it."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

pytestmark = pytest.mark.kafka
USAGE = 2
BACKUP = "kafka.clusters.backup"


def checks(proxy: ProxyProcess) -> dict[str, bool]:
    return {name: check["ok"] for name, check in json.loads(proxy.get("/healthz").text)["checks"].items()}


def test_a_further_cluster_that_is_down_at_start(start_proxy: StartProxy, mortal_kafka: KafkaBroker) -> None:
    mortal_kafka.stop()
    try:
        began = time.monotonic()
        settings = {f"{BACKUP}.bootstrap_servers": [mortal_kafka.bootstrap], f"{BACKUP}.replication_factor": 1}
        proxy = start_proxy(settings)
        assert time.monotonic() - began < 30
        with Device(proxy.port) as device:
            device.connect("unconcerned")
            device.publish_acknowledged("tlink/unconcerned", b"stored")
        assert [name for name, ok in checks(proxy).items() if not ok] == ["kafka.backup"]
        assert proxy.get("/healthz").status == 503
        assert proxy.get("/readyz").status == 200
        assert proxy.metric('mqk_kafka_ready{cluster="default"}') == 1
        assert proxy.metric('mqk_kafka_ready{cluster="backup"}') == 0
    finally:
        mortal_kafka.start()
    wait_until(lambda: checks(proxy)["kafka.backup"], "the cluster has started", 30)
    assert f"{proxy.topic_prefix}dead_letter" in mortal_kafka.topics()
    assert proxy.get("/healthz").status == 200


def test_settings_that_do_not_fit_a_further_cluster_stop_the_start(
    kafka: KafkaBroker, mortal_kafka: KafkaBroker, tmp_path: Path
) -> None:
    proxy = ProxyProcess(kafka.bootstrap, tmp_path, {f"{BACKUP}.bootstrap_servers": [mortal_kafka.bootstrap]})
    with pytest.raises(RuntimeError, match=f"ended with {USAGE} before"):
        proxy.start()
    assert (
        f"{BACKUP}.replication_factor: topic {proxy.topic_prefix}dead_letter cannot be created" in proxy.log.read_text()
    )
