"""SIGKILL in the middle of a load, one small round each; `tests/prove/test_crashes.py` has five large ones."""

from pathlib import Path

from tests.e2e.conftest import StartProxy
from tests.support.crashes import kill_kafka, kill_proxy
from tests.support.kafka_broker import KafkaBroker

MESSAGES = 6_000
RATE = 2_000


def test_kill_proxy(start_proxy: StartProxy, kafka: KafkaBroker, tmp_path: Path) -> None:
    kill_proxy(start_proxy({}), kafka, tmp_path, MESSAGES, RATE)


def test_kill_kafka(start_proxy: StartProxy, mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    kill_kafka(start_proxy({}, mortal_kafka.bootstrap), mortal_kafka, tmp_path, MESSAGES, RATE)
