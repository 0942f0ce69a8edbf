"""The value of a record in an envelope: every byte of the payload comes back out of it."""

import base64
import json

import msgpack
import pytest

from proxy.policy.envelopes import ENVELOPES, json_envelope, msgpack_envelope
from proxy.policy.templates import Scope

SCOPE = Scope("tlink/ä", "c1", None, qos=1, retain=True, ts=1_652_084_485_000)
SAID = {"topic": "tlink/ä", "clientid": "c1", "username": None, "qos": 1, "retain": True, "ts": 1_652_084_485_000}


@pytest.mark.parametrize("payload", [b"", b'{"a": 1}', "größe\n".encode(), b"\0"])
def test_json_with_text(payload: bytes) -> None:
    value = json_envelope(SCOPE, payload)
    assert json.loads(value) == SAID | {"payload": payload.decode(), "payload_encoding": "utf-8"}
    assert list(json.loads(value))[:6] == list(SAID)


def test_json_with_bytes() -> None:
    said = json.loads(json_envelope(SCOPE, b"\xff\x00\xfe"))
    assert said["payload_encoding"] == "base64"
    assert base64.b64decode(said["payload"]) == b"\xff\x00\xfe"


@pytest.mark.parametrize("payload", [b"", b"text", b"\xff\x00\xfe"])
def test_msgpack(payload: bytes) -> None:
    assert msgpack.unpackb(msgpack_envelope(SCOPE, payload)) == SAID | {"payload": payload}


def test_raw_has_no_envelope() -> None:
    assert list(ENVELOPES.items()) == [("raw", None), ("json", json_envelope), ("msgpack", msgpack_envelope)]
