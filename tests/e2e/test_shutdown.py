"""SIGTERM: what is acknowledged is in Kafka, devices are told, and the process ends in its time, whatever happens."""

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.kafka_broker import KafkaBroker
from tests.support.load import Load

DRAIN_SECONDS = 10
#: It is told to stop about two seconds after the load begins; for the rest of this time nobody is there.
LOAD_SECONDS = 4


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_under_load(start_proxy: StartProxy, kafka: KafkaBroker, tmp_path: Path, version: int) -> None:
    proxy = start_proxy({"node.drain_seconds": DRAIN_SECONDS})
    flags = {"connections": 100, "inflight": 20, "seconds": LOAD_SECONDS, "settle": 0.1, "version": version}
    with Load(proxy, kafka.bootstrap, tmp_path, flags) as load:
        load.wait_for_acked(2_000)
        process = proxy.process
        began = time.monotonic()
        assert proxy.terminate() == 0
        assert time.monotonic() - began < DRAIN_SECONDS
        figures = load.finish(LOAD_SECONDS)
    assert figures["verify"]["lost"] == figures["verify"]["reordered"] == 0
    assert figures["connections"]["server_disconnects"] == ({"0x8b": 100} if version == 5 else {})
    assert '"message": "stopped", "records_unsettled": 0' in process.output
    assert "Traceback" not in process.output
