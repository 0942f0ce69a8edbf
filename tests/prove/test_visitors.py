"""100 000 connections come, use a little of everything and go: the proxy keeps nothing of them."""

from pathlib import Path

import pytest

from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess
from tests.support.visitors import DESCRIPTORS_MORE_MAX, SETTINGS, visit

#: Until then the proxy still gets what it needs for good: caches, and arenas of the allocator.
WARM_UP = 30_000
CONNECTIONS = 100_000
#: The smallest thing that each connection could leave behind is larger.
GROWTH_BYTES_MAX = 50 * CONNECTIONS


def test_nothing_is_kept_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka,
        ProxyProcess(kafka.bootstrap, tmp_path, SETTINGS) as proxy,
    ):
        before = visit(proxy, range(WARM_UP))
        after = visit(proxy, range(WARM_UP, WARM_UP + CONNECTIONS))
    with capsys.disabled():
        growth = round(after.growth_bytes(before))
        print(f"\n{CONNECTIONS} connections: {before} became {after}, {growth} bytes of that unexplained")
    assert after.growth_bytes(before) < GROWTH_BYTES_MAX
    assert after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX
