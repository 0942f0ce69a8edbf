"""What every test can ask for: a real Kafka, started once for the whole run, and the rules that hold for all tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.packets import examples
from tests.support.processes import left_behind
from tests.support.secure_kafka import SecureKafka
from tests.support.shared_kafka import shared_kafka
from tests.support.workers import run_directory

#: Full-size evidence: hours, not seconds. `make prove` names these files, a plain pytest run leaves them out.
collect_ignore = ["prove"]
KAFKA_FIXTURES = {"kafka", "kafka_each_version", "mortal_kafka", "secure_kafka"}

settings.register_profile("tests", examples(100))
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)  # Before -m chooses by marker.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if KAFKA_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("kafka")
    items.sort(key=_computes)


def _computes(item: pytest.Item) -> bool:
    """What mostly waits comes first, so that with several workers what computes fills the time."""
    return not (item.get_closest_marker("kafka") or item.get_closest_marker("install"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests `pytest -n` keeps together."""
    from tests.support.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fails, at the end of the run, for every process that a test started and nobody stopped."""
    yield
    left = left_behind()
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def kafka_of_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], KafkaBroker]]:
    """Starts the Kafka of a version when it is asked for first, and gives the same one to all who ask later."""
    directory = run_directory(tmp_path_factory)
    with ExitStack() as stack:
        brokers: dict[str, KafkaBroker] = {}

        def running(version: str) -> KafkaBroker:
            if version not in brokers:
                brokers[version] = stack.enter_context(shared_kafka(version, directory))
            return brokers[version]

        yield running


@pytest.fixture(scope="session")
def kafka(kafka_of_version: Callable[[str], KafkaBroker]) -> KafkaBroker:
    """The newest Kafka. It is shared: a test names its own topics, and never stops or pauses it."""
    return kafka_of_version(VERSIONS[0])


@pytest.fixture(scope="session", params=VERSIONS)
def kafka_each_version(request: pytest.FixtureRequest, kafka_of_version: Callable[[str], KafkaBroker]) -> KafkaBroker:
    """Runs the test once on every version of Kafka; the newest is the one that `kafka` gives."""
    return kafka_of_version(request.param)


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A Kafka that asks who comes. It is shared: what a test changes of its users and tokens it changes back."""
    kafka = SecureKafka(tmp_path_factory.mktemp("secure-kafka"))
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()
