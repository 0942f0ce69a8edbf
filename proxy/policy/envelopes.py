"""The value of a record: the payload as it is, or in an envelope that says where it came from."""

import base64
import json
from collections.abc import Callable
from typing import Final

import msgpack

from proxy.policy.templates import Scope

Envelope = Callable[[Scope, bytes], bytes]


def _fields(scope: Scope) -> dict[str, object]:
    """What an envelope says beside the payload, in this order. `ts` is when it was received, in milliseconds."""
    return {
        "topic": scope.topic,
        "clientid": scope.client_id,
        "username": scope.username,
        "qos": scope.qos,
        "retain": scope.retain,
        "ts": scope.ts,
    }


def json_envelope(scope: Scope, payload: bytes) -> bytes:
    """JSON has no bytes: a payload that is UTF-8 is a text, any other base64, and `payload_encoding` says which."""
    try:
        said = {"payload": payload.decode(), "payload_encoding": "utf-8"}
    except UnicodeDecodeError:
        said = {"payload": base64.b64encode(payload).decode(), "payload_encoding": "base64"}
    return json.dumps(_fields(scope) | said, ensure_ascii=False, separators=(",", ":")).encode()


def msgpack_envelope(scope: Scope, payload: bytes) -> bytes:
    """MessagePack has bytes: the payload is of its type bin."""
    packed: bytes = msgpack.packb(_fields(scope) | {"payload": payload})
    return packed


#: By the word in the settings; `raw` is the payload byte for byte and needs no envelope.
ENVELOPES: Final[dict[str, Envelope | None]] = {"raw": None, "json": json_envelope, "msgpack": msgpack_envelope}
