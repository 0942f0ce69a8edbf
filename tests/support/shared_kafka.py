"""One Kafka of each version for all workers of a test run: started by the first that asks, stopped when none needs it.

Whoever uses it holds a lock on a file. The kernel lets go of it however a worker ends, so a dead one holds up nobody.
"""

import faulthandler
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.workers import alone

#: The longest that the worker which started a Kafka waits for the others: a whole test run.
OTHERS_SECONDS = 1800.0


@contextmanager
def shared_kafka(version: str, directory: Path) -> Iterator[KafkaBroker]:
    """`directory` is the same for all workers of the run, and for nobody else."""
    place = directory / f"kafka-{version}"
    place.mkdir(exist_ok=True)
    with (place / "users").open("w") as users:
        with alone(place):
            broker = _join_or_start(version, place)
            fcntl.flock(users, fcntl.LOCK_SH)
        yield broker
    if broker.running:
        faulthandler.cancel_dump_traceback_later()  # The test that ends here does not hang: it is the others that run.
        wait_until(lambda: _stopped(broker, place), "the other workers are done", OTHERS_SECONDS)


def _join_or_start(version: str, place: Path) -> KafkaBroker:
    address = place / "bootstrap"
    if address.exists():
        return KafkaBroker(version, place, bootstrap=address.read_text())
    broker = KafkaBroker(version, Path(tempfile.mkdtemp(dir=place)))
    broker.start()
    address.write_text(broker.bootstrap)
    return broker


def _stopped(broker: KafkaBroker, place: Path) -> bool:
    """Stops it unless somebody uses it."""
    with alone(place), (place / "users").open("w") as users, suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (place / "bootstrap").unlink()
        broker.kill()
    return not broker.running
