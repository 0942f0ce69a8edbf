"""What is counted. Plain numbers that cost nothing to raise; Prometheus reads them when it asks.

Base units, `_total` on counters. Labels never carry a client id, a user or a topic.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

import proxy

#: Upper bounds in seconds: from a fast cluster's produce round trip to the delivery deadline.
_ACK_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram(Collector):
    """A histogram for the hot path: one bisection for many equal values."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        buckets, running = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class PublishCounter(Collector):
    """PUBLISH packets by outcome and QoS. The hot path adds to a list: `counter.stored[qos] += 1`."""

    def __init__(self) -> None:
        #: Kafka has it.
        self.stored = [0, 0, 0]
        #: No rule takes it.
        self.unmatched = [0, 0, 0]
        #: Its payload is not the text that it claims to be.
        self.invalid = [0, 0, 0]
        #: Access control does not allow it.
        self.denied = [0, 0, 0]
        #: Kafka can never store it.
        self.refused = [0, 0, 0]
        #: Not in Kafka in time, or nobody knows: at QoS 1 the connection closes and the device sends it again.
        self.undelivered = [0, 0, 0]
        #: The queue was full and nobody waits for it.
        self.dropped = [0, 0, 0]

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("mqk_publishes", "PUBLISH packets by QoS and outcome", labels=("qos", "result"))
        for result, counts in vars(self).items():
            for qos, count in enumerate(counts):
                family.add_metric((str(qos), result), count)
        yield family


class Total(Collector):
    """A count that somebody else keeps; it is read when Prometheus asks."""

    def __init__(self, name: str, documentation: str, read: Callable[[], int]) -> None:
        self._name = name
        self._documentation = documentation
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, value=self._read())


class Totals(Collector):
    """Counts by one label that somebody else keeps; they are read when Prometheus asks."""

    def __init__(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        self._family = partial(CounterMetricFamily, name, documentation, labels=(label,))
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = self._family()
        for value, count in self._read().items():
            family.add_metric((value,), count)
        yield family


class KafkaCounters:
    """What the gateways count, all but the dead letters by cluster."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, labels, registry=registry)

        self.batches = counter("mqk_kafka_batches", "Batches that Kafka acknowledged", "cluster")
        self.records = counter("mqk_kafka_records", "Records that Kafka acknowledged", "cluster")
        self.failed_batches = counter(
            "mqk_kafka_failed_batches", "Batches that failed, by the client's error", "cluster", "error"
        )
        self.token_requests = counter(
            "mqk_kafka_token_requests", "Requests for an OAUTHBEARER token by outcome", "cluster", "result"
        )
        self.overdue = counter(
            "mqk_kafka_overdue_records", "Records that passed kafka.delivery_timeout_seconds", "cluster"
        )
        self.late = counter("mqk_kafka_late_records", "Overdue records that Kafka stored after all", "cluster")
        self.dead_letters = counter("mqk_dead_letters", "Records in a dead-letter topic, by cause", "cause")


class GatewayMetrics:
    """The counters of one gateway."""

    def __init__(self, counters: KafkaCounters, cluster: str) -> None:
        self.batches = counters.batches.labels(cluster)
        self.records = counters.records.labels(cluster)
        self.overdue = counters.overdue.labels(cluster)
        self.late = counters.late.labels(cluster)
        self.dead_letters = counters.dead_letters
        self._failed_batches = counters.failed_batches
        self._token_requests = counters.token_requests
        self._cluster = cluster

    def token_request(self, result: str) -> None:
        """One request for a token: granted, refused or unavailable."""
        self._token_requests.labels(self._cluster, result).inc()

    def failed(self, error: str) -> Counter:
        """Of batches that failed with this error."""
        return self._failed_batches.labels(self._cluster, error)


class Metrics:
    """Everything that `/metrics` shows."""

    def __init__(self) -> None:
        # Else every counter is shown twice: once more as the time when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.kafka = KafkaCounters(self.registry)
        self.connects = self._counter("mqk_connects", "CONNECT packets by outcome", "result")
        self.disconnects = self._counter("mqk_disconnects", "Ended connections by reason", "reason")
        self.publishes = PublishCounter()
        self.registry.register(self.publishes)
        self.ack_seconds = Histogram(
            "mqk_publish_ack_seconds", "From the receipt of a QoS 1 PUBLISH to Kafka's acknowledgement", _ACK_BOUNDS
        )
        self.registry.register(self.ack_seconds)
        self.reloads = self._counter("mqk_reloads", "Times that rules and password files were read again", "result")
        for result in ("applied", "refused"):
            self.reloads.labels(result)
        self.downlinks = self._counter("mqk_downlinks", "Messages for devices by what became of them", "outcome")
        self.admin_requests = self._counter("mqk_admin_requests", "Requests of the admin API by status", "status")
        self.commands = self._counter("mqk_commands", "Commands by what came of them", "kind", "outcome")
        self.presence = self._counter("mqk_presence_records", "Records for the status topic by outcome", "result")
        build = Gauge("mqk_build_info", "Always 1; the version is the label", ["version"], registry=self.registry)
        build.labels(proxy.__version__).set(1)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A figure that is read when somebody asks."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def gauge_by_cluster(self, name: str, documentation: str, reads: Mapping[str, Callable[[], float]]) -> None:
        """A figure of each Kafka cluster, read when somebody asks."""
        family = Gauge(name, documentation, ["cluster"], registry=self.registry)
        for cluster, read in reads.items():
            family.labels(cluster).set_function(read)

    def total_by(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Counts by one label that are read when somebody asks."""
        self.registry.register(Totals(name, documentation, label, read))

    def total(self, name: str, documentation: str, read: Callable[[], int]) -> None:
        """A count that is read when somebody asks."""
        self.registry.register(Total(name, documentation, read))

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
