"""Connections come, use a little of everything and go. The full size is in `tests/prove/test_visitors.py`."""

from tests.e2e.conftest import StartProxy
from tests.support.visitors import DESCRIPTORS_MORE_MAX, SETTINGS, visit

WARM_UP = 1_000
CONNECTIONS = 2_000
#: A connection that is kept has some kilobytes; the allocator's arenas still fill.
GROWTH_BYTES_MAX = 2_000 * CONNECTIONS


def test_nothing_is_kept_of_them(start_proxy: StartProxy) -> None:
    proxy = start_proxy(SETTINGS)
    before = visit(proxy, range(WARM_UP))
    after = visit(proxy, range(WARM_UP, WARM_UP + CONNECTIONS))
    assert after.growth_bytes(before) < GROWTH_BYTES_MAX
    assert after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX
