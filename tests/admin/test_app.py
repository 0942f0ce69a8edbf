"""The operator's door, over real HTTP: what each endpoint says, with which status, and that it closes in time."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

import proxy
from proxy import limits
from proxy.admin.app import AdminServer, Check, Views, make_app
from proxy.errors import ConfigError
from tests.support.fakes import ShortSleeps, until


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Replica:
    """What the endpoints look at."""

    def __init__(self) -> None:
        self.is_ready = Check(True, "ready")
        self.all_checks = {"kafka": Check(True, {"queued_bytes": 7}), "safe": Check(True, "acks=all")}
        self.exposition = b"mqk_connections 3.0\n"

    def views(self) -> Views:
        return Views(lambda: self.is_ready, lambda: self.all_checks, lambda: self.exposition)


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture(autouse=True)
def short_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.server.asyncio", ShortSleeps())


@pytest.fixture
async def server(replica: Replica) -> AsyncIterator[AdminServer]:
    server = AdminServer(make_app(replica.views()), "127.0.0.1", 0)
    running = asyncio.create_task(server.run_until_stopped())
    await until(lambda: server.started, "the server has started")
    yield server
    server.should_exit = True
    await asyncio.wait_for(running, 5)


async def ask(server: AdminServer, path: str, method: str = "GET") -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)


async def test_a_request_has_so_much_of_a_head(server: AdminServer) -> None:
    assert (await ask(server, "/" + "x" * (limits.ADMIN_HEAD_BYTES_MAX - 200))).status == 404
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /" + b"x" * (limits.ADMIN_HEAD_BYTES_MAX + 1_000_000))
    with contextlib.suppress(ConnectionResetError):  # What it sent beyond was not read.
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert (await ask(server, "/livez")).status == 200


async def test_livez(server: AdminServer) -> None:
    answer = await ask(server, "/livez")
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_readyz_follows_the_replica(server: AdminServer, replica: Replica) -> None:
    assert (await ask(server, "/readyz"))[::2] == (200, b"ready\n")
    replica.is_ready = Check(False, "waiting for kafka")
    assert (await ask(server, "/readyz"))[::2] == (503, b"waiting for kafka\n")
    assert (await ask(server, "/livez")).status == 200


async def test_healthz_tells_check_by_check(server: AdminServer, replica: Replica) -> None:
    answer = await ask(server, "/healthz")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == {
        "status": "ok",
        "version": proxy.__version__,
        "checks": {
            "kafka": {"ok": True, "detail": {"queued_bytes": 7}},
            "safe": {"ok": True, "detail": "acks=all"},
        },
    }
    replica.all_checks["kafka"] = Check(False, {"queued_bytes": 9})
    answer = await ask(server, "/healthz")
    assert answer.status == 503
    body = json.loads(answer.body)
    assert body["status"] == "failing"
    assert body["checks"]["kafka"] == {"ok": False, "detail": {"queued_bytes": 9}}
    assert body["checks"]["safe"]["ok"] is True


async def test_metrics(server: AdminServer) -> None:
    answer = await ask(server, "/metrics")
    assert (answer.status, answer.body) == (200, b"mqk_connections 3.0\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_nothing_else_is_there(server: AdminServer) -> None:
    asked = {
        ("HEAD", "/livez"): 200,
        ("POST", "/livez"): 405,
        ("DELETE", "/metrics"): 405,
        ("POST", "/"): 405,
        ("GET", "/v1/clients"): 404,
    }
    for (method, path), status in asked.items():
        answer = await ask(server, path, method)
        assert answer.status == status, (method, path)
        assert "server" not in answer.headers


async def test_a_bug_behind_one_endpoint_leaves_the_others(server: AdminServer, replica: Replica) -> None:
    replica.exposition = None  # type: ignore[assignment]
    replica.all_checks = None  # type: ignore[assignment]
    assert (await ask(server, "/healthz")).status == 500
    assert (await ask(server, "/livez")).status == 200


async def test_signals_stay_with_the_process(server: AdminServer) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_port_that_is_taken(replica: Replica) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as raised:
            AdminServer(make_app(replica.views()), "127.0.0.1", port)
    assert raised.value.setting == "admin.bind"
    assert raised.value.message.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")


def test_an_address_that_is_not_ours(replica: Replica) -> None:
    with pytest.raises(ConfigError, match=r"admin\.bind: cannot listen on 192\.0\.2\.1:0: "):
        AdminServer(make_app(replica.views()), "192.0.2.1", 0)


@pytest.mark.parametrize("request_line", [b"", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_an_idle_client_does_not_keep_it_open(server: AdminServer, request_line: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_line)
    if request_line.endswith(b"\r\n\r\n"):
        await reader.readuntil(b"ok\n")
    await until(lambda: server.server_state.connections, "the client is here")
    server.should_exit = True
    with contextlib.suppress(ConnectionResetError):  # What it sent may have come too late to be read.
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_client_that_does_not_read_does_not_keep_it_open(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADMIN_STOP_SECONDS_MAX", 0.1)
    replica.exposition = bytes(50_000_000)
    server = AdminServer(make_app(replica.views()), "127.0.0.1", 0)
    running = asyncio.create_task(server.run_until_stopped())
    await until(lambda: server.started, "the server has started")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    server.should_exit = True
    await asyncio.wait_for(running, 5)
    writer.close()
