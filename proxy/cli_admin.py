"""The commands of `mqk` that ask a running replica: each is one request of the admin API, or a few pages of one."""
# ruff: noqa: PLC0415 - imports inside the commands: `mqk --version` does not wait for them.

import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import quote

import typer

from proxy import limits
from proxy.cli_output import complain, print_json, print_table
from proxy.errors import ProxyError

#: Where the token is when it is not given; it is no setting.
TOKEN_VARIABLE: Final = "MQK_ADMIN_TOKEN"  # noqa: S105 - its name

Url = Annotated[
    str | None, typer.Option("--url", help="The admin port; else admin.bind of the configuration.", show_default=False)
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar=TOKEN_VARIABLE, help="One of [[admin.tokens]].", show_default=False),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The TOML file that admin.bind is read from.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ClientId = Annotated[str | None, typer.Option("--clientid", help="Only this client.", show_default=False)]
Username = Annotated[str | None, typer.Option("--username", help="Only clients of this user.", show_default=False)]
Kind = Annotated[Literal["clientid", "username", "address"], typer.Argument(help="What is banned.")]
Value = Annotated[str, typer.Argument(help="Which one; of addresses a network too.", show_default=False)]

#: Outcomes of commands after which the exit code is 0.
_DONE: Final = frozenset({"done", "delivered"})

ban = typer.Typer(help="Keep clients, users and addresses out.", no_args_is_help=True, rich_markup_mode=None)


class Unanswered(ProxyError):
    """The admin API did not do what was asked; the message says why."""


class Remote:
    """A replica's admin API, asked as somebody who waits for the answer."""

    def __init__(self, url: str | None, token: str | None, config: Path | None) -> None:
        self._url = (url or _default_url(config)).rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: object = None, query: dict[str, Any] | None = None) -> Any:
        """The answer, None when there is nothing in it. Raises Unanswered."""
        import httpx

        try:
            # A proxy of the environment is for the world outside.
            with httpx.Client(trust_env=False, timeout=limits.ADMIN_CLIENT_SECONDS_MAX) as client:
                given = {name: value for name, value in (query or {}).items() if value is not None}
                response = client.request(method, self._url + path, params=given, headers=self._headers, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Unanswered(f"{self._url} does not answer: {str(error) or type(error).__name__}") from None
        if not response.is_success:
            self._fail(response.status_code, response.content)
        return self._json(response.content) if response.content else None

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise Unanswered(f"{self._url} is no admin port of mqk: its answer is not JSON") from None

    def _fail(self, status: int, content: bytes) -> NoReturn:
        try:
            said = str(json.loads(content)["detail"])
        except (ValueError, KeyError, TypeError):
            raise Unanswered(f"{self._url} is no admin port of mqk: it says {status}") from None
        if status == 401:
            said = f"{said}: give --token or {TOKEN_VARIABLE}"
        raise Unanswered(f"{said} ({status})")

    def pages(self, path: str, name: str, query: dict[str, Any], most: int) -> Iterator[Any]:
        """Entries of a list that has pages; says so when there are more than `most`."""
        found, cursor = 0, None
        while True:
            page = self.ask("GET", path, query={**query, "limit": limits.ADMIN_PAGE_MAX, "cursor": cursor})
            for entry in page[name]:
                if found == most:
                    complain(f"there are more than {most}: --limit shows more")
                    return
                found += 1
                yield entry
            cursor = page["next"]
            if cursor is None:
                return


def _default_url(config: Path | None) -> str:
    """`admin.bind`, as this machine reaches it."""
    from proxy.config import load, split_address

    bind = load(config, (), os.environ, {"auth": {"anonymous": True}}).settings.admin.bind
    host, port = split_address(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not to listen there
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (clients, kick, publish, nodes, drain, token):
        app.command()(command)
    app.add_typer(ban, name="ban")


def clients(
    prefix: Annotated[str | None, typer.Argument(help="What client ids begin with.", show_default=False)] = None,
    username: Username = None,
    node: Annotated[str | None, typer.Option(help="Only those of this replica.", show_default=False)] = None,
    state: Annotated[
        Literal["connected", "offline"] | None, typer.Option(help="Only these.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 1_000,
    url: Url = None,
    token: TokenOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List who is connected or has a session, in the cluster."""
    query = {"clientid": prefix, "username": username, "node": node, "state": state}
    found = Remote(url, token, config).pages("/v1/clients", "clients", query, limit)
    _print(list(found), ("clientid", "username", "state", "node", "address", "connected_at"), as_json)


def kick(
    clientid: Annotated[str | None, typer.Argument(help="The client id.", show_default=False)] = None,
    username: Username = None,
    url: Url = None,
    token: TokenOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Disconnect a client, or all clients of a user."""
    body = _given(clientid=clientid, username=username)
    if not body:
        raise typer.BadParameter("say whom: a client id, or --username")
    _print_result(Remote(url, token, config).ask("POST", "/v1/kick", body), as_json)


def publish(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    payload: Annotated[str, typer.Argument(help="The message; - reads it from standard input.", show_default=False)],
    clientid: ClientId = None,
    username: Username = None,
    qos: Annotated[int, typer.Option(min=0, max=2, help="Quality of service.")] = 0,
    retain: Annotated[bool, typer.Option(help="Set the retain flag.")] = False,
    url: Url = None,
    token: TokenOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to devices. Those get it that have subscribed to its topic; waits for the outcome."""
    content = sys.stdin.buffer.read() if payload == "-" else os.fsencode(payload)
    body = {"topic": topic, "payload": base64.b64encode(content).decode(), "encoding": "base64", "qos": qos}
    body |= {"retain": retain}
    if clientid is None:
        path, body = "/v1/publish", body | _given(username=username)
    elif username is None:
        path = f"/v1/clients/{_quoted(clientid)}/publish"
    else:
        raise typer.BadParameter("--clientid and --username: give one of both")
    _print_result(Remote(url, token, config).ask("POST", path, body), as_json)


def nodes(url: Url = None, token: TokenOption = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the replicas."""
    found = Remote(url, token, config).ask("GET", "/v1/nodes")["nodes"]
    _print(found, ("node", "state", "alive", "connections", "admin_address", "incarnation"), as_json)


def drain(
    cancel: Annotated[bool, typer.Option("--cancel", help="Take devices again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say whether it drains.")] = False,
    url: Url = None,
    token: TokenOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the devices of one replica go. At a bounded pace; the replica is not stopped."""
    if cancel and status:
        raise typer.BadParameter("--cancel and --status: give one of both")
    method = "DELETE" if cancel else "GET" if status else "POST"
    _print([Remote(url, token, config).ask(method, "/v1/drain")], ("node", "state"), as_json)


def token(
    name: Annotated[str, typer.Argument(help="Who will have it.", show_default=False)],
    write: Annotated[bool, typer.Option("--write", help="It may change things too.")] = False,
) -> None:
    """Make a token for the admin API. Standard error has the token, standard output what the configuration needs."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    role = "write" if write else "read"
    complain(f"the token, which is nowhere else: {secret}")
    typer.echo(f'[[admin.tokens]]\nname = {json.dumps(name)}\nrole = "{role}"\ntoken_sha256 = "{digest}"')


@ban.command("list")
def list_bans(url: Url = None, token: TokenOption = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List who is banned."""
    found = Remote(url, token, config).pages("/v1/bans", "bans", {}, limits.BANS_MAX)
    _print(list(found), ("kind", "value", "by", "since", "expires_at", "reason"), as_json)


@ban.command("add")
def add_ban(
    kind: Kind,
    value: Value,
    seconds: Annotated[int | None, typer.Option(min=1, help="How long; else for ever.", show_default=False)] = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")] = "",
    url: Url = None,
    token: TokenOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep somebody out of all replicas; who is connected is disconnected."""
    body = {"kind": kind, "value": value, "reason": reason} | _given(seconds=seconds)
    made = Remote(url, token, config).ask("POST", "/v1/bans", body)
    _print([made], ("kind", "value", "by", "since", "expires_at", "reason"), as_json)


@ban.command("lift")
def lift_ban(kind: Kind, value: Value, url: Url = None, token: TokenOption = None, config: ConfigFile = None) -> None:
    """Let somebody in again."""
    Remote(url, token, config).ask("DELETE", f"/v1/bans/{kind}/{_quoted(value)}")


def _quoted(part: str) -> str:
    """A part of a path. Dots too: `..` alone would mean the part before."""
    return quote(part, safe="").replace(".", "%2E")


def _given(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _print(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[_shown(row[name]) for name in columns] for row in rows])


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    """Exit code 1 unless all that was asked has been done."""
    if as_json:
        print_json(result)
    else:
        print_table(("clientid", "outcome", "node"), [list(each.values()) for each in result["clients"]])
        typer.echo(f"{result['kind']}: {result['outcome']}")
    if result["outcome"] not in _DONE:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    """One cell. What a device calls itself must not drive the terminal."""
    text = "-" if value is None or value == "" else value if isinstance(value, str) else json.dumps(value)
    return text if text.isprintable() else json.dumps(text)
