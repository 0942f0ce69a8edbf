"""How log lines look and how many of them there may be: one handler on standard error, set up once per process.

Who logs what is the other rooms' business. What never belongs here: a clock (it is passed in) and settings.
"""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

#: aiokafka wrote about 150 lines a second in an outage, each of our partitions one, and devices can make us write as
#: many as they like. Of each of these the first lines of a period are kept, and it is said how many more there were.
NOISY_LOGGERS: Final = (
    "aiokafka",
    "proxy.flows.presence",
    "proxy.flows.uplink",
    "proxy.kafka.client",
    "proxy.kafka.partitions",
    "proxy.kafka.producers",
    "proxy.net.connection",
)
NOISY_LINES_MAX: Final = 20
NOISY_PERIOD_SECONDS: Final = 10.0

#: What every LogRecord has; whatever else is on it came through `extra=`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Control characters in a device's strings must not forge a line or drive the terminal.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}

_log = logging.getLogger(__name__)


def set_up(
    level: str, form: Literal["auto", "console", "json"], monotonic: Callable[[], float], node: str | None = None
) -> None:
    """Send everything that the process logs to standard error, from `level` (debug … error) upwards.

    With several replicas in one stream each line says its `node`.
    """
    root = logging.getLogger()
    root.handlers[:] = [make_handler(sys.stderr, form, monotonic)]
    if node is not None:
        root.handlers[0].addFilter(NodeName(node))
    root.setLevel(level.upper())


def make_handler(
    stream: TextIO, form: Literal["auto", "console", "json"], monotonic: Callable[[], float]
) -> logging.Handler:
    """`auto`: for people when `stream` is a terminal, else one JSON object a line."""
    handler = logging.StreamHandler(stream)
    for_people = form == "console" or (form == "auto" and stream.isatty())
    handler.setFormatter(ConsoleFormatter() if for_people else JsonFormatter())
    # On the handler, not on the logger: a logger's filters do not see what its children log.
    for name in NOISY_LOGGERS:
        handler.addFilter(RateLimit(name, NOISY_LINES_MAX, NOISY_PERIOD_SECONDS, monotonic))
    return handler


def suppressed() -> int:
    """Lines that were kept back since the process started."""
    filters = [each for handler in logging.getLogger().handlers for each in handler.filters]
    return sum(each.suppressed for each in filters if isinstance(each, RateLimit))


class ConsoleFormatter(logging.Formatter):
    """`12:00:01.250 INFO    proxy.node  listening  bind="127.0.0.1:1883"`, local time, traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]
        parts = [f"{at} {record.levelname:<7} {record.name}", record.getMessage().translate(_ESCAPED)]
        parts += [f"{name}={json.dumps(value, default=str)}" for name, value in _extra(record).items()]
        return "\n".join(["  ".join(parts), *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, what came through `extra=`, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _extra(record).items():
            line.setdefault(name, value)
        for text in _traceback(self, record):
            line["traceback"] = text
        return json.dumps(line, default=str)


class NodeName(logging.Filter):
    """Puts the name of this replica on every line that does not name another."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("node", self._node)
        return True


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [formatter.formatException(record.exc_info)] if record.exc_info else []


class RateLimit(logging.Filter):
    """Lets `lines_max` lines per period through from `name` and its children, and says how many it kept back.

    The count is said with the first line of anybody after the period, so it may come late but is not lost.
    """

    def __init__(self, name: str, lines_max: int, period_seconds: float, monotonic: Callable[[], float]) -> None:
        super().__init__(name)
        #: Lines kept back, of all periods.
        self.suppressed = 0
        self._lines_max = lines_max
        self._period_seconds = period_seconds
        self._monotonic = monotonic
        self._period_end = 0.0
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if self._monotonic() >= self._period_end:
            self._close_period()
        if not super().filter(record):
            return True
        if not self._lines:
            self._period_end = self._monotonic() + self._period_seconds
        self._lines += 1
        if self._lines <= self._lines_max:
            return True
        self.suppressed += 1
        return False

    def _close_period(self) -> None:
        # Counted anew before it is said: this very line comes through this filter too.
        suppressed, self._lines = self._lines - self._lines_max, 0
        if suppressed > 0:
            _log.warning(
                "%d more lines of %s were not shown: at most %d in %g s",
                suppressed,
                self.name,
                self._lines_max,
                self._period_seconds,
            )
