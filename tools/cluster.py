"""What `make cluster` runs here: a real Kafka, three replicas that one supervisor keeps, HAProxy in front of them.

Everything listens on 127.0.0.1, and everything ends with Ctrl-C, or with this process, whatever ends it.
"""

import getpass
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.processes import Process

REPLICAS: Final = 3
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.5
MQK: Final = (sys.executable, "-m", "proxy")
#: A laptop: two descriptors for each connection, and all of them from one address.
BALANCER_LIMITS: Final = {"LB_MAXCONN": "5000", "SRC_CONN_RATE": "100000", "SRC_CONN_CUR": "100000"}

SETTINGS: Final = """\
[node]
id = "proxy"
workers = {replicas}
slot_port_step = {ports.step}
drain_seconds = 10
agent_bind = "127.0.0.1:{ports.agent}"

[kafka]
bootstrap_servers = ["{kafka}"]
replication_factor = 1

[[listeners]]
bind = "127.0.0.1:{ports.replica}"
proxy_protocol_from = ["127.0.0.1/32"]

[admin]
bind = "127.0.0.1:{ports.admin}"

[auth]
anonymous = true

[acl]
subscribe_default = "allow"
"""

HELP: Final = """
MQTT is on 127.0.0.1:{ports.mqtt}, in front of three replicas; health, metrics and API of the first: port {ports.admin}.
HAProxy's own page is http://127.0.0.1:{ports.balancer}/lb/stats, Kafka is {kafka}. Try, in another terminal:

  mosquitto_pub -h 127.0.0.1 -p {ports.mqtt} -t tlink/pk/dev1/up -m hi -q 1
  java -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '.cache/kafka-{version}/*' \\
    org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server {kafka} \\
    --include 'tlink_device_.*' --from-beginning --property print.key=true
  mosquitto_sub -h 127.0.0.1 -p {ports.mqtt} -i dev1 -t tlink/pk/dev1/down -q 1
  .venv/bin/mqk publish --url http://127.0.0.1:{ports.admin} --clientid dev1 tlink/pk/dev1/down hello
  kill -9 {victim}    # a replica: a second later it is there again, as another incarnation
  .venv/bin/mqk nodes --url http://127.0.0.1:{ports.admin}

What they log is in {directory}. Ctrl-C stops all of it.
"""


class Ports(NamedTuple):
    """Of 127.0.0.1. The three ones of a replica are those of the first; those of the next are `step` above."""

    mqtt: int = 1883
    balancer: int = 8404
    replica: int = 2883
    admin: int = 8080
    agent: int = 8090
    step: int = 1

    def all(self) -> list[int]:
        steps = [number * self.step for number in range(REPLICAS)]
        firsts = (self.replica, self.admin, self.agent)
        return [self.mqtt, self.balancer, *(first + step for first in firsts for step in steps)]


def main(ports: Ports) -> int:
    """Until a signal comes, or one of them ends by itself."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    taken = [str(port) for port in ports.all() if _is_taken(port)]
    if taken:
        return _fail(f"something listens on 127.0.0.1, on port {', '.join(taken)}")
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if haproxy is None:
        return _fail("haproxy is not installed")
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="mqk-cluster-"))
        stack.callback(shutil.rmtree, directory)
        processes = _start(stack, directory, haproxy, ports, stop)
        while not stop.wait(LOOK_SECONDS):
            for process in processes:
                if not process.alive:
                    return _fail(f"{process} has ended; it wrote:\n{process.output[-4000:]}")
        _say("Stopping")
    return 0


def _start(stack: ExitStack, directory: Path, haproxy: str, ports: Ports, stop: threading.Event) -> list[Process]:
    """All of them, unless `stop` is set meanwhile; what the user can do is printed."""
    _say("Starting Kafka")
    kafka = stack.enter_context(KafkaBroker(VERSIONS[0], directory / "kafka")).bootstrap
    if stop.is_set():
        return []
    _say(f"Starting {REPLICAS} replicas")
    replicas = _start_replicas(stack, directory, kafka, ports, stop)
    if stop.is_set():
        return []
    _say("Starting HAProxy")
    balancer = _start_haproxy(stack, directory, haproxy, ports)
    victim = re.findall(r'"replica": "proxy-1", "pid": (\d+)', replicas.output)[-1]
    _say(HELP.format(ports=ports, kafka=kafka, version=VERSIONS[0], victim=victim, directory=directory))
    return [replicas, balancer]


def _start_replicas(stack: ExitStack, directory: Path, kafka: str, ports: Ports, stop: threading.Event) -> Process:
    """Returns when all of them take devices."""
    config = directory / "mqk.toml"
    config.write_text(SETTINGS.format(replicas=REPLICAS, ports=ports, kafka=kafka))
    process = Process([*MQK, "serve", "--config", config], directory / "replicas.log")
    stack.callback(_terminate, process)
    said = '"message": "listening"'
    process.wait_until(lambda: stop.is_set() or process.output.count(said) >= REPLICAS, said, START_SECONDS)
    return process


def _start_haproxy(stack: ExitStack, directory: Path, program: str, ports: Ports) -> Process:
    """Returns when it listens; it finds out by itself which replicas work."""
    place = f"127.0.0.1:{ports.replica}:{ports.admin}:{ports.agent}"
    options = ["--no-tls", "--workers", str(REPLICAS), "--slot-port-step", str(ports.step)]
    config = directory / "haproxy.cfg"
    config.write_text(subprocess.check_output([*MQK, "haproxy-config", *options, place], text=True))  # noqa: S603
    environment = {
        "MQTT_BIND": f"127.0.0.1:{ports.mqtt}",
        "ADMIN_BIND": f"127.0.0.1:{ports.balancer}",
        "RUN_DIR": str(directory),
        "LOG_TARGET": "stdout",
        "HA_USER": getpass.getuser(),
        "HA_GROUP": grp.getgrgid(os.getgid()).gr_name,
        **BALANCER_LIMITS,
    }
    process = Process([program, "-db", "-f", config], directory / "haproxy.log", environment)
    stack.callback(_terminate, process)
    process.wait_until(lambda: _is_taken(ports.mqtt), f"HAProxy listens on {ports.mqtt}", START_SECONDS)
    return process


def _terminate(process: Process) -> None:
    """Also one that has ended by itself, with whatever children it has left."""
    try:
        if process.alive:
            process.terminate(STOP_SECONDS)
    finally:
        process.kill()


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(message: str) -> int:
    sys.stderr.write(f"make cluster: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(Ports(*map(int, sys.argv[1:]))))
