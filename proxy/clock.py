"""The two clocks, and the only module that may ask the machine for the time.

Everybody else is handed a number or one of these functions, so that tests can hand in their own.
"""

import time


def monotonic() -> float:
    """Seconds from an arbitrary start, never backwards: for deadlines and durations."""
    return time.monotonic()


def wall_ms() -> int:
    """Milliseconds since 1970 in UTC, as people and records count: never for durations, it may jump."""
    return time.time_ns() // 1_000_000
