"""Commands at any replica, for clients at all of them: what is asked of whom, and what comes of it.

A `deliver` that names a client or a user goes to the replicas that have them, one client at a time and in order; it
follows a client that is connected elsewhere meanwhile. Every other command goes to all replicas, each of which knows
its own connections. A replica answers twice: with the clients that it hit, and with an outcome for each of them. Every
command comes to an end: by its answers, by the death of who should answer, or by its time.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from prometheus_client import Counter

from proxy import limits
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, ClientOutcome, Command, Result, Selector
from proxy.cluster.inbox import Accepted, Address, InboxMessage, Outcomes, Request
from proxy.cluster.lanes import Errand, Lanes, Owner

log = logging.getLogger(__name__)

#: Outcomes after which a client may turn up at another replica: it was not there, or it has left.
_MOVED: Final = frozenset({"offline", "connection_lost"})

Settled = Callable[[Result], None]


class Executor(Protocol):
    """What one replica does with a command at its own connections."""

    def execute(self, command: Command, report: Callable[[str, str], None]) -> list[str]:
        """Returns the clients that are meant; `report` is called once for each of them, at once or later."""
        ...


class Cluster(Protocol):
    """Who is where; `flows/whereabouts.py`."""

    def here(self) -> Address: ...
    def alive(self) -> list[Address]: ...
    def is_dead(self, address: Address) -> bool: ...
    def owner(self, client_id: str) -> Owner | None: ...
    def clients(self, username: str) -> list[str]: ...


class Post(Protocol):
    """What carries messages to other replicas; `flows/inbox.py`."""

    def send(self, recipient: Address, message: InboxMessage) -> bool:
        """False: it is too large."""
        ...


class _Work:
    """One command until it is settled."""

    __slots__ = ("clients", "command", "deadline", "errands", "number", "open", "settled", "shares")

    def __init__(self, command: Command, number: int, deadline: float, settled: Settled) -> None:
        self.command = command
        self.number = number
        self.deadline = deadline
        self.settled = settled
        self.clients: list[ClientOutcome] = []
        self.errands: list[Errand] = []
        self.shares: set[int] = set()
        #: Errands, and shares that are no errand's, that are not over; one more while they are being given out.
        self.open = 1


class _Share:
    """What one replica was asked for: a whole command, or one errand of it."""

    __slots__ = ("accepted", "address", "client_ids", "errand", "number", "outcomes", "work")

    def __init__(self, number: int, work: _Work, address: Address, errand: Errand | None) -> None:
        self.number = number
        self.work = work
        self.address = address
        self.errand = errand
        self.accepted = False
        self.client_ids: set[str] = set()
        self.outcomes: dict[str, str] = {}


class Control:
    """`run` has to be running. `now` is monotonic seconds, `wall_ms` the wall clock."""

    def __init__(
        self,
        cluster: Cluster,
        executor: Executor,
        post: Post,
        counter: Counter,
        ack_timeout_seconds: float,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._executor = executor
        self._post = post
        self._counter = counter
        self._seconds_max = {
            DELIVER: ack_timeout_seconds + limits.COMMAND_ANSWER_SECONDS_MAX,
            KICK: limits.COMMAND_ANSWER_SECONDS_MAX,
            ACL_CLEAN: limits.COMMAND_ANSWER_SECONDS_MAX,
        }
        self._now = now
        self._wall_ms = wall_ms
        self._lanes = Lanes(cluster.owner, self._send_errand, self._absent, limits.COMMANDS_PER_CLIENT_MAX)
        self._number = 0
        self._work: dict[int, _Work] = {}
        self._shares: dict[int, _Share] = {}
        #: Numbers of the shares by who has them.
        self._asked: dict[Address, set[int]] = {}

    @property
    def in_flight(self) -> int:
        """Commands that are not settled."""
        return len(self._work)

    @property
    def full(self) -> bool:
        """No further command is taken now."""
        return len(self._work) >= limits.COMMANDS_IN_FLIGHT_MAX

    async def execute(self, command: Command) -> Result:
        """Returns when the command is settled, in a bounded time. Who asks when it is full hears `busy`."""
        if self.full:
            return self._count(Result(command.id, command.kind, "busy"))
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def settled(result: Result) -> None:
            if not waiter.done():
                waiter.set_result(result)

        self.start(command, settled)
        return await waiter

    def start(self, command: Command, settled: Settled) -> None:
        """Calls `settled` once, at once or later. Commands that are started in an order arrive at a client in it."""
        error = _fault(command)
        if error:
            self.refuse(command.id, command.kind, "malformed", settled, error)
            return
        if 0 < command.expires_at_ms <= self._wall_ms():
            self.refuse(command.id, command.kind, "expired", settled)
            return
        self._number += 1
        work = _Work(command, self._number, self._now() + self._seconds_max[command.kind], settled)
        self._work[work.number] = work
        if command.kind == DELIVER and command.selector != Selector():
            self._to_owners(work)
        else:
            self._to_everyone(work)
        self._one_less(work)

    def refuse(self, command_id: str, kind: str, outcome: str, settled: Settled, error: str = "") -> None:
        """Settles what nobody is asked to execute."""
        settled(self._count(Result(command_id, kind, outcome, error=error)))

    async def run(self) -> None:
        """Ends what is overdue, and what the dead were asked for."""
        while True:
            await asyncio.sleep(limits.TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """As `run` does all the time."""
        now = self._now()
        for work in [work for work in self._work.values() if work.deadline <= now]:
            self._overdue(work)
        for address in [address for address in self._asked if self._cluster.is_dead(address)]:
            for number in list(self._asked[address]):
                self._lost(self._shares[number], "connection_lost")

    # ---- who is asked ----

    def _to_owners(self, work: _Work) -> None:
        selector = work.command.selector
        if selector.client_id is not None:
            client_ids = [selector.client_id]
        else:
            client_ids = self._cluster.clients(selector.username or "")
        for client_id in client_ids:
            errand = Errand(client_id, work.number, work)
            work.errands.append(errand)
            work.open += 1
            if not self._lanes.add(errand):
                errand.open = False
                self._note(work, client_id, "queue_full", self._cluster.here().node)
                self._one_less(work)

    def _to_everyone(self, work: _Work) -> None:
        here = self._cluster.here()
        # This replica is the last, because it answers at once.
        for address in sorted(self._cluster.alive(), key=lambda address: address == here):
            work.open += 1
            self._ask(work, address, work.command, None)

    def _send_errand(self, errand: Errand) -> None:
        work: _Work = errand.work
        command = work.command
        assert errand.target is not None  # noqa: S101 - Lanes sends nothing without
        selector = Selector(errand.client_id, command.selector.username)
        self._ask(work, errand.target.address, replace(command, selector=selector), errand)

    def _ask(self, work: _Work, address: Address, command: Command, errand: Errand | None) -> None:
        self._number += 1
        share = _Share(self._number, work, address, errand)
        self._shares[share.number] = share
        work.shares.add(share.number)
        self._asked.setdefault(address, set()).add(share.number)
        if address != self._cluster.here():
            if not self._post.send(address, Request(share.number, command)):
                self._refused(share, "too_large")
            return
        try:
            client_ids = self._executor.execute(command, partial(self.outcome, share.number))
        except Exception:
            log.exception("command failed", extra={"command": command.id})
            self._refused(share, "failed")
        else:
            self.accepted(share.number, client_ids, more=False)

    # ---- what is answered ----

    def receive(self, message: Accepted | Outcomes) -> None:
        """An answer of another replica."""
        match message:
            case Accepted(number, client_ids, more):
                self.accepted(number, client_ids, more=more)
            case Outcomes(number, outcomes):
                for client_id, outcome in outcomes:
                    self.outcome(number, client_id, outcome)

    def accepted(self, number: int, client_ids: list[str], *, more: bool) -> None:
        """The clients that a share hit, or some of them."""
        share = self._shares.get(number)
        if share is not None:
            share.client_ids.update(client_ids)
            share.accepted = not more
            self._look_at(share)

    def outcome(self, number: int, client_id: str, outcome: str) -> None:
        """What became of a share at one of its clients; it may come before the share is accepted."""
        share = self._shares.get(number)
        if share is not None:
            share.outcomes[client_id] = outcome
            self._look_at(share)

    def not_sent(self, numbers: list[int]) -> None:
        """These requests may never have been read."""
        for number in numbers:
            share = self._shares.get(number)
            if share is not None:
                self._refused(share, "timed_out")

    def _look_at(self, share: _Share) -> None:
        if not share.accepted or len(share.outcomes) < len(share.client_ids):
            return
        if share.errand is not None:
            self._settle_errand(share, share.outcomes.get(share.errand.client_id, "offline"))
            return
        self._forget(share)
        for client_id, outcome in share.outcomes.items():
            self._note(share.work, client_id, outcome, share.address.node)
        self._one_less(share.work)

    def _lost(self, share: _Share, outcome: str) -> None:
        """No answer will come any more."""
        if share.errand is not None:
            self._settle_errand(share, share.outcomes.get(share.errand.client_id, outcome))
            return
        self._forget(share)
        for client_id in share.client_ids:
            self._note(share.work, client_id, share.outcomes.get(client_id, outcome), share.address.node)
        self._one_less(share.work)

    def _refused(self, share: _Share, outcome: str) -> None:
        """The share did not reach any connection."""
        if share.errand is not None:
            share.outcomes[share.errand.client_id] = outcome
        else:
            self._note(share.work, "", outcome, share.address.node)
        self._lost(share, outcome)

    # ---- a client that moves ----

    def _settle_errand(self, share: _Share, outcome: str) -> None:
        errand = share.errand
        self._forget(share)
        if errand is None or not errand.open:
            return
        if outcome not in _MOVED or errand.tries >= limits.COMMAND_TRIES_MAX:
            self._end_errand(errand, outcome, share.address.node)
        elif self._has_moved(errand):
            self._lanes.again(errand)
        else:
            # What moved it may not have been read here yet.
            self._lanes.look(errand)
            loop = asyncio.get_running_loop()
            loop.call_later(limits.COMMAND_LOOK_AGAIN_SECONDS, self._look_again, errand, outcome, share.address.node)

    def _look_again(self, errand: Errand, outcome: str, node: str) -> None:
        if not errand.open:
            return
        if self._has_moved(errand):
            self._lanes.again(errand)
        else:
            self._end_errand(errand, outcome, node)

    def _has_moved(self, errand: Errand) -> bool:
        owner = self._cluster.owner(errand.client_id)
        return owner is not None and owner != errand.target

    def _end_errand(self, errand: Errand, outcome: str, node: str) -> None:
        self._lanes.done(errand)
        self._note(errand.work, errand.client_id, outcome, node)
        self._one_less(errand.work)

    def _absent(self, errand: Errand) -> None:
        """Its client is nowhere."""
        node = errand.target.address.node if errand.target is not None else ""
        self._note(errand.work, errand.client_id, "connection_lost" if errand.tries else "offline", node)
        self._one_less(errand.work)

    # ---- the end ----

    def _overdue(self, work: _Work) -> None:
        """Tells what is known; what is not has timed out."""
        for share in [self._shares[number] for number in work.shares]:
            if share.errand is not None:
                self._forget(share)
            else:
                self._note(work, "", "timed_out", share.address.node)
                self._lost(share, "timed_out")
        for errand in work.errands:
            if errand.open:
                node = errand.target.address.node if errand.target is not None else ""
                self._end_errand(errand, "timed_out", node)

    def _forget(self, share: _Share) -> None:
        del self._shares[share.number]
        share.work.shares.discard(share.number)
        asked = self._asked[share.address]
        asked.discard(share.number)
        if not asked:
            del self._asked[share.address]

    def _note(self, work: _Work, client_id: str, outcome: str, node: str) -> None:
        work.clients.append(ClientOutcome(client_id, outcome, node))

    def _one_less(self, work: _Work) -> None:
        work.open -= 1
        if not work.open:
            del self._work[work.number]
            clients = [client for client in work.clients if client.clientid]
            work.settled(self._count(Result(work.command.id, work.command.kind, _summary(work), clients)))

    def _count(self, result: Result) -> Result:
        self._counter.labels(result.kind if result.kind in self._seconds_max else "unknown", result.outcome).inc()
        return result


def _fault(command: Command) -> str:
    """What is wrong with a command that nobody should be asked to execute."""
    if command.kind not in {DELIVER, KICK, ACL_CLEAN}:
        return f"there is no command {command.kind}"
    if command.kind == DELIVER and command.message is None:
        return "there is no message to deliver"
    if command.kind == KICK and command.selector == Selector():
        return "names nobody"
    return ""


def _summary(work: _Work) -> str:
    """One word for all clients."""
    command, outcomes = work.command, {client.outcome for client in work.clients}
    if not outcomes:
        return "offline" if command.kind == DELIVER and command.selector != Selector() else "nobody_found"
    if len(outcomes) == 1:
        return outcomes.pop()
    if command.kind == DELIVER:
        return "partly_delivered" if "delivered" in outcomes else "undelivered"
    return min(outcomes - {"done"})
