"""A real Apache Kafka for tests: one node, broker and controller together, on 127.0.0.1, in a directory of its own.

What it is told and what is read from it goes through librdkafka, which shares no code with the client the proxy uses.
Tests of the proxy take the brokers that conftest.py starts; a test that stops, kills or pauses a broker starts its own.
"""

import base64
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.processes import POLL_SECONDS, Process, free_port, wait_until

VERSIONS = ("4.1.0", "3.9.1")
JARS = Path(__file__).parents[2] / ".cache"
#: A start takes about 3 s on an idle machine, about 13 s after `kill`: the controller waits for the end of the dead
#: broker's session (`broker.session.timeout.ms`, 9 s) before it lets the new one in.
START_TIMEOUT_SECONDS = 90.0
#: Options of the virtual machine for a Kafka that runs for minutes: compiling it well would cost more than it saves.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
#: For one whose speed matters.
LONG_LIVED = ()
STOP_TIMEOUT_SECONDS = 60.0
REQUEST_TIMEOUT_SECONDS = 10.0
#: What a broker, or the client that asked it, says of a partition that will be there in a moment.
NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_PARTITION)
#: For one node: nothing is replicated, nothing is deleted, no topic appears by itself, groups wait for no more members.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "min.insync.replicas": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.retention.ms": "-1",
    "log.retention.bytes": "-1",
}


class Record(NamedTuple):
    """One record as Kafka has it; `timestamp` in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int


class KafkaBroker:
    """A Kafka of `version`; `settings` are added to its server.properties. As a context manager it runs to the end.

    With `bootstrap` it is one that somebody else has started: it can be written and read, not stopped. `listeners` are
    doors beside the plain one, by name with the security protocol of each; `java` are options of the virtual machine.
    """

    def __init__(
        self,
        version: str,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        bootstrap: str | None = None,
        listeners: Mapping[str, str] | None = None,
        java: Sequence[str] = SHORT_LIVED,
    ) -> None:
        self.version = version
        self.directory = directory
        self.bootstrap = bootstrap or f"127.0.0.1:{free_port()}"
        #: Host and port of each of the other listeners, by name.
        self.doors = {name: f"localhost:{free_port()}" for name in listeners or {}}
        self._protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self._settings = settings or {}
        self._java_options = java
        self._properties = directory / "server.properties"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def log(self) -> Path:
        return self.directory / "kafka.log"

    @property
    def running(self) -> bool:
        """Whether this object has started it and not ended it."""
        return self._process is not None

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Returns when every topic it had can be written again; the first start makes it an empty Kafka."""
        if not self._properties.exists():
            self._format()
        self._process = Process(self._java("kafka.Kafka", self._properties), self.log)
        try:
            self._process.wait_until(self._answers, f"Kafka {self.version} answers", START_TIMEOUT_SECONDS)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends it as an operator would: SIGTERM, everything flushed."""
        self._running().terminate(STOP_TIMEOUT_SECONDS)
        self._process = None

    def kill(self) -> None:
        """SIGKILL. Does nothing to a broker that does not run."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes it: connections stay open, nothing is answered, until `resume`."""
        self._running().pause()

    def resume(self) -> None:
        self._running().resume()

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Returns when the topic can be written."""
        topic = NewTopic(name, partitions, 1, config=dict(config or {}))
        admin = self._admin()  # Held until the answer is here: with it go its requests.
        admin.create_topics([topic])[name].result(REQUEST_TIMEOUT_SECONDS)
        wait_until(lambda: self._partitions().get(name) == partitions, f"topic {name} can be written")

    def topics(self) -> dict[str, int]:
        """The number of partitions of every topic, Kafka's own left out."""
        return {name: partitions for name, partitions in self._partitions().items() if not name.startswith("__")}

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        with self._consumer() as consumer:
            return {partition: high for partition, (_, high) in _ends(consumer, topic, REQUEST_TIMEOUT_SECONDS).items()}

    def read(
        self,
        topic: str,
        count: int | None = None,
        timeout_seconds: float = 30.0,
        since: Mapping[int, int] | None = None,
    ) -> list[Record]:
        """Returns all committed records of a topic, by partition and offset, up to its ends at the time of the call.

        With `count` it also waits until there are as many; more than that, if there are more, are returned too, because
        a record too many is what such a test must see. TimeoutError when either is not reached in time, KafkaException
        when Kafka does not answer at all. `since` are the offsets to begin with, by partition.
        """
        with self._consumer() as consumer:
            return _read(consumer, topic, count, timeout_seconds, since or {})

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        client = {"bootstrap.servers": self.bootstrap, "group.id": "tests", "enable.auto.commit": False}
        consumer = Consumer({**client, "enable.partition.eof": True})
        try:
            yield consumer
        finally:
            consumer.close()

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"Kafka {self.version} in {self.directory} does not run")
        return self._process

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        jars = JARS / f"kafka-{self.version}"
        if not jars.is_dir():
            raise RuntimeError(f"Kafka {self.version} is not in {jars}: `make test` downloads it")
        return [
            "java",
            "-Xmx512m",
            *self._java_options,
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{jars}/*",
            main,
            *arguments,
        ]

    def _format(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        controller = f"127.0.0.1:{free_port()}"
        doors = ",".join(f"{name}://{address}" for name, address in {"PLAINTEXT": self.bootstrap, **self.doors}.items())
        settings = {
            **SETTINGS,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{doors},CONTROLLER://{controller}",
            "advertised.listeners": doors,
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in self._protocols.items()),
            "log.dirs": str(self.directory / "data"),
            **self._settings,
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # With "=", because an id may begin with a hyphen.
        command = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", self._properties)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka {self.version} could not be set up in {self.directory}:\n{done.stdout}")

    def _answers(self) -> bool:
        host, _, port = self.bootstrap.partition(":")
        try:
            # librdkafka would write a line to standard error for every attempt before the port is open.
            socket.create_connection((host, int(port)), timeout=1).close()
            return -1 not in self._partitions().values()
        except (OSError, KafkaException):
            return False

    def _admin(self) -> AdminClient:
        # One for each use: a lasting one would complain on standard error whenever a test stops the broker.
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def _partitions(self) -> dict[str, int]:
        """The number of partitions of every topic; -1 while one of them has no leader."""
        topics = self._admin().list_topics(timeout=REQUEST_TIMEOUT_SECONDS).topics
        return {
            name: -1
            if any(partition.leader == -1 for partition in topic.partitions.values())
            else len(topic.partitions)
            for name, topic in topics.items()
        }


def _read(
    consumer: Consumer, topic: str, count: int | None, timeout_seconds: float, since: Mapping[int, int]
) -> list[Record]:
    deadline = time.monotonic() + timeout_seconds
    ends = _ends(consumer, topic, timeout_seconds)
    reached = {partition: since.get(partition, low) for partition, (low, _) in ends.items()}
    consumer.assign([TopicPartition(topic, partition, low) for partition, low in reached.items()])
    records: list[Record] = []
    while len(records) < (count or 0) or any(reached[partition] < high for partition, (_, high) in ends.items()):
        if time.monotonic() > deadline:
            wanted = "all of them" if count is None else f"{count} of them"
            raise TimeoutError(f"{len(records)} records of topic {topic} after {timeout_seconds:g} s, not {wanted}")
        for message in consumer.consume(1000, timeout=0.1):
            if message.error() is None:
                reached[message.partition()] = message.offset() + 1
                records.append(_record(message))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                # Counts too, because the end of a transaction takes an offset without being a record.
                reached[message.partition()] = message.offset()
            else:
                raise KafkaException(message.error())
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _ends(consumer: Consumer, topic: str, timeout_seconds: float) -> dict[int, tuple[int, int]]:
    """The first and the next offset of each partition, by partition."""
    metadata = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return {partition: _offsets(consumer, topic, partition, timeout_seconds) for partition in metadata.partitions}


def _offsets(consumer: Consumer, topic: str, partition: int, timeout_seconds: float) -> tuple[int, int]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_seconds)
        except KafkaException as error:
            # A topic is listed a moment before the broker leads all its partitions, after a restart too.
            if error.args[0].code() not in NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _record(message: Message) -> Record:
    _, timestamp = message.timestamp()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        message.headers() or [],
        timestamp,
    )
