"""Processes of tests end with the tests: stopped by them, reported when forgotten, killed when the run itself dies."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.processes import Process, free_port, left_behind, wait_until

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
#: Starts a child that outlives it, and says which.
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).pid, flush=True)"
#: Starts a process as a test does, then dies as a test run does that somebody kills.
DOOMED_RUN = f"""
import os, pathlib, signal, sys
from tests.support.processes import Process
process = Process([sys.executable, "-c", {SLEEPER!r}], pathlib.Path(sys.argv[1]))
process.wait_for_output("ready")
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(code: str, log: Path, *arguments: str | Path) -> Process:
    return Process([sys.executable, "-c", code, *arguments], log)


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # A zombie has ended; nobody has asked how.


def test_sigterm_ends_a_process_and_its_status_is_told(tmp_path: Path) -> None:
    process = python(SLEEPER, tmp_path / "log")
    process.wait_for_output("ready")
    assert process.alive
    assert process.terminate() == -signal.SIGTERM
    assert not process.alive


def test_output_begins_where_the_process_began(tmp_path: Path) -> None:
    for word in ("first", "second"):
        process = python(f"print({word!r})", tmp_path / "log")
        assert process.wait() == 0
        assert process.output == f"{word}\n"


def test_waiting_for_a_process_that_has_failed_shows_what_it_wrote(tmp_path: Path) -> None:
    process = python("print('no such port'); raise SystemExit(2)", tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 2 before: 'ready' in its output.*no such port"):
        process.wait_for_output("ready")
    process.kill()


def test_waiting_too_long_shows_what_it_wrote(tmp_path: Path) -> None:
    with python(SLEEPER, tmp_path / "log") as process:
        process.wait_for_output("ready")
        with pytest.raises(TimeoutError, match=r"(?s)not after 0\.1 s: 'never' in its output.*wrote:\nready"):
            process.wait_for_output("never", timeout_seconds=0.1)
        with pytest.raises(TimeoutError, match=r"had not ended after 0\.1 s"):
            process.wait(0.1)


def test_a_child_that_outlives_its_process_is_an_error_and_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GROUP_TIMEOUT_SECONDS", 0.1)
    process = python(PARENT, tmp_path / "log")
    with pytest.raises(TimeoutError, match="the children of process"):
        process.wait()
    child = int(process.output.split()[0])
    wait_until(lambda: not exists(child), "the child is dead")


def test_a_forgotten_process_is_named_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_running", [])  # The brokers that all tests share are not forgotten.
    process = python(SLEEPER, tmp_path / "log")
    [line] = left_behind()
    assert str(process) in line
    assert "test_a_forgotten_process" in line
    assert not process.alive
    assert left_behind() == []


def test_a_killed_test_run_takes_its_processes_along(tmp_path: Path) -> None:
    run = python(DOOMED_RUN, tmp_path / "log", tmp_path / "child.log")
    assert run.wait() == -signal.SIGKILL
    child = int(run.output)
    wait_until(lambda: not exists(child), "the process of the killed run is dead")


def test_a_paused_process_can_be_killed(tmp_path: Path) -> None:
    process = python(SLEEPER, tmp_path / "log")
    process.pause()
    process.kill()
    assert not exists(process.pid)


def test_no_port_is_given_twice() -> None:
    assert len({free_port() for _ in range(100)}) == 100
