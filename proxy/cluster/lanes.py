"""Keeps the order of what is delivered to a client, while the client may move from one replica to another. Pure.

Each client has a lane. What is for it goes out in the order in which it came, one behind the other without waiting, as
long as it goes to the same connection. When the client is connected elsewhere meanwhile, what is on its way to the old
connection is awaited first: some of it may come back, to be sent again, and then it goes before what is younger.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.cluster.inbox import Address


@dataclass(slots=True, frozen=True)
class Owner:
    """A connection that is live, as the session log has it."""

    address: Address
    epoch: int


class Errand:
    """One message for one client. `work` is the caller's own."""

    __slots__ = ("client_id", "number", "open", "target", "tries", "work")

    def __init__(self, client_id: str, number: int, work: Any) -> None:
        self.client_id = client_id
        #: Its place in the order.
        self.number = number
        self.work = work
        #: Where it was sent, and how often.
        self.target: Owner | None = None
        self.tries = 0
        #: Until it is taken out of its lane.
        self.open = True


def _number(errand: Errand) -> int:
    return errand.number


class _Lane:
    __slots__ = ("busy", "looking", "sent", "target", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Errand] = []
        self.sent: set[int] = set()
        #: Those that came back and may be sent again: nothing younger passes them.
        self.looking: set[int] = set()
        self.target: Owner | None = None
        self.busy = False

    @property
    def length(self) -> int:
        return len(self.waiting) + len(self.sent) + len(self.looking)


class Lanes:
    """`where` says where a client is connected, `send` sends to `errand.target`, and `absent` hears of an errand whose
    client is nowhere; it has been taken out of its lane then. All three may call back at once.
    """

    def __init__(
        self,
        where: Callable[[str], Owner | None],
        send: Callable[[Errand], None],
        absent: Callable[[Errand], None],
        length_max: int,
    ) -> None:
        self._where = where
        self._send = send
        self._absent = absent
        self._length_max = length_max
        self._lanes: dict[str, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, errand: Errand) -> bool:
        """The youngest of its client. False when too many are under way to it already."""
        lane = self._lanes.setdefault(errand.client_id, _Lane())
        if lane.length >= self._length_max:
            return False
        lane.waiting.append(errand)
        self._pump(errand.client_id, lane)
        return True

    def look(self, errand: Errand) -> None:
        """It came back, and its client may turn up elsewhere: `again` or `done` follows."""
        lane = self._lanes[errand.client_id]
        lane.sent.discard(errand.number)
        lane.looking.add(errand.number)
        self._pump(errand.client_id, lane)

    def again(self, errand: Errand) -> None:
        """Sends one that came back once more."""
        lane = self._lanes[errand.client_id]
        lane.looking.discard(errand.number)
        lane.sent.discard(errand.number)
        insort(lane.waiting, errand, key=_number)
        self._pump(errand.client_id, lane)

    def done(self, errand: Errand) -> None:
        """It is over, wherever it was."""
        if not errand.open:
            return
        errand.open = False
        lane = self._lanes[errand.client_id]
        if errand.number in lane.sent:
            lane.sent.discard(errand.number)
        elif errand.number in lane.looking:
            lane.looking.discard(errand.number)
        else:
            lane.waiting.remove(errand)
        self._pump(errand.client_id, lane)

    def _pump(self, client_id: str, lane: _Lane) -> None:
        """Sends from the head what may go. What `send` brings about at once is seen by the loop that is running."""
        if lane.busy:
            return
        lane.busy = True
        while lane.waiting and self._send_head(client_id, lane):
            pass
        lane.busy = False
        if not lane.length:
            del self._lanes[client_id]

    def _send_head(self, client_id: str, lane: _Lane) -> bool:
        head = lane.waiting[0]
        if lane.looking and min(lane.looking) < head.number:
            return False
        target = self._where(client_id)
        if target is None:
            del lane.waiting[0]
            head.open = False
            self._absent(head)
            return True
        if lane.sent and target != lane.target:
            return False
        del lane.waiting[0]
        lane.sent.add(head.number)
        lane.target = head.target = target
        head.tries += 1
        self._send(head)
        return True
