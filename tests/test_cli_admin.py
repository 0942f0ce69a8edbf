"""The commands that ask a running replica: what they send, what they print, and how they end."""

import hashlib
import io
import json
import sys
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import pytest

from proxy import limits
from proxy.cli import main
from proxy.config import load


class Result(NamedTuple):
    code: object
    out: str
    err: str


class Replica:
    """The admin API of a test: keeps what it is sent, and gives the answers that the test has put in."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.answers: list[httpx.Response | Exception] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        target = f"{request.url.scheme}://{request.url.netloc.decode()}{request.url.raw_path.decode()}"
        self.asked.append((request.method, target, json.loads(request.content) if request.content else None))
        self.headers.append(request.headers)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def gives(self, body: object, status: int = 200) -> None:
        self.answers.append(httpx.Response(status, json=body))


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    replica = Replica()
    make = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: make(transport=httpx.MockTransport(replica), **options))
    return replica


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    monkeypatch.delenv("MQK_ADMIN_TOKEN", raising=False)

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["mqk", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Result(ended.value.code, out, err)

    return run


CLIENT = {
    "clientid": "c1", "username": None, "state": "connected", "node": "n", "address": "10.0.0.1",
    "connected_at": "2026-01-01T00:00:00.000Z", "epoch": 1,
}  # fmt: skip
DONE = {"id": "1", "kind": "kick", "outcome": "done", "clients": [{"clientid": "c1", "outcome": "done", "node": "n"}]}


def test_a_list_has_all_pages(run: Callable[..., Result], replica: Replica) -> None:
    replica.gives({"clients": [CLIENT], "next": "more"})
    replica.gives({"clients": [], "next": "still more"})
    replica.gives({"clients": [CLIENT | {"clientid": "c2"}], "next": None})
    result = run("clients", "c", "--username", "u", "--url", "http://h:1/")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "CLIENTID  USERNAME  STATE      NODE  ADDRESS   CONNECTED_AT",
        "c1        -         connected  n     10.0.0.1  2026-01-01T00:00:00.000Z",
        "c2        -         connected  n     10.0.0.1  2026-01-01T00:00:00.000Z",
    ]
    first, second, _ = [target for _, target, _ in replica.asked]
    assert first == "http://h:1/v1/clients?clientid=c&username=u&limit=1000"
    assert second.endswith("&cursor=more")


def test_a_list_says_when_there_is_more(run: Callable[..., Result], replica: Replica) -> None:
    replica.gives({"clients": [CLIENT, CLIENT], "next": None})
    result = run("clients", "--limit", "1", "--json")
    assert len(json.loads(result.out)) == 1
    assert result.err == "mqk: there are more than 1: --limit shows more\n"


def test_what_a_device_calls_itself_does_not_drive_the_terminal(run: Callable[..., Result], replica: Replica) -> None:
    replica.gives({"clients": [CLIENT | {"clientid": "\x1b[2J"}], "next": None})
    assert "\x1b" not in run("clients").out


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["kick", "c1"], ("POST", "/v1/kick", {"clientid": "c1"})),
        (["kick", "--username", "u"], ("POST", "/v1/kick", {"username": "u"})),
        (
            ["publish", "a/b", "hi", "--clientid", "a/../b", "--qos", "1", "--retain"],
            (
                "POST",
                "/v1/clients/a%2F%2E%2E%2Fb/publish",
                {"topic": "a/b", "payload": "aGk=", "encoding": "base64", "qos": 1, "retain": True},
            ),
        ),
        (
            ["publish", "a/b", "-", "--username", "u"],
            (
                "POST",
                "/v1/publish",
                {
                    "topic": "a/b", "payload": "/w==", "encoding": "base64", "qos": 0, "retain": False, "username": "u",
                },
            ),
        ),
    ],
)  # fmt: skip
def test_commands(
    run: Callable[..., Result], replica: Replica, arguments: list[str], request_: tuple[str, str, Any]
) -> None:
    method, path, body = request_
    replica.gives(DONE)
    result = run(*arguments, "--url", "http://h:1", "--token", "t", stdin=b"\xff")
    assert (result.code, result.out.splitlines()) == (
        0,
        ["CLIENTID  OUTCOME  NODE", "c1        done     n", "kick: done"],
    )
    assert replica.asked == [(method, f"http://h:1{path}", body)]
    assert replica.headers[0]["authorization"] == "Bearer t"
    replica.gives(DONE | {"outcome": "offline"})
    assert run(*arguments, "--json", stdin=b"\xff").code == 1, "what was asked has not been done"


BAN = {"kind": "address", "value": "10.0.0.0/8", "by": "ops", "since": "s", "expires_at": None, "reason": ""}


def test_bans(run: Callable[..., Result], replica: Replica) -> None:
    replica.gives(BAN, 201)
    assert run("ban", "add", "address", "10.0.0.0/8", "--seconds", "60", "--reason", "r").code == 0
    replica.answers.append(httpx.Response(204))
    assert run("ban", "lift", "address", "10.0.0.0/8") == (0, "", "")
    replica.gives({"bans": [BAN], "next": None})
    assert "10.0.0.0/8" in run("ban", "list").out
    assert [(method, target.partition("8080")[2]) for method, target, _ in replica.asked] == [
        ("POST", "/v1/bans"),
        ("DELETE", "/v1/bans/address/10%2E0%2E0%2E0%2F8"),
        ("GET", "/v1/bans?limit=1000"),
    ]
    assert replica.asked[0][2] == {"kind": "address", "value": "10.0.0.0/8", "seconds": 60, "reason": "r"}


@pytest.mark.parametrize(("flag", "method"), [((), "POST"), (("--cancel",), "DELETE"), (("--status",), "GET")])
def test_drain(run: Callable[..., Result], replica: Replica, flag: tuple[str, ...], method: str) -> None:
    replica.gives({"node": "n", "state": "draining"})
    assert run("drain", *flag).out.splitlines()[1] == "n     draining"
    assert replica.asked == [(method, "http://127.0.0.1:8080/v1/drain", None)]


def test_what_goes_wrong_is_said(run: Callable[..., Result], replica: Replica) -> None:
    replica.gives({"detail": "a bearer token is needed"}, 401)
    said = "mqk: a bearer token is needed: give --token or MQK_ADMIN_TOKEN (401)\n"
    assert run("nodes") == (1, "", said)
    replica.gives({"detail": "no client c1"}, 404)
    assert run("nodes") == (1, "", "mqk: no client c1 (404)\n")
    replica.answers.append(httpx.Response(200, text="<html>"))
    assert "is no admin port of mqk" in run("nodes").err
    replica.answers.append(httpx.Response(502, text="<html>"))
    assert "it says 502" in run("nodes").err
    replica.answers.append(httpx.ConnectError("refused"))
    assert run("nodes") == (1, "", "mqk: http://127.0.0.1:8080 does not answer: refused\n")
    replica.answers.append(httpx.ReadTimeout(""))
    assert "does not answer: ReadTimeout" in run("nodes").err


@pytest.mark.parametrize(
    "arguments",
    [["kick"], ["publish", "t", "p", "--clientid", "c", "--username", "u"], ["drain", "--cancel", "--status"]],
)
def test_wrong_use(run: Callable[..., Result], replica: Replica, arguments: list[str]) -> None:
    assert run(*arguments).code == 2
    assert not replica.asked


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0:9", "http://127.0.0.1:9"),
        ("[::]:9", "http://[::1]:9"),
        ("10.0.0.1:9", "http://10.0.0.1:9"),
        ("[::1]:9", "http://[::1]:9"),
    ],
)
def test_without_a_url_the_configuration_says_it(
    run: Callable[..., Result], replica: Replica, tmp_path: Any, bind: str, url: str
) -> None:
    config = tmp_path / "mqk.toml"
    config.write_text(f'admin.bind = "{bind}"\n[[admin.tokens]]\nname = "a"\ntoken_sha256 = "{"0" * 64}"\n')
    replica.gives({"nodes": []})
    assert run("nodes", "--config", str(config)).code == 0
    assert replica.asked[0][1].startswith(f"{url}/v1/nodes")


def test_a_token_and_what_the_configuration_knows_of_it(run: Callable[..., Result], tmp_path: Any) -> None:
    result = run("token", "ops", "--write")
    token = result.err.rpartition(": ")[2].strip()
    known = tomllib.loads(result.out)["admin"]["tokens"]
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert known == [{"name": "ops", "role": "write", "token_sha256": digest}]
    assert len(token) > 40
    config = tmp_path / "mqk.toml"
    config.write_text("auth.anonymous = true\n" + result.out)
    assert load(config).settings.admin.tokens[0].name == "ops"
    assert tomllib.loads(run("token", "eyes").out)["admin"]["tokens"][0]["role"] == "read"
    assert run("token", "eyes").err != run("token", "eyes").err


def test_the_token_in_the_environment_is_no_setting(
    run: Callable[..., Result], replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQK_ADMIN_TOKEN", "from outside")
    replica.gives({"nodes": []})
    assert run("nodes").code == 0
    assert replica.headers[0]["authorization"] == "Bearer from outside"
    assert limits.ADMIN_CLIENT_SECONDS_MAX > limits.ADMIN_BODY_SECONDS_MAX
