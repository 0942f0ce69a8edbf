"""The composition root: turns settings into running parts, starts them, waits for a signal, stops them in order."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy import limits, logs
from proxy.admin.app import AdminServer, Check, Views, make_app
from proxy.clock import monotonic
from proxy.config import KafkaClient, Settings, split_address
from proxy.config.settings import KafkaCluster
from proxy.errors import ConfigError
from proxy.flows.drain import drain
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.presence import Presence
from proxy.flows.uplink import Uplink, UplinkSettings
from proxy.kafka.batches import md5_partition
from proxy.kafka.client import AioKafkaGateway, GatewaySettings
from proxy.kafka.clusters import DEFAULT, Clusters
from proxy.kafka.embedded import EmbeddedKafka
from proxy.kafka.gateway import GatewayStatus
from proxy.kafka.readers import tail
from proxy.kafka.security import ClientSettings, client_options
from proxy.metrics import GatewayMetrics, Metrics
from proxy.net.listener import Listener
from proxy.policy.authenticators.base import Chain
from proxy.policy.authenticators.password_file import PasswordFile
from proxy.policy.routes import RouteTable, preset_rules
from proxy.session.events import SessionLimits

log = logging.getLogger(__name__)


class Node:
    """One replica."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.routes = RouteTable(preset_rules(settings.routing.preset, settings.kafka.topic_prefix))
        self.clusters = Clusters(
            {
                name: self._gateway(name, cluster)
                for name, cluster in {DEFAULT: settings.kafka, **settings.kafka.clusters}.items()
            }
        )
        self.gateway = self.clusters.gateways[DEFAULT]
        self.presence = Presence(
            self.gateway,
            self.metrics,
            settings.status_topic(),
            settings.node.id,
            key_is_action=settings.status.key == "action",
        )
        self.chain = _chain(settings)
        self.uplink = Uplink(
            UplinkSettings(
                settings.node.id,
                settings.kafka.headers,
                settings.routing.unmatched == "reject",
                settings.limits.connects_per_second_max,
            ),
            self.gateway,
            self.routes,
            self.chain,
            self.presence,
            Goodbyes(),
            self.metrics,
        )
        self.listener = Listener(
            _session_limits(settings), settings.limits.connections_max, self.gateway, self.uplink.new_client
        )
        loop = asyncio.get_running_loop()
        for gateway in self.clusters.gateways.values():
            gateway.on_relief = partial(loop.call_soon, self.listener.relieve)
        self.admin = AdminServer(
            make_app(Views(self.ready, self.checks, self.metrics.exposition)), *split_address(settings.admin.bind)
        )
        self.started = False
        self._add_gauges()

    @property
    def topics(self) -> list[str]:
        """Every Kafka topic that this replica writes to."""
        return [*self.routes.topics, self.settings.status_topic()]

    def _gateway(self, name: str, cluster: KafkaCluster) -> AioKafkaGateway:
        metrics = GatewayMetrics(self.metrics.kafka, name or "default")
        table = f"kafka.clusters.{name}.client" if name else "kafka.client"
        client = client_options(ClientSettings(**cluster.client.model_dump()), metrics.token_request, table)
        return AioKafkaGateway(_gateway_settings(self.settings, cluster, client, table), metrics)

    # ---- what the operator sees ----

    def ready(self) -> Check:
        return Check(self.started, "ready" if self.started else "waiting for kafka")

    def checks(self) -> dict[str, Check]:
        checks = {}
        for name, gateway in self.clusters.gateways.items():
            cluster = self.settings.kafka.clusters[name] if name else self.settings.kafka
            checks[f"kafka.{name}" if name else "kafka"] = self._check(
                name, gateway.status(), cluster.bootstrap_servers
            )
        unsafe = self.settings.unsafe()
        checks["started"] = self.ready()
        checks["safe"] = Check(not unsafe, unsafe or "acks=all, idempotent")
        return checks

    def _check(self, cluster: str, status: GatewayStatus, bootstrap_servers: list[str]) -> Check:
        detail: dict[str, object] = {
            "bootstrap_servers": bootstrap_servers,
            "queued_bytes": status.queued_bytes,
            "oldest_record_seconds": round(status.oldest_age_seconds, 3),
            "congested": status.above_high_water,
            "fault": status.fault,
        }
        if cluster in self.clusters.problems:
            detail["problem"] = str(self.clusters.problems[cluster])
        return Check(status.ready and not status.fault, detail)

    def _add_gauges(self) -> None:
        gauge, total, listener = self.metrics.gauge, self.metrics.total, self.listener
        gauge("mqk_connections", "Open connections", lambda: len(listener.connections))
        gauge("mqk_connections_held", "Connections that back-pressure holds", lambda: listener.held)
        total("mqk_connections_refused", "Connections beyond limits.connections_max", lambda: listener.refused)
        total("mqk_connections_failed", "Connections dropped for a bug of ours", lambda: listener.bugs)
        total("mqk_log_lines_suppressed", "Log lines of a flood, not written", logs.suppressed)
        gauge("mqk_logins_waiting", "Logins that are being checked", lambda: self.uplink.logins_waiting)
        gauge("mqk_goodbyes_waiting", "Devices that will be told to go", lambda: len(self.uplink.goodbyes))
        gauge("mqk_loop_lag_seconds", "How late the event loop's last tick was", lambda: listener.lag_seconds)
        gauge("mqk_unsafe", "1 when a setting weakens the promise", lambda: float(bool(self.settings.unsafe())))
        self._add_kafka_gauges()

    def _add_kafka_gauges(self) -> None:
        """One of each for every cluster."""

        def gauge(name: str, documentation: str, read: Callable[[AioKafkaGateway], float]) -> None:
            reads = {name or "default": partial(read, each) for name, each in self.clusters.gateways.items()}
            self.metrics.gauge_by_cluster(name, documentation, reads)

        gauge("mqk_kafka_queue_bytes", "Records that wait for Kafka", lambda each: each.status().queued_bytes)
        gauge("mqk_kafka_oldest_record_seconds", "Age of the oldest", lambda each: each.status().oldest_age_seconds)
        gauge("mqk_kafka_ready", "1 when Kafka answers", lambda each: float(each.ready))
        gauge("mqk_kafka_fault", "1 when a setting keeps us out", lambda each: float(each.status().fault is not None))
        gauge("mqk_kafka_unknown_topics", "Topics that records wait for", lambda each: each.unknown_topics)
        gauge("mqk_kafka_learned_topics", "Topics in use that no setting names", lambda each: each.learned_topics)

    # ---- life ----

    async def start(self) -> None:
        """Returns when devices can connect. Raises ConfigError: a topic or an address cannot be had."""
        await self.clusters.start({DEFAULT: self.topics})
        self._check_md5_partitions()
        for listener in self.settings.listeners:
            host, port = split_address(listener.bind)
            try:
                bound = await self.listener.listen(host, port)
            except OSError as error:
                complaint = f"cannot listen on {listener.bind}: {error.strerror or error}"
                raise ConfigError("listeners.bind", complaint) from None
            log.info("listening", extra={"host": host, "port": bound})
        self.started = True

    async def stop(self, drain_seconds: float) -> None:
        """Lets the devices go, empties the queue, ends everything. The last part has its share of the time."""
        began = monotonic()
        drain_seconds -= min(limits.STOP_SECONDS, drain_seconds / 2)
        if self.started:
            await drain(self.listener, self.uplink, drain_seconds)
        self.listener.stop()
        unsettled = await self.clusters.flush(max(1.0, drain_seconds - (monotonic() - began)))
        await self.clusters.stop()
        self.chain.close()
        log.info("stopped", extra={"records_unsettled": unsettled})

    def _check_md5_partitions(self) -> None:
        wanted = self.settings.routing.md5_partitions
        for topic in self.topics if wanted else ():
            count = self.gateway.partitions(topic)
            if wanted and count < wanted:
                raise ConfigError("routing.md5_partitions", f"{wanted}, but topic {topic} has {count} partitions")


def serve(settings: Settings) -> int:
    """Runs one replica until SIGTERM or SIGINT; the exit code."""
    return _run(_serve(settings, _no_companion), settings)


def dev(settings: Settings) -> int:
    """Runs the proxy on a Kafka that lives in memory and prints what arrives there; the exit code."""
    return _run(_dev(settings), settings)


def explain(settings: Settings, topic: str, clientid: str, username: str | None) -> dict[str, object]:
    """What would become of a PUBLISH, without any connection. The partition needs `routing.md5_partitions` or is that
    of `kafka.partitions`, the count of a topic that we create.
    """
    routes = RouteTable(preset_rules(settings.routing.preset, settings.kafka.topic_prefix))
    rule = routes.match(topic)
    explained: dict[str, object] = {"topic": topic, "clientid": clientid, "username": username}
    explained["rules"] = [f"{name}: {said}" for name, said in routes.explain(topic)]
    if rule is None:
        outcome = "reject" if topic.startswith("$") else settings.routing.unmatched
        return explained | {"kafka_topic": None, "outcome": outcome}
    count = settings.routing.md5_partitions or settings.kafka.partitions
    return explained | {
        "kafka_topic": rule.topic,
        "key": topic,
        "partition": md5_partition(topic.encode(), count),
        "partitions": count,
    }


def _run(main: Coroutine[Any, Any, int], settings: Settings) -> int:
    logs.set_up(settings.log.level, settings.log.format, monotonic)
    for talkative in ("aiokafka", "httpx", "httpcore", "uvicorn"):
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLogger().level))
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra: asyncio's own loop does the same, slower

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def _no_companion(_node: Node) -> None:
    await asyncio.Event().wait()


async def _serve(settings: Settings, companion: Callable[[Node], Coroutine[Any, Any, None]]) -> int:
    """Start, wait for a signal, stop. A second signal cuts the drain short."""
    _raise_file_limit()
    gc.freeze()
    gc.set_threshold(*limits.GC_THRESHOLDS)
    for warning in settings.warnings():
        log.warning(warning)
    node = Node(settings)
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    admin = asyncio.create_task(node.admin.run_until_stopped())
    log.info("admin port open", extra={"port": node.admin.port})
    interrupted = asyncio.create_task(signals.get())
    running = asyncio.create_task(_start_and_accompany(node, companion))
    try:
        await asyncio.wait((interrupted, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        running.cancel()
        stopping = asyncio.create_task(node.stop(settings.node.drain_seconds))
        again = asyncio.create_task(signals.get())
        await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if stopping.done():
            await stopping
        else:
            log.warning("told twice: stopping at once")
            stopping.cancel()
    finally:
        node.admin.should_exit = True
        await admin
    return 128 + signal.SIGINT if interrupted.done() and interrupted.result() == signal.SIGINT else 0


async def _start_and_accompany(node: Node, companion: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    await node.start()
    await companion(node)


async def _dev(settings: Settings) -> int:
    routes = RouteTable(preset_rules(settings.routing.preset, settings.kafka.topic_prefix))
    kafka = EmbeddedKafka()
    dead_letters = [topic] if (topic := settings.dead_letter_topic()) else []
    await kafka.start([*routes.topics, settings.status_topic(), *dead_letters])
    embedded = settings.kafka.model_copy(
        update={"bootstrap_servers": [kafka.bootstrap_server], "replication_factor": 1, "client": KafkaClient()}
    )
    try:
        return await _serve(settings.model_copy(update={"kafka": embedded}), _print_records)
    finally:
        await kafka.stop()


async def _print_records(node: Node) -> None:
    """What a newcomer sees: where to publish, then every record as Kafka has it."""
    settings = node.settings
    host, _, port = settings.listeners[0].bind.rpartition(":")
    _say(
        f"""
This Kafka lives in memory ({settings.kafka.bootstrap_servers[0]}): what is in it is gone when you stop.
MQTT is on {host}:{port}, health and metrics on http://{settings.admin.bind}/healthz and /metrics. Try:

  mosquitto_pub -h {host} -p {port} -t tlink/pk/dev1/up -m hi -q 1

Every record is shown as it arrives in Kafka. Ctrl-C stops.
"""
    )
    async for record in tail(settings.kafka.bootstrap_servers, node.topics):
        key = (record.key or b"").decode(errors="replace")
        value = (record.value or b"").decode(errors="replace")
        _say(f"{record.topic}[{record.partition}]@{record.offset}  key={key}  value={value}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _raise_file_limit() -> None:
    """A connection is a file; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _gateway_settings(settings: Settings, cluster: KafkaCluster, client: dict[str, Any], table: str) -> GatewaySettings:
    return GatewaySettings(
        bootstrap_servers=cluster.bootstrap_servers,
        client_id=f"mqk-{settings.node.id}",
        delivery_timeout_seconds=cluster.delivery_timeout_seconds,
        queue_bytes_max=cluster.queue_bytes_max,
        acks=cluster.unsafe_acks if cluster.unsafe_acks == "all" else int(cluster.unsafe_acks),
        idempotence=cluster.unsafe_idempotence,
        md5_partitions=settings.routing.md5_partitions,
        dead_letter_topic=settings.dead_letter_topic(),
        create_topics=cluster.create_topics,
        partitions=cluster.partitions,
        replication_factor=cluster.replication_factor,
        client=client,
        client_table=table,
        compression=None if cluster.compression == "none" else cluster.compression,
    )


def _chain(settings: Settings) -> Chain:
    """Only the last file spends a check on a user that nobody knows, and only where that user is turned away."""
    auth = settings.auth
    files = [
        PasswordFile(entry.path, conceal_unknown=number == len(auth.chain) and not auth.anonymous)
        for number, entry in enumerate(auth.chain, 1)
    ]
    return Chain(files, anonymous=auth.anonymous)


def _session_limits(settings: Settings) -> SessionLimits:
    mqtt = settings.mqtt
    return SessionLimits(
        mqtt.connect_timeout_seconds,
        mqtt.keep_alive_max_seconds,
        mqtt.publish_bytes_max,
        mqtt.receive_maximum,
        mqtt.topic_alias_maximum,
    )
