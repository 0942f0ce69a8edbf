"""What stands between a socket and its `MqttConnection` until it is known through whom the device came.

From the addresses in `listeners.proxy_protocol_from` each connection has to begin with a PROXY header; from any other
address none may, or anybody could choose the address and the certificate that `status` shows and rules go by. Once that
is settled the connection has the socket to itself. Until then its own timeout, that of CONNECT, is running.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from typing import cast

from proxy.net.connection import MqttConnection
from proxy.net.proxy_header import ProxyHeaderError, decode_proxy_header, looks_like_header

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Doorstep(asyncio.Protocol):
    """The first bytes of one connection."""

    __slots__ = ("_connection", "_data", "_from_proxy", "_proxies", "_transport")

    def __init__(self, connection: MqttConnection, proxies: Sequence[Network]) -> None:
        self._connection = connection
        self._proxies = proxies
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connection.connection_made(transport)
        self._from_proxy = is_among(self._connection.address, self._proxies) if self._proxies else False

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if not self._from_proxy:
            if looks_like_header(data):
                self._refuse("a PROXY header from an address that listeners.proxy_protocol_from does not name")
            else:
                self._transport.set_protocol(connection)
                connection.data_received(data)
            return
        self._data += data
        try:
            header = decode_proxy_header(self._data)
        except ProxyHeaderError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._transport.set_protocol(connection)
            connection.forwarded = header
            if len(self._data) > header.length:
                connection.data_received(self._data[header.length :])

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def _refuse(self, detail: str) -> None:
        connection = self._connection
        connection.count_refused_header()
        log.warning("proxy header refused", extra={"address": connection.address, "detail": detail})
        connection.abort()


def is_among(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address, as it is shown, is in one of these networks."""
    if not address:
        return False
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in networks)
