"""docs/migration.md followed to the letter: the plugin's configuration becomes ours, and records go where they went."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support.device import Device
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import Process, wait_until
from tests.support.proxy import ProxyProcess

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
PARTITIONS = 12
SUFFIXES = ("ota", "sub_register", "sub_status", "msg", "status")
#: MQTT topic → Kafka topic without its prefix, as the plugin's rules have it; None: it forwards nothing.
RULES = {
    "tlink/pk/dev/ota/version": "ota",
    "tlink/a/total": "ota",
    "tlink/ota/sub/register": "ota",
    "tlink/pk/dev/sub/register": "sub_register",
    "tlink/sub/login/sub/register": "sub_register",
    "tlink/pk/dev/sub/login": "sub_status",
    "tlink/pk/dev/up": "msg",
    "tlink/": "msg",
    "tlink": None,
    "other/pk/ota": None,
}


class Followed(ProxyProcess):
    """A proxy that is started with a file as the page says, on ports of its own."""

    def __init__(self, config: Path, *flags: str) -> None:
        super().__init__("", config.parent)
        self._file = config
        own = (f'listeners=[{{"bind": "127.0.0.1:{self.port}"}}]', f"admin.bind=127.0.0.1:{self.admin_port}")
        self._flags = [part for flag in (*own, *flags) for part in ("--set", flag)]

    def launch(self) -> None:
        command = [sys.executable, "-m", "proxy", "serve", "--config", self._file, *self._flags]
        self._process = Process(command, self.log)
        self._wait_for("/livez")


def mqk(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", "proxy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def translated(kafka: KafkaBroker, directory: Path) -> Path:
    """The page's example, with this Kafka's port, through the page's two commands."""
    [conf] = re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)
    port = kafka.bootstrap.rpartition(":")[2]
    (directory / "emqx_plugin_kafka.conf").write_text(conf.replace("kafka.port = 9092", f"kafka.port = {port}"))
    config = directory / "mqk.toml"
    config.write_text(mqk("migrate", directory / "emqx_plugin_kafka.conf"))
    assert mqk("check-config", "--config", config) == f"{config}: ok\n"
    return config


def publish_all(proxy: ProxyProcess, client_id: str) -> None:
    with Device(proxy.port) as device:
        device.connect(client_id)
        for topic in RULES:
            assert device.publish_acknowledged(topic, topic.encode()[::-1]) == 0


def found(kafka: KafkaBroker, prefix: str, client_id: str) -> set[tuple[str, bytes | None, bytes | None, int]]:
    """Topic, key, value and partition of what a client published, from every topic but the one of its coming."""
    return {
        (record.topic, record.key, record.value, record.partition)
        for suffix in SUFFIXES[:-1]
        for record in kafka.read(f"{prefix}{suffix}")
        if ("mqtt.clientid", client_id.encode()) in record.headers
    }


def expected(prefix: str) -> set[tuple[str, bytes, bytes, int]]:
    return {
        (f"{prefix}{suffix}", topic.encode(), topic.encode()[::-1], md5(topic) % PARTITIONS)
        for topic, suffix in RULES.items()
        if suffix
    }


def md5(key: str) -> int:
    """The last byte."""
    return hashlib.md5(key.encode(), usedforsecurity=False).digest()[-1]


def test_the_page(kafka: KafkaBroker, tmp_path: Path) -> None:
    config = translated(kafka, tmp_path)
    for suffix in SUFFIXES:  # The plugin's topics are there.
        kafka.create_topic(f"tlink_device_{suffix}", PARTITIONS)
    apart = ("kafka.topic_prefix=trial_", "kafka.internal_prefix=_trial_")
    with Followed(config, *apart, "kafka.replication_factor=1") as trial:
        publish_all(trial, "moved")
        assert found(kafka, "trial_", "moved") == expected("trial_")
        assert kafka.topics()["trial_msg"] == PARTITIONS
    with Followed(config, "kafka.replication_factor=1") as proxy:
        publish_all(proxy, "moved")
        assert found(kafka, "tlink_device_", "moved") == expected("tlink_device_")
        wait_until(lambda: len(kafka.read("tlink_device_status")) == 2, "it came and went")
    came, went = sorted(kafka.read("tlink_device_status"), key=lambda record: record.key or b"")
    assert (came.key, went.key) == (b"connected", b"disconnected")
    assert (came.partition, went.partition) == (md5("connected") % PARTITIONS, md5("disconnected") % PARTITIONS)
    for record, fields in (
        (came, "action clientid username keepalive ipaddress proto_name proto_ver timestamp online "),
        (went, "action clientid username reason timestamp online "),
    ):
        assert " ".join(json.loads(record.value or b"")).startswith(fields)
