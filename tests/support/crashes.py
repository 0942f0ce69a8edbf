"""One round of each crash that must lose nothing: SIGKILL of the proxy, and of Kafka, in the middle of a load.

The size of a round is the caller's: a few thousand messages in the test suite, many more where it is proven.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.kafka_broker import KafkaBroker
from tests.support.load import Load
from tests.support.proxy import ProxyProcess

CONNECTIONS = 50
#: Unacknowledged messages of each connection: what a crash can catch on its way.
INFLIGHT = 20
#: What a busy machine carries at the least.
MESSAGES_PER_SECOND_MIN = 500
#: For the way back: a Kafka that was killed takes about 13 s, and devices come back within 5 s of that.
RECOVERY_SECONDS = 90.0


def kill_proxy(
    proxy: ProxyProcess, kafka: KafkaBroker, directory: Path, messages: int, rate: int = 0
) -> dict[str, Any]:
    """Returns the load tool's figures, of which `check_nothing_lost` is already true; rate 0: as fast as it goes."""

    def crash() -> None:
        proxy.kill()
        proxy.start()

    figures = _crash(crash, proxy, kafka, directory, messages, rate)
    assert figures["connections"]["lost"] == CONNECTIONS, "the crash was not noticed"
    return figures


def kill_kafka(
    proxy: ProxyProcess, kafka: KafkaBroker, directory: Path, messages: int, rate: int = 0
) -> dict[str, Any]:
    """Like `kill_proxy`; devices only notice that an acknowledgement takes longer."""

    def crash() -> None:
        kafka.kill()
        kafka.start()

    figures = _crash(crash, proxy, kafka, directory, messages, rate)
    assert figures["connections"]["lost"] == figures["resent"] == 0, figures["connections"]
    return figures


def _crash(
    crash: Callable[[], None], proxy: ProxyProcess, kafka: KafkaBroker, directory: Path, messages: int, rate: int
) -> dict[str, Any]:
    flags = {"connections": CONNECTIONS, "inflight": INFLIGHT, "stop-after": messages, "rate": rate}
    seconds = messages / MESSAGES_PER_SECOND_MIN + RECOVERY_SECONDS
    with Load(proxy, kafka.bootstrap, directory, {**flags, "seconds": seconds}) as load:
        load.wait_for_acked(messages // 4)
        crash()
        assert load.acked < messages, "the load was over before the crash"
        figures = load.finish(seconds)
    check_nothing_lost(figures, messages)
    return figures


def check_nothing_lost(figures: dict[str, Any], messages: int) -> None:
    """Every message was acknowledged in the end, and Kafka has each in its place; some of them perhaps twice."""
    verified = figures["verify"]
    assert figures["acked"] == verified["acknowledged"] == messages, f"{figures['unacknowledged']} not acknowledged"
    assert verified["lost"] == verified["reordered"] == verified["corrupted"] == 0, verified["examples"]
