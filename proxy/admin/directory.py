"""Who is connected or has a session, anywhere in the cluster: pages of the session tables.

Clients have an order, partition by partition and by identifier, so a cursor means the same place whatever comes and
goes meanwhile. A million of them are looked through a little in each turn of the event loop.
"""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy import limits
from proxy.clock import wall_ms
from proxy.cluster.table import SessionTable
from proxy.kafka.records import LIVE, SessionRecord


class Filter(NamedTuple):
    """What is not None must be so; of the client identifier, how it begins."""

    clientid: str | None = None
    username: str | None = None
    node: str | None = None
    state: str | None = None

    def takes(self, view: SessionRecord, now_ms: int) -> bool:
        state = state_of(view, now_ms)
        return (
            state is not None
            and self.state in {None, state}
            and self.node in {None, view.node}
            and self.username in {None, view.about.username}
        )


class Place(NamedTuple):
    """Behind this client of this partition."""

    partition: int = 0
    after: str = ""

    def encode(self) -> str:
        return f"{self.partition}:{self.after}"


def decode_place(text: str) -> Place:
    """Raises ValueError: not what `Place.encode` has given."""
    partition, _, after = text.partition(":")
    return Place(int(partition), after)


def state_of(view: SessionRecord, now_ms: int) -> str | None:
    """`connected`, `offline` while the session waits for its device, None when there is nothing left."""
    if view.rel == LIVE:
        return "connected"
    return "offline" if view.state is not None and view.session_expires_ms > now_ms else None


class Directory:
    """Reads the tables that `tables` returns; they are others after a new beginning."""

    def __init__(self, tables: Callable[[], Sequence[SessionTable]], now_ms: Callable[[], int] = wall_ms) -> None:
        self._tables = tables
        self._now_ms = now_ms

    async def page(self, wanted: Filter, limit: int, place: Place) -> tuple[list[SessionRecord], Place | None]:
        """At most `limit` clients behind `place`, and where the next page begins; fewer when many had to be looked at
        that are not wanted.
        """
        found: list[SessionRecord] = []
        left = limits.ADMIN_SCAN_MAX
        while left > 0 and place.partition < len(tables := self._tables()):
            table = tables[place.partition]
            most = min(left, limits.ADMIN_PAGE_MAX)
            client_ids = await asyncio.to_thread(
                _next_ids, table.client_ids(), place.after, wanted.clientid or "", most
            )
            for number, client_id in enumerate(client_ids):
                if len(found) == limit:
                    return found, place
                view = table.view(client_id)
                place = Place(place.partition, client_id)
                if view is not None and wanted.takes(view, self._now_ms()):
                    found.append(view)
                if number % limits.ADMIN_SCAN_PER_TURN == 0:
                    await asyncio.sleep(0)
            left -= len(client_ids)
            if len(client_ids) < most:
                place = Place(place.partition + 1)
        return found, place if left <= 0 else None


def _next_ids(client_ids: list[str], after: str, prefix: str, most: int) -> list[str]:
    """The first ones behind `after`; in a thread, because there may be a hundred thousand."""
    return heapq.nsmallest(most, (each for each in client_ids if each > after and each.startswith(prefix)))
