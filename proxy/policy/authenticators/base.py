"""What every authenticator is: the login it is shown, the answers it may give, and the chain that asks in order.

No socket, no packet and no setting is known here; a login is plain values.
"""

from collections.abc import Sequence
from typing import Protocol


class Login:
    """What a device shows of itself in CONNECT, and where it comes from."""

    __slots__ = ("address", "client_id", "password", "peer_cert_cn", "username")

    def __init__(
        self, client_id: str, username: str | None, password: bytes | None, address: str, peer_cert_cn: str | None
    ) -> None:
        self.client_id = client_id
        self.username = username
        self.password = password
        self.address = address
        self.peer_cert_cn = peer_cert_cn


class Authenticator(Protocol):
    """One way of telling who a device is. True: it may come in, False: it may not, None: somebody else must say."""

    def passes_on(self, login: Login) -> bool:
        """Whether it is certain, without asking anybody, that this one has nothing to say about `login`."""

    def cached(self, login: Login) -> bool | None:
        """The answer when it is known without waiting; None when `authenticate` has to be asked."""

    async def authenticate(self, login: Login) -> bool | None:
        """The answer. Raises AuthError when there cannot be one now, which is not the device's fault."""

    def forget(self, username: str | None) -> None:
        """Ask anew about this user, about everybody if None: what is remembered of logins no longer counts."""

    def close(self) -> None:
        """Let go of threads and connections; nothing is asked afterwards."""


class Chain:
    """Asks the authenticators in order; when all pass on, `anonymous` is the answer."""

    def __init__(self, authenticators: Sequence[Authenticator], *, anonymous: bool) -> None:
        self.authenticators = tuple(authenticators)
        self._anonymous = anonymous

    def cached(self, login: Login) -> bool | None:
        """The answer when it is known without waiting: a fleet that reconnects at once is let in by this alone."""
        for authenticator in self.authenticators:
            if not authenticator.passes_on(login):
                return authenticator.cached(login)
        return self._anonymous

    async def authenticate(self, login: Login) -> bool:
        """Whether the device may come in. Raises AuthError when nobody can say now."""
        for authenticator in self.authenticators:
            answer = await authenticator.authenticate(login)
            if answer is not None:
                return answer
        return self._anonymous

    def forget(self, username: str | None) -> None:
        """The next login of this user is checked again; None: everybody's."""
        for authenticator in self.authenticators:
            authenticator.forget(username)

    def close(self) -> None:
        for authenticator in self.authenticators:
            authenticator.close()
