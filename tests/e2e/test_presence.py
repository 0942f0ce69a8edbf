"""What `<prefix>status` says of devices that come and go: every byte but the time and the place in the session log."""

import re
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import DISCONNECT, Device, Will
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

#: Where the devices of these tests connect from: Linux answers on all of 127.0.0.0/8.
ADDRESS = "127.0.0.9"
#: How far the clock of a record may be from the test's: both are of one machine.
CLOCK_MS = 2_000
KEEP_ALIVE_TIMEOUT, TAKEN_OVER, PROTOCOL_ERROR, MALFORMED, TOO_LARGE = 0x8D, 0x8E, 0x82, 0x81, 0x95
DISCONNECT_WITH_WILL = 0x04

Headers = list[tuple[str, bytes | None]]

both_versions = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])


class Status:
    """The records of one client in the order in which they were written: its key has them in one partition."""

    def __init__(self, kafka: KafkaBroker, proxy: ProxyProcess, client_id: str) -> None:
        self._kafka = kafka
        self._topic = f"{proxy.topic_prefix}status"
        self._client_id = client_id
        self._node = proxy.node
        self._since_ms = time.time() * 1000

    def wait_for(self, count: int) -> list[str]:
        """Once there are `count` of them, all of them, with the time, which has to be right, left out."""
        wait_until(lambda: len(self._values()) >= count, f"{count} status records of {self._client_id}", 30)
        return [self._without_time(value) for value in self._values()]

    def _values(self) -> list[str]:
        key = self._client_id.encode()
        return [(record.value or b"").decode() for record in self._kafka.read(self._topic) if record.key == key]

    def _without_time(self, value: str) -> str:
        [stamp] = re.findall(r'"timestamp":(\d+),', value)
        assert self._since_ms - CLOCK_MS < int(stamp) < time.time() * 1000 + CLOCK_MS
        place = r'"session_id":"[0-9a-f]{16}","epoch":\d+,"offset":\d+'
        return re.sub(place, "PLACE", value.replace(stamp, "TIME")).replace(self._node, "NODE")


def connected(client_id: str, version: int, username: str = "null", keep_alive: int = 60) -> str:
    return (
        f'{{"action":"connected","clientid":"{client_id}","username":{username},"keepalive":{keep_alive},'
        f'"ipaddress":"{ADDRESS}","proto_name":"MQTT","proto_ver":{version},"timestamp":TIME,"online":1,'
        f'"node":"NODE","peer_cert_cn":null,PLACE}}'
    )


def disconnected(client_id: str, reason: str, username: str = "null") -> str:
    return (
        f'{{"action":"disconnected","clientid":"{client_id}","username":{username},"reason":"{reason}",'
        f'"timestamp":TIME,"online":0,"node":"NODE","peer_cert_cn":null,PLACE}}'
    )


@both_versions
@pytest.mark.parametrize("username", [None, "dev1&pk1", 'gerät"1'], ids=["no user", "user", "quoted"])
def test_come_and_gone(proxy: ProxyProcess, kafka: KafkaBroker, version: int, username: str | None) -> None:
    client_id = f"presence-{version}-{len(username or '')}"
    status = Status(kafka, proxy, client_id)
    with Device(proxy.port, version, ADDRESS) as device:
        device.connect(client_id, username=username, keep_alive=0xFFF)
        device.disconnect()
    name = {None: "null", "dev1&pk1": '"dev1&pk1"', 'gerät"1': '"gerät\\"1"'}[username]
    # 5.0 is granted one hour at most and told so; the record says what the device asked for.
    assert status.wait_for(2) == [
        connected(client_id, version, name, keep_alive=0xFFF),
        disconnected(client_id, "normal", name),
    ]


def vanish(device: Device) -> None:
    device.close()


def say_nothing(device: Device) -> None:
    """The keep alive of these tests is 1 s, so the server waits 1.5 s and at most a tick more."""
    assert device.rest() == ([(DISCONNECT, bytes([KEEP_ALIVE_TIMEOUT]))] if device.version == 5 else [])


def send_what_only_servers_send(device: Device) -> None:
    device.send(b"\xd0\x00")  # PINGRESP
    assert device.rest() == ([(DISCONNECT, bytes([PROTOCOL_ERROR]))] if device.version == 5 else [])


def send_nonsense(device: Device) -> None:
    device.send(b"\x30\x01\x00")  # A PUBLISH that ends within the length of its topic.
    assert device.rest() == ([(DISCONNECT, bytes([MALFORMED]))] if device.version == 5 else [])


def send_too_much(device: Device) -> None:
    device.send(b"\x30\xff\xff\xff\x7f")  # 256 MB are announced: refused before they are sent.
    assert device.rest() == ([(DISCONNECT, bytes([TOO_LARGE]))] if device.version == 5 else [])


@both_versions
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (vanish, "tcp_closed"),
        (say_nothing, "keepalive_timeout"),
        (send_what_only_servers_send, "protocol_error"),
        (send_nonsense, "malformed_packet"),
        (send_too_much, "packet_too_large"),
    ],
)
def test_reasons(
    proxy: ProxyProcess, kafka: KafkaBroker, version: int, end: Callable[[Device], None], reason: str
) -> None:
    client_id = f"{reason}-{version}"
    status = Status(kafka, proxy, client_id)
    with Device(proxy.port, version, ADDRESS) as device:
        device.connect(client_id, keep_alive=1)
        end(device)
    assert status.wait_for(2) == [connected(client_id, version, keep_alive=1), disconnected(client_id, reason)]


@both_versions
def test_takeover(proxy: ProxyProcess, kafka: KafkaBroker, version: int) -> None:
    client_id = f"taken-{version}"
    status = Status(kafka, proxy, client_id)
    with Device(proxy.port, version, ADDRESS) as older, Device(proxy.port, version, ADDRESS) as newer:
        older.connect(client_id)
        newer.connect(client_id)
        assert older.rest() == ([(DISCONNECT, bytes([TAKEN_OVER]))] if version == 5 else [])
        newer.ping()
        newer.disconnect()
    came = connected(client_id, version)
    records = status.wait_for(4)
    # The older one's end is told before the newer one's beginning, or readers would take the device for gone.
    assert records == [came, disconnected(client_id, "taken_over"), came, disconnected(client_id, "normal")]


def test_a_stopped_proxy_says_so_of_every_device(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({})
    client_ids = {4: "stopped-4", 5: "stopped-5"}
    status = {version: Status(kafka, proxy, client_id) for version, client_id in client_ids.items()}
    with Device(proxy.port, 4, ADDRESS) as old, Device(proxy.port, 5, ADDRESS) as new:
        old.connect(client_ids[4])
        new.connect(client_ids[5])
        assert proxy.terminate() == 0
        assert (old.rest(), new.rest()) == ([], [(DISCONNECT, b"\x8b")])
    for version, client_id in client_ids.items():
        expected = [connected(client_id, version), disconnected(client_id, "server_shutting_down")]
        assert status[version].wait_for(2) == expected


def test_the_key_can_be_the_action(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({"status.key": "action", "status.topic": "${prefix}presence"})
    with Device(proxy.port) as device:
        device.connect("keyed")
        device.disconnect()
    records = kafka.read(f"{proxy.topic_prefix}presence", count=2)
    assert sorted((record.key or b"").decode() for record in records) == ["connected", "disconnected"]
    assert all((record.key or b"") in (record.value or b"") for record in records)


def test_an_empty_client_id_gets_a_name(proxy: ProxyProcess, kafka: KafkaBroker) -> None:
    with Device(proxy.port, 5, ADDRESS) as device:
        connack = device.connect("")
        [client_id] = re.findall(rb"mqk-[0-9a-f]{20}", connack.body)
        status = Status(kafka, proxy, client_id.decode())
        device.disconnect()
    assert status.wait_for(2)[0] == connected(client_id.decode(), 5)


class TestWill:
    """A device's last will goes the way of everything it publishes."""

    @both_versions
    def test_is_published_when_the_device_vanishes(self, proxy: ProxyProcess, kafka: KafkaBroker, version: int) -> None:
        topic = f"tlink/will/{version}/sub/login"
        with Device(proxy.port, version) as device:
            device.connect(f"will-{version}", will=Will(topic, b"\x00gone\xff", retain=True))
        self.wait_for(proxy, kafka, topic, 1)
        [(value, headers)] = self.published(proxy, kafka, topic)
        assert (value, headers[:3]) == (b"\x00gone\xff", [
            ("mqtt.topic", topic.encode()), ("mqtt.clientid", f"will-{version}".encode()), ("mqtt.retain", b"1"),
        ])  # fmt: skip
        # Its place in the session log, by which repeats are known.
        assert [name for name, place in headers[3:] if (place or b"").isdigit()] == ["mqk.offset", "mqk.epoch"]

    def test_goes_with_a_normal_disconnect_and_stays_with_another(
        self, proxy: ProxyProcess, kafka: KafkaBroker
    ) -> None:
        topic = "tlink/will/said/sub/login"
        for reason_code in (0, DISCONNECT_WITH_WILL):
            with Device(proxy.port, 5) as device:
                device.connect("will-said", will=Will(topic, bytes([reason_code])))
                device.disconnect(reason_code)
        self.wait_for(proxy, kafka, topic, 1)
        assert [value for value, _ in self.published(proxy, kafka, topic)] == [bytes([DISCONNECT_WITH_WILL])]

    def published(self, proxy: ProxyProcess, kafka: KafkaBroker, topic: str) -> list[tuple[bytes | None, Headers]]:
        records = kafka.read(f"{proxy.topic_prefix}sub_status")
        return [(record.value, record.headers) for record in records if record.key == topic.encode()]

    def wait_for(self, proxy: ProxyProcess, kafka: KafkaBroker, topic: str, count: int) -> None:
        wait_until(lambda: len(self.published(proxy, kafka, topic)) >= count, f"{count} wills", 30)
