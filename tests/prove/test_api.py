"""The admin API of a real replica, shaken for a long time: a thousand requests of each kind, half of them wrong."""

import pytest

from tests.e2e.test_admin_fuzz import replica  # noqa: F401 - the fixture
from tests.support.api_fuzz import OPERATIONS, shake
from tests.support.proxy import ProxyProcess

EXAMPLES = 1_000


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_thousand_requests(replica: ProxyProcess, name: str) -> None:  # noqa: F811 - the fixture
    sent = shake(name, f"http://127.0.0.1:{replica.admin_port}", "a token", EXAMPLES, anew=True)
    print(f"{name}: {sent} requests")
    assert replica.get("/readyz").status == 200
