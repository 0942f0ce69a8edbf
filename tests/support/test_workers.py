"""Several workers of one test run: ports of their own, one Kafka for all, files kept together."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import shared_kafka as module
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import POLL_SECONDS
from tests.support.scheduling import APART, TOGETHER, unit_of_work
from tests.support.shared_kafka import shared_kafka

ROOT = Path(__file__).parents[2]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[KafkaBroker]:
    """The brokers that are started, without a process."""
    started: list[KafkaBroker] = []

    def start(broker: KafkaBroker) -> None:
        started.append(broker)

    def kill(broker: KafkaBroker) -> None:
        started.remove(broker)

    monkeypatch.setattr(KafkaBroker, "start", start)
    monkeypatch.setattr(KafkaBroker, "kill", kill)
    monkeypatch.setattr(KafkaBroker, "running", property(lambda broker: broker in started))
    return started


def test_the_second_worker_joins_the_kafka_of_the_first(starts: list[KafkaBroker], tmp_path: Path) -> None:
    with shared_kafka("4.1.0", tmp_path) as first, shared_kafka("4.1.0", tmp_path) as second:
        assert second.bootstrap == first.bootstrap
        with shared_kafka("3.9.1", tmp_path) as other:
            assert starts == [first, other]
    assert starts == []


def test_who_started_it_waits_for_the_others(starts: list[KafkaBroker], tmp_path: Path) -> None:
    first, second = shared_kafka("4.1.0", tmp_path), shared_kafka("4.1.0", tmp_path)
    broker = first.__enter__()
    second.__enter__()
    leaving = threading.Thread(target=first.__exit__, args=(None, None, None))
    leaving.start()
    leaving.join(5 * POLL_SECONDS)
    assert starts == [broker]
    second.__exit__(None, None, None)
    leaving.join(10)
    assert starts == []
    with shared_kafka("4.1.0", tmp_path) as third:
        assert starts == [third]


def test_a_wait_for_the_others_ends(starts: list[KafkaBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OTHERS_SECONDS", 0.05)
    first, second = shared_kafka("4.1.0", tmp_path), shared_kafka("4.1.0", tmp_path)
    first.__enter__()
    second.__enter__()
    with pytest.raises(TimeoutError, match="the other workers are done"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)


def test_each_worker_has_ports_of_its_own() -> None:
    def ports(worker: str) -> set[int]:
        code = "from tests.support.processes import PORTS; print(*PORTS)"
        environment = {"PYTEST_XDIST_WORKER": worker, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return set(map(int, said.split()))

    assert ports("gw0") and ports("gw3")
    assert not ports("gw0") & ports("gw3")


def test_units_of_work_are_files_but_for_tests_that_stand_apart() -> None:
    assert unit_of_work("tests/mqtt/test_decode.py::test_a[1]") == "tests/mqtt/test_decode.py"
    assert unit_of_work("tests/e2e/test_wire.py::test_a[x::y]") == "tests/e2e/test_wire.py::test_a[x::y]"
    assert all((ROOT / folder).is_dir() for folder in APART)


@pytest.mark.parametrize("fixture", TOGETHER)
def test_users_of_what_is_dear_to_start_are_one_unit_of_work(fixture: str) -> None:
    files = [file.relative_to(ROOT) for file in (ROOT / "tests").rglob("test_*.py") if file != Path(__file__)]
    users = {str(file) for file in files if re.search(rf"\b{fixture}: ", (ROOT / file).read_text())}
    assert users == set(TOGETHER[fixture])
    assert {unit_of_work(f"{file}::test_a") for file in users} == {fixture}
