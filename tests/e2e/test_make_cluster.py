"""`make cluster`: the commands that it prints do what it says, and Ctrl-C leaves nothing behind."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import WORKERS_MAX, Process, free_port, wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0


@pytest.mark.kafka
def test_make_cluster(tmp_path: Path) -> None:
    slots = [free_port(3) for _ in range(3)]
    ports = [free_port(), free_port(), *slots, WORKERS_MAX]
    command = [sys.executable, "-m", "tools.cluster", *map(str, ports)]
    environment = {"TMPDIR": str(tmp_path)}
    with Process(command, tmp_path / "cluster.log", environment) as cluster:
        cluster.wait_for_output("Ctrl-C stops", START_SECONDS)
        [publish] = re.findall(r"^  (mosquitto_pub .*)$", cluster.output, re.MULTILINE)
        [watch] = re.findall(r"^  (java (?:.*\\\n)+.*)$", cluster.output, re.MULTILINE)
        [subscribe] = re.findall(r"^  (mosquitto_sub .*)$", cluster.output, re.MULTILINE)
        [tell] = re.findall(r"^  \.venv/bin/mqk (publish .*)$", cluster.output, re.MULTILINE)
        [victim] = re.findall(r"^  kill -9 (\d+) ", cluster.output, re.MULTILINE)
        run(publish)
        watched = run(f"{watch} --timeout-ms 5000")
        assert "tlink/pk/dev1/up\thi\n" in watched
        mqk = [sys.executable, "-m", "proxy"]
        with Process([*shlex.split(subscribe), "-C", "1"], tmp_path / "device.log") as device:
            wait_until(lambda: subprocess.run([*mqk, *shlex.split(tell)], check=False).returncode == 0, "told", 15)
            assert device.wait() == 0
            assert device.output == "hello\n"
        [directory] = tmp_path.glob("mqk-cluster-*")
        os.kill(int(victim), signal.SIGKILL)
        log = directory / "replicas.log"
        wait_until(lambda: log.read_text().count('"message": "listening"') == 4, "the replica is back", 15)
        os.kill(cluster.pid, signal.SIGINT)
        assert cluster.wait(60) == 0
    assert list(tmp_path.glob("mqk-cluster-*")) == []
    assert not any(is_open(port) for port in (*ports[:2], *slots))


def run(command: str) -> str:
    """A command that a user would copy; what it says on standard output."""
    return subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
