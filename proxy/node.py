"""The composition root: makes the parts of a replica from its settings, starts them, and stops them in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from proxy import gauges, limits, wiring
from proxy.admin.api import Api
from proxy.admin.app import AdminServer, Check, Views, make_app
from proxy.admin.directory import Directory
from proxy.admin.guard import Guard, Token
from proxy.admin.parts import Parts
from proxy.admin.routes import ENDPOINTS
from proxy.clock import monotonic, wall_ms
from proxy.config import KafkaCluster, Settings, changed, masked, split_address
from proxy.errors import ConfigError, GatewayError
from proxy.flows.bans import Bans, BanSettings
from proxy.flows.downlink import Downlink
from proxy.flows.drain import SERVING, Drainer
from proxy.flows.executor import Executor
from proxy.flows.explain import explain as explain_publish
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.membership import Membership
from proxy.flows.presence import Presence
from proxy.flows.rebalance import Rebalancer
from proxy.flows.reload import File, Reloader
from proxy.flows.sessions import Sessions
from proxy.flows.switchboard import Switchboard
from proxy.flows.uplink import Uplink
from proxy.flows.whereabouts import Whereabouts
from proxy.flows.wills import Wills
from proxy.kafka.client import AioKafkaGateway
from proxy.kafka.clusters import DEFAULT, Clusters
from proxy.kafka.gateway import GatewayStatus
from proxy.kafka.security import ClientSettings, client_options
from proxy.metrics import GatewayMetrics, Metrics
from proxy.mqtt.packets import ReasonCode
from proxy.net.agent import AgentPort
from proxy.net.listener import Listener
from proxy.policy.authenticators.password_file import PasswordFile
from proxy.policy.routes import RouteTable
from proxy.policy.templates import Scope

log = logging.getLogger(__name__)

#: What SIGHUP puts in force, beside the password files and the ACL file.
_RELOADED = frozenset({"routing.rules", "routing.preset", "routing.match", "routing.allowed_topics"})


class Node:
    """One replica."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._add_kafka()
        self._add_devices()
        self._add_cluster()
        self._add_way_back()
        self._add_balancing()
        self._add_operator()
        self.started = asyncio.Event()
        #: How often who supervises this replica has started it.
        self.starts = 1
        #: What keeps this replica among the others, and what follows the bans.
        self.running: asyncio.Task[None] | None = None
        self.following: asyncio.Task[None] | None = None
        self._show()

    # ---- its parts ----

    def _add_kafka(self) -> None:
        kafka = self.settings.kafka
        self.clusters = Clusters(
            {name: self._gateway(name, cluster) for name, cluster in {DEFAULT: kafka, **kafka.clusters}.items()}
        )
        self.gateway = self.clusters.gateways[DEFAULT]
        self.gateway.urgent = frozenset({f"{kafka.internal_prefix}inbox"})
        self.client_options = wiring.client_options(self.gateway.settings)

    def _add_devices(self) -> None:
        """From the socket to the records of a device."""
        settings = self.settings
        self.presence = Presence(
            self.gateway,
            self.metrics,
            settings.status_topic(),
            key_is_action=settings.status.key == "action",
            wall_ms=wall_ms,
        )
        self.sessions = Sessions(self.gateway, f"{settings.kafka.internal_prefix}sessions", self.presence, monotonic)
        self.chain = wiring.chain(settings)
        self.uplink = Uplink(
            wiring.uplink_settings(settings),
            self.clusters.gateways,
            wiring.route_table(settings),
            self.chain,
            self.sessions,
            Goodbyes(),
            self.metrics,
            wiring.access(settings),
        )
        self.listener = Listener(
            wiring.session_limits(settings), settings.limits.connections_max, self.gateway, self.uplink.new_client
        )
        loop = asyncio.get_running_loop()
        for gateway in self.clusters.gateways.values():
            gateway.on_relief = partial(loop.call_soon, self.listener.relieve)

    def _add_cluster(self) -> None:
        """This replica among the others."""
        self.presence.wills = Wills(self.uplink)
        self.membership = Membership(
            wiring.membership_settings(self.settings, self.client_options),
            self.gateway,
            self.sessions,
            self.presence,
            lambda: len(self.uplink.clients),
            self._dismiss,
        )
        self.uplink.joined = self.membership.joined.is_set
        bans = BanSettings(f"{self.settings.kafka.internal_prefix}bans", self.client_options)
        self.bans = Bans(bans, self.gateway, self.uplink, wall_ms)
        self.uplink.banned = lambda *client: self.bans.find(*client) is not None

    def _add_way_back(self) -> None:
        """From a command to the devices."""
        self.downlink = Downlink(self.settings.commands.ack_timeout_seconds, self.metrics)
        self.executor = Executor(self.uplink, self.downlink)
        self.switchboard = Switchboard(
            wiring.switchboard_settings(self.settings, self.client_options),
            self.gateway,
            Whereabouts(self.membership, self.sessions, monotonic),
            self.executor,
            self.metrics,
        )

    def _add_balancing(self) -> None:
        """What a load balancer sees of this replica, and what brings devices back to it."""
        node, listener = self.settings.node, self.listener
        self.agent = AgentPort(lambda: self.drainer.state == SERVING, monotonic)
        self.drainer = Drainer(listener, self.uplink, lambda: self.agent.is_asked, node.drain_seconds)
        self.membership.leaving = lambda: self.drainer.state != SERVING
        self.rebalancer = Rebalancer(
            node.id,
            listener,
            self.uplink,
            lambda: self.membership.registry.alive(monotonic()),
            lambda: self.agent.is_asked,
        )
        self.rebalancing: asyncio.Task[None] | None = None

    def _add_operator(self) -> None:
        #: What reloads made of the settings, by the rules that came of it.
        self._reloaded: WeakKeyDictionary[RouteTable, Settings] = WeakKeyDictionary()
        self.api = self._admin_api()
        views = Views(self.ready, self.checks, self.metrics.exposition)
        self.admin = AdminServer(make_app(views, self.api.app), *split_address(self.settings.admin.bind))

    def _show(self) -> None:
        """Figures in `/metrics`."""
        metrics = self.metrics
        metrics.total("mqk_starts", "How often this replica was started", lambda: self.starts)
        metrics.gauge("mqk_unsafe", "1 when a setting weakens the promise", lambda: float(bool(self.settings.unsafe())))
        gauges.show_connections(metrics, self.listener, self.uplink)
        gauges.show_balance(metrics, self.agent, self.drainer, self.rebalancer)
        gauges.show_sessions(metrics, self.sessions, self.membership, self.presence)
        gauges.show_kafka(metrics, self.clusters.gateways)
        gauges.show_downlink(metrics, self.downlink, self.uplink)
        gauges.show_commands(metrics, self.switchboard)
        gauges.show_admin(metrics, self.api, self.bans)

    @property
    def topics(self) -> list[str]:
        """Every Kafka topic that this replica writes to for its devices."""
        return [*self.uplink.routes.topics(), self.settings.status_topic()]

    def _gateway(self, name: str, cluster: KafkaCluster) -> AioKafkaGateway:
        metrics = GatewayMetrics(self.metrics.kafka, name or "default")
        table = f"kafka.clusters.{name}.client" if name else "kafka.client"
        client = client_options(ClientSettings(**cluster.client.model_dump()), metrics.token_request, table)
        return AioKafkaGateway(wiring.gateway_settings(self.settings, cluster, client, table), metrics)

    def _admin_api(self) -> Api:
        tokens = [Token(each.name, each.role, each.token_sha256) for each in self.settings.admin.tokens]
        parts = Parts(
            node=self.settings.node.id,
            joined=self.membership.joined.is_set,
            directory=Directory(lambda: self.sessions.tables),
            view=self.sessions.view,
            local=self.sessions.local,
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
        partitions = wiring.partitions(self.settings)
        return explain_publish(
            self.uplink.routes, self.uplink.headers, message, self.settings.routing.unmatched, partitions
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

    # ---- life ----

    async def start(self) -> None:
        """Returns when devices can connect. Raises ConfigError: a topic or an address cannot be had."""
        routes = self.uplink.routes
        further = {name: routes.topics(name) for name in self.clusters.gateways if name != DEFAULT}
        topics = [*self.topics, *self.settings.command_topics()]
        await self.clusters.start({DEFAULT: topics, **further}, wiring.internal_topics(self.settings))
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
        routes = wiring.route_table(settings)
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


async def _open(listen: Callable[[str, int], Awaitable[int]], key: str, address: str, said: str) -> None:
    """Opens one port, and says so. Raises ConfigError."""
    host, port = split_address(address)
    try:
        bound = await listen(host, port)
    except OSError as error:
        raise ConfigError(key, f"cannot listen on {address}: {error.strerror or error}") from None
    log.info(said, extra={"host": host, "port": bound})
