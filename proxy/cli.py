"""The command `mqk`: what is typed, what is printed, and the exit codes.

A command translates words into one call and prints the answer; the work is in the rooms below. They are imported by the
command that needs them, so that `mqk --version` does not wait for all of them.
"""
# ruff: noqa: PLC0415 - imports inside the commands, for the reason just given.

import getpass
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import proxy
from proxy import cli_admin
from proxy.cli_output import complain, print_json, print_table
from proxy.errors import ConfigError, ProxyError

if TYPE_CHECKING:
    from proxy.config import Loaded, Row, Settings

EXIT_FAILED: Final = 1
EXIT_WRONG_USE: Final = 2

#: `mqk dev` is one process on one machine, for one person who has no configuration yet.
DEV_SETTINGS: Final[Mapping[str, Any]] = {
    "auth": {"anonymous": True},
    "acl": {"subscribe_default": "allow"},
    "listeners": [{"bind": "127.0.0.1:1883"}],
}
#: Nobody connects to `mqk route explain`.
EXPLAIN_SETTINGS: Final[Mapping[str, Any]] = {"auth": {"anonymous": True}}

app = typer.Typer(
    help="Device data from MQTT into Kafka, acknowledged only when Kafka has it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
route = typer.Typer(help="Where a publish goes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(route, name="route")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="The TOML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; beats environment and file.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """The entry point. Ends with 0 done, 1 failed, 2 wrong use or configuration, 130 interrupted."""
    try:
        app(prog_name="mqk")
    except ConfigError as error:
        complain(error)
        sys.exit(EXIT_WRONG_USE)
    except (ProxyError, OSError) as error:
        complain(error)
        sys.exit(EXIT_FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mqk {proxy.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What belongs to no command."""


@app.command()
def serve(
    config: ConfigFile = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Replicas on this host: node.workers.", show_default=False)
    ] = None,
) -> None:
    """Run the proxy until it is told to stop."""
    said = [] if workers is None else [f"node.workers={workers}"]
    read = partial(_settings, config, [*(overrides or ()), *said], None)
    settings = read()
    if settings.node.workers > 1:
        from proxy import worker

        raise typer.Exit(worker.supervise(settings, read))
    from proxy import process

    raise typer.Exit(process.serve(settings, read))


@app.command()
def dev(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Run the proxy on a Kafka that lives in memory."""
    read = partial(_settings, config, overrides, DEV_SETTINGS)
    settings = read()
    if settings.node.workers > 1:
        raise ConfigError("node.workers", "mqk dev is one replica; mqk serve runs several")
    from proxy import process

    raise typer.Exit(process.dev(settings, read))


@app.command("check-config")
def check_config(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a configuration."""
    from proxy.kafka.security import ClientSettings, client_options
    from proxy.policy.authenticators.password_file import read_users
    from proxy.wiring import access, route_table

    settings = _load(config, overrides).settings
    for table, cluster in settings.clusters().items():
        client_options(ClientSettings(**cluster.client.model_dump()), lambda _: None, f"{table}.client")
    route_table(settings)
    for entry in settings.auth.chain:
        users = read_users(entry.path)
        typer.echo(f"{entry.path}: users: {len(users)}")
    if settings.acl.file is not None:
        typer.echo(f"{settings.acl.file}: rules: {access(settings).rules}")
    for warning in settings.warnings():
        complain(f"warning: {warning}")
    typer.echo(f"{config or 'configuration'}: ok")


@app.command("config")
def show_config(
    config: ConfigFile = None,
    overrides: Overrides = None,
    effective: Annotated[bool, typer.Option("--effective", help="What is in force, and where it came from.")] = False,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", hidden=True)] = False,
) -> None:
    """Print every setting: type, default, unit and meaning."""
    from proxy.config import describe

    if effective:
        _print_effective(_load(config, overrides), as_json)
    elif markdown:
        typer.echo(_markdown(describe()), nl=False)
    elif as_json:
        print_json([row._asdict() for row in describe()])
    else:
        typer.echo("\n".join(_paragraph(row) for row in describe()))


@app.command()
def passwd(
    file: Annotated[Path, typer.Argument(help="The password file.", show_default=False)],
    user: Annotated[str, typer.Argument(help="The device's user name.", show_default=False)],
    create: Annotated[bool, typer.Option("-c", "--create", help="Make the file when it is not there.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from standard input, one line.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take the user out.")] = False,
) -> None:
    """Add, change or delete a user of a password file."""
    from proxy.policy.authenticators.password_file import delete_user, set_password

    if delete and (create or stdin):
        raise ConfigError("--delete", "goes with neither --create nor --stdin")
    if delete:
        delete_user(file, user)
    else:
        set_password(file, user, _read_password(stdin), create=create)


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(help="An emqx_plugin_kafka.conf.", show_default=False)],
) -> None:
    """Print emqx_plugin_kafka.conf in our settings."""
    from proxy import config

    try:
        text = file.read_text()
    except ValueError as error:
        raise ConfigError(str(file), f"is not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read: {error.strerror}") from error
    typer.echo(config.migrate(text, file.name), nl=False)


@app.command("haproxy-config")
def haproxy_config(
    replicas: Annotated[
        list[str] | None,
        typer.Argument(metavar="HOST[:MQTT[:ADMIN[:AGENT]]]", help="Each replica, with its ports.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Replicas on each host: node.workers.")] = 1,
    slot_port_step: Annotated[int, typer.Option(min=1, help="Between the ports of two of them.")] = 1,
    name: Annotated[str, typer.Option(help="What the replicas are called, with a number each.")] = "proxy",
    tls: Annotated[bool, typer.Option(help="With a door for TLS, whose certificate has to be there.")] = True,
) -> None:
    """Print HAProxy's configuration. lb/README.md explains each line."""
    from proxy.config import haproxy

    there = haproxy.parse_replicas(replicas or haproxy.EXAMPLE, workers, slot_port_step)
    typer.echo(haproxy.haproxy_config(there, tls=tls, name=name), nl=False)


@route.command()
def explain(
    topic: Annotated[str, typer.Argument(help="The topic that a device publishes to.", show_default=False)],
    clientid: Annotated[str, typer.Option(help="The device's client id.")] = "device",
    username: Annotated[str | None, typer.Option(help="The device's user name.", show_default=False)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say which rule takes a topic, why the others do not, and which record comes of it."""
    settings = _load(config, overrides, EXPLAIN_SETTINGS).settings
    from proxy import wiring

    explained = wiring.explain(settings, topic, clientid, username)
    if as_json:
        print_json(explained)
    else:
        print_table(("field", "value"), [(name, _literal(value)) for name, value in _flat(explained)])


cli_admin.register(app)


def _load(path: Path | None, overrides: Sequence[str] | None, base: Mapping[str, Any] | None = None) -> "Loaded":
    from proxy.config import load

    return load(path, overrides or (), os.environ, base)


def _settings(path: Path | None, overrides: Sequence[str] | None, base: Mapping[str, Any] | None) -> "Settings":
    return _load(path, overrides, base).settings


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise ConfigError("password", "the two are not the same")
    return password


def _print_effective(loaded: "Loaded", as_json: bool) -> None:
    rows = loaded.effective()
    if as_json:
        print_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
    else:
        print_table(("key", "value", "origin"), [(key, _literal(value), origin) for key, value, origin in rows])


def _paragraph(row: "Row") -> str:
    facts = ", ".join(fact for fact in (row.type, row.unit, f"default {row.default}") if fact)
    meaning = textwrap.fill(row.meaning, 100, initial_indent="    ", subsequent_indent="    ")
    return f"{row.key}: {facts}\n{meaning}"


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    """One row for each value; what stands in a list or a table has its place in its name."""
    for name, value in table.items():
        if isinstance(value, list):
            yield from _flat({f"{name}[{index}]": item for index, item in enumerate(value)}, above)
        elif isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _literal(value: object) -> str:
    return "unset" if value is None else json.dumps(value)


_MARKDOWN_HEAD: Final = """\
# Settings

<!-- Printed by `python -m proxy config --markdown`; a test fails when this file is not what that prints. -->

A setting is given in the TOML file (`kafka.topic_prefix`), in the environment (`MQK_KAFKA__TOPIC_PREFIX`) or as a flag
(`--set kafka.topic_prefix=…`); flag beats environment beats file. Unknown names are refused, in the environment too.

In the environment and in flags a list of texts is written with commas (`a:9092,b:9092`) or as JSON, a list of tables as
JSON: `--set 'listeners=[{"bind": "[::]:1883"}]'`. A list replaces the whole list of a weaker source.
"""


def _markdown(rows: Iterable["Row"]) -> str:
    text = _MARKDOWN_HEAD
    for section, members in itertools.groupby(rows, lambda row: row.key.split(".")[0].removesuffix("[]")):
        text += f"\n## {section}\n\n| key | type | default | unit | meaning |\n| --- | --- | --- | --- | --- |\n"
        for row in members:
            kind = row.type.replace("|", "\\|")
            text += f"| `{row.key}` | {kind} | `{row.default}` | {row.unit} | {row.meaning} |\n"
    return text
