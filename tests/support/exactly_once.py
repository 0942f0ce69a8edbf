"""Devices at QoS 2 that say PUBLISH and PUBREL more than once, at random, by the load tool; then Kafka is read back."""

from pathlib import Path
from typing import Any

from tests.support.kafka_broker import KafkaBroker
from tests.support.load import Load
from tests.support.proxy import ProxyProcess

#: Messages in flight of each device, and identifiers that it uses in turn: each was another message's a moment ago.
WINDOW, PACKET_IDS = 20, 40
REPEAT = 0.2
IDENTIFIER_NOT_FOUND = "0x92"


def publish_exactly_once(
    proxy: ProxyProcess, kafka: KafkaBroker, directory: Path, version: int, clients: int, messages: int, seconds: float
) -> dict[str, Any]:
    """`messages` in all; returns the load tool's figures, which say of each that Kafka has it once, in its order."""
    flags = {
        "qos": 2,
        "version": version,
        "connections": clients,
        "stop-after": messages,
        "seconds": seconds,
        "inflight": WINDOW,
        "packet-ids": PACKET_IDS,
        "repeat": REPEAT,
        "client-prefix": f"once-{version}-",
        "exactly-once": True,
    }
    with Load(proxy, kafka.bootstrap, directory, flags) as load:
        figures = load.finish(seconds)
    check_exactly_once(figures, version, messages)
    return figures


def check_exactly_once(figures: dict[str, Any], version: int, messages: int) -> None:
    verified, repeated = figures["verify"], figures["repeated"]
    assert figures["acked"] == verified["acknowledged"] == verified["records"] == messages
    assert [verified[name] for name in ("lost", "corrupted", "reordered", "duplicated", "unacknowledged")] == [0] * 5
    assert repeated["publish"] and repeated["pubrec"] and repeated["pubrel"], "nothing was repeated, or not answered"
    # Only 5.0 says that the second PUBREL of a message finds nothing left to release.
    assert figures["ack_reasons"] == ({IDENTIFIER_NOT_FOUND: repeated["pubrel"]} if version == 5 else {})
    assert figures["connections"]["lost"] == 0
