"""How a request of `/v1` becomes a call and its answer a response: who asks, what it says, what went wrong.

Which requests there are is in `routes`; each is checked by the models that the document (`openapi`) is made of.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote

from prometheus_client import Counter
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy import limits
from proxy.admin.guard import Guard, Role
from proxy.admin.parts import Parts
from proxy.admin.problems import Problem

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Asked:
    """A request that was found right. `path` are the parts of the path that have a name, decoded; `headers` go with the
    answer.
    """

    who: str
    path: dict[str, str]
    query: Any
    body: Any
    if_match: str | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Endpoint:
    """One request that can be made. Without a model for `answer` it is whatever the handler returns, and with status
    204 nothing. `problems` are the statuses beside those that each request can have.
    """

    method: str
    path: str
    role: Role
    summary: str
    handler: Callable[[Parts, Asked], Awaitable[BaseModel | dict[str, Any] | None]]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    problems: tuple[int, ...] = ()
    takes_if_match: bool = False


class Api:
    """The requests of `endpoints`, worked on by `parts`. `requests` counts answers by their status."""

    def __init__(self, endpoints: Sequence[Endpoint], parts: Parts, guard: Guard, requests: Counter) -> None:
        #: Requests that are being worked on.
        self.working = 0
        self._parts = parts
        self._guard = guard
        self._requests = requests
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        routes = [
            Route(path, partial(self._serve, methods), methods=list(methods)) for path, methods in by_path.items()
        ]
        self.app: ASGIApp = Undecoded(Starlette(routes=routes, exception_handlers={HTTPException: _not_found}))

    async def _serve(self, methods: dict[str, Endpoint], request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        #: What the log says of one that is to change something.
        line: dict[str, object] = {"who": None}
        try:
            line["who"] = who = self._guard.authorize(request.headers, endpoint.role)
            response = await self._answer(endpoint, request, who, line)
        except Problem as problem:
            response = problem.response()
        except Exception:
            log.exception("admin request failed for a bug", extra={"method": request.method, "path": endpoint.path})
            response = Problem(500, "a bug of the proxy's; its log says more").response()
        self._requests.labels(str(response.status_code)).inc()
        if endpoint.role == "write":
            _audit(request, line, response.status_code)
        return response

    async def _answer(self, endpoint: Endpoint, request: Request, who: str, line: dict[str, object]) -> Response:
        if self.working >= limits.ADMIN_REQUESTS_MAX:
            raise Problem(503, "as many requests as may be are being worked on", headers={"Retry-After": "1"})
        self.working += 1
        try:
            asked = Asked(
                who,
                {name: _decoded(value) for name, value in request.path_params.items()},
                _validated(endpoint.query, dict(request.query_params)) if endpoint.query else None,
                _validated(endpoint.body, await _read_body(request)) if endpoint.body else None,
                request.headers.get("if-match"),
            )
            if asked.body is not None:
                # What a device is sent is its own business.
                line["asked"] = asked.body.model_dump(exclude={"payload", "user_properties"}, exclude_none=True)
            answer = await endpoint.handler(self._parts, asked)
            line["outcome"] = getattr(answer, "outcome", None)
        finally:
            self.working -= 1
        if answer is None:
            return Response(status_code=endpoint.status, headers=asked.headers)
        content = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
        return JSONResponse(content, endpoint.status, asked.headers)


def _audit(request: Request, line: dict[str, object], status: int) -> None:
    """One line for everything that was to change something, refused or not."""
    line |= {
        "address": request.client.host if request.client else None,
        "method": request.method,
        "path": request.scope["raw_path"].decode("latin-1"),
        "status": status,
    }
    log.info("admin request", extra={name: value for name, value in line.items() if value is not None})


async def _not_found(_request: Request, error: Exception) -> Response:
    """What Starlette raises: 404, 405."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    detail = "there is no such path" if error.status_code == 404 else "this path does not take that method"
    return Problem(error.status_code, detail, headers=error.headers).response()


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None


async def _read_body(request: Request) -> object:
    """Raises Problem: not JSON, too large, too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body has to be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.ADMIN_BODY_SECONDS_MAX):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.ADMIN_BODY_BYTES_MAX:
                    raise Problem(413, f"a body has {limits.ADMIN_BODY_BYTES_MAX} bytes at the most")
    except TimeoutError:
        raise Problem(408, "the body did not arrive in time") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None


def _validated(model: type[BaseModel], given: object) -> BaseModel:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        errors = [_in_words(each["loc"], each["msg"]) for each in error.errors(include_input=False, include_url=False)]
        raise Problem(422, errors[0], errors=errors) from None


def _in_words(loc: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    where = ".".join(map(str, loc))
    return f"{where}: {text[0].lower()}{text[1:]}" if where else text


class Undecoded:
    """Routes by the path as it was sent: a client identifier may have a `/` in it, which only then is still `%2F`, or
    the end of a line.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "path": scope["raw_path"].decode("latin-1"), "root_path": ""}, receive, send)
