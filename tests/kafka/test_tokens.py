"""Tokens by client credentials: how they are asked for, kept and renewed, and what is said when there is none."""

import asyncio
import base64
import json
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from proxy import limits
from proxy.kafka import tokens
from proxy.kafka.faults import FaultError
from proxy.kafka.tokens import TokenClient, TokenProvider
from tests.support.processes import free_port
from tests.support.token_endpoint import TokenEndpoint


class Clock:
    """Stands for the monotonic one of `tokens`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tokens, "monotonic", clock)
    return clock


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[TokenEndpoint]:
    with TokenEndpoint(tmp_path) as endpoint:
        yield endpoint


class Asking:
    """A provider, and what it counted."""

    def __init__(self, url: str, scope: str | None = None) -> None:
        self.counted: Counter[str] = Counter()
        client = TokenClient(url, "client: ä", "s%cret+/= &", scope)
        self.provider = TokenProvider(
            client, ssl.create_default_context(), lambda result: self.counted.update([result])
        )

    async def token(self) -> str:
        return await self.provider.token()

    async def refused(self) -> tuple[str, str, bool]:
        with pytest.raises(FaultError) as raised:
            await self.token()
        return raised.value.fault


async def test_a_token_is_asked_for_as_the_standard_says(endpoint: TokenEndpoint) -> None:
    asking = Asking(endpoint.url, "produce read")
    assert (await asking.token()).count(".") == 2
    ((form, authorization),) = endpoint.requests
    assert parse_qs(form) == {"grant_type": ["client_credentials"], "scope": ["produce read"]}
    scheme, _, login = authorization.partition(" ")
    assert (scheme, base64.b64decode(login)) == ("Basic", b"client%3A+%C3%A4:s%25cret%2B%2F%3D+%26")
    await Asking(endpoint.url).token()
    assert parse_qs(endpoint.requests[1][0]) == {"grant_type": ["client_credentials"]}


async def test_connections_that_open_together_share_a_request(endpoint: TokenEndpoint, clock: Clock) -> None:
    asking = Asking(endpoint.url)
    found = set(await asyncio.gather(*(asking.token() for _ in range(20))))
    clock.now += 3600 * limits.TOKEN_RENEWAL_SHARE - 1
    assert found == {await asking.token()}
    assert len(endpoint.requests) == 1
    assert asking.counted == {"granted": 1}


async def test_a_token_is_renewed_before_it_expires(endpoint: TokenEndpoint, clock: Clock) -> None:
    asking = Asking(endpoint.url)
    await asking.token()
    clock.now += 3600 * limits.TOKEN_RENEWAL_SHARE
    await asking.token()
    assert asking.counted == {"granted": 2}


async def test_a_token_that_is_valid_outlasts_an_endpoint_that_is_away(endpoint: TokenEndpoint, clock: Clock) -> None:
    asking = Asking(endpoint.url)
    first = await asking.token()
    with endpoint.answering(503):
        clock.now += 3599.5
        assert await asking.token() == first
        clock.now += 0.5
        assert (await asking.refused()).setting == "sasl_oauth_token_endpoint"
        clock.now += limits.RETRY_SECONDS
        await asking.refused()
    assert asking.counted == {"granted": 1, "unavailable": 2}
    clock.now += limits.RETRY_SECONDS
    assert await asking.token()


async def test_an_endpoint_that_refuses_is_not_asked_without_pause(endpoint: TokenEndpoint, clock: Clock) -> None:
    asking = Asking(endpoint.url)
    with endpoint.answering(401):
        for _ in range(10):
            await asking.refused()
        assert len(endpoint.requests) == 1
        clock.now += limits.RETRY_SECONDS
        await asking.refused()
    assert len(endpoint.requests) == 2
    assert asking.counted == {"refused": 2}


@pytest.mark.parametrize(
    ("status", "body", "setting", "final", "words"),
    [
        (401, b"", "sasl_oauth_client_secret", True, "HTTP 401"),
        (400, b'{"error": "invalid_client"}', "sasl_oauth_client_secret", True, "HTTP 400 invalid_client"),
        (400, b'{"error": "unauthorized_client"}', "sasl_oauth_client_id", True, "unauthorized_client"),
        (400, b'{"error": "invalid_scope", "error_description": "no."}', "sasl_oauth_scope", True, "invalid_scope no."),
        (404, b"<html>", "sasl_oauth_token_endpoint", True, "HTTP 404"),
        (302, b"", "sasl_oauth_token_endpoint", True, "HTTP 302"),
        (429, b"", "sasl_oauth_token_endpoint", False, "HTTP 429"),
        (503, b"[]", "sasl_oauth_token_endpoint", False, "HTTP 503"),
        (200, b"<html>", "sasl_oauth_token_endpoint", True, "holds no token"),
        (200, b'{"access_token": ""}', "sasl_oauth_token_endpoint", True, "holds no token"),
        (200, b'{"access_token": "a", "expires_in": "soon"}', "sasl_oauth_token_endpoint", True, "no life of it"),
    ],
)
async def test_what_the_endpoint_says_names_a_setting(
    endpoint: TokenEndpoint, status: int, body: bytes, setting: str, final: bool, words: str
) -> None:
    asking = Asking(endpoint.url)
    with endpoint.answering(status, body):
        fault = await asking.refused()
    assert (fault.setting, fault.final) == (setting, final)
    assert words in fault.message
    assert "s%cret" not in fault.message
    assert asking.counted == {"refused" if final else "unavailable": 1}


@pytest.mark.parametrize(("life", "seconds"), [({}, limits.TOKEN_SECONDS_DEFAULT), ({"expires_in": "60"}, 60)])
async def test_a_life_that_is_not_said_is_short(
    endpoint: TokenEndpoint, clock: Clock, life: dict[str, str], seconds: int
) -> None:
    asking = Asking(endpoint.url)
    with endpoint.answering(200, json.dumps({"access_token": "opaque", **life}).encode()):
        assert await asking.token() == "opaque"
        clock.now += seconds * limits.TOKEN_RENEWAL_SHARE - 0.1
        await asking.token()
        assert asking.counted["granted"] == 1
        clock.now += 0.1
        await asking.token()
        assert asking.counted["granted"] == 2


async def test_what_a_peer_says_at_length_is_cut(endpoint: TokenEndpoint) -> None:
    with endpoint.answering(400, json.dumps({"error_description": "x" * 10_000}).encode()):
        assert len((await Asking(endpoint.url).refused()).message) < limits.PEER_WORDS_MAX + 100


async def test_an_endpoint_that_is_not_there_may_come() -> None:
    fault = await Asking(f"http://127.0.0.1:{free_port()}/").refused()
    assert (fault.setting, fault.final) == ("sasl_oauth_token_endpoint", False)
    assert "ConnectError" in fault.message


async def test_an_endpoint_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKEN_REQUEST_SECONDS_MAX", 0.1)
    met = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await met.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        fault = await Asking(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/").refused()
    finally:
        met.set()
        server.close()
        await server.wait_closed()
    assert (fault.setting, fault.final) == ("sasl_oauth_token_endpoint", False)
    assert "TimeoutError" in fault.message
