"""Tokens for OAUTHBEARER by client credentials (RFC 6749, 4.4): asked for over HTTP, kept, renewed before they expire.

A token is needed whenever a connection to a broker is opened, and never else.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import httpx
from aiokafka.abc import AbstractTokenProvider

from proxy import limits
from proxy.clock import monotonic
from proxy.kafka.faults import Fault, FaultError

log = logging.getLogger(__name__)

#: What the endpoint answers when it is well, and it is not: asked again these may go better.
_FOR_NOW: Final = {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS}
#: Errors of RFC 6749, 5.2, and the setting that each is about.
_BLAMED: Final[Mapping[str, str]] = {
    "invalid_client": "sasl_oauth_client_secret",
    "unauthorized_client": "sasl_oauth_client_id",
    "invalid_scope": "sasl_oauth_scope",
}


class TokenClient(NamedTuple):
    """Who asks for tokens, and where."""

    endpoint: str
    client_id: str
    client_secret: str
    scope: str | None


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """The token of one client. `count` is told what became of each request: granted, refused or unavailable."""

    def __init__(self, client: TokenClient, trusted: ssl.SSLContext, count: Callable[[str], object]) -> None:
        self._client = client
        self._trusted = trusted
        self._count = count
        self._token = ""
        self._renew_at = float("-inf")
        self._expires_at = float("-inf")
        self._failed: FaultError | None = None
        self._ask_again_at = float("-inf")
        #: Connections that open together share one request.
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """A token that is valid now. Raises FaultError: there is none to be had."""
        async with self._lock:
            if monotonic() >= self._renew_at:
                await self._renew()
            if monotonic() >= self._expires_at and self._failed:
                raise self._failed
            return self._token

    async def _renew(self) -> None:
        if monotonic() < self._ask_again_at:
            return
        try:
            token, seconds = await self._request()
        except FaultError as error:
            self._failed = error
            self._ask_again_at = monotonic() + limits.RETRY_SECONDS
            self._count("refused" if error.fault.final else "unavailable")
            log.warning("no token", extra={"error": str(error)})
            return
        now = monotonic()
        self._token, self._failed = token, None
        self._renew_at = now + seconds * limits.TOKEN_RENEWAL_SHARE
        self._expires_at = now + seconds
        self._count("granted")

    async def _request(self) -> tuple[str, float]:
        client = self._client
        form = {"grant_type": "client_credentials"} | ({"scope": client.scope} if client.scope else {})
        # Encoded before they are joined, RFC 6749, 2.3.1.
        login = httpx.BasicAuth(quote_plus(client.client_id), quote_plus(client.client_secret))
        try:
            async with (
                asyncio.timeout(limits.TOKEN_REQUEST_SECONDS_MAX),
                httpx.AsyncClient(verify=self._trusted) as http,
            ):
                response = await http.post(client.endpoint, data=form, auth=login)
        except (httpx.HTTPError, TimeoutError) as error:
            untrusted = isinstance(_first_cause(error), ssl.SSLCertVerificationError)
            raise self._fault(f"{type(error).__name__} {error}".rstrip(), final=untrusted) from error
        return self._read(response)

    def _read(self, response: httpx.Response) -> tuple[str, float]:
        """The token and the seconds that it lives."""
        status, said = response.status_code, _json(response)
        if status != httpx.codes.OK:
            code, description = str(said.get("error", "")), str(said.get("error_description", ""))
            why = " ".join(word for word in (f"HTTP {status}", code, description) if word)[: limits.PEER_WORDS_MAX]
            blamed = _BLAMED.get(code, "sasl_oauth_client_secret" if status == httpx.codes.UNAUTHORIZED else "")
            final = status < httpx.codes.INTERNAL_SERVER_ERROR and status not in _FOR_NOW
            raise self._fault(why, blamed or "sasl_oauth_token_endpoint", final=final)
        token, seconds = said.get("access_token"), said.get("expires_in") or limits.TOKEN_SECONDS_DEFAULT
        try:
            # Some endpoints write the number as a text.
            if isinstance(token, str) and token:
                return token, float(seconds)
        except (TypeError, ValueError):
            pass
        raise self._fault("the answer holds no token, or no life of it in seconds", final=True)

    def _fault(self, why: str, setting: str = "sasl_oauth_token_endpoint", *, final: bool) -> FaultError:
        return FaultError(Fault(setting, f"no token from {self._client.endpoint}: {why}", final))


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _first_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
