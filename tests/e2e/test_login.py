"""Who may come in: a password file over the wire."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.device import CONNACK, Device
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

#: 5.0 reason code and 3.1.1 return code of the same answer.
ACCEPTED = {4: 0, 5: 0}
BAD_USER_NAME_OR_PASSWORD = {4: 4, 5: 0x86}

both_versions = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])


def passwd(file: Path, user: str, password: str) -> None:
    """`mqk passwd`, as an operator types it."""
    command = [sys.executable, "-m", "proxy", "passwd", "--create", "--stdin", file, user]
    subprocess.run(command, input=password, text=True, check=True)


@pytest.fixture
def proxy(start_proxy: StartProxy, tmp_path: Path) -> ProxyProcess:
    passwd(tmp_path / "passwd", "dev1&pk1", "s3crét: ½")
    chain = [{"type": "password_file", "path": "passwd"}]
    return start_proxy({"auth.anonymous": False, "auth.chain": chain})


@both_versions
def test_password_file(proxy: ProxyProcess, version: int) -> None:
    answers = {
        ("dev1&pk1", "s3crét: ½"): ACCEPTED,
        ("dev1&pk1", "s3cret: ½"): BAD_USER_NAME_OR_PASSWORD,
        ("dev1&pk1", ""): BAD_USER_NAME_OR_PASSWORD,
        ("dev1&pk1", None): BAD_USER_NAME_OR_PASSWORD,
        ("nobody", "s3crét: ½"): BAD_USER_NAME_OR_PASSWORD,
        (None, None): BAD_USER_NAME_OR_PASSWORD,
    }
    for (username, password), answer in answers.items():
        with Device(proxy.port, version) as device:
            first_byte, body = device.connect("login", username=username, password=password)
            assert (first_byte, body[1]) == (CONNACK, answer[version]), (username, password)
            if answer is ACCEPTED:
                device.publish_acknowledged("tlink/login", b"in")
            else:
                assert device.rest() == []
    log = proxy.process.output
    assert "s3cr" not in log
    assert log.count("connect refused") == 5


def test_what_follows_connect_waits_for_the_password_check(proxy: ProxyProcess) -> None:
    """A device may send PUBLISH right behind its CONNECT; while the password is checked it must not be handled."""
    for password, acknowledged in (("s3crét: ½", True), ("wrong", False)):
        with Device(proxy.port) as device:
            device.send_connect("eager", username="dev1&pk1", password=password)
            device.publish("tlink/eager", password.encode())
            assert device.receive().first_byte == CONNACK
            if acknowledged:
                assert device.puback(1) == 0
            else:
                assert device.rest() == []
    assert proxy.metric('mqk_publishes_total{qos="1",result="stored"}') == 1


@both_versions
def test_a_device_that_does_not_wait_for_its_connack(proxy: ProxyProcess, version: int) -> None:
    """All that it has to say in one breath, and its socket is closed before its password is checked."""
    with Device(proxy.port, version) as device:
        device.send_connect("hasty", username="dev1&pk1", password="s3crét: ½")
        device.publish("tlink/hasty", b"said", qos=0)
        device.send(b"\xe0\x00")
    stored = 'mqk_publishes_total{qos="0",result="stored"}'
    wait_until(lambda: proxy.metric(stored) == 1, "the message is in Kafka", 15)
    wait_until(lambda: proxy.metric('mqk_disconnects_total{reason="normal"}') == 1, "the device has gone", 15)
