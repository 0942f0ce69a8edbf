"""Three replicas behind two real HAProxies, with a door for TLS that asks for certificates."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme

from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import KafkaBroker

#: Of someone who may drain replicas.
TOKEN = "drain it"
SETTINGS = {
    "admin.tokens": [{"name": "test", "role": "write", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}]
}


class Certificates:
    """Files: what HAProxy shows, whom it believes, and a device's own."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority, self.server, self.device = (directory / f"{name}.pem" for name in ("ca", "server", "device"))
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(self.server)
        device = authority.issue_cert("dev-1@devices.example", common_name="dev-1")
        device.private_key_and_cert_chain_pem.write_to_path(self.device)

    @property
    def environment(self) -> Mapping[str, object]:
        """For HAProxy: a certificate is asked for, and may be missing."""
        return {"TLS_PEM": self.server, "TLS_CA": self.authority, "TLS_VERIFY": "optional"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(
    kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[BalancedCluster]:
    """It is shared: what a test stops, it starts again."""
    directory = tmp_path_factory.mktemp("cluster")
    with BalancedCluster(kafka, directory, 3, SETTINGS, balancers=2, tls=certificates.environment) as cluster:
        yield cluster
