"""What is counted: each figure is what it says it is, in the form that Prometheus reads."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

import proxy
from proxy.metrics import GatewayMetrics, Histogram, Metrics


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.connects.labels("accepted").inc()
    metrics.disconnects.labels("normal").inc()
    GatewayMetrics(metrics.kafka, "default").failed("KafkaTimeoutError").inc()
    metrics.kafka.dead_letters.labels("too_large").inc()
    metrics.gauge_by_cluster("mqk_cluster_gauge", "Some gauge", {"default": lambda: 1.5})
    metrics.kafka.token_requests.labels("default", "granted").inc()
    metrics.presence.labels("stored").inc()
    metrics.downlinks.labels("delivered").inc()
    metrics.commands.labels("kick", "done").inc()
    metrics.admin_requests.labels("200").inc()
    metrics.total_by("mqk_some_counts", "Some counts", "kind", lambda: {"one": 1})
    metrics.gauge("mqk_some_gauge", "Some gauge", lambda: 2.5)
    metrics.total("mqk_some_total", "Some total", lambda: 7)
    return metrics


def shown(metrics: Metrics) -> Iterator[Metric]:
    return iter(text_string_to_metric_families(metrics.exposition().decode()))


def test_every_name_says_whose_it_is_and_every_counter_is_a_total(metrics: Metrics) -> None:
    families = list(shown(metrics))
    assert len(families) > 10
    for family in families:
        assert re.fullmatch(r"mqk_[a-z_]+", family.name)
        assert family.documentation
        assert family.samples, family.name
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert names == {f"{family.name}_total"}
        elif family.type == "gauge":
            assert names == {family.name}
        else:
            assert (family.type, names) == (
                "histogram",
                {f"{family.name}_bucket", f"{family.name}_sum", f"{family.name}_count"},
            )


def test_nothing_tells_when_it_was_made(metrics: Metrics) -> None:
    assert b"_created" not in metrics.exposition()


def test_figures_are_read_when_they_are_shown() -> None:
    metrics, count = Metrics(), [0]
    metrics.gauge("mqk_a", "A", lambda: count[0] / 2)
    metrics.total("mqk_b", "B", lambda: count[0])
    metrics.total_by("mqk_c", "C", "kind", lambda: {"one": count[0]})
    read = metrics.registry.get_sample_value
    assert (read("mqk_a"), read("mqk_b_total")) == (0, 0)
    count[0] = 5
    assert (read("mqk_a"), read("mqk_b_total")) == (2.5, 5)


def test_two_replicas_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.connects.labels("accepted").inc()
    assert two.registry.get_sample_value("mqk_connects_total", {"result": "accepted"}) is None


def test_build_info(metrics: Metrics) -> None:
    assert metrics.registry.get_sample_value("mqk_build_info", {"version": proxy.__version__}) == 1


def test_publishes_are_told_apart_by_qos_and_outcome(metrics: Metrics) -> None:
    metrics.publishes.stored[1] += 3
    metrics.publishes.dropped[0] += 2
    read = metrics.registry.get_sample_value
    assert read("mqk_publishes_total", {"qos": "1", "result": "stored"}) == 3
    assert read("mqk_publishes_total", {"qos": "0", "result": "stored"}) == 0
    assert read("mqk_publishes_total", {"qos": "0", "result": "dropped"}) == 2


def test_histogram() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("mqk_seconds", "Seconds", (0.1, 1.0, 10.0))
    registry.register(histogram)
    for value in (0.05, 0.1, 0.11, 1.0, 5.0, 11.0):
        histogram.observe(value)
    histogram.observe(0.5, 10)

    def bucket(bound: str) -> float | None:
        return registry.get_sample_value("mqk_seconds_bucket", {"le": bound})

    # A bucket holds what is not above its bound, and with it all that the smaller ones hold.
    assert [bucket(bound) for bound in ("0.1", "1.0", "10.0", "+Inf")] == [2, 14, 15, 16]
    assert registry.get_sample_value("mqk_seconds_count") == 16
    assert registry.get_sample_value("mqk_seconds_sum") == pytest.approx(17.26 + 5.0)


def test_an_empty_histogram_is_shown() -> None:
    metrics = Metrics()
    assert metrics.registry.get_sample_value("mqk_publish_ack_seconds_count") == 0
    assert metrics.registry.get_sample_value("mqk_publish_ack_seconds_bucket", {"le": "+Inf"}) == 0
