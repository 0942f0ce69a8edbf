"""Certificates and private keys for tests, as PEM files: an authority, a broker's, and clients' of several kinds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

#: Opens `encrypted.key`.
KEY_PASSWORD = "pass word"


class Keys:
    """The files. `encrypted.key` is `client.key` behind a password; nobody trusts `stranger`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        authority, stranger = trustme.CA(), trustme.CA()
        self.authority = self._write("ca.crt", authority.cert_pem.bytes())
        self.other_authority = self._write("other.crt", stranger.cert_pem.bytes())
        self.broker = self._write("broker.pem", _pkcs8(authority.issue_cert("localhost")))
        past = datetime.now(UTC) - timedelta(days=1)
        clients = {
            "client": authority.issue_cert("mqk"),
            "expired": authority.issue_cert("mqk", not_before=past - timedelta(days=1), not_after=past),
            "stranger": stranger.issue_cert("mqk"),
        }
        for name, certificate in clients.items():
            self._write(f"{name}.crt", b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
            self._write(f"{name}.key", certificate.private_key_pem.bytes())
        key = serialization.load_pem_private_key(clients["client"].private_key_pem.bytes(), None)
        encryption = serialization.BestAvailableEncryption(KEY_PASSWORD.encode())
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self._write("encrypted.key", key.private_bytes(pem, pkcs8, encryption))

    def path(self, name: str) -> Path:
        return self.directory / name

    def _write(self, name: str, content: bytes) -> Path:
        path = self.path(name)
        path.write_bytes(content)
        return path


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Key and chain in one file, as Kafka wants them."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    return plain + b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
