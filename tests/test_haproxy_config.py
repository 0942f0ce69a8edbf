"""What `mqk haproxy-config` prints: the file in `lb/`, with other replicas in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config.haproxy import EXAMPLE, Replica, haproxy_config, parse_replicas
from proxy.errors import ConfigError

LB = Path(__file__).parent.parent / "lb"


def servers(text: str) -> list[str]:
    return re.findall(r"^ {4}server (.*)", text, re.MULTILINE)


def test_the_file_in_lb_is_what_is_printed() -> None:
    command = [sys.executable, "-m", "proxy", "haproxy-config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (LB / "haproxy.cfg").read_text() == printed, "run: python -m proxy haproxy-config > lb/haproxy.cfg"
    assert "@" not in printed


def test_every_line_is_explained() -> None:
    """By the words that it begins with."""
    explained = (LB / "README.md").read_text()
    lines = [line.strip() for line in (LB / "haproxy.cfg").read_text().splitlines()]
    directives = {re.split(r'[ "]', line)[0] for line in lines if line and not line.startswith("#")}
    assert not {each for each in directives if f"`{each}" not in explained}


def test_its_replicas() -> None:
    text = haproxy_config(parse_replicas(["10.0.0.1", "10.0.0.2:1:2:3"], 1, 1), name="dev")
    assert servers(text) == [
        "dev-0 10.0.0.1:2883 id 1 check port 8080 agent-port 8090",
        "dev-1 10.0.0.2:1 id 2 check port 2 agent-port 3",
        "dev-0 10.0.0.1:8080 track mqtt_proxies/dev-0",
        "dev-1 10.0.0.2:2 track mqtt_proxies/dev-1",
    ]
    assert "resolvers" not in text


def test_names_are_followed() -> None:
    text = haproxy_config(parse_replicas(["mqk-0.mqk", "[::1]:1883"], 1, 1))
    assert "\nresolvers names\n" in text
    assert servers(text)[0].endswith(" resolvers names init-addr last,libc,none")
    assert servers(text)[1] == "proxy-1 [::1]:1883 id 2 check port 8080 agent-port 8090"


def test_several_on_each_host() -> None:
    assert parse_replicas(["a:1:11:21", "b:1:11:21"], 2, 5) == [
        Replica("a", 1, 11, 21), Replica("a", 6, 16, 26), Replica("b", 1, 11, 21), Replica("b", 6, 16, 26),
    ]  # fmt: skip


def test_without_tls() -> None:
    text = haproxy_config(parse_replicas(EXAMPLE, 1, 1), tls=False)
    assert "TLS_PEM" not in text
    assert "frontend mqtt_tls" not in text
    assert text.count("default_backend mqtt_proxies") == 1


@pytest.mark.parametrize(
    "places", [[""], ["a:"], ["a:1:2:3:4"], ["a b"], ["::1"], ["a:65535"], ["a:99999"], ["a", "a"], ["a", "a:2883:1"]]
)
def test_what_is_no_replica(places: list[str]) -> None:
    with pytest.raises(ConfigError, match="REPLICA"):
        parse_replicas(places, 2, 1)
