"""The files in deploy/ and compose.yaml: valid, and true of the settings, ports and times that they speak of."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import proxy
from proxy import limits
from proxy.admin.app import Check, Views, make_app
from proxy.config import Settings, load

ROOT = Path(__file__).parent.parent
SYSTEMD = ROOT / "deploy" / "systemd"
KUBERNETES = ROOT / "deploy" / "kubernetes"
USER = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
#: Where Debian keeps servers, and an ordinary user does not look.
SERVERS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
IMAGE = "mqtt-kafka-proxy"


def ports(settings: Settings) -> dict[str, int]:
    """What a replica listens on, by the name that manifests give to it."""
    names = {"node.agent_bind": "agent", "listeners[0].bind": "mqtt", "admin.bind": "admin"}
    return {names[key]: int(bind.rpartition(":")[2]) for key, bind in settings.addresses().items()}


def seconds_to_stop(settings: Settings) -> int:
    """Who kills a replica sooner after SIGTERM cuts its drain short."""
    return settings.node.drain_seconds + limits.WORKER_STOP_SECONDS


# ---- systemd ----


def unit() -> dict[str, list[str]]:
    """All values of each key, whatever its section."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / "mqk.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_waits_for_the_drain_of_its_configuration() -> None:
    settings = load(SYSTEMD / "mqk.toml").settings
    assert settings.node.workers == 3
    assert int(unit()["TimeoutStopSec"][0]) > seconds_to_stop(settings)
    # SIGTERM is for the supervisor, who tells the others.
    assert unit()["KillMode"] == ["mixed"]
    assert unit()["RestartPreventExitStatus"] == ["2"]


def test_the_unit_runs_commands_that_there_are() -> None:
    [start], [check] = unit()["ExecStart"], unit()["ExecStartPre"]
    for command in (start, check):
        program, *arguments = command.split()
        assert program == "/opt/mqk/bin/mqk"
        helped = subprocess.run(
            [sys.executable, "-m", "proxy", arguments[0], "--help"], capture_output=True, check=True
        )
        assert arguments[1].encode() in helped.stdout


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    # It wants to see the program that is started, which is not installed here.
    copy = tmp_path / "mqk.service"
    copy.write_text((SYSTEMD / "mqk.service").read_text().replace("/opt/mqk/bin/mqk", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Kubernetes ----


HAPROXIES = {
    "compose": ["172.30.80.20:1883", "172.30.80.21:1883", "172.30.80.22:1883"],
    "kubernetes": ["--name", "mqk", *(f"mqk-{number}.mqk.mqk.svc.cluster.local:1883" for number in range(3))],
}


@pytest.mark.parametrize("folder", HAPROXIES)
def test_haproxy_is_configured_as_the_command_says(folder: str) -> None:
    command = [sys.executable, "-m", "proxy", "haproxy-config", "--no-tls", *HAPROXIES[folder]]
    printed = subprocess.check_output(command, text=True)
    assert (ROOT / "deploy" / folder / "haproxy.cfg").read_text() == printed, f"run: {' '.join(command[1:])}"


@pytest.mark.skipif(not shutil.which("haproxy", path=SERVERS), reason="needs haproxy")
@pytest.mark.parametrize("folder", HAPROXIES)
def test_haproxy_understands_it(folder: str, tmp_path: Path) -> None:
    here = {"RUN_DIR": str(tmp_path), "LOG_TARGET": "stdout", "HA_USER": "root", "HA_GROUP": "root"}
    command = ["haproxy", "-c", "-f", ROOT / "deploy" / folder / "haproxy.cfg"]
    done = subprocess.run(command, env={"PATH": SERVERS, **here}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def manifests() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = [KUBERNETES / name for name in kustomization["resources"]]
    assert {file.name for file in KUBERNETES.glob("*.yaml")} == {file.name for file in files} | {"kustomization.yaml"}
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]


def manifest(kind: str, name: str = "mqk") -> dict[str, Any]:
    """One of them."""
    [found] = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


#: What the Secret and the name of the pod put into its environment.
POD_ENVIRONMENT = {
    "MQK_NODE__ID": "mqk-0",
    "MQK_ADMIN_TOKEN": "any",
    "MQK_ADMIN__TOKENS": json.dumps([{"name": "ops", "role": "write", "token_sha256": 64 * "0"}]),
}


def kubernetes_settings() -> Settings:
    return load(KUBERNETES / "mqk.toml", environ=POD_ENVIRONMENT).settings


@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_manifests_are_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.33", strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
def test_kustomize_puts_them_together() -> None:
    built = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(built))
    for each in found:
        kubernetes_validate.validate(each, "1.33", strict=True)
    for kind, image, file in (
        ("StatefulSet", f"{IMAGE}:{proxy.__version__}", "mqk.toml"),
        ("Deployment", None, "haproxy.cfg"),
    ):
        [pods] = [each["spec"]["template"]["spec"] for each in found if each["kind"] == kind]
        assert image in (None, pods["containers"][0]["image"])
        config = {each["name"]: each for each in pods["volumes"]}["config"]["configMap"]["name"]
        [config_map] = [each for each in found if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", config)]
        assert config_map["data"] == {file: (KUBERNETES / file).read_text()}


def test_the_pod_has_the_ports_of_its_configuration() -> None:
    [container] = pod()["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports(kubernetes_settings())
    service = manifest("Service")["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == ports(kubernetes_settings())
    assert service["clusterIP"] == "None"
    assert manifest("StatefulSet")["spec"]["serviceName"] == "mqk"


def test_the_pod_is_asked_at_endpoints_that_there_are() -> None:
    [container] = pod()["containers"]
    endpoints = {route.path for route in make_app(Views(lambda: Check(True, ""), dict, bytes)).routes}  # type: ignore[attr-defined]
    asked = {name: container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert asked == {"livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert set(asked.values()) <= endpoints


def test_the_pod_is_the_image_and_has_time_to_drain() -> None:
    assert USER is not None
    assert pod()["securityContext"]["runAsUser"] == int(USER[1])
    assert pod()["terminationGracePeriodSeconds"] > seconds_to_stop(kubernetes_settings())
    [container] = pod()["containers"]
    assert container["args"] == ["--config", "/etc/mqk/mqk.toml"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod()["volumes"]}


def test_all_selectors_mean_the_replicas() -> None:
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_only_haproxy_is_let_in() -> None:
    balancers = manifest("Deployment", "haproxy")["spec"]["template"]
    [peer] = manifest("NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"] == balancers["metadata"]["labels"]
    assert kubernetes_settings().listeners[0].proxy_protocol_from
    [container] = balancers["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"mqtt": 1883, "stats": 8404}
    told = {each["name"]: each["value"] for each in container["env"]}
    assert (told["MQTT_BIND"], told["ADMIN_BIND"]) == (":1883", ":8404")
    assert set(told) <= set(re.findall(r"\$\{(\w+)-", (KUBERNETES / "haproxy.cfg").read_text()))


def test_the_pod_drains_before_it_ends() -> None:
    [container] = pod()["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["mqk", "drain"]
    assert (
        subprocess.run(
            [sys.executable, "-m", "proxy", *command[1:], "--help"], capture_output=True, check=False
        ).returncode
        == 0
    )


# ---- compose ----

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
REPLICAS = {name: each for name, each in COMPOSE["services"].items() if each.get("image", "").startswith(IMAGE)}


def compose_settings(replica: dict[str, Any]) -> Settings:
    return load(None, environ={name: str(value) for name, value in replica["environment"].items()}).settings


def test_compose_file_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_runs_three_replicas_of_this_version() -> None:
    assert len(REPLICAS) == 3
    for name, replica in REPLICAS.items():
        settings = compose_settings(replica)
        assert settings.node.id == name
        assert replica["image"] == f"{IMAGE}:{proxy.__version__}"
        assert replica["command"] == []
        assert int(replica["stop_grace_period"].removesuffix("s")) > seconds_to_stop(settings)
        # The image's health check asks there.
        assert settings.admin.bind == "0.0.0.0:8080"


def test_compose_believes_haproxy_and_nobody_else() -> None:
    balancer = COMPOSE["services"]["haproxy"]
    at = balancer["networks"]["mqk"]["ipv4_address"]
    for replica in REPLICAS.values():
        settings = compose_settings(replica)
        assert settings.listeners[0].proxy_protocol_from == [f"{at}/32"]
        assert ports(settings) == {"mqtt": 1883, "admin": 8080, "agent": 8090}
    addresses = [f"{each['networks']['mqk']['ipv4_address']}:1883" for each in REPLICAS.values()]
    assert addresses == HAPROXIES["compose"]
    assert set(balancer["environment"]) <= set(
        re.findall(r"\$\{(\w+)-", (ROOT / "deploy" / "compose" / "haproxy.cfg").read_text())
    )


def test_nobody_outside_reaches_what_compose_leaves_open() -> None:
    published = [port for each in COMPOSE["services"].values() for port in each.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    [token] = {token.token_sha256 for each in REPLICAS.values() for token in compose_settings(each).admin.tokens}
    assert token == hashlib.sha256(b"try-it").hexdigest()
    assert "`try-it`" in (ROOT / "deploy" / "compose" / "README.md").read_text()


def test_compose_has_the_kafka_that_the_replicas_ask_for() -> None:
    kafka = COMPOSE["services"]["kafka"]["environment"]
    advertised = kafka["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://")
    assert [compose_settings(each).kafka.bootstrap_servers for each in REPLICAS.values()] == [[advertised]] * 3


# ---- all of them ----


@pytest.mark.parametrize("file", sorted(ROOT.glob("deploy/*/*.toml")), ids=lambda file: file.parent.name)
def test_each_configuration_can_be_used(file: Path) -> None:
    assert load(file, environ=POD_ENVIRONMENT).settings.auth.chain, "devices show who they are"


@pytest.mark.parametrize("page", sorted(ROOT.glob("deploy/**/*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_files_that_there_are(page: Path) -> None:
    named = re.findall(r"\bdeploy/[\w./-]+\w", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
