"""What the parts of a replica are made with: each function turns settings into what one part wants to know."""

from typing import Any

from proxy import limits
from proxy.clock import wall_ms
from proxy.config import KafkaCluster, Settings
from proxy.flows.access import Access, AccessSettings
from proxy.flows.commands import CommandSettings, topic_owner
from proxy.flows.explain import Partitions
from proxy.flows.explain import explain as explain_publish
from proxy.flows.headers import HeaderPlan
from proxy.flows.membership import MembershipSettings
from proxy.flows.switchboard import SwitchboardSettings
from proxy.flows.uplink import UplinkSettings
from proxy.kafka.client import GatewaySettings
from proxy.kafka.clusters import DEFAULT
from proxy.kafka.internal import Topic, bans_topic, inbox_topic, nodes_topic, sessions_topic
from proxy.policy.authenticators.base import Chain
from proxy.policy.authenticators.password_file import PasswordFile
from proxy.policy.routes import RouteTable
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes, preset_specs
from proxy.policy.templates import Scope
from proxy.session.events import SessionLimits


def explain(settings: Settings, topic: str, clientid: str, username: str | None) -> dict[str, Any]:
    """What would become of a PUBLISH, without any connection. The partition is that of a topic with `kafka.partitions`
    partitions, as those that we create, or of `routing.md5_partitions`.
    """
    routes = route_table(settings)
    message = Scope(topic, clientid, username, qos=1, ts=wall_ms())
    plan = HeaderPlan(settings.kafka.headers, settings.node.id)
    return explain_publish(routes, plan, message, settings.routing.unmatched, partitions(settings))


def partitions(settings: Settings) -> Partitions:
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


def gateway_settings(settings: Settings, cluster: KafkaCluster, client: dict[str, Any], table: str) -> GatewaySettings:
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


def client_options(gateway: GatewaySettings) -> dict[str, Any]:
    """What each further client of a gateway's cluster is made with."""
    return {
        "bootstrap_servers": gateway.bootstrap_servers,
        "client_id": gateway.client_id,
        "request_timeout_ms": int(limits.KAFKA_REQUEST_SECONDS_MAX * 1000),
        **gateway.client,
    }


def chain(settings: Settings) -> Chain:
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


def session_limits(settings: Settings) -> SessionLimits:
    mqtt = settings.mqtt
    return SessionLimits(
        mqtt.connect_timeout_seconds,
        mqtt.keep_alive_max_seconds,
        mqtt.publish_bytes_max,
        mqtt.receive_maximum,
        mqtt.topic_alias_maximum,
    )


def uplink_settings(settings: Settings) -> UplinkSettings:
    return UplinkSettings(
        settings.node.id,
        settings.kafka.headers,
        settings.routing.unmatched,
        settings.limits.connects_per_second_max,
        settings.sessions.expiry_max_seconds,
        settings.auth.bind_client_id,
    )


def membership_settings(settings: Settings, options: dict[str, Any]) -> MembershipSettings:
    prefix = settings.kafka.internal_prefix
    return MembershipSettings(
        settings.node.id, settings.admin.bind, options, f"{prefix}sessions", f"{prefix}nodes", f"{prefix}sweepers"
    )


def switchboard_settings(settings: Settings, options: dict[str, Any]) -> SwitchboardSettings:
    kafka, commands = settings.kafka, settings.commands
    return SwitchboardSettings(
        f"{kafka.internal_prefix}inbox",
        commands.ack_timeout_seconds,
        CommandSettings(
            options,
            kafka.topic_prefix,
            commands.group,
            commands.start,
            commands.max_age_seconds,
            topic_owner(commands.owner),
        ),
    )


def internal_topics(settings: Settings) -> list[Topic]:
    """What replicas need among themselves."""
    kafka = settings.kafka
    partitions = max(kafka.partitions, limits.SESSION_PARTITIONS_MIN)
    prefix = kafka.internal_prefix
    return [sessions_topic(prefix, partitions), nodes_topic(prefix), inbox_topic(prefix), bans_topic(prefix)]
