"""What each request of the admin API does and says, and what it says when it cannot."""

import asyncio
import json
import logging
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from proxy import limits
from proxy.clock import monotonic
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Message, Selector
from proxy.errors import GatewayError
from proxy.flows.access import Access, AccessSettings
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, SESSION_EXPIRY_INTERVAL, Subscribe, Subscription
from tests.admin.parts import Door
from tests.flows.harness import Device, Replica
from tests.support.fakes import until

#: Client identifiers that a path must be able to name.
AWKWARD = [
    "a/b",
    "/",
    "a/publish",
    "..",
    "%2F",
    "a?b#c",
    "ü",
    "a b",
    "\N{ROCKET}",
    "clients",
    "a%00b",
    "+",
    "{x}",
    "a\nb",
    "\r\n",
    "\x85\u2028",
]


def problem(answer: httpx.Response, status: int) -> str:
    """Its detail, once it is seen to be a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["status"]) == ("about:blank", status)
    assert body["title"]
    return str(body["detail"])


# ---- clients ----


async def test_a_client_as_it_is_shown(door: Door) -> None:
    door.connect("c1", version=MQTT_3_1_1, username="u1", keep_alive=30)
    answer = await door.ask("GET", "/v1/clients/c1")
    shown = answer.json()
    assert answer.headers["etag"] == f'"{shown["epoch"]}"'
    assert shown["connected_at"].endswith("Z")
    del shown["connected_at"]
    assert shown == {
        "clientid": "c1",
        "username": "u1",
        "state": "connected",
        "node": "node-7",
        "address": "10.0.0.1",
        "protocol_version": "3.1.1",
        "keep_alive_seconds": 30,
        "epoch": 0,
        "expiry_seconds": 0,
        "expires_at": None,
        "subscriptions": [],
    }
    assert (await door.ask("GET", "/v1/clients")).json()["clients"][0]["clientid"] == "c1"


@pytest.mark.parametrize(("expiry", "elsewhere"), [(0, None), (60, ["a/#"])], ids=["ends at once", "lives on"])
async def test_what_a_client_has_subscribed_to(door: Door, expiry: int, elsewhere: list[str] | None) -> None:
    """What ends with its connection is in no log: another replica cannot know it, and says so."""
    for replica in (door.replica, Replica(beside=door.replica, node="node-8")):
        replica.uplink.access = Access(AccessSettings(subscribe_default="allow"))
        device = Device(replica, MQTT_5_0)
        device.connect(replica.uplink.settings.node, properties={SESSION_EXPIRY_INTERVAL: expiry})
        device.send(encode_packet(Subscribe(1, [Subscription("a/#", 1)]), MQTT_5_0))
        await until(device.take, "SUBACK")
    shown = (await door.ask("GET", "/v1/clients")).json()["clients"]
    assert {each["node"]: each["subscriptions"] for each in shown} == {"node-7": ["a/#"], "node-8": elsewhere}


async def test_a_session_without_its_device_is_offline_until_it_expires(door: Door) -> None:
    door.connect("c1", properties={SESSION_EXPIRY_INTERVAL: 60}).vanish()
    await asyncio.sleep(0.01)
    shown = (await door.ask("GET", "/v1/clients")).json()["clients"]
    assert [(each["clientid"], each["state"], each["expiry_seconds"]) for each in shown] == [("c1", "offline", 60)]
    assert shown[0]["expires_at"]
    door.now_ms += 60_001
    assert (await door.ask("GET", "/v1/clients")).json() == {"clients": [], "next": None}


async def test_who_has_gone_is_not_shown(door: Door) -> None:
    door.connect("c1").vanish()
    await asyncio.sleep(0.01)
    assert (await door.ask("GET", "/v1/clients")).json()["clients"] == []
    assert "c1" in problem(await door.ask("GET", "/v1/clients/c1"), 404)
    assert "c2" in problem(await door.ask("GET", "/v1/clients/c2"), 404)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["a1", "a2", "b1"]),
        ("clientid=a", ["a1", "a2"]),
        ("clientid=a2", ["a2"]),
        ("username=u", ["a2", "b1"]),
        ("username=u&clientid=b", ["b1"]),
        ("state=connected", ["a1", "a2"]),
        ("state=offline", ["b1"]),
        ("node=node-7", ["a1", "a2", "b1"]),
        ("node=other", []),
        ("limit=3", ["a1", "a2", "b1"]),
    ],
)
async def test_filters(door: Door, query: str, found: list[str]) -> None:
    door.connect("a1")
    door.connect("a2", username="u")
    door.connect("b1", username="u", properties={SESSION_EXPIRY_INTERVAL: 10_000_000}).vanish()
    await asyncio.sleep(0.01)
    answer = (await door.ask("GET", f"/v1/clients?{query}")).json()
    assert [each["clientid"] for each in answer["clients"]] == found


async def pages(door: Door, query: str = "") -> list[list[str]]:
    found, cursor = [], ""
    while True:
        answer = (await door.ask("GET", f"/v1/clients?{query}{cursor}")).json()
        found.append([each["clientid"] for each in answer["clients"]])
        if answer["next"] is None:
            return found
        cursor = f"&cursor={quote(answer['next'])}"


async def test_pages(door: Door) -> None:
    for number in range(7):
        door.connect(f"c{number}")
    assert await pages(door, "limit=3") == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]


async def test_a_cursor_means_the_same_place_while_clients_come_and_go(door: Door) -> None:
    devices = {name: door.connect(name) for name in ("b", "d", "f", "h")}
    first = (await door.ask("GET", "/v1/clients?limit=2")).json()
    assert [each["clientid"] for each in first["clients"]] == ["b", "d"]
    devices["d"].vanish()  # The very one that the cursor names.
    for name in ("a", "c", "e"):
        door.connect(name)
    await asyncio.sleep(0.01)
    second = (await door.ask("GET", f"/v1/clients?cursor={quote(first['next'])}")).json()
    assert [each["clientid"] for each in second["clients"]] == ["e", "f", "h"]


async def test_a_page_looks_at_so_many_clients_and_no_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_SCAN_MAX", 5)
    monkeypatch.setattr(limits, "ADMIN_PAGE_MAX", 2)
    for number in range(12):
        door.connect(f"c{number:02}", username="rare" if number in {3, 11} else None)
    found = await pages(door, "username=rare")
    assert [name for page in found for name in page] == ["c03", "c11"]
    assert len(found) == 3


@pytest.mark.parametrize("limit", [0, limits.ADMIN_PAGE_MAX + 1, "x"])
async def test_a_page_has_a_size(door: Door, limit: object) -> None:
    for path in ("clients", "routes", "bans"):
        assert "limit" in problem(await door.ask("GET", f"/v1/{path}?limit={limit}"), 422)


@pytest.mark.parametrize("cursor", ["x", "eDph", "\xff", "_w=="])
async def test_a_cursor_is_the_next_of_a_page(door: Door, cursor: str) -> None:
    assert "cursor" in problem(await door.ask("GET", f"/v1/clients?cursor={quote(cursor)}"), 422)


@pytest.mark.parametrize(
    ("method", "path", "body", "named"),
    [
        ("GET", f"clients?username={'x' * 1_025}", None, "username"),
        ("POST", "bans", {"kind": "clientid", "value": "a", "seconds": 315_360_001}, "seconds"),
        ("POST", "bans", {"kind": "clientid", "value": "a", "reason": "x" * 501}, "reason"),
    ],
    ids=["filter", "ten years", "reason"],
)
async def test_what_is_too_long_is_named(door: Door, method: str, path: str, body: object, named: str) -> None:
    assert named in problem(await door.ask(method, f"/v1/{path}", body), 422)


async def test_nobody_asks_for_a_page_without_an_end(door: Door) -> None:
    for number in range(101):
        door.connect(f"c{number:03}")
    page = (await door.ask("GET", "/v1/clients")).json()
    assert len(page["clients"]) == 100
    assert page["next"]


async def test_what_is_misspelt_is_refused(door: Door) -> None:
    assert "colour" in problem(await door.ask("GET", "/v1/clients?colour=red"), 422)
    assert "colour" in problem(await door.ask("POST", "/v1/kick", {"clientid": "a", "colour": "red"}), 422)


async def test_until_all_sessions_are_known_nobody_is_said_to_be_away(door: Door) -> None:
    door.is_joined = False
    for method, path in (("GET", "/v1/clients"), ("GET", "/v1/clients/c1"), ("DELETE", "/v1/clients/c1")):
        answer = await door.ask(method, path)
        assert "session log" in problem(answer, 503)
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("client_id", AWKWARD)
async def test_any_client_identifier_can_be_named(door: Door, client_id: str) -> None:
    door.connect(client_id)
    path = f"/v1/clients/{quote(client_id, safe='').replace('.', '%2E')}"
    assert (await door.ask("GET", path)).json()["clientid"] == client_id
    assert (await door.ask("POST", f"{path}/publish", {"topic": "t"})).status_code == 200
    assert (await door.ask("DELETE", path)).status_code == 200
    assert [each.selector for each in door.controller.commands] == [Selector(client_id)] * 2


async def test_a_path_that_is_not_utf_8(door: Door) -> None:
    assert "UTF-8" in problem(await door.ask("GET", "/v1/clients/%ff"), 400)


# ---- commands ----


def command(door: Door) -> Command:
    [only] = door.controller.commands
    assert only.id.startswith("http-")
    return only


async def test_kick_of_one(door: Door) -> None:
    door.connect("c1")
    answer = (await door.ask("DELETE", "/v1/clients/c1")).json()
    assert (command(door).kind, command(door).selector, command(door).epoch) == (KICK, Selector("c1"), None)
    clients = [{"clientid": "c1", "outcome": "done", "node": "node-7"}]
    assert answer == {"id": command(door).id, "kind": "kick", "outcome": "done", "clients": clients}


@pytest.mark.parametrize("if_match", ['"0"', "0", "*"])
async def test_kick_of_one_connection(door: Door, if_match: str) -> None:
    door.connect("c1")
    assert (await door.ask("DELETE", "/v1/clients/c1", headers={"If-Match": if_match})).status_code == 200
    assert command(door).epoch == (None if if_match == "*" else 0)


@pytest.mark.parametrize("if_match", ['"7"', '"x"', '""', "-1", '"99999999999999999999999"'])
async def test_kick_of_a_connection_that_is_another_one_by_now(door: Door, if_match: str) -> None:
    door.connect("c1")
    problem(await door.ask("DELETE", "/v1/clients/c1", headers={"If-Match": if_match}), 412)
    assert not door.controller.commands


async def test_kick_of_one_who_has_just_gone(door: Door) -> None:
    door.connect("c1")
    door.controller.hit, door.controller.outcome = [], "nobody_found"
    problem(await door.ask("DELETE", "/v1/clients/c1"), 404)
    problem(await door.ask("DELETE", "/v1/clients/c1", headers={"If-Match": '"0"'}), 412)


@pytest.mark.parametrize(
    ("body", "selector"),
    [
        ({"clientid": "c1"}, Selector("c1")),
        ({"username": "u"}, Selector(None, "u")),
        ({"clientid": "c1", "username": "u"}, Selector("c1", "u")),
        ({"productKey": "pk", "deviceName": "dev"}, Selector(None, "dev&pk")),
    ],
)
async def test_whom_a_command_means(door: Door, body: dict[str, str], selector: Selector) -> None:
    for path, kind in (("kick", KICK), ("acl/clean", ACL_CLEAN)):
        assert (await door.ask("POST", f"/v1/{path}", body)).status_code == 200
        said = door.controller.commands.pop()
        assert (said.kind, said.selector) == (kind, selector)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"clientid": ""},
        {"clientid": 7},
        {"productKey": "pk"},
        {"deviceName": "dev"},
        {"productKey": "pk", "deviceName": "dev", "username": "u"},
        {"clientid": "\ud800"},
        {"clientid": "x" * 65_536},
        {"all": True, "clientid": "c1"},
        [],
        "c1",
        None,
    ],
)
async def test_a_command_that_says_not_whom(door: Door, body: object) -> None:
    for path in ("kick", "acl/clean"):
        answer = await door.ask("POST", f"/v1/{path}", content=_json(body), headers=JSON)
        assert problem(answer, 422)
        assert answer.json()["errors"]
    assert not door.controller.commands


async def test_only_the_acl_is_cleaned_for_all(door: Door) -> None:
    assert (await door.ask("POST", "/v1/acl/clean", {"all": True})).status_code == 200
    assert command(door).selector == Selector()
    problem(await door.ask("POST", "/v1/kick", {"all": True}), 422)
    problem(await door.ask("POST", "/v1/acl/clean", {"all": False}), 422)


async def test_a_message_for_a_client(door: Door) -> None:
    body = {"topic": "a/b", "payload": "hi", "qos": 1, "retain": True, "user_properties": {"a": "1"}}
    answer = (await door.ask("POST", "/v1/clients/c1/publish", body)).json()
    assert answer["outcome"] == "done"
    said = command(door)
    assert (said.kind, said.selector, said.expires_at_ms) == (DELIVER, Selector("c1"), 0)
    assert said.message == Message("a/b", b"hi", 1, True, [("a", "1")])


async def test_a_message_for_a_topic(door: Door) -> None:
    body = {"topic": "a/b", "payload": "//8=", "encoding": "base64", "expires_in_seconds": 5, "username": "u"}
    assert (await door.ask("POST", "/v1/publish", body)).status_code == 200
    said = command(door)
    assert said.selector == Selector(None, "u")
    assert said.message == Message("a/b", b"\xff\xff")
    assert said.expires_at_ms > 5_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": ""},
        {"topic": "a/+"},
        {"topic": "a/#"},
        {"topic": "a\x00"},
        {"topic": "\ud800"},
        {"payload": "!", "encoding": "base64"},
        {"payload": "\ud800"},
        {"payload": None},
        {"encoding": "hex"},
        {"qos": 3},
        {"qos": "1"},
        {"retain": 1},
        {"expires_in_seconds": 0},
        {"user_properties": {str(number): "" for number in range(65)}},
        {"user_properties": {"a": 1}},
    ],
    ids=repr,
)
async def test_a_message_that_cannot_be_sent(door: Door, wrong: dict[str, Any]) -> None:
    for path in ("publish", "clients/c1/publish"):
        answer = await door.ask("POST", f"/v1/{path}", content=_json({"topic": "t"} | wrong), headers=JSON)
        assert next(iter(wrong)) in problem(answer, 422)
    assert not door.controller.commands


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("kick", {"clientid": "c1", "username": None, "productKey": None, "deviceName": None}),
        ("publish", {"topic": "t", "expires_in_seconds": None, "username": None}),
        ("clients/c1/publish", {"topic": "t", "expires_in_seconds": None}),
        ("bans", {"kind": "clientid", "value": "c2", "seconds": None}),
        ("routes/explain", {"topic": "t", "username": None}),
    ],
)
async def test_null_is_the_same_as_nothing(door: Door, path: str, body: dict[str, Any]) -> None:
    assert (await door.ask("POST", f"/v1/{path}", body)).status_code in {200, 201}


async def test_too_many_commands(door: Door) -> None:
    door.controller.outcome = "busy"
    problem(await door.ask("POST", "/v1/kick", {"clientid": "c1"}), 503)


async def test_what_a_command_cannot_be(door: Door) -> None:
    door.controller.outcome, door.controller.error = "malformed", "names nobody"
    assert problem(await door.ask("POST", "/v1/kick", {"clientid": "c1"}), 422) == "names nobody"


# ---- bodies and bounds ----

JSON = {"Content-Type": "application/json"}


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


async def test_a_body_has_to_be_json(door: Door) -> None:
    assert "JSON" in problem(await door.ask("POST", "/v1/kick", content=b"{", headers=JSON), 400)
    assert "JSON" in problem(await door.ask("POST", "/v1/kick", content=b"[" * 100_000, headers=JSON), 400)
    assert "JSON" in problem(await door.ask("POST", "/v1/kick", content=b"\xff", headers=JSON), 400)
    problem(await door.ask("POST", "/v1/kick", content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    problem(await door.ask("POST", "/v1/kick"), 415)


async def test_a_body_has_a_size(door: Door) -> None:
    content = b" " * (limits.ADMIN_BODY_BYTES_MAX + 1)
    problem(await door.ask("POST", "/v1/kick", content=content, headers=JSON), 413)


async def test_a_body_that_does_not_come(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_BODY_SECONDS_MAX", 0.01)

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    problem(await door.ask("POST", "/v1/kick", content=slow(), headers=JSON), 408)


async def test_so_many_requests_are_worked_on_at_a_time(door: Door) -> None:
    door.controller.goes_on.clear()
    asking = [
        asyncio.create_task(door.ask("POST", "/v1/kick", {"clientid": "c1"})) for _ in range(limits.ADMIN_REQUESTS_MAX)
    ]
    await until(lambda: len(door.controller.commands) == limits.ADMIN_REQUESTS_MAX, "all are waiting")
    assert door.api.working == limits.ADMIN_REQUESTS_MAX
    answer = await door.ask("GET", "/v1/nodes")
    assert "as many" in problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert (await door.ask("GET", "/livez")).status_code == 200
    door.controller.goes_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
    assert door.api.working == 0


async def test_a_bug_is_logged_and_counted(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.controller.bug = ValueError("a bug")
    problem(await door.ask("POST", "/v1/kick", {"clientid": "c1"}), 500)
    assert "a bug" in caplog.text
    assert door.requests.labels("500")._value.get() == 1
    assert door.api.working == 0


async def test_every_write_leaves_a_line(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    door.connect("c/1")
    await door.ask("DELETE", "/v1/clients/c%2F1")
    await door.ask("DELETE", "/v1/clients/c%2F1", token="wrong")
    await door.ask("GET", "/v1/clients")
    await door.ask("POST", "/v1/publish", {"topic": "a", "payload": "secret", "user_properties": {"b": "secret"}})
    await door.ask("POST", "/v1/bans", {"kind": "clientid", "value": "c"})
    await door.ask("POST", "/v1/kick", {"clientid": ""})
    lines = [vars(record) for record in caplog.records if record.name == "proxy.admin.api"]
    said = [(line.get("who"), line["method"], line["path"], line["status"], line.get("outcome")) for line in lines]
    assert said == [
        ("writer", "DELETE", "/v1/clients/c%2F1", 200, "done"),
        (None, "DELETE", "/v1/clients/c%2F1", 401, None),
        ("writer", "POST", "/v1/publish", 200, "done"),
        ("writer", "POST", "/v1/bans", 201, None),
        ("writer", "POST", "/v1/kick", 422, None),
    ]
    assert lines[3]["asked"] == {"kind": "clientid", "value": "c", "reason": ""}
    assert "secret" not in str(lines)


async def test_what_is_not_there(door: Door) -> None:
    for path in ("/v1", "/v1/", "/v1/x", "/v1/clients/", "/v1/clients/a/b", "/v1/bans/clientid"):
        assert (await door.ask("GET", path)).status_code in {404, 405, 307}, path
    answer = await door.ask("PUT", "/v1/clients/c1")
    problem(answer, 405)
    assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "HEAD", "DELETE"}


async def test_a_head_is_a_get(door: Door) -> None:
    assert (await door.ask("HEAD", "/v1/nodes")).status_code == 200


# ---- routes, nodes, settings, drain ----


async def test_routes(door: Door) -> None:
    first = (await door.ask("GET", "/v1/routes?limit=1")).json()
    assert first["routes"][0]["targets"] == ["t_ota"]
    assert first["routes"][0]["prefix"] == "tlink/"
    rest = (await door.ask("GET", f"/v1/routes?cursor={quote(first['next'])}")).json()
    assert len(rest["routes"]) == len(door.replica.uplink.routes.rules) - 1
    assert rest["next"] is None
    problem(await door.ask("GET", "/v1/routes?cursor=x"), 422)


async def test_explain(door: Door) -> None:
    body = {"topic": "tlink/a/b/ota", "clientid": "c1"}
    answer = (await door.ask("POST", "/v1/routes/explain", body)).json()
    assert (answer["outcome"], answer["records"][0]["kafka_topic"]) == ("produced", "t_ota")
    problem(await door.ask("POST", "/v1/routes/explain", {"topic": "a/#"}), 422)


async def test_nodes(door: Door) -> None:
    now = monotonic()
    door.registry._counting_since = now - 100
    door.hear("node-7", now, connections=3)
    door.hear("node-8", now - 60, state="draining")
    nodes = (await door.ask("GET", "/v1/nodes")).json()["nodes"]
    assert [(each["node"], each["alive"], each["this"], each["state"], each["connections"]) for each in nodes] == [
        ("node-7", True, True, "serving", 3),
        ("node-8", False, False, "draining", 0),
    ]


async def test_settings(door: Door) -> None:
    settings = (await door.ask("GET", "/v1/config")).json()["settings"]
    assert {"key": "admin.tokens[0].token_sha256", "value": "********"} in settings


async def test_drain(door: Door) -> None:
    assert (await door.ask("GET", "/v1/drain")).json() == {"node": "node-7", "state": "serving"}
    answer = await door.ask("POST", "/v1/drain")
    assert (answer.status_code, answer.json()["state"]) == (202, "draining")
    assert (await door.ask("DELETE", "/v1/drain")).json()["state"] == "serving"


# ---- bans ----


async def test_a_ban_comes_and_goes(door: Door) -> None:
    device = door.connect("c1")
    body = {"kind": "address", "value": "10.0.0.1/8", "seconds": 60, "reason": "noise"}
    answer = await door.ask("POST", "/v1/bans", body)
    shown = answer.json()
    assert (answer.status_code, shown["value"], shown["by"], shown["reason"]) == (201, "10.0.0.0/8", "writer", "noise")
    assert shown["expires_at"] > shown["since"]
    await until(lambda: device.gone, "the device is told")
    assert (await door.ask("GET", "/v1/bans")).json() == {"bans": [shown], "next": None}
    assert (await door.ask("DELETE", "/v1/bans/address/10.0.0.0%2F8")).status_code == 204
    assert (await door.ask("GET", "/v1/bans")).json()["bans"] == []
    problem(await door.ask("DELETE", "/v1/bans/address/10.0.0.0%2F8"), 404)


@pytest.mark.parametrize("value", AWKWARD)
async def test_any_client_can_be_banned(door: Door, value: str) -> None:
    for kind in ("clientid", "username"):
        assert (await door.ask("POST", "/v1/bans", {"kind": kind, "value": value})).status_code == 201
        path = f"/v1/bans/{kind}/{quote(value, safe='').replace('.', '%2E')}"
        assert (await door.ask("DELETE", path)).status_code == 204


async def test_pages_of_bans(door: Door) -> None:
    for name in "abc":
        await door.ask("POST", "/v1/bans", {"kind": "clientid", "value": name})
    first = (await door.ask("GET", "/v1/bans?limit=2")).json()
    second = (await door.ask("GET", f"/v1/bans?limit=2&cursor={quote(first['next'])}")).json()
    assert [each["value"] for page in (first, second) for each in page["bans"]] == ["a", "b", "c"]
    assert second["next"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "colour", "value": "red"},
        {"kind": "address", "value": "red"},
        {"kind": "clientid", "value": ""},
        {"kind": "clientid", "value": "x" * 1025},
        {"kind": "clientid", "value": "x", "seconds": 0},
        {"kind": "clientid"},
    ],
)
async def test_a_ban_of_nothing(door: Door, body: object) -> None:
    problem(await door.ask("POST", "/v1/bans", body), 422)
    assert not door.bans.in_force()


async def test_a_ban_that_was_never_there(door: Door) -> None:
    for path in ("colour/red", "address/red", "clientid/c1"):
        problem(await door.ask("DELETE", f"/v1/bans/{path}"), 404)


async def test_without_kafka_nobody_is_told_that_a_ban_counts(door: Door) -> None:
    await door.ask("POST", "/v1/bans", {"kind": "clientid", "value": "a"})
    door.replica.gateway.error = GatewayError("not enough replicas")
    assert "not enough" in problem(await door.ask("POST", "/v1/bans", {"kind": "clientid", "value": "b"}), 503)
    assert "not enough" in problem(await door.ask("DELETE", "/v1/bans/clientid/a"), 503)
    door.bans.known.clear()
    problem(await door.ask("GET", "/v1/bans"), 503)


async def test_there_is_a_most_of_bans(door: Door) -> None:
    door.bans.table._most = 0
    problem(await door.ask("POST", "/v1/bans", {"kind": "clientid", "value": "a"}), 409)
