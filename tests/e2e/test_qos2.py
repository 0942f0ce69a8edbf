"""QoS 2 from device to Kafka, with everything said more than once: each message is there once.

The full size is in `tests/prove/test_exactly_once.py`.
"""

from tests.support.exactly_once import check_exactly_once, publish_exactly_once
from tests.support.kafka_broker import KafkaBroker
from tests.support.proxy import ProxyProcess

CLIENTS = 8
MESSAGES = 2_000


def test_each_message_is_stored_once(proxy: ProxyProcess, kafka: KafkaBroker) -> None:
    clients = publish_exactly_once(proxy.port, "once", CLIENTS, MESSAGES)
    check_exactly_once(kafka, f"{proxy.topic_prefix}msg", clients)
