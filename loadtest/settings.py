"""The settings of one load run, checked once. No command line parsing and no I/O here."""

import secrets
from dataclasses import dataclass, field

from loadtest.errors import UsageError
from loadtest.payload import IDENTITY_BYTES, RUN_ID_BYTES

PACKET_IDS = 65_535
"""MQTT has this many packet ids, 1 to 65535."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What to send, to whom, for how long. The first `connections` devices publish, the `idle_connections` after
    them only keep their connection alive."""

    host: str
    port: int
    connections: int = 1
    idle_connections: int = 0
    inflight: int = 1
    qos: int = 1
    packet_ids: int = PACKET_IDS
    """Each device uses 1 to this many in turn; few of them are soon used again."""
    repeat: float = 0.0
    """QoS 2: the chance of each PUBLISH and PUBREL, whenever the device writes, to be said again."""
    size: int = 128
    seconds: float = 10.0
    rate: float = 0.0
    """Messages per second over all connections; 0: as fast as the acknowledgements come."""
    stop_after: int = 0
    """End as soon as this many messages have been published and settled; 0: only `seconds` ends the run."""
    version: int = 4
    username: str | None = None
    password: str | None = None
    topic: str = "tlink/lt/{client}/up"
    client_prefix: str = "dev"
    connect_rate: float = 500.0
    connect_timeout_seconds: float = 60.0
    """How long all connections together may take to come up at the beginning."""
    keep_alive_seconds: int = 60
    session_expiry_seconds: int = 300
    ping_every_seconds: float = 0.0
    """PINGREQ this often on every connection and measure its answer; 0: only as keep alive demands."""
    settle_seconds: float = 30.0
    """How long to wait at the end for what is not acknowledged yet."""
    processes: int = 1
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(RUN_ID_BYTES))

    def __post_init__(self) -> None:
        self._check(0 < self.port < 65_536, "--target", "the port must be 1 to 65535")
        self._check(self.connections >= 0 and self.idle_connections >= 0, "--connections", "must not be negative")
        self._check(self.devices > 0, "--connections", "there must be at least one connection")
        self._check(1 <= self.inflight <= PACKET_IDS, "--inflight", f"must be 1 to {PACKET_IDS}")
        self._check(self.qos in (0, 1, 2), "--qos", "must be 0, 1 or 2")
        self._check(1 <= self.packet_ids <= PACKET_IDS, "--packet-ids", f"must be 1 to {PACKET_IDS}")
        self._check(self.inflight <= self.packet_ids, "--inflight", "must not be more than --packet-ids")
        self._check(0 <= self.repeat < 1, "--repeat", "must be at least 0 and less than 1")
        self._check(not self.repeat or self.qos == 2, "--repeat", "needs --qos 2")
        self._check(self.version in (4, 5), "--version", "must be 4 (MQTT 3.1.1) or 5 (MQTT 5.0)")
        self._check(self.size >= IDENTITY_BYTES, "--size", f"the identity in a payload needs {IDENTITY_BYTES} bytes")
        self._check(self.seconds > 0, "--seconds", "must be more than 0")
        self._check(self.rate >= 0, "--rate", "must not be negative")
        self._check(self.stop_after >= 0, "--stop-after", "must not be negative")
        self._check(self.connect_rate > 0, "--connect-rate", "must be more than 0")
        self._check(0 < self.keep_alive_seconds <= 65_535, "--keep-alive", "must be 1 to 65535 seconds")
        self._check(self.processes >= 1, "--processes", "must be at least 1")
        self._check(self.password is None or self.username is not None, "--password", "needs --username")

    @staticmethod
    def _check(holds: bool, flag: str, message: str) -> None:
        if not holds:
            raise UsageError(f"{flag}: {message}")

    @property
    def devices(self) -> int:
        return self.connections + self.idle_connections

    def client_id(self, index: int) -> str:
        return device_name(self.client_prefix, index)

    def publishes_per_device(self, index: int) -> int:
        """How many new messages device `index` may publish: its share of `stop_after`, else as many as fit a u32."""
        if index >= self.connections:
            return 0
        if not self.stop_after:
            return 0xFFFF_FFFF
        return self.stop_after // self.connections + (index < self.stop_after % self.connections)


def device_name(prefix: str, index: int) -> str:
    return f"{prefix}{index:06d}"
