"""Kills the processes that a test run started if the run itself is killed. It runs as a process of its own.

It reads `+GROUP` and `-GROUP` lines, a process group each, until the run closes the pipe: by ending well, when no group
is left, or by dying in whatever way. Nothing else belongs here: whoever looks after others must be too small to fail.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):  # It ended between the run's death and now.
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
