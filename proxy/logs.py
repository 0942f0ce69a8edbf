"""How log lines look and how many of them there may be: one handler on standard error, set up once per process.

Who logs what is the other rooms' business. What never belongs here: a clock (it is passed in) and settings.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

#: aiokafka wrote about 150 lines a second in an outage, each of our partitions one, and devices can make us write as
#: many as they like. Of each logger and level the first lines of a period are kept, and it is said how many more there
#: were; but each request of an operator has its line.
NEVER_TOO_MANY: Final = frozenset({"proxy.admin.api", "proxy.logs"})
LINES_MAX: Final = 20
PERIOD_SECONDS: Final = 10.0

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
    handler.addFilter(TriedAgain("aiokafka"))
    handler.addFilter(RateLimit(LINES_MAX, PERIOD_SECONDS, monotonic))
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


class TriedAgain(logging.Filter):
    """A library warns of whatever it then tries again, down to each change in a group. For whoever reads our log that
    is information: what does not pass is raised, and said by us. Lines of `name` with a traceback stay what they are.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record) or record.exc_info or record.levelno <= logging.INFO:
            return True
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return logging.getLogger().isEnabledFor(logging.INFO)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [formatter.formatException(record.exc_info)] if record.exc_info else []


class RateLimit(logging.Filter):
    """Lets `lines_max` lines per period through from each of our loggers, and from each library, at each level; says
    how many it kept back.

    The count is said with the first line of anybody after the period, so it may come late but is not lost.
    """

    def __init__(self, lines_max: int, period_seconds: float, monotonic: Callable[[], float]) -> None:
        super().__init__()
        #: Lines kept back, of all periods.
        self.suppressed = 0
        self._lines_max = lines_max
        self._period_seconds = period_seconds
        self._monotonic = monotonic
        self._period_end = 0.0
        self._lines: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._monotonic()
        if now >= self._period_end:
            self._period_end = now + self._period_seconds
            self._close_period()
        if record.name in NEVER_TOO_MANY:
            return True
        source = record.name if record.name.startswith("proxy.") else record.name.partition(".")[0]
        self._lines[source, record.levelno] += 1
        if self._lines[source, record.levelno] <= self._lines_max:
            return True
        self.suppressed += 1
        return False

    def _close_period(self) -> None:
        # Counted anew before it is said: these very lines come through this filter too.
        lines, self._lines = self._lines, Counter()
        for (source, _), count in lines.items():
            if count > self._lines_max:
                _log.warning(
                    "%d more lines of %s were not shown: at most %d in %g s",
                    count - self._lines_max,
                    source,
                    self._lines_max,
                    self._period_seconds,
                )
