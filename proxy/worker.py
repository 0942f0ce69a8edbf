"""Several replicas on one host: gunicorn starts them, replaces those that die or hang, and stops them together.

Each replica is a process that runs what `mqk serve` runs alone, in a slot: its node id and its ports follow from the
number of the slot, and stay when it is replaced. gunicorn has no sockets here, neither of devices nor of HTTP. What
never belongs here: what a replica does, and anything of Kafka, which must not be there before the fork.
"""

import asyncio
import errno
import faulthandler
import logging
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from proxy import limits, logs, process, wiring
from proxy.clock import monotonic
from proxy.config import Settings, split_address
from proxy.errors import ConfigError, ProxyError
from proxy.node import Node

log = logging.getLogger(__name__)

#: In memory: the kernel must not wait for a disk when a replica says that it lives.
_SIGNS_OF_LIFE: Final = Path("/dev/shm")  # noqa: S108 - gunicorn makes a file there that has no name
_FAILED: Final = 1


def supervise(settings: Settings, read: Callable[[], Settings]) -> int:
    """Runs `node.workers` replicas until SIGTERM or SIGINT; the exit code. `read` reads the settings again, for SIGHUP.

    Raises ConfigError: a replica that starts for the first time cannot.
    """
    logs.set_up(settings.log.level, settings.log.format, monotonic, settings.node.id)
    wiring.route_table(settings)  # What is wrong with the rules is said before anything is started.
    application = _Application(settings, read)
    supervisor = Supervisor(application)
    ended = supervisor.run_to_the_end()
    if application.board.complaint is not None:
        raise application.board.complaint
    if ended:
        return _FAILED
    return 128 + signal.SIGINT if supervisor.interrupted else 0


class Slots:
    """When which slot may start a replica: at once, but not all the time. Pure: the time comes in."""

    def __init__(self, count: int) -> None:
        #: How often a replica was started in each.
        self.starts = [0] * count
        self._pause_seconds = [0.0] * count
        self._started_at = [float("-inf")] * count
        self._waits_since: dict[int, float] = {}

    def due(self, taken: Collection[int], now: float) -> list[int]:
        """The slots beside `taken` whose pause is over."""
        pauses = enumerate(self._pause_seconds)
        return [slot for slot, pause in pauses if slot not in taken and now >= self._started_at[slot] + pause]

    def started(self, slot: int, now: float) -> None:
        """The pause before the next start is twice the last one, unless the last start was a good one."""
        steady = now - self._started_at[slot] > limits.WORKER_STEADY_SECONDS
        longer = min(2 * self._pause_seconds[slot], limits.WORKER_PAUSE_SECONDS_MAX)
        self._pause_seconds[slot] = limits.WORKER_PAUSE_SECONDS_MIN if steady or not longer else longer
        self._started_at[slot] = now
        self.starts[slot] += 1
        self._waits_since.pop(slot, None)

    def may_wait(self, slot: int, now: float) -> bool:
        """Whether a start that is due may be put off: until the ports are free, but not for ever."""
        return now - self._waits_since.setdefault(slot, now) < limits.WORKER_PORTS_SECONDS_MAX


class Board:
    """What replicas tell their supervisor, in memory that they share: which have ever served, and why one cannot."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._memory = mmap.mmap(-1, slots + limits.WORKER_COMPLAINT_BYTES_MAX)

    def has_served(self, slot: int) -> bool:
        return self._memory[slot] == 1

    def serves(self, slot: int) -> None:
        self._memory[slot] = 1

    @property
    def complaint(self) -> ConfigError | None:
        text = self._memory[self._slots :].rstrip(b"\0").decode(errors="replace")
        setting, separator, message = text.partition("\0")
        return ConfigError(setting, message) if separator else None

    def complain(self, error: ConfigError) -> None:
        """The last one counts; several replicas with the same configuration have the same to say."""
        text = f"{error.setting}\0{error.message}".encode()[: limits.WORKER_COMPLAINT_BYTES_MAX]
        self._memory[self._slots :] = text.ljust(limits.WORKER_COMPLAINT_BYTES_MAX, b"\0")


class _Log(Logger):
    """gunicorn's own lines go where ours go, from warnings upwards; what it says of every start we say ourselves."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(max(logging.WARNING, logging.getLogger().level))


class _Application(BaseApplication):
    """What gunicorn runs: no web application, but the settings of the replicas."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self.settings = settings
        self.read = read
        self.board = Board(settings.node.workers)
        self.slots = Slots(settings.node.workers)
        #: Of the replica that is started next.
        self.next_slot = 0
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": [],
            "workers": self.settings.node.workers,
            "worker_class": Replica,
            "logger_class": _Log,
            "timeout": limits.WORKER_SILENCE_SECONDS_MAX,
            "graceful_timeout": self.settings.node.drain_seconds + limits.WORKER_STOP_SECONDS,
            "control_socket_disable": True,
            "worker_tmp_dir": str(_SIGNS_OF_LIFE) if os.access(_SIGNS_OF_LIFE, os.W_OK) else None,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def reread(self) -> None:
        """The rules as they are written now are those of replicas that start later; if they are right."""
        try:
            written = self.settings.model_copy(update={"routing": self.read().routing})
            wiring.route_table(written)
        except ConfigError as error:
            log.error("reload failed: what starts later has the rules of before", extra={"error": str(error)})
        else:
            self.settings = written


class Supervisor(Arbiter):
    """The process above the replicas."""

    def __init__(self, app: "_Application") -> None:
        self.application = app
        self.slots = app.slots
        self.interrupted = False
        self._stopping = False
        super().__init__(app)

    def run_to_the_end(self) -> int:
        """Returns when all replicas have ended, with gunicorn's exit code."""
        own = os.getpid()
        try:
            self.run()
        except SystemExit as ended:
            if os.getpid() != own:
                raise  # This is a replica that ends.
            return ended.code if isinstance(ended.code, int) else _FAILED
        return 0

    # ---- replicas start and end ----

    def spawn_workers(self) -> None:
        """Those whose time has come."""
        now = monotonic()
        taken_slots = {replica.slot for replica in self.WORKERS.values() if isinstance(replica, Replica)}
        for slot in self.slots.due(taken_slots, now):
            settings = self.application.settings.in_slot(slot)
            taken = taken_ports(settings)
            if taken and self.slots.may_wait(slot, now):
                log.warning("ports of a slot are not free yet", extra={"slot": slot, "ports": taken})
                continue
            self.slots.started(slot, now)
            self.application.next_slot = slot
            pid = self.spawn_worker()
            log.info("replica started", extra={"slot": slot, "replica": settings.node.id, "pid": pid})

    def reap_workers(self) -> None:
        """As gunicorn does, but what one cannot start for does not keep it from waiting for the others."""
        while True:
            try:
                return super().reap_workers()
            except HaltServer:
                if not self._stopping:
                    raise

    def stop(self, graceful: bool = True) -> None:
        """Tells all replicas to drain, and waits; told again, it tells them to end at once."""
        self._stopping = True
        deadline = monotonic() + self.cfg.graceful_timeout
        log.info("stopping", extra={"replicas": len(self.WORKERS), "seconds": self.cfg.graceful_timeout})
        while self.WORKERS and monotonic() < deadline:
            if not graceful:
                deadline = min(deadline, monotonic() + limits.WORKER_STOP_AT_ONCE_SECONDS)
            # Said again and again: one that was just being forked has not heard it.
            self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
            told = self.wait_for_signals(timeout=limits.WORKER_BEAT_SECONDS)
            graceful = graceful and not {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}.intersection(told)
            self.reap_workers()
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()

    # ---- signals ----

    def handle_int(self) -> NoReturn:
        self.interrupted = True
        raise StopIteration

    def handle_quit(self) -> NoReturn:
        raise StopIteration

    def handle_hup(self) -> None:
        """New rules and password files, in replicas that go on."""
        self.application.reread()
        self.kill_workers(signal.SIGHUP)

    def handle_usr1(self) -> None:
        """Nothing: there are no log files that could be opened again."""

    #: What gunicorn does with these would start replicas in no slot: more or fewer of them, or all of them twice.
    handle_usr2 = handle_ttin = handle_ttou = handle_winch = handle_usr1


def taken_ports(settings: Settings) -> list[str]:
    """The addresses of a replica that some process listens on."""
    return [address for address in settings.addresses().values() if _is_taken(*split_address(address))]


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # Anything else the replica says with the name of the setting.
    return False


class Replica(Worker):
    """One process below the supervisor, and what the supervisor knows of it."""

    app: "_Application"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.slot = self.app.next_slot
        self._told = False
        self._hung_up = False
        # From now on it has to say that it lives, also when it never comes to say so itself.
        self.notify()

    def init_process(self) -> None:
        """The first that happens in the new process, and the last: the process ends with it."""
        self.booted = True
        self.init_signals()
        faulthandler.enable()  # SIGABRT is for one that hangs: it shows where.
        self.run()

    def init_signals(self) -> None:
        """Until the replica has its event loop: what ends it may end it, nothing else may."""
        signal.set_wakeup_fd(-1)
        for number in Supervisor.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, self._remember_hangup)

    def _remember_hangup(self, *_: object) -> None:
        """The rules that it was forked with may be those of before."""
        self._hung_up = True

    def run(self) -> NoReturn:
        board, slot = self.app.board, self.slot
        try:
            sys.exit(process.serve(self.app.settings.in_slot(slot), partial(self._read, slot), self._attend))
        except ConfigError as error:
            log.error("cannot start", extra={"error": str(error)})
            if board.has_served(slot):
                sys.exit(_FAILED)  # What it was started with was right once, and the others go on.
            board.complain(error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        except ProxyError as error:
            log.error("ended", extra={"error": str(error)})
            sys.exit(_FAILED)

    def _read(self, slot: int) -> Settings:
        return self.app.read().in_slot(slot)

    def _attend(self, replica: Node, stop: Callable[[], None]) -> Coroutine[Any, Any, None]:
        replica.starts = self.app.slots.starts[self.slot]
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop_once, stop)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_at_once, stop)
        # Ctrl-C goes to everybody on a terminal; what it means the supervisor says.
        loop.add_signal_handler(signal.SIGINT, self._leave_to_the_supervisor)
        if self._hung_up:
            os.kill(os.getpid(), signal.SIGHUP)
        return self._show_life(replica, stop)

    async def _show_life(self, replica: Node, stop: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._say_that_it_serves(replica))
            while True:
                self.notify()
                if os.getppid() != self.ppid:
                    self._stop_once(stop)  # Nobody would replace it any more, and it holds the ports of its slot.
                await asyncio.sleep(limits.WORKER_BEAT_SECONDS)

    async def _say_that_it_serves(self, replica: Node) -> None:
        await replica.started.wait()
        self.app.board.serves(self.slot)

    def _stop_once(self, stop: Callable[[], None]) -> None:
        """However often it is said: a supervisor and who supervises that may both say it."""
        if not self._told:
            self._told = True
            stop()

    def _stop_at_once(self, stop: Callable[[], None]) -> None:
        self._stop_once(stop)
        stop()

    def _leave_to_the_supervisor(self) -> None:
        """SIGINT."""
