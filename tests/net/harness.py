"""A listener with handlers that only take notes."""

from typing import Any

from proxy.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe
from proxy.net.connection import MqttConnection
from proxy.net.listener import Listener
from proxy.session.events import Acknowledged, Grant, SessionLimits
from tests.support.fakes import Clock, FakeTransport


class Handler:
    """Accepts every CONNECT, keeps what it is given, and raises where a test wants it to."""

    def __init__(self, connection: MqttConnection) -> None:
        self.connection = connection
        self.published: list[Publish] = []
        self.ends = 0
        self.heard = 0
        self.acknowledged: list[Acknowledged] = []
        #: How often it was told that more can be sent.
        self.rooms = 0
        self.raises_in = ""

    def on_connect(self, connect: Connect) -> None:
        self._enter("on_connect")
        self.connection.deliver(self.connection.protocol.accept_connect(Grant()))

    def on_publish(self, publish: Publish) -> None:
        self._enter("on_publish")
        self.published.append(publish)

    def on_subscribe(self, subscribe: Subscribe) -> None:
        self._enter("on_subscribe")

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        self._enter("on_unsubscribe")

    def on_acknowledged(self, acknowledged: Acknowledged) -> None:
        self.acknowledged.append(acknowledged)
        self._enter("on_acknowledged")

    def on_room(self) -> None:
        self.rooms += 1
        self._enter("on_room")

    def on_heard(self) -> None:
        self.heard += 1
        self._enter("on_heard")

    def on_end(self) -> None:
        self.ends += 1
        self._enter("on_end")

    def _enter(self, place: str) -> None:
        if self.raises_in == place:
            raise ValueError(f"raised in {place}")


class Congestion:
    def __init__(self) -> None:
        self.congested = False


class Net:
    """A listener and whoever connects to it."""

    def __init__(self, receive_maximum: int = 128, connections_max: int = 100) -> None:
        self.congestion = Congestion()
        self.handlers: list[Handler] = []
        #: How many connections the test drops for a bug; the fixture looks at the end.
        self.bugs_wanted = 0
        #: Where the handlers of connections that come from now on raise.
        self.raises_in = ""
        limits = SessionLimits(
            connect_timeout_seconds=10, keep_alive_max_seconds=60, publish_bytes_max=100_000,
            receive_maximum=receive_maximum, topic_alias_maximum=0,
        )  # fmt: skip
        self.listener = Listener(limits, connections_max, self.congestion, self._new_handler)

    def stop_the_clock(self) -> Clock:
        self.listener.now = clock = Clock()
        return clock

    def attach(self, peer: tuple[Any, ...] | None = ("10.0.0.1", 40_000)) -> tuple[MqttConnection, FakeTransport]:
        """A connection on a socket that the test plays."""
        connection = MqttConnection(self.listener)
        return connection, FakeTransport(connection, peer)

    def _new_handler(self, connection: MqttConnection) -> Handler:
        handler = Handler(connection)
        handler.raises_in = self.raises_in
        self.handlers.append(handler)
        return handler
