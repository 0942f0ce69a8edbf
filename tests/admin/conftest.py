"""One replica's admin port for each test."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.admin.parts import Door
from tests.support.fakes import until
from tests.support.memory_log import MemoryKafka


@pytest.fixture
def memory_kafka(monkeypatch: pytest.MonkeyPatch) -> MemoryKafka:
    memory_kafka = MemoryKafka()
    memory_kafka.install(monkeypatch)
    return memory_kafka


@pytest.fixture
async def door(memory_kafka: MemoryKafka) -> AsyncIterator[Door]:
    door = Door(memory_kafka)
    following = asyncio.create_task(door.bans.run())
    await until(door.bans.known.is_set, "the bans are known")
    yield door
    following.cancel()
    await asyncio.wait((following,))
