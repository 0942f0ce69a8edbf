"""Which clients a user has."""

from dataclasses import replace

from proxy.cluster.users import ConnectedUsers
from proxy.kafka.records import CLAIM, LIVE, RELEASE, RELEASED, About, SessionRecord


def record(client_id: str, username: str | None) -> SessionRecord:
    about = About(username, "10.0.0.1", 60, 4, None, 0)
    return SessionRecord(client_id, CLAIM, "a", 1, 1, 1, 0, LIVE, True, None, 0, "", None, about, None)


def gone(before: SessionRecord) -> SessionRecord:
    return replace(before, kind=RELEASE, rel=RELEASED)


def test_they_come_and_go() -> None:
    users = ConnectedUsers()
    one, two, three = (record(f"c{number}", "u") for number in (1, 2, 3))
    for each in (one, two, three):
        users.view_changed(None, each)
    assert sorted(users.clients("u")) == ["c1", "c2", "c3"]
    for each, left in ((two, ["c1", "c3"]), (one, ["c3"]), (three, [])):
        users.view_changed(each, gone(each))
        assert sorted(users.clients("u")) == left
    assert len(users) == 0


def test_a_single_client_comes_and_goes() -> None:
    users = ConnectedUsers()
    users.view_changed(None, record("c", "u"))
    users.view_changed(record("c", "u"), record("c", "u"))
    assert users.clients("u") == ["c"]
    users.view_changed(record("c", "u"), gone(record("c", "u")))
    assert (users.clients("u"), len(users)) == ([], 0)


def test_a_client_that_is_another_user_now() -> None:
    users = ConnectedUsers()
    users.view_changed(None, record("c", "u"))
    users.view_changed(record("c", "u"), record("c", "v"))
    assert (users.clients("u"), users.clients("v")) == ([], ["c"])


def test_who_has_no_name_is_not_found_by_one() -> None:
    users = ConnectedUsers()
    users.view_changed(None, record("c", None))
    users.view_changed(record("c", None), gone(record("c", None)))
    assert len(users) == 0


def test_an_end_of_which_nothing_is_known() -> None:
    users = ConnectedUsers()
    users.view_changed(None, gone(record("c", "u")))
    users.view_changed(gone(record("c", "u")), record("c", "u"))
    assert users.clients("u") == ["c"]
    users.clear()
    assert users.clients("u") == []
