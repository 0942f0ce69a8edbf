"""PROXY headers, versions 1 and 2: what they say, what is refused, and that any split of the bytes says the same."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.net.proxy_header import ProxyHeader, ProxyHeaderError, decode_proxy_header, looks_like_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
TCP4, TCP6, UNIX, UDP4, UNSPECIFIED = 0x11, 0x21, 0x31, 0x12, 0x00
LOCAL, PROXY = 0x20, 0x21
FOUR = bytes([10, 1, 2, 3]) + bytes([10, 0, 0, 1]) + struct.pack(">HH", 40_000, 1883)
SIX = ipaddress.IPv6Address("2001:db8::9").packed + ipaddress.IPv6Address("2001:db8::1").packed + bytes(4)
MAPPED = ipaddress.IPv6Address("::ffff:10.1.2.3").packed * 2 + bytes(4)
#: What HAProxy 2.6.12 sends with `proxy-v2-options ssl,cert-cn,unique-id`.
WITH_CERTIFICATE = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100397f0000017f000001a7606979050010364230333643333430303030344336392000170700000000"
    "210007544c5376312e332200056465762d31"
)
WITHOUT_CERTIFICATE = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100317f0000017f000001a76c697905001036423033364333343030303134433639"
    "20000f0100000000210007544c5376312e33"
)
WITHOUT_TLS = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100277f0000017f000001b66e697a050010364230333643333530303032344336392000050000000000"
)


def version2(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(rest) if length is None else length) + rest


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def tls(client: int, verify: int, *inner: bytes) -> bytes:
    return tlv(0x20, struct.pack(">BI", client, verify) + b"".join(inner))


def said(data: bytes) -> tuple[str | None, str | None]:
    """Address and common name of a whole header."""
    header = decode_proxy_header(data)
    assert header is not None
    assert header.length == len(data)
    return header.address, header.peer_cert_cn


CN = tlv(0x22, "gerät-1".encode())
GOOD = {
    b"PROXY TCP4 10.1.2.3 10.0.0.1 40000 1883\r\n": ("10.1.2.3", None),
    b"PROXY TCP6 2001:db8::9 2001:db8::1 0 65535\r\n": ("2001:db8::9", None),
    b"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 1\r\n": ("10.1.2.3", None),
    b"PROXY UNKNOWN\r\n": (None, None),
    b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n": (None, None),
    version2(PROXY, TCP4, FOUR): ("10.1.2.3", None),
    version2(PROXY, TCP6, SIX): ("2001:db8::9", None),
    version2(PROXY, TCP6, MAPPED): ("10.1.2.3", None),
    version2(PROXY, UNIX, bytes(216)): (None, None),
    version2(PROXY, UNSPECIFIED, b""): (None, None),
    version2(LOCAL, UNSPECIFIED, b""): (None, None),
    version2(LOCAL, TCP4, FOUR + b"\xff"): (None, None),
    version2(PROXY, TCP4, FOUR + tlv(0x05, b"id") + tlv(0xEE, b"")): ("10.1.2.3", None),
    version2(PROXY, TCP4, FOUR + tlv(0x04, bytes(limits.PROXY_HEADER_BYTES_MAX - 15))): ("10.1.2.3", None),
    # A certificate on this connection, on an earlier one of its session, without TLS, without a certificate, bad.
    version2(PROXY, TCP4, FOUR + tls(0x03, 0, CN)): ("10.1.2.3", "gerät-1"),
    version2(PROXY, TCP4, FOUR + tls(0x05, 0, tlv(0x21, b"TLSv1.3"), CN)): ("10.1.2.3", "gerät-1"),
    version2(PROXY, UNSPECIFIED, tls(0x07, 0, CN)): (None, "gerät-1"),
    version2(PROXY, TCP4, FOUR + tls(0x00, 0)): ("10.1.2.3", None),
    version2(PROXY, TCP4, FOUR + tls(0x01, 0, CN)): ("10.1.2.3", None),
    version2(PROXY, TCP4, FOUR + tls(0x03, 1, CN)): ("10.1.2.3", None),
    version2(PROXY, TCP4, FOUR + tls(0x03, 0, tlv(0x21, b"TLSv1.3"))): ("10.1.2.3", None),
    version2(LOCAL, TCP4, FOUR + tls(0x03, 0, CN)): (None, None),
}

BAD = {
    b"GET / HTTP/1.1\r\n": "does not begin with",
    b"\x10\x0c\x00\x04MQTT": "does not begin with",
    b"PROXY TCP5 10.1.2.3 10.0.0.1 1 1\r\n": "TCP4 or TCP6",
    b"PROXY TCP4 10.1.2.3 10.0.0.1 1\r\n": "TCP4 or TCP6",
    b"PROXY TCP4 10.1.2.3 10.0.0.1 1 1 1\r\n": "TCP4 or TCP6",
    b"PROXY TCP4  10.1.2.3 10.0.0.1 1 1\r\n": "TCP4 or TCP6",
    b"PROXY TCP4 2001:db8::9 10.0.0.1 1 1\r\n": "not one of IPv4",
    b"PROXY TCP4 10.1.2.3 10.0.0.256 1 1\r\n": "not one of IPv4",
    b"PROXY TCP6 10.1.2.3 ::1 1 1\r\n": "not one of IPv6",
    b"PROXY TCP4 10.1.2.\xb2 10.0.0.1 1 1\r\n": "not one of IPv4",
    b"PROXY TCP4 10.1.2.3 10.0.0.1 65536 1\r\n": "port",
    b"PROXY TCP4 10.1.2.3 10.0.0.1 1 -1\r\n": "port",
    b"PROXY TCP4 10.1.2.3 10.0.0.1 01 1\r\n": "port",
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n": "does not end",
    version2(0x22, TCP4, FOUR): "command 0x22",
    version2(0x11, TCP4, FOUR): "command 0x11",
    version2(PROXY, UDP4, FOUR): "0x12 is no stream",
    version2(PROXY, 0x41, FOUR): "0x41 is no stream",
    version2(PROXY, TCP4, FOUR[:-1]): "within the addresses",
    version2(PROXY, TCP6, FOUR): "within the addresses",
    version2(PROXY, TCP4, b"", limits.PROXY_HEADER_BYTES_MAX + 1): "are more than",
    version2(PROXY, TCP4, FOUR + b"\x04\x00"): "within the head of a TLV",
    version2(PROXY, TCP4, FOUR + b"\x04\x00\x02x"): "within a TLV",
    version2(PROXY, TCP4, FOUR + tlv(0x20, b"\x03\x00")): "too short",
    version2(PROXY, TCP4, FOUR + tls(0x03, 0, b"\x22")): "within the head of a TLV",
    version2(PROXY, TCP4, FOUR + tls(0x03, 0, tlv(0x22, b"\xff"))): "not UTF-8",
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), GOOD.items())
def test_what_it_says(data: bytes, expected: tuple[str | None, str | None]) -> None:
    assert said(data) == expected


@pytest.mark.parametrize(("data", "complaint"), BAD.items())
def test_what_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ProxyHeaderError, match=complaint):
        decode_proxy_header(data)


def test_what_haproxy_sends() -> None:
    assert said(WITH_CERTIFICATE) == ("127.0.0.1", "dev-1")
    assert said(WITHOUT_CERTIFICATE) == ("127.0.0.1", None)
    assert said(WITHOUT_TLS) == ("127.0.0.1", None)


@pytest.mark.parametrize("data", GOOD)
def test_it_is_there_with_its_last_byte(data: bytes) -> None:
    """And what follows it is not looked at."""
    for stop in range(len(data)):
        assert decode_proxy_header(data[:stop]) is None, stop
        assert looks_like_header(data[:stop]), stop
    header = decode_proxy_header(data + b"\x10\x0c")
    assert isinstance(header, ProxyHeader)
    assert header.length == len(data)


def test_mqtt_does_not_look_like_it() -> None:
    assert not looks_like_header(b"\x10")
    assert not looks_like_header(b"PUT / HTTP/1.1")
    assert not looks_like_header(SIGNATURE[:-1] + b"\x00")


beginnings = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x30" + FOUR])


@given(beginnings, st.binary(max_size=400))
def test_whatever_comes_there_is_no_other_error(beginning: bytes, rest: bytes) -> None:
    data = beginning + rest
    try:
        header = decode_proxy_header(data)
    except ProxyHeaderError:
        return
    if header is None:
        assert len(data) < 16 + limits.PROXY_HEADER_BYTES_MAX, "what is waited for is bounded"
    else:
        assert header.length <= len(data)
        if header.address is not None:
            ipaddress.ip_address(header.address)
