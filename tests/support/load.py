"""The load tool as its users run it, in processes of its own; what it has seen so far, and its figures at the end."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.support.processes import Process
from tests.support.proxy import ProxyProcess

#: For the start of its processes and for reading Kafka back, beside the time that the load itself takes.
EXTRA_SECONDS = 120.0


class Load:
    """`python -m loadtest run` against a proxy; Kafka is read back at the end. As a context manager it is killed.

    `flags` are the tool's, without their dashes: `{"connections": 50, "seconds": 10}`; True is a flag without a value.
    """

    def __init__(self, proxy: ProxyProcess, bootstrap: str, directory: Path, flags: dict[str, object]) -> None:
        self._figures = directory / f"load-{len(list(directory.glob('load-*.json')))}.json"
        self._figures.touch()
        command = [
            *(sys.executable, "-m", "loadtest", "run", "--target", f"127.0.0.1:{proxy.port}"),
            *(f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()),
            *("--verify", f"kafka:{bootstrap}", "--verify-topics", f"^{re.escape(proxy.topic_prefix)}"),
            *("--json", str(self._figures)),
        ]
        self.process = Process(command, self._figures.with_suffix(".log"))

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        print(self.process.output)  # Seen when the test fails.

    @property
    def acked(self) -> int:
        """Messages acknowledged so far; a second old at the most."""
        return int((re.findall(r"acked (\d+)", self.process.output) or ["0"])[-1])

    def wait_for_acked(self, count: int, timeout_seconds: float = 60.0) -> None:
        self.process.wait_until(lambda: self.acked >= count, f"{count} messages are acknowledged", timeout_seconds)

    def finish(self, seconds: float) -> dict[str, Any]:
        """Its figures, once it has ended, which may take `seconds` and some more; its own checks must have passed."""
        status = self.process.wait(seconds + EXTRA_SECONDS)
        assert status == 0, f"the load tool ended with {status}"
        figures: dict[str, Any] = json.loads(self._figures.read_text())
        return figures
