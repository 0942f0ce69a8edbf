"""How often aiokafka asks a cluster for its metadata.

While a partition has no leader, aiokafka's sender and its fetcher ask again as soon as they were answered; a cluster
that refuses connections answers at once, and that takes a whole core.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy import limits


def pace(client: Any) -> None:
    """Makes a started AIOKafkaClient wait between two requests that it was not asked for by a timer."""
    client.force_metadata_update = MetadataPace(client.force_metadata_update).force_metadata_update


class MetadataPace:
    """Stands before an aiokafka client's `force_metadata_update`."""

    __slots__ = ("_ask", "_due", "_pending")

    def __init__(self, ask: Callable[[], "asyncio.Future[bool]"]) -> None:
        self._ask = ask
        self._due = float("-inf")
        self._pending: asyncio.Future[bool] | None = None

    def force_metadata_update(self) -> "asyncio.Future[bool]":
        """As aiokafka's; who asks while an answer is due waits for the same one."""
        if self._pending is None or self._pending.done():
            loop = asyncio.get_running_loop()
            self._pending = loop.create_future()
            now = loop.time()
            if now < self._due:
                loop.call_later(self._due - now, self._ask_now, self._pending)
            else:
                self._ask_now(self._pending)
        return asyncio.shield(self._pending)

    def _ask_now(self, pending: "asyncio.Future[bool]") -> None:
        self._due = asyncio.get_running_loop().time() + limits.METADATA_GAP_SECONDS

        def answered(answer: "asyncio.Future[bool]") -> None:
            if not pending.done():
                pending.set_result(not answer.cancelled() and answer.result())

        self._ask().add_done_callback(answered)
