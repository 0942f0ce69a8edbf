"""Who may ask what: every request of the table, without a token, with a wrong one, with one that only reads."""

import hashlib

import pytest

from proxy.admin.api import Endpoint
from proxy.admin.guard import Guard, Token
from proxy.admin.problems import Problem
from proxy.admin.routes import ENDPOINTS
from tests.admin.parts import READ, WRITE, Door
from tests.support.memory_log import MemoryKafka

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")


def url(endpoint: Endpoint) -> str:
    return endpoint.path.replace("{clientid}", "c1").replace("{kind}", "clientid").replace("{value}", "c1")


@each_endpoint
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", f"Basic {WRITE}", "Bearer \xfc", WRITE])
async def test_nobody_asks_without_the_right_token(door: Door, endpoint: Endpoint, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    async with door.client(None) as client:
        answer = await client.request(endpoint.method, url(endpoint), headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="mqk"')
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 401


@each_endpoint
async def test_who_may_read_does_not_write(door: Door, endpoint: Endpoint) -> None:
    answer = await door.ask(endpoint.method, url(endpoint), token=READ)
    if endpoint.role == "write":
        assert answer.status_code == 403
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert not door.controller.commands
        assert door.drainer.state == "serving"
    else:
        assert answer.status_code not in {401, 403}


@each_endpoint
async def test_who_may_write_may_do_all(door: Door, endpoint: Endpoint) -> None:
    assert (await door.ask(endpoint.method, url(endpoint))).status_code not in {401, 403, 500}


def test_only_get_reads_but_for_what_changes_nothing() -> None:
    reading = {(each.method, each.path) for each in ENDPOINTS if each.role == "read" and each.method != "GET"}
    assert reading == {("POST", "/v1/routes/explain")}
    assert all(each.role == "read" for each in ENDPOINTS if each.method == "GET")


def test_any_of_several_tokens_is_known_by_its_name() -> None:
    guard = Guard([Token(name, "read", hashlib.sha256(name.encode()).hexdigest()) for name in ("a", "b", "c")])
    for name in ("a", "b", "c"):
        assert guard.authorize({"authorization": f"bearer {name}"}, "read") == name
    with pytest.raises(Problem):
        guard.authorize({"authorization": "bearer d"}, "read")


@each_endpoint
async def test_without_tokens_this_machine_may_do_all(memory_kafka: MemoryKafka, endpoint: Endpoint) -> None:
    door = Door(memory_kafka, tokens=False)
    assert (await door.ask(endpoint.method, url(endpoint), token=None)).status_code not in {401, 403, 500}


@each_endpoint
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
    ],
    ids=lambda headers: " ".join(*headers.items()),
)
async def test_without_tokens_a_page_of_somebody_else_is_refused(
    memory_kafka: MemoryKafka, endpoint: Endpoint, headers: dict[str, str]
) -> None:
    door = Door(memory_kafka, tokens=False)
    answer = await door.ask(endpoint.method, url(endpoint), token=None, headers=headers)
    assert answer.status_code == 403
    assert not door.controller.commands


async def test_without_tokens_our_own_page_may_ask(memory_kafka: MemoryKafka) -> None:
    door = Door(memory_kafka, tokens=False)
    headers = {"Origin": "http://127.0.0.1:8080"}
    assert (await door.ask("POST", "/v1/drain", token=None, headers=headers)).status_code == 202
