"""The admin API of a real replica does what its document says, whatever it is sent; `make prove-api` sends more."""

from collections.abc import Iterator

import pytest

from tests.support.api_fuzz import OPERATIONS, shake
from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess, admin_token

EXAMPLES = 20


@pytest.fixture(scope="module")
def replica(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    settings = {"admin.tokens": [admin_token("ops", "write", "a token")]}
    with ProxyProcess(kafka.bootstrap, tmp_path_factory.mktemp("api"), settings) as replica:
        yield replica


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_is_answered_otherwise_than_the_document_says(replica: ProxyProcess, name: str) -> None:
    shake(name, f"http://127.0.0.1:{replica.admin_port}", "a token", EXAMPLES)
    assert replica.get("/readyz").status == 200
