"""The port on which HAProxy asks how much this replica wants: one line, `100%` or `0%`, then the connection is closed.

At `0%` HAProxy sends nobody new and leaves alone who is there. Its other words do more than one would think: `drain`
and `maint` stay in force until they are taken back by a second word, and `down` cuts every connection.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from proxy import limits

_WANTS: dict[bool, bytes] = {True: b"100%\n", False: b"0%\n"}


class AgentPort:
    """`wants_devices` is the answer; `asked` counts how often it was given."""

    def __init__(self, wants_devices: Callable[[], bool], now: Callable[[], float]) -> None:
        self.asked = 0
        self._wants_devices = wants_devices
        self._now = now
        self._asked_at = float("-inf")
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Opens the port; returns it. Raises OSError: the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Answer(self), host, port, backlog=limits.AGENT_BACKLOG)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def is_asked(self) -> bool:
        """Whether somebody acts on the answers: he asked not long ago."""
        return self._now() - self._asked_at < limits.AGENT_SILENCE_SECONDS

    def answer(self) -> bytes:
        """One line, for somebody who asks now."""
        self.asked += 1
        self._asked_at = self._now()
        return _WANTS[self._wants_devices()]


class _Answer(asyncio.Protocol):
    """One question, which is the connection itself. It is over within one turn of the event loop, so that there are
    never more of them than the kernel has accepted in it.
    """

    __slots__ = ("_port",)

    def __init__(self, port: AgentPort) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.write(self._port.answer())
        transport.close()
