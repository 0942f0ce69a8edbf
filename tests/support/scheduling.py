"""Which tests the workers of `pytest -n` run together: those of a file, so that what they share is made once.

End-to-end tests and clients stand apart, because each takes seconds and shares only what every worker has.
"""

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Folders whose tests may run in any worker,
APART = ("tests/e2e/", "tests/peers/")
#: except those that share something which is dear to start and which other workers do not share: by its fixture.
TOGETHER = {
    "mortal_kafka": (
        "tests/e2e/test_admin_outage.py",
        "tests/e2e/test_crashes.py",
        "tests/e2e/test_balanced_outage.py",
        "tests/e2e/test_outage.py",
        "tests/e2e/test_sessions.py",
        "tests/e2e/test_clusters.py",
        "tests/e2e/test_clusters_routed.py",
    ),
    "secure_kafka": ("tests/e2e/test_security.py", "tests/kafka/test_security.py"),
}


class Scheduling(LoadScopeScheduling):
    """One unit of work after the other, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        """The unit of work that a test belongs to."""
        return unit_of_work(nodeid)


def unit_of_work(nodeid: str) -> str:
    for fixture, files in TOGETHER.items():
        if nodeid.startswith(files):
            return fixture
    if nodeid.startswith(APART):
        return nodeid
    return nodeid.partition("::")[0]
