"""How often something may happen. Pure: the time comes in."""

from typing import Final

_BURST_SECONDS: Final = 1.0


class Rate:
    """So many a second on average; after a pause at most one second's worth at once."""

    __slots__ = ("_ahead_max", "_interval", "_theoretical")

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        #: How far ahead of the average the next one may be; less than one a second is never ahead.
        self._ahead_max = max(0.0, _BURST_SECONDS - self._interval)
        self._theoretical = float("-inf")

    def allows(self, now: float) -> bool:
        """Whether one more may happen at `now` (monotonic seconds); if so it is counted."""
        theoretical = max(self._theoretical, now)
        if theoretical - now > self._ahead_max:
            return False
        self._theoretical = theoretical + self._interval
        return True
