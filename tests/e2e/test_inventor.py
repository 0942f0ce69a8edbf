"""A device sends every message under a new topic for seconds; `tests/prove/test_inventor.py` does so for a minute."""

from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.inventor import SETTINGS, check, invention
from tests.support.kafka_broker import KafkaBroker

SECONDS = 6.0


@pytest.mark.parametrize("kind", ["new", "made"])
def test_new_topics(start_proxy: StartProxy, kafka: KafkaBroker, tmp_path: Path, kind: str) -> None:
    proxy = start_proxy(SETTINGS)
    check(proxy, invention(proxy, kafka.bootstrap, tmp_path, SECONDS, kind))
