"""The supervisor's own rules: when a slot starts, what is kept of a complaint, and what each slot is given."""

import os
import signal
import socket

import pytest

from proxy import limits
from proxy.config import ConfigErrors, Settings, load
from proxy.errors import ConfigError
from proxy.worker import Board, Slots, taken_ports


def settings(*flags: str) -> Settings:
    return load(None, ["auth.anonymous=true", "node.id=host", *flags], {}).settings


def listening(settings: Settings) -> tuple[str, str]:
    addresses = settings.addresses()
    return addresses["admin.bind"], addresses["listeners[0].bind"]


# ---- slots have names and ports ----


def test_each_slot_has_a_name_and_ports_of_its_own() -> None:
    given = settings("node.workers=3", "node.slot_port_step=10")
    slots = [given.in_slot(number) for number in range(3)]
    assert [slot.node.id for slot in slots] == ["host-0", "host-1", "host-2"]
    assert listening(slots[0]) == listening(given) == ("127.0.0.1:8080", "0.0.0.0:1883")
    assert listening(slots[2]) == ("127.0.0.1:8100", "0.0.0.0:1903")


def test_any_port_stays_any_port_in_every_slot() -> None:
    given = settings("node.workers=2", 'listeners=[{"bind": "[::]:0"}]', "admin.bind=localhost:0")
    assert listening(given.in_slot(1)) == ("localhost:0", "[::]:0")


def test_what_is_no_address_is_the_same_in_every_slot() -> None:
    given = settings("node.workers=2")
    assert given.in_slot(1).kafka == given.kafka
    assert given.in_slot(1).node.drain_seconds == given.node.drain_seconds


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["admin.bind=127.0.0.1:1884"],
            "admin.bind of slot 0 and listeners[0].bind of slot 1 are both port 1884: choose others",
        ),
        (
            ['listeners=[{"bind": "10.0.0.1:1883"}, {"bind": "10.0.0.1:1884"}]'],
            "listeners[1].bind of slot 0 and listeners[0].bind of slot 1 are both port 1884: choose others",
        ),
        (["admin.bind=127.0.0.1:65534"], "admin.bind of slot 2 would be a port above 65535"),
        (["node.workers=257"], "node.workers: should be less than or equal to 256"),
        (["node.workers=0"], "node.workers: should be greater than or equal to 1"),
        (["node.slot_port_step=0"], "node.slot_port_step: should be greater than or equal to 1"),
        ([f"node.id={'x' * 63}"], f"the node id {'x' * 63}-2 would be longer than 64 characters"),
    ],
)
def test_slots_that_would_meet_are_refused(flags: list[str], complaint: str) -> None:
    with pytest.raises(ConfigErrors) as refused:
        settings("node.workers=3", *flags)
    assert complaint in str(refused.value)


def test_the_same_port_of_two_hosts_is_no_meeting() -> None:
    settings("node.workers=3", 'listeners=[{"bind": "10.0.0.1:1883"}, {"bind": "10.0.0.2:1884"}]')


def test_one_worker_may_have_what_several_may_not() -> None:
    settings("node.workers=1", "admin.bind=127.0.0.1:65535", f"node.id={'x' * 64}")


# ---- when a slot starts ----


def test_a_slot_that_is_free_starts_at_once() -> None:
    slots = Slots(3)
    assert slots.due(set(), 100.0) == [0, 1, 2]
    slots.started(1, 100.0)
    assert slots.due({1}, 100.0) == [0, 2]


def test_what_ends_again_and_again_is_started_less_and_less_often() -> None:
    slots, now, gaps = Slots(1), 100.0, []
    for _ in range(8):
        slots.started(0, now)
        began = now
        while not slots.due(set(), now):
            now += 0.25
        gaps.append(now - began)
    assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_long_life_is_followed_by_a_short_pause() -> None:
    slots = Slots(1)
    slots.started(0, 100.0)
    slots.started(0, 101.0)
    assert not slots.due(set(), 102.9)
    slots.started(0, 101.5 + limits.WORKER_STEADY_SECONDS)
    assert slots.due(set(), 102.5 + limits.WORKER_STEADY_SECONDS) == [0]


def test_starts_are_counted() -> None:
    slots = Slots(2)
    for now in (1.0, 2.0):
        slots.started(1, now)
    assert slots.starts == [0, 2]


def test_a_start_waits_for_its_ports_but_not_for_ever() -> None:
    slots = Slots(1)
    assert slots.may_wait(0, 100.0)
    assert slots.may_wait(0, 99.9 + limits.WORKER_PORTS_SECONDS_MAX)
    assert not slots.may_wait(0, 100.0 + limits.WORKER_PORTS_SECONDS_MAX)
    slots.started(0, 200.0)
    assert slots.may_wait(0, 300.0)


def test_ports_that_are_taken_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bind = f"127.0.0.1:{server.getsockname()[1]}"
        anywhere = 'listeners=[{"bind": "127.0.0.1:0"}]'
        given = settings(f"admin.bind={bind}", anywhere)
        assert taken_ports(given) == [bind]
        assert taken_ports(settings("admin.bind=127.0.0.1:0", f"node.agent_bind={bind}", anywhere)) == [bind]
    assert taken_ports(given) == []


def test_an_address_that_is_not_ours_is_not_taken() -> None:
    assert taken_ports(settings("admin.bind=127.0.0.1:0", 'listeners=[{"bind": "192.0.2.1:1883"}]')) == []


# ---- what replicas say ----


@pytest.fixture
def child() -> Board:
    """What another process has written is read here."""
    board = Board(3)
    pid = os.fork()
    if pid == 0:
        board.serves(2)
        board.complain(ConfigError("kafka.client", "ü" * limits.WORKER_COMPLAINT_BYTES_MAX))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return board


def test_the_supervisor_reads_what_a_dead_replica_wrote(child: Board) -> None:
    assert [child.has_served(slot) for slot in range(3)] == [False, False, True]
    complaint = child.complaint
    assert complaint is not None
    assert complaint.setting == "kafka.client"
    assert set(complaint.message) <= {"ü", "\ufffd"}


def test_nothing_is_complained_of_at_first() -> None:
    board = Board(1)
    assert board.complaint is None
    board.complain(ConfigError("a", "long message"))
    board.complain(ConfigError("b", "short"))
    assert str(board.complaint) == "b: short"
