"""The proxy as its users run it: `mqk serve` in a process of its own, on 127.0.0.1, told everything by a file.

Nothing of `proxy` is imported here, so that a test can only see what an operator and a device see.
"""

import hashlib
import http.client
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.processes import Process, free_port

#: A start takes about a second once Kafka answers; the machine may be busy.
START_TIMEOUT_SECONDS = 60.0
#: A ready proxy answers in a millisecond. One that takes this long does not answer.
ADMIN_TIMEOUT_SECONDS = 5.0
#: How much of its log a failed test shows.
LOG_TAIL_CHARACTERS = 8000


class Answer(NamedTuple):
    """What the admin port said."""

    status: int
    text: str


class ProxyProcess:
    """One replica on ports of its own, which it keeps when it is started again. As a context manager it is killed.

    `settings` are dotted names, as in `{"routing.preset": "single"}`; they are added to those that every test needs.
    With several `slots` its ports are the first ones of so many. `behind` are the networks of its load balancers, which
    ask its agent port.
    """

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        settings: Mapping[str, object] | None = None,
        slots: int = 1,
        behind: Sequence[str] = (),
    ) -> None:
        self.port = free_port(slots)
        self.admin_port = free_port(slots)
        self.agent_port = free_port(slots) if behind else 0
        balanced = {"node.agent_bind": f"127.0.0.1:{self.agent_port}"} if behind else {}
        self.log = directory / f"proxy-{self.port}.log"
        self._settings = {
            "node.id": f"proxy-{self.port}",
            "kafka.bootstrap_servers": [bootstrap],
            "kafka.topic_prefix": f"p{self.port}_",
            "kafka.internal_prefix": f"_p{self.port}_",
            "kafka.replication_factor": 1,
            "kafka.partitions": 4,
            "listeners": [{"bind": f"127.0.0.1:{self.port}", "proxy_protocol_from": list(behind)}],
            "auth.anonymous": True,
            "admin.bind": f"127.0.0.1:{self.admin_port}",
            **balanced,
            **(settings or {}),
        }
        self.topic_prefix = str(self._settings["kafka.topic_prefix"])
        # Tests share a Kafka; in one group the replicas of one would wait for those of another.
        self.command_group = str(self._settings.setdefault("commands.group", f"{self.topic_prefix}commands"))
        self.node = str(self._settings["node.id"])
        self._config = directory / f"proxy-{self.port}.toml"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        print(self.log.read_text()[-LOG_TAIL_CHARACTERS:])  # Seen when the test fails.

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def process(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"the proxy of {self._config} does not run")
        return self._process

    def start(self) -> None:
        """Returns when devices can connect."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Returns when the admin port answers; devices may have to wait for Kafka."""
        self._write_config()
        self._process = Process([sys.executable, "-m", "proxy", "serve", "--config", self._config], self.log)
        self._wait_for("/livez")

    def reload(self, settings: Mapping[str, object]) -> None:
        """Changes settings in the file and says SIGHUP. The proxy counts when it has obeyed."""
        self._settings |= settings
        self._write_config()
        os.kill(self.pid, signal.SIGHUP)

    def _write_config(self) -> None:
        lines = [f"{name} = {_toml(value)}\n" for name, value in self._settings.items()]
        self._config.write_text("".join(lines))

    def wait_until_ready(self) -> None:
        self._wait_for("/readyz")

    def get(self, path: str) -> Answer:
        """Asks the admin port. OSError when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=ADMIN_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """One sample of `/metrics`, named with its labels as it stands there. KeyError when there is none."""
        samples = (line.rpartition(" ") for line in self.get("/metrics").text.splitlines() if not line.startswith("#"))
        return float({sample: value for sample, _, value in samples}[name])

    def terminate(self, timeout_seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        process, self._process = self.process, None
        return process.terminate(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL. Does nothing to a proxy that does not run."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _wait_for(self, path: str) -> None:
        try:
            self.process.wait_until(lambda: self._says_ok(path), f"{path} says 200", START_TIMEOUT_SECONDS)
        except BaseException:
            self.kill()
            raise

    def _says_ok(self, path: str) -> bool:
        try:
            return self.get(path).status == 200
        except OSError:
            return False


def admin_token(name: str, role: str, token: str) -> dict[str, str]:
    """An entry of `admin.tokens`, as `mqk token` prints it."""
    return {"name": name, "role": role, "token_sha256": hashlib.sha256(token.encode()).hexdigest()}


def _toml(value: object) -> str:
    """A value as TOML writes it: JSON, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
