"""The command line: `run`, `verify`, `bench`, `routes`. Flags become settings here and nowhere else.

Exit code 0: all well; 1: the server or the check failed; 2: wrong use; 130: interrupted.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import LoadError, UsageError
from loadtest.report import describe, describe_verification
from loadtest.run import Outcome, run_load
from loadtest.settings import LoadSettings
from loadtest.verify import Acknowledged, LogCheck, passed

DEFAULT_TOPICS = "^[^_]"
"""Every topic but those that Kafka and its users keep for themselves."""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except UsageError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except LoadError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Drives any MQTT server and checks Kafka.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="drive a server", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    _add_load_flags(run)
    _add_server_flags(run)
    _add_result_flags(run)
    run.set_defaults(command=_run)
    verify = commands.add_parser("verify", help="check Kafka against what an earlier run wrote with --acked-file")
    verify.add_argument("--acked", metavar="FILE", required=True, type=Path)
    verify.add_argument("--kafka", metavar="HOST:PORT", required=True)
    _add_verify_flags(verify)
    verify.set_defaults(command=_verify)
    bench = commands.add_parser("bench", help="compare the proxy with mosquitto, with a real Kafka, on this machine")
    bench.add_argument("--rounds", type=int, default=3, help="measurements of each server per scenario")
    bench.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    bench.add_argument("--idle-connections", type=int, default=5_000)
    bench.add_argument("--kafka-version", default="4.1.0")
    bench.add_argument("--json", metavar="FILE", type=Path, help="write every single measurement there")
    bench.set_defaults(command=_bench)
    routes = commands.add_parser("routes", help="measure what ten thousand rules cost, without Kafka")
    routes.set_defaults(command=_routes)
    return parser


def _add_load_flags(run: argparse.ArgumentParser) -> None:
    add, default = run.add_argument, LoadSettings(host="", port=1883)
    add("--target", metavar="HOST:PORT", required=True, help="the MQTT server")
    add("--connections", metavar="N", type=int, default=default.connections, help="connections that publish")
    add("--idle-connections", metavar="N", type=int, default=0, help="further connections that only keep alive")
    add("--idle", action="store_true", help="nobody publishes: hold the connections for --seconds")
    add("--inflight", metavar="W", type=int, default=default.inflight, help="unacknowledged messages per connection")
    add("--qos", type=int, choices=(0, 1, 2), default=default.qos, help="at 0 nothing is acknowledged")
    add("--packet-ids", metavar="N", type=int, default=default.packet_ids, help="each device uses 1 to N in turn")
    add("--repeat", metavar="P", type=float, default=0.0, help="QoS 2: chance of saying PUBLISH or PUBREL again")
    add("--size", metavar="B", type=int, default=default.size, help="bytes of each payload")
    add("--seconds", metavar="S", type=float, default=default.seconds, help="how long to publish")
    add("--rate", metavar="R", type=float, default=default.rate, help="messages/s of all together; 0: no limit")
    add("--stop-after", metavar="MESSAGES", type=int, default=0, help="end earlier, after this many; 0: never")
    add("--settle", metavar="S", type=float, default=default.settle_seconds, help="wait this long for the last acks")
    add("--topic", default=default.topic, help="{client} stands for the client id")
    add("--client-prefix", metavar="P", default=default.client_prefix, help="client ids are P000000, P000001 ...")
    add("--connect-rate", metavar="R", type=float, default=default.connect_rate, help="connections/s at the beginning")
    add("--connect-timeout", metavar="S", type=float, default=default.connect_timeout_seconds)
    add("--processes", metavar="N", type=int, default=max((os.cpu_count() or 1) - 1, 1), help="processes of this tool")


def _add_server_flags(run: argparse.ArgumentParser) -> None:
    add, default = run.add_argument, LoadSettings(host="", port=1883)
    add("--version", type=int, choices=(4, 5), default=default.version, help="4: MQTT 3.1.1, 5: MQTT 5.0")
    add("--username", help="{client} stands for the client id")
    add("--password")
    add("--keep-alive", metavar="S", type=int, default=default.keep_alive_seconds)
    add("--session-expiry", metavar="S", type=int, default=default.session_expiry_seconds, help="MQTT 5.0 only")
    add("--ping-every", metavar="S", type=float, default=0.0, help="measure PINGRESP this often; 0: keep alive only")
    add("--pid", type=int, action="append", default=[], help="server process to measure; may be repeated")


def _add_result_flags(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add("--json", metavar="FILE", type=Path, help="write all figures and settings there")
    add("--acked-file", metavar="FILE", type=Path, help="write what was acknowledged there, for a later verify")
    add("--verify", metavar="kafka:HOST:PORT", help="read Kafka back when the run is over")
    _add_verify_flags(run)


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verify-topics", metavar="REGEX", default=DEFAULT_TOPICS, help="Kafka topics to read")
    parser.add_argument("--exactly-once", action="store_true", help="duplicates are failures too")


def _settings(options: argparse.Namespace) -> LoadSettings:
    host, _, port = options.target.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--target: expected host:port, not {options.target!r}")
    return LoadSettings(
        host=host.strip("[]"),
        port=int(port),
        connections=0 if options.idle else options.connections,
        idle_connections=options.idle_connections + (options.connections if options.idle else 0),
        inflight=options.inflight,
        qos=options.qos,
        packet_ids=options.packet_ids,
        repeat=options.repeat,
        size=options.size,
        seconds=options.seconds,
        rate=options.rate,
        stop_after=options.stop_after,
        version=options.version,
        username=options.username,
        password=options.password,
        topic=options.topic,
        client_prefix=options.client_prefix,
        connect_rate=options.connect_rate,
        connect_timeout_seconds=options.connect_timeout,
        keep_alive_seconds=options.keep_alive,
        session_expiry_seconds=options.session_expiry,
        ping_every_seconds=options.ping_every,
        settle_seconds=options.settle,
        processes=options.processes,
    )


def _run(options: argparse.Namespace) -> int:
    settings = _settings(options)
    bootstrap = _bootstrap(options.verify) if options.verify else None
    outcome = run_load(settings, options.pid)
    figures = outcome.figures
    print(describe(figures))
    acknowledged = Acknowledged(
        settings.run_id, settings.size, settings.client_prefix, outcome.acked, promised=settings.qos > 0
    )
    if options.acked_file:
        options.acked_file.write_text(json.dumps(acknowledged.to_json()))
    verified = True
    try:
        if bootstrap:
            figures["verify"], verified = _check_kafka(bootstrap, acknowledged, options)
    finally:
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return _exit_code(outcome, verified)


def _exit_code(outcome: Outcome, verified: bool) -> int:
    if outcome.figures["interrupted"]:
        return 130
    faults = any(outcome.figures["ack_errors"].values()) or outcome.figures["violations"]
    return 0 if verified and not faults else 1


def _bootstrap(address: str) -> str:
    """`kafka:host:port` → `host:port`."""
    scheme, _, bootstrap = address.partition(":")
    if scheme != "kafka" or ":" not in bootstrap:
        raise UsageError(f"--verify: expected kafka:host:port, not {address!r}")
    return bootstrap


def _verify(options: argparse.Namespace) -> int:
    try:
        acknowledged = Acknowledged.from_json(json.loads(options.acked.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--acked: {options.acked} is not what --acked-file writes: {error!r}") from error
    return 0 if _check_kafka(options.kafka, acknowledged, options)[1] else 1


def _check_kafka(
    bootstrap: str, acknowledged: Acknowledged, options: argparse.Namespace
) -> tuple[dict[str, Any], bool]:
    try:
        from loadtest.kafkalog import read_topics  # noqa: PLC0415  # only here is confluent-kafka needed
    except ImportError as error:
        raise LoadError("reading Kafka needs the package confluent-kafka") from error
    check = LogCheck(acknowledged)
    topics = read_topics(bootstrap, options.verify_topics, check)
    result = {**check.result(), "topics": topics}
    print(describe_verification(result))
    return result, passed(result, acknowledged, options.exactly_once)


def _bench(options: argparse.Namespace) -> int:
    from loadtest.bench import run_bench  # noqa: PLC0415  # only here are aiokafka and a Kafka broker needed

    return run_bench(options.rounds, options.seconds, options.idle_connections, options.kafka_version, options.json)


def _routes(_options: argparse.Namespace) -> int:
    from loadtest.routes import run_routes  # noqa: PLC0415  # only here is the proxy itself needed

    for name, value in run_routes().items():
        print(f"{name:24}{value:12.3f}")
    return 0
