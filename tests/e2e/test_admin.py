"""The admin API of real replicas on a real Kafka, asked by `mqk` as its users type it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.device import DISCONNECT, SUBACK, Device, packet, text
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


def mqk_in_background(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "proxy", *arguments, "--token", WRITE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ask(base: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and body of one request."""
    answer = httpx.request(method, base + path, json=body, headers={"Authorization": f"Bearer {WRITE}", **headers})
    return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def cluster(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    tokens = [admin_token("ops", "write", WRITE), admin_token("eyes", "read", READ)]
    with Cluster(
        kafka, tmp_path_factory.mktemp("admin"), 2, {"admin.tokens": tokens, "acl.subscribe_default": "allow"}
    ) as cluster:
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


def test_commands_reach_a_client_of_the_other_replica(cluster: Cluster) -> None:
    there, here = cluster.replicas[0], url(cluster, 1)
    with Device(there.port) as device:
        device.connect("a/1", username="u")
        device.send(packet(0x82, b"\0\1" + text("down/#") + b"\1"))
        assert device.receive() == (SUBACK, b"\0\1\1")
        told = mqk_in_background("publish", "down/x", "hi", "--clientid", "a/1", "--qos", "1", "--url", here, "--json")
        first_byte, body = device.receive()
        assert (first_byte, body[: -len(b"hi") - 2], body[-2:]) == (0x32, text("down/x"), b"hi")
        assert told.poll() is None, "it waits for the device"
        device.send(packet(0x40, body[-4:-2]))
        out, _ = told.communicate(timeout=30)
        assert told.returncode == 0
        assert json.loads(out)["clients"] == [{"clientid": "a/1", "outcome": "delivered", "node": there.node}]

        everybody = mqk("publish", "down/y", "all", "--url", here, "--json")
        assert (everybody.code, everybody.json["outcome"]) == (0, "delivered")
        assert device.receive().body == text("down/y") + b"all"

        clean = ask(here, "POST", "/v1/acl/clean", {"username": "u"})
        assert [each["clientid"] for each in clean[1]["clients"]] == ["a/1"]
        epoch = ask(here, "GET", "/v1/clients/a%2F1")[1]["epoch"]
        assert ask(here, "DELETE", "/v1/clients/a%2F1", **{"If-Match": f'"{epoch + 1}"'})[0] == 412
        device.ping()
        assert ask(here, "DELETE", "/v1/clients/a%2F1", **{"If-Match": f'"{epoch}"'})[0] == 200
        assert device.rest() == []
    offline = mqk("publish", "down/x", "hi", "--clientid", "a/1", "--url", here)
    assert (offline.code, offline.out.splitlines()[-1]) == (1, "deliver: offline")
    assert (mqk("kick", "a/1", "--url", here).code, ask(here, "DELETE", "/v1/clients/a%2F1")[0]) == (1, 404)


def test_a_replica_drains_and_comes_back(cluster: Cluster) -> None:
    first, here = cluster.replicas[0], url(cluster, 0)
    with Device(first.port, 5) as device:
        device.connect("c1")
        assert mqk("drain", "--url", here, "--json").json[0]["state"] == "draining"
        assert device.receive().first_byte == DISCONNECT
    wait_until(lambda: ask(here, "GET", "/v1/drain")[1]["state"] == "drained", "the last one has gone", 30)
    assert first.get("/readyz").status == 200, "who is connected to it through a balancer must not be cut"
    assert mqk("drain", "--cancel", "--url", here).code == 0
    with Device(first.port, 5) as device:
        assert device.connect("c1").body[1] == 0


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
