"""The composition root: turns settings into running parts, starts them, waits for a signal, stops them in order."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from proxy import limits, logs
from proxy.admin.api import Api
from proxy.admin.app import AdminServer, Check, Views, make_app
from proxy.admin.directory import Directory
from proxy.admin.guard import Guard, Token
from proxy.admin.parts import Parts
from proxy.admin.routes import ENDPOINTS
from proxy.clock import monotonic, wall_ms
from proxy.config import KafkaClient, Settings, changed, masked, split_address
from proxy.config.settings import KafkaCluster
from proxy.errors import ConfigError, GatewayError
from proxy.flows.access import Access, AccessSettings
from proxy.flows.bans import Bans, BanSettings
from proxy.flows.commands import CommandSettings, topic_owner
from proxy.flows.downlink import Downlink
from proxy.flows.drain import SERVING, Drainer
from proxy.flows.executor import Executor
from proxy.flows.explain import Partitions
from proxy.flows.explain import explain as explain_publish
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.headers import HeaderPlan
from proxy.flows.membership import Membership, MembershipSettings
from proxy.flows.presence import Presence
from proxy.flows.rebalance import Rebalancer
from proxy.flows.reload import File, Reloader
from proxy.flows.sessions import Sessions
from proxy.flows.switchboard import Switchboard, SwitchboardSettings
from proxy.flows.uplink import Uplink, UplinkSettings
from proxy.flows.whereabouts import Whereabouts
from proxy.flows.wills import Wills
from proxy.kafka.client import AioKafkaGateway, GatewaySettings
from proxy.kafka.clusters import DEFAULT, Clusters
from proxy.kafka.embedded import EmbeddedKafka
from proxy.kafka.gateway import GatewayStatus
from proxy.kafka.internal import Topic, bans_topic, inbox_topic, nodes_topic, sessions_topic
from proxy.kafka.readers import tail
from proxy.kafka.security import ClientSettings, client_options
from proxy.metrics import GatewayMetrics, Metrics
from proxy.mqtt.packets import ReasonCode
from proxy.net.agent import AgentPort
from proxy.net.listener import Listener
from proxy.policy.authenticators.base import Chain
from proxy.policy.authenticators.password_file import PasswordFile
from proxy.policy.routes import RouteTable
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes, preset_specs
from proxy.policy.templates import Scope
from proxy.session.events import SessionLimits

log = logging.getLogger(__name__)

#: What SIGHUP puts in force, beside the password files and the ACL file.
_RELOADED = frozenset({"routing.rules", "routing.preset", "routing.match", "routing.allowed_topics"})


class Node:
    """One replica."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.clusters = Clusters(
            {
                name: self._gateway(name, cluster)
                for name, cluster in {DEFAULT: settings.kafka, **settings.kafka.clusters}.items()
            }
        )
        self.gateway = self.clusters.gateways[DEFAULT]
        self.gateway.urgent = frozenset({f"{settings.kafka.internal_prefix}inbox"})
        self.client_options = _client_options(self.gateway.settings)
        self.presence = Presence(
            self.gateway,
            self.metrics,
            settings.status_topic(),
            key_is_action=settings.status.key == "action",
            wall_ms=wall_ms,
        )
        prefix = settings.kafka.internal_prefix
        self.sessions = Sessions(self.gateway, f"{prefix}sessions", self.presence, monotonic)
        self.chain = _chain(settings)
        self.uplink = Uplink(
            UplinkSettings(
                settings.node.id,
                settings.kafka.headers,
                settings.routing.unmatched,
                settings.limits.connects_per_second_max,
                settings.sessions.expiry_max_seconds,
                settings.auth.bind_client_id,
            ),
            self.clusters.gateways,
            route_table(settings),
            self.chain,
            self.sessions,
            Goodbyes(),
            self.metrics,
            access(settings),
        )
        self.listener = Listener(
            _session_limits(settings), settings.limits.connections_max, self.gateway, self.uplink.new_client
        )
        self.presence.wills = Wills(self.uplink)
        self.downlink = Downlink(settings.commands.ack_timeout_seconds, self.metrics)
        self.executor = Executor(self.uplink, self.downlink)
        self.membership = Membership(
            MembershipSettings(
                settings.node.id,
                settings.admin.bind,
                self.client_options,
                f"{prefix}sessions",
                f"{prefix}nodes",
                f"{prefix}sweepers",
            ),
            self.gateway,
            self.sessions,
            self.presence,
            lambda: len(self.uplink.clients),
            self._dismiss,
        )
        self.uplink.joined = self.membership.joined.is_set
        self._add_balancing()
        self.switchboard = self._switchboard()
        loop = asyncio.get_running_loop()
        for gateway in self.clusters.gateways.values():
            gateway.on_relief = partial(loop.call_soon, self.listener.relieve)
        self.bans = Bans(BanSettings(f"{prefix}bans", self.client_options), self.gateway, self.uplink, wall_ms)
        self.uplink.banned = lambda *client: self.bans.find(*client) is not None
        #: What reloads made of the settings, by the rules that came of it.
        self._reloaded: WeakKeyDictionary[RouteTable, Settings] = WeakKeyDictionary()
        self.api = self._admin_api()
        views = Views(self.ready, self.checks, self.metrics.exposition)
        self.admin = AdminServer(make_app(views, self.api.app), *split_address(settings.admin.bind))
        self.started = asyncio.Event()
        #: How often who supervises this replica has started it.
        self.starts = 1
        #: What keeps this replica among the others, and what follows the bans.
        self.running: asyncio.Task[None] | None = None
        self.following: asyncio.Task[None] | None = None
        self._add_gauges()

    def _add_balancing(self) -> None:
        """What a load balancer sees of this replica, and what brings devices back to it."""
        node, listener = self.settings.node, self.listener
        self.agent = AgentPort(lambda: self.drainer.state == SERVING, monotonic)
        self.drainer = Drainer(listener, self.uplink, lambda: self.agent.is_asked, node.drain_seconds)
        self.membership.leaving = lambda: self.drainer.state != SERVING
        self.rebalancer = Rebalancer(
            node.id, listener, self.uplink, lambda: self.membership.registry.alive(monotonic())
        )
        self.rebalancing: asyncio.Task[None] | None = None

    @property
    def topics(self) -> list[str]:
        """Every Kafka topic that this replica writes to for its devices."""
        return [*self.uplink.routes.topics(), self.settings.status_topic()]

    def _gateway(self, name: str, cluster: KafkaCluster) -> AioKafkaGateway:
        metrics = GatewayMetrics(self.metrics.kafka, name or "default")
        table = f"kafka.clusters.{name}.client" if name else "kafka.client"
        client = client_options(ClientSettings(**cluster.client.model_dump()), metrics.token_request, table)
        return AioKafkaGateway(_gateway_settings(self.settings, cluster, client, table), metrics)

    def _admin_api(self) -> Api:
        tokens = [Token(each.name, each.role, each.token_sha256) for each in self.settings.admin.tokens]
        parts = Parts(
            node=self.settings.node.id,
            joined=self.membership.joined.is_set,
            directory=Directory(lambda: self.sessions.tables),
            view=self.sessions.view,
            registry=lambda: self.membership.registry,
            controller=self.switchboard.control,
            bans=self.bans,
            routes=lambda: self.uplink.routes,
            explain=self._explain,
            effective=lambda: masked(self._reloaded.get(self.uplink.routes, self.settings)),
            drainer=self.drainer,
        )
        return Api(ENDPOINTS, parts, Guard(tokens), self.metrics.admin_requests)

    def _explain(self, topic: str, client_id: str, username: str | None) -> dict[str, Any]:
        message = Scope(topic, client_id, username, qos=1, ts=wall_ms())
        partitions = _partitions(self.settings)
        return explain_publish(
            self.uplink.routes, self.uplink.headers, message, self.settings.routing.unmatched, partitions
        )

    def _switchboard(self) -> Switchboard:
        kafka, commands = self.settings.kafka, self.settings.commands
        return Switchboard(
            SwitchboardSettings(
                f"{kafka.internal_prefix}inbox",
                commands.ack_timeout_seconds,
                CommandSettings(
                    self.client_options,
                    kafka.topic_prefix,
                    commands.group,
                    commands.start,
                    commands.max_age_seconds,
                    topic_owner(commands.owner),
                ),
            ),
            self.gateway,
            Whereabouts(self.membership, self.sessions, monotonic),
            self.executor,
            self.metrics,
        )

    # ---- what the operator sees ----

    def ready(self) -> Check:
        """The session log has been read, and devices can connect."""
        if not self.membership.joined.is_set():
            return Check(False, "waiting for kafka, or for the session log")
        return Check(self.started.is_set(), "ready" if self.started.is_set() else "opening the listeners")

    def checks(self) -> dict[str, Check]:
        checks = {}
        for name, gateway in self.clusters.gateways.items():
            cluster = self.settings.kafka.clusters[name] if name else self.settings.kafka
            checks[f"kafka.{name}" if name else "kafka"] = self._check(
                name, gateway.status(), cluster.bootstrap_servers
            )
        unsafe = self.settings.unsafe()
        checks["started"] = self.ready()
        checks["sessions"] = self._check_sessions()
        checks["bans"] = Check(self.bans.known.is_set(), {"bans": len(self.bans.table)})
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

    def _check_sessions(self) -> Check:
        membership = self.membership
        detail: dict[str, object] = {
            "incarnation": membership.incarnation,
            "log_silence_seconds": round(membership.silence_seconds, 3),
            "claims_waiting": self.sessions.claims_waiting,
            "announcements_waiting": self.presence.waiting,
            "nodes": sorted(node.name for node in membership.registry.alive(monotonic())),
        }
        return Check(membership.joined.is_set(), detail)

    def _add_gauges(self) -> None:
        gauge, total, listener = self.metrics.gauge, self.metrics.total, self.listener
        gauge("mqk_connections", "Open connections", lambda: len(listener.connections))
        gauge("mqk_connections_held", "Connections that back-pressure holds", lambda: listener.held)
        total("mqk_connections_refused", "Connections beyond limits.connections_max", lambda: listener.refused)
        total("mqk_connections_failed", "Connections dropped for a bug of ours", lambda: listener.bugs)
        total("mqk_starts", "How often this replica was started", lambda: self.starts)
        total("mqk_log_lines_suppressed", "Log lines of a flood, not written", logs.suppressed)
        gauge("mqk_logins_waiting", "Logins that are being checked", lambda: self.uplink.logins_waiting)
        gauge("mqk_goodbyes_waiting", "Devices that will be told to go", lambda: len(self.uplink.goodbyes))
        gauge("mqk_loop_lag_seconds", "How late the event loop's last tick was", lambda: listener.lag_seconds)
        gauge("mqk_unsafe", "1 when a setting weakens the promise", lambda: float(bool(self.settings.unsafe())))
        self._add_balancing_gauges()
        self._add_session_gauges()
        self._add_admin_gauges()
        self._add_kafka_gauges()
        self._add_downlink_gauges()
        self._add_command_gauges()

    def _add_command_gauges(self) -> None:
        gauge, total, board = self.metrics.gauge, self.metrics.total, self.switchboard
        inbox, commands = board.inbox, board.commands
        gauge("mqk_commands_in_flight", "Commands that are not settled", lambda: board.control.in_flight)
        gauge("mqk_commands_uncommitted", "Records that wait to be committed", lambda: commands.uncommitted)
        total("mqk_command_results_lost", "Results that Kafka did not take", lambda: commands.results_lost)
        total("mqk_inbox_letters_sent", "Records for other replicas", lambda: inbox.letters_sent)
        total("mqk_inbox_letters_read", "Records of other replicas", lambda: inbox.letters_read)
        total("mqk_inbox_records_unreadable", "Records that are not ours", lambda: inbox.unreadable)

    def _add_downlink_gauges(self) -> None:
        gauge, downlink, uplink = self.metrics.gauge, self.downlink, self.uplink
        gauge("mqk_subscriptions", "Subscriptions of connected clients", lambda: len(uplink.subscribers))
        gauge("mqk_acl_rules", "Rules of acl.file in force", lambda: uplink.access.rules)
        gauge("mqk_downlink_queue_messages", "Messages that wait for a device", lambda: downlink.queued)
        gauge("mqk_downlink_queue_bytes", "What they take", lambda: downlink.queued_bytes)
        gauge("mqk_downlink_unread_bytes", "Written to devices that do not read", lambda: downlink.unread_bytes)
        gauge("mqk_downlink_in_flight", "Messages that a device has to acknowledge", lambda: downlink.in_flight)
        self.metrics.total_by("mqk_acl_denied", "What acl.file denied", "action", lambda: uplink.access.denied)

    def _add_balancing_gauges(self) -> None:
        gauge, total, listener = self.metrics.gauge, self.metrics.total, self.listener
        total("mqk_proxy_headers_refused", "Connections with a bad PROXY header", lambda: listener.headers_refused)
        total("mqk_agent_checks", "Questions of load balancers", lambda: self.agent.asked)
        gauge("mqk_draining", "1 while no devices are taken", lambda: float(self.drainer.state != SERVING))
        total("mqk_rebalanced", "Devices that were sent home", lambda: self.rebalancer.sent_home)

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

    def _add_session_gauges(self) -> None:
        gauge, total, sessions, membership = self.metrics.gauge, self.metrics.total, self.sessions, self.membership
        gauge("mqk_sessions", "Clients that are connected or have a session, in the cluster", self._count_sessions)
        gauge("mqk_session_claims_waiting", "Connections that wait for their CLAIM", lambda: sessions.claims_waiting)
        total("mqk_session_claims_late", "Connections whose CLAIM came too late", lambda: sessions.claims_late)
        total("mqk_session_records", "Records read from the session log", lambda: sessions.records_read)
        total("mqk_session_records_unreadable", "Records that are not ours", lambda: sessions.unreadable)
        total("mqk_sessions_swept", "Connections and sessions ended for others", lambda: membership.swept)
        total("mqk_incarnations", "How often this replica began anew", lambda: membership.restarts)
        gauge("mqk_session_log_silence_seconds", "Since the log was heard", lambda: membership.silence_seconds)
        gauge("mqk_nodes", "Replicas that are alive", lambda: len(membership.registry.alive(monotonic())))
        gauge("mqk_announcements_waiting", "Status records to be written", lambda: self.presence.waiting)

    def _add_admin_gauges(self) -> None:
        gauge, total, bans = self.metrics.gauge, self.metrics.total, self.bans
        gauge("mqk_admin_requests_working", "Admin requests that are worked on", lambda: self.api.working)
        gauge("mqk_bans", "Bans that this replica knows", lambda: len(bans.table))
        total("mqk_bans_ignored", "Bans beyond the most that there may be", lambda: bans.ignored)
        total("mqk_ban_records_unreadable", "Records in the list of bans that are not ours", lambda: bans.unreadable)

    def _count_sessions(self) -> float:
        return sum(table.live + table.offline for table in self.sessions.tables)

    # ---- life ----

    async def start(self) -> None:
        """Returns when devices can connect. Raises ConfigError: a topic or an address cannot be had."""
        routes = self.uplink.routes
        further = {name: routes.topics(name) for name in self.clusters.gateways if name != DEFAULT}
        topics = [*self.topics, *self.settings.command_topics()]
        await self.clusters.start({DEFAULT: topics, **further}, self._internal)
        self._check_md5_partitions(self.topics)
        await self.switchboard.open()
        await self._join()
        for listener in self.settings.listeners:
            listen = partial(self.listener.listen, proxies=listener.proxies())
            await _open(listen, "listeners.bind", listener.bind, "listening")
        if self.settings.node.agent_bind:
            await _open(self.agent.listen, "node.agent_bind", self.settings.node.agent_bind, "agent port open")
        self.switchboard.read()
        self.started.set()
        if self.settings.node.rebalance:
            self.rebalancing = asyncio.create_task(self.rebalancer.run())

    async def _join(self) -> None:
        """Returns once this replica knows all sessions and all bans. Raises Superseded."""
        self.running = asyncio.create_task(self.membership.run())
        self.following = asyncio.create_task(self.bans.run())
        joined = asyncio.create_task(self._know_all())
        await asyncio.wait((self.running, joined), return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()
        if self.running.done():
            await self.running

    async def _know_all(self) -> None:
        await self.membership.joined.wait()
        await self.bans.known.wait()

    @property
    def _internal(self) -> list[Topic]:
        kafka = self.settings.kafka
        partitions = max(kafka.partitions, limits.SESSION_PARTITIONS_MIN)
        prefix = kafka.internal_prefix
        return [sessions_topic(prefix, partitions), nodes_topic(prefix), inbox_topic(prefix), bans_topic(prefix)]

    def _dismiss(self, detail: str) -> None:
        """Lets all devices go: what this replica knew of them can no longer be trusted."""
        for client in list(self.uplink.clients.values()):
            self.uplink.goodbyes.say(client, ReasonCode.SERVER_BUSY, detail)

    def reloader(self, read: Callable[[], Settings]) -> Reloader:
        """What reads the rules, password files and ACL file again; `read` reads all settings."""
        passwords = [each for each in self.chain.authenticators if isinstance(each, PasswordFile)]
        files: list[File] = [*passwords, self.uplink.access]
        return Reloader(self.uplink, files, partial(self._read_routes, read), self._prepare_routes, self.metrics)

    def _read_routes(self, read: Callable[[], Settings]) -> RouteTable:
        """The rules as they are written now, beside all other settings as they were at start."""
        written = read()
        later = changed(self.settings, written) - _RELOADED
        if later:
            log.warning("changes that count from the next start on", extra={"settings": sorted(later)})
        settings = self.settings.model_copy(update={"routing": written.routing})
        routes = route_table(settings)
        self._reloaded[routes] = settings
        return routes

    async def _prepare_routes(self, routes: RouteTable) -> None:
        """Their topics are there. Raises ConfigError, and GatewayError: a cluster does not answer."""
        for name, gateway in self.clusters.gateways.items():
            known = self.uplink.routes.topics(name)
            added = [topic for topic in routes.topics(name) if topic not in known]
            if added and not gateway.ready:
                raise GatewayError(f"topics {', '.join(added)}: kafka cluster {name or 'default'} does not answer")
            if added:
                await gateway.add_topics(added)
        self._check_md5_partitions(routes.topics())

    async def stop(self, drain_seconds: float) -> None:
        """Lets the devices go, empties the queue, ends everything. The last part has its share of the time."""
        began = monotonic()
        drain_seconds -= min(limits.STOP_SECONDS, drain_seconds / 2)
        await self.switchboard.stop_reading(min(limits.COMMAND_REVOKE_SECONDS_MAX, drain_seconds / 4))
        if self.started.is_set():
            await self.drainer.leave(max(0.0, began + drain_seconds - monotonic()))
        if self.rebalancing is not None:
            self.rebalancing.cancel()
        self.listener.stop()
        left = max(1.0, drain_seconds - (monotonic() - began))
        unsettled = await self.clusters.flush(left)
        if not unsettled:
            await self._leave(min(limits.LAST_ANNOUNCEMENTS_SECONDS, began + drain_seconds - monotonic()))
        await asyncio.gather(self._stop_membership(), self.switchboard.close(), self.clusters.stop())
        self.chain.close()
        self.agent.stop()
        log.info("stopped", extra={"records_unsettled": unsettled})

    async def _leave(self, timeout_seconds: float) -> None:
        """Out of the registry, now that the end of every connection is in the log; in that time they are announced."""
        if self.gateway.status().ready:
            await self.membership.announce_all(timeout_seconds)
            self.membership.leave()
            await self.gateway.flush(limits.PRODUCER_STOP_SECONDS_MAX)

    async def _stop_membership(self) -> None:
        tasks = [task for task in (self.running, self.following) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _check_md5_partitions(self, topics: list[str]) -> None:
        wanted = self.settings.routing.md5_partitions
        for topic in topics if wanted else ():
            count = self.gateway.partitions(topic)
            if wanted and count < wanted:
                raise ConfigError("routing.md5_partitions", f"{wanted}, but topic {topic} has {count} partitions")


#: Takes the signals of a replica over: it is given the replica, and what tells it to stop (a second time: at once).
#: What it returns runs as long as the replica.
Attend = Callable[["Node", Callable[[], None]], Coroutine[Any, Any, None]]


def serve(settings: Settings, read: Callable[[], Settings], attend: Attend | None = None) -> int:
    """Runs one replica until SIGTERM or SIGINT; the exit code. `read` reads the settings again, for SIGHUP. One of
    several replicas is attended, and says in each line of the log which one it is.
    """
    main = _serve(settings, read, _no_companion, attend)
    return _run(main, settings, settings.node.id if attend else None)


def dev(settings: Settings, read: Callable[[], Settings]) -> int:
    """Runs the proxy on a Kafka that lives in memory and prints what arrives there; the exit code."""
    return _run(_dev(settings, read), settings)


def explain(settings: Settings, topic: str, clientid: str, username: str | None) -> dict[str, Any]:
    """What would become of a PUBLISH, without any connection. The partition is that of a topic with `kafka.partitions`
    partitions, as those that we create, or of `routing.md5_partitions`.
    """
    routes = route_table(settings)
    message = Scope(topic, clientid, username, qos=1, ts=wall_ms())
    plan = HeaderPlan(settings.kafka.headers, settings.node.id)
    return explain_publish(routes, plan, message, settings.routing.unmatched, _partitions(settings))


def _partitions(settings: Settings) -> Partitions:
    clusters = {DEFAULT: settings.kafka, **settings.kafka.clusters}
    return Partitions({name: each.partitions for name, each in clusters.items()}, settings.routing.md5_partitions)


def route_table(settings: Settings) -> RouteTable:
    """The rules of `[routing]`: those that are written there, else those of the preset. Raises ConfigError."""
    routing, kafka = settings.routing, settings.kafka
    context = RoutingContext(
        prefix=kafka.topic_prefix,
        node=settings.node.id,
        internal_prefix=kafka.internal_prefix,
        allowed_topics=routing.allowed_topics,
        clusters={DEFAULT, *kafka.clusters},
        match_all=routing.match == "all",
    )
    # Not `model_dump`, which takes most of a second for ten thousand rules.
    specs = [RuleSpec(**dict(entry)) for entry in routing.rules]
    return compile_routes(specs or preset_specs(routing.preset), context)


def _run(main: Coroutine[Any, Any, int], settings: Settings, node: str | None = None) -> int:
    logs.set_up(settings.log.level, settings.log.format, monotonic, node)
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


async def _serve(
    settings: Settings,
    read: Callable[[], Settings],
    companion: Callable[[Node], Coroutine[Any, Any, None]],
    attend: Attend | None = None,
) -> int:
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
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    stop = partial(signals.put_nowait, signal.SIGTERM)
    attending = [asyncio.create_task(attend(node, stop))] if attend is not None else []
    admin = asyncio.create_task(node.admin.run_until_stopped())
    log.info("admin port open", extra={"port": node.admin.port})
    interrupted = asyncio.create_task(signals.get())
    running = asyncio.create_task(_start_and_accompany(node, companion))
    reloading = asyncio.create_task(_reload_when_told(node, node.reloader(read), hangup))
    try:
        await asyncio.wait((interrupted, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        running.cancel()
        reloading.cancel()
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
        for task in attending:
            task.cancel()
    return 128 + signal.SIGINT if interrupted.done() and interrupted.result() == signal.SIGINT else 0


async def _start_and_accompany(node: Node, companion: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    await node.start()
    assert node.running is not None  # noqa: S101 - made by start
    accompanying = asyncio.create_task(companion(node))
    try:
        await asyncio.wait((node.running, accompanying), return_when=asyncio.FIRST_COMPLETED)
        await (node.running if node.running.done() else accompanying)
    finally:
        accompanying.cancel()


async def _reload_when_told(node: Node, reloader: Reloader, hangup: asyncio.Event) -> None:
    """SIGHUP. Who says it while it is being obeyed is obeyed once more."""
    await node.started.wait()
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await reloader.reload()
        except Exception:
            log.exception("reload failed")


async def _dev(settings: Settings, read: Callable[[], Settings]) -> int:
    kafka = EmbeddedKafka()
    internal = [f"{settings.kafka.internal_prefix}{name}" for name in ("sessions", "nodes", "inbox", "bans")]
    dead_letters = [topic] if (topic := settings.dead_letter_topic()) else []
    public = [*route_table(settings).topics(), settings.status_topic(), *settings.command_topics()]
    await kafka.start([*public, *dead_letters, *internal])
    there = {"bootstrap_servers": [kafka.bootstrap_server], "replication_factor": 1, "client": KafkaClient()}

    def embedded(given: Settings) -> Settings:
        return given.model_copy(update={"kafka": given.kafka.model_copy(update=there)})

    try:
        return await _serve(embedded(settings), lambda: embedded(read()), _print_records)
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
    async for record in tail(node.client_options, [*node.topics, *settings.command_topics()]):
        key = (record.key or b"").decode(errors="replace")
        value = (record.value or b"").decode(errors="replace")
        _say(f"{record.topic}[{record.partition}]@{record.offset}  key={key}  value={value}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _open(listen: Callable[[str, int], Awaitable[int]], key: str, address: str, said: str) -> None:
    """Opens one port, and says so. Raises ConfigError."""
    host, port = split_address(address)
    try:
        bound = await listen(host, port)
    except OSError as error:
        raise ConfigError(key, f"cannot listen on {address}: {error.strerror or error}") from None
    log.info(said, extra={"host": host, "port": bound})


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


def _client_options(gateway: GatewaySettings) -> dict[str, Any]:
    """What each further client of a gateway's cluster is made with."""
    return {
        "bootstrap_servers": gateway.bootstrap_servers,
        "client_id": gateway.client_id,
        "request_timeout_ms": int(limits.KAFKA_REQUEST_SECONDS_MAX * 1000),
        **gateway.client,
    }


def _chain(settings: Settings) -> Chain:
    """Only the last file spends a check on a user that nobody knows, and only where that user is turned away."""
    auth = settings.auth
    files = [
        PasswordFile(entry.path, conceal_unknown=number == len(auth.chain) and not auth.anonymous)
        for number, entry in enumerate(auth.chain, 1)
    ]
    return Chain(files, anonymous=auth.anonymous)


def access(settings: Settings) -> Access:
    """What `[acl]` and its file say. Raises ConfigError."""
    acl = settings.acl
    return Access(AccessSettings(acl.file, acl.publish_default, acl.subscribe_default, acl.on_publish_denied))


def _session_limits(settings: Settings) -> SessionLimits:
    mqtt = settings.mqtt
    return SessionLimits(
        mqtt.connect_timeout_seconds,
        mqtt.keep_alive_max_seconds,
        mqtt.publish_bytes_max,
        mqtt.receive_maximum,
        mqtt.topic_alias_maximum,
    )
