"""Who may not connect: client identifiers, user names, and addresses with their networks. Pure: the time comes in.

A ban is one record of a compacted Kafka topic, which `flows/bans.py` follows; here is what it says, and the look-up.
"""

import ipaddress
import json
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from proxy import limits
from proxy.errors import ProxyError

BanKind = Literal["clientid", "username", "address"]
CLIENT_ID: Final = "clientid"
USERNAME: Final = "username"
ADDRESS: Final = "address"
KINDS: Final = (CLIENT_ID, USERNAME, ADDRESS)

_VERSION: Final = 1


class BanRecordError(ProxyError):
    """A record of the topic of bans that is not ours, or of a version to come."""


@dataclass(slots=True, frozen=True)
class Ban:
    """`nonce` is unique, so that the end of one ban is not the end of the next with the same value. Times are wall
    clock; `expires_ms` 0 is never. `by` is the name of the token with which it was set.
    """

    kind: BanKind
    value: str
    nonce: int
    since_ms: int
    expires_ms: int = 0
    reason: str = ""
    by: str = ""

    def is_over(self, now_ms: int) -> bool:
        return bool(self.expires_ms) and self.expires_ms <= now_ms

    def applies_to(self, client_id: str, username: str | None, address: str) -> bool:
        """Whether it is this client that is banned, expired or not."""
        if self.kind == CLIENT_ID:
            return self.value == client_id
        if self.kind == USERNAME:
            return self.value == username
        network = ipaddress.ip_network(self.value)
        parsed = _parsed(address)
        return parsed is not None and parsed in network

    @property
    def key(self) -> bytes:
        """Its key in Kafka."""
        return ban_key(self.kind, self.value)

    def encode(self) -> bytes:
        """Its value there."""
        fields = {
            "version": _VERSION,
            "nonce": self.nonce,
            "since_ms": self.since_ms,
            "expires_ms": self.expires_ms,
            "reason": self.reason,
            "by": self.by,
        }
        return json.dumps(fields).encode()


def ban_key(kind: str, value: str) -> bytes:
    return f"{kind}:{value}".encode()


def decode_key(key: bytes | None) -> tuple[BanKind, str]:
    """Raises BanRecordError."""
    try:
        kind, colon, value = (key or b"").decode().partition(":")
        if kind == ADDRESS:
            value = normal_address(value)
    except ValueError as error:
        raise BanRecordError(f"not the key of a ban: {error}") from None
    for known in KINDS:
        if kind == known and colon and value:
            return known, value
    raise BanRecordError("not the key of a ban")


def decode_ban(key: bytes | None, value: bytes) -> Ban:
    """Raises BanRecordError."""
    kind, banned = decode_key(key)
    try:
        fields = json.loads(value)
        version, numbers = fields["version"], [fields[name] for name in ("nonce", "since_ms", "expires_ms")]
        texts = [fields[name] for name in ("reason", "by")]
    except (ValueError, TypeError, KeyError) as error:
        raise BanRecordError(f"not a ban: {error!r}") from None
    if version != _VERSION:
        raise BanRecordError(f"version {version!r}, this proxy knows {_VERSION}")
    if not all(type(each) is int and each >= 0 for each in numbers) or not all(type(each) is str for each in texts):
        raise BanRecordError("not a ban: a field is of another type")
    return Ban(kind, banned, *numbers, *texts)


def normal_address(text: str) -> str:
    """An address or a network as it is always written. Raises ValueError that says what is wrong."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("should be an IP address, or a network as in 192.0.2.0/24") from None
    if network.prefixlen < network.max_prefixlen:
        return str(network)
    # As connections have it: see `MqttConnection.address`.
    return str(getattr(network.network_address, "ipv4_mapped", None) or network.network_address)


class BanTable:
    """All bans that are known. A look-up costs the same however many there are."""

    def __init__(self, most: int = limits.BANS_MAX) -> None:
        self._most = most
        self._bans: dict[bytes, Ban] = {}
        #: The keys of networks and addresses by IP version, length of the prefix, and prefix.
        self._networks: dict[tuple[int, int, int], bytes] = {}
        #: How many there are of each version and length: those are looked for.
        self._sizes: Counter[tuple[int, int]] = Counter()

    def __len__(self) -> int:
        return len(self._bans)

    @property
    def full(self) -> bool:
        return len(self._bans) >= self._most

    def get(self, key: bytes) -> Ban | None:
        """Also one that is over."""
        return self._bans.get(key)

    def put(self, ban: Ban) -> bool:
        """False when there are too many: it is not in force then."""
        if ban.key not in self._bans:
            if self.full:
                return False
            if ban.kind == ADDRESS:
                network = _network(ban.value)
                self._networks[network] = ban.key
                self._sizes[network[:2]] += 1
        self._bans[ban.key] = ban
        return True

    def remove(self, key: bytes) -> None:
        ban = self._bans.pop(key, None)
        if ban is not None and ban.kind == ADDRESS:
            network = _network(ban.value)
            del self._networks[network]
            self._sizes[network[:2]] -= 1
            self._sizes += Counter()  # Drops those that are 0.

    def find(self, client_id: str, username: str | None, address: str, now_ms: int) -> Ban | None:
        """The ban that keeps a client out."""
        if not self._bans:
            return None
        keys = [ban_key(CLIENT_ID, client_id)]
        if username is not None:
            keys.append(ban_key(USERNAME, username))
        if self._sizes:
            keys += self._address_keys(address)
        for key in keys:
            ban = self._bans.get(key)
            if ban is not None and not ban.is_over(now_ms):
                return ban
        return None

    def in_force(self, now_ms: int) -> list[Ban]:
        """By kind and value."""
        return sorted((ban for ban in self._bans.values() if not ban.is_over(now_ms)), key=lambda ban: ban.key)

    def over(self, now_ms: int) -> list[Ban]:
        return [ban for ban in self._bans.values() if ban.is_over(now_ms)]

    def _address_keys(self, address: str) -> list[bytes]:
        parsed = _parsed(address)
        if parsed is None:
            return []
        number, version, bits = int(parsed), parsed.version, parsed.max_prefixlen
        keys = (
            self._networks.get((version, length, number >> (bits - length)))
            for each, length in self._sizes
            if each == version
        )
        return [key for key in keys if key is not None]


def _network(value: str) -> tuple[int, int, int]:
    network = ipaddress.ip_network(value)
    prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
    return network.version, network.prefixlen, prefix


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None: the connection has no address, as one through a local socket."""
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
