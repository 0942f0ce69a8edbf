"""Kafka goes away for some seconds under load; `tests/prove/test_outage.py` does the same for a minute."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import DISCONNECT, Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.outage import SETTINGS, check, outage
from tests.support.processes import wait_until

#: Long enough for /healthz to notice, which takes 8 s.
SECONDS = 12.0
DRAIN_SECONDS = 6
#: A slow machine.
OVERRUN_SECONDS = 1.0
SERVER_BUSY, SERVER_SHUTTING_DOWN = 0x89, 0x8B


@contextmanager
def paused(kafka: KafkaBroker) -> Iterator[None]:
    kafka.pause()
    try:
        yield
    finally:
        kafka.resume()


def test_frozen(start_proxy: StartProxy, mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    proxy = start_proxy(SETTINGS, mortal_kafka.bootstrap)
    check(proxy, *outage(proxy, mortal_kafka, tmp_path, SECONDS, mortal_kafka.pause, mortal_kafka.resume))


def test_stopped(start_proxy: StartProxy, mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    proxy = start_proxy(SETTINGS, mortal_kafka.bootstrap)
    check(proxy, *outage(proxy, mortal_kafka, tmp_path, SECONDS, mortal_kafka.stop, mortal_kafka.start))


def test_the_delivery_deadline(start_proxy: StartProxy, mortal_kafka: KafkaBroker) -> None:
    """Who waits for an acknowledgement hears that it will not come, and nobody else loses their connection."""
    proxy = start_proxy({"kafka.delivery_timeout_seconds": 2}, mortal_kafka.bootstrap)
    with Device(proxy.port) as old, Device(proxy.port, 5) as new, Device(proxy.port, 5) as idle:
        for client_id, device in (("old", old), ("new", new), ("idle", idle)):
            device.connect(client_id)
            device.publish_acknowledged(f"tlink/{client_id}", b"stored")
        with paused(mortal_kafka):
            old.publish("tlink/old", b"unknown")
            new.publish("tlink/new", b"unknown")
            assert (old.rest(), new.rest()) == ([], [(DISCONNECT, bytes([SERVER_BUSY]))])
        idle.ping()
        idle.publish_acknowledged("tlink/idle", b"stored")
    with Device(proxy.port) as device:
        device.connect("old")
        device.publish_acknowledged("tlink/old", b"unknown", dup=True)

    def announced() -> bool:
        said = b"".join(record.value or b"" for record in mortal_kafka.read(f"{proxy.topic_prefix}status"))
        return said.count(b'"reason":"kafka_unavailable"') == 2

    wait_until(announced, "both ends are announced", 15)


def test_sigterm_while_kafka_is_frozen(start_proxy: StartProxy, mortal_kafka: KafkaBroker) -> None:
    proxy = start_proxy({"node.drain_seconds": DRAIN_SECONDS}, mortal_kafka.bootstrap)
    with Device(proxy.port, 5) as device:
        device.connect("waiting")
        device.publish_acknowledged("tlink/waiting", b"stored")
        with paused(mortal_kafka):
            device.publish("tlink/waiting", b"unknown", packet_id=2)
            device.ping()
            began = time.monotonic()
            assert proxy.terminate() == 0
            assert time.monotonic() - began < DRAIN_SECONDS + OVERRUN_SECONDS
            assert device.rest() == [(DISCONNECT, bytes([SERVER_SHUTTING_DOWN]))], "a PUBACK, or not a word"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_it_short(
    start_proxy: StartProxy, mortal_kafka: KafkaBroker, number: signal.Signals
) -> None:
    proxy = start_proxy({"node.drain_seconds": 600}, mortal_kafka.bootstrap)
    with Device(proxy.port, 5) as device:
        device.connect("impatient")
        with paused(mortal_kafka):
            device.publish("tlink/impatient", b"unknown")
            device.ping()
            os.kill(proxy.pid, number)
            proxy.process.wait_for_output('"message": "draining"')
            os.kill(proxy.pid, number)
            assert proxy.process.wait(10) == {signal.SIGTERM: 0, signal.SIGINT: 128 + signal.SIGINT}[number]
            assert device.rest() == [(DISCONNECT, bytes([SERVER_SHUTTING_DOWN]))], "a PUBACK, or not a word"
