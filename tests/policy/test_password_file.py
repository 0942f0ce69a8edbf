"""The password file: who gets in, what a login costs, what is bounded, and that writing it loses nothing."""

import asyncio
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from proxy.errors import AuthError, ConfigError
from proxy.mqtt.packets import ReasonCode
from proxy.policy.authenticators import password_file
from proxy.policy.authenticators.base import Chain, Login
from proxy.policy.authenticators.password_file import PasswordFile, delete_user, read_users, set_password

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
#: With a salt that is always the same, because tests are named after it.
HASH = CHEAP.hash("right", salt=b"eight bytes or more")


def login(username: str | None, password: str | bytes | None) -> Login:
    secret = password.encode() if isinstance(password, str) else password
    return Login("client", username, secret, "127.0.0.1", None)


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "passwd"
    path.write_text(f"# devices\n\ndev1&pk1:{HASH}\nal:ice:{CHEAP.hash('wonder')}\n")
    return path


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., PasswordFile]]:
    made = []

    def make(**arguments: object) -> PasswordFile:
        made.append(PasswordFile(path, **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for authenticator in made:
        authenticator.close()


class Verifications:
    """Stands before argon2: counts, and lets nobody through while the gate is shut."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._verify = password_file.verify

    def __call__(self, stored: str, password: bytes) -> bool:
        self.stored.append(stored)
        assert self.gate.wait(10)
        return self._verify(stored, password)


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> Verifications:
    counter = Verifications()
    monkeypatch.setattr(password_file, "verify", counter)
    return counter


@pytest.mark.parametrize(
    ("username", "password", "answer"),
    [
        ("dev1&pk1", "right", True),
        ("dev1&pk1", "wrong", False),
        ("dev1&pk1", "", False),
        ("dev1&pk1", None, False),
        ("dev1&pk1", b"\xff\x00", False),
        ("al:ice", "wonder", True),
        ("al", "wonder", None),
        ("# devices", "right", None),
        ("", "right", None),
        ("unknown", "right", None),
        ("unknown", None, None),
        (None, None, None),
    ],
)
async def test_who_gets_in(
    make: Callable[..., PasswordFile], username: str | None, password: str | bytes | None, answer: bool | None
) -> None:
    assert await make().authenticate(login(username, password)) is answer


async def test_a_login_that_was_right_is_remembered(
    make: Callable[..., PasswordFile], verifications: Verifications
) -> None:
    authenticator = make()
    assert authenticator.cached(login("dev1&pk1", "right")) is None
    for _ in range(3):
        assert await authenticator.authenticate(login("dev1&pk1", "right"))
        assert authenticator.cached(login("dev1&pk1", "right")) is True
    assert len(verifications.stored) == 1
    assert authenticator.cached(login("dev1&pk1", "wrong")) is None
    assert authenticator.cached(login("al:ice", "right")) is None


async def test_a_failed_login_is_not_remembered(
    make: Callable[..., PasswordFile], verifications: Verifications
) -> None:
    authenticator = make()
    for _ in range(3):
        assert await authenticator.authenticate(login("dev1&pk1", "wrong")) is False
        assert authenticator.cached(login("dev1&pk1", "wrong")) is None
    assert len(verifications.stored) == 3


async def test_where_user_ends_and_password_begins_matters(path: Path, make: Callable[..., PasswordFile]) -> None:
    write(path, f"ab:{HASH}\na:{HASH}\n")
    authenticator = make()
    assert await authenticator.authenticate(login("ab", "right"))
    assert authenticator.cached(login("a", "bright")) is None


async def test_no_more_logins_are_remembered_than_may_be(path: Path, make: Callable[..., PasswordFile]) -> None:
    write(path, "".join(f"user{number}:{HASH}\n" for number in range(4)))
    authenticator = make(remembered_max=2)
    for user in ("user0", "user1", "user0", "user2"):
        assert await authenticator.authenticate(login(user, "right"))
    # user0 was used after user1, so user1 had to go.
    remembered = [authenticator.cached(login(f"user{number}", "right")) for number in range(4)]
    assert remembered == [True, None, True, None]


@pytest.mark.parametrize("whose", ["user0", None])
async def test_a_login_is_forgotten(path: Path, make: Callable[..., PasswordFile], whose: str | None) -> None:
    write(path, f"user0:{HASH}\nuser1:{HASH}\n")
    authenticator = make()
    for user in ("user0", "user1"):
        assert await authenticator.authenticate(login(user, "right"))
    authenticator.forget("nobody")
    authenticator.forget(whose)
    remembered = [authenticator.cached(login(user, "right")) for user in ("user0", "user1")]
    assert remembered == [None, None if whose is None else True]


async def test_an_unknown_user_costs_what_a_wrong_password_costs(
    path: Path, make: Callable[..., PasswordFile], verifications: Verifications
) -> None:
    dear = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    write(path, f"a:{dear.hash('x')}\nb:{HASH}\nc:{dear.hash('x')}\n")
    assert await make().authenticate(login("unknown", "x")) is None
    assert [stored.split("$")[1:4] for stored in verifications.stored] == [["argon2id", "v=19", "m=16,t=2,p=1"]]


async def test_an_unknown_user_costs_nothing_when_there_is_nothing_to_conceal(
    make: Callable[..., PasswordFile], verifications: Verifications
) -> None:
    authenticator = make(conceal_unknown=False)
    assert authenticator.passes_on(login("unknown", "x"))
    assert await authenticator.authenticate(login("unknown", "x")) is None
    assert verifications.stored == []
    assert not authenticator.passes_on(login("dev1&pk1", "x"))


async def test_the_same_login_is_checked_once_at_a_time(
    make: Callable[..., PasswordFile], verifications: Verifications
) -> None:
    authenticator = make(waiting_max=1)
    verifications.gate.clear()
    same = [asyncio.create_task(authenticator.authenticate(login("dev1&pk1", "right"))) for _ in range(5)]
    await asyncio.sleep(0)
    # One of them gives up; that must not take the check from the others.
    same[0].cancel()
    await asyncio.sleep(0)
    verifications.gate.set()
    assert await asyncio.gather(*same[1:]) == [True] * 4
    assert same[0].cancelled()
    assert len(verifications.stored) == 1


async def test_only_so_many_logins_wait(make: Callable[..., PasswordFile], verifications: Verifications) -> None:
    authenticator = make(waiting_max=3)
    verifications.gate.clear()
    waiting = [asyncio.create_task(authenticator.authenticate(login("dev1&pk1", f"wrong{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(AuthError, match="3 logins wait") as refused:
        await authenticator.authenticate(login("dev1&pk1", "right"))
    assert refused.value.reason == ReasonCode.SERVER_BUSY
    verifications.gate.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert await authenticator.authenticate(login("dev1&pk1", "right")) is True


async def test_reload_takes_a_good_file_and_keeps_the_old_for_a_bad_one(
    path: Path, make: Callable[..., PasswordFile]
) -> None:
    authenticator = make()
    assert await authenticator.authenticate(login("dev1&pk1", "right"))
    write(path, f"new:{HASH}\nbroken\n")
    with pytest.raises(ConfigError, match=f"^{path}:2: "):
        authenticator.reload()
    assert authenticator.cached(login("dev1&pk1", "right")) is True
    assert await authenticator.authenticate(login("new", "right")) is None

    write(path, f"new:{HASH}\ndev1&pk1:{CHEAP.hash('changed')}\n")
    authenticator.reload()
    assert authenticator.cached(login("dev1&pk1", "right")) is None
    assert await authenticator.authenticate(login("dev1&pk1", "right")) is False
    assert await authenticator.authenticate(login("dev1&pk1", "changed")) is True
    assert await authenticator.authenticate(login("new", "right")) is True


async def test_a_removed_user_is_not_let_in_from_memory(path: Path, make: Callable[..., PasswordFile]) -> None:
    authenticator = make()
    assert await authenticator.authenticate(login("dev1&pk1", "right"))
    write(path, "")
    authenticator.reload()
    assert authenticator.cached(login("dev1&pk1", "right")) is None
    assert await authenticator.authenticate(login("dev1&pk1", "right")) is None


async def test_no_password_is_kept_in_plain(make: Callable[..., PasswordFile]) -> None:
    authenticator = make()
    assert await authenticator.authenticate(login("dev1&pk1", "right"))
    assert "right" not in repr(vars(authenticator))
    # Nor anything that a second process, or a dictionary, would make of the same login.
    other = make()
    assert await other.authenticate(login("dev1&pk1", "right"))
    assert vars(authenticator)["_remembered"] != vars(other)["_remembered"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("broken", "a line is user:hash, and a user has a name"),
        (f":{HASH}", "a line is user:hash, and a user has a name"),
        ("user:plain", "after the last colon stands an argon2id hash; `mqk passwd` writes it"),
        (f"user:{HASH.replace('argon2id', 'argon2i')}", "after the last colon stands an argon2id hash"),
        (f"user:{HASH} ", "after the last colon stands an argon2id hash"),
        (f"user:{HASH[:-10]}", "the hash is cut off"),
        (f"user:{HASH.replace('m=8', 'm=65537')}", "m=65537,t=1,p=1 is out of bounds: m 8 to 65536, t 1 to 10, p 1"),
        (f"user:{HASH.replace('t=1', 't=11')}", "m=8,t=11,p=1 is out of bounds"),
        (f"user:{HASH.replace('p=1', 'p=2')}", "m=8,t=1,p=2 is out of bounds"),
        (f" user:{HASH}", "user ' user': no leading #, no space at either end, only printable characters"),
        (f"dev1:{HASH}", "user 'dev1' is there already"),
    ],
)
def test_a_bad_line_is_named(path: Path, line: str, message: str) -> None:
    path.write_text(f"# devices\ndev1:{HASH}\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        read_users(path)
    assert str(raised.value).startswith(f"{path}:3: {message}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        read_users(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"caf\xe9:x\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8: .* at byte 3"):
        read_users(tmp_path / "latin")


def test_a_file_of_another_system_is_read(path: Path) -> None:
    path.write_bytes(f"a:{HASH}\r\n\r\nb:{HASH}".encode())
    assert list(read_users(path)) == ["a", "b"]


def test_writing_keeps_every_other_line(path: Path) -> None:
    before = path.read_text().splitlines()
    set_password(path, "dev1&pk1", "changed", create=False, hasher=CHEAP)
    set_password(path, "new", "first", create=True, hasher=CHEAP)
    after = path.read_text().splitlines()
    assert after[:2] == before[:2]
    assert after[3] == before[3]
    assert len(after) == 5
    users = read_users(path)
    assert list(users) == ["dev1&pk1", "al:ice", "new"]
    assert password_file.verify(users["dev1&pk1"], b"changed")
    assert password_file.verify(users["new"], b"first")
    delete_user(path, "al:ice")
    assert path.read_text().splitlines() == [*after[:3], after[4]]


def test_a_last_line_without_an_end_is_not_written_into(path: Path) -> None:
    path.write_text(f"a:{HASH}")
    set_password(path, "b", "x", create=False, hasher=CHEAP)
    assert list(read_users(path)) == ["a", "b"]


def test_only_the_owner_may_read_what_is_written(tmp_path: Path, path: Path) -> None:
    new = tmp_path / "new"
    set_password(new, "a", "x", create=True, hasher=CHEAP)
    path.chmod(0o644)
    set_password(path, "a", "x", create=False, hasher=CHEAP)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (new, path)] == [0o600, 0o600]


def test_a_file_keeps_its_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = []
    monkeypatch.setattr(password_file.os, "fchown", lambda _, *owner: owners.append(owner))
    set_password(path.with_name("new"), "a", "x", create=True, hasher=CHEAP)
    set_password(path, "a", "x", create=False, hasher=CHEAP)
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_writing_replaces_the_file_in_one_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(password_file.os, "fsync", full)
    with path.open() as reader:
        with pytest.raises(OSError, match="No space left"):
            set_password(path, "a", "x", create=False, hasher=CHEAP)
        assert path.read_text() == before
        assert [file.name for file in path.parent.iterdir()] == ["passwd"]
        monkeypatch.undo()
        set_password(path, "a", "x", create=False, hasher=CHEAP)
        assert reader.read() == before
    assert "a" in read_users(path)


def test_a_link_is_followed(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    set_password(link, "a", "x", create=False, hasher=CHEAP)
    assert link.is_symlink()
    assert "a" in read_users(path)


@pytest.mark.parametrize(
    ("user", "password", "setting"),
    [("", "x", "user"), ("#a", "x", "user"), ("a\nb", "x", "user"), (" a", "x", "user"), ("a", "", "password"),
     ("a", "x" * 65_536, "password")],
)  # fmt: skip
def test_what_cannot_be_a_login_is_not_written(path: Path, user: str, password: str, setting: str) -> None:
    before = path.read_text()
    with pytest.raises(ConfigError) as raised:
        set_password(path, user, password, create=False, hasher=CHEAP)
    assert raised.value.setting == setting
    assert path.read_text() == before


def test_a_file_is_made_only_when_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; `mqk passwd --create` makes it"):
        set_password(tmp_path / "typo", "a", "x", create=False, hasher=CHEAP)
    assert not (tmp_path / "typo").exists()


def test_deleting_nobody_is_an_error(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no user 'nobody'"):
        delete_user(path, "nobody")


def test_a_new_password_costs_what_the_limits_say(tmp_path: Path) -> None:
    set_password(tmp_path / "passwd", "a", "x", create=True)
    (stored,) = read_users(tmp_path / "passwd").values()
    assert stored.startswith("$argon2id$v=19$m=6144,t=2,p=1$")
    assert password_file.verify(stored, b"x")


@pytest.fixture
def two_files(tmp_path: Path, path: Path) -> Iterator[Callable[[bool], Chain]]:
    other = tmp_path / "other"
    other.write_text(f"dev1&pk1:{CHEAP.hash('other')}\nguest:{HASH}\n")
    made = []

    def make(anonymous: bool) -> Chain:
        files = [PasswordFile(path, conceal_unknown=False), PasswordFile(other, conceal_unknown=not anonymous)]
        made.append(Chain(files, anonymous=anonymous))
        return made[-1]

    yield make
    for chain in made:
        chain.close()


@pytest.mark.parametrize(
    ("username", "password", "answer", "answer_when_anonymous"),
    [
        ("dev1&pk1", "right", True, True),
        ("dev1&pk1", "other", False, False),  # The first file knows the user, so the second is not asked.
        ("guest", "right", True, True),
        ("guest", "wrong", False, False),
        ("unknown", "right", False, True),
        (None, None, False, True),
    ],
)
async def test_a_chain_asks_in_order(
    two_files: Callable[[bool], Chain],
    username: str | None,
    password: str | None,
    answer: bool,
    answer_when_anonymous: bool,
) -> None:
    assert await two_files(False).authenticate(login(username, password)) is answer
    assert await two_files(True).authenticate(login(username, password)) is answer_when_anonymous


async def test_a_chain_answers_at_once_what_it_knows(
    two_files: Callable[[bool], Chain], verifications: Verifications
) -> None:
    chain = two_files(True)
    assert chain.cached(login(None, None)) is True
    assert chain.cached(login("unknown", "x")) is True
    for username in ("dev1&pk1", "guest"):
        assert chain.cached(login(username, "right")) is None
        assert await chain.authenticate(login(username, "right"))
        assert chain.cached(login(username, "right")) is True
    assert len(verifications.stored) == 2
    assert two_files(False).cached(login(None, None)) is False
    assert two_files(False).cached(login("unknown", "x")) is None


async def test_an_empty_chain_is_anonymous_or_nobody() -> None:
    for anonymous in (True, False):
        chain = Chain([], anonymous=anonymous)
        assert chain.cached(login("a", "b")) is anonymous
        assert await chain.authenticate(login("a", "b")) is anonymous
        chain.close()
