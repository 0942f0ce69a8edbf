"""Users and argon2id hashes in a text file, `user:hash` a line: checking a login against it, and writing it.

A check costs about 5 ms of a core on purpose, so it runs on two threads, never on the event loop, and a login that
was right is remembered: as a keyed hash, so that neither memory nor a core dump holds a password. What never belongs
here: plain passwords on disk, in a log or in an error.
"""

import asyncio
import base64
import binascii
import hashlib
import os
import re
import secrets
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from proxy.errors import AuthError, ConfigError
from proxy.limits import (
    ARGON2_MEMORY_KIB,
    ARGON2_MEMORY_KIB_MAX,
    ARGON2_PASSES,
    ARGON2_PASSES_MAX,
    LOGIN_WORKERS,
    LOGINS_REMEMBERED_MAX,
    LOGINS_WAITING_MAX,
)
from proxy.mqtt.packets import ReasonCode
from proxy.policy.authenticators.base import Login

HASHER: Final = PasswordHasher(time_cost=ARGON2_PASSES, memory_cost=ARGON2_MEMORY_KIB, parallelism=1)
_HASH: Final = re.compile(r"\$argon2id\$v=19\$(m=(\d+),t=(\d+),p=(\d+))\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII)


class PasswordFile:
    """The authenticator of `type = "password_file"`. Raises ConfigError when the file cannot be used.

    A user that is not in the file is passed on. With `conceal_unknown` (for the last of a chain) that takes as long
    as a wrong password, so that nobody learns user names with a stopwatch.
    """

    def __init__(
        self,
        path: Path,
        *,
        conceal_unknown: bool = True,
        waiting_max: int = LOGINS_WAITING_MAX,
        remembered_max: int = LOGINS_REMEMBERED_MAX,
    ) -> None:
        self._path = path
        self._conceal_unknown = conceal_unknown
        self._waiting_max = waiting_max
        self._remembered_max = remembered_max
        self._key = secrets.token_bytes(32)
        #: By user name: a user has one password that is right.
        self._remembered: OrderedDict[str, bytes] = OrderedDict()
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._workers = ThreadPoolExecutor(LOGIN_WORKERS, thread_name_prefix="login")
        self.reload()

    def reload(self) -> None:
        """Read the file again. Raises ConfigError and keeps what it had when the new file is not right."""
        self.read_again()()

    def read_again(self) -> Callable[[], None]:
        """Read the file; what is returned puts it in force. Raises ConfigError when it is not right."""
        users = read_users(self._path)
        return partial(self._use, users, _decoy(users))

    def _use(self, users: dict[str, str], decoy: str) -> None:
        # What was remembered needs no clearing: a changed hash makes another token, a removed user is looked up first.
        self._users, self._decoy = users, decoy

    def passes_on(self, login: Login) -> bool:
        return login.username is None or (not self._conceal_unknown and login.username not in self._users)

    def cached(self, login: Login) -> bool | None:
        stored = None if login.username is None else self._users.get(login.username)
        if stored is None or login.username is None or login.password is None:
            return None
        return self._recall(login.username, self._token(stored, login.username, login.password)) or None

    async def authenticate(self, login: Login) -> bool | None:
        if self.passes_on(login) or login.username is None:
            return None
        stored = self._users.get(login.username)
        if login.password is None:
            return None if stored is None else False
        right = await self._check(stored or self._decoy, login.username, login.password)
        return None if stored is None else right

    def forget(self, username: str | None) -> None:
        if username is None:
            self._remembered.clear()
        else:
            self._remembered.pop(username, None)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _check(self, stored: str, username: str, password: bytes) -> bool:
        token = self._token(stored, username, password)
        if self._recall(username, token):
            return True
        running = self._running.get(token) or self._start(token, stored, username, password)
        # Shielded: one of several that wait for the same check may go away without taking it from the others.
        return await asyncio.shield(running)

    def _start(self, token: bytes, stored: str, username: str, password: bytes) -> "asyncio.Future[bool]":
        if len(self._running) >= self._waiting_max:
            raise AuthError(ReasonCode.SERVER_BUSY, f"{self._waiting_max} logins wait for their password check")
        running = asyncio.get_running_loop().run_in_executor(self._workers, verify, stored, password)
        self._running[token] = running
        running.add_done_callback(partial(self._finished, token, username))
        return running

    def _finished(self, token: bytes, username: str, running: "asyncio.Future[bool]") -> None:
        del self._running[token]
        # A failed attempt is not remembered: guessing must neither get cheaper nor push real devices out.
        if not running.cancelled() and not running.exception() and running.result():
            self._remembered[username] = token
            self._remembered.move_to_end(username)
            if len(self._remembered) > self._remembered_max:
                self._remembered.popitem(last=False)

    def _recall(self, username: str, token: bytes) -> bool:
        # A plain comparison will do: without the key nobody can choose a token, so its timing tells nothing.
        if self._remembered.get(username) != token:
            return False
        self._remembered.move_to_end(username)
        return True

    def _token(self, stored: str, username: str, password: bytes) -> bytes:
        token = hashlib.blake2b(key=self._key, digest_size=16)
        for part in (stored.encode(), username.encode(), password):
            token.update(len(part).to_bytes(4, "big"))
            token.update(part)
        return token.digest()


def verify(stored: str, password: bytes) -> bool:
    """Whether `password` is the one that was hashed; argon2 compares in constant time."""
    try:
        return HASHER.verify(stored, password)
    except VerifyMismatchError:
        return False


def read_users(path: Path) -> dict[str, str]:
    """User → hash. Raises ConfigError that names the file and the line."""
    users: dict[str, str] = {}
    for number, line in enumerate(_read_lines(path), 1):
        if _is_ignored(line):
            continue
        user, _, stored = line.rstrip("\r").rpartition(":")
        complaint = _wrong_with_user(user) or _wrong_with_hash(stored)
        if user in users:
            complaint = f"user {user!r} is there already"
        if complaint:
            raise ConfigError(f"{path}:{number}", complaint)
        users[user] = stored
    return users


def set_password(path: Path, user: str, password: str, *, create: bool, hasher: PasswordHasher = HASHER) -> None:
    """Add or change one user; every other line stays as it is. `create`: the file need not exist yet."""
    for name, complaint in (("user", _wrong_with_user(user)), ("password", _wrong_with_password(password))):
        if complaint:
            raise ConfigError(name, complaint)
    if not create and not path.exists():
        raise ConfigError(str(path), "there is no such file; `mqk passwd --create` makes it")
    lines = _read_lines(path) if path.exists() else [""]
    entry = f"{user}:{hasher.hash(password)}"
    places = [index for index, line in enumerate(lines) if _user_of(line) == user]
    if places:
        lines[places[0]] = entry
    else:
        lines[len(lines) - (lines[-1] == "") :] = [entry, ""]
    _write_lines(path, lines)


def delete_user(path: Path, user: str) -> None:
    """Take one user out; every other line stays as it is. Raises ConfigError when there is no such user."""
    lines = _read_lines(path)
    kept = [line for line in lines if _user_of(line) != user]
    if kept == lines:
        raise ConfigError(str(path), f"there is no user {user!r}")
    _write_lines(path, kept)


def _user_of(line: str) -> str | None:
    # A hash has no colon, a user name may: the last one parts them.
    return None if _is_ignored(line) else line.rpartition(":")[0]


def _is_ignored(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _wrong_with_user(user: str) -> str | None:
    if not user:
        return "a line is user:hash, and a user has a name"
    if user.startswith("#") or user != user.strip() or not user.isprintable():
        return f"user {user!r}: no leading #, no space at either end, only printable characters"
    return None


def _wrong_with_password(password: str) -> str | None:
    if not 1 <= len(password.encode()) <= 65_535:
        return "1 to 65535 bytes, as in MQTT"
    return None


def _wrong_with_hash(stored: str) -> str | None:
    match = _HASH.fullmatch(stored)
    if not match:
        return "after the last colon stands an argon2id hash; `mqk passwd` writes it"
    memory_kib, passes, lanes = (int(match[group]) for group in (2, 3, 4))
    if not (8 <= memory_kib <= ARGON2_MEMORY_KIB_MAX and 1 <= passes <= ARGON2_PASSES_MAX and lanes == 1):
        return f"{match[1]} is out of bounds: m 8 to {ARGON2_MEMORY_KIB_MAX}, t 1 to {ARGON2_PASSES_MAX}, p 1"
    if _decoded_bytes(match[5]) < 8 or _decoded_bytes(match[6]) < 16:
        return "the hash is cut off"
    return None


def _decoded_bytes(text: str) -> int:
    """How many bytes `text` stands for; 0 when argon2 would not write them so, not even with stray bits at the end."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return 0
    return len(decoded) if _encoded(decoded) == text else 0


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoy(users: dict[str, str]) -> str:
    """A hash of nothing that costs what most of the file's hashes cost."""
    costs = Counter(stored.split("$")[3] for stored in users.values())
    cost = costs.most_common(1)[0][0] if costs else f"m={ARGON2_MEMORY_KIB},t={ARGON2_PASSES},p=1"
    return f"$argon2id$v=19${cost}${_encoded(secrets.token_bytes(16))}${_encoded(secrets.token_bytes(32))}"


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode().split("\n")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8: {error.reason} at byte {error.start}") from error


def _write_lines(path: Path, lines: list[str]) -> None:
    """Replace the file in one step, readable by its owner alone, so that a reader sees the old one or the new one."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                # Root may edit the service's file; the service must still be able to read it afterwards.
                os.fchown(file.fileno(), target.stat().st_uid, target.stat().st_gid)
            file.write("\n".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink()
        raise
