"""Each rule of the session log once, by hand: what the replicas write, and what they make of it."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.cluster.table import LocalSession, SessionTable, follow
from proxy.kafka.records import (
    ASSERT,
    CLAIM,
    EXPIRED,
    LIVE,
    RELEASE,
    RELEASED,
    About,
    SessionRecord,
    SessionState,
    decode_session,
)

ABOUT = About("user", "10.0.0.1", 60, 5, None, 0)
HOUR = 3_600
DAY_MS = 86_400_000


class Replica:
    """A table, and what it says to its surroundings."""

    def __init__(self, log: "Log", node: str, incarnation: int = 1) -> None:
        self.log = log
        self.table = SessionTable(node, incarnation, self)
        self.position = 0
        #: What it wants to write; `Log.flush` writes it.
        self.outbox: list[SessionRecord] = []
        self.told: list[tuple[Any, ...]] = []
        self.changes: list[tuple[int | None, int | None]] = []

    def append(self, record: SessionRecord) -> None:
        self.outbox.append(record)

    def established(self, session: LocalSession, session_present: bool) -> None:
        self.told.append(("established", session.connection, session_present))

    def superseded(self, session: LocalSession) -> None:
        self.told.append(("superseded", session.connection))

    def durable(self, session: LocalSession, token: Any) -> None:
        self.told.append(("durable", session.connection, token))

    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None:
        was = before.epoch if before is not None and not before.rel else None
        self.changes.append((was, None if record.rel else record.epoch))

    def take_told(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told

    def connect(self, connection: int, *, clean_start: bool = False, expiry_seconds: int = HOUR) -> LocalSession:
        session = LocalSession("c", connection, clean_start=clean_start, expiry_seconds=expiry_seconds, about=ABOUT)
        self.table.connect(session)
        return session

    def end(self, session: LocalSession, qos2: list[int] | None = None) -> None:
        self.table.end(session, "normal", qos2 or [], with_will=False)

    def read(self) -> None:
        """Everything that it has not read, as one batch."""
        while self.position < len(self.log.records):
            record = self.log.records[self.position]
            self.position += 1
            if record is not None:
                self.table.read(copy_of(record))
        self.table.end_batch()

    @property
    def view(self) -> SessionRecord:
        view = self.table.view("c")
        assert view is not None
        return view


class Log:
    """The records, by offset; None where compaction has been."""

    def __init__(self) -> None:
        self.records: list[SessionRecord | None] = []
        self.replicas: list[Replica] = []
        self.now_ms = 1_000_000

    def replica(self, node: str, incarnation: int = 1) -> Replica:
        self.replicas.append(Replica(self, node, incarnation))
        return self.replicas[-1]

    def append(self, record: SessionRecord) -> None:
        self.records.append(copy_of(replace(record, offset=len(self.records), timestamp_ms=self.now_ms)))

    def flush(self, replica: Replica) -> None:
        for record in replica.outbox:
            self.append(record)
        replica.outbox.clear()

    def settle(self) -> None:
        """Everybody writes and reads until nobody has anything left to say."""
        for _ in range(20):
            for replica in self.replicas:
                self.flush(replica)
            for replica in self.replicas:
                replica.read()
            if not any(replica.outbox for replica in self.replicas):
                return
        raise AssertionError("they never stop")


def copy_of(record: SessionRecord) -> SessionRecord:
    """As it comes from Kafka: nobody shares it."""
    value, headers = record.encode()
    return decode_session(record.client_id.encode(), value, headers, record.offset, record.timestamp_ms)


@pytest.fixture
def log() -> Log:
    return Log()


def never(_node: str, _incarnation: int) -> bool:
    return False


def confirmed(replica: Replica, session: LocalSession) -> None:
    """The device has sent something."""
    session.confirmed = True
    replica.table.assert_state(session)


# ---- rule 1 ----


def test_a_connection_has_its_place_once_its_claim_is_read_back(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.flush(a)
    assert (a.take_told(), session.epoch) == ([], -1)
    a.read()
    assert (a.take_told(), session.epoch) == ([("established", 7, False)], 0)
    assert (a.view.kind, a.view.node, a.view.epoch) == (CLAIM, "a", 0)


def test_nothing_is_asserted_before_the_claim_is_read_back(log: Log) -> None:
    a = log.replica("a")
    with pytest.raises(ValueError, match="CLAIM"):
        a.table.assert_state(a.connect(7))


@pytest.mark.parametrize("other", [False, True], ids=["same replica", "other replica"])
def test_session_present_on_any_replica(log: Log, other: bool) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7)
    log.settle()
    session.subscriptions = [["t/#", 1]]
    confirmed(a, session)
    a.end(session, [5])
    log.settle()
    again = (b if other else a).connect(8)
    log.settle()
    assert ("established", 8, True) in (b if other else a).told
    assert (again.session_id, again.subscriptions, again.qos2) == (7, [["t/#", 1]], [5])


@pytest.mark.parametrize(
    ("sends", "clean_start", "wait_ms"),
    [(False, False, 0), (True, True, 0), (True, False, HOUR * 1000 + 1)],
    ids=["the device never saw it", "clean start", "expired"],
)
def test_no_session_is_present(log: Log, sends: bool, clean_start: bool, wait_ms: int) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    if sends:
        confirmed(a, session)
    a.end(session)
    log.settle()
    log.now_ms += wait_ms
    again = a.connect(8, clean_start=clean_start)
    log.settle()
    assert a.told[-1] == ("established", 8, False)
    assert again.session_id == 8


def test_qos_2_that_only_a_lost_replica_knew_is_not_present(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7)
    log.settle()
    session.qos2_used = True
    confirmed(a, session)
    log.settle()
    b.connect(8)
    log.settle()
    assert b.told[-1] == ("established", 8, False)


def test_qos_2_is_handed_over_on_the_same_replica(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    session.qos2_used = True
    confirmed(a, session)
    log.settle()
    newer = LocalSession("c", 8, clean_start=False, expiry_seconds=HOUR, about=ABOUT)
    a.table.connect(newer, [3, 9])
    log.settle()
    assert a.told[-1] == ("established", 8, True)
    assert newer.qos2 == [3, 9]


def test_what_a_claim_carries_counts_only_if_it_took_over_what_precedes_it(log: Log) -> None:
    state, stale = SessionState(1, True, [], []), SessionState(2, True, [], [])
    claim = record(CLAIM, epoch=9, state=stale)
    assert follow(None, claim) == (stale, True, stale)
    before = record(CLAIM, epoch=4, state=state)
    assert follow(before, claim)[2] == state
    claim.previous = 4
    assert follow(before, claim)[2] == stale
    claim.previous = 3
    assert follow(before, claim)[2] == state


def record(kind: int, *, epoch: int, state: SessionState | None, rel: int = LIVE, node: str = "a") -> SessionRecord:
    return SessionRecord(
        "c", kind, node, 1, epoch + 100, epoch, 0, rel, False, None, HOUR, "", state, ABOUT, None, offset=epoch
    )


# ---- rank ----


def test_a_record_of_lower_rank_changes_nothing(log: Log) -> None:
    """The RELEASE of a connection that somebody took over arrives late."""
    a, b = log.replica("a"), log.replica("b")
    old = a.connect(7)
    log.settle()
    a.end(old)
    b.connect(8)
    log.flush(b)
    log.flush(a)
    b.read()
    assert (b.view.connection, b.view.rel) == (8, LIVE)
    assert b.take_told()[-1] == ("established", 8, False)


def test_a_release_outranks_what_its_connection_said_before(log: Log) -> None:
    ranks = [(4, 0, LIVE), (4, 1, LIVE), (4, 1, RELEASED), (4, 1, EXPIRED), (4, 2, LIVE), (5, 0, LIVE)]
    assert ranks == sorted(ranks)
    a = log.replica("a")
    for epoch, seq, rel in ranks:
        each = record(ASSERT, epoch=epoch, state=SessionState(1, True, [], []), rel=rel, node="z")
        each.seq = seq
        a.table.read(each)
        assert a.view.rank == (epoch, seq, rel)


def test_the_rank_of_a_tombstone_is_remembered_until_compaction_may_be_over(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7, expiry_seconds=0)
    log.settle()
    late = log.records[0]
    a.end(session)
    log.settle()
    assert b.view.rel == RELEASED
    assert late is not None
    b.table.read(copy_of(late))
    assert b.view.rel == RELEASED
    b.table.forget(log.now_ms)
    assert (len(b.table), b.table.tombstones) == (1, 1)
    b.table.forget(log.now_ms + 1)
    assert (len(b.table), b.table.tombstones, b.table.view("c")) == (0, 0, None)


def test_a_sweeper_writes_the_view_again_when_compaction_would_keep_a_stale_record(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    old = a.connect(7)
    log.settle()
    a.end(old)
    b.connect(8)
    log.flush(b)
    b.read()
    log.flush(b)
    log.flush(a)
    a.read()
    b.read()
    assert (a.outbox, b.outbox) == ([], [])
    # Who becomes the sweeper later finds it too.
    a.table.sweeping = True
    a.table.mend()
    (repeated,) = a.outbox
    assert (repeated.kind, repeated.connection, repeated.rank) == (ASSERT, 8, b.view.rank)
    log.settle()
    assert (log.records[-1] or repeated).rank == b.view.rank
    a.table.mend()
    assert a.outbox == []


def test_a_tombstone_is_written_again_by_everybody_who_remembers_it(log: Log) -> None:
    """A replica that stood still for a day writes of a connection that the sweeper has forgotten since."""
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7, expiry_seconds=0)
    log.settle()
    late = replace(b.view, kind=ASSERT)
    a.end(session)
    log.settle()
    b.table.sweeping = True
    b.table.forget(log.now_ms + 1)
    log.append(late)
    log.settle()
    assert (a.view.rel, b.view.rel) == (RELEASED, RELEASED)


# ---- rules 2 to 5 ----


def test_rule_2_the_newer_connection_ends_the_older(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    a.connect(7)
    log.settle()
    b.connect(8)
    log.settle()
    assert a.take_told() == [("established", 7, False), ("superseded", 7)]
    assert (a.table.local, list(b.table.local)) == ({}, ["c"])


def test_two_claims_at_once_leave_the_later_one(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    a.connect(7)
    b.connect(8)
    log.flush(b)
    log.flush(a)
    log.settle()
    assert b.take_told() == [("established", 8, False), ("superseded", 8)]
    assert a.take_told() == [("established", 7, False)]


def test_rule_3_a_connection_that_was_taken_for_dead_says_that_it_lives(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7)
    log.settle()
    said = session.seq
    b.table.sweep(["c"], lambda node, incarnation: True, log.now_ms)
    log.settle()
    assert (a.view.kind, a.view.rank) == (ASSERT, (session.epoch, said + 1, LIVE))
    assert a.changes == [(None, 0), (0, None), (None, 0)]


def test_rule_4_a_connection_that_its_owner_has_not_is_released(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.flush(a)
    a.end(session)
    assert a.outbox == [], "the epoch is not known yet"
    log.settle()
    assert (a.view.rel, a.view.reason) == (RELEASED, "tcp_closed")


def test_rule_4_holds_whenever_a_connection_ends(log: Log) -> None:
    """The CLAIM of the next connection was read between two batches, so nobody looks at the older one again."""
    a = log.replica("a")
    a.connect(7)
    log.settle()
    newer = a.connect(8)
    a.end(newer)
    (claim, release) = a.outbox
    assert (claim.connection, release.connection, release.rel) == (8, 7, RELEASED)


def test_a_record_that_was_lost_is_looked_after(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    a.end(session)
    a.outbox.clear()
    a.table.check("c")
    (release,) = a.outbox
    assert (release.kind, release.rel, release.epoch) == (RELEASE, RELEASED, 0)


def test_rule_5_the_end_says_the_exact_state(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    session.qos2_used = True
    confirmed(a, session)
    log.settle()
    assert a.view.state == SessionState(7, True, [], None)
    a.end(session, [9, 2])
    log.settle()
    assert (a.view.rel, a.view.state) == (RELEASED, SessionState(7, True, [], [2, 9]))
    assert (a.table.live, a.table.offline) == (0, 1)


def test_without_expiry_the_end_is_a_tombstone(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7, expiry_seconds=0)
    log.settle()
    a.end(session, [9])
    (release,) = a.outbox
    assert release.encode()[0] is None
    log.settle()
    assert (a.table.live, a.table.offline) == (0, 0)


def test_who_ends_twice_says_so_once(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    a.end(session)
    a.end(session)
    assert len(a.outbox) == 1


# ---- rule 7 ----


def test_rule_7_what_belongs_to_the_dead_is_released(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    a.connect(7)
    log.settle()
    log.replicas.remove(a)
    assert b.table.sweep(["c"], never, log.now_ms) == 0
    assert b.table.sweep(["c", "nobody"], lambda node, incarnation: (node, incarnation) == ("a", 1), log.now_ms) == 1
    log.settle()
    assert (b.view.rel, b.view.reason, b.view.node) == (RELEASED, "node_lost", "a")
    assert b.view.state is not None


def test_a_swept_session_whose_qos_2_nobody_knows_is_over(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7)
    log.settle()
    session.qos2_used = True
    confirmed(a, session)
    log.settle()
    log.replicas.remove(a)
    b.table.sweep(["c"], lambda node, incarnation: True, log.now_ms)
    assert b.outbox[0].encode()[0] is None
    log.settle()
    assert (b.view.rel, b.view.state) == (RELEASED, None)


def test_an_expired_session_is_ended(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    a.end(session)
    log.settle()
    assert a.table.sweep(["c"], never, log.now_ms + HOUR * 1000 - 1) == 0
    assert a.table.sweep(["c"], never, log.now_ms + HOUR * 1000) == 1
    log.settle()
    assert (a.view.rel, a.view.state) == (EXPIRED, None)
    assert a.table.sweep(["c"], never, log.now_ms + DAY_MS) == 0


def test_two_sweepers_at_once_do_no_harm(log: Log) -> None:
    a, b, c = log.replica("a"), log.replica("b"), log.replica("c")
    a.connect(7)
    log.settle()
    log.replicas.remove(a)
    for each in (b, c):
        assert each.table.sweep(["c"], lambda node, incarnation: node == "a", log.now_ms) == 1
    log.settle()
    assert b.view.rank == c.view.rank
    assert b.view.rel == RELEASED
    assert b.changes == [(None, 0), (0, None)]


# ---- rule 9 ----


def test_rule_9_the_device_is_told_what_is_durable(log: Log) -> None:
    a = log.replica("a")
    session = a.connect(7)
    log.settle()
    a.take_told()
    first, second = a.table.assert_state(session), a.table.assert_state(session)
    a.table.when_durable(session, second, "second")
    a.table.when_durable(session, first, "first")
    log.flush(a)
    assert a.take_told() == []
    a.read()
    assert a.take_told() == [("durable", 7, "first"), ("durable", 7, "second")]
    a.table.when_durable(session, second, "late")
    assert a.take_told() == [("durable", 7, "late")]


def test_a_stale_record_makes_nothing_durable(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    session = a.connect(7)
    log.settle()
    a.table.when_durable(session, a.table.assert_state(session), "told")
    b.connect(8)
    log.flush(b)
    log.flush(a)
    a.read()
    assert a.take_told() == [("established", 7, False), ("superseded", 7)]


# ---- what presence hears ----


def test_what_presence_hears(log: Log) -> None:
    a, b = log.replica("a"), log.replica("b")
    a.connect(7)
    log.settle()
    session = b.connect(8)
    log.settle()
    confirmed(b, session)
    b.end(session)
    log.settle()
    assert a.changes == b.changes == [(None, 0), (0, session.epoch), (session.epoch, None)]


def test_a_release_that_stands_alone_is_heard_of(log: Log) -> None:
    """What preceded it was compacted away."""
    a = log.replica("a")
    a.table.read(record(RELEASE, epoch=3, state=None, rel=RELEASED, node="z"))
    assert a.changes == [(None, None)]
