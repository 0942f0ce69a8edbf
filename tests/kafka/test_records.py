"""Records of the session log and of the registry: what is written is read, and nothing else is taken for one."""

from contextlib import suppress
from dataclasses import astuple, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.kafka.records import (
    CLAIM,
    META_HEADER,
    RELEASE,
    About,
    NodeRecord,
    RecordError,
    SessionRecord,
    SessionState,
    StoredWill,
    decode_node,
    decode_session,
)
from tests.support.packets import examples

numbers = st.integers(0, 2**63 - 1)
seconds = st.integers(0, 31_536_000)
packet_ids = st.lists(st.integers(1, 65_535), max_size=5)
texts = st.text(max_size=8)
states = st.builds(
    SessionState,
    numbers,
    st.booleans(),
    st.lists(st.tuples(texts, st.integers(0, 255)).map(list), max_size=3),
    st.none() | packet_ids,
)
abouts = st.builds(
    About, st.none() | texts, texts, st.integers(0, 65_535), st.integers(3, 5), st.none() | texts, numbers
)
properties = st.dictionaries(
    st.integers(1, 42),
    texts | st.binary(max_size=5) | seconds | st.lists(st.tuples(texts, texts).map(list)),
    max_size=3,
)
wills = st.builds(StoredWill, texts.map(str.encode), st.binary(max_size=9), st.booleans(), seconds, properties)
records = st.builds(
    SessionRecord, client_id=texts, kind=st.integers(0, 2), node=texts, incarnation=numbers, connection=numbers,
    epoch=numbers, seq=st.integers(0, 2**32 - 1), rel=st.integers(0, 2), clean_start=st.booleans(),
    previous=st.none() | numbers, expiry_seconds=seconds, reason=texts, state=st.none() | states, about=abouts,
    will=st.none() | wills, offset=numbers, timestamp_ms=numbers,
)  # fmt: skip
nodes = st.builds(
    NodeRecord, node=texts, joins=st.booleans(), nonce=numbers, incarnation=numbers, state=texts, admin_address=texts,
    connections=numbers,
)  # fmt: skip

RECORD = SessionRecord(
    "c", CLAIM, "a", 1, 2, 3, 0, 0, False, None, 60, "", None, About(None, "10.0.0.1", 60, 5, None, 0), None
)


def read(record: SessionRecord) -> SessionRecord:
    value, headers = record.encode()
    return decode_session(record.client_id.encode(), value, headers, record.offset, record.timestamp_ms)


@given(records)
@examples(200)
def test_what_is_written_is_read(record: SessionRecord) -> None:
    expected = replace(record, epoch=record.offset) if record.kind == CLAIM else record
    assert read(record) == expected


@given(nodes, numbers)
def test_what_a_node_writes_is_read(node: NodeRecord, offset: int) -> None:
    expected = replace(node, incarnation=offset) if node.joins else node
    assert decode_node(node.node.encode(), node.encode(), offset) == expected


def test_the_end_of_all_is_a_tombstone() -> None:
    """It says in a header what others say in their value; compaction removes it in the end."""
    ended = replace(RECORD, kind=RELEASE, rel=1, offset=9)
    value, headers = ended.encode()
    assert value is None
    assert [name for name, _ in headers] == [META_HEADER]
    assert read(ended) == ended
    kept = replace(ended, state=SessionState(1, True, [], []))
    assert kept.encode()[0] is not None
    assert kept.encode()[1] == []


def test_rank_and_expiry() -> None:
    record = replace(RECORD, epoch=7, seq=4, rel=1, timestamp_ms=5_000)
    assert record.rank == (7, 4, 1)
    assert record.session_expires_ms == 65_000


def packed_with(place: int, content: Any) -> bytes:
    """A record that is right but for one field."""
    value, _ = RECORD.encode()
    assert value is not None
    fields = msgpack.unpackb(value)
    fields[place] = content
    packed: bytes = msgpack.packb(fields)
    return packed


def test_a_version_to_come_is_told_by_its_number() -> None:
    with pytest.raises(RecordError, match="version 2, this proxy knows 1"):
        decode_session(b"c", packed_with(0, 2), [], 0, 0)
    value = msgpack.packb([2, True, 1, 1, "serving", "", 0])
    with pytest.raises(RecordError, match="version 2, this proxy knows 1"):
        decode_node(b"a", value, 0)


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (1, 9), (1, "x"), (2, 7), (2, b"a"), (3, None), (4, -1), (6, -1), (6, 2**32), (7, 3), (9, "x"),
        (10, -1), (10, 2**32), (11, 5), (12, [1, True]), (12, ["x", True, [], []]), (12, [1, True, {}, []]),
        (12, [1, True, [], 5]), (13, None), (13, [1, "", 0, 5, None, 0]), (13, [b"u", "", 0, 5, None, 0]),
        (13, [None, b"", 0, 5, None, 0]), (14, [b"", b"", True, 0]),
        (14, ["t", b"", True, 0, {}]),
        (14, [b"\xff", b"", True, 0, {}]), (14, [b"t", "", True, 0, {}]), (14, [b"t", b"", True, "1", {}]),
        (14, [b"t", b"", True, 0, []]),
    ],
)  # fmt: skip
def test_a_field_that_is_none_of_ours(place: int, content: Any) -> None:
    with pytest.raises(RecordError):
        decode_session(b"c", packed_with(place, content), [], 0, 0)


def test_only_a_claim_can_be_without_an_epoch() -> None:
    """It does not know its own yet: that is its offset."""
    assert read(replace(RECORD, epoch=-1, offset=8)).epoch == 8
    with pytest.raises(RecordError):
        read(replace(RECORD, kind=RELEASE, epoch=-1, offset=8))


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (None, packed_with(0, 1), []),
        (b"\xff", packed_with(0, 1), []),
        (b"c", None, []),
        (b"c", None, [("other", b"x")]),
        (b"c", None, [(META_HEADER, None)]),
        (b"c", b"", []),
    ],
    ids=["no key", "a key that is no text", "nothing", "other headers", "an empty header", "an empty value"],
)
def test_what_is_no_record(key: bytes | None, value: bytes | None, headers: list[Any]) -> None:
    with pytest.raises(RecordError):
        decode_session(key, value, headers, 0, 0)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda children: st.lists(children, max_size=16) | st.dictionaries(st.text() | st.integers(0, 9), children),
    max_leaves=30,
)


@given(st.binary(max_size=60) | anything.map(msgpack.packb))
@examples(300)
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes) -> None:
    for decode in (
        lambda: decode_session(b"c", garbage, [], 0, 0),
        lambda: decode_session(b"c", None, [(META_HEADER, garbage)], 0, 0),
    ):
        with pytest.raises(RecordError):
            decode()
    # So short a record may come about by chance; then it is one like any other.
    with suppress(RecordError):
        node = decode_node(b"a", garbage, 0)
        assert all(map(isinstance, astuple(node), (str, bool, int, int, str, str, int)))
        assert decode_node(b"a", node.encode(), 0) == node


@pytest.mark.parametrize(
    "fields",
    [
        [1, True, 1, None, "", "", 0], [1, False, 1, 1, 5, "", 0], [1, True], [1, 0, 1, 1, "", "", 0],
        [1, False, None, 1, "", "", 0], [1, False, 1, -1, "", "", 0], [1, False, 1, 1, "", 0, 0],
        [1, False, 1, 1, "", "", "many"], [1, False, 1, 1, "", "", -1], [1, False, 1, 1, "", "", 0.5],
    ],
)  # fmt: skip
def test_a_heartbeat_that_is_none_of_ours(fields: list[Any]) -> None:
    with pytest.raises(RecordError):
        decode_node(b"a", msgpack.packb(fields), 0)
