"""The benchmark: the proxy on a real Kafka beside mosquitto, which stores nothing, all in one run on one machine.

Both servers share one core and are loaded in turns with the same load; Kafka and the load have the other cores. The
figures are ratios of one run: absolute ones differ twofold between machines.
"""

import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from loadtest.comparison import Row, cpu_row, latency_row, markdown, memory_row
from loadtest.errors import LoadError, UsageError
from loadtest.histogram import Histogram
from loadtest.payload import RUN_ID_BYTES
from loadtest.roundtrip import measure_aiokafka, measure_librdkafka
from loadtest.run import run_load
from loadtest.settings import LoadSettings
from tests.support.processes import Process, free_port

TOPIC = "tlink_device_msg"
PARTITIONS = 4
SIZE = 128
CONNECT_RATE = 800.0
"""Below the proxy's own default limit of connects per second."""
FIXED_RATE = 4_000.0
"""A load that neither server is saturated by, where every message comes alone."""
LONE_RATE = 100.0
WARM_UP_SECONDS = 3.0
IDLE_SECONDS = 3.0
START_SECONDS = 60.0
GOAL_IDLE_BYTES = 6_000
GOAL_LATENCY_MS = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test, on the core reserved for servers."""

    name: str
    port: int
    process: Process


@dataclass(frozen=True, slots=True)
class Scenario:
    """`goal`: the greatest ratio to mosquitto that is wanted, as fast as it goes."""

    connections: int
    inflight: int
    goal: float

    def __str__(self) -> str:
        return f"{self.connections:,} x {self.inflight}"


SCENARIOS = (Scenario(200, 20, 1.0), Scenario(1_000, 1, 1.6))


def run_bench(rounds: int, seconds: float, idle_connections: int, kafka_version: str, json_file: Path | None) -> int:
    """Measure everything, print the table, return the exit code."""
    if rounds < 1:
        raise UsageError("--rounds: must be at least 1")
    mosquitto_path = shutil.which("mosquitto")
    if mosquitto_path is None:
        raise LoadError("mosquitto is not installed, and it is the yardstick")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LoadError("the benchmark needs two cores: one for the servers, one for Kafka and the load")
    os.sched_setaffinity(0, cores[1:])  # Kafka and the load's processes inherit this
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-bench-")))
        # By name, because the types of what only tests use are not checked.
        broker: Any = import_module("tests.support.kafka_broker")
        kafka = broker.KafkaBroker(kafka_version, directory / "kafka", java=broker.LONG_LIVED)
        stack.enter_context(kafka)
        kafka.create_topic(TOPIC, PARTITIONS)
        proxy = stack.enter_context(_proxy(directory, cores[0], kafka.bootstrap))
        mosquitto = stack.enter_context(_mosquitto(mosquitto_path, directory, cores[0]))
        bench = _Bench(proxy, mosquitto, kafka.bootstrap, cores, seconds)
        rows = bench.measure(rounds, idle_connections)
    about = _about(mosquitto_path, kafka_version, cores, rounds, seconds)
    print(f"{about}\n\n{markdown(rows)}")
    if json_file:
        json_file.write_text(json.dumps({"about": about, "measurements": bench.measurements}, indent=2) + "\n")
    return 0


class _Bench:
    def __init__(self, proxy: Server, mosquitto: Server, bootstrap: str, cores: Sequence[int], seconds: float) -> None:
        self.measurements: list[dict[str, Any]] = []
        self._proxy = proxy
        self._mosquitto = mosquitto
        self._bootstrap = bootstrap
        self._server_core = cores[0]
        self._settings = LoadSettings(
            host="127.0.0.1",
            port=proxy.port,
            size=SIZE,
            seconds=seconds,
            connect_rate=CONNECT_RATE,
            processes=len(cores) - 1,
        )

    def measure(self, rounds: int, idle_connections: int) -> list[Row]:
        # Memory first: later a server would serve new connections from what earlier ones have left.
        idle = replace(self._settings, connections=0, idle_connections=idle_connections, seconds=IDLE_SECONDS)
        memory = memory_row(*self._pair("idle", idle), idle_connections, GOAL_IDLE_BYTES)
        busy = [
            replace(self._settings, connections=scenario.connections, inflight=scenario.inflight)
            for scenario in SCENARIOS
        ]
        self._pair("warm-up", replace(busy[0], seconds=WARM_UP_SECONDS))
        fast, fixed = [], []
        for scenario, settings in zip(SCENARIOS, busy, strict=True):
            pairs = [self._pair(f"{scenario}, round {number + 1}", settings) for number in range(rounds)]
            ours, theirs = zip(*pairs, strict=True)
            fast.append(cpu_row(f"{scenario}, as fast as it goes", ours, theirs, scenario.goal))
            pair = self._pair(f"{scenario} at a fixed rate", replace(settings, rate=FIXED_RATE))
            fixed.append(cpu_row(f"{scenario}, {FIXED_RATE:,.0f}/s", [pair[0]], [pair[1]], None))
        return [*fast, *fixed, memory, self._lone_device(min(rounds, 2))]

    def _pair(self, name: str, settings: LoadSettings) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same load on the proxy and then on mosquitto."""
        return self._load(name, self._proxy, settings), self._load(name, self._mosquitto, settings)

    def _load(self, name: str, server: Server, settings: LoadSettings) -> dict[str, Any]:
        _say(f"{name}: {server.name}")
        settings = replace(settings, port=server.port, run_id=os.urandom(RUN_ID_BYTES))
        with Path(os.devnull).open("w") as nowhere:
            figures = run_load(settings, [server.process.pid], nowhere).figures
        faults = {**figures["ack_errors"], "unacknowledged": figures["unacknowledged"], **figures["violations"]}
        faults |= {"lost connections": figures["connections"]["lost"]}
        if any(faults.values()):
            raise LoadError(f"{name}: {server.name} did not serve this load well: {faults}")
        self.measurements.append({"name": name, "server": server.name, **figures})
        return figures

    def _lone_device(self, rounds: int) -> Row:
        """A device that publishes alone, and Kafka's own round trip measured from the same core."""
        libraries = {"aiokafka": measure_aiokafka, "librdkafka": measure_librdkafka}
        settings = replace(self._settings, connections=1, inflight=20, rate=LONE_RATE)
        puback: list[float] = []
        kafka: dict[str, list[float]] = {name: [] for name in libraries}
        for number in range(rounds):
            figures = self._load(f"lone device, round {number + 1}", self._proxy, settings)
            puback.append(figures["ack_ms"]["p50"])
            for name, measure in libraries.items():
                kafka[name].append(self._round_trip(name, measure))
        return latency_row(puback, kafka, GOAL_LATENCY_MS)

    def _round_trip(self, name: str, measure: Callable[[str, str, int, float, float], Histogram]) -> float:
        _say(f"Kafka's own round trip: {name}")
        others = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._server_core})
        try:
            summary = measure(self._bootstrap, TOPIC, SIZE, LONE_RATE, self._settings.seconds).summary_ms()
        finally:
            os.sched_setaffinity(0, others)
        self.measurements.append({"name": "round trip", "client": name, "ms": summary})
        return summary["p50"] or 0.0


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


@contextmanager
def _proxy(directory: Path, core: int, bootstrap: str) -> Iterator[Server]:
    port, admin_port = free_port(), free_port()
    config = directory / "mqk.toml"
    config.write_text(f"""
[node]
id = "bench"
[kafka]
bootstrap_servers = ["{bootstrap}"]
replication_factor = 1
partitions = {PARTITIONS}
[[listeners]]
bind = "127.0.0.1:{port}"
[auth]
anonymous = true
[admin]
bind = "127.0.0.1:{admin_port}"
""")
    command = _on_core(core, sys.executable, "-m", "proxy", "serve", "--config", config)
    with Process(command, directory / "proxy.log") as process:
        _await(process, lambda: _healthy(admin_port), "the proxy is healthy")
        yield Server("proxy", port, process)


def _await(process: Process, condition: Callable[[], bool], what: str) -> None:
    try:
        process.wait_until(condition, what, START_SECONDS)
    except (RuntimeError, TimeoutError) as error:
        raise LoadError(str(error)) from error


def _healthy(admin_port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def _mosquitto(program: str, directory: Path, core: int) -> Iterator[Server]:
    port, config = free_port(), directory / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    with Process(_on_core(core, program, "-c", config), directory / "mosquitto.log") as process:
        _await(process, lambda: "running" in process.output, "mosquitto is running")
        yield Server("mosquitto", port, process)


def _on_core(core: int, *command: str | Path) -> list[str | Path]:
    return ["taskset", "--cpu-list", str(core), *command]


def _about(mosquitto_path: str, kafka_version: str, cores: Sequence[int], rounds: int, seconds: float) -> str:
    """What was measured on what, in one paragraph."""
    proxy = subprocess.run([sys.executable, "-m", "proxy", "--version"], capture_output=True, text=True, check=True)
    usage = subprocess.run([mosquitto_path, "-h"], capture_output=True, text=True, check=False)  # noqa: S603
    return (
        f"{proxy.stdout.strip()}, Kafka {kafka_version} ({PARTITIONS} partitions), {usage.stdout.splitlines()[0]},"
        f" Python {platform.python_version()}, {_cpu_model()}, {len(cores)} cores. {SIZE} B, QoS 1, MQTT 3.1.1,"
        f" {rounds} rounds of {seconds:g} s in turns, medians; ratios are medians of the rounds' ratios."
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
