"""Replicas, rules and settings, and the drain of this replica."""

from proxy.admin.api import Asked
from proxy.admin.models import (
    ConfigOut,
    DrainOut,
    ExplainedOut,
    NodeOut,
    NodesOut,
    RouteOut,
    RoutesOut,
    SettingOut,
)
from proxy.admin.paging import decode_cursor, encode_cursor, not_a_cursor
from proxy.admin.parts import Parts
from proxy.clock import monotonic
from proxy.policy.routes import Rule


async def list_nodes(parts: Parts, _asked: Asked) -> NodesOut:
    registry = parts.registry()
    alive = {node.name for node in registry.alive(monotonic())}
    return NodesOut(
        nodes=[
            NodeOut(
                node=node.name,
                incarnation=node.incarnation,
                state=node.state,
                alive=node.name in alive,
                this=node.name == parts.node,
                admin_address=node.admin_address,
                connections=node.connections,
            )
            for node in sorted(registry.nodes.values(), key=lambda node: node.name)
        ]
    )


async def list_routes(parts: Parts, asked: Asked) -> RoutesOut:
    """In their order. The cursor is a number: what is on a page is another thing after a reload."""
    cursor = decode_cursor(asked.query.cursor) or "0"
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise not_a_cursor()
    rules, start = parts.routes().rules, int(cursor)
    page = rules[start : start + asked.query.limit]
    following = encode_cursor(str(start + len(page))) if start + len(page) < len(rules) else None
    return RoutesOut(routes=[_shown(rule) for rule in page], next=following)


def _shown(rule: Rule) -> RouteOut:
    return RouteOut(
        name=rule.name,
        filter=rule.filter.text if rule.filter is not None else "",
        prefix=rule.prefix,
        contains=rule.contains,
        regex=rule.regex.text if rule.regex is not None else "",
        targets=[
            (target.topic.constant or target.topic.text) + (f"@{target.cluster}" if target.cluster else "")
            for target in rule.targets
        ],
        key=rule.key.text if rule.key is not None else "",
    )


async def explain(parts: Parts, asked: Asked) -> ExplainedOut:
    body = asked.body
    return ExplainedOut.model_validate(parts.explain(body.topic, body.clientid, body.username))


async def show_config(parts: Parts, _asked: Asked) -> ConfigOut:
    return ConfigOut(settings=[SettingOut(key=key, value=value) for key, value in parts.effective()])


async def show_drain(parts: Parts, _asked: Asked) -> DrainOut:
    return DrainOut(node=parts.node, state=parts.drainer.state)


async def start_drain(parts: Parts, asked: Asked) -> DrainOut:
    parts.drainer.start()
    return await show_drain(parts, asked)


async def cancel_drain(parts: Parts, asked: Asked) -> DrainOut:
    parts.drainer.cancel()
    return await show_drain(parts, asked)
