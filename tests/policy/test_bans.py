"""The list of bans: what a record says, whom a ban hits, when it ends, and how many there may be."""

import json

import pytest

from proxy.policy.bans import (
    ADDRESS,
    CLIENT_ID,
    USERNAME,
    Ban,
    BanKind,
    BanRecordError,
    BanTable,
    decode_ban,
    decode_key,
    normal_address,
)

NOW_MS = 1_000_000


def ban(kind: BanKind, value: str, expires_ms: int = 0, nonce: int = 1) -> Ban:
    return Ban(kind, value, nonce, NOW_MS, expires_ms)


def table(*bans: Ban, most: int = 100) -> BanTable:
    made = BanTable(most)
    for each in bans:
        assert made.put(each)
    return made


@pytest.mark.parametrize(
    ("banned", "client"),
    [
        (ban(CLIENT_ID, "c1"), ("c1", None, "")),
        (ban(CLIENT_ID, "a:b"), ("a:b", "u", "10.0.0.1")),
        (ban(USERNAME, "u"), ("c1", "u", "10.0.0.1")),
        (ban(ADDRESS, "10.0.0.1"), ("c1", None, "10.0.0.1")),
        (ban(ADDRESS, "10.0.0.0/8"), ("c1", None, "10.255.0.1")),
        (ban(ADDRESS, "0.0.0.0/0"), ("c1", None, "10.255.0.1")),
        (ban(ADDRESS, "2001:db8::/32"), ("c1", None, "2001:db8:1::1")),
    ],
)
def test_a_ban_hits_whom_it_means(banned: Ban, client: tuple[str, str | None, str]) -> None:
    assert table(banned).find(*client, NOW_MS) == banned
    assert banned.applies_to(*client)
    others = ("c2", "v", "192.0.2.1" if banned.value != "0.0.0.0/0" else "::1")
    assert table(banned).find(*others, NOW_MS) is None
    assert not banned.applies_to(*others)


def test_kinds_are_not_mixed_up() -> None:
    only = table(ban(USERNAME, "c1"), ban(CLIENT_ID, "10.0.0.1"))
    assert only.find("c1", "10.0.0.1", "10.0.0.1", NOW_MS) is None


def test_a_connection_without_an_address_is_in_no_network() -> None:
    everywhere = ban(ADDRESS, "0.0.0.0/0")
    assert table(everywhere).find("c1", None, "", NOW_MS) is None
    assert not everywhere.applies_to("c1", None, "")


def test_a_ban_ends_by_itself() -> None:
    short = ban(CLIENT_ID, "c1", NOW_MS + 5)
    bans = table(short)
    assert bans.find("c1", None, "", NOW_MS + 4) == short
    assert bans.find("c1", None, "", NOW_MS + 5) is None
    assert (bans.in_force(NOW_MS + 4), bans.over(NOW_MS + 4)) == ([short], [])
    assert (bans.in_force(NOW_MS + 5), bans.over(NOW_MS + 5)) == ([], [short])


def test_the_last_ban_of_a_value_counts_and_is_removed_as_one() -> None:
    again = ban(ADDRESS, "10.0.0.0/8", nonce=2)
    bans = table(ban(ADDRESS, "10.0.0.0/8"), again)
    assert len(bans) == 1
    assert bans.find("c", None, "10.1.1.1", NOW_MS) == again
    bans.remove(again.key)
    bans.remove(again.key)
    assert bans.find("c", None, "10.1.1.1", NOW_MS) is None
    assert len(bans) == 0


def test_networks_of_a_size_are_looked_for_while_there_is_one() -> None:
    left = ban(ADDRESS, "10.0.0.0/8")
    bans = table(ban(ADDRESS, "11.0.0.0/8"), left)
    bans.remove(ban(ADDRESS, "11.0.0.0/8").key)
    assert bans.find("c", None, "10.1.1.1", NOW_MS) == left
    assert bans.find("c", None, "11.1.1.1", NOW_MS) is None


def test_there_is_a_most() -> None:
    bans = table(ban(CLIENT_ID, "a"), ban(CLIENT_ID, "b"), most=2)
    assert bans.full
    assert not bans.put(ban(CLIENT_ID, "c"))
    assert bans.put(ban(CLIENT_ID, "a", nonce=2)), "what is there may be changed"
    assert bans.find("c", None, "", NOW_MS) is None


def test_in_force_is_sorted_by_key() -> None:
    bans = table(ban(USERNAME, "a"), ban(CLIENT_ID, "b"), ban(CLIENT_ID, "a"), ban(ADDRESS, "10.0.0.1"))
    assert [each.key for each in bans.in_force(NOW_MS)] == [
        b"address:10.0.0.1", b"clientid:a", b"clientid:b", b"username:a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:DB8::0/32", "2001:db8::/32"),
    ],
)
def test_an_address_is_always_written_alike(written: str, meant: str) -> None:
    assert normal_address(written) == meant


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/33", "host", "10.0.0.1 "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IP address, or a network"):
        normal_address(text)


def test_a_record_says_what_the_ban_is() -> None:
    for each in (
        Ban(CLIENT_ID, "a:b", 7, 1, 2, "why", "ops"),
        Ban(USERNAME, "ü", 2**62, 0),
        Ban(ADDRESS, "2001:db8::/32", 1, 1),
    ):
        assert decode_ban(each.key, each.encode()) == each


GOOD = {"version": 1, "nonce": 1, "since_ms": 1, "expires_ms": 0, "reason": "", "by": ""}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, GOOD),
        (b"", GOOD),
        (b"clientid", GOOD),
        (b"clientid:", GOOD),
        (b"colour:red", GOOD),
        (b"address:red", GOOD),
        (b"clientid:\xff", GOOD),
        (b"clientid:a", []),
        (b"clientid:a", {}),
        (b"clientid:a", GOOD | {"version": 2}),
        (b"clientid:a", GOOD | {"nonce": "1"}),
        (b"clientid:a", GOOD | {"since_ms": -1}),
        (b"clientid:a", GOOD | {"expires_ms": True}),
        (b"clientid:a", GOOD | {"reason": None}),
    ],
)
def test_what_is_no_ban_is_refused(key: bytes | None, value: object) -> None:
    with pytest.raises(BanRecordError):
        decode_ban(key, json.dumps(value).encode())


def test_a_value_that_is_not_json_is_refused() -> None:
    with pytest.raises(BanRecordError):
        decode_ban(b"clientid:a", b"\xff{")


def test_keys_are_written_alike_too() -> None:
    assert decode_key(b"address:10.0.0.9/8") == (ADDRESS, "10.0.0.0/8")
