"""A real HAProxy with the configuration that `mqk haproxy-config` prints, in front of real replicas, on 127.0.0.1.

Nothing of `proxy` is imported here: the configuration comes from the command, as an operator gets it.
"""

import csv
import getpass
import grp
import http.client
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pytest

from tests.support.cluster import Cluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import Process, free_port, wait_until
from tests.support.proxy import ProxyProcess

#: Where HAProxy itself connects from. Who comes from elsewhere comes directly.
PROXIES = ["127.0.0.1/32"]
BACKEND = "mqtt_proxies"


def program() -> str:
    """HAProxy. Skips the test where it is not installed; `make test` installs it."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip("haproxy is not installed")
    return found


def printed_config(replicas: Sequence[ProxyProcess], *options: str) -> str:
    places = [f"127.0.0.1:{each.port}:{each.admin_port}:{each.agent_port}" for each in replicas]
    command = [sys.executable, "-m", "proxy", "haproxy-config", *places, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class HAProxy:
    """One load balancer. With `tls`, files named as HAProxy's environment has them, it has that door too."""

    def __init__(
        self, replicas: Sequence[ProxyProcess], directory: Path, tls: Mapping[str, object] | None = None
    ) -> None:
        self.port, self.tls_port, self.admin_port = free_port(), free_port(), free_port()
        self._program = program()
        self._config = directory / f"haproxy-{self.port}.cfg"
        self._config.write_text(printed_config(replicas, *([] if tls else ["--no-tls"])))
        # The path of a socket has to be short.
        self._run = tempfile.mkdtemp(prefix="lb")
        self._environment = {
            "MQTT_BIND": f"127.0.0.1:{self.port}",
            "MQTTS_BIND": f"127.0.0.1:{self.tls_port}",
            "ADMIN_BIND": f"127.0.0.1:{self.admin_port}",
            "RUN_DIR": self._run,
            "LOG_TARGET": "stdout",
            "HA_USER": getpass.getuser(),
            "HA_GROUP": grp.getgrgid(os.getgid()).gr_name,
            # Twice as many descriptors, and some: a test may have fewer than a load balancer.
            "LB_MAXCONN": "5000",
            # All devices of a test come from one address.
            "SRC_CONN_RATE": "100000",
            "SRC_CONN_CUR": "100000",
            **{name: str(value) for name, value in (tls or {}).items()},
        }
        self.process: Process | None = None

    def __enter__(self) -> Self:
        command = [self._program, "-db", "-f", self._config]
        self.process = Process(command, self._config.with_suffix(".log"), self._environment)
        try:
            self.process.wait_until(lambda: self.all_are("UP"), "all replicas are up", 20)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.kill()
            print(self.process.output[-4000:])  # Seen when the test fails.
        shutil.rmtree(self._run)

    def stat(self, column: str) -> list[str]:
        """What HAProxy knows of each replica, in their order."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", "/lb/stats;csv")
            text = connection.getresponse().read().decode().removeprefix("# ")
        finally:
            connection.close()
        rows = csv.DictReader(io.StringIO(text))
        return [row[column] for row in rows if row["pxname"] == BACKEND and row["svname"] != "BACKEND"]

    def all_are(self, *states: str) -> bool:
        try:
            found = self.stat("status")
        except OSError:
            return False
        return found == (list(states) if len(states) > 1 else [states[0]] * len(found)) and bool(found)


class BalancedCluster(Cluster):
    """Replicas and, in front of them, HAProxies: their ports are those of the cluster."""

    def __init__(
        self,
        kafka: KafkaBroker,
        directory: Path,
        size: int,
        settings: Mapping[str, object] | None = None,
        balancers: int = 1,
        tls: Mapping[str, object] | None = None,
    ) -> None:
        program()
        super().__init__(kafka, directory, size, settings, PROXIES)
        self.balancers = [HAProxy(self.replicas, directory, tls) for _ in range(balancers)]

    @property
    def processes(self) -> Sequence[AbstractContextManager[object]]:
        return [*self.replicas, *self.balancers]

    @property
    def ports(self) -> list[int]:
        return [balancer.port for balancer in self.balancers]

    def wait_until_up(self) -> None:
        """Every HAProxy sends devices to every replica."""
        for balancer in self.balancers:
            wait_until(lambda each=balancer: each.all_are("UP"), "all replicas are up", 30)
            wait_until(lambda each=balancer: set(each.stat("weight")) == {"100"}, "all are wanted", 30)

    def homes(self) -> dict[str, str]:
        """Which replica each connected device is on, by what `status` says."""
        last = {each["clientid"]: each for each in self.status()}
        return {client_id: each["node"] for client_id, each in last.items() if each["online"]}
