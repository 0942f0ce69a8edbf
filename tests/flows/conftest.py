"""A replica for each test, which must have had no bug at the end."""

from collections.abc import AsyncIterator

import pytest

from tests.flows.harness import Replica


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    yield replica
    assert replica.listener.bugs == 0
    assert replica.gateway.bugs == []
