"""Who may ask what: bearer tokens, of which only the SHA-256 is known here.

Without any token the API is open, and then it listens on a loopback address only. A browser on that machine is no
operator: what a page of somebody else makes it send is refused.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from proxy.admin.problems import Problem
from proxy.net.addresses import is_loopback

Role = Literal["read", "write"]

#: Who it was when there are no tokens.
ANYBODY: Final = "loopback"


@dataclass(slots=True, frozen=True)
class Token:
    """`write` may do everything that `read` may. `sha256` in lower-case hexadecimal digits."""

    name: str
    role: Role
    sha256: str


class Guard:
    """Compares what comes with what is known."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens

    def authorize(self, headers: Mapping[str, str], role: Role) -> str:
        """The name of who asks. Raises Problem: 401, 403."""
        if not self._tokens:
            _check_origin(headers)
            return ANYBODY
        token = self._find(headers.get("authorization", ""))
        if token is None:
            said = 'Bearer realm="mqk"' + (', error="invalid_token"' if "authorization" in headers else "")
            raise Problem(401, "a bearer token of [[admin.tokens]] is needed", headers={"WWW-Authenticate": said})
        if role == "write" and token.role != "write":
            said = 'Bearer realm="mqk", error="insufficient_scope"'
            raise Problem(403, f"token {token.name} may only read", headers={"WWW-Authenticate": said})
        return token.name

    def _find(self, authorization: str) -> Token | None:
        """Compares with every token, so that the time tells nothing."""
        scheme, _, secret = authorization.partition(" ")
        digest = hashlib.sha256(secret.strip().encode("latin-1", "replace")).hexdigest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found if scheme.lower() == "bearer" else None


def _check_origin(headers: Mapping[str, str]) -> None:
    """A page may send to us (`Origin`), and its name may be made to mean this machine (`Host`). Raises Problem."""
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not is_loopback(name):
        raise Problem(403, "without [[admin.tokens]] only a loopback address may be asked")
    if "origin" in headers and urlsplit(headers["origin"]).netloc != host:
        raise Problem(403, "a page of another origin may not ask")
