"""Two rounds of hostile connections against one proxy, and what they cost it and a device beside them."""

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loadtest.procfs import read_usage
from tests.support.device import Device
from tests.support.processes import Process, wait_until
from tests.support.proxy import ProxyProcess

#: Between two messages of the device beside them.
PAUSE_SECONDS = 0.01
#: What one connection of a round costs at the most, and for the start of the process that makes them.
SECONDS_PER_CONNECTION = 0.05
START_SECONDS = 30.0
#: For the messages before the first round.
UNDISTURBED_SECONDS = 120.0
#: Keep alive and CONNECT timeout end what hangs on in this time.
GONE_SECONDS = 30.0
#: Names that no other topic shares, one for each Kafka topic: the proxy then has all of its connections to Kafka.
TOPICS = ("tlink/beside/up", "tlink/beside/ota", "tlink/beside/sub/login", "tlink/beside/sub/register")


@dataclass
class Seen:
    """Descriptors and bytes of the proxy, milliseconds of the device beside."""

    descriptors_before: int
    descriptors_after: list[int]
    rss_after: list[int]
    p99_before_ms: float
    p99_during_ms: float
    messages_during: int

    @property
    def rss_growth(self) -> float:
        """Share by which the second round has raised what the first had left."""
        return self.rss_after[1] / self.rss_after[0] - 1


class Beside:
    """A well-behaved device that publishes at QoS 1, one message after the other, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._device = Device(port, 5)
        self._device.connect("beside")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._latencies_ms: list[float] = []
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        for topic in TOPICS:
            self._device.publish_acknowledged(topic, b"first")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._device.close()

    @property
    def messages(self) -> int:
        """Acknowledged since they were taken last."""
        return len(self._latencies_ms)

    def take(self) -> list[float]:
        """Milliseconds from PUBLISH to PUBACK of every message since the last time; raises what went wrong."""
        if self._error is not None:
            raise self._error
        taken, self._latencies_ms = self._latencies_ms, []
        return taken

    def _publish(self) -> None:
        try:
            while not self._stop.wait(PAUSE_SECONDS):
                start = time.perf_counter()
                assert self._device.publish_acknowledged(TOPICS[0], b"x" * 64) == 0
                self._latencies_ms.append((time.perf_counter() - start) * 1000)
        except Exception as error:
            self._error = error


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_bytes(pid: int) -> int:
    usage = read_usage(pid)
    assert usage is not None, "the proxy is gone"
    return usage.rss_bytes


def two_rounds(proxy: ProxyProcess, directory: Path, connections: int, messages_before: int) -> Seen:
    """The proxy must be this test's own. AssertionError when it does not survive, or remembers who was there."""
    with Beside(proxy.port) as beside:
        wait_until(lambda: beside.messages >= messages_before, "the device beside has published", UNDISTURBED_SECONDS)
        # By then the proxy has opened what it needs of Kafka, or that would be taken for what the rounds leave behind.
        told = 'mqk_presence_records_total{result="stored"}'
        wait_until(lambda: proxy.metric(told) == 1, "the device beside is announced", UNDISTURBED_SECONDS)
        before = beside.take()
        seen = Seen(descriptors(proxy.pid), [], [], p99(before), 0.0, 0)
        during: list[float] = []
        for seed in (1, 2):
            _round(proxy, directory, seed, connections)
            during += beside.take()
            wait_until(lambda: proxy.metric("mqk_connections") == 1, "only the device beside is left", GONE_SECONDS)
            wait_until(lambda: descriptors(proxy.pid) <= seen.descriptors_before, "descriptors are free", GONE_SECONDS)
            seen.descriptors_after.append(descriptors(proxy.pid))
            seen.rss_after.append(rss_bytes(proxy.pid))
        beside.take()
    seen.p99_during_ms, seen.messages_during = p99(during), len(during)
    assert proxy.metric("mqk_connections_failed_total") == 0
    assert "Traceback" not in proxy.process.output
    return seen


def _round(proxy: ProxyProcess, directory: Path, seed: int, connections: int) -> None:
    command = [sys.executable, "-m", "tests.support.fuzz", str(proxy.port), str(seed), str(connections)]
    with Process(command, directory / f"fuzz-{seed}.log") as process:
        status = process.wait(START_SECONDS + connections * SECONDS_PER_CONNECTION)
        assert status == 0, process.output
