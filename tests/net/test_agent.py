"""The agent port: one line for everyone who asks, and nothing that stays."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy import limits
from proxy.net.agent import AgentPort
from tests.support.fakes import Clock


class Port:
    def __init__(self) -> None:
        self.wants = True
        self.clock = Clock()
        self.agent = AgentPort(lambda: self.wants, self.clock)
        self.number = 0

    async def ask(self, words: bytes = b"") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        writer.write(words)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port()
    port.number = await port.agent.listen("127.0.0.1", 0)
    yield port
    port.agent.stop()


async def test_what_it_says(port: Port) -> None:
    assert await port.ask() == b"100%\n"
    port.wants = False
    assert await port.ask() == b"0%\n"
    port.wants = True
    assert await port.ask() == b"100%\n"
    assert port.agent.asked == 3


async def test_who_asks_is_remembered_for_a_while(port: Port) -> None:
    assert not port.agent.is_asked
    await port.ask()
    assert port.agent.is_asked
    port.clock.now += limits.AGENT_SILENCE_SECONDS
    assert not port.agent.is_asked
    assert limits.AGENT_SILENCE_SECONDS > 2 * limits.AGENT_NOTICE_SECONDS


async def test_many_at_once(port: Port) -> None:
    answers = await asyncio.gather(*(port.ask() for _ in range(limits.AGENT_BACKLOG)))
    assert set(answers) == {b"100%\n"}


async def test_after_the_end_nobody_answers(port: Port) -> None:
    port.agent.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.number))


def test_one_that_never_listened_can_be_stopped() -> None:
    AgentPort(lambda: True, Clock()).stop()
