"""The session log at work: what connections of this replica do goes into Kafka, what all replicas did comes back.

`Sessions` has one table for each partition of the log. The rules are the table's (`cluster/table.py`); here is what
they need of the world: records are written through the gateway, read back from the log, and a CLAIM that is not read
back in time closes its connection.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from proxy import limits
from proxy.cluster.table import LocalSession, SessionTable
from proxy.cluster.users import ConnectedUsers
from proxy.errors import GatewayError
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from proxy.kafka.records import RecordError, SessionRecord, decode_session

log = logging.getLogger(__name__)


class SessionClient(Protocol):
    """A connection, as the handle of its `LocalSession`."""

    def on_established(self, session_present: bool) -> None:
        """Its CLAIM has been read back: CONNACK may go."""

    def on_superseded(self) -> None:
        """Somebody connected later, elsewhere."""

    def on_durable(self, token: Any) -> None:
        """What waited for a record of its session may be told."""

    def on_log_failed(self, detail: str) -> None:
        """Its session cannot be written down, so it must not go on."""


class ViewListener(Protocol):
    """Who is told of every change of who is connected; `flows/presence.py`."""

    def view_changed(self, partition: int, before: SessionRecord | None, record: SessionRecord) -> None: ...


class Sessions:
    """All sessions, and this replica's part in them. As a `Recipient` it hears what became of the records it wrote."""

    def __init__(self, gateway: KafkaGateway, topic: str, listener: ViewListener, now: Callable[[], float]) -> None:
        self.topic = topic
        self.tables: list[SessionTable] = []
        self.users = ConnectedUsers()
        #: Records of the log that could not be read, because they are not ours or of a later version.
        self.unreadable = 0
        self.records_read = 0
        #: Connections whose CLAIM was not read back in time.
        self.claims_late = 0
        self._gateway = gateway
        self._listener = listener
        self._now = now
        self._claims: deque[tuple[float, LocalSession]] = deque()
        self._in_flight: dict[int, SessionRecord] = {}
        #: Clients without a connection here whose last record was lost; what to say of them is asked again.
        self._lost: set[str] = set()
        self._token = 0
        #: Partitions with a record in the batch that is being read.
        self._read: set[int] = set()

    def begin(self, node: str, incarnation: int, partitions: int) -> None:
        """A new incarnation of this replica knows nothing and has no connection."""
        self.tables = [
            SessionTable(node, incarnation, _PartitionPort(self, number, self._listener))
            for number in range(partitions)
        ]
        self.users.clear()
        self._claims.clear()
        self._lost.clear()

    # ---- what connections do ----

    def connect(self, session: LocalSession, handed_over_qos2: Iterable[int] = ()) -> None:
        """Claims the place of a client. `on_established` of its handle is called when it has it."""
        self._claims.append((self._now() + limits.CLAIM_SECONDS_MAX, session))
        self._table(session.client_id).connect(session, handed_over_qos2)

    def local(self, client_id: str) -> LocalSession | None:
        """This replica's connection of a client, or what is left of it while its last messages are under way."""
        return self._table(client_id).local.get(client_id)

    def view(self, client_id: str) -> SessionRecord | None:
        """What the log says of a client."""
        return self._table(client_id).view(client_id)

    def owner(self, client_id: str) -> tuple[str, int, int] | None:
        """The connection of a client that is live, by node, incarnation and epoch."""
        return self._table(client_id).owner(client_id) if self.tables else None

    def assert_state(self, session: LocalSession) -> int:
        """Writes a session state that has changed; see `SessionTable.assert_state`."""
        return self._table(session.client_id).assert_state(session)

    def when_durable(self, session: LocalSession, seq: int, token: Any) -> None:
        """`on_durable` of the handle is called with `token` once that record is safe."""
        self._table(session.client_id).when_durable(session, seq, token)

    def end(self, session: LocalSession, reason: str, qos2: Iterable[int], *, with_will: bool) -> None:
        """The connection is over."""
        self._table(session.client_id).end(session, reason, qos2, with_will=with_will)

    def tick(self) -> None:
        """Ends connections whose CLAIM is overdue. What became of it is unknown, so it counts as never made."""
        now = self._now()
        lost, self._lost = self._lost, set()
        for client_id in lost:
            self._table(client_id).check(client_id)
        while self._claims and (self._claims[0][0] <= now or self._claims[0][1].epoch >= 0):
            _, session = self._claims.popleft()
            if session.epoch < 0 and self._is_local(session):
                self.claims_late += 1
                session.handle.on_log_failed("the session log does not answer")

    @property
    def known(self) -> int:
        """Clients of the whole cluster that are connected or have a session."""
        return sum(table.live + table.offline for table in self.tables)

    @property
    def tombstones(self) -> int:
        """Ends of sessions that are remembered for a while, so that an older record cannot undo them."""
        return sum(table.tombstones for table in self.tables)

    @property
    def claims_waiting(self) -> int:
        """Connections that wait for their CLAIM, and some that have stopped waiting."""
        return len(self._claims)

    # ---- what is read ----

    def receive(self, partition: int, key: Any, value: Any, headers: Any, offset: int, timestamp_ms: int) -> None:
        """The next record of the log."""
        self.records_read += 1
        try:
            record = decode_session(key, value, headers, offset, timestamp_ms)
        except RecordError as error:
            self.unreadable += 1
            log.warning(
                "session record cannot be read",
                extra={"partition": partition, "offset": offset, "error": str(error)},
            )
            return
        self.tables[partition].read(record)
        self._read.add(partition)

    def end_batch(self) -> None:
        """All records of one answer have been received."""
        read, self._read = self._read, set()
        for partition in read:
            self.tables[partition].end_batch()

    # ---- what is written ----

    def write(self, record: SessionRecord) -> None:
        """One record into the log, in the order of the calls."""
        self._token += 1
        self._in_flight[self._token] = record
        value, headers = record.encode()
        try:
            destination = self._gateway.destination(self.topic, record.client_id.encode(), md5_partition)
        except GatewayError as error:
            self.settle([self._token], error, 0.0)
        else:
            self._gateway.enqueue(destination, value, headers, self, self._token)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient`. Success says nothing: what counts is what is read back."""
        for token in tokens:
            record = self._in_flight.pop(token)
            if error is not None:
                self._not_written(record, error)

    def _not_written(self, record: SessionRecord, error: GatewayError) -> None:
        table = self._table(record.client_id)
        log.warning("session record lost", extra={"clientid": record.client_id, "error": str(error)})
        session = table.local.get(record.client_id)
        if session is None:
            # If it was the end of a connection, the view still has that, and rule 4 says it again; not at once, as what
            # cannot be written now could not be either.
            self._lost.add(record.client_id)
        elif session.connection == record.connection:
            session.handle.on_log_failed(str(error))

    def _table(self, client_id: str) -> SessionTable:
        return self.tables[md5_partition(client_id.encode(), len(self.tables))]

    def _is_local(self, session: LocalSession) -> bool:
        return self._table(session.client_id).local.get(session.client_id) is session


class _PartitionPort:
    """What one table asks of its surroundings."""

    def __init__(self, sessions: Sessions, partition: int, listener: ViewListener) -> None:
        self._sessions = sessions
        self._partition = partition
        self._listener = listener

    def append(self, record: SessionRecord) -> None:
        self._sessions.write(record)

    def established(self, session: LocalSession, session_present: bool) -> None:
        session.handle.on_established(session_present)

    def superseded(self, session: LocalSession) -> None:
        session.handle.on_superseded()

    def durable(self, session: LocalSession, token: Any) -> None:
        session.handle.on_durable(token)

    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None:
        self._sessions.users.view_changed(before, record)
        self._listener.view_changed(self._partition, before, record)
