"""The connections of one replica: accepts them, ticks their deadlines, gathers their writes, holds them back.

Back-pressure is here in one place: while Kafka's queue is congested every connection that sends is held, and when it
is relieved they go on, a few in each turn of the event loop. The queue of a further Kafka cluster holds only those that
send to it.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from proxy import limits
from proxy.net.connection import ConnectionHandler, MqttConnection
from proxy.net.doorstep import Doorstep, Network
from proxy.session.events import SessionLimits


class Congestion(Protocol):
    """Who says that no more can be taken."""

    congested: bool


class Listener:
    """All listening sockets of a replica share one. `new_handler` makes what handles a connection's events."""

    def __init__(
        self,
        session_limits: SessionLimits,
        connections_max: int,
        congestion: Congestion,
        new_handler: Callable[[MqttConnection], ConnectionHandler],
    ) -> None:
        self.session_limits = session_limits
        self.congestion = congestion
        self.new_handler = new_handler
        self.connections: set[MqttConnection] = set()
        #: Connections that were refused because there were `connections_max`.
        self.refused = 0
        #: Connections that were dropped because handling them raised what nobody expected.
        self.bugs = 0
        #: Connections that began with a PROXY header and may not, or should have and did not.
        self.headers_refused = 0
        #: How late the last tick was, in seconds.
        self.lag_seconds = 0.0
        self._connections_max = connections_max
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._servers: list[asyncio.Server] = []
        self._to_flush: list[MqttConnection] = []
        #: Longest held first, and whose congestion it is that holds each.
        self._held: dict[MqttConnection, Congestion] = {}
        self._ticker: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, proxies: Sequence[Network] = ()) -> int:
        """Opens one more socket; returns its port. From `proxies` each connection begins with a PROXY header. Raises
        OSError: the address cannot be had.
        """
        server = await self._loop.create_server(
            lambda: Doorstep(MqttConnection(self), proxies),
            host,
            port,
            backlog=limits.LISTEN_BACKLOG,
            reuse_address=True,
        )
        for sock in server.sockets:
            # Accepted sockets inherit it. A 3.x device may have no keep alive, and then nothing else notices its death.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.TCP_KEEPALIVE_IDLE_SECONDS)
        self._servers.append(server)
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def stop_accepting(self) -> None:
        """Closes the listening sockets; connections stay."""
        for server in self._servers:
            server.close()

    def stop(self) -> None:
        """Cuts what is left."""
        self.stop_accepting()
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self.connections):
            connection.abort()

    # ---- called by the connections ----

    def admit(self, connection: MqttConnection) -> bool:
        """False when there are enough."""
        if len(self.connections) >= self._connections_max:
            self.refused += 1
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: MqttConnection) -> None:
        self.connections.discard(connection)
        self._held.pop(connection, None)

    def close_by(self) -> float:
        """When a connection that ends now is cut at the latest."""
        return self.now() + limits.CLOSE_LINGER_SECONDS

    def flush_soon(self, connection: MqttConnection) -> None:
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def hold(self, connection: MqttConnection, congestion: Congestion) -> None:
        """This connection sends to a queue that is congested."""
        if connection not in self._held:
            self._held[connection] = congestion
            connection.protocol.hold()

    def release(self, connection: MqttConnection) -> None:
        self._held.pop(connection, None)

    def relieve(self) -> None:
        """Some queue has room: the connections that it held go on, longest held first, until it is congested again."""
        waiting = (connection for connection, congestion in self._held.items() if not congestion.congested)
        relieved = list(islice(waiting, limits.RESUMES_PER_TURN_MAX))
        for connection in relieved:
            # One that went on may have filled the queue again, or ended another connection.
            congestion = self._held.get(connection)
            if congestion is None or congestion.congested:
                continue
            if self.congestion.congested:
                # A further cluster held it. What holds everybody takes over.
                self._held[connection] = self.congestion
                continue
            del self._held[connection]
            try:
                connection.resume()
            except Exception:
                connection.fail()
        if len(relieved) == limits.RESUMES_PER_TURN_MAX:
            self._loop.call_soon(self.relieve)

    @property
    def held(self) -> int:
        """Connections that back-pressure holds at the moment."""
        return len(self._held)

    # ---- inside ----

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    async def _tick(self) -> None:
        while True:
            due = self.now() + limits.TICK_SECONDS
            await asyncio.sleep(limits.TICK_SECONDS)
            now = self.now()
            self.lag_seconds = max(0.0, now - due)
            for connection in list(self.connections):
                try:
                    connection.tick(now)
                except Exception:
                    connection.fail()
