"""The state machine of one connection, server side. Pure: it has no socket, no clock and no log.

Feed it with `receive_data`, `receive_eof`, `connection_lost` and `tick`; write what `data_to_send` returns; do what the
events ask. It never raises on what a peer sends: a broken rule becomes the answer of the standard, and every later byte
is discarded.
"""

from collections import deque
from dataclasses import replace
from typing import Final

from proxy import limits
from proxy.errors import MessageTooLarge, MqttError, SendWindowFull, SessionError
from proxy.mqtt import packets
from proxy.mqtt.decode import decode_connect, decode_packet, decode_publish
from proxy.mqtt.encode import PINGRESP, encode_ack, encode_packet, encode_pubacks
from proxy.mqtt.framing import Framer
from proxy.mqtt.packets import (
    CONNACK_RETURN_CODES,
    CONNACK_SERVER_UNAVAILABLE,
    MQTT_5_0,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Publish,
    ReasonCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from proxy.mqtt.topics import TopicName
from proxy.session.acks import ReceiveWindow, SendWindow
from proxy.session.events import Acknowledged, Completed, EndReason, Event, Grant, Heard, SessionLimits, end_reason

#: The two states in which packets are read come first: `state <= CONNECTED` is asked for each one.
AWAITING_CONNECT: Final = 0
CONNECTED: Final = 1
CONNECTING: Final = 2
CLOSED: Final = 3

#: Why PUBLISH packets are set aside instead of handled.
_HOLD_APPLICATION: Final = 1
_HOLD_WINDOW: Final = 2
#: Set aside with the PUBLISH packets, so that order is kept; anything else is answered at once.
#: PUBREL too: handled before a repeated PUBLISH that waits, it would make that a new message.
_ORDERED: Final = frozenset(
    {packets.PUBLISH, packets.PUBREL, packets.SUBSCRIBE, packets.UNSUBSCRIBE, packets.DISCONNECT}
)
#: A connection lives one and a half times its keep alive without a packet [MQTT-3.1.2-22].
_KEEP_ALIVE_GRACE: Final = 1.5
#: More than any window can hold: 5.0 has its own answer to a window exceeded, so nothing is set aside for it.
_NEVER: Final = 65_536
#: Receive Maximum of a peer that does not say (3.1.2.11.3).
_RECEIVE_MAXIMUM_DEFAULT: Final = 65_535
#: Reason codes that a CONNACK may carry (3.2.2.2); any other reason is said as 0x88, server unavailable.
_CONNACK_REASONS: Final = frozenset({*range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F})


class ServerProtocol:
    """One connection. Times are seconds of any monotonic clock."""

    __slots__ = (
        "_aliases", "_framer", "_held", "_held_bytes", "_hold", "_hold_at", "_keep_alive", "_last_received", "_limits",
        "_out", "_peer_closed", "_sending", "_topics", "_unheard", "_window", "connect", "detail", "end",
        "session_expiry_seconds", "state", "version", "with_will",
    )  # fmt: skip

    def __init__(self, session_limits: SessionLimits, now: float) -> None:
        self._limits = session_limits
        self._framer = Framer(limits.CONNECT_BYTES_MAX)
        self._window = ReceiveWindow()
        self._topics: dict[bytes, TopicName] = {}
        #: What topic aliases of this connection stand for; made when there is one.
        self._aliases: dict[int, TopicName] | None = None
        #: Messages of ours in flight; made when there is one.
        self._sending: SendWindow | None = None
        self._out: list[bytes] = []
        self._held: deque[tuple[int, bytes]] | None = None
        self._held_bytes = 0
        self._hold = 0
        self._hold_at = _NEVER
        self._last_received = now
        self._keep_alive = session_limits.connect_timeout_seconds
        #: Set from CONNACK until the device has sent something.
        self._unheard = False
        #: The peer closed its side before it had its CONNACK, and had sent more than its CONNECT.
        self._peer_closed = False
        self.state = AWAITING_CONNECT
        self.version = packets.MQTT_3_1_1
        self.connect: Connect | None = None
        #: Set once `state` is CLOSED: why, in a word and in a sentence, and whether the will is to be published.
        self.end: EndReason | None = None
        self.detail = ""
        self.with_will = False
        #: What the device's DISCONNECT made of its Session Expiry Interval.
        self.session_expiry_seconds: int | None = None

    # ---- what the peer does ----

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Takes bytes as they came. Events are in the order of their packets."""
        events: list[Event] = []
        if self.state == CLOSED:
            return events
        if self.state != AWAITING_CONNECT:
            # The CONNECT timeout counts from the start, or bytes that trickle in would hold the connection for ever.
            self._last_received = now
        if self._unheard and self.state == CONNECTED:
            self._unheard = False
            events.append(Heard())
        try:
            self._framer.feed(data)
            self._parse(events)
        except MqttError as error:
            self._fail(error)
        return events

    def receive_eof(self) -> list[Event]:
        """The peer closed its side. One that did not wait for its CONNACK (3.1.4) is answered and heard to the end."""
        if self.state == CONNECTING and self._framer.unread_bytes:
            self._peer_closed = True
            return []
        return self.connection_lost()

    def connection_lost(self) -> list[Event]:
        """The connection is no more. What was set aside is handled first: it may end with the peer's DISCONNECT."""
        events: list[Event] = []
        if self.state == CONNECTED:
            self._hold, self._hold_at = 0, _NEVER
            events = self._continue()
        if self.state != CLOSED:
            # A will is stored when its CONNECT is accepted [MQTT-3.1.2-7]; 3.1.1: [MQTT-3.1.2-8].
            accepted = self.state == CONNECTED
            self._close(EndReason.TCP_CLOSED, "connection closed by the peer", with_will=accepted)
        return events

    def tick(self, now: float) -> None:
        """Ends the connection when CONNECT or the next packet is overdue."""
        if self.state == CLOSED or now < self.next_deadline:
            return
        if self.state == AWAITING_CONNECT:
            self._close(EndReason.PROTOCOL_ERROR, "no CONNECT in time", with_will=False)
        elif self.state == CONNECTED:
            self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep alive is over")

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do if nothing arrives. What we do not read cannot be overdue."""
        if not self._keep_alive or not self.want_read:
            return float("inf")
        return self._last_received + self._keep_alive

    @property
    def want_read(self) -> bool:
        """False while what was set aside fills its budget: leave the rest to TCP."""
        if self.undisturbed:
            return True
        return self._held_bytes + self._framer.unread_bytes < limits.HELD_BYTES_MAX or self.state == AWAITING_CONNECT

    @property
    def undisturbed(self) -> bool:
        """True while there is nothing to do but to read on: connected, and nothing held."""
        return self.state == CONNECTED and not self._hold

    @property
    def close_expected(self) -> bool:
        """True once everything that is left to do is to write what `data_to_send` returns and close."""
        return self.state == CLOSED

    @property
    def unsettled(self) -> int:
        """Messages received whose acknowledgement has not been handed out."""
        return self._window.unsettled

    @property
    def in_flight(self) -> int:
        """Messages of ours that the device has not acknowledged to the end."""
        return 0 if self._sending is None else len(self._sending)

    @property
    def unreleased(self) -> list[int]:
        """QoS 2 packet identifiers that wait for PUBREL; known after the end too."""
        return self._window.unreleased

    def restore(self, packet_ids: list[int]) -> None:
        """More such identifiers, whose outcome became known on an earlier connection of the session."""
        self._window.restore(packet_ids)

    # ---- what the application answers ----

    def accept_connect(self, grant: Grant) -> list[Event]:
        """Sends CONNACK; returns what the peer had sent behind its CONNECT."""
        connect = self.connect
        if self.state != CONNECTING or connect is None:
            raise SessionError("no CONNECT waits for an answer")
        self._keep_alive = self._granted_keep_alive(connect) * _KEEP_ALIVE_GRACE
        self._framer.packet_bytes_max = self._limits.publish_bytes_max
        if self.version < MQTT_5_0:
            self._hold_at = self._limits.receive_maximum
        properties = self._connack_properties(connect, grant) if self.version == MQTT_5_0 else {}
        # 3.1 has no such flag: its byte is reserved.
        session_present = grant.session_present and self.version != packets.MQTT_3_1
        if grant.unreleased:
            self._window.restore(grant.unreleased)
        self._send(Connack(session_present, ReasonCode.SUCCESS, properties))
        self.state = CONNECTED
        self._unheard = True
        events = self._continue()
        return [*events, *self.connection_lost()] if self._peer_closed else events

    def refuse_connect(self, reason_code: int, detail: str) -> None:
        """Sends CONNACK with the reason, or the return code of 3.1.1 nearest to it, and closes."""
        if self.state not in {AWAITING_CONNECT, CONNECTING}:
            raise SessionError("no CONNECT waits for an answer")
        if self.version < MQTT_5_0:
            self._send(Connack(False, CONNACK_RETURN_CODES.get(reason_code, CONNACK_SERVER_UNAVAILABLE)))
        else:
            known = reason_code in _CONNACK_REASONS
            self._explain(Connack(False, reason_code if known else ReasonCode.SERVER_UNAVAILABLE), detail)
        self._close(end_reason(reason_code), detail, with_will=False)

    def settle_publishes(self, packet_ids: list[int], reason_code: int) -> None:
        """The outcome of QoS 1 and 2 messages is known; each PUBACK or PUBREC leaves when those before it can. Before
        5.0 there is no refusal: the device is told that it need not send the message again.
        """
        window = self._window
        released = window.settle(packet_ids, reason_code if self.version == MQTT_5_0 else ReasonCode.SUCCESS)
        if released and not window.has_exactly_once:
            self._out.append(encode_pubacks(released))
            return
        for packet_id, reason in released:
            pubrec = window.receive_of(packet_id, refused=reason >= ReasonCode.UNSPECIFIED_ERROR)
            packet_type = packets.PUBREC if pubrec else packets.PUBACK
            self._out.append(encode_ack(packet_type, packet_id, reason, self.version))

    def acknowledge_subscribe(self, packet_id: int, reason_codes: list[int]) -> None:
        """One reason code for each topic filter [MQTT-3.8.4-5]; before 5.0 every refusal is 0x80."""
        if self.version < MQTT_5_0:
            reason_codes = [min(code, ReasonCode.UNSPECIFIED_ERROR) for code in reason_codes]
        if self.version == packets.MQTT_3_1:
            # 3.1 has no failure code: the subscription is granted and nothing is ever delivered.
            reason_codes = [code % ReasonCode.UNSPECIFIED_ERROR for code in reason_codes]
        self._send(Suback(packet_id, reason_codes))

    def acknowledge_unsubscribe(self, packet_id: int, reason_codes: list[int]) -> None:
        """One reason code for each topic filter; 3.1.1 has none."""
        self._send(Unsuback(packet_id, reason_codes if self.version == MQTT_5_0 else []))

    def disconnect(self, reason_code: int, detail: str, *, with_will: bool = True) -> None:
        """Ends the connection from our side: 5.0 hears why, after the acknowledgements that are due; 3.x is closed."""
        if self.state == CLOSED:
            return
        if self.state != CONNECTED:
            # Never DISCONNECT before CONNACK [MQTT-3.14.0-1].
            self.refuse_connect(reason_code, detail)
            return
        if self.version == MQTT_5_0:
            self._explain(Disconnect(reason_code), detail)
        self._close(end_reason(reason_code), detail, with_will=with_will)

    def send_publish(self, message: Publish) -> int | None:
        """Sends a message to the device; its packet identifier, None at QoS 0. What becomes of it at QoS 1 and 2 is an
        `Acknowledged` event.

        Raises SessionError when it is not connected, MessageTooLarge when the device does not take it [MQTT-3.1.2-24],
        SendWindowFull when as many are in flight as it takes [MQTT-3.3.4-9].
        """
        if self.state != CONNECTED:
            raise SessionError("not connected")
        window = self._send_window()
        if message.qos and window.full:
            raise SendWindowFull("as many messages in flight as the device takes")
        message.packet_id = window.next_id() if message.qos else 0
        encoded = encode_packet(message, self.version)
        if len(encoded) > self._peer_packet_bytes_max():
            raise MessageTooLarge(f"packet of {len(encoded)} bytes, the device takes {self._peer_packet_bytes_max()}")
        if message.qos:
            window.open(message.packet_id, message.qos)
        self._out.append(encoded)
        return message.packet_id or None

    def forget_decisions(self) -> None:
        """What was decided for topic names of this connection is to be asked again."""
        for topic in (*self._topics.values(), *(self._aliases or {}).values()):
            topic.decision = None

    def hold(self) -> None:
        """Sets PUBLISH packets aside until `resume`; PINGREQ is still answered."""
        self._hold |= _HOLD_APPLICATION

    def resume(self, now: float) -> list[Event]:
        """Handles what was set aside. Call it when back-pressure ends, and after writing if `resumable`."""
        self._hold = 0
        if self.state == CONNECTED:
            self._last_received = now
        return self._continue()

    @property
    def resumable(self) -> bool:
        """True when only the window of 3.1.1 held messages back and it has room again."""
        return self._hold == _HOLD_WINDOW and self._window.unsettled < self._limits.receive_maximum

    def data_to_send(self) -> list[bytes]:
        """What is to be written now, in order."""
        out = self._out
        if out:
            self._out = []
        return out

    # ---- inside ----

    def _parse(self, events: list[Event]) -> None:
        framer = self._framer
        window = self._window
        while self.state <= CONNECTED and framer.next_packet():
            if self.state == AWAITING_CONNECT:
                self._receive_connect(framer.first_byte, framer.buffer, framer.start, framer.stop, events)
            elif self._hold or window.unsettled >= self._hold_at:
                self._set_aside(framer, events)
                if self._held_bytes >= limits.HELD_BYTES_MAX:
                    # The rest waits as it came: set aside, small packets would take fifty times their bytes.
                    break
            elif framer.first_byte >> 4 == packets.PUBLISH:
                self._receive_publish(framer.first_byte, framer.buffer, framer.start, framer.stop, events)
            else:
                self._receive_other(framer.first_byte, framer.buffer, framer.start, framer.stop, events)

    def _receive_packet(self, first_byte: int, buffer: bytes, start: int, stop: int, events: list[Event]) -> None:
        if first_byte >> 4 == packets.PUBLISH:
            self._receive_publish(first_byte, buffer, start, stop, events)
        else:
            self._receive_other(first_byte, buffer, start, stop, events)

    def _receive_publish(self, first_byte: int, buffer: bytes, start: int, stop: int, events: list[Event]) -> None:
        topics = self._topics
        publish = decode_publish(first_byte, buffer, start, stop, self.version, topics)
        if len(topics) > limits.TOPICS_CACHED_PER_CONNECTION_MAX:
            topics.clear()
        if publish.properties or not publish.topic.raw:
            self._resolve_topic(publish)
        if publish.qos and not self._open_window(publish):
            return
        events.append(publish)

    def _open_window(self, publish: Publish) -> bool:
        """False for a message that was received before: it is not handed on again."""
        window = self._window
        packet_id = publish.packet_id
        if packet_id in window:
            self._receive_again(publish)
            return False
        if len(window) >= self._limits.receive_maximum and self.version == MQTT_5_0:
            # [MQTT-3.3.4-7]
            raise MqttError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, "more messages in flight than Receive Maximum")
        window.open(packet_id, publish.qos)
        return True

    def _receive_again(self, publish: Publish) -> None:
        """The identifier is in use. At QoS 2 that makes it the same message, DUP or not [MQTT-4.3.3-10]; 3.1.1:
        [MQTT-4.3.3-2]; at QoS 1 a retry has DUP and exists before 5.0 only [MQTT-4.4.0-1].
        """
        packet_id = publish.packet_id
        exactly_once = self._window.is_exactly_once(packet_id)
        if exactly_once is not (publish.qos == 2) or (
            publish.qos == 1 and (self.version == MQTT_5_0 or not publish.dup)
        ):
            raise MqttError(ReasonCode.PROTOCOL_ERROR, f"packet identifier {packet_id} is in use")
        if self._window.awaits_release(packet_id):
            self._out.append(encode_ack(packets.PUBREC, packet_id, ReasonCode.SUCCESS, self.version))

    def _resolve_topic(self, publish: Publish) -> None:
        """Topic alias [MQTT-3.3.2-8 to -12], and what a client may not say."""
        topic, properties = publish.topic, publish.properties
        if packets.SUBSCRIPTION_IDENTIFIER in properties:
            # [MQTT-3.3.4-6]
            raise MqttError(ReasonCode.PROTOCOL_ERROR, "PUBLISH from a client has a Subscription Identifier")
        alias = properties.get(packets.TOPIC_ALIAS)
        if isinstance(alias, int):
            if not 0 < alias <= self._limits.topic_alias_maximum:
                raise MqttError(ReasonCode.TOPIC_ALIAS_INVALID, f"topic alias {alias} is out of range")
            if self._aliases is None:
                self._aliases = {}
            if topic.raw:
                self._aliases[alias] = topic
            else:
                publish.topic = topic = self._aliases.get(alias, topic)
        if not topic.raw:
            # [MQTT-4.7.3-1]
            raise MqttError(ReasonCode.PROTOCOL_ERROR, "topic name is empty")

    def _receive_connect(self, first_byte: int, buffer: bytes, start: int, stop: int, events: list[Event]) -> None:
        if first_byte != packets.CONNECT << 4:
            # [MQTT-3.1.0-1]
            raise MqttError(ReasonCode.PROTOCOL_ERROR, "the first packet is not a CONNECT")
        connect = decode_connect(buffer, start, stop)
        self.connect = connect
        self.version = connect.protocol_version
        self.state = CONNECTING
        if packets.AUTHENTICATION_METHOD in connect.properties:
            raise MqttError(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not supported")
        if not connect.client_id and not self._may_be_anonymous(connect):
            # [MQTT-3.1.3-8]
            raise MqttError(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "empty client identifier")
        events.append(connect)

    def _receive_other(self, first_byte: int, buffer: bytes, start: int, stop: int, events: list[Event]) -> None:
        if first_byte >> 4 == packets.CONNECT:
            # [MQTT-3.1.0-2], whatever is in it.
            raise MqttError(ReasonCode.PROTOCOL_ERROR, "second CONNECT")
        packet = decode_packet(first_byte, buffer, start, stop, self.version)
        match packet:
            case packets.Pingreq():
                self._out.append(PINGRESP)
            case Subscribe():
                self._check_shared(packet)
                events.append(packet)
            case Unsubscribe():
                events.append(packet)
            case Disconnect():
                self._receive_disconnect(packet)
            case Ack():
                self._receive_ack(packet, events)
            case _:
                # AUTH without a method [MQTT-4.12.0-7], or what only a server sends.
                name = type(packet).__name__.upper()
                raise MqttError(ReasonCode.PROTOCOL_ERROR, f"{name} is not allowed here")

    def _check_shared(self, packet: Subscribe) -> None:
        """Shared Subscription Available 0 was announced (3.2.2.3.13); 3.1.1 knows no such filters."""
        if self.version == MQTT_5_0 and any(each.topic_filter.startswith("$share/") for each in packet.subscriptions):
            raise MqttError(ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "shared subscriptions are not supported")

    def _receive_disconnect(self, packet: Disconnect) -> None:
        connect = self.connect
        expiry = packet.properties.get(packets.SESSION_EXPIRY_INTERVAL)
        if expiry and connect is not None and not connect.properties.get(packets.SESSION_EXPIRY_INTERVAL):
            # It may not be raised from 0 (3.14.2.2.2).
            raise MqttError(ReasonCode.PROTOCOL_ERROR, "Session Expiry Interval was 0 at CONNECT")
        self.session_expiry_seconds = expiry if isinstance(expiry, int) else None
        # [MQTT-3.14.4-3]: the will goes with a normal DISCONNECT and only with that.
        self._close(EndReason.NORMAL, "DISCONNECT received", with_will=packet.reason_code != ReasonCode.SUCCESS)

    def _receive_ack(self, packet: Ack, events: list[Event]) -> None:
        """An unknown identifier is answered where the standard has an answer, and ignored elsewhere."""
        packet_type, packet_id = packet.packet_type, packet.packet_id
        if packet_type == packets.PUBREL:
            known = self._window.release(packet_id)
            reason = ReasonCode.SUCCESS if known else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            self._out.append(encode_ack(packets.PUBCOMP, packet_id, reason, self.version))
            return
        refused = packet.reason_code >= ReasonCode.UNSPECIFIED_ERROR
        done = self._sending.receive(packet_type, packet_id, refused=refused) if self._sending is not None else None
        if done:
            completes = packet_type == packets.PUBCOMP
            events.append(Completed(packet_id) if completes else Acknowledged(packet_id, packet.reason_code))
        elif done is False:
            # [MQTT-4.3.3-4]
            self._out.append(encode_ack(packets.PUBREL, packet_id, ReasonCode.SUCCESS, self.version))
            events.append(Acknowledged(packet_id, packet.reason_code))
        elif packet_type == packets.PUBREC and self.version == MQTT_5_0 and not refused:
            self._out.append(
                encode_ack(packets.PUBREL, packet_id, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND, self.version)
            )

    def _may_be_anonymous(self, connect: Connect) -> bool:
        """Whether the server may make up a client identifier: in 5.0, with clean session in 3.1.1, never in 3.1."""
        return self.version == MQTT_5_0 or (self.version == packets.MQTT_3_1_1 and connect.clean_start)

    def _set_aside(self, framer: Framer, events: list[Event]) -> None:
        if self._window.unsettled >= self._hold_at:
            self._hold |= _HOLD_WINDOW
        if framer.first_byte >> 4 not in _ORDERED:
            self._receive_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, events)
            return
        if self._held is None:
            self._held = deque()
        self._held.append((framer.first_byte, framer.buffer[framer.start : framer.stop]))
        self._held_bytes += framer.stop - framer.start + limits.HELD_PACKET_OVERHEAD_BYTES

    def _continue(self) -> list[Event]:
        """What was set aside first, then what lies unread, until something holds again."""
        events: list[Event] = []
        try:
            while self._held and not self._hold and self.state == CONNECTED:
                if self._window.unsettled >= self._hold_at:
                    self._hold |= _HOLD_WINDOW
                    break
                first_byte, body = self._held.popleft()
                self._held_bytes -= len(body) + limits.HELD_PACKET_OVERHEAD_BYTES
                self._receive_packet(first_byte, body, 0, len(body), events)
            self._parse(events)
        except MqttError as error:
            self._fail(error)
        return events

    def _granted_keep_alive(self, connect: Connect) -> int:
        """Seconds. Only 5.0 can be told another value than it asked for, so only 5.0 is held to one."""
        most = self._limits.keep_alive_max_seconds
        if self.version == MQTT_5_0 and not 0 < connect.keep_alive <= most:
            return most
        return connect.keep_alive

    def _connack_properties(self, connect: Connect, grant: Grant) -> Properties:
        """Announces what this version lacks, and limits that differ from the standard's defaults."""
        properties: Properties = {
            packets.RECEIVE_MAXIMUM: self._limits.receive_maximum,
            packets.MAXIMUM_PACKET_SIZE: self._limits.publish_bytes_max,
            packets.TOPIC_ALIAS_MAXIMUM: self._limits.topic_alias_maximum,
            packets.SHARED_SUBSCRIPTION_AVAILABLE: 0,
        }
        if connect.properties.get(packets.SESSION_EXPIRY_INTERVAL, 0) != grant.session_expiry_seconds:
            properties[packets.SESSION_EXPIRY_INTERVAL] = grant.session_expiry_seconds
        if grant.assigned_client_id is not None:
            properties[packets.ASSIGNED_CLIENT_IDENTIFIER] = grant.assigned_client_id
        keep_alive = self._granted_keep_alive(connect)
        if keep_alive != connect.keep_alive:
            properties[packets.SERVER_KEEP_ALIVE] = keep_alive
        return properties

    def _send(self, packet: packets.Packet) -> None:
        """A packet that the device does not take is not sent [MQTT-3.1.2-24]."""
        encoded = encode_packet(packet, self.version)
        if len(encoded) <= self._peer_packet_bytes_max():
            self._out.append(encoded)

    def _explain(self, packet: Connack | Disconnect, detail: str) -> None:
        """Sends a refusal with its reason in words, where they are wanted [MQTT-3.1.2-29] and fit [MQTT-3.14.2-3]."""
        wanted = self.connect is None or self.connect.properties.get(packets.REQUEST_PROBLEM_INFORMATION, 1)
        spoken = replace(packet, properties={packets.REASON_STRING: detail})
        fits = len(encode_packet(spoken, self.version)) <= self._peer_packet_bytes_max()
        self._send(spoken if wanted and fits else packet)

    def _peer_packet_bytes_max(self) -> int:
        return self._peer_maximum(packets.MAXIMUM_PACKET_SIZE, packets.PACKET_BYTES_MAX)

    def _peer_maximum(self, identifier: int, default: int) -> int:
        """What the device said in CONNECT that it takes."""
        value = self.connect.properties.get(identifier) if self.connect is not None else None
        return value if isinstance(value, int) else default

    def _send_window(self) -> SendWindow:
        if self._sending is None:
            self._sending = SendWindow(self._peer_maximum(packets.RECEIVE_MAXIMUM, _RECEIVE_MAXIMUM_DEFAULT))
        return self._sending

    def _fail(self, error: MqttError) -> None:
        """The one place where a broken rule becomes an answer."""
        if self.state == CONNECTED or self._can_be_told(error.reason):
            self.disconnect(error.reason, str(error))
        else:
            self._close(end_reason(error.reason), str(error), with_will=False)

    def _can_be_told(self, reason_code: int) -> bool:
        """Before CONNACK the peer hears why only if its CONNECT could be read and its version has a code for it."""
        if self.version == MQTT_5_0:
            return self.state == CONNECTING
        return reason_code in CONNACK_RETURN_CODES

    def _close(self, end: EndReason, detail: str, *, with_will: bool) -> None:
        self.end = end
        self.detail = detail
        self.with_will = with_will and self.connect is not None and self.connect.will is not None
        self.state = CLOSED
        self._held = None
        self._held_bytes = 0
        self._topics = {}
        self._aliases = None
