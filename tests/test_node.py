"""The composition root: parts that fit together, a start that fails clearly, and a stop that loses nothing."""

import asyncio
import gc
import io
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy import limits, logs, process, wiring
from proxy.config import Settings, load
from proxy.errors import ConfigError, ProxyError
from proxy.kafka.batches import md5_partition
from proxy.kafka.client import GatewaySettings
from proxy.metrics import GatewayMetrics
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_5_0, REQUEST_PROBLEM_INFORMATION, Connect, Publish
from proxy.mqtt.topics import TopicName
from proxy.node import Node
from proxy.policy.partitioners import murmur2_partition
from tests.support.fakes import ShortSleeps, until
from tests.support.memory_commands import MemoryCommands
from tests.support.memory_gateway import PARTITIONS, MemoryGateway
from tests.support.memory_log import MemoryKafka

#: It wants no reasons in words, so that answers are a few known bytes.
CONNECT = encode_packet(Connect(MQTT_5_0, "c1", keep_alive=60, properties={REQUEST_PROBLEM_INFORMATION: 0}), MQTT_5_0)
PUBLISH = encode_packet(Publish(TopicName("tlink/a", b"tlink/a"), b"hi", 1, packet_id=1), MQTT_5_0)
PUBACK = b"\x40\x02\x00\x01"
DEFAULT_CLUSTER = {"cluster": "default"}
SHUTTING_DOWN = b"\xe0\x01\x8b"


def settings(file: Path | None = None, **overrides: object) -> Settings:
    flags = {
        "node.id": "node-7",
        "kafka.topic_prefix": "t_",
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin.bind": "127.0.0.1:0",
        "auth.anonymous": True,
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    given = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in flags.items()]
    return load(file, given, {}).settings


class Gateway(MemoryGateway):
    """Kafka in memory, with what the composition root asks of the real one beside."""

    latest: "Gateway"
    kafka: MemoryKafka

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        super().__init__(queue_bytes_max=settings.queue_bytes_max, md5_partitions=settings.md5_partitions)
        self.unknown_topics = self.learned_topics = 0
        self.settings = settings
        self.stopped = False
        Gateway.latest = self
        Gateway.kafka.gateways.append(self)

    def partitions(self, topic: str) -> int:
        return PARTITIONS

    async def stop(self) -> None:
        self.stopped = True
        await super().stop()


@pytest.fixture(autouse=True)
def kafka_in_memory(monkeypatch: pytest.MonkeyPatch) -> MemoryKafka:
    Gateway.kafka = MemoryKafka()
    Gateway.kafka.install(monkeypatch)
    MemoryCommands(Gateway.kafka).install(monkeypatch)
    monkeypatch.setattr(limits, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr("proxy.node.AioKafkaGateway", Gateway)
    monkeypatch.setattr("uvicorn.server.asyncio", ShortSleeps())
    return Gateway.kafka


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(**overrides: object) -> Node:
        made.append(Node(settings(**overrides)))
        return made[-1]

    yield make
    for each in made:
        for task in (each.running, each.rebalancing):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        await each.switchboard.close()
        each.listener.stop()
        each.agent.stop()
        each.chain.close()
        each.admin._socket.close()


def port_of(replica: Node) -> int:
    (server,) = replica.listener._servers
    port: int = server.sockets[0].getsockname()[1]
    return port


async def connect(replica: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(replica))
    writer.write(CONNECT)
    head = await asyncio.wait_for(reader.readexactly(2), 5)
    connack = await reader.readexactly(head[1])
    assert connack[1] == 0
    return reader, writer


# ---- what the operator sees ----


async def test_ready_once_it_has_started(make: Callable[..., Node]) -> None:
    replica = make()
    assert (replica.ready().ok, replica.ready().detail) == (False, "waiting for kafka, or for the session log")
    await replica.start()
    assert (replica.ready().ok, replica.ready().detail) == (True, "ready")


async def test_ready_in_an_outage_and_while_it_drains(make: Callable[..., Node]) -> None:
    replica = make()
    await replica.start()
    Gateway.latest.ready = False
    replica.uplink.draining = True
    assert replica.ready().ok


async def test_healthy_only_while_kafka_answers(make: Callable[..., Node]) -> None:
    replica = make()
    assert {name: check.ok for name, check in replica.checks().items()} == {
        "kafka": True, "sessions": False, "bans": False, "started": False, "safe": True,
    }  # fmt: skip
    await replica.start()
    assert all(check.ok for check in replica.checks().values())
    Gateway.latest.ready = False
    Gateway.latest.congested = True
    check = replica.checks()["kafka"]
    assert not check.ok
    assert check.detail == {
        "bootstrap_servers": ["127.0.0.1:9092"],
        "queued_bytes": 0,
        "oldest_record_seconds": 0.0,
        "congested": True,
        "fault": None,
    }
    Gateway.latest.ready = True
    Gateway.latest.fault = "kafka.client.ssl_certfile: broker kafka:9093 refuses it"
    check = replica.checks()["kafka"]
    assert not check.ok
    assert "ssl_certfile" in str(check.detail)
    assert b'mqk_kafka_fault{cluster="default"} 1.0' in replica.metrics.exposition()


async def test_each_cluster_has_a_check_and_figures(make: Callable[..., Node]) -> None:
    replica = make(kafka__clusters__backup__bootstrap_servers="b:9092", kafka__clusters__backup__partitions=3)
    await replica.start()
    backup = Gateway.latest
    assert backup.settings.bootstrap_servers == ["b:9092"]
    assert (backup.settings.partitions, backup.settings.client_id) == (3, "mqk-node-7")
    assert replica.checks().keys() == {"kafka", "kafka.backup", "started", "sessions", "bans", "safe"}
    backup.ready = False
    replica.clusters.problems["backup"] = ConfigError("kafka.clusters.backup.create_topics", "false")
    checks = replica.checks()
    assert (checks["kafka"].ok, checks["kafka.backup"].ok) == (True, False)
    assert "problem" not in dict(checks["kafka"].detail)  # type: ignore[call-overload]
    assert checks["kafka.backup"].detail == {
        "bootstrap_servers": ["b:9092"],
        "queued_bytes": 0,
        "oldest_record_seconds": 0.0,
        "congested": False,
        "fault": None,
        "problem": "kafka.clusters.backup.create_topics: false",
    }
    read = replica.metrics.registry.get_sample_value
    assert [read("mqk_kafka_ready", {"cluster": name}) for name in ("default", "backup")] == [1, 0]


async def test_relief_of_a_further_cluster_reaches_who_is_held_for_it(make: Callable[..., Node]) -> None:
    replica = make(kafka__clusters__backup__bootstrap_servers="b:9092")
    await replica.start()
    backup = Gateway.latest
    _, writer = await connect(replica)
    [connection] = replica.listener.connections
    backup.congested = True
    connection.hold_for(backup)
    backup.congested = False
    backup.on_relief()
    await until(lambda: replica.listener.held == 0, "the device goes on")
    await replica.stop(0)
    assert all(gateway.stopped for gateway in replica.clusters.gateways.values())  # type: ignore[attr-defined]
    writer.close()


async def test_dead_letters_have_a_topic_unless_they_are_off(make: Callable[..., Node]) -> None:
    make()
    assert Gateway.latest.settings.dead_letter_topic == "t_dead_letter"
    make(routing__dead_letter=False)
    assert Gateway.latest.settings.dead_letter_topic is None


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({}, []),
        ({"kafka__unsafe_idempotence": False}, ["kafka.unsafe_idempotence"]),
        (
            {"kafka__unsafe_acks": "1", "kafka__unsafe_idempotence": False},
            ["kafka.unsafe_acks", "kafka.unsafe_idempotence"],
        ),
    ],
)
async def test_what_weakens_the_promise_is_named(
    make: Callable[..., Node], overrides: dict[str, object], named: list[str]
) -> None:
    replica = make(**overrides)
    check = replica.checks()["safe"]
    assert check.ok == (not named)
    assert check.detail == (named or "acks=all, idempotent")
    assert replica.metrics.registry.get_sample_value("mqk_unsafe") == bool(named)


async def test_topics_are_those_of_the_rules_and_of_the_status(make: Callable[..., Node]) -> None:
    assert make().topics == ["t_ota", "t_sub_register", "t_sub_status", "t_msg", "t_status"]
    assert make(routing__preset="single", status__topic="who").topics == ["emqx-topic", "who"]


async def test_figures_are_read_when_they_are_asked_for(make: Callable[..., Node]) -> None:
    replica = make(limits__connections_max=1)
    await replica.start()
    read = replica.metrics.registry.get_sample_value
    _, writer = await connect(replica)
    assert read("mqk_connections") == 1
    Gateway.latest.hold()
    writer.write(PUBLISH)
    await until(lambda: read("mqk_kafka_queue_bytes", DEFAULT_CLUSTER), "the queue")
    assert read("mqk_kafka_ready", DEFAULT_CLUSTER) == 1
    assert (read("mqk_connections_held"), read("mqk_connections_refused_total")) == (0, 0)
    other, other_writer = await asyncio.open_connection("127.0.0.1", port_of(replica))
    assert await asyncio.wait_for(other.read(), 5) == b""
    assert read("mqk_connections_refused_total") == 1
    for each in (writer, other_writer):
        each.close()
    await until(lambda: read("mqk_connections") == 0, "everybody has left")


async def test_suppressed_log_lines_are_counted(make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    read = make().metrics.registry.get_sample_value
    monkeypatch.setattr(logs, "LINES_MAX", 2)
    handler = logs.make_handler(io.StringIO(), "json", lambda: 0.0)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    assert read("mqk_log_lines_suppressed_total") == 0
    for _ in range(5):
        logging.getLogger("proxy.net.doorstep").warning("a flood")
    assert read("mqk_log_lines_suppressed_total") == 3


# ---- life ----


async def test_a_device_from_connect_to_shutdown(make: Callable[..., Node]) -> None:
    replica = make()
    await replica.start()
    gateway = Gateway.latest
    reader, writer = await connect(replica)
    gateway.hold()
    writer.write(PUBLISH)
    await until(
        lambda: replica.metrics.registry.get_sample_value("mqk_kafka_queue_bytes", DEFAULT_CLUSTER), "the message waits"
    )
    stopping = asyncio.create_task(replica.stop(10))
    gateway.release()
    await asyncio.wait_for(stopping, 5)
    assert await asyncio.wait_for(reader.read(), 5) == PUBACK + SHUTTING_DOWN
    assert [(record.key, record.value) for record in gateway.stored("t_msg")] == [(b"tlink/a", b"hi")]
    actions = [json.loads(record.value or b"")["action"] for record in gateway.stored("t_status")]
    assert actions == ["connected", "disconnected"]
    assert gateway.stopped
    writer.close()


async def test_the_queue_has_a_second_when_there_was_no_time_to_drain(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []

    async def flush(_gateway: Gateway, timeout_seconds: float) -> int:
        allowed.append(timeout_seconds)
        return 1

    monkeypatch.setattr(Gateway, "flush", flush)
    replica = make()
    await replica.start()
    reader, writer = await connect(replica)
    gateway = Gateway.latest
    gateway.hold()
    writer.write(PUBLISH)
    await until(
        lambda: replica.metrics.registry.get_sample_value("mqk_kafka_queue_bytes", DEFAULT_CLUSTER), "the message waits"
    )
    await asyncio.wait_for(replica.stop(0), 5)
    assert await asyncio.wait_for(reader.read(), 5) == SHUTTING_DOWN
    # The second is for leaving the registry.
    assert allowed == [1.0], "a Kafka that does not take records is not asked to take one more"
    assert gateway.stopped
    writer.close()


@pytest.mark.parametrize(("given", "drained"), [(30.0, 27.0), (4.0, 2.0), (0.0, 0.0)])
async def test_the_devices_leave_time_for_the_end(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, given: float, drained: float
) -> None:
    allowed = []

    async def leave(seconds: float) -> None:
        allowed.append(seconds)

    replica = make()
    monkeypatch.setattr(replica.drainer, "leave", leave)
    await replica.start()
    await replica.stop(given)
    assert allowed == pytest.approx([drained], abs=0.5)


async def test_stop_before_start(make: Callable[..., Node]) -> None:
    await asyncio.wait_for(make().stop(10), 5)
    assert Gateway.latest.stopped


async def test_relief_of_the_queue_reaches_the_held_devices(make: Callable[..., Node]) -> None:
    replica = make()
    await replica.start()
    gateway = Gateway.latest
    gateway.queue_bytes_max = 2000
    reader, writer = await connect(replica)
    await gateway.flush(5)
    gateway.hold()
    for packet_id in range(1, 11):
        message = Publish(TopicName("tlink/a", b"tlink/a"), bytes(100), 1, packet_id=packet_id)
        writer.write(encode_packet(message, MQTT_5_0))
        await writer.drain()
        await asyncio.sleep(0)
    await until(lambda: replica.listener.held == 1, "the device is held")
    assert gateway.congested
    gateway.release()
    answers = await asyncio.wait_for(reader.readexactly(40), 5)
    assert answers == b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in range(1, 11))
    assert replica.listener.held == 0
    writer.close()


async def test_the_load_balancer_hears_of_a_drain_first(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NODE_HEARTBEAT_SECONDS", 0.01)
    replica = make(node__agent_bind="127.0.0.1:0")
    await replica.start()
    server = replica.agent._server
    assert server is not None

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    def state() -> str:
        return replica.membership.registry.nodes["node-7"].state

    assert await ask() == b"100%\n"
    _, writer = await connect(replica)
    replica.drainer.start()
    assert await ask() == b"0%\n"
    assert replica.ready().ok
    assert len(replica.uplink.clients) == 1, "nobody is let go before the balancer has had time to hear it"
    await until(lambda: state() == "draining", "the others know")
    replica.drainer.cancel()
    assert await ask() == b"100%\n"
    await until(lambda: state() == "serving", "the others know that too")
    writer.close()


async def test_whose_proxy_headers_are_believed(make: Callable[..., Node]) -> None:
    replica = make(listeners=[{"bind": "127.0.0.1:0", "proxy_protocol_from": ["127.0.0.0/8"]}])
    await replica.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(replica))
    writer.write(b"PROXY TCP4 10.1.2.3 10.0.0.1 40000 1883\r\n" + CONNECT)
    assert (await asyncio.wait_for(reader.readexactly(2), 5))[0] == 0x20
    assert replica.uplink.clients["c1"].address == "10.1.2.3"
    writer.close()


@pytest.mark.parametrize("wanted", [True, False])
async def test_devices_are_sent_home_unless_nobody_wants_it(make: Callable[..., Node], wanted: bool) -> None:
    replica = make(node__rebalance=wanted)
    await replica.start()
    assert (replica.rebalancing is not None) is wanted


async def test_an_agent_port_that_cannot_be_had(make: Callable[..., Node]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        replica = make(node__agent_bind=bind)
        with pytest.raises(ConfigError, match=f"node.agent_bind: cannot listen on {bind}: .*[Aa]ddress already in use"):
            await replica.start()


async def test_a_listener_that_cannot_be_had(make: Callable[..., Node]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        replica = make(listeners=[{"bind": bind}])
        with pytest.raises(ConfigError, match=f"listeners.bind: cannot listen on {bind}: .*[Aa]ddress already in use"):
            await replica.start()
    assert not replica.ready().ok


async def test_more_md5_partitions_than_a_topic_has(make: Callable[..., Node]) -> None:
    await make(routing__md5_partitions=PARTITIONS).start()
    with pytest.raises(ConfigError, match=f"md5_partitions: {PARTITIONS + 1}, but topic t_ota has {PARTITIONS} parti"):
        await make(routing__md5_partitions=PARTITIONS + 1).start()


async def test_settings_reach_their_parts(make: Callable[..., Node]) -> None:
    replica = make(
        kafka__queue_bytes_max=2_000_000, mqtt__receive_maximum=7, kafka__headers="mqtt.qos",
        routing__unmatched="reject", status__key="action",
    )  # fmt: skip
    gateway = Gateway.latest.settings
    assert (gateway.client_id, gateway.queue_bytes_max, gateway.acks) == ("mqk-node-7", 2_000_000, "all")
    assert gateway.client == {"security_protocol": "PLAINTEXT"}
    assert replica.listener.session_limits.receive_maximum == 7
    assert replica.uplink.settings.unmatched == "reject"
    assert list(replica.uplink.settings.headers) == ["mqtt.qos"]
    make(kafka__unsafe_acks="1", kafka__unsafe_idempotence=False)
    assert Gateway.latest.settings.acks == 1


# ---- the process ----


@pytest.fixture
def unchanged_process() -> Iterator[None]:
    """`_serve` sets up the garbage collector for a process of its own."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


async def serving(
    companion: Any = process._no_companion, **overrides: object
) -> "tuple[asyncio.Task[int], list[Node]]":
    """The process's own main function in a task, up to the moment when devices can connect."""
    nodes: list[Node] = []

    async def accompany(replica: Node) -> None:
        nodes.append(replica)
        await companion(replica)

    task = asyncio.create_task(process._serve(settings(**overrides), partial(settings, **overrides), accompany))
    await until(lambda: nodes or task.done(), "the replica has started")
    return task, nodes


@pytest.mark.usefixtures("unchanged_process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_it(number: signal.Signals, code: int) -> None:
    task, (replica,) = await serving()
    ports = [replica.admin.port, port_of(replica)]
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(task, 5) == code
    assert Gateway.latest.stopped
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.usefixtures("unchanged_process")
async def test_a_second_signal_ends_it_at_once() -> None:
    task, (replica,) = await serving(node__drain_seconds=3600)
    reader, writer = await connect(replica)
    await Gateway.latest.flush(5)
    Gateway.latest.hold()
    writer.write(PUBLISH)
    await until(lambda: len(Gateway.latest._queue), "the message waits")
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: replica.uplink.draining, "it drains")
    assert not task.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0
    replica.listener.stop()
    # Without its PUBACK: it will send the message again.
    assert await asyncio.wait_for(reader.read(), 5) == SHUTTING_DOWN
    writer.close()


@pytest.mark.usefixtures("unchanged_process")
async def test_a_signal_while_it_waits_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    async def wait(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Gateway, "start", wait)
    task = asyncio.create_task(process._serve(settings(), settings, process._no_companion))
    await asyncio.wait_for(waiting.wait(), 5)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0
    assert Gateway.latest.stopped


@pytest.mark.usefixtures("unchanged_process")
async def test_a_start_that_fails_is_an_error() -> None:
    task, _ = await serving(routing__md5_partitions=250)
    with pytest.raises(ConfigError, match="md5_partitions"):
        await asyncio.wait_for(task, 5)


@pytest.mark.usefixtures("unchanged_process")
async def test_a_stop_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task, (replica,) = await serving()

    async def fail(_seconds: float) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(replica, "stop", fail)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(task, 5)
    replica.listener.stop()


@pytest.mark.usefixtures("unchanged_process")
async def test_sighup_puts_new_rules_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "mqk.toml"
    config.write_text('[[routing.rules]]\nfilter = "a/#"\ntopic = "t_one"\n')
    caplog.set_level(logging.INFO)

    def read() -> Settings:
        return settings(file=config)

    replicas: list[Node] = []

    async def accompany(replica: Node) -> None:
        replicas.append(replica)
        await asyncio.Event().wait()

    task = asyncio.create_task(process._serve(read(), read, accompany))
    await until(lambda: replicas, "the replica has started")
    (replica,) = replicas
    count = partial(replica.metrics.registry.get_sample_value, "mqk_reloads_total")
    write(config, '[mqtt]\nreceive_maximum = 7\n[[routing.rules]]\nfilter = "a/#"\ntopic = ["t_two", "t_one"]\n')
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: count({"result": "applied"}) == 1, "the new rules")
    assert replica.topics == ["t_two", "t_one", "t_status"]
    assert replica.gateway.destination("t_two", b"").partition >= 0
    (later,) = [record for record in caplog.records if "next start" in record.message]
    assert vars(later)["settings"] == ["mqtt.receive_maximum"]

    write(config, '[[routing.rules]]\nfilter = "a/#"\ntopic = "${nope}"\n')
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: count({"result": "refused"}) == 1, "the refusal")
    write(config, "[routing\n")
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: count({"result": "refused"}) == 2, "the next refusal")
    assert replica.topics == ["t_two", "t_one", "t_status"]
    Gateway.latest.ready = False
    write(config, '[[routing.rules]]\nfilter = "a/#"\ntopic = "t_three"\n')
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: count({"result": "refused"}) == 3, "the refusal while kafka does not answer")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def unchanged_log_levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("aiokafka", "uvicorn")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("unchanged_log_levels")
@pytest.mark.parametrize("with_uvloop", [True, False])
@pytest.mark.parametrize("error", [ImportError("an extra is missing"), ProxyError("no")])
def test_an_error_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch, with_uvloop: bool, error: Exception) -> None:
    if not with_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(logs, "set_up", lambda *_: None)

    async def main() -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        process._run(main(), settings())


# ---- explain ----


def test_explain_a_topic_that_goes_to_kafka() -> None:
    explained = wiring.explain(settings(), "tlink/a/total", "c1", "u")
    assert explained == {
        "topic": "tlink/a/total",
        "clientid": "c1",
        "username": "u",
        "rules": ["ota: matches"],
        "outcome": "produced",
        "records": [
            {
                "rule": "ota",
                "cluster": "",
                "kafka_topic": "t_ota",
                "refused": None,
                "key": "tlink/a/total",
                "partition": md5_partition(b"tlink/a/total", 12),
                "partitions": 12,
                "headers": {"mqtt.topic": "tlink/a/total", "mqtt.clientid": "c1"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("overrides", "partitions", "hashed"),
    [({"kafka__partitions": 3}, 3, 3), ({"routing__md5_partitions": 5}, 12, 5)],
)
def test_explain_counts_partitions(overrides: dict[str, object], partitions: int, hashed: int) -> None:
    explained = wiring.explain(settings(**overrides), "tlink/ü", "c1", None)
    (record,) = explained["records"]
    assert record["partition"] == md5_partition("tlink/ü".encode(), hashed)
    assert record["partitions"] == partitions


def test_explain_rules_of_your_own(tmp_path: Path) -> None:
    config = tmp_path / "mqk.toml"
    write(
        config,
        """
[kafka.clusters.backup]
bootstrap_servers = ["b:9092"]
partitions = 3
[[routing.rules]]
name = "alarms"
filter = "alarms/{plant}"
topic = ["${plant}@backup", "t_all"]
key = "${username}"
partitioner = "murmur2"
headers = { plant = "${plant}", none = "${cert.cn}" }
[[routing.rules]]
name = "any"
filter = "#"
topic = "t_any"
partitioner = "random"
""",
    )
    explained = wiring.explain(settings(config), "alarms/berlin", "c1", "u")
    assert explained["rules"] == ["alarms: matches"]
    first, second = explained["records"]
    assert (first["cluster"], first["kafka_topic"], first["key"], first["partitions"]) == ("backup", "berlin", "u", 3)
    assert first["refused"] == "berlin is not in routing.allowed_topics"
    assert (second["refused"], second["partition"]) == (None, murmur2_partition(b"u", 12))
    assert second["headers"] == {"mqtt.topic": "alarms/berlin", "mqtt.clientid": "c1", "plant": "berlin"}
    (record,) = wiring.explain(settings(config), "x", "c1", None)["records"]
    assert (record["rule"], record["partition"]) == ("any", None)


@pytest.mark.parametrize("unmatched", ["drop", "reject", "dead_letter"])
def test_explain_a_topic_that_goes_nowhere(unmatched: str) -> None:
    explained = wiring.explain(settings(routing__unmatched=unmatched), "other/x", "c1", None)
    assert (explained["records"], explained["outcome"]) == ([], unmatched)
    assert explained["rules"] == [
        f'{name}: does not begin with "tlink/"' for name in ("ota", "sub_register", "sub_status", "msg")
    ]
    assert wiring.explain(settings(routing__unmatched=unmatched), "$SYS/x", "c1", None)["outcome"] == "reject"
