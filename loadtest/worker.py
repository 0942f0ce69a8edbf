"""One process of the load tool: runs its share of the devices and obeys the parent over a pipe.

The parent sends "connect", "go", "stop" and "close"; the worker sends a `Report` each second and on every change that
the parent waits for, and after "close" a last one with the acknowledged sequence numbers.
"""

import asyncio
import resource
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from loadtest.errors import UsageError
from loadtest.fleet import Fleet
from loadtest.ranges import SequenceRanges
from loadtest.settings import LoadSettings
from loadtest.tally import Tally

REPORT_SECONDS = 1.0
POLL_SECONDS = 0.02
"""How often a worker looks whether what the parent waits for has come true."""
_SPARE_FILES = 64
"""Open files of a process besides its connections."""


@dataclass(slots=True)
class Report:
    """What a worker tells its parent. `phase` is the last one that is complete."""

    phase: str
    tally: Tally
    outstanding: int
    acked: dict[int, SequenceRanges] = field(default_factory=dict)


def raise_file_limit(connections: int) -> None:
    """Raise the soft limit of open files as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(f"--connections: {connections} in one process need {needed} open files, the limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop when it is installed: it halves the cost of a message here."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_worker(settings: LoadSettings, indices: Sequence[int], pipe: Connection) -> None:
    """The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends the run in order
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_Worker(settings, indices, pipe).run())


class _Worker:
    def __init__(self, settings: LoadSettings, indices: Sequence[int], pipe: Connection) -> None:
        self._fleet = Fleet(settings, indices)
        self._pipe = pipe
        self._phase = "ready"
        self._cpu_at_go = 0.0
        self._commands: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read_command)
        self._report()
        async with asyncio.TaskGroup() as group:  # a task that fails ends the process, which the parent notices
            reporter = group.create_task(self._report_regularly())
            await self._obey(group)
            reporter.cancel()
        await self._fleet.close()
        self._phase = "closed"
        self._report({device.index: device.acked for device in self._fleet.devices if device.first})

    async def _obey(self, group: asyncio.TaskGroup) -> None:
        """Carry out the parent's commands; the next one ends what is left of the one before."""
        handlers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "connect": self._connect,
            "go": self._go,
            "stop": self._stop,
        }
        phase: asyncio.Task[None] | None = None
        while (command := await self._commands.get()) != "close":
            if phase:
                phase.cancel()
            phase = group.create_task(handlers[command]())
        if phase:
            phase.cancel()

    def _read_command(self) -> None:
        try:
            command: str = self._pipe.recv()
        except EOFError:  # the parent is gone
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            command = "close"
        self._commands.put_nowait(command)

    async def _connect(self) -> None:
        await self._fleet.connect_all()
        await self._until(lambda: self._fleet.tally.connected == len(self._fleet.devices))
        self._complete("connected")

    async def _go(self) -> None:
        self._cpu_at_go = time.process_time()
        self._fleet.go()
        if self._fleet.settings.stop_after:
            await self._until(lambda: self._fleet.exhausted)
            self._complete("exhausted")

    async def _stop(self) -> None:
        self._fleet.stop()
        await self._until(lambda: self._fleet.settled)
        self._complete("settled")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # a condition over all devices; an event per message would cost more
            await asyncio.sleep(POLL_SECONDS)

    def _complete(self, phase: str) -> None:
        self._phase = phase
        self._report()

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._report()

    def _report(self, acked: dict[int, SequenceRanges] | None = None) -> None:
        self._fleet.tally.cpu_seconds = time.process_time() - self._cpu_at_go
        try:
            self._pipe.send(Report(self._phase, self._fleet.tally, self._fleet.outstanding, acked or {}))
        except BrokenPipeError:  # the parent is gone, and with it everybody who would read this
            self._commands.put_nowait("close")
