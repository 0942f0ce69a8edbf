"""The command line: what is printed where, and the exit codes that scripts depend on."""

import getpass
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import proxy
from proxy.cli import main
from proxy.config import Settings
from proxy.errors import GatewayError
from proxy.policy.authenticators import password_file
from proxy.policy.authenticators.password_file import read_users


class Result(NamedTuple):
    code: object
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `mqk …` in this process, in an empty directory, with `stdin` as its standard input."""
    for name in [name for name in os.environ if name.startswith("MQK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["mqk", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Result(ended.value.code, out, err)

    return run


class Running(ModuleType):
    """Stands for the modules that run a replica: keeps what it is given, and answers or fails as a test wants."""

    def __init__(self, answer: object = 0) -> None:
        super().__init__("proxy.process")
        self.answer = answer
        self.given: tuple[object, ...] = ()

    def _called(self, *given: object) -> object:
        self.given = given
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    serve = dev = explain = _called

    def route_table(self, settings: object) -> object:
        """Every rule is right."""
        return settings


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    running = Running()
    for name in ("process", "wiring"):
        monkeypatch.setitem(sys.modules, f"proxy.{name}", running)
        monkeypatch.setattr(proxy, name, running, raising=False)
    return running


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"mqk {proxy.__version__}\n", "")


def test_version_does_not_wait_for_what_it_does_not_need() -> None:
    code = "import sys, proxy.cli; print({'proxy.config', 'argon2', 'aiokafka', 'starlette'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "set()\n"


@pytest.mark.parametrize("arguments", [["frobnicate"], ["config", "--nonsense"], ["passwd"], ["route", "explain"]])
def test_wrong_use(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err


def test_config_prints_every_setting(run: Run) -> None:
    result = run("config")
    assert result.code == 0
    assert "kafka.partitions: integer 1..10000, default 12\n    Of topics that we create.\n" in result.out
    assert "node.drain_seconds: integer 0..3600, seconds, default 30\n" in result.out


def test_config_as_json(run: Run) -> None:
    rows = json.loads(run("config", "--json").out)
    assert {"key": "admin.bind", "type": "host:port", "default": '"127.0.0.1:8080"', "unit": ""}.items() <= next(
        row for row in rows if row["key"] == "admin.bind"
    ).items()


def test_config_effective(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mqk.toml").write_text("[auth]\nanonymous = true\n")
    monkeypatch.setenv("MQK_KAFKA__PARTITIONS", "3")
    arguments = ("config", "--effective", "--config", "mqk.toml", "--set", "log.level=debug")
    lines = [line.split(maxsplit=2) for line in run(*arguments).out.splitlines()]
    assert lines[0] == ["KEY", "VALUE", "ORIGIN"]
    assert ["auth.anonymous", "true", "file mqk.toml"] in lines
    assert ["kafka.partitions", "3", "environment MQK_KAFKA__PARTITIONS"] in lines
    assert ["log.level", '"debug"', "flag"] in lines
    assert ["routing.md5_partitions", "unset", "default"] in lines
    rows = json.loads(run(*arguments, "--json").out)
    assert {"key": "kafka.partitions", "value": 3, "origin": "environment MQK_KAFKA__PARTITIONS"} in rows


def test_a_wrong_configuration_is_one_line_per_problem(run: Run) -> None:
    result = run("check-config", "--set", "auth.anonymous=true", "--set", "kafka.partitons=1", "--set", "admin.bind=x")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "mqk: kafka.partitons: unknown setting; did you mean kafka.partitions? [flag]",
        'mqk: admin.bind: should be host:port with a port of 0 to 65535, not "x" [flag]',
    ]


def test_check_config_reads_the_password_files(run: Run) -> None:
    Path("mqk.toml").write_text('[[auth.chain]]\ntype = "password_file"\npath = "passwd"\n')
    assert run("check-config", "--config", "mqk.toml").err == "mqk: passwd: cannot be read: No such file or directory\n"
    run("passwd", "-c", "passwd", "dev1", "--stdin", stdin="secret\n")
    assert run("check-config", "--config", "mqk.toml") == (0, "passwd: users: 1\nmqk.toml: ok\n", "")
    with Path("passwd").open("a") as file:
        file.write("dev2:secret\n")
    result = run("check-config", "--config", "mqk.toml")
    assert (result.code, result.err.split(": ")[1]) == (2, "passwd:2")


def test_check_config_reads_the_acl_file(run: Run) -> None:
    Path("mqk.toml").write_text('[auth]\nanonymous = true\n[acl]\nfile = "acl.conf"\n')
    assert (
        run("check-config", "--config", "mqk.toml").err == "mqk: acl.conf: cannot be read: No such file or directory\n"
    )
    Path("acl.conf").write_text("allow all all #\n")
    assert run("check-config", "--config", "mqk.toml") == (0, "acl.conf: rules: 1\nmqk.toml: ok\n", "")
    Path("acl.conf").write_text("allow all\n")
    result = run("check-config", "--config", "mqk.toml")
    assert (result.code, result.err.split(": ")[1]) == (2, "acl.conf:1")


def test_check_config_compiles_the_rules(run: Run) -> None:
    rules = '[auth]\nanonymous = true\n[[routing.rules]]\nname = "mine"\nfilter = "a/#"\ntopic = "${nope}"\n'
    Path("mqk.toml").write_text(rules)
    result = run("check-config", "--config", "mqk.toml")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith('mqk: routing.rules[0] "mine": topic: unknown variable ${nope}; there are prefix, ')
    Path("mqk.toml").write_text(rules.replace("nope", "clientid"))
    assert run("check-config", "--config", "mqk.toml") == (0, "mqk.toml: ok\n", "")


def test_check_config_reads_the_files_of_the_kafka_client(run: Run) -> None:
    Path("mqk.toml").write_text(
        '[auth]\nanonymous = true\n[kafka.client]\nsecurity_protocol = "SSL"\nssl_cafile = "keys/ca.crt"\n'
    )
    message = "mqk: kafka.client.ssl_cafile: keys/ca.crt cannot be read: No such file or directory\n"
    assert run("check-config", "--config", "mqk.toml") == (2, "", message)


def test_check_config_warns(run: Run) -> None:
    result = run("check-config", "--set", "auth.anonymous=true", "--set", "routing.md5_partitions=300")
    assert (result.code, result.out) == (0, "configuration: ok\n")
    assert result.err.startswith("mqk: warning: routing.md5_partitions is above 256")


def test_passwd_from_standard_input(run: Run) -> None:
    assert run("passwd", "-c", "file", "dev1&pk1", "--stdin", stdin="pass word\r\nnext\n") == (0, "", "")
    assert password_file.verify(read_users(Path("file"))["dev1&pk1"], b"pass word")
    assert run("passwd", "--delete", "file", "dev1&pk1") == (0, "", "")
    assert read_users(Path("file")) == {}


@pytest.mark.parametrize(("answers", "code"), [(["a", "a"], 0), (["a", "b"], 2), (["", ""], 2)])
def test_passwd_asks_twice(run: Run, monkeypatch: pytest.MonkeyPatch, answers: list[str], code: int) -> None:
    left = iter(answers)
    monkeypatch.setattr(getpass, "getpass", lambda _: next(left))
    result = run("passwd", "-c", "file", "dev1")
    assert result.code == code
    assert Path("file").exists() == (code == 0)
    assert next(left, None) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["file", "dev1", "--stdin"], "mqk: file: there is no such file; `mqk passwd --create` makes it\n"),
        (["file", "dev1", "--delete", "-c"], "mqk: --delete: goes with neither --create nor --stdin\n"),
        (["-c", "file", "#dev", "--stdin"], "mqk: user: user '#dev': no leading #, no space at either end, only prin"),
    ],
)
def test_passwd_refuses(run: Run, arguments: list[str], message: str) -> None:
    result = run("passwd", *arguments, stdin="x\n")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(message)


def test_an_unwritable_directory_is_a_failure_not_a_traceback(run: Run) -> None:
    result = run("passwd", "-c", "missing/file", "dev1", "--stdin", stdin="x\n")
    assert result.code == 1
    assert result.err.startswith("mqk: [Errno 2] No such file or directory: ")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("code", [0, 1])
def test_serve_ends_with_the_code_of_the_node(run: Run, running: Running, code: int) -> None:
    running.answer = code
    assert run("serve", "--set", "auth.anonymous=true") == (code, "", "")
    settings, read = running.given
    assert isinstance(settings, Settings)
    assert callable(read)
    assert read() == settings


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Running:
    """Stands for the supervisor."""
    worker = Running()
    worker.supervise = worker._called  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.worker", worker)
    monkeypatch.setattr(proxy, "worker", worker, raising=False)
    return worker


@pytest.mark.parametrize("arguments", [["--workers", "3"], ["--set", "node.workers=3"]])
def test_serve_with_workers_is_supervised(run: Run, running: Running, worker: Running, arguments: list[str]) -> None:
    worker.answer = 130
    assert run("serve", "--set", "auth.anonymous=true", *arguments).code == 130
    settings, read = worker.given
    assert isinstance(settings, Settings)
    assert settings.node.workers == 3
    assert callable(read)
    assert read() == settings
    assert running.given == ()


def test_one_worker_needs_no_supervisor(run: Run, running: Running, worker: Running) -> None:
    assert run("serve", "--set", "auth.anonymous=true", "--set", "node.workers=3", "--workers", "1").code == 0
    assert running.given
    assert worker.given == ()


def test_dev_is_one_replica(run: Run, running: Running) -> None:
    result = run("dev", "--set", "node.workers=2")
    assert (result.code, result.err) == (2, "mqk: node.workers: mqk dev is one replica; mqk serve runs several\n")
    assert running.given == ()


def test_serve_does_not_start_on_a_wrong_configuration(run: Run, running: Running) -> None:
    assert run("serve").code == 2
    assert running.given == ()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GatewayError("Kafka is not there"), 1, "mqk: Kafka is not there\n"),
        (PermissionError(13, "Permission denied"), 1, "mqk: [Errno 13] Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_serve_fails(run: Run, running: Running, error: BaseException, code: int, message: str) -> None:
    running.answer = error
    assert run("serve", "--set", "auth.anonymous=true") == (code, "", message)


def test_dev_needs_no_configuration(run: Run, running: Running) -> None:
    assert run("dev").code == 0
    settings, read = running.given
    assert callable(read)
    assert read() == settings
    assert isinstance(settings, Settings)
    assert settings.auth.anonymous
    assert [listener.bind for listener in settings.listeners] == ["127.0.0.1:1883"]
    run("dev", "--set", "auth.anonymous=false", "--set", 'auth.chain=[{"type": "password_file", "path": "p"}]')
    settings, _ = running.given
    assert isinstance(settings, Settings)
    assert not settings.auth.anonymous


def test_migrate(run: Run) -> None:
    Path("plugin.conf").write_text("kafka.host = kafka\nkafka.payloadtopic = größe_\n")
    result = run("migrate", "plugin.conf")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("mqk: kafka.topic_prefix: should be made of letters")
    assert result.err.endswith(" [plugin.conf: kafka.payloadtopic]\n")
    Path("plugin.conf").write_text("kafka.host = kafka\n")
    result = run("migrate", "plugin.conf")
    assert (result.code, result.err) == (0, "")
    Path("mqk.toml").write_text(result.out)
    assert run("check-config", "--config", "mqk.toml") == (0, "mqk.toml: ok\n", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "mqk: plugin.conf: cannot be read: No such file"), (b"\xff", "mqk: plugin.conf: is not UTF-8: ")],
)
def test_migrate_names_a_file_that_it_cannot_read(run: Run, content: bytes | None, message: str) -> None:
    if content is not None:
        Path("plugin.conf").write_bytes(content)
    result = run("migrate", "plugin.conf")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(message)


def test_route_explain(run: Run, running: Running) -> None:
    running.answer = {"rule": "ota", "partition": 3, "key": None}
    result = run("route", "explain", "tlink/a/ota", "--clientid", "c1", "--username", "u")
    assert running.given[1:] == ("tlink/a/ota", "c1", "u")
    assert result.out.split() == ["FIELD", "VALUE", "rule", '"ota"', "partition", "3", "key", "unset"]
    assert json.loads(run("route", "explain", "x", "--json").out) == running.answer
    running.answer = {"rules": ["a: no", "b: matches"], "records": [{"key": "k", "headers": {"mqtt.topic": "x"}}]}
    assert [line.split(maxsplit=1) for line in run("route", "explain", "x").out.splitlines()[1:]] == [
        ["rules[0]", '"a: no"'], ["rules[1]", '"b: matches"'], ["records[0].key", '"k"'],
        ["records[0].headers.mqtt.topic", '"x"'],
    ]  # fmt: skip
    assert running.given[1:] == ("x", "device", None)
