"""The session table of one partition of the session log: the rules by which every replica comes to the same view. Pure.

Records go in with `read`, in the order of the log, with `end_batch` after each batch; what this replica has to say goes
out through the `Port`. One client identifier lives in one partition, so its records have one order. ARCHITECTURE.md
numbers the rules; `tests/cluster/model.py` runs this code through random schedules, with each rule broken in turn.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

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
    StoredWill,
    pack_session,
    unpack_session,
)

#: A view as it is kept: rank (epoch, seq, rel), owner, offset, time in ms and session expiry in seconds, then the
#: record in packed form. The numbers are what is asked often; the rest is decoded when somebody asks.
_VIEW: Final = struct.Struct(">QIBIQQI")
_RANK: Final = struct.Struct(">QIB")

#: Why a connection ended whose owner is no more.
NODE_LOST: Final = "node_lost"
#: Why one ended that its owner had forgotten before it knew its epoch.
TCP_CLOSED: Final = "tcp_closed"
TAKEN_OVER: Final = "taken_over"


class LocalSession:
    """A connection of this replica, as the table knows it. Whoever made it may read everything, and changes only the
    fields of the session state, followed by `SessionTable.assert_state`.
    """

    __slots__ = (
        "about", "carried", "clean_start", "client_id", "confirmed", "connection", "durable_seq", "epoch",
        "established", "expiry_seconds", "handle", "healed", "previous", "qos2", "qos2_used", "seq", "session_id",
        "subscriptions", "waiting", "will",
    )  # fmt: skip

    def __init__(
        self,
        client_id: str,
        connection: int,
        *,
        clean_start: bool,
        expiry_seconds: int,
        about: About,
        will: StoredWill | None = None,
        handle: Any = None,
    ) -> None:
        self.client_id = client_id
        #: Unique among all connections that ever were.
        self.connection = connection
        self.clean_start = clean_start
        self.expiry_seconds = expiry_seconds
        self.about = about
        self.will = will
        #: The caller's own.
        self.handle = handle
        #: The offset of the CLAIM, -1 until it has been read back; seq counts the records of this connection.
        self.epoch = -1
        self.seq = 0
        self.durable_seq = 0
        self.established = False
        #: The session state. Without a session identifier there is none.
        self.session_id: int | None = None
        self.subscriptions: list[Any] = []
        self.qos2: list[int] = []
        self.qos2_used = False
        self.confirmed = False
        #: The epoch of the connection that this one took over here, whose memory it inherits.
        self.previous: int | None = None
        #: What the CLAIM said the state was.
        self.carried: SessionState | None = None
        #: The rank of the view that was healed last.
        self.healed: tuple[int, int, int] | None = None
        #: What the device is told once the record of that seq is durable.
        self.waiting: list[tuple[int, Any]] = []

    def take(self, state: SessionState) -> None:
        """Goes on with a session."""
        self.session_id, self.confirmed = state.session_id, state.confirmed
        self.subscriptions = list(state.subscriptions)
        self.qos2, self.qos2_used = list(state.qos2 or ()), state.qos2 is None

    def state(self, exact_qos2: Iterable[int] | None = None) -> SessionState | None:
        """The session state as a record says it. Once QoS 2 is in use its identifiers change too often to be written:
        they are said exactly when the connection ends.
        """
        if not self.expiry_seconds or self.session_id is None:
            return None
        qos2 = sorted(exact_qos2) if exact_qos2 is not None else None if self.qos2_used else self.qos2
        return SessionState(self.session_id, self.confirmed, list(self.subscriptions), qos2)


class Port(Protocol):
    """What the table asks of its surroundings. None of it may call back into the table before it returns."""

    def append(self, record: SessionRecord) -> None:
        """Write this to the log, in the order of the calls."""

    def established(self, session: LocalSession, session_present: bool) -> None:
        """Rule 1: the CLAIM has been read back, CONNACK may go."""

    def superseded(self, session: LocalSession) -> None:
        """Rule 2: a newer connection exists, end this one. The table has forgotten it."""

    def durable(self, session: LocalSession, token: Any) -> None:
        """Rule 9: what waited for a record may be told to the device."""

    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None:
        """A client came, went, or is another connection now; what presence and wills are made of."""


def _fresh(claim: SessionRecord | LocalSession) -> SessionState | None:
    """The state of a session that begins with this connection, if it is to outlive it."""
    return SessionState(claim.connection, False, [], []) if claim.expiry_seconds else None


def follow(before: SessionRecord | None, claim: SessionRecord) -> tuple[SessionState | None, bool, SessionState | None]:
    """What a CLAIM does to the view before it: the session state after it, Session Present, and the state that the
    connection goes on with.
    """
    fresh = _fresh(claim)
    if claim.clean_start:
        return fresh, False, None
    base = _inherited(before, claim)
    if base is None or not base.confirmed or base.qos2 is None:
        # Session Present must never name a session that the device never saw, nor one whose QoS 2 identifiers nobody
        # knows any more.
        return fresh, False, None
    if not claim.expiry_seconds:
        return None, True, base
    # Only its replica knows what of the connection before is still on its way to Kafka: QoS 2 stays in use.
    in_use = before is not None and before.state is not None and before.state.qos2 is None
    return (replace(base, qos2=None) if in_use else base), True, base


def _inherited(before: SessionRecord | None, claim: SessionRecord) -> SessionState | None:
    """What the CLAIM carries counts only if nothing precedes it, or if it names the connection that it took over from
    its own replica's memory.
    """
    if before is None or (claim.previous is not None and claim.previous == before.epoch):
        return claim.state
    if before.rel and before.session_expires_ms <= claim.timestamp_ms:
        return None
    return before.state


class SessionTable:
    """The view of every client identifier of one partition, and this replica's connections among them."""

    def __init__(self, node: str, incarnation: int, port: Port) -> None:
        self.node = node
        self.incarnation = incarnation
        self.local: dict[str, LocalSession] = {}
        #: Set while this replica sweeps and announces for the partition.
        self.sweeping = False
        #: Clients that are connected somewhere, and sessions that wait for their device.
        self.live = 0
        self.offline = 0
        self._port = port
        self._views: dict[str, bytes] = {}
        self._owners: dict[tuple[str, int], int] = {}
        self._owner_names: list[tuple[str, int]] = []
        self._touched: set[str] = set()
        #: Clients whose last record is not the one that counts, while compaction would keep just that.
        self._stale_last: set[str] = set()
        self._tombs: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        return len(self._views)

    @property
    def tombstones(self) -> int:
        """Ends of sessions that are remembered until `forget`."""
        return len(self._tombs)

    # ---- what connections of this replica do ----

    def connect(self, session: LocalSession, handed_over_qos2: Iterable[int] = ()) -> None:
        """Rule 1: a connection that has authenticated takes over here and claims its place. `handed_over_qos2` are the
        packet identifiers of the connection that it replaces on this replica, which the caller ends.
        """
        older = self.local.get(session.client_id)
        view = self.view(session.client_id)
        state = view.state if view is not None else None
        if older is not None and older.established:
            handed_over = older.state(handed_over_qos2)
            if handed_over is not None:
                session.previous, state = older.epoch, handed_over
        if session.clean_start:
            state = _fresh(session)
        session.carried = state if session.expiry_seconds or session.previous is not None else None
        self.local[session.client_id] = session
        self._append(session, CLAIM, LIVE, session.carried, "")

    def assert_state(self, session: LocalSession) -> int:
        """Writes the state of a session that has changed; returns the number that `when_durable` takes."""
        if session.epoch < 0:
            raise ValueError("the CLAIM has not been read back")
        session.seq += 1
        self._append(session, ASSERT, LIVE, session.state(), "")
        return session.seq

    def when_durable(self, session: LocalSession, seq: int, token: Any) -> None:
        """Rule 9: `durable` is called with `token` as soon as the record `seq` of this connection is read back."""
        if seq <= session.durable_seq:
            self._port.durable(session, token)
        else:
            session.waiting.append((seq, token))

    def end(self, session: LocalSession, reason: str, qos2: Iterable[int], *, with_will: bool) -> None:
        """Rule 5: the connection is over. Says so in the log unless somebody else has its place already."""
        if self.local.get(session.client_id) is not session:
            return
        del self.local[session.client_id]
        if session.epoch >= 0:
            session.seq += 1
            session.will = session.will if with_will else None
            self._append(session, RELEASE, RELEASED, session.state(qos2), reason)
        else:
            self._settle(session.client_id)

    # ---- what is read ----

    def read(self, record: SessionRecord) -> None:
        """The next record of the log."""
        client_id = record.client_id
        self._touched.add(client_id)
        packed = self._views.get(client_id)
        if self._is_stale(packed, record):
            self._stale_last.add(client_id)
        else:
            self._stale_last.discard(client_id)
            self._count(packed, record)
            self._advance(record, packed)
        session = self.local.get(client_id)
        if session is not None and session.epoch >= 0:
            self._compare(session, record, packed)

    def end_batch(self) -> None:
        """A batch of records has been read: what needs mending among them is mended."""
        touched, self._touched = self._touched, set()
        for client_id in touched:
            self._settle(client_id)

    def view(self, client_id: str) -> SessionRecord | None:
        """The record that counts for a client, with the session state that its place in the log gives it."""
        packed = self._views.get(client_id)
        return None if packed is None else self._unpack(client_id, packed)

    def owner(self, client_id: str) -> tuple[str, int, int] | None:
        """Node, incarnation and epoch of the connection of a client that is live."""
        packed = self._views.get(client_id)
        if packed is None or _rel(packed):
            return None
        return *self._owner_names[_owner(packed)], _RANK.unpack_from(packed)[0]

    def sweep(self, client_ids: Iterable[str], is_dead: Callable[[str, int], bool], now_ms: int) -> int:
        """Rule 7: releases what belongs to dead nodes and ends expired sessions among these clients; returns how many.
        Two sweepers at once do no harm.
        """
        swept = 0
        dead = {number for number, owner in enumerate(self._owner_names) if is_dead(*owner)}
        for client_id in client_ids:
            packed = self._views.get(client_id)
            if packed is not None and self._sweep_one(client_id, packed, dead, now_ms):
                swept += 1
        return swept

    def check(self, client_id: str) -> None:
        """Looks at one client again, because a record of it was lost on its way to the log."""
        self._settle(client_id)

    def mend(self) -> None:
        """Rule 7: writes views again whose client's last record is stale; for a sweeper that has just become one."""
        for client_id in list(self._stale_last):
            self._settle(client_id)

    def client_ids(self) -> list[str]:
        """All clients that the table knows."""
        return list(self._views)

    def forget(self, before_ms: int) -> None:
        """Drops tombstones that were appended before that time: none of their elders can come any more."""
        while self._tombs and self._tombs[0][0] < before_ms:
            _, client_id = self._tombs.popleft()
            packed = self._views.get(client_id)
            if packed is not None and _ends_session(packed) and _time_ms(packed) < before_ms:
                del self._views[client_id]
                self._stale_last.discard(client_id)

    # ---- the rules ----

    def _is_stale(self, packed: bytes | None, record: SessionRecord) -> bool:
        """A record of lower rank than the view changes nothing."""
        return packed is not None and _RANK.pack(*record.rank) < packed[: _RANK.size]

    def _advance(self, record: SessionRecord, packed: bytes | None) -> None:
        """The record becomes the view."""
        before = None
        if record.kind == CLAIM:
            before = self._unpack(record.client_id, packed) if packed is not None else None
            carried = record.state
            record.state, present, base = self._follow(before, record)
            if record.state != carried:
                record.packed = None
            self._store(record)
            session = self.local.get(record.client_id)
            if session is not None and session.epoch < 0 and session.connection == record.connection:
                self._read_back(session, record, carried, present, base)
        else:
            self._store(record)
        if self._changes_presence(packed, record):
            before = before or (self._unpack(record.client_id, packed) if packed is not None else None)
            self._port.view_changed(before, record)

    def _follow(
        self, before: SessionRecord | None, claim: SessionRecord
    ) -> tuple[SessionState | None, bool, SessionState | None]:
        return follow(before, claim)

    def _read_back(
        self,
        session: LocalSession,
        claim: SessionRecord,
        carried: SessionState | None,
        present: bool,
        base: SessionState | None,
    ) -> None:
        """Rule 1: only now the epoch is known, and what preceded it."""
        session.epoch = claim.epoch
        state = base or claim.state
        if state is not None:
            session.take(state)
        if claim.state is not None and claim.state.qos2 is None:
            session.qos2_used = True
        session.established = True
        if claim.state != carried and not session.clean_start and session.expiry_seconds:
            self.assert_state(session)
        self._port.established(session, present)

    def _compare(self, session: LocalSession, record: SessionRecord, packed: bytes | None) -> None:
        """A record of a client that is connected here."""
        if record.epoch > session.epoch:
            # Rule 2: somebody came later.
            del self.local[session.client_id]
            self._port.superseded(session)
        elif record.kind != CLAIM and record.epoch == session.epoch and not self._is_stale(packed, record):
            self._became_durable(session, record.seq)

    def _became_durable(self, session: LocalSession, seq: int) -> None:
        session.durable_seq = max(session.durable_seq, seq)
        ready = [token for waits_for, token in session.waiting if waits_for <= seq]
        if ready:
            session.waiting = [entry for entry in session.waiting if entry[0] > seq]
            for token in ready:
                self._port.durable(session, token)

    def _settle(self, client_id: str) -> None:
        """What the view demands once there is nothing more to read, or a connection has ended."""
        packed = self._views.get(client_id)
        session = self.local.get(client_id)
        if session is not None:
            self._heal_own(session, packed)
        if packed is None:
            return
        if session is None and self._is_ghost(packed):
            self._write_view(client_id, packed, RELEASED, TCP_CLOSED)
        # A tombstone is forgotten one day, so whoever still knows it speaks: the sweeper may not.
        if client_id in self._stale_last and (self.sweeping or _ends_session(packed)):
            self._repeat_view(client_id, packed)

    def _heal_own(self, session: LocalSession, packed: bytes | None) -> None:
        """Rule 3: my connection lives, but the view says that it was released: say again that it lives."""
        if session.epoch < 0:
            return
        rank = _RANK.unpack_from(packed) if packed is not None else (-1, 0, 0)
        if session.healed != rank and (packed is None or (rank[0] == session.epoch and rank[2])):
            session.healed = rank
            self.assert_state(session)

    def _is_ghost(self, packed: bytes) -> bool:
        """Rule 4: the view says that this incarnation has a connection, and it has none."""
        return not _rel(packed) and self._owner_names[_owner(packed)] == (self.node, self.incarnation)

    def _repeat_view(self, client_id: str, packed: bytes) -> None:
        """Rule 7: compaction keeps the last record of a key, so that must be the one that counts."""
        self._write_view(client_id, packed, _rel(packed), None)

    def _sweep_one(self, client_id: str, packed: bytes, dead: set[int], now_ms: int) -> bool:
        rel = _rel(packed)
        if not rel and _owner(packed) in dead:
            self._write_view(client_id, packed, RELEASED, NODE_LOST)
            return True
        if rel == RELEASED and not _ends_session(packed) and _expires_ms(packed) <= now_ms:
            self._write_view(client_id, packed, EXPIRED, None)
            return True
        return False

    def _write_view(self, client_id: str, packed: bytes, rel: int, reason: str | None) -> None:
        """Writes the view again, as it is or with another end; a RELEASE by somebody else copies the seq it saw. QoS 2
        identifiers that only the owner knew die with it, and the session with them.
        """
        view = self._unpack(client_id, packed)
        state = view.state
        if rel == EXPIRED or (rel and state is not None and state.qos2 is None):
            state = None
        kind = RELEASE if rel else ASSERT
        self._port.append(replace(view, kind=kind, rel=rel, state=state, reason=reason or view.reason, packed=None))

    # ---- the form in which views are kept ----

    def _append(self, session: LocalSession, kind: int, rel: int, state: SessionState | None, reason: str) -> None:
        self._port.append(
            SessionRecord(
                client_id=session.client_id,
                kind=kind,
                node=self.node,
                incarnation=self.incarnation,
                connection=session.connection,
                epoch=session.epoch,
                seq=session.seq,
                rel=rel,
                clean_start=session.clean_start,
                previous=session.previous,
                expiry_seconds=session.expiry_seconds,
                reason=reason,
                state=state,
                about=session.about,
                will=session.will,
            )
        )

    def _store(self, record: SessionRecord) -> None:
        owner = (record.node, record.incarnation)
        number = self._owners.get(owner)
        if number is None:
            number = self._owners[owner] = len(self._owner_names)
            self._owner_names.append(owner)
        ends = record.rel and record.state is None
        header = _VIEW.pack(
            record.epoch,
            record.seq,
            record.rel,
            number,
            record.offset,
            record.timestamp_ms,
            0 if ends else record.expiry_seconds,
        )
        self._views[record.client_id] = header + pack_session(record)
        if ends:
            self._tombs.append((record.timestamp_ms, record.client_id))

    def _unpack(self, client_id: str, packed: bytes) -> SessionRecord:
        epoch, _, _, _, offset, time_ms, _ = _VIEW.unpack_from(packed)
        view = unpack_session(client_id, packed[_VIEW.size :], offset, time_ms)
        # A CLAIM could not say its own.
        view.epoch = epoch
        return view

    def _changes_presence(self, packed: bytes | None, record: SessionRecord) -> bool:
        """Whether another connection is live now than before. Without a view what preceded is compacted away, and the
        record alone says what happened.
        """
        if packed is None:
            return True
        was = None if _rel(packed) else _RANK.unpack_from(packed)[0]
        return was != (None if record.rel else record.epoch)

    def _count(self, packed: bytes | None, record: SessionRecord) -> None:
        if packed is not None:
            self.live -= not _rel(packed)
            self.offline -= bool(_rel(packed)) and not _ends_session(packed)
        self.live += not record.rel
        self.offline += bool(record.rel) and record.state is not None


def _rel(packed: bytes) -> int:
    return packed[_RANK.size - 1]


def _owner(packed: bytes) -> int:
    return int.from_bytes(packed[13:17])


def _time_ms(packed: bytes) -> int:
    return int.from_bytes(packed[25:33])


def _ends_session(packed: bytes) -> bool:
    """Whether nothing is left of the session: released, with no time to expire in."""
    return bool(_rel(packed)) and packed[33:37] == b"\0\0\0\0"


def _expires_ms(packed: bytes) -> int:
    return _time_ms(packed) + int.from_bytes(packed[33:37]) * 1000
