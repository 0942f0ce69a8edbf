"""Processes that tests start: started, watched, stopped, and never left behind, however the test run ends.

Everything real that a test runs beside itself (the proxy, Kafka, a client) is a `Process`. What such a program says or
means belongs to the tests.
"""

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

#: Between two looks at a condition that another process brings about.
POLL_SECONDS = 0.02
#: How much of a process's output a failure shows.
OUTPUT_TAIL_CHARACTERS = 4000
#: How long children may outlive the process that started them.
GROUP_TIMEOUT_SECONDS = 5.0
#: Of one test run, at the most (`pytest -n`); each gives away ports of its own.
WORKERS_MAX = 16
#: Which of them this one is: "gw3" is pytest-xdist's name for the fourth.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS_MAX
#: Below Linux's ephemeral ports (from 32768), so that no outgoing connection takes a port while its server restarts.
PORTS = range(20000, 32000)[WORKER::WORKERS_MAX]

_running: list["Process"] = []
_ports_given: set[int] = set()
_watchdog: subprocess.Popen[bytes] | None = None


def free_port(slots: int = 1) -> int:
    """Returns a TCP port of 127.0.0.1 that nothing listens on, and that this test run has not given away before.

    With several `slots` the same is true of as many ports, WORKERS_MAX apart; the first of them is returned.
    """
    for _ in PORTS:
        first = random.SystemRandom().randrange(len(PORTS) - slots + 1)
        ports = PORTS[first : first + slots]
        if _ports_given.isdisjoint(ports) and all(map(_can_bind, ports)):
            _ports_given.update(ports)
            return ports[0]
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop}")


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = 10.0) -> None:
    """Returns when `condition()` is true; TimeoutError, naming `what` was waited for, when that takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)


def left_behind() -> list[str]:
    """Kills every process that nobody has stopped, and returns a line on each: a test run must end with none."""
    lines = [f"{process} started by {process.started_by}" for process in _running]
    for process in list(_running):
        process.kill()
    return lines


class Process:
    """A command in a process group of its own, with its output in a file. As a context manager it is killed at the end.

    `pid` is the command's own process id, so that its CPU time and memory can be read.
    """

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Starts `command`; standard output and error are appended to `log`, `environment` is added to our own."""
        self.command = [str(part) for part in command]
        self.log = log
        self.started_by = os.environ.get("PYTEST_CURRENT_TEST", "no test")
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _running.append(self)
        _tell_watchdog("+", self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} ({' '.join(self.command)[:200]})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """What it has written so far. A log shared with earlier processes is read from where this one began."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 10.0) -> None:
        """Like the function, but fails at once when the process has ended, and shows what it wrote."""

        def holds() -> bool:
            ended = not self.alive  # Looked at first: what a process does last still counts.
            if condition():
                return True
            if ended:
                raise RuntimeError(f"{self} ended with {self._popen.returncode} before: {what}\n{self._tail()}")
            return False

        try:
            wait_until(holds, what, timeout_seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self} wrote:\n{self._tail()}") from None

    def wait_for_output(self, text: str, timeout_seconds: float = 10.0) -> None:
        self.wait_until(lambda: text in self.output, f"{text!r} in its output", timeout_seconds)

    def wait(self, timeout_seconds: float = 10.0) -> int:
        """Returns its exit status once it has ended by itself (negative: the signal); leaves no child of it alive."""
        try:
            status = self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            tail = self._tail()
            self.kill()
            raise TimeoutError(f"{self} had not ended after {timeout_seconds:g} s; it wrote:\n{tail}") from None
        try:
            wait_until(lambda: not _group_exists(self.pid), f"the children of {self} end", GROUP_TIMEOUT_SECONDS)
        finally:
            self._forget()
        return status

    def terminate(self, timeout_seconds: float = 10.0) -> int:
        """SIGTERM to the command alone, as a supervisor would, then `wait`. A child it leaves running is an error."""
        self._popen.send_signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL to the command and all its children. Does nothing to one that has ended."""
        if self in _running:
            self._forget()
            self._popen.wait()

    def pause(self) -> None:
        """SIGSTOP: its sockets stay open and say nothing more. Returns when every thread has stopped, because on a busy
        machine one that runs may go on for some milliseconds.
        """
        os.killpg(self.pid, signal.SIGSTOP)
        wait_until(lambda: _threads_stopped(self.pid), f"{self} stands still")

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def _forget(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # The usual case after `wait`: the whole group has ended.
            os.killpg(self.pid, signal.SIGKILL)
        _running.remove(self)
        _tell_watchdog("-", self.pid)

    def _tail(self) -> str:
        return self.output[-OUTPUT_TAIL_CHARACTERS:] or "(nothing)"


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _threads_stopped(pid: int) -> bool:
    states = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError
        ):  # A thread that has just ended stands still too.
            # The name, in brackets, may hold anything; the state follows it.
            states.add(stat.read_text().rpartition(")")[2].split()[0])
    return states == {"T"}


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _tell_watchdog(change: str, group: int) -> None:
    pipe = _start_watchdog().stdin
    assert pipe is not None
    pipe.write(f"{change}{group}\n".encode())
    pipe.flush()


def _start_watchdog() -> subprocess.Popen[bytes]:
    global _watchdog  # noqa: PLW0603 - one for the whole test run, started by the first process
    if _watchdog is None:
        _watchdog = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("watchdog.py")], stdin=subprocess.PIPE, start_new_session=True
        )
        atexit.register(_watchdog.communicate)
    return _watchdog
