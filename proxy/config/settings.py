"""The settings themselves: name, type, default, bounds and meaning of each; `mqk config` is printed from here."""

import ipaddress
import re
import socket
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proxy.config.kafka import Kafka, KafkaCluster
from proxy.config.values import (
    Address,
    Network,
    Section,
    TopicPattern,
    beside_the_file,
    check_slots,
    no_repetition,
    one_or_many,
    shift_address,
    split_address,
)
from proxy.limits import ADMIN_TOKENS_MAX, KAFKA_FRAMING_BYTES, TARGETS_PER_RULE_MAX
from proxy.net.addresses import is_loopback
from proxy.policy.filters import parse_filter

#: Kafka's own default of max.message.bytes.
KAFKA_MESSAGE_BYTES_MAX: Final = 1_048_588
#: The topic once more as a header, the client id and the user name; real ones are far below.
HEADER_BYTES_ROOM: Final = 16_384
PUBLISH_BYTES_CEILING: Final = KAFKA_MESSAGE_BYTES_MAX - HEADER_BYTES_ROOM - KAFKA_FRAMING_BYTES

_NODE_ID_CHARACTERS_MAX: Final = 64


class Node(Section):
    id: str = Field(
        default_factory=socket.gethostname,
        max_length=_NODE_ID_CHARACTERS_MAX,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of this replica, unique in the cluster; of several workers it is the first part: `ID-SLOT`.",
        json_schema_extra={"default": "<host name>"},
    )
    drain_seconds: int = Field(
        default=30, ge=0, le=3600, description="Time to let devices go and empty the queue at shutdown."
    )
    agent_bind: Address | None = Field(
        default=None,
        description="Where HAProxy asks whether this replica takes new devices (`agent-check`), as in 127.0.0.1:8090; "
        "unset: nowhere.",
    )
    rebalance: bool = Field(
        default=True,
        description="Send devices home when this replica has far more than the others after one of them was away; "
        "as long as a load balancer asks `node.agent_bind`.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Replicas on this host, each a process in a slot 0, 1, … of its own. Above 1 gunicorn starts them "
        "and replaces those that die or hang; `mqk serve --workers N` says the same.",
    )
    slot_port_step: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="With several workers every port that is configured (listeners, admin, agent) is that of slot 0; "
        "slot k has the one that is k times this higher.",
    )

    @field_validator("workers")
    @classmethod
    def _has_names(cls, workers: int, info: ValidationInfo) -> int:
        longest = f"{info.data.get('id', '')}-{workers - 1}"
        if workers > 1 and len(longest) > _NODE_ID_CHARACTERS_MAX:
            raise ValueError(f"the node id {longest} would be longer than {_NODE_ID_CHARACTERS_MAX} characters")
        return workers


class Listener(Section):
    bind: Address = Field(
        default="0.0.0.0:1883", description="Where devices connect; an IPv6 address stands in brackets."
    )
    transport: Literal["tcp"] = Field(default="tcp", description="What carries MQTT.")
    proxy_protocol_from: list[Network] = Field(
        default=[],
        description="Networks of load balancers, as in 10.0.0.0/24. From there each connection has to begin with a "
        "PROXY header, version 1 or 2, and what it says of the device is believed; from elsewhere none may.",
    )

    def proxies(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """`proxy_protocol_from`, parsed."""
        return [ipaddress.ip_network(network) for network in self.proxy_protocol_from]


class Mqtt(Section):
    connect_timeout_seconds: int = Field(
        default=10, ge=1, le=300, description="Time from connecting to a complete CONNECT."
    )
    keep_alive_max_seconds: int = Field(
        default=3600,
        ge=1,
        le=65_535,
        description="The most that a device's keep alive is granted (5.0: Server Keep Alive).",
    )
    publish_bytes_max: int = Field(
        default=1_000_000,
        ge=128,
        le=PUBLISH_BYTES_CEILING,
        description="Largest packet that a device may send; with key and headers it stays below Kafka's 1048588.",
    )
    receive_maximum: int = Field(
        default=128, ge=1, le=65_535, description="Publishes that one device may have unacknowledged at a time."
    )
    topic_alias_maximum: int = Field(
        default=16, ge=0, le=65_535, description="Topic aliases that one 5.0 device may define; 0: none."
    )


class Limits(Section):
    connections_max: int = Field(default=15_000, ge=1, le=1_000_000, description="Connections of this replica.")
    connects_per_second_max: int = Field(
        default=1000, ge=1, le=100_000, description="New connections that are taken up."
    )


class AuthenticatorEntry(Section):
    type: Literal["password_file"] = Field(description="How the device proves who it is.")
    path: Annotated[Path, AfterValidator(beside_the_file)] = Field(
        strict=False,
        description="The file that `mqk passwd` writes; relative to the directory of the configuration file.",
    )


class Auth(Section):
    anonymous: bool = Field(
        default=False,
        description="Accept a device when nobody in the chain has an answer; its user name is kept, unverified.",
    )
    bind_client_id: bool = Field(
        default=False,
        description="A client identifier belongs to the first user name that used it, until its session ends.",
    )
    chain: list[AuthenticatorEntry] = Field(
        default=[], description="Who is asked about a device, in order; each allows, denies or passes on."
    )


class Acl(Section):
    file: Annotated[Path, AfterValidator(beside_the_file)] | None = Field(
        default=None,
        strict=False,
        description="Who may publish where and subscribe to what, a rule a line (docs/acl.md); relative to the "
        "directory of the configuration file. Unset: the defaults decide.",
    )
    publish_default: Literal["allow", "deny"] = Field(
        default="allow", description="What is true of a publish that no rule speaks of."
    )
    subscribe_default: Literal["allow", "deny"] = Field(
        default="deny", description="What is true of a subscription that no rule speaks of."
    )
    on_publish_denied: Literal["ack", "close"] = Field(
        default="ack",
        description="5.0 hears 0x87. Who cannot be told (before 5.0, and at QoS 0) is acknowledged and counted, or "
        "closed.",
    )


class RuleEntry(Section):
    name: str = Field(default="", max_length=64, description="What logs, dead letters and `mqk route explain` call it.")
    filter: str | None = Field(
        default=None, description="MQTT topic filter; a level in braces, as in `tlink/{device}/#`, is a variable."
    )
    prefix: str | None = Field(default=None, description="What the topic begins with, as plain text.")
    contains: str | None = Field(default=None, description="What the topic contains anywhere, as plain text.")
    regex: str | None = Field(
        default=None, description="RE2 expression, found anywhere in the topic; named groups are variables."
    )
    topic: Annotated[list[str], BeforeValidator(one_or_many)] = Field(
        min_length=1,
        max_length=TARGETS_PER_RULE_MAX,
        description="Kafka topics, a template each; `topic@cluster` is on the cluster of that name. One may stand "
        "without brackets.",
    )
    key: str | None = Field(default=None, description="Template of the record's key; unset: the MQTT topic.")
    partitioner: str = Field(
        default="md5", description="`md5`, `murmur2` as Java clients, `round_robin`, `random`, `sticky` or `fixed:N`."
    )
    value: Literal["raw", "json", "msgpack"] = Field(
        default="raw", description="The payload byte for byte, or an envelope around it."
    )
    headers: dict[str, str] = Field(default={}, description="Further headers: name and template.")
    payload_bytes_max: int = Field(
        default=0, ge=0, description="A larger payload becomes a dead letter or is refused; 0: no limit."
    )

    @field_validator("topic")
    @classmethod
    def _different_topics(cls, topics: list[str]) -> list[str]:
        return no_repetition(topics)


class Routing(Section):
    preset: Literal["tlink", "single", "none"] = Field(
        default="tlink",
        description="The rules while there are none of your own. `tlink`: ota, sub_register, sub_status or msg by the "
        "topic; `single`: one Kafka topic.",
    )
    match: Literal["first", "all"] = Field(
        default="first", description="Whether the first rule that takes a publish decides, or all that do."
    )
    unmatched: Literal["drop", "dead_letter", "reject"] = Field(
        default="drop",
        description="A publish that no rule takes: acknowledged and counted, kept in the dead-letter topic, or refused "
        "(5.0: 0x90; 3.1.1 cannot be told: acknowledged and counted).",
    )
    dead_letter: bool = Field(
        default=True,
        description="A record that Kafka can never store goes to the topic `${prefix}dead_letter` of its cluster, with "
        "the cause in its headers, and is acknowledged; `false`: the device is told (3.1.1: acknowledged and counted).",
    )
    md5_partitions: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Partition count used in the hash, as the plugin had it configured; unset: the topic's real one.",
    )
    allowed_topics: list[TopicPattern] = Field(
        default=[],
        description="Kafka topics that templates may make of device data; `*` stands for any text. Empty: all that "
        "begin with kafka.topic_prefix.",
    )
    rules: list[RuleEntry] = Field(default=[], description="Rules of your own, in the order in which they are asked.")

    @model_validator(mode="after")
    def _dead_letters_have_a_place(self) -> Self:
        if self.unmatched == "dead_letter" and not self.dead_letter:
            raise ValueError('unmatched = "dead_letter" needs dead_letter = true')
        return self


class Status(Section):
    topic: str = Field(
        default="${prefix}status", description="Where connected and disconnected go; `${prefix}` is kafka.topic_prefix."
    )
    key: Literal["clientid", "action"] = Field(
        default="clientid", description="Key of these records; `action` as the plugin did, without order per device."
    )

    @field_validator("topic")
    @classmethod
    def _names_a_topic(cls, topic: str) -> str:
        rest = topic.replace("${prefix}", "", 1)
        # With the longest prefix this is Kafka's longest topic name, 249 characters.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,49}", rest, re.ASCII):
            raise ValueError("should be ${prefix} and at most 49 letters, digits, dots, underscores or hyphens")
        return topic


class Commands(Section):
    group: str = Field(
        default="mqtt-kafka-proxy",
        min_length=1,
        max_length=249,
        description="Consumer group that divides the commands among the replicas; the plugin's was `emqx_cluster`.",
    )
    start: Literal["latest", "earliest"] = Field(
        default="latest", description="Where a group begins that has never committed."
    )
    max_age_seconds: int = Field(
        default=0,
        ge=0,
        description="A kick_out or acl_clean that is older has the outcome `expired` and is not executed; 0: no limit.",
    )
    ack_timeout_seconds: int = Field(
        default=30,
        ge=1,
        le=200,
        description="What a device has, from the command to its acknowledgement; then the outcome is `timed_out`.",
    )
    owner: str = Field(
        default="",
        description="Topic filter that says whose a topic of msg_down is when no header does: with the levels "
        "`{product_key}` and `{device_name}`, or `{username}`, as in `tlink/{product_key}/{device_name}/#`. Empty: "
        "whoever subscribed to it.",
    )

    @field_validator("owner")
    @classmethod
    def _names_a_user(cls, owner: str) -> str:
        names = set(parse_filter(owner).names) if owner else {"username"}
        if names not in ({"product_key", "device_name"}, {"username"}):
            raise ValueError("should have the levels {product_key} and {device_name}, or {username}, and no others")
        return owner


class Sessions(Section):
    expiry_max_seconds: int = Field(
        default=604_800,
        ge=0,
        le=31_536_000,
        description="The most that a session outlives its connection: cap of Session Expiry, and the time that clean "
        "session 0 gets in 3.1 and 3.1.1; 0: no sessions.",
    )


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII):
        raise ValueError("should be 64 hexadecimal digits; `mqk token` prints them")
    return text.lower()


class AdminToken(Section):
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Who has it; what the log says of who changed something.",
    )
    role: Literal["read", "write"] = Field(default="read", description="`write` may read too.")
    token_sha256: Annotated[str, AfterValidator(_sha256)] = Field(
        description="SHA-256 of the token in hexadecimal digits; `mqk token` makes both."
    )


class Admin(Section):
    bind: Address = Field(
        default="127.0.0.1:8080",
        description="Health, metrics and the admin API over HTTP. Beyond loopback only with tokens.",
    )
    tokens: list[AdminToken] = Field(
        default=[],
        max_length=ADMIN_TOKENS_MAX,
        description="Bearer tokens of the admin API; without any it is open to this machine.",
    )

    @field_validator("tokens")
    @classmethod
    def _one_token_per_name(cls, tokens: list[AdminToken]) -> list[AdminToken]:
        no_repetition([token.name for token in tokens])
        no_repetition([token.token_sha256 for token in tokens])
        return tokens


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is written."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto`: console on a terminal, else one JSON object a line."
    )


_Moved = TypeVar("_Moved", bound=Section)


def _binds(part: Section) -> dict[str, str]:
    """What a section listens on, by its key, which ends in "bind"."""
    return {key: str(bind) for key, bind in part if key.endswith("bind") and bind is not None}


def _addresses(node: Node, listeners: list[Listener], admin: Admin) -> dict[str, str]:
    parts = {"node": node, **{f"listeners[{number}]": each for number, each in enumerate(listeners)}, "admin": admin}
    return {f"{name}.{key}": bind for name, part in parts.items() for key, bind in _binds(part).items()}


class Settings(Section):
    """All of them. The order is that of the documentation."""

    node: Node = Node()
    kafka: Kafka = Kafka()
    listeners: list[Listener] = Field(default=[Listener()], min_length=1, description="Doors for devices.")
    mqtt: Mqtt = Mqtt()
    limits: Limits = Limits()
    auth: Auth = Auth()
    acl: Acl = Acl()
    routing: Routing = Routing()
    status: Status = Status()
    commands: Commands = Commands()
    sessions: Sessions = Sessions()
    admin: Admin = Admin()
    log: Log = Log()

    @field_validator("listeners")
    @classmethod
    def _one_listener_per_address(cls, listeners: list[Listener]) -> list[Listener]:
        # Port 0 is whatever is free, so any number may ask for it.
        no_repetition([listener.bind for listener in listeners if split_address(listener.bind)[1]])
        return listeners

    @field_validator("auth")
    @classmethod
    def _somebody_may_connect(cls, auth: Auth) -> Auth:
        if not auth.chain and not auth.anonymous:
            raise ValueError(
                "nobody could connect: auth.chain is empty and auth.anonymous is false. Add an [[auth.chain]] with "
                'type = "password_file" and a path, or set auth.anonymous = true'
            )
        return auth

    @field_validator("admin")
    @classmethod
    def _own_port(cls, admin: Admin, info: ValidationInfo) -> Admin:
        taken = [listener.bind for listener in info.data.get("listeners", [])]
        if admin.bind in taken and split_address(admin.bind)[1]:
            raise ValueError(f"admin.bind {admin.bind} is a listener's already")
        if not admin.tokens and not is_loopback(split_address(admin.bind)[0]):
            raise ValueError(
                f"admin.bind {admin.bind} is not a loopback address, and without [[admin.tokens]] everybody could "
                "give orders there; `mqk token` makes one"
            )
        return admin

    @field_validator("admin")
    @classmethod
    def _slots_have_ports(cls, admin: Admin, info: ValidationInfo) -> Admin:
        node: Node | None = info.data.get("node")
        if node is not None and node.workers > 1:
            addresses = _addresses(node, info.data.get("listeners", []), admin)
            check_slots(addresses, node.workers, node.slot_port_step)
        return admin

    def addresses(self) -> dict[str, str]:
        """What a replica listens on, by the name of the setting."""
        return _addresses(self.node, self.listeners, self.admin)

    def in_slot(self, slot: int) -> Self:
        """What the replica in that slot of several is started with: a node id and ports of its own."""

        def moved(part: _Moved, **more: str) -> _Moved:
            by = slot * self.node.slot_port_step
            return part.model_copy(update={key: shift_address(bind, by) for key, bind in _binds(part).items()} | more)

        update = {
            "node": moved(self.node, id=f"{self.node.id}-{slot}"),
            "listeners": [moved(listener) for listener in self.listeners],
            "admin": moved(self.admin),
        }
        return self.model_copy(update=update)

    def status_topic(self) -> str:
        """`status.topic` with the prefix put in."""
        return self.status.topic.replace("${prefix}", self.kafka.topic_prefix)

    def command_topics(self) -> list[str]:
        """Where commands come from, and where their results go."""
        names = ("msg_down", "kick_out", "acl_clean", "command_results")
        return [f"{self.kafka.topic_prefix}{name}" for name in names]

    def dead_letter_topic(self) -> str | None:
        """Where records go that can never be stored; None: nowhere."""
        return f"{self.kafka.topic_prefix}dead_letter" if self.routing.dead_letter else None

    def clusters(self) -> dict[str, KafkaCluster]:
        """All of them by the table that they stand in."""
        return {"kafka": self.kafka, **{f"kafka.clusters.{name}": each for name, each in self.kafka.clusters.items()}}

    def unsafe(self) -> list[str]:
        """The settings that weaken the promise that an acknowledgement is."""
        found = []
        for section, cluster in self.clusters().items():
            if cluster.unsafe_acks != "all":
                found.append(f"{section}.unsafe_acks")
            if not cluster.unsafe_idempotence:
                found.append(f"{section}.unsafe_idempotence")
        return found

    def warnings(self) -> list[str]:
        """What is allowed and deserves a second look; one sentence each."""
        meaning = {"unsafe_acks": 'is not "all": acknowledged records can be lost'}
        meaning["unsafe_idempotence"] = "is false: retries can store a record twice"
        found = [f"{key} {meaning[key.rpartition('.')[2]]}" for key in self.unsafe()]
        for section, cluster in self.clusters().items():
            found += [f"{section}.client.{warning}" for warning in cluster.client.warnings()]
        if (self.routing.md5_partitions or 0) > 256:
            found.append("routing.md5_partitions is above 256: one byte of MD5 reaches only the first 256 partitions")
        if self.acl.publish_default == "deny" and self.acl.file is None:
            found.append('acl.publish_default is "deny" and there is no acl.file: nobody may publish anything')
        routing = self.routing
        if routing.preset == "none" and not routing.rules:
            found.append('routing.preset is "none" and there are no routing.rules: nothing reaches Kafka')
        if routing.rules and routing.preset != "none" and "preset" in routing.model_fields_set:
            found.append(f'routing.preset is "{routing.preset}", which counts only while there are no routing.rules')
        return found


def changed(before: Settings, now: Settings) -> set[str]:
    """The settings that are not what they were: `section.key`, or a list of tables as a whole."""
    found = set()
    for section in Settings.model_fields:
        old, new = getattr(before, section), getattr(now, section)
        if isinstance(old, BaseModel):
            found |= {f"{section}.{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)}
        elif old != new:
            found.add(section)
    return found
