"""Lets many devices go without letting all of them come back at once.

After a delivery deadline or at shutdown thousands of connections end for one reason. They are told one by one, at a
pace that the replicas which they turn to can take.
"""

import asyncio
from itertools import islice
from typing import Protocol

from proxy import limits


class Leaving(Protocol):
    """Who can be told to go. Telling twice does no harm."""

    def disconnect(self, reason_code: int, detail: str) -> None: ...


class Goodbyes:
    """Says at most `per_second` goodbyes a second, in the order in which they were asked for."""

    def __init__(self, per_second: float = limits.GOODBYES_PER_SECOND) -> None:
        self.per_second = per_second
        self._waiting: dict[Leaving, tuple[int, str]] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def say(self, leaving: Leaving, reason_code: int, detail: str) -> None:
        """Queues one goodbye; who waits for one already waits for that."""
        self._waiting.setdefault(leaving, (reason_code, detail))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        per_tick = max(1, int(self.per_second * limits.GOODBYE_TICK_SECONDS))
        try:
            while self._waiting:
                for leaving in list(islice(self._waiting, per_tick)):
                    leaving.disconnect(*self._waiting.pop(leaving))
                await asyncio.sleep(limits.GOODBYE_TICK_SECONDS)
        finally:
            self._task = None
