"""What the admin API takes and gives, in the words of its document."""

import base64
import binascii
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema

from proxy import limits
from proxy.cluster.commands import Selector
from proxy.errors import MqttError
from proxy.mqtt.topics import parse_topic_name
from proxy.policy.bans import ADDRESS, BanKind, normal_address


def _is_utf8(text: str) -> str:
    """JSON can hold half a character (a lone surrogate), which MQTT and Kafka cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return text


def _is_topic_name(topic: str) -> str:
    try:
        parse_topic_name(_is_utf8(topic).encode())
    except MqttError as error:
        raise ValueError(str(error)) from None
    return topic


Text = Annotated[str, AfterValidator(_is_utf8)]
#: A client identifier or a user name.
Name = Annotated[Text, Field(min_length=1, max_length=limits.MQTT_TEXT_BYTES_MAX)]
Topic = Annotated[
    str,
    AfterValidator(_is_topic_name),
    Field(min_length=1, max_length=limits.MQTT_TEXT_BYTES_MAX, pattern=r"^[^+#\x00]+$"),
]
Seconds = Annotated[int, Field(ge=1, le=limits.ADMIN_SECONDS_MAX)]
#: As `paging` makes it.
Cursor = Annotated[
    str, Field(min_length=1, max_length=limits.ADMIN_CURSOR_CHARACTERS_MAX, pattern=r"^[A-Za-z0-9_=-]+$")
]
#: What a list is filtered by.
Wanted = Annotated[Text, Field(max_length=limits.ADMIN_FILTER_CHARACTERS_MAX)]


class _Request(BaseModel):
    """What is not known is refused: most often it is misspelt."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Query(BaseModel):
    """Everything in a query is text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid")


class Page(_Query):
    """`cursor` is the `next` of the page before."""

    limit: int = Field(limits.ADMIN_PAGE_DEFAULT, ge=1, le=limits.ADMIN_PAGE_MAX, description="Entries of a page.")
    cursor: Cursor | SkipJsonSchema[None] = Field(None, description="`next` of the page before.")


class ClientsQuery(Page):
    clientid: Wanted | SkipJsonSchema[None] = Field(None, description="What the client identifier begins with.")
    username: Wanted | SkipJsonSchema[None] = Field(None, description="The user name.")
    node: Wanted | SkipJsonSchema[None] = Field(None, description="The replica that it is or was connected to.")
    state: Literal["connected", "offline"] | SkipJsonSchema[None] = Field(None, description="Only these.")


_WHOM: Final[list[JsonValue]] = [
    {"required": ["clientid"]},
    {"required": ["username"]},
    {"required": ["productKey", "deviceName"]},
]


class Selection(_Request):
    """Which clients: those to whom everything that is given applies."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": _WHOM,
            "dependentRequired": {"productKey": ["deviceName"], "deviceName": ["productKey"]},
        }
    )

    clientid: Name | SkipJsonSchema[None] = None
    username: Name | SkipJsonSchema[None] = None
    product_key: Name | SkipJsonSchema[None] = Field(None, alias="productKey")
    device_name: Name | SkipJsonSchema[None] = Field(None, alias="deviceName")

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        if (self.product_key is None) != (self.device_name is None):
            raise ValueError("productKey and deviceName go together")
        if self.device_name is not None and self.username is not None:
            raise ValueError("username is what productKey and deviceName make: give one of both")
        if self.clientid is None and self.selector().username is None:
            raise ValueError("clientid, username, or productKey and deviceName must be given")
        return self

    def selector(self) -> Selector:
        """The user name of a device is `deviceName&productKey`."""
        username = f"{self.device_name}&{self.product_key}" if self.device_name is not None else self.username
        return Selector(self.clientid, username)


class CleanSelection(Selection):
    """`all`: of every client."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [*_WHOM, {"required": ["all"], "properties": {"all": {"const": True}}}],
        }
    )

    all: bool = False

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        if not self.all:
            return super()._says_whom()  # type: ignore[operator, no-any-return]
        if self.clientid is not None or self.username is not None or self.device_name is not None:
            raise ValueError("all goes with nothing else")
        return self


class MessageRequest(_Request):
    """A message for devices that have subscribed to its topic."""

    topic: Topic
    payload: Text = Field("", max_length=limits.ADMIN_BODY_BYTES_MAX)
    encoding: Literal["text", "base64"] = Field("text", description="What `payload` is.")
    qos: Literal[0, 1, 2] = 0
    retain: bool = False
    expires_in_seconds: Seconds | SkipJsonSchema[None] = Field(
        None, description="Afterwards it is not delivered any more."
    )
    user_properties: dict[Text, Text] = Field(
        default_factory=dict, max_length=limits.ADMIN_USER_PROPERTIES_MAX, description="For MQTT 5.0 devices."
    )

    @model_validator(mode="after")
    def _can_be_decoded(self) -> Self:
        try:
            self.content()
        except binascii.Error as error:
            raise ValueError(f"payload is not base64: {error}") from None
        return self

    def content(self) -> bytes:
        """The payload. Raises binascii.Error."""
        return base64.b64decode(self.payload, validate=True) if self.encoding == "base64" else self.payload.encode()


class TopicMessageRequest(MessageRequest):
    username: Name | SkipJsonSchema[None] = Field(None, description="Only for clients of this user.")


class BanRequest(_Request):
    kind: BanKind
    value: Annotated[Text, Field(min_length=1, max_length=limits.BAN_VALUE_CHARACTERS_MAX)] = Field(
        description="The client identifier, the user name, or the address or network (CIDR)."
    )
    reason: Annotated[Text, Field(max_length=limits.BAN_REASON_CHARACTERS_MAX)] = ""
    seconds: Seconds | SkipJsonSchema[None] = Field(None, description="How long. Without it for ever.")

    @model_validator(mode="after")
    def _is_address(self) -> Self:
        if self.kind == ADDRESS:
            self.value = normal_address(self.value)
        return self


class ExplainRequest(_Request):
    topic: Topic
    clientid: Name = "device"
    username: Text | SkipJsonSchema[None] = None


class ClientOut(BaseModel):
    """`epoch` names the connection. `expires_at` is when the session of a client that is offline ends.
    `subscriptions` is null when only another replica knows them: those of a session that ends with its connection are
    in no log.
    """

    clientid: str
    username: str | None
    state: Literal["connected", "offline"]
    node: str
    address: str
    protocol_version: str
    keep_alive_seconds: int
    connected_at: str
    epoch: int
    expiry_seconds: int
    expires_at: str | None
    subscriptions: list[str] | None


class ClientsOut(BaseModel):
    """A page may hold fewer than `limit`, even none: it is the last when there is no `next`."""

    clients: list[ClientOut]
    next: str | None


class OutcomeOut(BaseModel):
    clientid: str
    outcome: str
    node: str


class ResultOut(BaseModel):
    """What became of a command, and of each client that it hit."""

    id: str
    kind: str
    outcome: str
    clients: list[OutcomeOut]


class NodeOut(BaseModel):
    """A replica as the others hear of it. `this` is the one that answers."""

    node: str
    incarnation: int
    state: str
    alive: bool
    this: bool
    admin_address: str
    connections: int


class NodesOut(BaseModel):
    nodes: list[NodeOut]


class RouteOut(BaseModel):
    """A rule of `[routing]`; what it does not ask for is empty."""

    name: str
    filter: str
    prefix: str
    contains: str
    regex: str
    targets: list[str]
    key: str


class RoutesOut(BaseModel):
    routes: list[RouteOut]
    next: str | None


class RecordOut(BaseModel):
    """`partition` is null where it is not the key that decides; `refused` says why Kafka would not get it."""

    rule: str
    cluster: str
    kafka_topic: str
    refused: str | None
    key: str
    partition: int | None
    partitions: int
    headers: dict[str, str]


class ExplainedOut(BaseModel):
    """As `mqk route explain --json`."""

    topic: str
    clientid: str
    username: str | None
    rules: list[str]
    outcome: str
    records: list[RecordOut]


class BanOut(BaseModel):
    kind: BanKind
    value: str
    reason: str
    by: str
    since: str
    expires_at: str | None


class BansOut(BaseModel):
    bans: list[BanOut]
    next: str | None


class SettingOut(BaseModel):
    key: str
    value: object


class ConfigOut(BaseModel):
    """What is in force. Secrets are masked."""

    settings: list[SettingOut]


class DrainOut(BaseModel):
    """`serving`, `draining`, or `drained` once the last device has gone."""

    node: str
    state: str


class ProblemOut(BaseModel):
    """RFC 9457. `errors` name the fields of the request that are wrong."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[str] = []
