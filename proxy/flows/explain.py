"""What would become of a PUBLISH, rule by rule and record by record, without any connection and without Kafka."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.flows.headers import HeaderPlan
from proxy.kafka.batches import md5_partition
from proxy.policy.routes import RouteTable, Rule, Target
from proxy.policy.templates import Scope


@dataclass(slots=True, frozen=True)
class Partitions:
    """How many partitions a topic is taken to have, by its cluster; `md5` is `routing.md5_partitions`."""

    by_cluster: Mapping[str, int]
    md5: int | None = None


def explain(
    routes: RouteTable, plan: HeaderPlan, message: Scope, unmatched: str, partitions: Partitions
) -> dict[str, Any]:
    """In the words of `mqk route explain --json`. Variables that only a message has (`${qos}`, `${ts}`, `${prop.NAME}`)
    are what they are in `message`.
    """
    taking = routes.match(message.topic)
    outcome = "produced" if taking else "reject" if message.topic.startswith("$") else unmatched
    return {
        "topic": message.topic,
        "clientid": message.client_id,
        "username": message.username,
        "rules": [f"{rule}: {said}" for rule, said in routes.explain(message.topic)],
        "outcome": outcome,
        "records": [
            _record(routes, plan, message, rule, target, partitions) for rule in taking for target in rule.targets
        ],
    }


def _record(
    routes: RouteTable, plan: HeaderPlan, message: Scope, rule: Rule, target: Target, partitions: Partitions
) -> dict[str, object]:
    message.captures = rule.captures(message.topic)
    topic = target.topic.render(message)
    key = rule.key.render(message) if rule.key is not None else message.topic
    objection = routes.names.objection_to_made(topic) if target.topic.constant is None else None
    count = partitions.by_cluster[target.cluster]
    headers = plan.of_topic(message.topic.encode(), message.client_id, message.username)
    rendered = [(name, template.render(message)) for name, template in rule.headers]
    return {
        "rule": rule.name,
        "cluster": target.cluster,
        "kafka_topic": topic,
        "refused": objection.detail if objection is not None else None,
        "key": key,
        "partition": _partition(rule, key.encode(), count, partitions.md5),
        "partitions": count,
        "headers": {name: value.decode() for name, value in headers} | {name: text for name, text in rendered if text},
    }


def _partition(rule: Rule, key: bytes, count: int, md5_partitions: int | None) -> int | None:
    """None when it is not the key that decides."""
    if rule.partitioner is None:
        return md5_partition(key, md5_partitions or count)
    return rule.partitioner(key, count) if rule.partition_by_key else None
