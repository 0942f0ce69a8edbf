"""The vectors at the height of a live socket: the product without its process, with a Kafka in memory."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from proxy.mqtt.packets import MQTT_3_1
from proxy.net.listener import Listener
from proxy.policy.rules import RuleSpec
from tests.flows.harness import Replica
from tests.support.live import LiveDevice
from tests.support.wire import VERSIONS, Vector, octets, pattern, proves, session_limits, vectors

ALL = vectors()
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def port() -> AsyncIterator[int]:
    """One replica for all vectors. Every topic name has a route, so that all answers are those of the wire."""
    replica = Replica(headers=[], connects_per_second_max=1_000_000, rules=[RuleSpec(["all"], filter="#")])
    listener = Listener(session_limits(), 100, replica.gateway, replica.uplink.new_client)
    yield await listener.listen("127.0.0.1", 0)
    listener.stop()
    assert (listener.bugs, replica.gateway.bugs) == (0, [])


@pytest_asyncio.fixture(loop_scope="module")
async def device(port: int) -> AsyncIterator[LiveDevice]:
    async with await LiveDevice.on(port) as device:
        yield device


async def offer(device: LiveDevice, vector: Vector) -> None:
    """Sends the vector's packet, behind a CONNECT that is accepted if it needs one."""
    if vector.after:
        device.writer.write(vector.after)
        connack = await device.packet()
        assert (connack[0], connack[3]) == (0x20, 0), connack.hex(" ")
    device.writer.write(vector.data)


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is None], ids=str)
async def test_is_accepted(device: LiveDevice, vector: Vector) -> None:
    await offer(device, vector)
    if not vector.answer.fullmatch(b""):
        answer = await device.packet()
        assert vector.answer.fullmatch(answer), answer.hex(" ")
    if vector.end is None:
        device.writer.write(PINGREQ)
        assert await device.packet() == PINGRESP
    else:
        assert await device.rest() == b""


@pytest.mark.parametrize("vector", [each for each in ALL if each.reason is not None], ids=str)
async def test_is_refused(device: LiveDevice, vector: Vector) -> None:
    await offer(device, vector)
    rest = await device.rest()
    assert vector.answer.fullmatch(rest), rest.hex(" ")


async def test_a_device_may_close_its_side_first(device: LiveDevice) -> None:
    """Half-close: what came before it is answered, then the server closes too."""
    device.writer.write(octets('10 { P 02 003c "half" } c0 00'))
    device.writer.write_eof()
    assert await device.rest() == octets("20 02 00 00 d0 00")


@proves("3.1.1:MQTT-7.1.1-1", "3.1.1:MQTT-7.1.1-2", "5.0:MQTT-4.2.0-1")
async def test_written_byte_by_byte(device: LiveDevice) -> None:
    for byte in octets('10 { P 02 003c "slow" } 32 { "a" 0001 (hi) }'):
        device.writer.write(bytes((byte,)))
        await device.writer.drain()
    assert await device.packet() == octets("20 02 00 00")
    assert await device.packet() == octets("40 { 0001 }")


@proves("3.1.1:MQTT-3.1.4-2", "5.0:MQTT-3.1.4-3", "3.1.1:MQTT-3.1.3-2", "5.0:MQTT-3.1.3-2")
async def test_taken_over(device: LiveDevice, port: int) -> None:
    device.writer.write(octets('10 { P 02 003c 00 "twin" } 32 { "a" 0001 00 }', 5))
    assert (await device.packet())[0] == 0x20
    assert await device.packet() == octets("40 { 0001 }")
    async with await LiveDevice.on(port) as newer:
        newer.sends('10 { P 02 003c "twin" }')
        await newer.hears("20 02 00 00")
        assert pattern("e0 ?? 8e *", 5).fullmatch(await device.rest())


async def connected(port: int, connect: str, version: int, *, session_present: bool = False) -> LiveDevice:
    """A device that was let in."""
    device = await LiveDevice.on(port, version)
    device.sends(connect)
    connack = await device.packet()
    assert (connack[0], connack[2], connack[3]) == (0x20, session_present, 0), connack.hex(" ")
    return device


@pytest.mark.parametrize("version", VERSIONS)
async def test_exactly_once(port: int, version: int) -> None:
    """With a message that comes again before its PUBREL, while others are under way."""
    device = await connected(port, '10 { P 02 003c [00] "twice" }', version)
    device.writer.write(octets('34 { "a" 0001 [00] (hi) } 32 { "a" 0002 [00] } 3c { "a" 0001 [00] (hi) }', version))
    assert await device.packet() == octets("50 { 0001 }")
    assert await device.packet() == octets("40 { 0002 }")
    device.writer.write(octets('3c { "a" 0001 [00] (hi) } 62 { 0001 } 62 { 0001 }', version))
    assert await device.packet() == octets("50 { 0001 }")
    assert await device.packet() == octets("70 { 0001 }")
    assert await device.packet() == octets("70 { 0001 [92] }", version)
    device.writer.write(octets("e0 00"))
    assert await device.rest() == b""
    device.writer.close()
    await device.writer.wait_closed()


@pytest.mark.parametrize("version", VERSIONS)
@proves("3.1.1:MQTT-3.1.2-6", "5.0:MQTT-3.1.2-4", "5.0:MQTT-4.1.0-2")
async def test_nothing_outlives_a_connection_that_asks_for_no_session(port: int, version: int) -> None:
    """A QoS 2 message that waits for PUBREL is forgotten."""
    connect = '10 { P 02 003c [00] "again" }'
    device = await connected(port, connect, version)
    await half_of_exactly_once(device, version)
    device = await connected(port, connect, version)
    device.writer.write(octets("62 { 0001 }"))
    assert await device.packet() == octets("70 { 0001 [92] }", version)
    await hang_up(device)


@pytest.mark.parametrize("version", VERSIONS)
@proves(
    "3.1.1:MQTT-3.1.2-4", "3.1.1:MQTT-3.1.4-3", "3.1.1:MQTT-3.2.2-2", "3.1.1:MQTT-4.1.0-1",
    "5.0:MQTT-3.1.2-5", "5.0:MQTT-3.1.2-23", "5.0:MQTT-3.2.2-3", "5.0:MQTT-4.1.0-1",
)  # fmt: skip
async def test_a_session_outlives_its_connection(port: int, version: int) -> None:
    """A QoS 2 message that waits for PUBREL still does, and CONNACK says that the session is there."""
    connect = f'10 {{ P 00 003c [{{ 11 0000003c }}] "session-{version}" }}'
    device = await connected(port, connect, version)
    await half_of_exactly_once(device, version)
    device = await connected(port, connect, version, session_present=version > MQTT_3_1)
    device.writer.write(octets('3c { "a" 0001 [00] (hi) } 62 { 0001 } 62 { 0001 }', version))
    assert await device.packet() == octets("50 { 0001 }")
    assert await device.packet() == octets("70 { 0001 }")
    assert await device.packet() == octets("70 { 0001 [92] }", version)
    await hang_up(device)


async def half_of_exactly_once(device: LiveDevice, version: int) -> None:
    """A message of QoS 2 as far as its PUBREC; then the connection is lost."""
    device.writer.write(octets('34 { "a" 0001 [00] (hi) }', version))
    assert await device.packet() == octets("50 { 0001 }")
    await hang_up(device)


async def hang_up(device: LiveDevice) -> None:
    device.writer.close()
    await device.writer.wait_closed()
