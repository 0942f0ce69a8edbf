"""What a backend writes into the topics of commands, and what is said of what it should not have written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.cluster.command_records import Headers, MalformedCommand, command_id, parse_deliver, parse_selection
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Message, Selector

PLACE = "t_msg_down-3-17"


def owner(topic: str) -> str | None:
    levels = topic.split("/")
    return f"{levels[2]}&{levels[1]}" if levels[0] == "tlink" else None


def down(key: bytes | None = b"a/b", value: bytes | None = b"x", *headers: tuple[str, bytes]) -> Command:
    return parse_deliver(PLACE, key, value, headers, 1_000, owner)


def test_key_and_value_are_enough() -> None:
    assert down() == Command(PLACE, DELIVER, Selector(), 0, Message("a/b", b"x"))


def test_an_empty_message_is_one() -> None:
    message = down(value=None).message
    assert message is not None
    assert message.payload == b""


def test_headers_say_how_and_for_whom() -> None:
    headers = {"qos": b"1", "clientid": b"c", "username": b"u", "retain": b"true", "expiry_ms": b"500", "id": b"mine"}
    command = down(b"a", b"x", *headers.items(), ("color", b"red"), ("color", b""), ("trace", b"\xff\x00"))
    message = Message("a", b"x", 1, True, [("color", "red"), ("color", "")])
    assert command == Command("mine", DELIVER, Selector("c", "u"), 1_500, message)


def test_the_topic_may_name_the_owner() -> None:
    assert down(b"tlink/pk/dev/x").selector == Selector(username="dev&pk")
    assert down(b"tlink/pk/dev/x", b"", ("clientid", b"c")).selector == Selector("c")
    assert down(b"tlink/pk/dev/x", b"", ("clientid", b"")).selector == Selector(username="dev&pk")


@pytest.mark.parametrize(
    ("key", "headers", "why"),
    [
        (None, [], "no key"),
        (b"", [], "no key"),
        (b"a/+/b", [], "wildcard"),
        (b"a/#", [], "wildcard"),
        (b"\xff", [], "UTF-8"),
        (b"a\0", [], "U+0000"),
        (b"a" * 65_536, [], "65536 bytes"),
        (b"a", [("qos", b"3")], "qos should be 0, 1 or 2, not 3"),
        (b"a", [("qos", b"one")], "qos"),
        (b"a", [("retain", b"maybe")], "retain"),
        (b"a", [("expiry_ms", b"-1")], "expiry_ms"),
        (b"a", [("expiry_ms", b"1" * 14)], "expiry_ms"),
        (b"a", [("clientid", b"\xff")], "clientid"),
        (b"a", [("username", b"a\0")], "username"),
        (b"a", [(f"h{number}", b"") for number in range(limits.HEADERS_PER_RECORD_MAX + 1)], "headers"),
    ],
)
def test_what_is_no_message(key: bytes | None, headers: list[tuple[str, bytes]], why: str) -> None:
    with pytest.raises(MalformedCommand, match=why.replace("+", r"\+")):
        down(key, b"x", *headers)


@pytest.mark.parametrize(
    ("fields", "selector"),
    [
        ({"username": "u"}, Selector(username="u")),
        ({"productKey": "pk", "deviceName": "dev"}, Selector(username="dev&pk")),
        ({"product_key": "pk", "device_name": "dev", "username": ""}, Selector(username="dev&pk")),
        ({"productKey": "pk", "deviceName": "dev", "username": "dev&pk"}, Selector(username="dev&pk")),
        ({"clientid": "c"}, Selector("c")),
        ({"client_id": "c", "clientid": "", "username": None}, Selector("c")),
        ({"clientid": "c", "username": "u", "else": [1]}, Selector("c", "u")),
    ],
)
@pytest.mark.parametrize("kind", [KICK, ACL_CLEAN])
def test_who_is_meant(fields: dict[str, Any], selector: Selector, kind: str) -> None:
    value = json.dumps(fields).encode()
    assert parse_selection(PLACE, kind, value, []) == Command(PLACE, kind, selector)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "names nobody"),
        (b'{"username": "", "clientid": null}', "names nobody"),
        (b'{"username": 7}', "username should be text"),
        (b'{"username": "\\ud800"}', "username"),
        (b'{"clientid": "a\\u0000"}', "clientid: text contains"),
        (b'{"productKey": "pk"}', "go together"),
        (b'{"deviceName": "d", "productKey": ""}', "go together"),
        (b'{"productKey": "pk", "deviceName": "d", "username": "u"}', "not that of"),
    ],
)
def test_who_is_not_meant(value: bytes | None, why: str) -> None:
    with pytest.raises(MalformedCommand, match=why):
        parse_selection(PLACE, KICK, value, [])


def test_a_sender_may_name_his_command() -> None:
    assert command_id(PLACE, []) == command_id(PLACE, [("id", b"")]) == PLACE
    assert command_id(PLACE, [("id", b"mine")]) == "mine"
    assert len(command_id(PLACE, [("id", b"x" * 10_000)])) == limits.COMMAND_ID_BYTES_MAX
    assert command_id(PLACE, [("id", b"\xff")]).encode()


_names = st.sampled_from(["qos", "clientid", "username", "retain", "expiry_ms", "id", "x"])


@given(st.none() | st.binary(), st.none() | st.binary(), st.lists(st.tuples(_names, st.binary())))
def test_any_record_is_a_command_or_says_why(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    for parse in (
        lambda: parse_deliver(PLACE, key, value, headers, 0, owner),
        lambda: parse_selection(PLACE, KICK, value, headers),
    ):
        try:
            assert parse().id
        except MalformedCommand as error:
            assert str(error)
