"""Kafka goes away under load and comes back: what devices and operators see of the proxy meanwhile.

The length is the caller's: some seconds in the test suite, a minute where it is proven.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.procfs import Usage, read_usage
from tests.support.crashes import check_nothing_lost
from tests.support.device import CONNACK, Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.load import Load
from tests.support.proxy import ProxyProcess

#: Far below the default, so that the load fills it and back-pressure is part of the outage.
QUEUE_BYTES_MAX = 4 * 1024 * 1024
#: What memory may grow by beside the queue: packets that connections set aside (16 KiB each at the most, 4 MB here),
#: batches that are built and sent, what the allocator keeps. The whole growth measured was 3.5 MB.
MEMORY_ALLOWANCE_BYTES = 8 * 1024 * 1024
#: Between two looks at everything, or looking would be most of what the proxy does.
LOOK_SECONDS = 0.1
PING_SECONDS_MAX = 0.05
UNHEALTHY_SECONDS_MAX = 10.0
#: Of one core, for what is left to do in an outage: the answers to PINGREQ, these looks, an attempt now and then.
CPU_SHARE_MAX = 0.3
CONNECTIONS, IDLE_CONNECTIONS, INFLIGHT, RATE = 200, 50, 50, 1_500
#: About 2 000 before the outage, all windows full in it, and the rest when Kafka is back.
MESSAGES = 2_000 + CONNECTIONS * INFLIGHT + 5_000
#: More than the window of 128, so that some are set aside; PINGREQ has to be found behind them.
PROBE_MESSAGES = 200
#: What was on its way when Kafka stopped may still be answered for this long.
LAST_ANSWERS_SECONDS = 1.0
#: From the order to start Kafka to the last acknowledgement: its start, back-off, metadata, and all that has gathered.
RECOVERY_SECONDS = 60.0
SERVER_UNAVAILABLE = {4: 3, 5: 0x88}

SETTINGS = {"kafka.queue_bytes_max": QUEUE_BYTES_MAX}
LOAD = {
    "connections": CONNECTIONS,
    "idle-connections": IDLE_CONNECTIONS,
    "inflight": INFLIGHT,
    "rate": RATE,
    "ping-every": 1,
    "stop-after": MESSAGES,
}


@dataclass
class Seen:
    """What was measured while Kafka was away; the pings without what they waited for a core."""

    ping_seconds: dict[str, list[float]] = field(default_factory=lambda: {"idle": [], "publishing": []})
    unhealthy_after_seconds: float | None = None
    usage: list[tuple[float, Usage]] = field(default_factory=list)
    queue_bytes: list[float] = field(default_factory=list)
    stored: set[float] = field(default_factory=set)
    connections: set[float] = field(default_factory=set)
    resumed_after_seconds: float = 0.0

    @property
    def slowest_ping_ms(self) -> dict[str, float]:
        return {name: round(max(each) * 1e3, 1) for name, each in self.ping_seconds.items()}

    @property
    def rss_growth_bytes(self) -> int:
        return max(each.rss_bytes for _, each in self.usage) - self.usage[0][1].rss_bytes

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        (began, before), (ended, after) = self.usage[0], self.usage[-1]
        return (after.cpu_seconds - before.cpu_seconds) / (ended - began)


def outage(
    proxy: ProxyProcess,
    kafka: KafkaBroker,
    directory: Path,
    seconds: float,
    stop: Callable[[], None],
    start: Callable[[], None],
) -> tuple[Seen, dict[str, Any]]:
    """`stop` and `start` are Kafka's; returns what was seen in between, and the load tool's figures."""
    flags = {**LOAD, "seconds": seconds + RECOVERY_SECONDS}
    with (
        Load(proxy, kafka.bootstrap, directory, flags) as load,
        Device(proxy.port) as idle,
        Device(proxy.port) as publishing,
    ):
        idle.connect("probe-idle")
        publishing.connect("probe-publishing")
        publishing.publish_acknowledged("tlink/probe", b"before")
        load.wait_for_acked(RATE)
        stop()
        seen = Seen(usage=[_usage(proxy)])
        try:
            _watch(proxy, {"idle": idle, "publishing": publishing}, seconds, seen)
        finally:
            start()
        returned = time.monotonic()
        for packet_id in range(1, PROBE_MESSAGES + 1):
            publishing.puback(packet_id, RECOVERY_SECONDS)
        seen.resumed_after_seconds = time.monotonic() - returned
        return seen, load.finish(seconds + RECOVERY_SECONDS)


def check(proxy: ProxyProcess, seen: Seen, figures: dict[str, Any]) -> None:
    """All that an outage may not do."""
    assert len(seen.stored) == 1, f"acknowledged during the outage: {sorted(seen.stored)}"
    assert len(seen.connections) == 1, f"connections came or went: {sorted(seen.connections)}"
    for name, took in seen.ping_seconds.items():
        assert max(took) < PING_SECONDS_MAX, f"{name}: {[round(each * 1e3) for each in sorted(took)[-5:]]} ms"
    assert seen.unhealthy_after_seconds is not None, "/healthz did not notice"
    assert seen.unhealthy_after_seconds < UNHEALTHY_SECONDS_MAX, seen.unhealthy_after_seconds
    assert 0.75 * QUEUE_BYTES_MAX < max(seen.queue_bytes) < QUEUE_BYTES_MAX, f"{max(seen.queue_bytes)} bytes queued"
    assert seen.rss_growth_bytes < QUEUE_BYTES_MAX + MEMORY_ALLOWANCE_BYTES, f"{seen.rss_growth_bytes} bytes more"
    assert seen.cpu_share < CPU_SHARE_MAX, f"{seen.cpu_share:.0%} of a core while there was nothing to do"
    assert figures["connections"]["lost"] == figures["resent"] == 0, figures["connections"]
    check_nothing_lost(figures, MESSAGES)
    assert proxy.get("/healthz").status == 200
    assert proxy.metric("mqk_connections_failed_total") == 0


def _watch(proxy: ProxyProcess, probes: dict[str, Device], seconds: float, seen: Seen) -> None:
    began = time.monotonic()
    for packet_id in range(1, PROBE_MESSAGES + 1):
        probes["publishing"].publish("tlink/probe", b"%d" % packet_id, packet_id=packet_id)
    while time.monotonic() < began + seconds:
        _look(proxy, probes, began, seen)
        time.sleep(LOOK_SECONDS)
    _expect_nobody_to_get_in(proxy)


def _look(proxy: ProxyProcess, probes: dict[str, Device], began: float, seen: Seen) -> None:
    """One look at everything. PINGRESP has to be the next packet, so nothing else may come before it."""
    for name, device in probes.items():
        waited, asked = _waited_for_a_core(proxy), time.monotonic()
        device.ping()
        seen.ping_seconds[name].append(time.monotonic() - asked - (_waited_for_a_core(proxy) - waited))
    assert (proxy.get("/livez").status, proxy.get("/readyz").status) == (200, 200)
    healthy = proxy.get("/healthz").status == 200
    passed = time.monotonic() - began
    if seen.unhealthy_after_seconds is None and not healthy:
        seen.unhealthy_after_seconds = passed
    assert healthy == (seen.unhealthy_after_seconds is None), "healthy again while Kafka is away"
    seen.usage.append(_usage(proxy))
    seen.queue_bytes.append(proxy.metric('mqk_kafka_queue_bytes{cluster="default"}'))
    seen.connections.add(proxy.metric("mqk_connections"))
    if passed > LAST_ANSWERS_SECONDS:
        seen.stored.add(proxy.metric('mqk_publishes_total{qos="1",result="stored"}'))


def _waited_for_a_core(proxy: ProxyProcess) -> float:
    """Seconds that the proxy's event loop, or this process, could have run and others had the cores.

    That is the machine's doing, and on a small one that does something else too it is most of what a ping takes.
    """
    nanoseconds = [int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in (proxy.pid, os.getpid())]
    return sum(nanoseconds) / 1e9


def _usage(proxy: ProxyProcess) -> tuple[float, Usage]:
    usage = read_usage(proxy.pid)
    assert usage is not None
    return time.monotonic(), usage


def _expect_nobody_to_get_in(proxy: ProxyProcess) -> None:
    for version, reason_code in SERVER_UNAVAILABLE.items():
        with Device(proxy.port, version) as device:
            first_byte, body = device.connect("late")
            assert (first_byte, body[1]) == (CONNACK, reason_code)
            assert device.rest() == []
