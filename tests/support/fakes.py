"""What stands for the machine in core tests: a clock that a test turns, a socket that it plays, bugs that it plants."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from proxy.net.connection import MqttConnection
from proxy.session.protocol import ServerProtocol


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class VirtualTime:
    """Stands for `asyncio` in one module, where sleeping turns a clock and takes one turn of the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self._clock.now += seconds
        await turn()


class ShortSleeps:
    """Stands for `asyncio` in one module of a library that polls, where it polls often."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.002))


class FakeTransport(asyncio.Transport):
    """One side of a connection: keeps every write, and loses the connection in the next turn once it is closed, or once
    it has heard that nothing more is said, which makes the peer close too. `closed` is true of both.

    With `stuck` the peer never reads and never closes, so that only `abort` ends it.
    """

    def __init__(self, connection: MqttConnection, peer: tuple[Any, ...] | None = ("10.0.0.1", 40_000)) -> None:
        super().__init__({"peername": peer})
        self.writes: list[bytes] = []
        self.reading = True
        self.stuck = False
        self.closed = False
        self.aborted = False
        self._lost = False
        self._connection = connection
        connection.connection_made(self)

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def take(self) -> bytes:
        """What was written since the last time."""
        data = self.written
        self.writes.clear()
        return data

    # ---- what the connection calls ----

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing(), "written after the end"
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.is_closing(), "ended twice"
        self.closed = True
        if not self.stuck:
            asyncio.get_running_loop().call_soon(self._peer_closes)

    def _peer_closes(self) -> None:
        if not self._lost:
            self._lost = True
            self._connection.eof_received()
            self._connection.connection_lost(None)

    def close(self) -> None:
        self.closed = True
        if not self.stuck:
            self._lose()

    def abort(self) -> None:
        self.aborted = True
        self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


async def turn() -> None:
    """Lets everything run that the event loop has scheduled by now."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str, timeout_seconds: float = 5.0) -> None:
    """Waits for a condition that the event loop brings about by itself. TimeoutError when it does not hold in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"not after {timeout_seconds:g} s: {what}")
        await asyncio.sleep(0.001)


class Broken:
    """A session with a bug in one of its methods."""

    def __init__(self, session: ServerProtocol, method: str) -> None:
        self._session = session
        self._method = method

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            raise ValueError(f"raised in {name}")
        return getattr(self._session, name)


def break_session(connection: MqttConnection, method: str) -> None:
    """From now on `method` of this connection's session raises."""
    connection.protocol = cast(ServerProtocol, Broken(connection.protocol, method))
