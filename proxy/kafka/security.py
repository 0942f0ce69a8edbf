"""How the brokers are spoken to: the settings under `kafka.client` become what aiokafka's clients are made with.

Why a broker does not like it is found out by `faults`.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.errors import ConfigError
from proxy.kafka.tokens import TokenClient, TokenProvider


@dataclass(slots=True, kw_only=True)
class ClientSettings:
    """The settings under `kafka.client`, which are checked against each other where they are read."""

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = field(default=None, repr=False)
    sasl_oauth_token_endpoint: str | None = None
    sasl_oauth_client_id: str | None = None
    sasl_oauth_client_secret: str | None = field(default=None, repr=False)
    sasl_oauth_scope: str | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_password: str | None = field(default=None, repr=False)
    ssl_check_hostname: bool = True


def client_options(
    settings: ClientSettings, count_token: Callable[[str], object], table: str = "kafka.client"
) -> dict[str, Any]:
    """Options for a producer, a consumer or an admin client; to be made on the event loop that they live on.

    `count_token` is told of each request for a token, `table` names the settings. Raises ConfigError: a file cannot be
    used.
    """
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _for_brokers(settings, table)
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = _token_provider(settings, count_token, table)
        else:
            options["sasl_plain_username"] = settings.sasl_plain_username
            options["sasl_plain_password"] = settings.sasl_plain_password
    return options


def _token_provider(settings: ClientSettings, count: Callable[[str], object], table: str) -> TokenProvider:
    client = TokenClient(
        settings.sasl_oauth_token_endpoint or "",
        settings.sasl_oauth_client_id or "",
        settings.sasl_oauth_client_secret or "",
        settings.sasl_oauth_scope,
    )
    trusted = ssl.create_default_context()
    if settings.ssl_cafile:
        _trust(trusted, settings.ssl_cafile, table)
    return TokenProvider(client, trusted, count)


def _for_brokers(settings: ClientSettings, table: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_cafile:
        _trust(context, settings.ssl_cafile, table)
    else:
        context.load_default_certs()
    if settings.ssl_certfile:
        _show(context, settings.ssl_certfile, settings, table)
    return context


def _trust(context: ssl.SSLContext, authorities: Path, table: str) -> None:
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise ConfigError(f"{table}.ssl_cafile", f"{authorities} holds no certificate: {error.reason}") from error
    except OSError as error:
        raise ConfigError(f"{table}.ssl_cafile", f"{authorities} cannot be read: {error.strerror}") from error


def _show(context: ssl.SSLContext, certificate: Path, settings: ClientSettings, table: str) -> None:
    """The certificate for brokers that ask for one."""
    key, asked = settings.ssl_keyfile, []

    def password() -> str:
        asked.append(True)
        if settings.ssl_password is None:
            raise ConfigError(f"{table}.ssl_password", f"must be given: {key or certificate} is encrypted")
        return settings.ssl_password

    for name, path in (("ssl_certfile", certificate), ("ssl_keyfile", key)):
        _must_be_readable(path, f"{table}.{name}")
    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if asked:
            raise ConfigError(f"{table}.ssl_password", f"does not open {key or certificate}") from error
        name = "ssl_keyfile" if key else "ssl_certfile"
        said = f"{certificate} and {key or 'the key in it'} do not go together: {error.reason or error}"
        raise ConfigError(f"{table}.{name}", said) from error


def _must_be_readable(path: Path | None, setting: str) -> None:
    """Because OpenSSL does not say which of two files it could not read."""
    try:
        if path:
            path.open("rb").close()
    except OSError as error:
        raise ConfigError(setting, f"{path} cannot be read: {error.strerror}") from error
