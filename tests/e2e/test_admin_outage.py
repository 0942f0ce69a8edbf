"""The admin API while Kafka is away: it answers, and promises nothing."""

from pathlib import Path

import httpx

from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

BAN = {"kind": "clientid", "value": "c1"}


def test_without_kafka_nobody_is_said_to_be_banned(mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    with (
        ProxyProcess(mortal_kafka.bootstrap, tmp_path) as proxy,
        httpx.Client(base_url=f"http://127.0.0.1:{proxy.admin_port}", timeout=30) as client,
    ):
        assert client.post("/v1/bans", json=BAN).status_code == 201
        mortal_kafka.stop()
        try:
            # At once its outcome is unknown, later it is certain that nothing was changed.
            for value in ("c2", "c3"):
                refused = client.post("/v1/bans", json=BAN | {"value": value})
                assert (refused.status_code, "kafka" in refused.json()["detail"]) == (503, True)
            wait_until(lambda: "nothing was changed" in client.post("/v1/bans", json=BAN).text, "it is known", 30)
            assert client.delete("/v1/bans/clientid/c1").status_code == 503
            assert [each["value"] for each in client.get("/v1/bans").json()["bans"]] == ["c1"]
            assert client.get("/v1/clients").status_code == 200
        finally:
            mortal_kafka.start()
        wait_until(lambda: client.delete("/v1/bans/clientid/c1").status_code == 204, "bans can be lifted again", 60)
