"""What rules cost: ten thousand of them, the one that matches last; loaded from TOML, met first, met again.

No Kafka, no socket: the tables and the decision of `Client.on_publish` alone.
"""

import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, cast

from proxy.config import load
from proxy.flows.forwarding import outlets
from proxy.flows.headers import HeaderPlan
from proxy.kafka.batches import PartitionQueue
from proxy.kafka.gateway import Destination, KafkaGateway, Partitioner
from proxy.policy.routes import RouteTable
from proxy.policy.templates import Scope
from proxy.wiring import route_table

#: Topic names that are met in one measurement, and measurements of which the median counts.
NAMES: Final = 2_000
FILTERS: Final = 9_900
OTHERS: Final = 100
ROUNDS: Final = 7
LAST: Final = "last/dev{}/line/alarm"
PLAN: Final = HeaderPlan(["mqtt.topic", "mqtt.clientid"], "node")


def rules_toml() -> str:
    """Filters of a fleet, then others by thirds: prefix, contains and regex. The last rule takes `last/…`."""
    return "".join(_rules())


def _rules() -> Iterator[str]:
    for number in range(FILTERS):
        site, line = divmod(number, 100)
        test = f'filter = "plants/site{site}/{{device}}/line{line}/#"'
        yield _rule(f"filter{number}", test, "${prefix}${device}")
    for number in range(OTHERS - 1):
        regex = f"regex = '^old/(?P<who>[^/]+)/v{number}$'"
        kinds = (f'prefix = "legacy/{number}/"', f'contains = "/kind{number}/"', regex)
        yield _rule(f"other{number}", kinds[number % 3], "${prefix}other")
    yield _rule("last", "regex = '^last/(?P<who>[^/]+)/.*alarm$'", "${prefix}alarm-${who}")


def _rule(name: str, test: str, topic: str) -> str:
    return f'[[routing.rules]]\nname = "{name}"\n{test}\ntopic = "{topic}"\n'


def run_routes() -> dict[str, float]:
    """CPU seconds to load, and CPU microseconds for a name that is met first: to find its rule, and to decide all."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "mqk.toml"
        path.write_text("[auth]\nanonymous = true\n" + rules_toml())
        parse = _seconds(lambda: tomllib.loads(path.read_text()))
        read = _seconds(lambda: load(path))
        settings = load(path).settings
    compiled = _seconds(lambda: route_table(settings))
    table = route_table(settings)
    return {
        "rules": float(len(table.rules)),
        "load_seconds": read + compiled,
        "of_which_toml_seconds": parse,
        "match_filter_us": _microseconds(table, table.match, "plants/site{}/dev7/line42/up", "filter"),
        "match_last_us": _microseconds(table, table.match, LAST, "last"),
        "match_none_us": _microseconds(table, table.match, "nobody/dev{}/line/up", ""),
        "decide_last_us": _microseconds(table, partial(_decide, table), LAST, "last"),
    }


def _seconds(step: Callable[[], object]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def _decide(table: RouteTable, name: str) -> None:
    """What `Client.on_publish` does for a topic name that it has not seen, but for the gateway's part."""
    scope = Scope(name, "device", None, "10.0.0.1")
    headers = PLAN.of_topic(name.encode(), "device", None)
    outlets(table.match(name), {"": cast(KafkaGateway, Nowhere())}, table.names, scope, headers)


class Nowhere:
    """A gateway that knows every topic, and is asked for nothing else."""

    generation = 0

    def destination(
        self, topic: str, key: bytes, partitioner: Partitioner | None = None, rule: str = ""
    ) -> Destination:
        return Destination(topic, 0, key, 0, PartitionQueue(0), rule, partitioner)


def _microseconds(table: RouteTable, step: Callable[[str], object], pattern: str, expected: str) -> float:
    """The median cost of one look-up, of names that are all different."""
    names = [pattern.format(number % 99) for number in range(NAMES)]
    found = table.match(names[0])
    if bool(found) != bool(expected) or (found and not found[0].name.startswith(expected)):
        raise AssertionError(f"{names[0]} is taken by {found}")
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for name in names:
            step(name)
        rounds.append((time.process_time() - began) / len(names) * 1e6)
    return median(rounds)
