"""The figures of a run as a person reads them. The same figures as JSON need nothing from here."""

from collections.abc import Mapping
from typing import Any


def describe(figures: Mapping[str, Any]) -> str:
    """The report of one run, a line per subject."""
    settings = figures["settings"]
    lines = [
        f"MQTT {'5.0' if settings['version'] == 5 else '3.1.1'}, {settings['connections']} connections that publish"
        f" ({settings['inflight']} in flight each, QoS {settings['qos']}, {settings['size']} B),"
        f" {settings['idle_connections']} idle, run {settings['run_id']}"
    ]
    if settings["connections"]:
        lines += _publishing(figures)
    lines.append(f"connections      {figures['connected_at_end']} at the end, {_connections(figures['connections'])}")
    if figures["away_ms"]["count"]:
        lines.append(f"without one      {_latency(figures['away_ms'])}")
    lines += [f"violation        {count} x {what}" for what, count in figures["violations"].items()]
    lines += [f"ping {name:<12}{_latency(pings)}" for name, pings in figures["ping_ms"].items() if pings["count"]]
    lines += [_server(server) for server in figures["servers"]]
    tool = figures["tool"]
    lines.append(
        f"this tool        {_number(tool['cpu_us_per_message'])} us CPU per message,"
        f" its event loop was late by at most {tool['loop_lag_max_ms']} ms"
    )
    return "\n".join(lines)


def describe_verification(result: Mapping[str, Any]) -> str:
    """The counts of a verification, with examples."""
    lines = [f"kafka            {result['records']} records of this run, {result['devices']} devices"]
    for kind in ("lost", "corrupted", "reordered", "duplicated"):
        lines.append(f"{kind:<17}{result[kind]}")
        lines += [f"  {example}" for example in result["examples"][kind]]
    lines.append(f"unacknowledged   {result['unacknowledged']} records that were never acknowledged are there too")
    if result["spread"]:
        lines.append(f"spread           {result['spread']} devices have records in several partitions of a topic:")
        lines.append("                 Kafka keeps no order among those, order was checked within each partition")
    return "\n".join(lines)


def _publishing(figures: Mapping[str, Any]) -> list[str]:
    lines = [_rate(figures), _traffic(figures)]
    if figures["acknowledged"]:
        lines.append(f"ack latency      {_latency(figures['ack_ms'])}")
        lines.append(f"ack errors       {_counts(figures['ack_errors'])}")
    if any(figures["repeated"].values()):
        lines.append(f"repeated         {_counts(figures['repeated'])}")
    if figures["ack_reasons"]:
        lines.append(f"ack reasons      {_counts(figures['ack_reasons'])}")
    return lines


def _rate(figures: Mapping[str, Any]) -> str:
    what = "acked" if figures["acknowledged"] else "written, QoS 0: not acknowledged"
    return (
        f"rate             {figures['acked_per_second']:.0f} messages/s {what}"
        f" ({figures['acked']} in {figures['seconds_to_last_ack']:.2f} s)"
    )


def _traffic(figures: Mapping[str, Any]) -> str:
    names = ("sent", "resent", "refused", "unacknowledged", "not_offered")
    return "messages         " + _counts({name: figures[name] for name in names})


def _connections(connections: Mapping[str, Any]) -> str:
    parts = {name: value for name, value in connections.items() if isinstance(value, int)}
    text = _counts(parts)
    for name in ("refused", "server_disconnects"):
        if connections[name]:
            text += f", {name.replace('_', ' ')}: {_counts(connections[name])}"
    return text


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())


def _latency(summary: Mapping[str, Any]) -> str:
    points = ", ".join(f"{name} {_number(summary[name])}" for name in ("p50", "p95", "p99", "max"))
    return f"{points} ms ({summary['count']})"


def _server(server: Mapping[str, Any]) -> str:
    if server["ended"]:
        return f"server {server['pid']:<10}ended during the run, so there are no figures of it"
    return (
        f"server {server['pid']:<10}{_number(server['cpu_us_per_message'])} us CPU per message"
        f" ({server['cpu_seconds']} s), {server['rss_per_connection_bytes']} B per connection,"
        f" {server['rss_end_bytes'] / 1e6:.1f} MB at the end"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
