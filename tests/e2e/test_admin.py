"""The admin API of real replicas on a real Kafka, asked by `mqk` as its users type it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.cluster import Cluster
from tests.support.device import DISCONNECT, Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import admin_token

READ, WRITE = "a token that reads", "a token that writes"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def mqk(*arguments: str, token: str | None = WRITE) -> Ran:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MQK_")}
    if token is not None:
        environ["MQK_ADMIN_TOKEN"] = token
    command = [sys.executable, "-m", "proxy", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cluster(kafka: KafkaBroker, tmp_path: Path) -> Iterator[Cluster]:
    tokens = [admin_token("ops", "write", WRITE), admin_token("eyes", "read", READ)]
    with Cluster(kafka, tmp_path, 2, {"admin.tokens": tokens}) as cluster:
        yield cluster


def url(cluster: Cluster, replica: int) -> str:
    return f"http://127.0.0.1:{cluster.replicas[replica].admin_port}"


def sees(cluster: Cluster, replica: int, connected: set[str]) -> bool:
    found = mqk("clients", "--url", url(cluster, replica), "--state", "connected", "--json").json
    return {each["clientid"] for each in found} == connected


def test_a_ban_holds_everywhere_and_through_restarts(cluster: Cluster) -> None:
    first, second = cluster.replicas
    with Device(first.port, 5) as here, Device(second.port, 5) as there, Device(second.port) as other:
        for device, client_id in ((here, "noisy-1"), (there, "noisy-2"), (other, "quiet")):
            assert device.connect(client_id, username=client_id[:5]).body[1] == 0
        # Each replica answers for both.
        for replica in (0, 1):
            wait_until(partial(sees, cluster, replica, {"noisy-1", "noisy-2", "quiet"}), "it knows all")
        added = mqk("ban", "add", "username", "noisy", "--reason", "floods", "--url", url(cluster, 0), "--json")
        assert (added.code, added.json[0]["by"], added.json[0]["expires_at"]) == (0, "ops", None)
        for device in (here, there):
            assert device.receive() == (DISCONNECT, b"\x98")
        with Device(second.port, 5) as again:
            assert again.connect("noisy-2", username="noisy").body[1] == 0x8A
        with Device(second.port) as again:
            assert again.connect("noisy-3", username="noisy").body == b"\x00\x05"
        wait_until(partial(sees, cluster, 1, {"quiet"}), "they have gone")

    second.kill()
    second.start()
    with Device(second.port, 5) as again:
        assert again.connect("noisy-2", username="noisy").body[1] == 0x8A, "read before devices come in"
    assert mqk("ban", "lift", "username", "noisy", "--url", url(cluster, 1)).code == 0
    with Device(second.port, 5) as again:
        assert again.connect("noisy-2", username="noisy").body[1] == 0
    assert mqk("ban", "list", "--url", url(cluster, 1), "--json").json == []


def test_what_mqk_says(cluster: Cluster) -> None:
    here = url(cluster, 0)
    listed = mqk("nodes", "--url", here, token=READ)
    assert listed.code == 0
    assert {line.split()[0] for line in listed.out.splitlines()[1:]} == {each.node for each in cluster.replicas}
    refused = mqk("ban", "add", "clientid", "c1", "--url", here, token=READ)
    assert (refused.code, refused.err) == (1, "mqk: token eyes may only read (403)\n")
    unknown = mqk("clients", "--url", here, token="wrong")
    assert (unknown.code, "give --token or MQK_ADMIN_TOKEN (401)" in unknown.err) == (1, True)
    nobody = mqk("ban", "lift", "clientid", "c1", "--url", here)
    assert (nobody.code, nobody.err) == (1, "mqk: clientid c1 is not banned (404)\n")


def test_where_the_admin_port_is_when_nobody_says(cluster: Cluster) -> None:
    config = str(cluster.replicas[0]._config)
    assert mqk("nodes", "--config", config).code == 0
    away = mqk("nodes", "--url", "http://127.0.0.1:1")
    assert (away.code, "http://127.0.0.1:1 does not answer" in away.err) == (1, True)
    assert mqk("kick").code == 2
