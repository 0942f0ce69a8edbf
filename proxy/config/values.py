"""What a value of a setting may be: addresses, files, names; and the ports of several replicas on one host."""

import ipaddress
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
)

_ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[IPv6]:port` in its two parts. Raises ValueError that says what is wrong."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise ValueError("should be host:port with a port of 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:1883")
    if not _HOST.fullmatch(host):
        raise ValueError("should be host:port, as in 0.0.0.0:1883")
    if re.fullmatch(r"[0-9.]+", host):
        return str(ipaddress.IPv4Address(host)), int(port)
    return host, int(port)


def shift_address(address: str, by: int) -> str:
    """The same host with a port that is `by` higher; port 0, whatever is free, stays."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + by if int(port) else 0}"


def check_slots(addresses: Mapping[str, str], slots: int, step: int) -> None:
    """Each of so many slots on one host has ports of its own. Raises ValueError that names what has not."""
    taken: dict[int, list[tuple[str, str]]] = {}
    for slot, (name, address) in itertools.product(range(slots), addresses.items()):
        what = f"{name} of slot {slot}"
        try:
            host, port = split_address(shift_address(address, slot * step))
        except ValueError:
            raise ValueError(f"{what} would be a port above 65535") from None
        for other, there in taken.get(port, []) if port else ():
            if host == other or not _ANY_HOST.isdisjoint((host, other)):
                raise ValueError(f"{there} and {what} are both port {port}: choose others, or a node.slot_port_step")
        taken.setdefault(port, []).append((host, what))


def _address(address: str) -> str:
    split_address(address)
    return address


def _server(address: str) -> str:
    if split_address(address)[1] == 0:
        raise ValueError("should be host:port with a port of 1 to 65535")
    return address


def _network(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise ValueError(f"should be a network, as in 10.0.0.0/24: {error}") from None


def no_repetition(values: list[str]) -> list[str]:
    repeated = {value for value in values if values.count(value) > 1}
    if repeated:
        raise ValueError(f"given twice: {', '.join(sorted(repeated))}")
    return values


def beside_the_file(path: Path, info: ValidationInfo) -> Path:
    directory: Path = (info.context or {}).get("directory", Path())
    return directory / path


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("should be https://host/path, without a user")
    return url


def one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


TopicPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._*-]+$", max_length=249)]


def _cluster_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name, re.ASCII) or name == "default":
        raise ValueError('a cluster is named by 1 to 32 small letters, digits and hyphens, and not "default"')
    return name


ClusterName = Annotated[str, AfterValidator(_cluster_name)]
Address = Annotated[str, AfterValidator(_address), Field(json_schema_extra={"format": "host:port"})]
Network = Annotated[str, AfterValidator(_network), Field(json_schema_extra={"format": "CIDR"})]
Server = Annotated[str, AfterValidator(_server), Field(json_schema_extra={"format": "host:port"})]
Url = Annotated[str, AfterValidator(_http_url), Field(json_schema_extra={"format": "URL"})]
File = Annotated[Path, Field(strict=False), AfterValidator(beside_the_file)]
Header = Literal[
    "mqtt.topic",
    "mqtt.clientid",
    "mqtt.username",
    "mqtt.qos",
    "mqtt.node",
    "mqtt.packet_id",
    "mqtt.payload_format",
    "mqtt.message_expiry",
    "mqtt.content_type",
    "mqtt.response_topic",
    "mqtt.correlation_data",
    "mqtt.user_properties",
]


class Section(BaseModel):
    # Strict, so that `partitions = true` is not 1; text from flags and environment is converted before it comes here.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)
