"""One proxy for all the clients that others wrote."""

from collections.abc import Iterator

import pytest

from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess


@pytest.fixture(scope="package")
def proxy(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with ProxyProcess(kafka.bootstrap, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy
