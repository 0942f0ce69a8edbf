"""Several replicas below one supervisor: they are replaced in their slots, reload together, and stop together."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka_broker import KafkaBroker
from tests.support.load import Load
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess
from tests.support.supervised import Supervised
from tests.support.supervision import replaced

CLIENTS = 12
DRAIN_SECONDS = 10


@pytest.fixture(scope="module")
def workers(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """They are shared by tests that replace replicas, and leave the supervisor alone."""
    with Supervised(kafka, tmp_path_factory.mktemp("workers"), 3) as workers:
        workers.wait_until_all_serve()
        yield workers
        assert workers.supervisor.terminate() == 0


@pytest.fixture
def mortal(kafka: KafkaBroker, tmp_path: Path) -> Iterator[Supervised]:
    """For a test that ends the supervisor."""
    with Supervised(kafka, tmp_path, 2, {"node.drain_seconds": DRAIN_SECONDS}) as workers:
        workers.wait_until_all_serve()
        yield workers


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 30), (signal.SIGSTOP, 60)], ids=["killed", "hung"])
def test_a_replica_is_replaced_in_its_slot(workers: Supervised, number: signal.Signals, seconds: float) -> None:
    figures = asyncio.run(replaced(workers, CLIENTS, victim=1, number=number, name=number.name))
    assert re.search(r"^mqk_starts_total ([2-9])\.0$", workers.slots[1].get("/metrics"), re.MULTILINE)
    assert figures["replaced after seconds"] <= seconds
    assert figures["all clients back after seconds"] <= seconds


def test_sigterm_drains_all(mortal: Supervised, kafka: KafkaBroker, tmp_path: Path) -> None:
    flags = {"connections": 30, "inflight": 20, "seconds": 4, "settle": 0.1, "version": 5}
    pids = [mortal.pid(slot) for slot in mortal.slots]
    loads = [
        Load(slot, kafka.bootstrap, tmp_path, {**flags, "client-prefix": f"{slot.node}-"}) for slot in mortal.slots
    ]
    with loads[0], loads[1]:
        for load in loads:
            load.wait_for_acked(500)
        process = mortal.supervisor.process
        began = time.monotonic()
        # systemd may tell everybody, and the supervisor tells its replicas too: that is still said once.
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert mortal.supervisor.terminate() == 0
        assert time.monotonic() - began < DRAIN_SECONDS
        for load in loads:
            figures = load.finish(4)
            assert figures["verify"]["lost"] == figures["verify"]["reordered"] == 0
            assert figures["connections"]["server_disconnects"] == {"0x8b": 30}
    assert process.output.count('"message": "stopped", "records_unsettled": 0') == len(pids)
    assert "told twice" not in process.output
    assert "Traceback" not in process.output


def test_hangup_reloads_and_other_signals_change_nothing(workers: Supervised) -> None:
    pids = [workers.pid(slot) for slot in workers.slots]
    incarnations = workers.wait_until_all_serve()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
        os.kill(workers.supervisor.pid, number)
    workers.supervisor.reload({"routing.rules": [{"filter": "a/#", "topic": "${prefix}new"}]})
    process = workers.supervisor.process
    process.wait_until(lambda: process.output.count('"message": "reloaded", "rules": 1') == 3, "all have reloaded")
    assert workers.wait_until_all_serve() == incarnations
    # What starts later has the new rules too.
    workers.signal(workers.slots[2], signal.SIGKILL)
    workers.wait_for_another(workers.slots[2], incarnations[2])
    process.wait_until(lambda: f"{workers.name}_new" in workers.kafka.topics(), "the new rule's topic is there")
    assert [workers.pid(slot) for slot in workers.slots[:2]] == pids[:2]


def test_one_that_cannot_start_again_leaves_the_others_alone(workers: Supervised) -> None:
    slot, other = workers.slots[0], workers.slots[2]
    before, process = other.incarnation(), workers.supervisor.process
    written = len(process.output)
    os.kill(workers.supervisor.pid, signal.SIGSTOP)  # So that it is not there again before its port is taken.
    pid = workers.signal(slot, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "it is dead")
    with taken(slot.port):
        os.kill(workers.supervisor.pid, signal.SIGCONT)
        process.wait_until(lambda: '"message": "cannot start"' in process.output[written:], "it cannot start", 60)
        assert "ports of a slot are not free yet" in process.output[written:]
    workers.wait_for_another(slot, -1)
    assert other.incarnation() == before


def test_ctrl_c_is_said_to_all_and_drains(mortal: Supervised) -> None:
    process = mortal.supervisor.process
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert process.output.count('"message": "stopped", "records_unsettled": 0') == len(mortal.slots)
    assert "told twice" not in process.output


def test_told_twice_it_waits_for_nobody(mortal: Supervised) -> None:
    process = mortal.supervisor.process
    pid = mortal.signal(mortal.slots[0], signal.SIGSTOP)
    os.kill(process.pid, signal.SIGTERM)
    process.wait_for_output('"message": "stopping"')
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
    assert time.monotonic() - began < DRAIN_SECONDS
    mortal.all_have_ended([pid])


def test_replicas_do_not_outlive_their_supervisor(mortal: Supervised) -> None:
    pids = [mortal.pid(slot) for slot in mortal.slots]
    os.kill(mortal.supervisor.pid, signal.SIGKILL)
    mortal.all_have_ended(pids)


def test_one_that_cannot_start_ends_all(kafka: KafkaBroker, tmp_path: Path) -> None:
    workers = Supervised(kafka, tmp_path, 3)
    with socket.create_server(("127.0.0.1", workers.slots[1].port)):
        command = [sys.executable, "-m", "proxy", "serve", "--config", write_config(workers.supervisor)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"mqk: listeners.bind: cannot listen on 127.0.0.1:{workers.slots[1].port}: " in done.stderr
    assert done.stderr.count("replica started") == 3
    assert "Traceback" not in done.stderr


def taken(port: int) -> socket.socket:
    """A server on that port, as soon as the threads of a process that was killed let go of it."""
    found: list[socket.socket] = []

    def take() -> bool:
        with contextlib.suppress(OSError):
            found.append(socket.create_server(("127.0.0.1", port)))
        return bool(found)

    wait_until(take, f"port {port} is free")
    return found[0]


def write_config(proxy: ProxyProcess) -> Path:
    proxy._write_config()
    return proxy._config
