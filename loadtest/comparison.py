"""From the single measurements of a benchmark to its table. Pure: the figures come in, Markdown goes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `goal` is empty where none was set, `met` is None then."""

    figure: str
    proxy: str
    other: str
    difference: str
    goal: str = ""
    met: bool | None = None


def pairwise_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round, because what disturbs a machine disturbs both of a round."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def cpu_row(
    name: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], goal: float | None
) -> Row:
    """CPU per acknowledged message of both servers in the same rounds."""
    mine, others = ([each["servers"][0]["cpu_us_per_message"] for each in rounds] for rounds in (ours, theirs))
    ratio = pairwise_ratio(mine, others)
    return Row(
        f"CPU us per acknowledged message, {name}",
        _with_rate(mine, ours),
        _with_rate(others, theirs),
        f"x {ratio:.2f}",
        "" if goal is None else f"<= x {goal:.1f}",
        None if goal is None else ratio <= goal,
    )


def _with_rate(cpu: Sequence[float], rounds: Sequence[Mapping[str, Any]]) -> str:
    return f"{median(cpu):.1f} (at {median(each['acked_per_second'] for each in rounds):,.0f}/s)"


def memory_row(ours: Mapping[str, Any], theirs: Mapping[str, Any], connections: int, goal_bytes: int) -> Row:
    mine, other = (each["servers"][0]["rss_per_connection_bytes"] for each in (ours, theirs))
    return Row(
        f"RSS kB per idle connection at {connections:,}",
        f"{mine / 1e3:.2f}",
        f"{other / 1e3:.2f}",
        f"x {mine / other:.2f}" if other else "",
        f"<= {goal_bytes / 1e3:.0f} kB",
        mine <= goal_bytes,
    )


def latency_row(puback_ms: Sequence[float], kafka_ms: Mapping[str, Sequence[float]], goal_ms: float) -> Row:
    """PUBACK of a lone device beside Kafka's own round trip, by the client library that is quicker at it."""
    mine = median(puback_ms)
    others = {name: median(values) for name, values in kafka_ms.items()}
    added = mine - min(others.values())
    return Row(
        "PUBACK p50 ms of a lone device, 100/s",
        f"{mine:.2f}",
        "Kafka alone: " + ", ".join(f"{name} {value:.2f}" for name, value in others.items()),
        f"+ {added:.2f}" if added >= 0 else f"- {-added:.2f}",
        f"<= + {goal_ms:.0f} ms",
        added <= goal_ms,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, its columns aligned so that it reads as plain text too."""
    cells = [("", "proxy", "mosquitto", "proxy against it", "goal", "met")]
    cells += [
        (row.figure, row.proxy, row.other, row.difference, row.goal, {None: "", True: "yes", False: "no"}[row.met])
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)
