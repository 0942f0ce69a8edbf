"""One replica's admin port for each test."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.admin.parts import Door
from tests.support.fakes import until
from tests.support.memory_log import MemoryKafka


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> MemoryKafka:
    kafka = MemoryKafka()
    kafka.install(monkeypatch)
    return kafka


@pytest.fixture
async def door(kafka: MemoryKafka) -> AsyncIterator[Door]:
    door = Door(kafka)
    following = asyncio.create_task(door.bans.run())
    await until(door.bans.known.is_set, "the bans are known")
    yield door
    following.cancel()
    await asyncio.wait((following,))
