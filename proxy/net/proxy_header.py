"""The PROXY protocol, versions 1 and 2: what a load balancer says of a connection before the device's own first byte.

Pure. It says whose address it is and, where the balancer ended TLS, whose certificate. The device cannot be told from
anybody else by these bytes, so who may send them is decided elsewhere (`net/doorstep.py`).
"""

import ipaddress
import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy import limits
from proxy.errors import ProxyError

#: What each version begins with; a client of MQTT begins with 0x10.
V1_PREFIX: Final = b"PROXY "
V2_PREFIX: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: The longest line that version 1 can have, with its CRLF.
_V1_BYTES_MAX: Final = 107
#: Version 2: prefix, version and command, family and transport, length of the rest.
_V2_HEAD: Final = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
#: Family and transport, and how long its addresses are: two of them, and ports.
_UNSPECIFIED: Final = 0x00
_ADDRESS_BYTES: Final = {_UNSPECIFIED: 0, 0x11: 12, 0x21: 36, 0x31: 216}
#: How long an address of these families is; others have none that could be told.
_IP_BYTES: Final = {0x11: 4, 0x21: 16}

_TLV: Final = struct.Struct(">BH")
_TLV_SSL: Final = 0x20
_TLV_SSL_CN: Final = 0x22
#: A certificate was shown on this connection, or on an earlier one of its TLS session.
_CERTIFICATE_SHOWN: Final = 0x02 | 0x04
#: Of the SSL TLV: what the client did, and what came of checking its certificate.
_SSL_HEAD: Final = struct.Struct(">BI")

_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}", re.ASCII)


class ProxyHeaderError(ProxyError):
    """These bytes are no PROXY header."""


class ProxyHeader(NamedTuple):
    """`address` is None where the balancer speaks for itself or does not know; `length` are the bytes of the header."""

    address: str | None
    peer_cert_cn: str | None
    length: int


def decode_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None: there is more to come. Raises ProxyHeaderError."""
    if data.startswith(V2_PREFIX[: len(data)]):
        return _decode_v2(data)
    if data.startswith(V1_PREFIX[: len(data)]):
        return _decode_v1(data)
    raise ProxyHeaderError("it does not begin with a PROXY header")


def looks_like_header(data: bytes) -> bool:
    """Whether these first bytes are, as far as they go, those of a header. MQTT begins otherwise: with a CONNECT."""
    return data.startswith((V1_PREFIX[: len(data)], V2_PREFIX[: len(data)]))


def plain_address(address: str) -> str:
    """An address as it is shown: without a zone, and IPv4-mapped IPv6 as IPv4. Raises ValueError."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


# ---- version 1: a line of text ----


def _decode_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_BYTES_MAX)
    if end < 0:
        if len(data) >= _V1_BYTES_MAX:
            raise ProxyHeaderError("version 1: the line does not end")
        return None
    family, *words = data[len(V1_PREFIX) : end].split(b" ")
    if family == b"UNKNOWN":
        return ProxyHeader(None, None, end + 2)
    if family not in {b"TCP4", b"TCP6"} or len(words) != 4:
        raise ProxyHeaderError("version 1: it should be TCP4 or TCP6, two addresses and two ports")
    source, _ = (_v1_address(word, 4 if family == b"TCP4" else 6) for word in words[:2])
    for word in words[2:]:
        if not _PORT.fullmatch(word) or int(word) > 65_535:
            raise ProxyHeaderError("version 1: a port is not a number of 0 to 65535")
    return ProxyHeader(source, None, end + 2)


def _v1_address(word: bytes, version: int) -> str:
    try:
        text = word.decode("ascii")
        if ipaddress.ip_address(text).version == version:
            return plain_address(text)
    except ValueError:
        pass
    raise ProxyHeaderError(f"version 1: an address is not one of IPv{version}")


# ---- version 2: binary ----


def _decode_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, command, family, length = _V2_HEAD.unpack_from(data)
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"version 2: the command 0x{command:02x} does not exist")
    if length > limits.PROXY_HEADER_BYTES_MAX:
        raise ProxyHeaderError(f"version 2: {length} bytes are more than {limits.PROXY_HEADER_BYTES_MAX}")
    end = _V2_HEAD.size + length
    if len(data) < end:
        return None
    if command == _LOCAL:
        return ProxyHeader(None, None, end)
    if family not in _ADDRESS_BYTES:
        raise ProxyHeaderError(f"version 2: 0x{family:02x} is no stream of a known family")
    tlvs = _V2_HEAD.size + _ADDRESS_BYTES[family]
    if tlvs > end:
        raise ProxyHeaderError("version 2: it ends within the addresses")
    packed = data[_V2_HEAD.size : _V2_HEAD.size + _IP_BYTES.get(family, 0)]
    address = plain_address(str(ipaddress.ip_address(packed))) if packed else None
    return ProxyHeader(address, _peer_cert_cn(data[tlvs:end]), end)


def _peer_cert_cn(data: bytes) -> str | None:
    """The common name of the client's certificate, if one was shown and found good. The TLV alone says neither: HAProxy
    sends it without TLS too, and says "verified" where no certificate was asked for.
    """
    for kind, value in _tlvs(data):
        if kind == _TLV_SSL:
            if len(value) < _SSL_HEAD.size:
                raise ProxyHeaderError("version 2: what it says of TLS is too short")
            client, verify = _SSL_HEAD.unpack_from(value)
            names = [name for kind, name in _tlvs(value[_SSL_HEAD.size :]) if kind == _TLV_SSL_CN]
            if names and client & _CERTIFICATE_SHOWN and not verify:
                return _text(names[0])
    return None


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        start = place + _TLV.size
        if start > len(data):
            raise ProxyHeaderError("version 2: it ends within the head of a TLV")
        kind, length = _TLV.unpack_from(data, place)
        place = start + length
        if place > len(data):
            raise ProxyHeaderError("version 2: it ends within a TLV")
        yield kind, data[start:place]


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ProxyHeaderError("version 2: the common name is not UTF-8") from None
