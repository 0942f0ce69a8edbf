"""What is counted during a run. One tally per process; the parent merges them."""

from collections import Counter
from dataclasses import dataclass, field, fields

from loadtest.histogram import Histogram


@dataclass(slots=True)
class Tally:
    """Plain counters, added to by the devices as it happens. Reason codes are the keys of the Counters."""

    connected: int = 0
    """Connections that are up now."""
    connacks: int = 0
    connect_failures: int = 0
    refused_connects: Counter[str] = field(default_factory=Counter)
    connections_lost: int = 0
    server_disconnects: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    """Messages published for the first time."""
    resent: int = 0
    publishes_repeated: int = 0
    """Said again on purpose, on the same connection."""
    releases_repeated: int = 0
    pubrecs_repeated: int = 0
    """Answers to repeated PUBLISH packets beside the one that each message gets."""
    acked: int = 0
    """Messages acknowledged with success; at QoS 0, where nothing is acknowledged, messages written."""
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_acks: int = 0
    duplicate_acks: int = 0
    out_of_order_acks: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    not_offered: int = 0
    """Messages that a fixed rate asked for while the window was full or the connection down."""
    ping_timeouts: int = 0
    last_ack: float = 0.0
    """When the latest acknowledgement arrived, on the clock that all processes of a host share."""
    loop_lag_max: float = 0.0
    cpu_seconds: float = 0.0
    ack_latency: Histogram = field(default_factory=Histogram)
    away: Histogram = field(default_factory=Histogram)
    """From the end of an accepted connection to the CONNACK of the next: as long a device could publish nothing."""
    ping_idle: Histogram = field(default_factory=Histogram)
    ping_publishing: Histogram = field(default_factory=Histogram)

    def merge(self, other: "Tally") -> None:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Histogram):
                mine.merge(theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
            elif each.name in ("last_ack", "loop_lag_max"):
                setattr(self, each.name, max(mine, theirs))
            else:
                setattr(self, each.name, mine + theirs)

    @property
    def ack_errors(self) -> int:
        return self.unknown_acks + self.duplicate_acks + self.out_of_order_acks
