"""Clients, and what can be done with them."""

import secrets
from datetime import UTC, datetime
from typing import Final

from proxy.admin.api import Asked
from proxy.admin.directory import Filter, Place, decode_place, state_of
from proxy.admin.models import ClientOut, ClientsOut, MessageRequest, OutcomeOut, ResultOut
from proxy.admin.paging import decode_cursor, encode_cursor, not_a_cursor
from proxy.admin.parts import Parts
from proxy.admin.problems import Problem
from proxy.clock import wall_ms
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Message, Result, Selector
from proxy.kafka.records import SessionRecord
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0

_VERSIONS: Final = {MQTT_3_1: "3.1", MQTT_3_1_1: "3.1.1", MQTT_5_0: "5.0"}


async def list_clients(parts: Parts, asked: Asked) -> ClientsOut:
    query = asked.query
    _check_joined(parts)
    cursor = decode_cursor(query.cursor)
    try:
        place = decode_place(cursor) if cursor else Place()
    except ValueError:
        raise not_a_cursor() from None
    wanted = Filter(query.clientid, query.username, query.node, query.state)
    found, following = await parts.directory.page(wanted, query.limit, place)
    return ClientsOut(
        clients=[_shown(parts, view) for view in found],
        next=encode_cursor(following.encode()) if following is not None else None,
    )


async def show_client(parts: Parts, asked: Asked) -> ClientOut:
    view = _view(parts, asked.path["clientid"])
    asked.headers["ETag"] = f'"{view.epoch}"'
    return _shown(parts, view)


async def kick_client(parts: Parts, asked: Asked) -> ResultOut:
    """With `If-Match` it is the connection of that epoch, and not one that came after it."""
    client_id = asked.path["clientid"]
    view = _view(parts, client_id)
    epoch = _epoch(asked.if_match)
    if epoch is not None and epoch != view.epoch:
        raise Problem(412, f"the connection of client {client_id} is another one by now: {view.epoch}")
    result = await _execute(parts, _command(KICK, Selector(client_id), epoch=epoch))
    if result.outcome == "nobody_found":
        raise Problem(412 if epoch is not None else 404, f"client {client_id} is not connected")
    return _result(result)


async def kick(parts: Parts, asked: Asked) -> ResultOut:
    return _result(await _execute(parts, _command(KICK, asked.body.selector())))


async def clean_acl(parts: Parts, asked: Asked) -> ResultOut:
    return _result(await _execute(parts, _command(ACL_CLEAN, asked.body.selector())))


async def publish_to_client(parts: Parts, asked: Asked) -> ResultOut:
    return _result(await _execute(parts, _delivery(Selector(asked.path["clientid"]), asked.body)))


async def publish(parts: Parts, asked: Asked) -> ResultOut:
    return _result(await _execute(parts, _delivery(Selector(None, asked.body.username), asked.body)))


async def _execute(parts: Parts, command: Command) -> Result:
    result = await parts.controller.execute(command)
    if result.outcome == "busy":
        raise Problem(503, "as many commands as may be are on their way", headers={"Retry-After": "1"})
    if result.outcome == "malformed":
        raise Problem(422, result.error)
    return result


def _check_joined(parts: Parts) -> None:
    if not parts.joined():
        raise Problem(503, "this replica is reading the session log", headers={"Retry-After": "1"})


def _view(parts: Parts, client_id: str) -> SessionRecord:
    _check_joined(parts)
    view = parts.view(client_id)
    if view is None or state_of(view, wall_ms()) is None:
        raise Problem(404, f"no client {client_id} is connected or has a session")
    return view


def _shown(parts: Parts, view: SessionRecord) -> ClientOut:
    offline = bool(view.rel)
    return ClientOut(
        clientid=view.client_id,
        username=view.about.username,
        state="offline" if offline else "connected",
        node=view.node,
        address=view.about.address,
        protocol_version=_VERSIONS.get(view.about.protocol_version, str(view.about.protocol_version)),
        keep_alive_seconds=view.about.keep_alive,
        connected_at=timestamp(view.about.connected_at_ms),
        epoch=view.epoch,
        expiry_seconds=view.expiry_seconds,
        expires_at=timestamp(view.session_expires_ms) if offline else None,
        subscriptions=_subscriptions(parts, view),
    )


def _subscriptions(parts: Parts, view: SessionRecord) -> list[str] | None:
    """Its topic filters; None when this replica cannot know them."""
    local = parts.local(view.client_id)
    if local is not None and local.epoch == view.epoch:
        known = local.subscriptions
    elif view.state is not None:
        known = view.state.subscriptions
    else:
        return None
    return [str(each[0]) for each in known]


def timestamp(ms: int) -> str:
    """UTC, as ISO 8601 writes it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        # A session record may say anything that fits into its field.
        return "9999-12-31T23:59:59.999Z"


def _epoch(if_match: str | None) -> int | None:
    """`*` and no header at all mean whichever there is. Raises Problem."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Problem(412, "If-Match is no epoch of a connection: the ETag of this client is one")
    return int(text)


def _command(kind: str, selector: Selector, *, epoch: int | None = None) -> Command:
    return Command(f"http-{secrets.token_hex(8)}", kind, selector, epoch=epoch)


def _delivery(selector: Selector, body: MessageRequest) -> Command:
    message = Message(body.topic, body.content(), body.qos, body.retain, list(body.user_properties.items()))
    expires_at_ms = wall_ms() + body.expires_in_seconds * 1000 if body.expires_in_seconds else 0
    return Command(f"http-{secrets.token_hex(8)}", DELIVER, selector, expires_at_ms, message)


def _result(result: Result) -> ResultOut:
    clients = [OutcomeOut(clientid=each.clientid, outcome=each.outcome, node=each.node) for each in result.clients]
    return ResultOut(id=result.id, kind=result.kind, outcome=result.outcome, clients=clients)
