"""200 000 schedules of the session log without a violation. SESSIONS_SCHEDULES is another number of them.

SESSIONS_FIRST_SEED is where they begin, by default where no run has begun before.
"""

import os
import secrets
from collections import Counter

import pytest

from tests.cluster.model import Break, run

SCHEDULES = int(os.environ.get("SESSIONS_SCHEDULES", "200000"))
FIRST_SEED = int(os.environ.get("SESSIONS_FIRST_SEED", str(secrets.randbits(40))))


def test_the_rules_hold(capsys: pytest.CaptureFixture[str]) -> None:
    seen = Counter[str]()
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        problems = run(seed, Break(), seen)
        assert not problems, f"SESSIONS_FIRST_SEED={seed}: {problems}"
    with capsys.disabled():
        print(f"\nsession log: {SCHEDULES} schedules from seed {FIRST_SEED}, {dict(seen)}")
