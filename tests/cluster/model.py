"""A randomised model of the session log that runs `proxy.cluster.table` itself: one client identifier, three replicas.

Appending a record and hearing of it are separate steps; replicas pause, crash, come back under the same node id, lag,
and raise false alarms about each other; a second process may run under a node id that is in use; the outcome of a CLAIM
may stay unknown; the log is compacted at random. One device opens connections one after the other (an older one may
live on, half open, at a replica) and remembers what it was told: Session Present, SUBACKs, PUBRECs.

Assumed: what is to be mended and announced is so within `min.compaction.lag.ms`, which takes a replica that is awake. A
`Break` turns off one rule; the model has to notice each.
"""

import bisect
import copy
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from proxy.cluster.table import LocalSession, SessionTable
from proxy.kafka.records import CLAIM, About, SessionRecord, SessionState

CLIENT = "device"
NODES = ("A", "B", "C")
#: A session expires when the clock jumps by this; every other step takes a millisecond.
EXPIRY_SECONDS = 1_000
ABOUT = About(None, "127.0.0.1", 60, 5, None, 0)
#: The device sent Clean Start 1 and saw no CONNACK: it may find anything.
ANY = -1

_WEIGHTS = {
    "connect": 16, "disconnect": 9, "subscribe": 36, "qos2": 20, "packet": 60, "crash": 11, "pause": 16, "compact": 40,
    "expire": 3, "detect": 30, "nodes": 24, "sweep": 34, "announce": 55, "give_up": 3, "day": 4, "flush": 230,
    "hear": 130, "read": 320,
}  # fmt: skip
ACTS = [act for act, weight in _WEIGHTS.items() for _ in range(weight)]


@dataclass(frozen=True)
class Break:
    """What a broken model does otherwise; the default is the protocol as it is."""

    table: type[SessionTable] = SessionTable
    connack_waits: bool = True
    suback_waits: bool = True
    releases: bool = True
    restarts_after_lag: bool = True
    stops_for_newer_incarnation: bool = True
    sweeps_dead_nodes: bool = True
    sweeps_older_incarnations: bool = True
    claim_outcome_unknown_closes: bool = True
    idempotent: bool = True
    confirms: bool = True
    announces_by_role: bool = True
    repeats_known_by_offset: bool = True
    compaction_waits_for_heals: bool = True
    tombstones_are_kept: bool = True


class Connection:
    """The MQTT side of one connection. `seen`: the device has its CONNACK."""

    def __init__(self, number: int, session: LocalSession) -> None:
        self.number = number
        self.session = session
        self.up = False
        self.seen = False
        self.qos2_seq = 0


class Replica:
    """One process: a table, what it wants to write, what it has read. It is the table's `Port`."""

    def __init__(self, world: "World", node: str) -> None:
        self.world = world
        self.node = node
        self.incarnation = world.join(node)
        self.up, self.paused, self.behind = True, False, False
        self.connection: Connection | None = None
        self.position = 0
        self.outbox: list[SessionRecord] = []
        self.unheard: list[SessionRecord] = []
        self.announcements: list[tuple[int, int, str]] = []
        self.known = dict(world.joins)
        self.dead: set[str] = set()
        self.table = world.rules.table(node, self.incarnation, self)
        while self.position < world.end and self.read(last_of_batch=False):
            pass
        self.table.end_batch()

    # ---- what the table asks for ----

    def append(self, record: SessionRecord) -> None:
        self.outbox.append(record)

    def established(self, session: LocalSession, session_present: bool) -> None:
        connection: Connection = session.handle
        if not self.world.rules.confirms:
            session.confirmed = True
        if not connection.up:
            self.connack(connection, session_present)

    def superseded(self, session: LocalSession) -> None:
        if self.connection is session.handle:
            self.connection = None

    def durable(self, session: LocalSession, token: Any) -> None:
        what, bit = token
        connection, device = session.handle, self.world.device
        if what == "qos2":
            session.qos2.append(bit)
        if device.connection == connection.number and connection.seen:
            (device.subscriptions if what == "subscribe" else device.qos2).add(bit)

    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None:
        was = record.epoch if before is None else None if before.rel else before.epoch
        now = None if record.rel else record.epoch
        events = [(record.offset, was, "disconnected")] if was is not None and was != now else []
        if now is not None:
            events.append((record.offset, now, "connected"))
        mine = (record.node, record.incarnation) == (self.node, self.incarnation)
        if self.world.rules.announces_by_role or mine:
            self.announcements += events

    # ---- MQTT ----

    def connect(self, number: int, clean_start: bool, expiry_seconds: int) -> None:
        session = LocalSession(
            CLIENT, number, clean_start=clean_start, expiry_seconds=expiry_seconds, about=ABOUT, handle=None
        )
        older, handed_over = self.connection, []
        if older is not None:
            self.world.ended.add(older.number)
            handed_over = older.session.qos2
        connection = session.handle = Connection(number, session)
        self.table.connect(session, handed_over)
        self.connection = connection
        if not self.world.rules.connack_waits:
            state = session.carried
            present = not clean_start and state is not None and state.qos2 is not None and state.confirmed
            session.take(state if present and state else SessionState(number, False, [], []))
            self.connack(connection, present)

    def connack(self, connection: Connection, present: bool) -> None:
        connection.up = True
        if self.world.device.connection == connection.number:
            connection.seen = True
            self.world.connack_seen(connection, present)
        truth = self.world.truth.get(connection.session.epoch)
        if not connection.session.clean_start and not present and truth is not None:
            self.world.gone.add(truth.session_id)

    def disconnect(self) -> None:
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self.world.ended.add(connection.number)
            if self.world.rules.releases:
                self.table.end(connection.session, "normal", connection.session.qos2, with_will=True)

    def give_up(self) -> None:
        """A CLAIM that is not read back in time closes its connection."""
        if self.connection is not None and self.connection.session.epoch < 0:
            self.disconnect()

    def device_sends(self, what: str, bit: int) -> None:
        connection = self.connection
        assert connection is not None
        session, table = connection.session, self.table
        news, session.confirmed = not session.confirmed, True
        if what == "packet":
            if news:
                table.assert_state(session)
        elif what == "subscribe":
            session.subscriptions.append(bit)
            self.tell(session, table.assert_state(session), (what, bit))
        else:
            if not session.qos2_used:
                session.qos2_used = True
                connection.qos2_seq = table.assert_state(session)
            self.tell(session, connection.qos2_seq, (what, bit))

    def tell(self, session: LocalSession, seq: int, token: tuple[str, int]) -> None:
        self.table.when_durable(session, seq if self.world.rules.suback_waits else -1, token)

    # ---- the process ----

    def crash(self) -> None:
        if self.connection is not None:
            self.world.ended.add(self.connection.number)
        self.up, self.connection = False, None
        self.outbox, self.unheard, self.announcements = [], [], []

    def nodes(self) -> None:
        """Reads the node registry. Rule 8: a newer incarnation of my own name stops me."""
        self.known = dict(self.world.joins)
        if self.world.rules.stops_for_newer_incarnation and self.known[self.node] > self.incarnation:
            self.crash()

    @property
    def is_sweeper(self) -> bool:
        """As it sees it; there may be two or none for a while."""
        return all(node in self.dead or node >= self.node for node in NODES)

    def is_dead(self, node: str, incarnation: int) -> bool:
        rules = self.world.rules
        return (rules.sweeps_dead_nodes and node in self.dead) or (
            rules.sweeps_older_incarnations and incarnation < self.known.get(node, -1)
        )

    # ---- Kafka ----

    def flush(self) -> None:
        """The oldest record that waits reaches the log, or nobody knows whether it did."""
        if not self.outbox:
            return
        record, world = self.outbox.pop(0), self.world
        connection = self.connection
        if record.kind == CLAIM and world.random.random() < 0.03:
            if world.random.random() < 0.5:
                world.append(record)
            claimed = connection is not None and connection.number == record.connection
            if claimed and world.rules.claim_outcome_unknown_closes:
                self.disconnect()
            return
        world.append(record)
        self.unheard.append(record)
        if not world.rules.idempotent and world.random.random() < 0.05:
            world.append(record)

    def hear(self) -> None:
        if self.unheard:
            self.unheard.pop(0)

    def read(self, last_of_batch: bool | None = None) -> bool:
        """The next record. False when there is none."""
        world = self.world
        record = world.next_record(self.position)
        if record is None:
            self.position = world.end
            return False
        self.position = record.offset + 1
        self.table.sweeping = self.is_sweeper
        self.table.read(record)
        if not world.rules.tombstones_are_kept:
            self.table.forget(1 << 60)
        if last_of_batch is None:
            last_of_batch = world.end <= self.position or world.random.random() < 0.2
        if last_of_batch:
            self.table.end_batch()
        return True

    def sweep(self) -> bool:
        self.table.sweeping = self.is_sweeper
        if not self.is_sweeper:
            return False
        before = len(self.outbox)
        self.table.sweep(self.table.client_ids(), self.is_dead, self.world.now_ms)
        self.table.mend()
        return len(self.outbox) > before

    def restart(self) -> None:
        """Rule 6: it lags so far behind that compaction has passed it."""
        if self.world.rules.restarts_after_lag:
            self.crash()
        self.behind = False

    # ---- presence ----

    def announce(self) -> bool:
        """Announces the oldest change that is not behind the mark, then moves the mark, unless it dies between."""
        world = self.world
        if world.rules.announces_by_role:
            self.announcements = [event for event in self.announcements if event[:2] > world.mark]
            if not self.is_sweeper:
                return False
        if not self.announcements:
            return False
        event = self.announcements.pop(0)
        world.status.append(event)
        if world.rules.announces_by_role and world.random.random() < 0.01:
            self.crash()
        elif world.rules.announces_by_role:
            world.mark = max(world.mark, event[:2])
        return True


class Device:
    """What the device knows: its newest connection, its session, and what it was told to rely on."""

    def __init__(self) -> None:
        self.connection: int | None = None
        self.session_id: int | None = None
        self.subscriptions: set[int] = set()
        self.qos2: set[int] = set()


class World:
    """The log, the registry, the device, and the truth that no replica knows."""

    def __init__(self, seed: int, rules: Break) -> None:
        self.random = random.Random(seed)
        self.rules = rules
        self.log: list[SessionRecord] = []
        self.end = 0
        self.now_ms = 0
        self.joins: dict[str, int] = {}
        self.incarnations = 0
        self.connections = 0
        self.bits = 0
        #: What is live or was released at the last change that presence announces.
        self.event_offset = -1
        self.mark = (-1, -1)
        self.status: list[tuple[int, int, str]] = []
        self.problems: set[str] = set()
        self.seen = Counter[str]()
        self.device = Device()
        #: Connections that had a reason to end; sessions that had one.
        self.ended: set[int] = set()
        self.gone: set[int] = set()
        #: The state that a CLAIM found, by its epoch.
        self.truth: dict[int, SessionState] = {}
        self.newest: int | None = None
        self.oracle = SessionTable("oracle", -1, _Deaf())
        self.expiry_share = self.random.choice((0.2, 0.8, 0.95))
        self.replicas = [Replica(self, node) for node in NODES]

    def join(self, node: str) -> int:
        self.incarnations += 1
        self.joins[node] = self.incarnations
        return self.incarnations

    # ---- the log ----

    def next_record(self, position: int) -> SessionRecord | None:
        index = bisect.bisect_left(self.log, position, key=lambda record: record.offset)
        return copy.copy(self.log[index]) if index < len(self.log) else None

    def append(self, record: SessionRecord) -> None:
        stored = copy.copy(record)
        stored.offset, stored.timestamp_ms, self.end = self.end, self.now_ms, self.end + 1
        if stored.kind == CLAIM:
            stored.epoch = stored.offset
            self.newest = stored.connection
        self.log.append(stored)
        self._learn_truth(stored)

    def _learn_truth(self, record: SessionRecord) -> None:
        """What somebody knows who reads every record at once."""
        before = self.oracle.view(CLIENT)
        if before is not None and record.rank < before.rank:
            return
        if record.kind == CLAIM and before is not None and before.state is not None and not self._expired(before):
            carried = record.previous == before.epoch and record.state is not None
            self.truth[record.offset] = record.state if carried and record.state else before.state
        self.oracle.read(copy.copy(record))
        after = self.oracle.view(CLIENT)
        assert after is not None
        lost = before.state.session_id if before is not None and before.state is not None else None
        if lost is not None and (after.state is None or after.state.session_id != lost):
            self.gone.add(lost)
        if before is None or (before.epoch, before.rel > 0) != (after.epoch, after.rel > 0):
            self.event_offset = record.offset

    def _expired(self, view: SessionRecord) -> bool:
        return bool(view.rel) and view.session_expires_ms <= self.now_ms

    def compact(self, whole: bool = False) -> None:
        """Of what is behind some offset only the last record of the key remains; a tombstone goes in the end."""
        read = [replica.position for replica in self._awake()]
        top = self.end if whole or self.random.random() < 0.2 else min(read, default=self.end)
        cut = top if whole or self.random.random() < 0.5 else self.random.randint(0, top)
        last = max((record.offset for record in self.log if record.offset < cut), default=0)
        log = [record for record in self.log if record.offset >= cut or record.offset == last]
        if self.rules.compaction_waits_for_heals and not whole and not self._may_compact(log, cut):
            return
        for replica in self.replicas:
            replica.behind = replica.behind or replica.position < cut
        if log and log[0].offset < cut and log[0].rel and log[0].state is None and self._tombstone_may_go(log, whole):
            log.pop(0)
        self.log = log

    def _may_compact(self, log: list[SessionRecord], cut: int) -> bool:
        """`min.compaction.lag.ms` leaves time to mend and to announce."""
        truth, left = self.oracle.view(CLIENT), self.view_of(log)
        if truth is not None and (left is None or (left.rank, left.state) != (truth.rank, truth.state)):
            return False
        return not self.rules.announces_by_role or cut <= self.mark[0] + 1

    def _tombstone_may_go(self, log: list[SessionRecord], whole: bool) -> bool:
        """`delete.retention.ms` leaves a day to mend what was written behind it."""
        if self.rules.announces_by_role and self.mark[0] < self.event_offset:
            return False
        left, truth = self.view_of(log[1:]), self.oracle.view(CLIENT)
        if self.rules.compaction_waits_for_heals and left is not None and truth is not None and left.rank != truth.rank:
            return False
        return whole or all(
            not replica.up
            or (replica.position > log[0].offset and not replica.outbox)
            or (replica.paused and replica.behind)
            for replica in self.replicas
        )

    def _awake(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.up and not replica.paused]

    def view_of(self, log: Iterable[SessionRecord]) -> SessionRecord | None:
        """What a replica finds that starts now."""
        table = self.rules.table("newcomer", -1, _Deaf())
        for record in log:
            table.read(copy.copy(record))
        return table.view(CLIENT)

    # ---- the device ----

    def connack_seen(self, connection: Connection, present: bool) -> None:
        device, session = self.device, connection.session
        known = device.session_id != ANY
        self.seen[f"Session Present {present:d}"] += 1
        if present and known:
            if device.session_id is None:
                self.problems.add("Session Present 1, no session expected")
            elif device.session_id != session.session_id:
                self.problems.add("Session Present 1, another session")
            elif not device.subscriptions <= set(session.subscriptions):
                self.problems.add("Session Present 1, subscription lost")
            elif not device.qos2 <= set(session.qos2):
                self.problems.add("Session Present 1, QoS 2 state lost")
        if not (present and known and session.expiry_seconds):
            device.subscriptions, device.qos2 = set(), set()
        device.session_id = session.session_id if session.expiry_seconds else None

    # ---- what happens ----

    def act(self) -> None:
        self.now_ms += 1
        replica, act = self.random.choice(self.replicas), self.random.choice(ACTS)
        if not replica.up:
            if self.random.random() < 0.2 and self.joins[replica.node] <= replica.incarnation:
                self.replicas[self.replicas.index(replica)] = Replica(self, replica.node)
        elif replica.paused:
            self._paused(replica)
        elif replica.behind:
            replica.restart()
        elif act in ("subscribe", "qos2", "packet"):
            self._device_sends(act)
        elif act in ("connect", "detect"):
            getattr(self, f"_{act}")(replica)
        elif act in ("expire", "day", "compact"):
            getattr(self, act)()
        elif act == "pause":
            replica.paused = True
        else:
            getattr(replica, act)()

    def _paused(self, replica: Replica) -> None:
        chance = self.random.random()
        if chance < 0.1:
            replica.paused = False
        elif chance < 0.12 and self.joins[replica.node] == replica.incarnation and len(self.replicas) < 6:
            self.replicas.append(Replica(self, replica.node))

    def _connect(self, replica: Replica) -> None:
        self.connections += 1
        clean_start = self.random.random() < 0.2
        expiry_seconds = EXPIRY_SECONDS if self.random.random() < self.expiry_share else 0
        self.device.connection = self.connections
        if clean_start:
            self.device.session_id, self.device.subscriptions, self.device.qos2 = ANY, set(), set()
        replica.connect(self.connections, clean_start, expiry_seconds)

    def _device_sends(self, what: str) -> None:
        """Sent after the device saw CONNACK, maybe handled late, by a connection that it has given up since."""
        able = [
            replica
            for replica in self.replicas
            if replica.up and not replica.paused and (connection := replica.connection) is not None
            if connection.seen and connection.session.expiry_seconds and connection.session.epoch >= 0
        ]
        if able:
            self.bits += 1
            self.random.choice(able).device_sends(what, self.bits)

    def _detect(self, replica: Replica) -> None:
        """Liveness as this replica sees it, false alarms included."""
        other = self.random.choice(self.replicas)
        if other.node == replica.node:
            return
        if not other.up or other.paused or self.random.random() < 0.05:
            replica.dead.add(other.node)
        else:
            replica.dead.discard(other.node)

    def expire(self) -> None:
        view = self.oracle.view(CLIENT)
        if view is not None and view.rel and view.state is not None:
            self.now_ms += EXPIRY_SECONDS * 1000
            self.gone.add(view.state.session_id)

    def day(self) -> None:
        """More than `delete.retention.ms` goes by: all is written, read and compacted; who is paused stays so."""
        if self._awake():
            self.quiet()
        # Those who were awake may have stopped for those who follow them, who may be paused: then nobody mends.
        if self._awake():
            self.compact(whole=True)
        for replica in self._awake():
            replica.table.forget(self.now_ms + 1)

    # ---- rest ----

    def settle(self) -> None:
        for replica in self.replicas:
            replica.paused = False
        if self.random.random() < 0.5:
            self.replicas = [
                Replica(self, each.node) if not each.up and self.joins[each.node] == each.incarnation else each
                for each in self.replicas
            ]
        self.quiet()

    def quiet(self) -> None:
        """Goes on until nobody has anything left to do."""
        for _ in range(100):
            busy = False
            for replica in self.random.sample(self.replicas, len(self.replicas)):
                busy = self._work_off(replica) or busy
            if not any(replica.up for replica in self.replicas):
                self.replicas[0] = Replica(self, self.replicas[0].node)
                busy = True
            if not busy and not any(replica.outbox and not replica.paused for replica in self.replicas):
                return
        self.problems.add("does not converge")

    def _work_off(self, replica: Replica) -> bool:
        if replica.up and not replica.paused:
            replica.nodes()
        if replica.up and not replica.paused and replica.behind:
            replica.restart()
            return True
        if not replica.up or replica.paused:
            return False
        dead = {node for node in NODES if not any(self._serves(other, node) for other in self.replicas)}
        busy, replica.dead = dead != replica.dead, dead
        while replica.outbox and self.end < 1500:
            replica.flush()
            busy = True
        while replica.read():
            busy = True
        if not replica.outbox and replica.sweep():
            busy = True
        while replica.up and replica.announce():
            busy = True
        connection = replica.connection
        waits = connection is not None and connection.session.epoch < 0 and not replica.outbox
        if not busy and waits and self.rules.claim_outcome_unknown_closes:
            replica.give_up()
            busy = True
        return busy

    def _serves(self, replica: Replica, node: str) -> bool:
        return (
            replica.up
            and not replica.paused
            and replica.node == node
            and replica.incarnation == self.joins[replica.node]
        )

    # ---- what must hold at rest ----

    def check(self) -> None:
        up = [replica for replica in self.replicas if replica.up]
        live = [(replica, replica.connection) for replica in up if replica.connection is not None]
        if len(live) > 1:
            self.problems.add("two live connections")
            return
        home, connection = live[0] if live else (None, None)
        awaited = self.newest is not None and self.newest not in self.ended
        if awaited and (connection is None or connection.number != self.newest):
            self.problems.add("newest connection lost")
        if connection is not None and not connection.up:
            self.problems.add("CONNACK never sent")
        self.compact(whole=True)
        views = [("view", replica.table.view(CLIENT)) for replica in up]
        for who, view in [*views, ("fresh start", self.view_of(self.log))]:
            self._check_view(who, view, home, connection)
        self._check_status(connection)

    def _check_view(
        self, who: str, view: SessionRecord | None, home: Replica | None, connection: Connection | None
    ) -> None:
        device = self.device
        if connection is not None and home is not None:
            owner = (home.node, home.incarnation, connection.number)
            if view is None or view.rel or (view.node, view.incarnation, view.connection) != owner:
                self.problems.add(f"{who}: live connection missing")
        elif view is not None and not view.rel:
            self.problems.add(f"{who}: ghost")
        state = None if view is None or self._expired(view) else view.state
        expected = device.session_id
        if expected not in (None, ANY) and expected not in self.gone:
            if state is None or state.session_id != expected or not device.subscriptions <= set(state.subscriptions):
                self.problems.add(f"{who}: session lost")
        elif connection is not None and connection.up and state != connection.session.state():
            self.problems.add(f"{who}: not the connection's state")

    def _check_status(self, connection: Connection | None) -> None:
        """Who drops repeats by (offset, epoch) knows at rest who is online."""
        seen: set[Any] = set()
        last: tuple[Any, tuple[int, int, str]] | None = None
        for event in self.status:
            key, place = (event, event[:2]) if self.rules.repeats_known_by_offset else (event[1:], event[1])
            if key not in seen and (last is None or place >= last[0]):
                last = (place, event)
            seen.add(key)
        self.seen["status events"] += len(set(self.status))
        online = last[1][1] if last is not None and last[1][2] == "connected" else None
        expected = connection.session.epoch if connection is not None else None
        if online != expected:
            self.problems.add("status at rest is wrong")


class _Deaf:
    """A port for somebody who only reads."""

    def append(self, record: SessionRecord) -> None: ...
    def established(self, session: LocalSession, session_present: bool) -> None: ...
    def superseded(self, session: LocalSession) -> None: ...
    def durable(self, session: LocalSession, token: Any) -> None: ...
    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None: ...


def run(seed: int, rules: Break, seen: Counter[str] | None = None) -> set[str]:
    """One random schedule; what is wrong at its end."""
    world = World(seed, rules)
    for _ in range(world.random.randint(20, 400)):
        world.act()
    world.settle()
    world.check()
    if seen is not None:
        seen.update(world.seen)
    return world.problems


def violations(
    seeds: Iterable[int], rules: Break, enough: Callable[[Counter[str]], bool] | None = None
) -> Counter[str]:
    """What goes wrong, with how often, until it is `enough`; `first seed` tells which schedule to look at."""
    found = Counter[str]()
    for seed in seeds:
        problems = run(seed, rules)
        if problems and not found:
            found["first seed"] = seed
        found.update(problems)
        if found and enough is not None and enough(found):
            break
    return found
