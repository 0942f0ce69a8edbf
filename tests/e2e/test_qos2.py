"""QoS 2 from device to Kafka, with everything said more than once: each message is there once.

The full size is in `tests/prove/test_exactly_once.py`.
"""

from pathlib import Path

import pytest

from tests.support.exactly_once import publish_exactly_once
from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess

CLIENTS = 8
MESSAGES = 2_000
SECONDS = 60.0


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_each_message_is_stored_once(proxy: ProxyProcess, kafka: KafkaBroker, tmp_path: Path, version: int) -> None:
    publish_exactly_once(proxy, kafka, tmp_path, version, CLIENTS, MESSAGES, SECONDS)
