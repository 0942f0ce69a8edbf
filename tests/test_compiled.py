"""The rooms that compile to C behave as their source does: their tests, run against the compiled ones."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / ".cache" / "compiled"


@pytest.mark.install
def test_the_compiled_rooms_pass_the_tests_of_their_source() -> None:
    assert list(COMPILED.glob("proxy/mqtt/decode.*.so")), f"nothing compiled in {COMPILED}; `make compiled` does it"
    pytest_with_compiled = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-o", f"pythonpath={COMPILED} {ROOT}", "tests/mqtt", "tests/session"),
    ]
    ran = subprocess.run(pytest_with_compiled, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    which = "import proxy.mqtt.decode as decode, proxy.session.protocol as protocol; print(decode.__file__, protocol.__file__)"
    files = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(COMPILED)!r}]; {which}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert all(file.startswith(str(COMPILED)) and file.endswith(".so") for file in files), files
