"""The operator's door: health and metrics here, `/v1` in `api`. Each answer is read from the running parts when it is
asked for.

`/livez`: the event loop turns. `/readyz`: this replica works; it says so in a Kafka outage too, because a load balancer
cuts every connection of a replica that is not ready. `/healthz`: the truth, check by check, for people and alerts.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import proxy
from proxy import limits
from proxy.admin.api import Undecoded
from proxy.admin.dashboard import show_dashboard
from proxy.errors import ConfigError


@dataclass(slots=True, frozen=True)
class Check:
    """One thing that can be wrong, and how it is at the moment."""

    ok: bool
    detail: object


@dataclass(slots=True, frozen=True)
class Views:
    """What the endpoints show."""

    ready: Callable[[], Check]
    checks: Callable[[], dict[str, Check]]
    metrics: Callable[[], bytes]


def make_app(views: Views, api: ASGIApp | None = None) -> Starlette:
    """`api` answers everything under `/v1`."""

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        check = views.ready()
        return PlainTextResponse(f"{check.detail}\n", 200 if check.ok else 503)

    async def healthz(_request: Request) -> Response:
        checks = views.checks()
        healthy = all(check.ok for check in checks.values())
        body = {
            "status": "ok" if healthy else "failing",
            "version": proxy.__version__,
            "checks": {name: {"ok": check.ok, "detail": check.detail} for name, check in checks.items()},
        }
        return JSONResponse(body, 200 if healthy else 503)

    async def metrics(_request: Request) -> Response:
        return Response(views.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/", show_dashboard),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            *([Mount("/v1", api)] if api is not None else ()),
        ],
        middleware=[Middleware(Undecoded)],
    )


class AdminServer(uvicorn.Server):
    """An HTTP server on the event loop that everything else runs on. Signals stay with the process."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                ws="none",
                http="h11",
                h11_max_incomplete_event_size=limits.ADMIN_HEAD_BYTES_MAX,
                timeout_graceful_shutdown=limits.ADMIN_STOP_SECONDS_MAX,
            )
        )
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ConfigError("admin.bind", f"cannot listen on {host}:{port}: {error.strerror}") from None

    @property
    def port(self) -> int:
        """The port that is listened on, also when any was asked for."""
        port: int = self._socket.getsockname()[1]
        return port

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_stopped(self) -> None:
        """Serves until `should_exit` is set."""
        await self.serve(sockets=[self._socket])
