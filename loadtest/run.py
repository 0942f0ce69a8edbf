"""One load run: starts the worker processes, leads them through the phases, puts their figures together."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TextIO

from loadtest.errors import LoadError, UsageError
from loadtest.procfs import Usage, read_usage
from loadtest.ranges import SequenceRanges
from loadtest.settings import LoadSettings
from loadtest.tally import Tally
from loadtest.worker import Report, raise_file_limit, run_worker

#: The order in which a run goes through its phases. A worker that is further than asked for has arrived too.
PHASES = ("started", "ready", "connected", "exhausted", "settled", "closed")
START_SECONDS = 30.0
"""For the worker processes to come up."""
REST_SECONDS = 1.0
"""Between the last connection and the reading of memory and CPU, so that what connecting left to do is done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures, ready for JSON, and what the server acknowledged: sequence numbers per connection index."""

    figures: dict[str, Any]
    acked: dict[int, SequenceRanges]


def run_load(settings: LoadSettings, pids: Sequence[int] = (), progress: TextIO = sys.stderr) -> Outcome:
    """Carry out one run; `pids` are server processes on this machine whose CPU and memory are wanted."""
    settings = replace(settings, processes=min(settings.processes, settings.devices))
    raise_file_limit(-(-settings.devices // settings.processes))
    with _Crew(settings, progress) as crew:
        return _lead(crew, settings, pids)


def _lead(crew: "_Crew", settings: LoadSettings, pids: Sequence[int]) -> Outcome:
    crew.wait_for("ready", START_SECONDS)
    usages = [[read_usage(pid) for pid in pids]]
    if None in usages[0]:
        raise UsageError(f"--pid {pids[usages[0].index(None)]}: there is no such process")
    crew.send("connect")
    if not crew.wait_for("connected", settings.connect_timeout_seconds + settings.devices / settings.connect_rate):
        connected = crew.tally.connected
        crew.send("close")
        crew.wait_for("closed", START_SECONDS)  # for the last figures
        raise LoadError(_why_not_connected(connected, crew.tally, settings))
    crew.rest(REST_SECONDS if pids else 0.0)
    usages.append([read_usage(pid) for pid in pids])
    began = time.monotonic()
    crew.send("go")
    interrupted = crew.wait_unless_interrupted(settings.seconds)
    crew.send("stop")
    crew.wait_for("settled", settings.settle_seconds)
    usages.append([read_usage(pid) for pid in pids])
    unsettled, still_connected = crew.outstanding, crew.tally.connected
    crew.send("close")
    if not crew.wait_for("closed", START_SECONDS):
        raise LoadError("a worker process did not end")
    figures = _figures(settings, crew.tally, began, unsettled, still_connected)
    figures["interrupted"] = interrupted
    figures["servers"] = [
        _server_figures(pid, settings, crew.tally.acked, samples)
        for pid, *samples in zip(pids, *usages, strict=True)
    ]  # fmt: skip
    return Outcome(figures, crew.acked)


def _why_not_connected(connected: int, tally: Tally, settings: LoadSettings) -> str:
    causes = [f"CONNECT refused with {reason} {count} times" for reason, count in tally.refused_connects.items()]
    causes += [f"{count} times: {violation}" for violation, count in tally.violations.items()]
    if not causes:
        causes = [f"{tally.connect_failures} attempts to connect failed"]
    target = f"{settings.host}:{settings.port}"
    return f"only {connected} of {settings.devices} connections to {target} came up: {'; '.join(causes)}"


class _Crew:
    """The worker processes, as the parent sees them."""

    def __init__(self, settings: LoadSettings, progress: TextIO) -> None:
        self._settings = settings
        self._progress = progress
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._reports: list[Report] = []
        self._unseen = set(range(settings.processes))
        self._last_line = (0.0, 0)
        self._began = time.monotonic()

    def __enter__(self) -> "_Crew":
        context = multiprocessing.get_context("spawn")
        for position in range(self._settings.processes):
            ours, theirs = context.Pipe()
            indices = range(position, self._settings.devices, self._settings.processes)
            process = context.Process(target=run_worker, args=(self._settings, indices, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
            self._reports.append(Report("started", Tally(), 0))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker that still runs takes this for "close"
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()

    def send(self, command: str) -> None:
        for pipe in self._pipes:
            pipe.send(command)

    @property
    def tally(self) -> Tally:
        total = Tally()
        for report in self._reports:
            total.merge(report.tally)
        return total

    @property
    def outstanding(self) -> int:
        return sum(report.outstanding for report in self._reports)

    @property
    def acked(self) -> dict[int, SequenceRanges]:
        return dict(sorted(item for report in self._reports for item in report.acked.items()))

    def wait_for(self, phase: str, seconds: float) -> bool:
        """Wait until every worker has completed `phase`; False when `seconds` were not enough."""
        wanted = PHASES.index(phase)
        return self._wait(lambda: all(PHASES.index(each.phase) >= wanted for each in self._reports), seconds)

    def wait_unless_interrupted(self, seconds: float) -> bool:
        """The time in which messages are published; True when Ctrl-C ended it."""
        try:
            self.wait_for("exhausted", seconds)
        except KeyboardInterrupt:
            return True
        return False

    def rest(self, seconds: float) -> None:
        self._wait(lambda: False, seconds)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            for pipe in wait(self._pipes, min(remaining, 1.0)):
                self._receive(self._pipes.index(pipe))  # type: ignore[arg-type]  # only Connections were given
            self._show_progress()
        return True

    def _receive(self, position: int) -> None:
        try:
            self._reports[position] = self._pipes[position].recv()
            self._unseen.discard(position)
        except EOFError as error:
            if self._reports[position].phase != "closed":
                raise LoadError(f"worker process {position} died") from error

    def _show_progress(self) -> None:
        """A line a second, as soon as every worker has reported since the last one."""
        moment, (before, acked_before) = time.monotonic(), self._last_line
        if self._unseen or moment < before + 0.9:
            return
        self._unseen.update(range(len(self._pipes)))
        tally = self.tally
        self._last_line = (moment, tally.acked)
        rate = (tally.acked - acked_before) / (moment - before) if before else 0.0
        errors = tally.ack_errors + sum(tally.violations.values())
        print(
            f"{moment - self._began:5.0f} s  connected {tally.connected}/{self._settings.devices}  acked {tally.acked}"
            f"  ({rate:.0f}/s)  waiting {self.outstanding}  resent {tally.resent}  lost connections"
            f" {tally.connections_lost}  errors {errors}",
            file=self._progress,
            flush=True,
        )


def _figures(
    settings: LoadSettings, tally: Tally, began: float, unsettled: int, still_connected: int
) -> dict[str, Any]:
    seconds = max(tally.last_ack - began, 0.0)
    return {
        "settings": {**asdict(settings), "run_id": settings.run_id.hex(), "password": settings.password and "***"},
        "acknowledged": settings.qos > 0,
        "connected_at_end": still_connected,
        "sent": tally.sent,
        "acked": tally.acked,
        "acked_per_second": round(tally.acked / seconds, 1) if seconds else 0.0,
        "seconds_to_last_ack": round(seconds, 3),
        "refused": tally.refused,
        "resent": tally.resent,
        "repeated": {
            "publish": tally.publishes_repeated,
            "pubrel": tally.releases_repeated,
            "pubrec": tally.pubrecs_repeated,
        },
        "unacknowledged": unsettled,
        "not_offered": tally.not_offered,
        "ack_reasons": dict(tally.reasons),
        "ack_ms": tally.ack_latency.summary_ms(),
        "ack_errors": {
            "unknown": tally.unknown_acks,
            "duplicate": tally.duplicate_acks,
            "out_of_order": tally.out_of_order_acks,
        },
        "violations": dict(tally.violations),
        "connections": {
            "lost": tally.connections_lost,
            "connect_failures": tally.connect_failures,
            "refused": dict(tally.refused_connects),
            "server_disconnects": dict(tally.server_disconnects),
            "ping_timeouts": tally.ping_timeouts,
        },
        "away_ms": tally.away.summary_ms(),
        "ping_ms": {"idle": tally.ping_idle.summary_ms(), "publishing": tally.ping_publishing.summary_ms()},
        "tool": {
            "cpu_us_per_message": _per_message(tally.cpu_seconds, tally.acked),
            "loop_lag_max_ms": round(tally.loop_lag_max * 1e3, 1),
        },
    }


def _per_message(cpu_seconds: float, acked: int) -> float | None:
    return round(cpu_seconds * 1e6 / acked, 3) if acked else None


def _server_figures(pid: int, settings: LoadSettings, acked: int, samples: Sequence[Usage | None]) -> dict[str, Any]:
    """`samples`: before the first connection, with all connections before the first message, and at the end."""
    before, connected, end = samples
    if not before or not connected or not end:
        return {"pid": pid, "ended": True}
    cpu_seconds = end.cpu_seconds - connected.cpu_seconds
    return {
        "pid": pid,
        "ended": False,
        "cpu_seconds": round(cpu_seconds, 2),
        "cpu_us_per_message": _per_message(cpu_seconds, acked),
        "rss_before_bytes": before.rss_bytes,
        "rss_connected_bytes": connected.rss_bytes,
        "rss_end_bytes": end.rss_bytes,
        "rss_per_connection_bytes": round((connected.rss_bytes - before.rss_bytes) / settings.devices),
    }
