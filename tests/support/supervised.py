"""Several replicas of one host, as `mqk serve` runs them with `node.workers`: one supervisor, ports in steps."""

import http.client
import json
import os
import re
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.cluster import Cluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import WORKERS_MAX, free_port, wait_until
from tests.support.proxy import START_TIMEOUT_SECONDS, ProxyProcess

_STARTED = re.compile(r'"message": "replica started", "slot": (\d+), "replica": "([^"]+)", "pid": (\d+)')


class Slot(NamedTuple):
    """One replica: where it is, and what a load needs to know of it."""

    number: int
    node: str
    port: int
    admin_port: int
    topic_prefix: str

    def get(self, path: str) -> str:
        """What the admin port says. OSError when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def incarnation(self) -> int:
        """Of the replica there; -1 while it cannot serve devices, or is not there."""
        try:
            checks: dict[str, Any] = json.loads(self.get("/healthz"))["checks"]
        except OSError:
            return -1
        serves = checks["started"]["ok"] and checks["sessions"]["ok"]
        return int(checks["sessions"]["detail"]["incarnation"]) if serves else -1


class Supervised(Cluster):
    """`size` replicas below one supervisor. As a context manager it is killed at the end."""

    def __init__(
        self, kafka: KafkaBroker, directory: Path, size: int, settings: Mapping[str, object] | None = None
    ) -> None:
        self.kafka = kafka
        self.name = f"w{free_port()}"
        given = {
            "node.id": self.name,
            "node.workers": size,
            "node.slot_port_step": WORKERS_MAX,  # As far apart as the ports of one worker of the test run.
            "kafka.topic_prefix": f"{self.name}_",
            "kafka.internal_prefix": f"_{self.name}_",
            **(settings or {}),
        }
        self.supervisor = ProxyProcess(kafka.bootstrap, directory, given, slots=size)
        self.replicas = [self.supervisor]
        first, admin = self.supervisor.port, self.supervisor.admin_port
        self.slots = [
            Slot(number, f"{self.name}-{number}", first + step, admin + step, f"{self.name}_")
            for number, step in enumerate(range(0, size * WORKERS_MAX, WORKERS_MAX))
        ]
        self._stack = ExitStack()

    @property
    def ports(self) -> list[int]:
        return [slot.port for slot in self.slots]

    def wait_until_all_serve(self) -> list[int]:
        """The incarnation of each."""
        return [self.wait_for_another(slot, -1) for slot in self.slots]

    def wait_for_another(self, slot: Slot, incarnation: int, timeout_seconds: float = START_TIMEOUT_SECONDS) -> int:
        """The incarnation that serves in that slot once it is a later one."""
        process = self.supervisor.process
        process.wait_until(lambda: slot.incarnation() > incarnation, f"slot {slot.number} serves anew", timeout_seconds)
        return slot.incarnation()

    def pid(self, slot: Slot) -> int:
        """Of the replica that was started there last."""
        started = {int(number): int(pid) for number, _, pid in _STARTED.findall(self.supervisor.process.output)}
        return started[slot.number]

    def signal(self, slot: Slot, number: signal.Signals) -> int:
        """To that replica alone; returns the process id that got it."""
        pid = self.pid(slot)
        os.kill(pid, number)
        return pid

    def all_have_ended(self, pids: list[int]) -> None:
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the replicas have ended")
