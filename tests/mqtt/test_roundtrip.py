"""Properties of the codec that hold for every packet and for any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import MqttError
from proxy.mqtt.decode import decode_packet
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.framing import Framer
from proxy.mqtt.packets import Packet
from tests.support.packets import examples, packets_of
from tests.support.wire import VERSIONS, framed, vectors

versions = st.sampled_from(VERSIONS)
versioned_packets = st.one_of([st.tuples(st.just(version), packets_of(version)) for version in VERSIONS])
SAMPLES = sorted({each.data for each in vectors() if len(each.data) < 300})


def decode(data: bytes, version: int) -> Packet:
    framer = framed(data)
    return decode_packet(framer.first_byte, framer.buffer, framer.start, framer.stop, version)


@given(versioned_packets)
@examples(300)
def test_what_is_written_is_read(sample: tuple[int, Packet]) -> None:
    version, packet = sample
    data = encode_packet(packet, version)
    assert decode(data, version) == packet
    assert encode_packet(decode(data, version), version) == data


@given(versioned_packets, st.data())
@examples(100)
def test_a_body_that_is_cut_is_never_the_same_packet(sample: tuple[int, Packet], data: st.DataObject) -> None:
    version, packet = sample
    framer = framed(encode_packet(packet, version))
    if framer.start == framer.stop:
        return
    stop = data.draw(st.integers(framer.start, framer.stop - 1))
    try:
        read = decode_packet(framer.first_byte, framer.buffer, framer.start, stop, version)
    except MqttError:
        return
    assert read != packet


@given(versions, st.integers(0, 255), st.binary(max_size=60))
@examples(300)
def test_any_body_raises_nothing_but_mqtt_error(version: int, first_byte: int, body: bytes) -> None:
    only_mqtt_errors(first_byte, body, version)


@given(versions, st.sampled_from(SAMPLES), st.data())
@examples(400)
def test_mutated_packets_raise_nothing_but_mqtt_error(version: int, sample: bytes, data: st.DataObject) -> None:
    mutated = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        mutated[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    if mutated:
        only_mqtt_errors(mutated[0], bytes(mutated[2:]), version)


def only_mqtt_errors(first_byte: int, body: bytes, version: int) -> None:
    """Whatever else is raised fails the test, and what is accepted can be written."""
    try:
        packet = decode_packet(first_byte, body, 0, len(body), version)
    except MqttError as error:
        assert 0x80 <= error.reason <= 0xA2
        assert str(error)
    else:
        encode_packet(packet, version)


@given(st.lists(st.binary(max_size=20)))
@examples(150)
def test_any_reads_raise_nothing_but_mqtt_error_in_the_framer(reads: list[bytes]) -> None:
    """And what is kept is never more than the limit and one read."""
    framer = Framer(50)
    try:
        for data in reads:
            framer.feed(data)
            while framer.next_packet():
                assert framer.stop - framer.start <= 50
            assert framer.unread_bytes < 50 + len(data)
    except MqttError as error:
        assert error.reason in {0x81, 0x95}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_prefix_of_every_vector(version: int) -> None:
    for sample in SAMPLES:
        for stop in range(2, len(sample)):
            only_mqtt_errors(sample[0], sample[2:stop], version)
