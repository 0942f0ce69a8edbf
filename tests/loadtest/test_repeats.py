"""QoS 2 said more than once: what a device repeats, which answers it takes for it, and which it still reports."""

from collections.abc import Callable

import pytest

from loadtest.errors import UsageError
from loadtest.settings import LoadSettings
from tests.loadtest.test_device import Bench, Sent

PUBREC, PUBREL, PUBCOMP = 0x50, 0x62, 0x70
NOT_FOUND = 0x92


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """Makes a device whose every chance comes true."""

    def make(**settings: int) -> Bench:
        bench = Bench(qos=2, repeat=0.5, **settings)
        repeats = bench.device._repeats
        assert repeats is not None
        monkeypatch.setattr(repeats, "_share", 1.0)
        return bench

    return make


def test_publish_is_repeated_until_its_pubrec(bench: Callable[..., Bench]) -> None:
    device = bench(inflight=2)
    again = [Sent(1, True, 0), Sent(2, True, 1)]
    assert device.publish() == [Sent(1, False, 0), Sent(2, False, 1), *again]
    assert device.publish() == again
    device.ack(1, kind=PUBREC)
    # The last moment at which the first may be repeated is before its PUBREL.
    assert device.publish() == again
    assert device.others == [(PUBREL, b"\0\x01")] * 2
    assert (device.tally.publishes_repeated, device.tally.releases_repeated) == (6, 1)


def test_each_repeated_publish_explains_one_pubrec(bench: Callable[..., Bench]) -> None:
    device = bench(inflight=1)
    device.publish()
    device.ack(1, 1, 1, kind=PUBREC)
    assert device.errors() == (0, 0, 0)
    assert (device.tally.acked, device.tally.pubrecs_repeated) == (1, 2)
    device.ack(1, kind=PUBREC)
    assert device.errors() == (0, 1, 0)


def test_the_packet_id_is_free_when_every_pubrel_has_its_pubcomp(bench: Callable[..., Bench]) -> None:
    device = bench(inflight=1, packet_ids=1, version=5)
    device.publish()
    device.ack(1, kind=PUBREC)
    device.publish()
    device.ack(1, kind=PUBCOMP)
    assert device.publish() == []
    device.ack(1, kind=PUBCOMP, reason=NOT_FOUND)
    assert device.publish() == [Sent(1, False, 1), Sent(1, True, 1)]
    assert device.tally.reasons == {"0x92": 1}
    device.ack(1, kind=PUBCOMP)
    assert device.errors() == (1, 0, 0)


def test_a_new_connection_owes_one_pubcomp(bench: Callable[..., Bench]) -> None:
    device = bench(inflight=1)
    device.publish()
    device.ack(1, kind=PUBREC)
    device.publish()
    device.device.lose_connection()
    device.connect()
    assert device.publish() == []
    assert device.others == [(PUBREL, b"\0\x01")]
    device.ack(1, kind=PUBCOMP)
    assert device.device.outstanding == 0
    assert device.errors() == (0, 0, 0)


def test_packet_ids_are_used_in_turn() -> None:
    device = Bench(inflight=2, packet_ids=3)
    assert [each.packet_id for each in device.publish()] == [1, 2]
    device.ack(1, 2)
    assert [each.packet_id for each in device.publish()] == [3, 1]
    device.ack(3, 1)
    assert device.device.first == 4
    assert device.errors() == (0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"repeat": 0.5, "qos": 1}, "--repeat"),
        ({"repeat": 1.0, "qos": 2}, "--repeat"),
        ({"packet_ids": 65_536}, "--packet-ids"),
        ({"packet_ids": 3, "inflight": 4}, "--inflight"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        LoadSettings(host="test", port=1883, **settings)  # type: ignore[arg-type]
