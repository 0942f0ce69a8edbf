"""The load tool against a server of others: what it counts as right must be right."""

import asyncio
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.run import run_load
from loadtest.settings import LoadSettings
from tests.support.processes import Process, free_port, wait_until

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed"),
]


class Mosquitto:
    """A mosquitto that can be killed and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self.start()

    def start(self) -> None:
        self.process = Process(["mosquitto", "-c", self._config], self._config.with_suffix(".log"))
        self.process.wait_for_output("running")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path)
    yield server
    server.process.kill()


def run(server: Mosquitto, progress: io.StringIO, **settings: Any) -> dict[str, Any]:
    wanted = LoadSettings(host="127.0.0.1", port=server.port, connect_rate=5_000, seconds=30, **settings)
    return run_load(wanted, [server.process.pid], progress).figures


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_qos_and_version(mosquitto: Mosquitto, qos: int, version: int) -> None:
    figures = run(mosquitto, io.StringIO(), connections=20, inflight=20, qos=qos, version=version, stop_after=5_000)
    assert (figures["sent"], figures["acked"], figures["unacknowledged"]) == (5_000, 5_000, 0)
    assert figures["ack_errors"] == {"unknown": 0, "duplicate": 0, "out_of_order": 0}
    assert figures["connections"]["lost"] == 0
    assert not figures["violations"]
    assert figures["servers"][0]["cpu_us_per_message"] > 0
    assert figures["servers"][0]["rss_per_connection_bytes"] >= 0


async def test_a_mosquitto_that_is_killed_and_has_forgotten_everything_gets_the_rest_again(
    mosquitto: Mosquitto,
) -> None:
    progress = io.StringIO()
    settings = {"connections": 20, "inflight": 20, "rate": 2_000, "stop_after": 5_000}
    running = asyncio.create_task(asyncio.to_thread(run, mosquitto, progress, **settings))
    await asyncio.to_thread(wait_until, lambda: re.search(r"acked [1-9]", progress.getvalue()) is not None, "acks")
    mosquitto.process.kill()
    mosquitto.start()
    figures = await running
    assert (figures["sent"], figures["acked"], figures["unacknowledged"]) == (5_000, 5_000, 0)
    assert figures["ack_errors"] == {"unknown": 0, "duplicate": 0, "out_of_order": 0}
    assert figures["connections"]["lost"] == 20
    assert figures["servers"] == [{"pid": figures["servers"][0]["pid"], "ended": True}]
