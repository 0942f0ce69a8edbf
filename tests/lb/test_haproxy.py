"""Behind a real HAProxy: who goes where, who moves when a replica goes, and what a replica knows of a device."""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lb.conftest import TOKEN, Certificates
from tests.support.balanced import both_ways, who_moves
from tests.support.device import CONNACK, Device, packet, text
from tests.support.haproxy import BalancedCluster, program
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess
from tests.support.roamers import Roamer
from tests.support.sessions import roaming, until

CLIENTS = 60
CONNECT_BODY = text("MQTT") + bytes([4, 2, 0, 60])
SHUTTING_DOWN = 0x8B


def fleet(cluster: BalancedCluster, name: str, size: int = CLIENTS) -> list[Roamer]:
    return [Roamer(f"{name}-{number}", cluster.ports[:1]) for number in range(size)]


def homes(cluster: BalancedCluster, roamers: list[Roamer]) -> dict[str, str]:
    """Once `status` knows them all."""
    names = {roamer.client_id for roamer in roamers}
    wait_until(lambda: names <= cluster.homes().keys(), "status knows the fleet", 30)
    return {client_id: node for client_id, node in cluster.homes().items() if client_id in names}


@pytest.mark.parametrize("options", [[], ["--no-tls"], ["--workers", "3", "[::1]", "localhost"]])
def test_it_takes_the_configuration(tmp_path: Path, certificates: Certificates, options: list[str]) -> None:
    command = [program(), "-c", "-f", tmp_path / "haproxy.cfg"]
    printed = subprocess.run(
        [sys.executable, "-m", "proxy", "haproxy-config", *options], capture_output=True, check=True
    )
    (tmp_path / "haproxy.cfg").write_bytes(printed.stdout)
    files = {name: str(value) for name, value in certificates.environment.items()}
    subprocess.run(command, env={**os.environ, **files, "HA_USER": "root", "HA_GROUP": "root"}, check=True)


def test_who_moves(cluster: BalancedCluster) -> None:
    asyncio.run(who_moves(cluster, fleet(cluster, "mover"), victim=1))


def test_drain(cluster: BalancedCluster) -> None:
    """SIGTERM: HAProxy hears `0%` before the first device is let go, and no CONNECT of those who come back fails."""
    asyncio.run(_drain(cluster))


async def _drain(cluster: BalancedCluster) -> None:
    leaving = cluster.replicas[0]
    roamers = fleet(cluster, "drained")
    async with roaming(roamers):
        first = await asyncio.to_thread(homes, cluster, roamers)
        away = [roamer for roamer in roamers if first[roamer.client_id] == leaving.node]
        tries = sum(len(roamer.connack_seconds) for roamer in roamers)
        code = asyncio.create_task(asyncio.to_thread(leaving.terminate, 40.0))
        balancer = cluster.balancers[0]
        await until(lambda: balancer.stat("weight")[0] == "0", "HAProxy has heard it", 10)
        assert not any(roamer.broken for roamer in roamers), "nobody has been let go before"
        assert balancer.stat("status")[0].startswith("UP")
        assert await code == 0
        await until(lambda: all(roamer.connected for roamer in roamers), "all are elsewhere", 30)
        assert [each.told for each in away] == [[SHUTTING_DOWN]] * len(away)
        assert not any(roamer.broken for roamer in roamers if roamer not in away)
        assert sum(len(roamer.connack_seconds) for roamer in roamers) == tries + len(away)
        assert not any(roamer.unanswered for roamer in roamers)
    await asyncio.to_thread(leaving.start)
    await asyncio.to_thread(cluster.wait_until_up)


def test_two_haproxies_send_a_device_to_one_replica(cluster: BalancedCluster) -> None:
    """Whichever of them it takes, and one connection of it is left."""
    client_ids = [f"both-{number}" for number in range(10)]
    asyncio.run(both_ways(cluster, client_ids, 5))
    told = [each for each in cluster.status() if each["clientid"] in client_ids]
    assert len({(each["clientid"], each["node"]) for each in told}) == 10


# ---- what a replica knows of a device ----


def status_of(cluster: BalancedCluster, client_id: str) -> dict[str, object]:
    wait_until(lambda: cluster.told(client_id), f"status of {client_id}", 30)
    return {name: cluster.told(client_id)[0][name] for name in ("ipaddress", "peer_cert_cn")}


def test_the_address_is_the_devices_own(cluster: BalancedCluster) -> None:
    with Device(cluster.ports[0], address="127.0.0.9") as device:
        device.connect("addressed")
    assert status_of(cluster, "addressed") == {"ipaddress": "127.0.0.9", "peer_cert_cn": None}


@pytest.mark.parametrize(("shown", "name"), [(True, "dev-1"), (False, None)], ids=["certificate", "none"])
def test_the_name_in_the_certificate(
    cluster: BalancedCluster, certificates: Certificates, shown: bool, name: str | None
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    if shown:
        context.load_cert_chain(str(certificates.device))
    balancer = cluster.balancers[0]
    with (
        socket.create_connection(("127.0.0.1", balancer.tls_port), 10, ("127.0.0.8", 0)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as device,
    ):
        device.sendall(packet(0x10, CONNECT_BODY + text(f"certified-{name}")))
        assert device.recv(4) == b"\x20\x02\x00\x00"
    assert status_of(cluster, f"certified-{name}") == {"ipaddress": "127.0.0.8", "peer_cert_cn": name}


@pytest.mark.parametrize(
    ("address", "header"),
    [("127.0.0.9", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 1\r\n"), ("127.0.0.1", b"")],
    ids=["forged", "missing"],
)
def test_a_header_from_the_wrong_place(cluster: BalancedCluster, address: str, header: bytes) -> None:
    replica = cluster.replicas[2]
    refused = replica.metric("mqk_proxy_headers_refused_total")
    with Device(replica.port, address=address) as device:
        device.send(header + packet(0x10, CONNECT_BODY + text("forger")))
        assert device.rest() == []
    assert replica.metric("mqk_proxy_headers_refused_total") == refused + 1
    said = [line for line in replica.process.output.splitlines() if "proxy header refused" in line]
    assert f'"address": "{address}"' in said[-1]
    assert not cluster.told("forger")


def test_who_is_no_proxy_comes_directly(cluster: BalancedCluster) -> None:
    with Device(cluster.replicas[2].port, address="127.0.0.7") as device:
        device.connect("direct")
    assert status_of(cluster, "direct") == {"ipaddress": "127.0.0.7", "peer_cert_cn": None}


# ---- what HAProxy reads itself ----


@pytest.mark.parametrize("length", [127, 128, 256, 1280, 12_800])
@pytest.mark.parametrize("place", [1, 2, 3, 13, 14])
def test_a_connect_cut_anywhere(cluster: BalancedCluster, length: int, place: int) -> None:
    """Its parser takes a remaining length of a multiple of 128 for 0 when the rest of the length has not come yet."""
    client_id = f"cut-{place}-{length}-".ljust(length - len(CONNECT_BODY) - 2, "x")
    data = packet(0x10, CONNECT_BODY + text(client_id))
    with Device(cluster.ports[0]) as device:
        device._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        device.send(data[:place])
        with contextlib.suppress(TimeoutError):
            device.receive(0.1)  # HAProxy has had the time to look at it.
        device.send(data[place:])
        assert device.receive() == (CONNACK, b"\x00\x00")


def test_what_is_no_connect_never_reaches_a_replica(cluster: BalancedCluster) -> None:
    with Device(cluster.ports[0]) as device:
        device.send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert device.rest() == []


# ---- a drain that is taken back ----


def ask(replica: ProxyProcess, method: str) -> str:
    """The state that `/v1/drain` tells."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.admin_port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, "/v1/drain", headers={"Authorization": f"Bearer {TOKEN}"})
        return str(json.loads(connection.getresponse().read())["state"])


def test_drain_over_http(cluster: BalancedCluster) -> None:
    """The replica stays: HAProxy and `/readyz` call it up, its devices leave, and they come home when it is over."""
    asyncio.run(_drain_over_http(cluster))


async def _drain_over_http(cluster: BalancedCluster) -> None:
    drained, balancer = cluster.replicas[2], cluster.balancers[0]
    roamers = fleet(cluster, "drained-for-a-while")
    async with roaming(roamers):
        first = await asyncio.to_thread(homes, cluster, roamers)
        away = [roamer for roamer in roamers if first[roamer.client_id] == drained.node]
        assert ask(drained, "POST") == "draining"
        await until(lambda: ask(drained, "GET") == "drained", "it is empty", 20)
        await until(lambda: all(roamer.connected for roamer in roamers), "all are elsewhere", 30)
        assert [each.told for each in away] == [[SHUTTING_DOWN]] * len(away)
        assert (balancer.stat("weight")[2], drained.get("/readyz").status) == ("0", 200)
        assert balancer.stat("status")[2].startswith("UP")
        assert drained.metric("mqk_connections") == 0
        assert ask(drained, "DELETE") == "serving"
        await asyncio.to_thread(cluster.wait_until_up)
    async with roaming(roamers):
        assert await asyncio.to_thread(homes, cluster, roamers) == first
