"""What a server process costs, read from /proc: CPU time and resident memory of exactly the process named."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, without its children."""

    cpu_seconds: float
    rss_bytes: int


def read_usage(pid: int) -> Usage | None:
    """CPU time (user and system, all threads) so far and resident memory now; None when there is no such process."""
    directory = Path("/proc") / str(pid)
    try:
        # The command name is in parentheses and may hold anything, so count fields after the last one.
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        pages = int((directory / "statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    user, system = int(fields[11]), int(fields[12])
    return Usage((user + system) / _TICKS_PER_SECOND, pages * _PAGE_BYTES)
