"""The settings of a Kafka cluster: `[kafka]` and `[kafka.clusters.NAME]`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from proxy.config.values import ClusterName, File, Header, Section, Server, Url, no_repetition

_TLS: Final = ("SSL", "SASL_SSL")
_SASL: Final = ("SASL_PLAINTEXT", "SASL_SSL")
_WITH_PASSWORD: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_WITH_TOKEN: Final = ("OAUTHBEARER",)
_GIVEN: Final = ()
#: Settings of a Kafka client that go only with others: which one, and its values; `_GIVEN`: any.
_GOES_WITH: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "sasl_mechanism": ("security_protocol", _SASL),
    "sasl_plain_username": ("sasl_mechanism", _WITH_PASSWORD),
    "sasl_plain_password": ("sasl_mechanism", _WITH_PASSWORD),
    "sasl_oauth_token_endpoint": ("sasl_mechanism", _WITH_TOKEN),
    "sasl_oauth_client_id": ("sasl_mechanism", _WITH_TOKEN),
    "sasl_oauth_client_secret": ("sasl_mechanism", _WITH_TOKEN),
    "sasl_oauth_scope": ("sasl_mechanism", _WITH_TOKEN),
    "ssl_cafile": ("security_protocol", (*_TLS, "SASL_PLAINTEXT")),
    "ssl_certfile": ("security_protocol", _TLS),
    "ssl_keyfile": ("ssl_certfile", _GIVEN),
    "ssl_password": ("ssl_certfile", _GIVEN),
}
#: Those of them that nobody has to give.
_OPTIONAL: Final = frozenset({"sasl_oauth_scope", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"})


class KafkaClient(Section):
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How the brokers are spoken to."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        default=None, description="How the proxy proves who it is; required with SASL_PLAINTEXT and SASL_SSL."
    )
    sasl_plain_username: str | None = Field(
        default=None, min_length=1, description="User name for PLAIN and SCRAM; required with them."
    )
    sasl_plain_password: str | None = Field(
        default=None, min_length=1, repr=False, description="Password for PLAIN and SCRAM; required with them."
    )
    sasl_oauth_token_endpoint: Url | None = Field(
        default=None, description="Where tokens are had for client credentials (RFC 6749, 4.4); for OAUTHBEARER."
    )
    sasl_oauth_client_id: str | None = Field(default=None, min_length=1, description="Whose token; for OAUTHBEARER.")
    sasl_oauth_client_secret: str | None = Field(
        default=None, min_length=1, repr=False, description="The secret of that client; for OAUTHBEARER."
    )
    sasl_oauth_scope: str | None = Field(
        default=None, min_length=1, description="Scope that is asked for; unset: the endpoint's default."
    )
    ssl_cafile: File | None = Field(
        default=None,
        description="PEM file of the authorities whose certificates brokers may have; the token endpoint may too. "
        "Unset: those of the system. Relative, as all files, to the directory of the configuration file.",
    )
    ssl_certfile: File | None = Field(
        default=None, description="PEM file of the proxy's own certificate and its chain, for brokers that ask for one."
    )
    ssl_keyfile: File | None = Field(
        default=None, description="PEM file of its private key; unset: the key is in ssl_certfile."
    )
    ssl_password: str | None = Field(
        default=None, min_length=1, repr=False, description="Password of the private key, when it is encrypted."
    )
    ssl_check_hostname: bool = Field(
        default=True, description="`false`: a broker's certificate may be for another host name."
    )

    @field_validator(*_GOES_WITH)
    @classmethod
    def _goes_with_the_others(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        other, values = _GOES_WITH[name]
        if other in info.data:  # Else it is wrong itself, and that is enough.
            there = info.data[other]
            fits = there in values if values else there is not None
            if value is not None and not fits:
                what = f"{other} = {' or '.join(values)}" if values else other
                raise PydanticCustomError("not_together", "{what}", {"what": f"goes only with {what}"})
            if value is None and fits and name not in _OPTIONAL:
                raise PydanticCustomError("not_together", "{what}", {"what": f"must be given with {other} = {there}"})
        return value

    def warnings(self) -> list[str]:
        """What is allowed and deserves a second look, without the name of the table before it."""
        found = []
        if self.security_protocol == "SASL_PLAINTEXT" and self.sasl_mechanism in {"PLAIN", "OAUTHBEARER"}:
            found.append(f"security_protocol is SASL_PLAINTEXT: {self.sasl_mechanism} sends its secret in the clear")
        if urlsplit(self.sasl_oauth_token_endpoint or "").scheme == "http":
            found.append("sasl_oauth_token_endpoint is not https: the client secret is sent in the clear")
        if self.security_protocol in _TLS and not self.ssl_check_hostname:
            found.append("ssl_check_hostname is false: any host with a certificate of the same authority can be Kafka")
        return found


class KafkaCluster(Section):
    """What each cluster has."""

    bootstrap_servers: list[Server] = Field(
        default=["127.0.0.1:9092"],
        min_length=1,
        description="Brokers that are asked first; one that answers is enough.",
    )
    create_topics: bool = Field(
        default=True,
        description="Create topics that are missing; else start-up names them and the command that creates them.",
    )
    replication_factor: int = Field(
        default=3, ge=-1, le=32_767, description="Of topics that we create; -1: the broker's default."
    )
    partitions: int = Field(default=12, ge=1, le=10_000, description="Of topics that we create.")
    delivery_timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="After this the outcome of a record counts as unknown: no acknowledgement, the connection closes, "
        "the device sends again. The default is Kafka's own.",
    )
    queue_bytes_max: int = Field(
        default=67_108_864, ge=1_048_576, description="Records that wait for Kafka, and their bookkeeping."
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none", description="Of batches on their way to Kafka, where they stay as they come."
    )
    unsafe_acks: Literal["all", "1", "0"] = Field(
        default="all", description="Anything but `all` acknowledges records that Kafka can lose; shown in /healthz."
    )
    unsafe_idempotence: bool = Field(
        default=True, description="`false`: the client's own retries may store a record twice; shown in /healthz."
    )
    client: KafkaClient = KafkaClient()

    @field_validator("replication_factor")
    @classmethod
    def _has_replicas(cls, factor: int) -> int:
        if factor == 0:
            raise ValueError("should be -1 or at least 1")
        return factor

    @field_validator("unsafe_idempotence")
    @classmethod
    def _idempotence_needs_all(cls, idempotence: bool, info: ValidationInfo) -> bool:
        if idempotence and info.data.get("unsafe_acks", "all") != "all":
            raise ValueError(
                'Kafka is idempotent only with unsafe_acks = "all"; to do without both, set this to false too'
            )
        return idempotence


class FurtherCluster(KafkaCluster):
    """Beside the first one."""

    bootstrap_servers: list[Server] = Field(
        min_length=1, description="Brokers that are asked first; one that answers is enough."
    )


class Kafka(KafkaCluster):
    topic_prefix: str = Field(
        default="tlink_device_",
        max_length=200,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="What every Kafka topic begins with.",
    )
    headers: Annotated[list[Header], AfterValidator(no_repetition)] = Field(
        default=["mqtt.topic", "mqtt.clientid"],
        description="Headers of every record. mqtt.retain, and mqtt.dup with mqtt.packet_id, come by themselves when "
        "they say something, and so does traceparent. User properties become mqtt.user.NAME.",
    )
    internal_prefix: str = Field(
        default="_mqk_",
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="What the proxy's own topics begin with; no route may reach one.",
    )

    @field_validator("internal_prefix")
    @classmethod
    def _leaves_topics(cls, internal_prefix: str, info: ValidationInfo) -> str:
        if info.data.get("topic_prefix", "").startswith(internal_prefix):
            raise ValueError("kafka.topic_prefix begins with it: no topic would be left for devices")
        return internal_prefix

    clusters: dict[ClusterName, FurtherCluster] = Field(
        default={}, description="Further clusters by name. One that is down holds up nothing but what is meant for it."
    )
