"""Log lines: how they look to people and to machines, and that a noisy library cannot drown the rest."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from proxy import logs
from proxy.admin.api import log as audit_log


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards: set_up owns it in a process."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def written(stream: io.StringIO, form: Literal["auto", "console", "json"], root: logging.Logger) -> logging.Logger:
    root.handlers[:] = [logs.make_handler(stream, form, Clock())]
    root.setLevel("INFO")
    return logging.getLogger("proxy.some.room")


def test_a_terminal_gets_lines_for_people(root: logging.Logger) -> None:
    stream = Terminal()
    written(stream, "auto", root).info("listening on %s", "a:1", extra={"bind": "a b", "count": 3})
    time_of_day, rest = stream.getvalue().split(" ", 1)
    assert len(time_of_day) == len("12:00:01.250")
    assert rest == 'INFO    proxy.some.room  listening on a:1  bind="a b"  count=3\n'


def test_a_file_gets_json(root: logging.Logger) -> None:
    stream = io.StringIO()
    log = written(stream, "auto", root)
    log.warning("a %s", "b", extra={"client_id": "c", "odd": {1}, "level": "forged"})
    log.info("quiet")
    log.debug("not wanted")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning", "logger": "proxy.some.room", "message": "a b", "client_id": "c", "odd": "{1}",
    }  # fmt: skip
    assert second["message"] == "quiet"


def test_what_is_asked_for_beats_the_terminal(root: logging.Logger) -> None:
    terminal, file = Terminal(), io.StringIO()
    written(terminal, "json", root).info("x")
    written(file, "console", root).info("x")
    assert json.loads(terminal.getvalue())["message"] == "x"
    assert file.getvalue().endswith("INFO    proxy.some.room  x\n")


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_is_kept(form: Literal["console", "json"], root: logging.Logger) -> None:
    stream = io.StringIO()
    log = written(stream, form, root)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue() if form == "console" else json.loads(stream.getvalue())["traceback"]
    assert "Traceback (most recent call last)" in text
    assert text.rstrip().endswith("ValueError: broken")


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_device_cannot_forge_a_line(form: Literal["console", "json"], root: logging.Logger) -> None:
    stream = io.StringIO()
    written(stream, form, root).info("refused %s", "x\n12:00 forged\x1b[2J", extra={"client_id": "y\nz"})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_set_up_owns_the_root(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in range(2):
        logs.set_up("warning", "json", Clock())
    logging.getLogger("a").info("no")
    logging.getLogger("a").warning("yes")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_a_noisy_library_is_held_back_and_the_rest_is_counted(root: logging.Logger) -> None:
    clock, stream = Clock(), io.StringIO()
    handler = logs.make_handler(stream, "json", clock)
    root.handlers[:] = [handler]
    root.setLevel("INFO")
    noisy, ours = logging.getLogger("aiokafka.producer.sender"), logging.getLogger("proxy.kafka.client")
    for number in range(50):
        noisy.warning("no leader %d", number)
        clock.now += 0.1
    ours.info("in between")
    clock.now += 6.0
    ours.info("after the period")
    noisy.warning("again")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == [
        *(f"no leader {number}" for number in range(20)),
        "in between",
        "30 more lines of aiokafka were not shown: at most 20 in 10 s",
        "after the period",
        "again",
    ]


def test_neither_devices_nor_partitions_can_flood_the_log(root: logging.Logger) -> None:
    stream, known = io.StringIO(), logs.suppressed()
    log = written(stream, "json", root)
    devices = ("proxy.flows.client", "proxy.flows.presence", "proxy.net.connection")
    rooms = (*devices, "proxy.kafka.client", "proxy.kafka.partitions", "proxy.kafka.producers")
    for room in rooms:
        for _ in range(30):
            logging.getLogger(room).warning("refused")
    log.info("still heard")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["refused"] * 20 * len(rooms) + ["still heard"]
    assert logs.suppressed() - known == 10 * len(rooms)


def test_each_logger_of_ours_each_library_and_each_level_is_counted_for_itself() -> None:
    limit = logs.RateLimit(1, 10.0, Clock())

    def passes(name: str, level: int = logging.INFO) -> bool:
        return bool(limit.filter(logging.makeLogRecord({"name": name, "levelno": level})))

    assert [passes("aiokafka.client"), passes("aiokafka.conn"), passes("aiokafkaesque")] == [True, False, True]
    assert [passes("proxy.net.doorstep"), passes("proxy.net.connection")] == [True, True]
    assert [passes("proxy.net.doorstep"), passes("proxy.net.doorstep", logging.ERROR)] == [False, True]


def test_each_request_of_an_operator_has_its_line() -> None:
    limit = logs.RateLimit(1, 10.0, Clock())
    audit = logging.makeLogRecord({"name": audit_log.name, "levelno": logging.INFO})
    assert [limit.filter(audit), limit.filter(audit)] == [True, True]


def test_a_quiet_library_is_never_mentioned(root: logging.Logger) -> None:
    clock, stream = Clock(), io.StringIO()
    root.handlers[:] = [logs.make_handler(stream, "json", clock)]
    root.setLevel("INFO")
    for _ in range(5):
        for _ in range(20):
            logging.getLogger("aiokafka").info("line")
        clock.now += 10.0
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["line"] * 100


def test_each_line_says_which_replica_wrote_it(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.set_up("info", "json", Clock(), "host-1")
    logging.getLogger("proxy.any").info("here")
    logging.getLogger("proxy.any").info("of another", extra={"node": "host-2"})
    assert [json.loads(line)["node"] for line in stream.getvalue().splitlines()] == ["host-1", "host-2"]


@pytest.mark.parametrize(
    ("level", "shown"), [("INFO", ["info", "error", "warning"]), ("WARNING", ["error", "warning"])]
)
def test_what_a_library_tries_again_is_for_information(root: logging.Logger, level: str, shown: list[str]) -> None:
    stream = io.StringIO()
    log = written(stream, "json", root)
    root.setLevel(level)
    aiokafka = logging.getLogger("aiokafka.consumer.group_coordinator")
    aiokafka.error("Heartbeat failed")
    try:
        raise ValueError("a bug")
    except ValueError:
        aiokafka.exception("Unexpected error")
    log.warning("ours")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == shown
