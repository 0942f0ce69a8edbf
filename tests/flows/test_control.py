"""Commands for clients at any replica: who is asked, what is answered, and that each comes to an end."""

import asyncio

import pytest

from proxy import limits
from proxy.cluster.commands import ACL_CLEAN, KICK, ClientOutcome, Command, Selector
from proxy.errors import GatewayError
from tests.support.fakes import until
from tests.support.town import ACK_SECONDS, Town, deliver


def kick(name: str, client_id: str | None = None, username: str | None = None) -> Command:
    return Command(name, KICK, Selector(client_id, username))


@pytest.fixture
async def town(monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setattr(limits, "COMMAND_LOOK_AGAIN_SECONDS", 0.02)
    return Town("a", "b", "c")


# ---- who is asked ----


async def test_a_client_here_needs_no_letter(town: Town) -> None:
    town.connect("one", "a")
    town["a"].start(deliver("1", "one"))
    [result] = town["a"].results
    assert (result.outcome, result.clients) == ("delivered", [ClientOutcome("one", "delivered", "a")])
    assert town["a"].inbox.letters_sent == 0


async def test_a_client_elsewhere_is_asked_for_there_alone(town: Town) -> None:
    town.connect("one", "b")
    town["a"].start(deliver("1", "one"))
    town.flush()
    [result] = town["a"].results
    assert (result.outcome, result.clients) == ("delivered", [ClientOutcome("one", "delivered", "b")])
    assert town["c"].inbox.letters_read == 0
    assert town["a"].control.in_flight == 0


async def test_all_clients_of_a_user(town: Town) -> None:
    for number, node in enumerate("abb"):
        town.connect(f"c{number}", node, "u")
    town.connect("other", "c", "v")
    town["a"].start(deliver("1", username="u"))
    town.flush()
    [result] = town["a"].results
    assert sorted((each.clientid, each.node) for each in result.clients) == [("c0", "a"), ("c1", "b"), ("c2", "b")]
    assert result.outcome == "delivered"
    assert town["c"].executor.executed == []


async def test_nobody_in_particular_means_everybody(town: Town) -> None:
    for number, node in enumerate("abc"):
        town.connect(f"c{number}", node)
    town["b"].start(deliver("1"))
    town.flush()
    [result] = town["b"].results
    assert sorted(each.clientid for each in result.clients) == ["c0", "c1", "c2"]


async def test_an_answer_that_names_many_takes_several_messages(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_CLIENTS_PER_MESSAGE", 2)
    names = [f"c{number}" for number in range(5)]
    for name in names:
        town.connect(name, "b", "u")
    town["a"].start(Command("1", KICK, Selector(username="u")))
    town.flush()
    [result] = town["a"].results
    assert sorted((each.clientid, each.outcome) for each in result.clients) == [(name, "done") for name in names]


@pytest.mark.parametrize("kind", [KICK, ACL_CLEAN])
async def test_kick_and_clean_reach_who_is_not_known_to_be_there(town: Town, kind: str) -> None:
    town.connect("one", "a", "u", known=False)
    town.connect("two", "c", "u", known=False)
    town["b"].start(Command("1", kind, Selector(username="u")))
    assert town["b"].results == [], "not everybody has answered"
    town.flush()
    [result] = town["b"].results
    assert result.outcome == "done"
    assert sorted((each.clientid, each.outcome, each.node) for each in result.clients) == [
        ("one", "done", "a"),
        ("two", "done", "c"),
    ]


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (kick("1", "nobody"), "nobody_found"),
        (Command("1", ACL_CLEAN, Selector(username="nobody")), "nobody_found"),
        (deliver("1", "nobody"), "offline"),
        (deliver("1", username="nobody"), "offline"),
        (deliver("1"), "nobody_found"),
        (deliver("1", "one", expires_at_ms=1), "expired"),
        (kick("1"), "malformed"),
        (Command("1", "deliver", Selector("one")), "malformed"),
        (Command("1", "dance", Selector("one")), "malformed"),
    ],
)
async def test_what_reaches_nobody_has_its_outcome(town: Town, command: Command, outcome: str) -> None:
    town["a"].start(command)
    town.flush()
    [result] = town["a"].results
    assert result.outcome == outcome
    assert [each.clientid for each in result.clients] == (["nobody"] if command == deliver("1", "nobody") else [])
    assert (outcome == "malformed") == bool(result.error)
    kind = command.kind if command.kind != "dance" else "unknown"
    labels = {"kind": kind, "outcome": outcome}
    assert town["a"].registry.get_sample_value("mqk_commands_total", labels) == 1


async def test_execute_waits_for_the_result(town: Town) -> None:
    town.connect("one", "b")
    asked = asyncio.create_task(town["a"].control.execute(deliver("1", "one")))
    await until(asked.done, "the letters go by themselves")
    assert asked.result().outcome == "delivered"


async def test_several_outcomes_in_one_word(town: Town) -> None:
    for number in range(2):
        town.connect(f"c{number}", "b", "u")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", username="u"), deliver("2", username="u"))
    town.flush()
    reports = town["b"].executor
    reports.report("delivered", "c0")
    reports.report("queue_full", "c1")
    town.flush()
    assert town["a"].outcomes() == {"1": "partly_delivered", "2": "partly_delivered"}
    town["a"].start(deliver("3", username="u"))
    town.flush()
    reports.report("expired", "c0")
    reports.report("queue_full", "c1")
    town.flush()
    assert town["a"].outcomes()["3"] == "undelivered"


# ---- order ----


async def test_order_is_kept_here_and_there(town: Town) -> None:
    town.connect("one", "b")
    town.connect("two", "a")
    names = [str(number) for number in range(200)]
    for name in names:
        town["a"].start(deliver(name, "one"), deliver(name, "two"))
    town.flush()
    assert town["b"].executor.executed == [(name, "one") for name in names]
    assert town["a"].executor.executed == [(name, "two") for name in names]


async def test_large_messages_take_several_letters_in_order(town: Town) -> None:
    town.connect("one", "b")
    names = [str(number) for number in range(10)]
    town["a"].start(*(deliver(name, "one", payload=b"x" * 50_000) for name in names))
    town.flush()
    assert town["b"].executor.executed == [(name, "one") for name in names]
    assert town["a"].inbox.letters_sent > 3
    town["a"].start(deliver("huge", "one", payload=b"x" * limits.INBOX_MESSAGE_BYTES_MAX), deliver("all", "one"))
    town.flush()
    assert town["a"].outcomes()["huge"] == "too_large"
    assert town["a"].outcomes()["all"] == "delivered"


# ---- a client that moves ----


async def test_taken_over_in_flight_it_is_delivered_to_the_new_connection(town: Town) -> None:
    town.connect("one", "b")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", "one"), deliver("2", "one"))
    town.flush()
    town.connect("one", "c")
    town["a"].start(deliver("3", "one"))
    town["b"].executor.report("connection_lost")
    town.flush()
    assert town["c"].executor.executed == [("1", "one"), ("2", "one"), ("3", "one")]
    assert {result.id: result.clients for result in town["a"].results} == {
        name: [ClientOutcome("one", "delivered", "c")] for name in "123"
    }


async def test_a_takeover_that_is_read_later_than_its_effect(town: Town) -> None:
    town.connect("one", "b")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", "one"))
    town.flush()
    town.connect("one", "a", known=False)
    town["b"].executor.report("connection_lost")
    town.flush()
    town["a"].start(deliver("2", "one"))
    assert town["a"].executor.executed == []
    town.tell("one", "a")
    await until(lambda: len(town["a"].results) == 2, "it is looked at again")
    assert town["a"].executor.executed == [("1", "one"), ("2", "one")]


async def test_a_view_that_is_behind(town: Town) -> None:
    """The owner has lost the client already."""
    town.connect("one", "b")
    town["b"].executor.users.clear()
    town["a"].start(deliver("1", "one"))
    town.flush()
    assert town["a"].results == []
    await until(lambda: bool(town["a"].results), "nobody else has it")
    [result] = town["a"].results
    assert (result.outcome, result.clients) == ("offline", [ClientOutcome("one", "offline", "b")])


async def test_a_client_that_never_stays_is_given_up(town: Town) -> None:
    town["a"].start()
    for replica in town.replicas.values():
        replica.executor.outcome = None
    town.connect("one", "a")
    town["b"].start(deliver("1", "one"))
    for node in "bca":
        town.flush()
        town.connect("one", node)
        for replica in town.replicas.values():
            replica.executor.report("connection_lost")
        town.flush()
    [result] = town["b"].results
    assert result.outcome == "connection_lost"
    assert sum(len(replica.executor.executed) for replica in town.replicas.values()) == limits.COMMAND_TRIES_MAX


# ---- everything comes to an end ----


async def test_a_replica_that_dies_loses_its_share(town: Town) -> None:
    town.connect("one", "b")
    for name, node in (("x", "a"), ("y", "b")):
        town.connect(name, node, "u")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", "one"), deliver("2", username="u"), deliver("3"))
    town.flush()
    town["b"].reads = False
    town["a"].start(kick("4", "one"))
    town.flush()
    town.pass_time(1)
    assert town["a"].results == []
    town.die("b")
    for client in ("one", "y"):
        del town.owners[client]
    town.pass_time(1)
    await until(lambda: len(town["a"].results) == 4, "all are settled")
    assert town["a"].outcomes() == {
        "1": "connection_lost",
        "2": "partly_delivered",
        "3": "partly_delivered",
        "4": "nobody_found",
    }
    assert town["a"].control.in_flight == 0


async def test_what_a_dead_replica_had_is_delivered_where_the_client_is_now(town: Town) -> None:
    town.connect("one", "b")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", "one"))
    town.flush()
    town.die("b")
    town.connect("one", "c")
    town.pass_time(1)
    town.flush()
    assert town["a"].outcomes() == {"1": "delivered"}


async def test_a_silent_replica_costs_no_more_than_the_time(town: Town) -> None:
    town.connect("one", "b")
    town.connect("two", "a")
    town["b"].reads = False
    town["a"].start(deliver("1", "one"), kick("2", "two"), deliver("3"), deliver("4", "one"))
    town.flush()
    town.pass_time(limits.COMMAND_ANSWER_SECONDS_MAX)
    assert town["a"].outcomes() == {"2": "timed_out"}
    assert [each.clientid for each in town["a"].results[0].clients] == ["two"]
    town.pass_time(ACK_SECONDS)
    assert town["a"].outcomes() == {"2": "timed_out", "1": "timed_out", "3": "partly_delivered", "4": "timed_out"}
    assert town["a"].control.in_flight == 0
    town["b"].reads = True
    town.letters.append(b"late")
    town["a"].start(deliver("5", "one"))
    town.flush()
    assert town["a"].outcomes()["5"] == "delivered", "its lane is free again"


async def test_late_answers_change_nothing(town: Town) -> None:
    town.connect("one", "b")
    town["b"].executor.outcome = None
    town["a"].start(deliver("1", "one"), deliver("2"))
    town.flush()
    town.pass_time(ACK_SECONDS + limits.COMMAND_ANSWER_SECONDS_MAX)
    assert len(town["a"].results) == 2
    town["b"].executor.report("delivered")
    town.flush()
    assert len(town["a"].results) == 2


async def test_a_bug_of_one_replica(town: Town) -> None:
    town.connect("one", "b")
    town.connect("two", "a")
    town["b"].executor.bug = town["a"].executor.bug = True
    town["a"].start(deliver("1", "one"), deliver("2", "two"), kick("3", "one"))
    town.flush()
    assert town["a"].outcomes() == {"1": "failed", "2": "failed", "3": "failed"}


async def test_letters_that_kafka_does_not_take(town: Town) -> None:
    town.connect("one", "b")
    town.letters.error = GatewayError("not in time")
    town["a"].start(deliver("1", "one"), kick("2", "one"))
    town.flush()
    assert town["a"].outcomes() == {"1": "timed_out", "2": "timed_out"}


async def test_letters_for_an_earlier_life_are_nobodys(town: Town) -> None:
    town.connect("one", "b")
    town["a"].start(deliver("1", "one"))
    address = town["b"].address
    town["b"].address = type(address)("b", 2)
    town.flush()
    assert town["b"].executor.executed == []
    assert town["b"].inbox.letters_read == 0


async def test_what_is_no_letter_is_counted(town: Town) -> None:
    town.letters.append(b"\xc1")
    town.letters.append(None)
    assert [replica.inbox.unreadable for replica in town.replicas.values()] == [2, 2, 2]


async def test_letters_gather_and_answers_gather_longer(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_ANSWER_GAP_SECONDS", 3_600)
    town.connect("one", "b")
    town["a"].start(*(deliver(str(number), "one") for number in range(100)))
    await until(lambda: len(town["b"].executor.executed) == 100, "they go by themselves")
    assert town["a"].inbox.letters_sent == 1
    await until(lambda: len(town["a"].results) == 100, "the first answers need not wait")
    assert town["b"].inbox.letters_sent == 1
    town["a"].start(deliver("later", "one"))
    await until(lambda: len(town["b"].executor.executed) == 101, "a request waits for a moment")
    assert "later" not in town["a"].outcomes()
    # A request to the same replica takes the answers that wait along.
    town.connect("two", "a")
    town["b"].start(deliver("back", "two"))
    await until(lambda: "later" in town["a"].outcomes(), "it has come along")


# ---- bounds ----


async def test_who_asks_too_much_over_http_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMANDS_IN_FLIGHT_MAX", 2)
    town.connect("one", "a")
    town["a"].executor.outcome = None
    town["a"].start(deliver("1", "one"))
    assert not town["a"].control.full
    town["a"].start(deliver("2", "one"))
    assert town["a"].control.full
    assert (await town["a"].control.execute(deliver("3", "one"))).outcome == "busy"


async def test_one_client_does_not_take_all_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMANDS_PER_CLIENT_MAX", 2)
    town = Town("a", "b")
    town.connect("one", "b")
    town["a"].start(*(deliver(str(number), "one") for number in range(3)))
    assert town["a"].outcomes() == {"2": "queue_full"}
