"""The table of the benchmark follows from its measurements, goals met or not."""

from typing import Any

from loadtest.comparison import cpu_row, latency_row, markdown, memory_row, pairwise_ratio


def figures(cpu: float = 0.0, rate: float = 0.0, rss: int = 0) -> dict[str, Any]:
    servers = [{"cpu_us_per_message": cpu, "rss_per_connection_bytes": rss}]
    return {"acked_per_second": rate, "servers": servers}


def test_a_ratio_is_taken_round_by_round() -> None:
    """In the third round the machine was twice as slow for both."""
    assert pairwise_ratio([5.0, 6.0, 12.0], [10.0, 10.0, 20.0]) == 0.6


def test_cpu() -> None:
    ours = [figures(cpu, 50_000) for cpu in (5.0, 6.0, 12.0)]
    theirs = [figures(cpu, 80_000) for cpu in (10.0, 10.0, 20.0)]
    row = cpu_row("200 x 20", ours, theirs, goal=1.0)
    assert (row.proxy, row.other) == ("6.0 (at 50,000/s)", "10.0 (at 80,000/s)")
    assert (row.difference, row.goal, row.met) == ("x 0.60", "<= x 1.0", True)
    assert cpu_row("200 x 20", ours, theirs, goal=0.5).met is False
    assert cpu_row("200 x 20", ours, theirs, goal=None).met is None


def test_memory() -> None:
    row = memory_row(figures(rss=6_001), figures(rss=500), 5_000, goal_bytes=6_000)
    assert (row.proxy, row.other, row.difference, row.met) == ("6.00", "0.50", "x 12.00", False)
    assert memory_row(figures(rss=6_000), figures(rss=0), 5_000, goal_bytes=6_000).met is True


def test_latency_is_compared_with_the_quicker_client_library() -> None:
    kafka = {"aiokafka": [3.0, 2.0], "librdkafka": [1.0, 2.0]}
    row = latency_row([2.4, 2.6], kafka, goal_ms=1.0)
    assert (row.proxy, row.difference, row.met) == ("2.50", "+ 1.00", True)
    assert row.other == "Kafka alone: aiokafka 2.50, librdkafka 1.50"
    assert latency_row([2.6], kafka, goal_ms=1.0).met is False
    assert latency_row([1.0], kafka, goal_ms=1.0).difference == "- 0.50"


def test_the_table_says_what_was_met() -> None:
    rows = [
        memory_row(figures(rss=1), figures(rss=1), 5_000, 6_000),
        cpu_row("a", [figures(2.0)], [figures(1.0)], 1.0),
        cpu_row("b", [figures(2.0)], [figures(1.0)], None),
    ]
    lines = markdown(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == {"|", "-", " "}
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["yes", "no", ""]
