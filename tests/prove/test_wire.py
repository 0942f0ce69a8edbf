"""Ten minutes of the wire: half of them Hypothesis, with more examples and new ones in every run, half the simulator.

WIRE_MINUTES is the time; WIRE_FIRST_SEED is where the simulator begins, by default where no run has begun before.
"""

import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulator import simulate

MINUTES = float(os.environ.get("WIRE_MINUTES", "10"))
FIRST_SEED = int(os.environ.get("WIRE_FIRST_SEED", str(secrets.randbits(40))))
#: What is true of any bytes and any packets.
PROPERTIES = (
    "tests/mqtt", "tests/session/test_streams.py", "tests/net/test_proxy_header.py", "tests/kafka/test_records.py",
    "tests/cluster/test_inbox.py", "tests/cluster/test_command_records.py", "tests/cluster/test_watermarks.py",
    "tests/policy/test_rules.py", "tests/policy/test_filters.py",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
#: Of the examples of the core tests, in each round.
EXAMPLES_TIMES = "5"


@pytest.fixture
def quiet() -> Iterator[None]:
    """Lost status records are simulated by the thousand; bugs are still logged."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_properties(capsys: pytest.CaptureFixture[str]) -> None:
    """Each round is a process of its own with new examples; those that fail are printed with how to try them again."""
    until = time.monotonic() + MINUTES * 30
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not vectors", *PROPERTIES]
    environment = {**os.environ, "WIRE_EXAMPLES_TIMES": EXAMPLES_TIMES}
    rounds, last = 0, ""
    while not rounds or time.monotonic() < until:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        rounds, last = rounds + 1, done.stdout.splitlines()[-1]
    with capsys.disabled():
        print(f"\nproperties: {rounds} rounds, the last: {last}")


@pytest.mark.usefixtures("quiet")
def test_simulator(capsys: pytest.CaptureFixture[str]) -> None:
    until = time.monotonic() + MINUTES * 30
    seed, messages = FIRST_SEED, 0
    while seed == FIRST_SEED or time.monotonic() < until:
        messages += len(simulate(seed).messages)
        seed += 1
    with capsys.disabled():
        print(f"\nsimulator: {seed - FIRST_SEED} runs from seed {FIRST_SEED}, {messages} messages")
