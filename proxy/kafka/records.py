"""What Kafka stores for us: the records of the session log and of the node registry, and their form in bytes. Pure.

Each value begins with a version. A reader that meets a version it does not know, or bytes that are none of ours, raises
`RecordError` and goes on with the next record.
"""

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from proxy.errors import ProxyError

#: A CLAIM is a new connection, an ASSERT the same one again, a RELEASE its end. The release of a session that outlives
#: its connection is called OFFLINE, any other one is a tombstone: a record without a value.
CLAIM: Final = 0
ASSERT: Final = 1
RELEASE: Final = 2

#: What a RELEASE means for the session, and the last part of a rank.
LIVE: Final = 0
RELEASED: Final = 1
EXPIRED: Final = 2

#: The header in which a tombstone carries what others carry in their value.
META_HEADER: Final = "mqk"
_VERSION: Final = 1

#: What the numbers of a session record fit into.
_NUMBERS: Final = struct.Struct(">BQQQIBIHB")
#: As tuples: a union takes ten times as long to ask for, and a million records are asked at start.
_INT_OR_NONE: Final = (int, type(None))
_STR_OR_NONE: Final = (str, type(None))


class RecordError(ProxyError):
    """A record of an internal topic that is not ours, or of a version to come."""


@dataclass(slots=True)
class SessionState:
    """What outlives a connection. `qos2` are the packet identifiers that wait for PUBREL; None: only their owner knows
    them. `subscriptions` is a list of [topic filter, options].
    """

    session_id: int
    confirmed: bool
    subscriptions: list[Any]
    qos2: list[int] | None


@dataclass(slots=True)
class About:
    """What presence says of a connection; `connected_at_ms` is wall clock."""

    username: str | None
    address: str
    keep_alive: int
    protocol_version: int
    peer_cert_cn: str | None
    connected_at_ms: int


@dataclass(slots=True)
class StoredWill:
    """A will as its CONNECT had it; `properties` by their identifiers."""

    topic: bytes
    payload: bytes
    retain: bool
    delay_seconds: int
    properties: dict[int, Any]


@dataclass(slots=True)
class SessionRecord:
    """One record of the session log. The epoch of a CLAIM is its own offset; `offset` and `timestamp_ms` (when Kafka
    appended it) are known once it has been read.
    """

    client_id: str
    kind: int
    node: str
    incarnation: int
    connection: int
    epoch: int
    seq: int
    rel: int
    clean_start: bool
    previous: int | None
    expiry_seconds: int
    reason: str
    state: SessionState | None
    about: About
    will: StoredWill | None
    offset: int = -1
    timestamp_ms: int = 0
    #: The bytes that this was read from, as long as they say the same.
    packed: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The record of highest rank is what counts for a client identifier, not the last one."""
        return self.epoch, self.seq, self.rel

    @property
    def session_expires_ms(self) -> int:
        """When the session of a released connection ends, by Kafka's clock."""
        return self.timestamp_ms + self.expiry_seconds * 1000

    def encode(self) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """Value and headers. What nobody can come back to is a tombstone, which compaction removes in the end."""
        packed: bytes = msgpack.packb(_packed(self))
        if self.kind == RELEASE and self.state is None:
            return None, [(META_HEADER, packed)]
        return packed, []


def decode_session(
    key: bytes | None, value: bytes | None, headers: Any, offset: int, timestamp_ms: int
) -> SessionRecord:
    """A record of the session log as it was read. Raises RecordError."""
    packed = value if value is not None else next((content for name, content in headers if name == META_HEADER), None)
    if key is None or packed is None:
        raise RecordError("no key, or nothing in it")
    try:
        record = unpack_session(key.decode(), packed, offset, timestamp_ms)
    except UnicodeDecodeError as error:
        raise RecordError(f"not a client identifier: {error}") from None
    if record.kind == CLAIM:
        record.epoch = offset
    _check_session(record)
    return record


def _check_session(record: SessionRecord) -> None:
    """Raises RecordError when a field cannot be used as what it is: anybody may have written here whom Kafka lets."""
    about, state, will = record.about, record.state, record.will
    try:
        _NUMBERS.pack(
            record.kind, record.incarnation, record.connection, record.epoch, record.seq, record.rel,
            record.expiry_seconds, about.keep_alive, about.protocol_version,
        )  # fmt: skip
        fits = (
            record.kind <= RELEASE
            and record.rel <= EXPIRED
            and isinstance(record.previous, _INT_OR_NONE)
            and isinstance(record.node + record.reason + about.address, str)
            and isinstance(about.username, _STR_OR_NONE)
            and isinstance(about.peer_cert_cn, _STR_OR_NONE)
            and (state is None or _is_state(state))
            and (will is None or _is_will(will))
        )
    except (struct.error, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"not a session record: {error!r}") from None
    if not fits:
        raise RecordError("not a session record: a field is of another type")


def _is_state(state: SessionState) -> bool:
    return (
        isinstance(state.session_id, int)
        and state.session_id >= 0
        and isinstance(state.subscriptions, list)
        and (state.qos2 is None or (isinstance(state.qos2, list) and all(isinstance(each, int) for each in state.qos2)))
    )


def _is_will(will: StoredWill) -> bool:
    return (
        isinstance(will.topic.decode(), str)
        and isinstance(will.payload, bytes)
        and isinstance(will.delay_seconds, int)
        and isinstance(will.properties, dict)
    )


def pack_session(record: SessionRecord) -> bytes:
    """Everything but client identifier, offset and time."""
    packed: bytes = record.packed or msgpack.packb(_packed(record))
    return packed


def unpack_session(client_id: str, packed: bytes, offset: int, timestamp_ms: int) -> SessionRecord:
    """Raises RecordError."""
    try:
        (
            version, kind, node, incarnation, connection, epoch, seq, rel, clean_start, previous, expiry_seconds,
            reason, state, about, will,
        ) = msgpack.unpackb(packed, strict_map_key=False)  # fmt: skip
        if version != _VERSION:
            raise RecordError(f"version {version}, this proxy knows {_VERSION}")
        return SessionRecord(
            client_id,
            kind,
            node,
            incarnation,
            connection,
            epoch,
            seq,
            rel,
            clean_start,
            previous,
            expiry_seconds,
            reason,
            None if state is None else SessionState(*state),
            About(*about),
            None if will is None else StoredWill(*will),
            offset,
            timestamp_ms,
            packed,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordError(f"not a session record: {error!r}") from None


def _packed(record: SessionRecord) -> list[Any]:
    state, about, will = record.state, record.about, record.will
    return [
        _VERSION,
        record.kind,
        record.node,
        record.incarnation,
        record.connection,
        record.epoch,
        record.seq,
        record.rel,
        record.clean_start,
        record.previous,
        record.expiry_seconds,
        record.reason,
        None if state is None else [state.session_id, state.confirmed, state.subscriptions, state.qos2],
        [
            about.username,
            about.address,
            about.keep_alive,
            about.protocol_version,
            about.peer_cert_cn,
            about.connected_at_ms,
        ],
        None if will is None else [will.topic, will.payload, will.retain, will.delay_seconds, will.properties],
    ]


@dataclass(slots=True)
class NodeRecord:
    """One record of the node registry. A JOIN opens an incarnation, whose number is the JOIN's offset; heartbeats carry
    that number. `nonce` tells two processes of one name apart before either knows its number.
    """

    node: str
    joins: bool
    nonce: int
    incarnation: int
    state: str
    admin_address: str
    connections: int

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(
            [
                _VERSION,
                self.joins,
                self.nonce,
                self.incarnation,
                self.state,
                self.admin_address,
                self.connections,
            ]
        )
        return packed


def _is_node(record: NodeRecord) -> bool:
    numbers = record.nonce, record.incarnation, record.connections
    return (
        isinstance(record.joins, bool)
        and all(isinstance(each, int) and each >= 0 for each in numbers)
        and isinstance(record.state, str)
        and isinstance(record.admin_address, str)
    )


def decode_node(key: bytes | None, value: bytes, offset: int) -> NodeRecord:
    """Raises RecordError."""
    try:
        version, *fields = msgpack.unpackb(value)
        if key is None or version != _VERSION:
            raise RecordError(f"version {version}, this proxy knows {_VERSION}")
        record = NodeRecord(key.decode(), *fields)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordError(f"not a node record: {error!r}") from None
    if not _is_node(record):
        raise RecordError("not a node record: a field is of another type")
    if record.joins:
        record.incarnation = offset
    return record
