"""One socket: feeds the session, writes what it says, hands its events to the handler, and knows when not to read."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol, cast

from proxy import limits
from proxy.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe
from proxy.net.proxy_header import ProxyHeader, plain_address
from proxy.session.events import Acknowledged, Completed, EndReason, Event, Heard
from proxy.session.protocol import ServerProtocol

if TYPE_CHECKING:
    from proxy.net.listener import Congestion, Listener

log = logging.getLogger(__name__)

#: Ends after which nothing of the peer's is on its way: it said so, or has been silent.
_PEER_IS_DONE: Final = frozenset({EndReason.NORMAL, EndReason.TCP_CLOSED, EndReason.KEEPALIVE_TIMEOUT})


class ConnectionHandler(Protocol):
    """What the product does with one connection. Each call is short and never waits."""

    def on_connect(self, connect: Connect) -> None: ...
    def on_publish(self, publish: Publish) -> None: ...
    def on_subscribe(self, subscribe: Subscribe) -> None: ...
    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None: ...
    def on_acknowledged(self, acknowledged: Acknowledged) -> None: ...
    def on_heard(self) -> None: ...
    def on_room(self) -> None:
        """More can be sent: the device has read what was written, or there is room in its window."""
        ...

    def on_end(self) -> None:
        """Called once, as soon as the session is over; why is in the protocol's `end`."""
        ...


class MqttConnection(asyncio.Protocol):
    """The thin shell around `ServerProtocol`. Made by a `Listener`."""

    __slots__ = (
        "_ended", "_failed", "_flush_wanted", "_handler", "_listener", "_reading", "_transport", "_write_paused",
        "close_by", "forwarded", "protocol",
    )  # fmt: skip

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._write_paused = False
        self._flush_wanted = False
        self._ended = False
        self._failed = False
        #: When a connection that is over is cut, should the peer not have read its last bytes or go on sending.
        self.close_by = float("inf")
        #: What the load balancer said of the device, when it came through one.
        self.forwarded: ProxyHeader | None = None
        self.protocol = ServerProtocol(listener.session_limits, listener.now())
        self._handler: ConnectionHandler = listener.new_handler(self)

    @property
    def address(self) -> str:
        """The device's IP address, as far as it is known; IPv4-mapped IPv6 is shown as IPv4."""
        if self.forwarded is not None and self.forwarded.address is not None:
            return self.forwarded.address
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return plain_address(peer[0]) if peer else ""

    @property
    def peer_cert_cn(self) -> str | None:
        """The common name of the device's certificate, which whoever ended TLS has verified."""
        return self.forwarded.peer_cert_cn if self.forwarded is not None else None

    # ---- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(limits.WRITE_BUFFER_BYTES_MAX)
        if not self._listener.admit(self):
            self._ended = True
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        listener = self._listener
        if listener.congestion.congested:
            listener.hold(self, listener.congestion)
        try:
            self._dispatch(self.protocol.receive_data(data, listener.now()))
        except Exception:
            self.fail()
        else:
            self.flush()

    def eof_received(self) -> bool:
        if not self._ended:
            self.deliver(self.protocol.receive_eof())
        return not self._ended  # Only what a device sent before it had its CONNACK keeps our side open.

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self)
        if not self._ended:
            self.deliver(self.protocol.connection_lost())
            # Nothing is left to do unless what was set aside could not be handled.
            self._end()
        self._transport = None

    def pause_writing(self) -> None:
        """The device does not read: we stop reading too, so that no more answers pile up."""
        self._write_paused = True
        self._update_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._update_reading()
        if not self._ended:
            try:
                self._handler.on_room()
            except Exception:
                self.fail()

    @property
    def writable(self) -> bool:
        """False while what was written waits for the device to read it."""
        return not self._write_paused

    @property
    def unread_bytes(self) -> int:
        """What was written and lies here, because the device does not read it."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def count_refused_header(self) -> None:
        """What came before its first byte was no PROXY header, or a forged one."""
        self._listener.headers_refused += 1

    # ---- called by the listener and the handler ----

    def tick(self, now: float) -> None:
        """Looks at the deadlines."""
        if self._ended:
            if now >= self.close_by:
                self.abort()
        elif self.protocol.next_deadline <= now:
            self.protocol.tick(now)
            self.flush()

    def hold_for(self, congestion: "Congestion") -> None:
        """This connection has sent to a further Kafka cluster whose queue is congested: no PUBLISH is taken from it
        until there is room. The congestion of the first cluster concerns everybody, and is seen before reading.
        """
        if not self._ended:
            self._listener.hold(self, congestion)

    def resume(self) -> None:
        """Back-pressure is over for this connection."""
        if not self._ended:
            self.deliver(self.protocol.resume(self._listener.now()))

    def fail(self) -> None:
        """A bug of ours, called where it was caught: this connection is dropped, the others never notice."""
        log.exception("connection dropped for a bug", extra={"address": self.address})
        if not self._failed:
            self._failed = True
            self._listener.bugs += 1
        self.abort()

    def abort(self) -> None:
        """Cuts the connection."""
        if self._transport is not None:
            self._transport.abort()

    def deliver(self, events: list[Event]) -> None:
        """Handles events that came from calling the protocol, not from the socket, and writes."""
        try:
            self._dispatch(events)
        except Exception:
            self.fail()
        else:
            self.flush()

    def flush_soon(self) -> None:
        """Writes once at the end of this turn of the event loop, however often it is asked."""
        if not self._flush_wanted and not self._ended:
            self._flush_wanted = True
            self._listener.flush_soon(self)

    def flush(self) -> None:
        """Writes what the session has to say and follows its wishes: close, go on, read or not."""
        self._flush_wanted = False
        if self._ended:
            return
        protocol = self.protocol
        try:
            self._write()
            if protocol.undisturbed and self._reading:
                return
            while protocol.resumable:
                self._dispatch(protocol.resume(self._listener.now()))
                self._write()
            if protocol.close_expected:
                self._end()
            else:
                self._update_reading()
        except Exception:
            self.fail()

    # ---- inside ----

    def _dispatch(self, events: list[Event]) -> None:
        handler = self._handler
        for event in events:
            if type(event) is Publish:
                handler.on_publish(event)
            elif isinstance(event, Connect):
                handler.on_connect(event)
            elif isinstance(event, Subscribe):
                handler.on_subscribe(event)
            elif isinstance(event, Unsubscribe):
                handler.on_unsubscribe(event)
            elif isinstance(event, Acknowledged):
                handler.on_acknowledged(event)
            elif isinstance(event, Heard):
                handler.on_heard()
            elif isinstance(event, Completed):
                handler.on_room()

    def _write(self) -> None:
        data = self.protocol.data_to_send()
        # uvloop raises on writing to a transport that has closed meanwhile.
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(data) if len(data) > 1 else data[0])

    def _update_reading(self) -> None:
        want = self.protocol.want_read and not self._write_paused
        if want is self._reading or self._ended or self._transport is None:
            return
        self._reading = want
        if want:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._listener.release(self)
        self._handler.on_end()
        if self._transport is not None:
            self.close_by = self._listener.close_by()
            if self.protocol.end in _PEER_IS_DONE or not self._transport.can_write_eof():
                self._transport.close()
            else:
                self._close_when_read(self._transport)

    def _close_when_read(self, transport: asyncio.Transport) -> None:
        """Says no more, and closes when the peer has closed too. The kernel answers what arrives at a closed socket, or
        lies unread in it, with a reset, and a reset takes our last bytes away from a peer that has not read them yet.
        """
        transport.write_eof()
        if not self._reading:
            transport.resume_reading()
