"""One proxy for all the clients that others wrote, and the programs that drive those in Java."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess
from tests.support.workers import alone, run_directory

SOURCES = Path(__file__).parent / "java"
JARS = SOURCES.parents[2] / ".cache" / "peers"


@pytest.fixture(scope="package")
def proxy(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with ProxyProcess(kafka.bootstrap, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def java_classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where Java finds the programs, compiled once for all workers of the run, and the clients that they drive."""
    classes = run_directory(tmp_path_factory) / "java"
    classes.mkdir(exist_ok=True)
    with alone(classes):
        if not list(classes.glob("*.class")):
            command = ["javac", "-cp", f"{JARS}/*", "-d", classes, *sorted(SOURCES.glob("*.java"))]
            subprocess.run(command, check=True)
    return f"{classes}:{JARS}/*"
