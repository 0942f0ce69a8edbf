"""Proxies for end-to-end tests: one with the settings that users get, shared, and others that a test asks for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess

StartProxy = Callable[..., ProxyProcess]
#: A dead broker's session is over after 2 s, not 9 s, so that its restart does not wait for that.
QUICK_RESTART = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}


@pytest.fixture(scope="session")
def shared_proxy(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with ProxyProcess(kafka.bootstrap, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy
        assert "Traceback" not in proxy.process.output
        assert proxy.terminate() == 0


@pytest.fixture
def proxy(shared_proxy: ProxyProcess) -> Iterator[ProxyProcess]:
    """The proxy as it is by default. It is shared: a test names its own clients, and never stops it."""
    written_before = len(shared_proxy.process.output)
    yield shared_proxy
    print(shared_proxy.process.output[written_before:])  # Seen when the test fails.


@pytest.fixture(scope="session")
def mortal_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A Kafka that a test may stop, kill or pause, and starts again before it ends. It is shared."""
    with KafkaBroker(VERSIONS[0], tmp_path_factory.mktemp("mortal-kafka"), QUICK_RESTART) as broker:
        yield broker


@pytest.fixture
def start_proxy(kafka: KafkaBroker, tmp_path: Path) -> Iterator[StartProxy]:
    """Starts a proxy with settings of the test's own, on `kafka` or another. It ends with the test."""
    with ExitStack() as stack:

        def start(settings: Mapping[str, object], bootstrap: str = kafka.bootstrap) -> ProxyProcess:
            return stack.enter_context(ProxyProcess(bootstrap, tmp_path, settings))

        yield start
