"""A device that sends every message under a new topic, beside others that do their work: what it costs them, and us.

The length is the caller's: some seconds in the test suite, a minute where it is proven.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.procfs import read_usage
from tests.support.device import Device
from tests.support.load import Load
from tests.support.proxy import ProxyProcess

#: The topic name goes into key and header or, under `made/`, into the name of a Kafka topic that does not exist.
SETTINGS = {
    # What is meant for a topic that does not exist waits so long, and is a dead letter then.
    "kafka.delivery_timeout_seconds": 4,
    "routing.rules": [
        {"name": "made", "filter": "made/+", "topic": "${prefix}made-${topic.2}"},
        {"name": "new", "filter": "new/{what}", "topic": "${prefix}new", "key": "${clientid}/${what}",
         "headers": {"what": "${what}"}},
        {"name": "others", "filter": "#", "topic": "${prefix}others"},
    ],
}  # fmt: skip
#: The others: a quiet fleet, so that what is measured is not the queue for a core.
LOAD = {"connections": 20, "inflight": 1, "rate": 200, "size": 100}
#: The inventor: as many at a time as it may have unacknowledged, of 3.1.1 so that a refusal is an acknowledgement too.
WINDOW = 100
#: All that the proxy may grow by: what its other caches fill with, dead letters on their way, the allocator.
GROWTH_BYTES_MAX = 24 * 1024 * 1024
#: Until allocator and caches have their usual size.
WARM_UP_SECONDS = 2.0


@dataclass
class Seen:
    """How many topics were invented, the growth of memory meanwhile, and the figures of the others."""

    topics: int
    rss_growth_bytes: int
    figures: dict[str, Any]


def invention(proxy: ProxyProcess, bootstrap: str, directory: Path, seconds: float, kind: str) -> Seen:
    """`kind` is `made`, `new`, or nothing for the same load without anybody who invents."""
    flags = {**LOAD, "seconds": seconds + WARM_UP_SECONDS}
    with Load(proxy, bootstrap, directory, flags) as load:
        load.wait_for_acked(int(LOAD["rate"] * WARM_UP_SECONDS / 2))
        before = _rss_bytes(proxy)
        with _inventor(proxy, kind) as invented:
            ended = time.monotonic() + seconds
            most = before
            while time.monotonic() < ended:
                most = max(most, _rss_bytes(proxy))
                time.sleep(0.2)
        return Seen(len(invented), most - before, load.finish(seconds))


@contextmanager
def _inventor(proxy: ProxyProcess, kind: str) -> Iterator[list[str]]:
    """A thread that invents topics until the block ends; every message of it has to be acknowledged."""
    invented: list[str] = []
    if not kind:
        yield invented
        return
    stop = threading.Event()
    failed: list[BaseException] = []

    def invent() -> None:
        try:
            with Device(proxy.port) as device:
                device.connect("inventor")
                while not stop.is_set():
                    for packet_id in range(1, WINDOW + 1):
                        invented.append(f"{kind}/{len(invented)}")
                        device.publish(invented[-1], b"x", packet_id=packet_id)
                    for packet_id in range(1, WINDOW + 1):
                        device.puback(packet_id)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=invent)
    thread.start()
    try:
        yield invented
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def _rss_bytes(proxy: ProxyProcess) -> int:
    usage = read_usage(proxy.pid)
    assert usage is not None
    return usage.rss_bytes


def check(proxy: ProxyProcess, seen: Seen) -> None:
    """All but the time, which takes a minute to measure."""
    assert seen.topics > WINDOW
    assert seen.rss_growth_bytes < GROWTH_BYTES_MAX, f"{seen.rss_growth_bytes} bytes more after {seen.topics} topics"
    assert seen.figures["verify"]["lost"] == 0
    assert proxy.metric("mqk_connections_failed_total") == 0
