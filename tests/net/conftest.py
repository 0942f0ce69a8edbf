"""Tests of this room run on asyncio's own event loop and, where it is installed, on uvloop as the product does."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.net.harness import Net


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories = {"asyncio": asyncio.new_event_loop}
    if importlib.util.find_spec("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    net = Net()
    yield net
    net.listener.stop()
    assert net.listener.bugs == net.bugs_wanted
