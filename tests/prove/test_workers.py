"""Replicas below a supervisor die and hang, with a fleet: what `tests/e2e/test_workers.py` shows, at full size."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.supervised import Supervised
from tests.support.supervision import replaced

CLIENTS = 900
ROUNDS = 5


@pytest.fixture
def kafka(tmp_path: Path) -> Any:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka:
        yield kafka


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 15), (signal.SIGSTOP, 60)], ids=["killed", "hung"])
def test_replaced_again_and_again(
    kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, seconds: float
) -> None:
    with Supervised(kafka, tmp_path, 3) as workers:
        for each in range(ROUNDS):
            workers.wait_until_all_serve()
            figures = asyncio.run(replaced(workers, CLIENTS, victim=each % 3, number=number, name=f"round-{each}"))
            with capsys.disabled():
                print(f"\n{number.name} of one of three, {CLIENTS} clients, round {each + 1}: {json.dumps(figures)}")
            assert figures["replaced after seconds"] <= seconds
            assert figures["all clients back after seconds"] <= seconds
        assert workers.supervisor.terminate() == 0
