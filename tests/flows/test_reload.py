"""New rules and passwords while devices stay: all of it holds, or nothing changes."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import ConfigError, GatewayError
from proxy.flows.reload import Reloader
from proxy.policy.authenticators.base import Login
from proxy.policy.authenticators.password_file import PasswordFile, set_password
from proxy.policy.routes import RouteTable
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes
from tests.flows.harness import Replica, connected, puback
from tests.support.fakes import turn

NEW = RuleSpec(["t_new"], "new", filter="#")


def written(*specs: RuleSpec) -> Callable[[], RouteTable]:
    return lambda: compile_routes(specs, RoutingContext("t_"))


class Prepared:
    """Sees to the topics of new rules, or says that it cannot."""

    def __init__(self, replica: Replica, error: Exception | None = None) -> None:
        self.replica = replica
        self.error = error

    async def __call__(self, routes: RouteTable) -> None:
        if self.error is not None:
            raise self.error
        await self.replica.gateway.add_topics(routes.topics())


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "passwd"
    set_password(path, "one", "secret", create=True)
    return path


@pytest.fixture
def file(passwords: Path) -> PasswordFile:
    return PasswordFile(passwords)


def spoil(passwords: Path) -> None:
    passwords.write_text(passwords.read_text() + "broken\n")


async def knows(file: PasswordFile, user: str) -> bool:
    return await file.authenticate(Login("c", user, b"secret", "", None)) is True


async def test_new_rules_and_users(replica: Replica, passwords: Path, file: PasswordFile) -> None:
    device = connected(replica)
    device.publish("tlink/a", b"1", packet_id=1)
    set_password(passwords, "two", "secret", create=False)
    reloader = Reloader(replica.uplink, [file], written(NEW), Prepared(replica), replica.metrics)
    assert await reloader.reload()
    device.publish("tlink/a", b"2", packet_id=2)
    await replica.gateway.flush(5)
    await turn()
    assert [record.value for record in replica.gateway.stored("t_msg")] == [b"1"]
    assert [record.value for record in replica.gateway.stored("t_new")] == [b"2"]
    assert device.take() == puback(1) + puback(2)
    assert await knows(file, "two")
    assert [replica.count("mqk_reloads_total", result=result) for result in ("applied", "refused")] == [1, 0]
    file.close()


@pytest.mark.parametrize("wrong", ["rule", "file", "topic", "kafka"])
async def test_what_is_wrong_changes_nothing(
    replica: Replica, passwords: Path, file: PasswordFile, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    set_password(passwords, "two", "secret", create=False)
    if wrong == "file":
        spoil(passwords)
    read = written(NEW, NEW) if wrong == "rule" else written(NEW)
    errors = {"topic": ConfigError("kafka.create_topics", "missing"), "kafka": GatewayError("does not answer")}
    before, generation = replica.uplink.routes, replica.gateway.generation
    reloader = Reloader(replica.uplink, [file], read, Prepared(replica, errors.get(wrong)), replica.metrics)
    assert not await reloader.reload()
    assert replica.uplink.routes is before
    assert not await knows(file, "two")
    assert replica.count("mqk_reloads_total", result="refused") == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    said = {"rule": 'routing.rules[1] "new"', "file": "passwd:3", "topic": "missing", "kafka": "does not answer"}
    assert said[wrong] in vars(line)["error"]
    # What was decided holds: nobody has to be asked again.
    assert replica.gateway.generation == generation
    file.close()
