"""Settings become options of aiokafka's clients; a file that cannot be used is named with its setting."""

import ssl
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from proxy.config import KafkaClient
from proxy.errors import ConfigError
from proxy.kafka.security import ClientSettings, client_options
from tests.support.keys import KEY_PASSWORD, Keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("options") / "keys")


def options(protocol: str = "SSL", **settings: Any) -> dict[str, Any]:
    return client_options(ClientSettings(security_protocol=protocol, **settings), lambda _: None)


def test_every_setting_is_one_that_can_be_given_and_has_the_same_default() -> None:
    assert ClientSettings(**KafkaClient().model_dump()) == ClientSettings()
    assert [field.name for field in fields(ClientSettings)] == list(KafkaClient.model_fields)


def test_nothing_is_said_of_what_is_not_used() -> None:
    assert options("PLAINTEXT") == {"security_protocol": "PLAINTEXT"}
    login = {"sasl_plain_username": "u", "sasl_plain_password": "p"}
    assert options("SASL_PLAINTEXT", sasl_mechanism="PLAIN", **login) == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        **login,
    }


def test_brokers_are_checked_against_the_authorities_that_were_given(keys: Keys) -> None:
    context = options(ssl_cafile=keys.authority)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    system = ssl.create_default_context().cert_store_stats()
    assert options()["ssl_context"].cert_store_stats() == system


def test_the_host_name_is_the_only_thing_that_can_go_unchecked(keys: Keys) -> None:
    context = options(ssl_cafile=keys.authority, ssl_check_hostname=False)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_certificate_may_have_its_key_in_the_same_file(keys: Keys) -> None:
    assert options(ssl_certfile=keys.broker)["ssl_context"]


def test_an_encrypted_key_is_opened(keys: Keys) -> None:
    certificate = {"ssl_certfile": keys.path("client.crt"), "ssl_keyfile": keys.path("encrypted.key")}
    assert options(**certificate, ssl_password=KEY_PASSWORD)["ssl_context"]


@pytest.mark.parametrize(
    ("settings", "setting", "words"),
    [
        ({"ssl_cafile": "missing"}, "ssl_cafile", "missing cannot be read: No such file or directory"),
        ({"ssl_cafile": "client.key"}, "ssl_cafile", "client.key holds no certificate"),
        ({"ssl_certfile": "missing"}, "ssl_certfile", "missing cannot be read: No such file or directory"),
        ({"ssl_certfile": "client.crt"}, "ssl_certfile", "client.crt and the key in it do not go together"),
        ({"ssl_certfile": "client.crt", "ssl_keyfile": "missing"}, "ssl_keyfile", "missing cannot be read"),
        ({"ssl_certfile": "client.crt", "ssl_keyfile": "stranger.key"}, "ssl_keyfile", "stranger.key do not go"),
        ({"ssl_certfile": "client.crt", "ssl_keyfile": "ca.crt"}, "ssl_keyfile", "ca.crt do not go together"),
        ({"ssl_certfile": "client.crt", "ssl_keyfile": "encrypted.key"}, "ssl_password", "encrypted.key is encrypted"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(keys: Keys, settings: dict[str, str], setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        options(**{name: keys.path(value) for name, value in settings.items()})
    assert raised.value.setting == f"kafka.client.{setting}"


def test_a_wrong_password_of_a_key_is_named_and_not_repeated(keys: Keys) -> None:
    certificate = {"ssl_certfile": keys.path("client.crt"), "ssl_keyfile": keys.path("encrypted.key")}
    with pytest.raises(ConfigError, match="does not open .*encrypted.key") as raised:  # noqa: RUF043
        options(**certificate, ssl_password="hunter2")
    assert raised.value.setting == "kafka.client.ssl_password"
    assert "hunter2" not in str(raised.value)


def test_the_table_that_settings_were_read_from_is_named(tmp_path: Path) -> None:
    settings = ClientSettings(security_protocol="SSL", ssl_cafile=tmp_path / "missing")
    with pytest.raises(ConfigError) as raised:
        client_options(settings, lambda _: None, "kafka.clusters.backup.client")
    assert raised.value.setting == "kafka.clusters.backup.client.ssl_cafile"


def test_the_token_endpoint_may_have_a_certificate_of_either(keys: Keys) -> None:
    oauth = {
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_endpoint": "https://idp/token",
        "sasl_oauth_client_id": "i",
        "sasl_oauth_client_secret": "s",
    }
    system = ssl.create_default_context().cert_store_stats()["x509_ca"]
    provider = options("SASL_SSL", ssl_cafile=keys.authority, **oauth)["sasl_oauth_token_provider"]
    assert provider._trusted.cert_store_stats()["x509_ca"] == system + 1
