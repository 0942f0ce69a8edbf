"""Who has gone is forgotten: no object of a connection outlives it. The proof `visitors` has 100 000 of them."""

import asyncio
import gc

import pytest

from proxy.cluster.table import LocalSession
from proxy.flows.access import AccessSettings
from proxy.flows.attachment import Attachment
from proxy.flows.client import Client
from proxy.flows.downlink import Outbox
from proxy.flows.subscriptions import Subscriptions
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_5_0, SESSION_EXPIRY_INTERVAL, Subscribe, Subscription
from proxy.net.connection import MqttConnection
from proxy.session.protocol import ServerProtocol
from tests.flows.harness import UP, Device, Replica
from tests.support.fakes import until

OF_A_CONNECTION = (MqttConnection, ServerProtocol, Client, Attachment, LocalSession, Subscriptions, Outbox)
DEVICES = 20


def there() -> list[str]:
    gc.collect()
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_A_CONNECTION)]


@pytest.mark.parametrize("goodbye", [True, False], ids=["DISCONNECT", "vanishes"])
@pytest.mark.parametrize("expiry", [0, 60], ids=["clean", "with a session"])
async def test_nothing_is_kept_of_a_connection(expiry: int, goodbye: bool) -> None:
    replica = Replica(access=AccessSettings(subscribe_default="allow"))
    before = there()
    for number in range(DEVICES):
        device = Device(replica, MQTT_5_0)
        device.connect(f"device-{number}", properties={SESSION_EXPIRY_INTERVAL: expiry})
        device.send(encode_packet(Subscribe(7, [Subscription("down/#", 1)]), MQTT_5_0))
        for qos in (0, 1, 2):
            device.publish(qos=qos, packet_id=10 + qos)
        await until(lambda: len(replica.gateway.stored(UP)) == 3 * (number + 1), "all is in Kafka")  # noqa: B023
        if goodbye:
            device.disconnect()
        else:
            device.vanish()
        del device
    await until(lambda: not replica.uplink.clients and not replica.listener.connections, "all have gone")
    replica.sessions.tick()  # As twice a second: it looks at those whose CLAIM may come too late.
    await asyncio.sleep(0.01)
    assert there() == before
