"""An event loop whose clock a simulation owns, and a network that does what networks do. Nothing here knows MQTT.

Time stands still while anything can run and then jumps to the next timer, so that a minute takes milliseconds and the
same seed gives the same run.
"""

import asyncio
import selectors
from collections.abc import Callable
from random import Random
from typing import Any

from proxy.net.connection import MqttConnection
from proxy.net.listener import Listener

#: How long a piece of a stream is on its way, at the most. Pieces of one stream arrive in their order.
DELAY_SECONDS_MAX = 0.2
#: What the server reads at a time, at the most.
READ_BYTES_MAX = 2_048


class VirtualLoop(asyncio.SelectorEventLoop):
    """Calls `after_turn` between any two turns; what that raises ends the run."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.after_turn: Callable[[], None] = lambda: None
        super().__init__(_Timers(self))

    def time(self) -> float:
        return self.now


class _Timers(selectors.SelectSelector):
    """Watches no socket: to wait is to move the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.after_turn()
        if timeout is None:
            raise RuntimeError("nothing is left to happen")
        self._loop.now += max(timeout, 0.0)
        return []


class Link(asyncio.Transport):
    """One connection: the server's transport, and the network between it and the device.

    What either side sends arrives later, in pieces that begin and end anywhere. `on_write` sees what the server writes
    at once, `on_data` what the device gets, `on_read` is told when the server has handled one more piece, and `on_lost`
    when the device has noticed that the connection is gone.
    """

    def __init__(self, chance: Random, listener: Listener) -> None:
        super().__init__({"peername": ("10.0.0.1", 40_000)})
        self.on_write: Callable[[bytes], None] = lambda data: None
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_read: Callable[[int], None] = lambda count: None
        self.on_lost: Callable[[], None] = lambda: None
        self.lost = False
        self.connection = MqttConnection(listener)
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._up, self._down = b"", b""
        self._reading = True
        self._up_moving = self._down_moving = False
        self._finished = self._closing = False
        self.connection.connection_made(self)

    # ---- what the device does ----

    def send(self, data: bytes) -> None:
        self._up += data
        self._move_up()

    def cut(self) -> None:
        """The network fails: what is on its way is gone, the server hears of it in one of two ways."""
        self._up = self._down = b""
        if not self._closing and not self.lost and self._chance.random() < 0.5:
            self.connection.eof_received()
        self._lose()

    # ---- what the server does ----

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._finished and not self._closing, "written after the end"
        self.on_write(bytes(data))
        self._down += data
        self._move_down()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        assert self._reading, "paused twice"
        self._reading = False

    def resume_reading(self) -> None:
        assert not self._reading, "resumed twice"
        self._reading = True
        self._move_up()

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """What was written still arrives, what the device has sent too; when it has heard all it closes."""
        self._finished = True
        self._move_down()

    def close(self) -> None:
        """What was written still arrives."""
        self._closing = True
        self._move_down()

    def abort(self) -> None:
        self._closing = True
        self._down = b""
        self._loop.call_soon(self._lose)

    # ---- the network ----

    def _later(self, arrive: Callable[[], None]) -> None:
        # Most pieces are quick, some are very late.
        self._loop.call_later(DELAY_SECONDS_MAX * self._chance.random() ** 3, arrive)

    def _piece(self, waiting: int) -> int:
        return min(READ_BYTES_MAX, waiting, self._chance.choice((1, 3, 20, 200, READ_BYTES_MAX, READ_BYTES_MAX)))

    def _move_up(self) -> None:
        if not self._up_moving and self._up:
            self._up_moving = True
            self._later(self._arrive_up)

    def _arrive_up(self) -> None:
        self._up_moving = False
        if self._reading and not self._closing and self._up:
            size = self._piece(len(self._up))
            data, self._up = self._up[:size], self._up[size:]
            self.connection.data_received(data)
            self.on_read(size)
            self._move_up()

    def _move_down(self) -> None:
        if not self._down_moving:
            self._down_moving = True
            self._later(self._arrive_down)

    def _arrive_down(self) -> None:
        self._down_moving = False
        size = self._piece(len(self._down)) if self._down else 0
        data, self._down = self._down[:size], self._down[size:]
        if data:
            self.on_data(data)
        if self._down:
            self._move_down()
        elif self._closing:
            self._lose()
        elif self._finished:
            self.connection.eof_received()
            self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = self._closing = True
            self.connection.connection_lost(None)
            self.on_lost()
