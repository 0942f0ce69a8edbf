"""Connections that no client would make, hundreds of them: the proxy lives, forgets them, and serves the others.

The full size is in `tests/prove/test_fuzz.py`.
"""

from pathlib import Path

from tests.e2e.conftest import StartProxy
from tests.support.fuzzing import two_rounds

CONNECTIONS = 500
#: So few connections do not yet show what the proxy needs for good: caches and arenas of the allocator still fill.
RSS_GROWTH_MAX = 0.2


def test_two_rounds(start_proxy: StartProxy, tmp_path: Path) -> None:
    seen = two_rounds(start_proxy({}), tmp_path, CONNECTIONS, messages_before=50)
    assert seen.messages_during > 0
    assert seen.rss_growth < RSS_GROWTH_MAX
