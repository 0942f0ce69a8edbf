"""Rules, password files and the ACL file, read again while devices stay: all of it holds, or nothing changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from proxy.errors import ProxyError
from proxy.flows.uplink import Uplink
from proxy.metrics import Metrics
from proxy.policy.routes import RouteTable

log = logging.getLogger(__name__)


class File(Protocol):
    """A file whose content is in force."""

    def read_again(self) -> Callable[[], None]:
        """Read it; what is returned puts it in force. Raises ConfigError when it is not right."""


class Reloader:
    """What SIGHUP does. `read` returns the rules as they are written now; `prepare` sees to it that their topics are
    there. Both raise ProxyError when the rules cannot be used.
    """

    def __init__(
        self,
        uplink: Uplink,
        files: Sequence[File],
        read: Callable[[], RouteTable],
        prepare: Callable[[RouteTable], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._uplink = uplink
        self._files = files
        self._read = read
        self._prepare = prepare
        self._reloads = metrics.reloads

    async def reload(self) -> bool:
        """Whether the new files are in force; if not the log says why, and the old ones stay."""
        try:
            # In a thread: ten thousand rules take most of a second, and devices want their answers.
            routes = await asyncio.to_thread(self._read)
            accept = [await asyncio.to_thread(file.read_again) for file in self._files]
            await self._prepare(routes)
        except ProxyError as error:
            self._reloads.labels("refused").inc()
            log.error("reload refused: what was in force stays", extra={"error": str(error)})
            return False
        for each in accept:
            each()
        self._uplink.use_routes(routes)
        self._reloads.labels("applied").inc()
        log.info("reloaded", extra={"rules": len(routes.rules), "files": len(self._files)})
        return True
