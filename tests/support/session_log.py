"""A session log without Kafka: one partition, whose records every replica in a test reads in the order of the log.

`Sessions` writes into it as into a gateway. Records are appended and read back at once, so that a CONNECT is answered
before it returns; or when a test says so, or not at all.
"""

from typing import Any

from proxy.errors import GatewayError
from proxy.flows.sessions import Sessions
from proxy.kafka.gateway import Headers, Partitioner, Recipient
from proxy.kafka.records import SessionRecord, decode_session
from tests.support.kafka_broker import Record

#: What Kafka's clock says at the beginning, ms.
NOON_MS = 1_652_084_485_000


class SessionLog:
    """What `Sessions` asks of a gateway. Its attributes are there to be set by tests."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        #: What is in it, by offset.
        self.log: list[Record] = []
        self.readers: list[Sessions] = []
        #: Kafka's clock.
        self.now_ms = now_ms
        #: What becomes of every record from now on; None: it is appended.
        self.error: GatewayError | None = None
        self._held = False
        self._position = 0
        self._reading = False

    # ---- what tests call ----

    def hold(self) -> None:
        """From now on nobody reads until `release`."""
        self._held = True

    def release(self, records: int | None = None) -> None:
        """Everybody reads so many records. Without a number all of them, and each at once from now on."""
        if records is None:
            self._held = False
        self._read(len(self.log) if records is None else self._position + records)

    def next_record(self) -> SessionRecord:
        """What will be read next."""
        return _decoded(self.log[self._position])

    def append_raw(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """A record as it is on the wire."""
        self.log.append(Record("t_sessions", 0, len(self.log), key, value, list(headers), self.now_ms))
        if not self._held:
            self._read(len(self.log))

    @property
    def unread(self) -> int:
        return len(self.log) - self._position

    def records(self) -> list[SessionRecord]:
        """All that was written."""
        return [_decoded(record) for record in self.log]

    def append(self, record: SessionRecord) -> None:
        """What some other replica writes."""
        value, headers = record.encode()
        self.append_raw(record.client_id.encode(), value, headers)

    # ---- what `Sessions` calls ----

    def destination(self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = "") -> Any:
        return key

    def enqueue(
        self, destination: Any, value: bytes | None, headers: Headers, recipient: Recipient, token: int
    ) -> None:
        if self.error is not None:
            recipient.settle([token], self.error, 0.0)
            return
        recipient.settle([token], None, 0.0)
        self.append_raw(destination, value, headers)

    # ---- inside ----

    def _read(self, end: int) -> None:
        """Record by record, each a batch of its own. What is written meanwhile waits for its turn."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._position < (end if self._held else len(self.log)):
                record = self.log[self._position]
                self._position += 1
                for sessions in self.readers:
                    sessions.receive(0, record.key, record.value, record.headers, record.offset, record.timestamp)
                    sessions.end_batch()
        finally:
            self._reading = False


def _decoded(record: Record) -> SessionRecord:
    return decode_session(record.key, record.value, record.headers, record.offset, record.timestamp)
