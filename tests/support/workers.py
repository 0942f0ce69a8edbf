"""What the workers of one test run (`pytest -n`) share: a directory, in which one does what all need."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run_directory(factory: pytest.TempPathFactory) -> Path:
    """The same for all workers of the run, and for nobody else."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """No other worker is in here for this directory. The kernel lets go of it however a worker ends."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
