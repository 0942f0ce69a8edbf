"""An endpoint that gives out tokens for client credentials over HTTP: signed JWTs, whose key a Kafka can be told."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


class TokenEndpoint:
    """Answers on 127.0.0.1 as a test has it written down. As a context manager it stops at the end."""

    def __init__(self, directory: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        #: The public half of its key, as Kafka reads it.
        self.jwks = directory / "jwks.json"
        self.jwks.write_text(json.dumps({"keys": [self._jwk()]}))
        #: The forms of all requests, and who asked.
        self.requests: list[tuple[str, str]] = []
        #: What is answered instead of a token: status and body.
        self.answer: tuple[int, bytes] | None = None
        self.token_seconds = 3600
        #: Signs with a key that the broker does not know.
        self.forge = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requests.append((form, self.headers.get("Authorization", "")))
                status, body = outer.answer or (200, outer._grant())
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing on standard error."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def answering(self, status: int, body: bytes = b"") -> Iterator[None]:
        """Instead of giving out tokens."""
        self.answer = (status, body)
        try:
            yield
        finally:
            self.answer = None

    def _grant(self) -> bytes:
        now = int(time.time())
        claims = {"sub": "mqk", "scope": "produce", "iat": now, "exp": now + self.token_seconds}
        head = _base64(json.dumps({"alg": "RS256", "kid": "tests", "typ": "JWT"}).encode())
        body = f"{head}.{_base64(json.dumps(claims).encode())}"
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2048) if self.forge else self._key
        signature = key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256())
        grant = {
            "access_token": f"{body}.{_base64(signature)}",
            "token_type": "Bearer",
            "expires_in": self.token_seconds,
        }
        return json.dumps(grant).encode()

    def _jwk(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "kid": "tests",
            "alg": "RS256",
            "use": "sig",
            "n": _base64(numbers.n.to_bytes(256, "big")),
            "e": _base64(numbers.e.to_bytes(3, "big")),
        }


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
