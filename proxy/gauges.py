"""What a replica shows in `/metrics` beside what it counts itself: figures that are read when somebody asks."""

from collections.abc import Callable, Mapping
from functools import partial

from proxy import logs
from proxy.admin.api import Api
from proxy.clock import monotonic
from proxy.flows.bans import Bans
from proxy.flows.downlink import Downlink
from proxy.flows.drain import SERVING, Drainer
from proxy.flows.membership import Membership
from proxy.flows.presence import Presence
from proxy.flows.rebalance import Rebalancer
from proxy.flows.sessions import Sessions
from proxy.flows.switchboard import Switchboard
from proxy.flows.uplink import Uplink
from proxy.kafka.client import AioKafkaGateway
from proxy.metrics import Metrics
from proxy.net.agent import AgentPort
from proxy.net.listener import Listener


def show_connections(metrics: Metrics, listener: Listener, uplink: Uplink) -> None:
    gauge, total = metrics.gauge, metrics.total
    gauge("mqk_connections", "Open connections", lambda: len(listener.connections))
    gauge("mqk_connections_held", "Connections that back-pressure holds", lambda: listener.held)
    total("mqk_connections_refused", "Connections beyond limits.connections_max", lambda: listener.refused)
    total("mqk_connections_failed", "Connections dropped for a bug of ours", lambda: listener.bugs)
    total("mqk_proxy_headers_refused", "Connections with a bad PROXY header", lambda: listener.headers_refused)
    total("mqk_log_lines_suppressed", "Log lines of a flood, not written", logs.suppressed)
    gauge("mqk_logins_waiting", "Logins that are being checked", lambda: uplink.logins_waiting)
    gauge("mqk_goodbyes_waiting", "Devices that will be told to go", lambda: len(uplink.goodbyes))
    gauge("mqk_loop_lag_seconds", "How late the event loop's last tick was", lambda: listener.lag_seconds)


def show_balance(metrics: Metrics, agent: AgentPort, drainer: Drainer, rebalancer: Rebalancer) -> None:
    metrics.total("mqk_agent_checks", "Questions of load balancers", lambda: agent.asked)
    metrics.gauge("mqk_draining", "1 while no devices are taken", lambda: float(drainer.state != SERVING))
    metrics.total("mqk_rebalanced", "Devices that were sent home", lambda: rebalancer.sent_home)


def show_sessions(metrics: Metrics, sessions: Sessions, membership: Membership, presence: Presence) -> None:
    gauge, total = metrics.gauge, metrics.total
    gauge("mqk_sessions", "Clients that are connected or have a session, in the cluster", lambda: sessions.known)
    gauge("mqk_session_tombstones", "Ends of sessions that are remembered", lambda: sessions.tombstones)
    gauge("mqk_session_claims_waiting", "Connections that wait for their CLAIM", lambda: sessions.claims_waiting)
    total("mqk_session_claims_late", "Connections whose CLAIM came too late", lambda: sessions.claims_late)
    total("mqk_session_records", "Records read from the session log", lambda: sessions.records_read)
    total("mqk_session_records_unreadable", "Records that are not ours", lambda: sessions.unreadable)
    total("mqk_sessions_swept", "Connections and sessions ended for others", lambda: membership.swept)
    total("mqk_incarnations", "How often this replica began anew", lambda: membership.restarts)
    gauge("mqk_session_log_silence_seconds", "Since the log was heard", lambda: membership.silence_seconds)
    gauge("mqk_nodes", "Replicas that are alive", lambda: len(membership.registry.alive(monotonic())))
    gauge("mqk_announcements_waiting", "Status records to be written", lambda: presence.waiting)


def show_kafka(metrics: Metrics, gateways: Mapping[str, AioKafkaGateway]) -> None:
    """One of each for every cluster."""

    def gauge(name: str, documentation: str, read: Callable[[AioKafkaGateway], float]) -> None:
        reads = {name or "default": partial(read, each) for name, each in gateways.items()}
        metrics.gauge_by_cluster(name, documentation, reads)

    gauge("mqk_kafka_queue_bytes", "Records that wait for Kafka", lambda each: each.status().queued_bytes)
    gauge("mqk_kafka_oldest_record_seconds", "Age of the oldest", lambda each: each.status().oldest_age_seconds)
    gauge("mqk_kafka_ready", "1 when Kafka answers", lambda each: float(each.ready))
    gauge("mqk_kafka_fault", "1 when a setting keeps us out", lambda each: float(each.status().fault is not None))
    gauge("mqk_kafka_unknown_topics", "Topics that records wait for", lambda each: each.unknown_topics)
    gauge("mqk_kafka_learned_topics", "Topics in use that no setting names", lambda each: each.learned_topics)


def show_downlink(metrics: Metrics, downlink: Downlink, uplink: Uplink) -> None:
    gauge = metrics.gauge
    gauge("mqk_subscriptions", "Subscriptions of connected clients", lambda: len(uplink.subscribers))
    gauge("mqk_acl_rules", "Rules of acl.file in force", lambda: uplink.access.rules)
    gauge("mqk_downlink_queue_messages", "Messages that wait for a device", lambda: downlink.queued)
    gauge("mqk_downlink_queue_bytes", "What they take", lambda: downlink.queued_bytes)
    gauge("mqk_downlink_unread_bytes", "Written to devices that do not read", lambda: downlink.unread_bytes)
    gauge("mqk_downlink_in_flight", "Messages that a device has to acknowledge", lambda: downlink.in_flight)
    metrics.total_by("mqk_acl_denied", "What acl.file denied", "action", lambda: uplink.access.denied)


def show_commands(metrics: Metrics, switchboard: Switchboard) -> None:
    gauge, total = metrics.gauge, metrics.total
    inbox, commands, control = switchboard.inbox, switchboard.commands, switchboard.control
    gauge("mqk_commands_in_flight", "Commands that are not settled", lambda: control.in_flight)
    gauge("mqk_commands_uncommitted", "Records that wait to be committed", lambda: commands.uncommitted)
    total("mqk_command_results_lost", "Results that Kafka did not take", lambda: commands.results_lost)
    total("mqk_inbox_letters_sent", "Records for other replicas", lambda: inbox.letters_sent)
    total("mqk_inbox_letters_read", "Records of other replicas", lambda: inbox.letters_read)
    total("mqk_inbox_records_unreadable", "Records that are not ours", lambda: inbox.unreadable)


def show_admin(metrics: Metrics, api: Api, bans: Bans) -> None:
    gauge, total = metrics.gauge, metrics.total
    gauge("mqk_admin_requests_working", "Admin requests that are worked on", lambda: api.working)
    gauge("mqk_bans", "Bans that this replica knows", lambda: len(bans.table))
    total("mqk_bans_ignored", "Bans beyond the most that there may be", lambda: bans.ignored)
    total("mqk_ban_records_unreadable", "Records in the list of bans that are not ours", lambda: bans.unreadable)
