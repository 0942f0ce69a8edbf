"""A Kafka that demands something of its clients: one broker, a door for each way in, and all that is needed to pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.support.kafka_broker import SHORT_LIVED, VERSIONS, KafkaBroker
from tests.support.keys import Keys
from tests.support.token_endpoint import TokenEndpoint

#: With characters that are written in another way on the wire.
USER, PASSWORD = "mqk,user=1", "pass word"
CLIENT_ID, CLIENT_SECRET = "mqk client", "s%cret+/="
REQUEST_SECONDS = 10.0
LOGIN_MODULE = "org.apache.kafka.common.security"
#: How long the broker lets a connection live that came with a token; then it has to come with a fresh one.
REAUTHENTICATION_MS = 4_000
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "PASSWORD": "SASL_PLAINTEXT",
    "SCRAM": "SASL_SSL",
    "TOKEN": "SASL_SSL",
}
#: The settings that pass each door: its name in small letters, then what is offered there.
WAYS = ("tls", "mutual", "password", "scram-sha-256", "scram-sha-512", "token")


class SecureKafka:
    """The broker, its keys and its token endpoint. `client` has the settings that pass each door."""

    def __init__(self, directory: Path) -> None:
        self.keys = Keys(directory / "keys")
        self.tokens = TokenEndpoint(self.keys.directory)
        self.broker = KafkaBroker(
            VERSIONS[0],
            directory / "kafka",
            self._settings(),
            listeners=LISTENERS,
            java=[*SHORT_LIVED, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.tokens.jwks.as_uri()}"],
        )

    def start(self) -> None:
        self.broker.start()
        self.set_password(PASSWORD)

    def set_password(self, password: str) -> None:
        """Of the user that comes with SCRAM."""
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            wanted = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), password.encode())
            [answer] = admin.alter_user_scram_credentials([wanted]).values()
            answer.result(REQUEST_SECONDS)

    def stop(self) -> None:
        self.broker.kill()
        self.tokens.stop()

    def client(self, way: str) -> dict[str, Any]:
        """Settings under `kafka.client`, files as text, for one of `WAYS`."""
        tls = {"ssl_cafile": str(self.keys.authority)}
        login = {"sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
        certificate = {
            "ssl_certfile": str(self.keys.path("client.crt")),
            "ssl_keyfile": str(self.keys.path("client.key")),
        }
        ways: Mapping[str, dict[str, Any]] = {
            "tls": {"security_protocol": "SSL", **tls},
            "mutual": {"security_protocol": "SSL", **tls, **certificate},
            "password": {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **login},
            "scram-sha-256": {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-256", **tls, **login},
            "scram-sha-512": {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", **tls, **login},
            "token": {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", **tls, **self._token_client()},
        }
        return ways[way]

    def door(self, way: str) -> str:
        """Its address."""
        return self.broker.doors[way.partition("-")[0].upper()]

    def _token_client(self) -> dict[str, str]:
        return {
            "sasl_oauth_token_endpoint": self.tokens.url,
            "sasl_oauth_client_id": CLIENT_ID,
            "sasl_oauth_client_secret": CLIENT_SECRET,
            "sasl_oauth_scope": "produce",
        }

    def _settings(self) -> dict[str, str]:
        module = f"{LOGIN_MODULE}.plain.PlainLoginModule"
        scram = f"{LOGIN_MODULE}.scram.ScramLoginModule required;"
        token = "listener.name.token"
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.keys.broker),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.keys.authority),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.password.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.password.plain.sasl.jaas.config": f'{module} required "user_{USER}"="{PASSWORD}";',
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.scram.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.scram.scram-sha-512.sasl.jaas.config": scram,
            f"{token}.sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{token}.oauthbearer.sasl.jaas.config": f"{LOGIN_MODULE}.oauthbearer.OAuthBearerLoginModule required;",
            f"{token}.oauthbearer.sasl.server.callback.handler.class": (
                f"{LOGIN_MODULE}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
            f"{token}.oauthbearer.connections.max.reauth.ms": str(REAUTHENTICATION_MS),
            f"{token}.sasl.oauthbearer.jwks.endpoint.url": self.tokens.jwks.as_uri(),
            # The default looks at no signature.
            f"{token}.sasl.oauthbearer.jwt.validator.class": f"{LOGIN_MODULE}.oauthbearer.BrokerJwtValidator",
        }
