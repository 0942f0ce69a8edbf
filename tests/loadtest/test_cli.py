"""`python -m loadtest` as a user runs it, and what it says to wrong use."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli import main
from loadtest.ranges import SequenceRanges
from loadtest.verify import Acknowledged
from tests.loadtest.fake_server import FakeServer, puback


async def loadtest(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    command = (sys.executable, "-m", "loadtest", *map(str, arguments))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_a_run_in_two_processes_reports_figures_and_what_was_acknowledged(tmp_path: Path) -> None:
    server, figures_file, acked_file = FakeServer(), tmp_path / "figures.json", tmp_path / "acked.json"
    flags: list[Any] = ["--connections", 3, "--inflight", 5, "--stop-after", 3000, "--processes", 2, "--version", 5]
    flags += ["--pid", os.getpid(), "--json", figures_file, "--acked-file", acked_file, "--seconds", 20]
    async with server.running():
        code, output, errors = await loadtest("run", "--target", server.target, *flags)
    assert code == 0, errors
    assert "3000 in" in output
    assert "connected 3/3" in errors
    figures = json.loads(figures_file.read_text())
    assert (figures["sent"], figures["acked"], figures["unacknowledged"]) == (3000, 3000, 0)
    assert figures["ack_ms"]["count"] == 3000
    assert figures["settings"]["inflight"] == 5
    assert figures["servers"][0]["pid"] == os.getpid()
    assert figures["servers"][0]["cpu_us_per_message"] > 0
    acked = Acknowledged.from_json(json.loads(acked_file.read_text()))
    assert acked.acked == {index: SequenceRanges([(0, 1000)]) for index in range(3)}


async def test_a_server_that_acks_wrong_ids_fails_the_run() -> None:
    server = FakeServer()
    server.answer = lambda publish: puback(publish) * 2
    async with server.running():
        code, output, _ = await loadtest("run", "--target", server.target, "--stop-after", 10)
    assert code == 1
    assert "duplicate 10" in output or "duplicate 9" in output  # the last one may come after the end


async def test_a_server_that_refuses_is_named_with_its_reason() -> None:
    server = FakeServer()
    server.connack = b"\x20\x02\0\x05"
    async with server.running():
        code, _, errors = await loadtest("run", "--target", server.target, "--connect-timeout", "0.3")
    assert code == 1
    assert "0 of 1 connections" in errors
    assert "CONNECT refused with 0x05" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--target", "localhost"], "--target: expected host:port"),
        (["run", "--target", "h:1", "--size", "15"], "--size: the identity in a payload needs 16 bytes"),
        (["run", "--target", "h:1", "--connections", "0"], "--connections: there must be at least one"),
        (["run", "--target", "h:1", "--inflight", "65536"], "--inflight: must be 1 to 65535"),
        (["run", "--target", "h:1", "--password", "p"], "--password: needs --username"),
        (["run", "--target", "h:1", "--verify", "h:1"], "--verify: expected kafka:host:port"),
        (["verify", "--acked", "nowhere.json", "--kafka", "h:1"], "--acked: nowhere.json is not"),
    ],
)
def test_wrong_use_is_refused_by_the_name_of_the_flag(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_more_connections_than_open_files_is_said_before_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--target", "127.0.0.1:1", "--connections", "100000000", "--processes", "1"]
    assert main(arguments) == 2
    assert "open files" in capsys.readouterr().err


def test_a_process_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--target", "127.0.0.1:1", "--pid", "4194305", "--connections", "1"]) == 2
    assert "--pid 4194305: there is no such process" in capsys.readouterr().err
