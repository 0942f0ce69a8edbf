"""What a person reads says what matters in each case, and does not print what was not measured."""

from typing import Any

import pytest

from loadtest.report import describe_verification
from tests.loadtest.fake_server import FakeServer
from tests.loadtest.test_cli import loadtest


async def test_idle_connections_have_no_rate_but_pings() -> None:
    server = FakeServer()
    flags: list[Any] = ["--idle", "--connections", 3, "--seconds", "0.3", "--ping-every", "0.05"]
    async with server.running():
        code, output, _ = await loadtest("run", "--target", server.target, *flags)
    assert code == 0
    assert "0 connections that publish" in output
    assert "3 idle" in output
    assert "rate" not in output
    assert "ping idle" in output
    assert "ping publishing" not in output


async def test_qos_0_is_labelled_as_not_acknowledged() -> None:
    server = FakeServer()
    async with server.running():
        code, output, _ = await loadtest("run", "--target", server.target, "--qos", 0, "--stop-after", 50)
    assert code == 0
    assert "written, QoS 0: not acknowledged (50 in" in output
    assert "ack latency" not in output


@pytest.mark.parametrize(("spread", "said"), [(0, False), (2, True)])
def test_devices_spread_over_partitions_are_mentioned_when_there_are_any(spread: int, said: bool) -> None:
    kinds = ("lost", "corrupted", "reordered", "duplicated")
    counts = {"records": 5, "devices": 2, "unacknowledged": 0, "spread": spread, **dict.fromkeys(kinds, 1)}
    text = describe_verification({**counts, "examples": {kind: [f"an example of {kind}"] for kind in kinds}})
    assert all(f"an example of {kind}" in text for kind in kinds)
    assert ("2 devices have records in several partitions" in text) is said
