"""SIGKILL of the proxy, and of Kafka, in the middle of a load, five times each: nothing acknowledged is lost.

Each round acknowledges 60 000 messages, sent as fast as it goes, and reads all of them back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.crashes import kill_kafka, kill_proxy
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

ROUNDS = 5
MESSAGES = 60_000


def report(what: str, number: int, figures: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    verified = figures["verify"]
    counts = {name: verified[name] for name in ("acknowledged", "lost", "reordered", "corrupted", "duplicated")}
    counts |= {"resent": figures["resent"], "ack p50, max (ms)": (figures["ack_ms"]["p50"], figures["ack_ms"]["max"])}
    with capsys.disabled():
        print(f"\n{what}, round {number}: " + ", ".join(f"{name} {value}" for name, value in counts.items()))


@pytest.mark.parametrize("kill", [kill_proxy, kill_kafka])
def test_five_times(kill: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka, ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        for number in range(1, ROUNDS + 1):
            figures = kill(proxy, kafka, tmp_path, MESSAGES)
            report(kill.__name__, number, figures, capsys)
