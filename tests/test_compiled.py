"""The rooms that compile to C behave as their source does: their tests, run against the compiled ones."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / ".cache" / "compiled"
#: Those that look at behaviour alone: others count copies, or replace what compiled code has bound.
TESTS = (
    "tests/mqtt/test_decode.py",
    "tests/mqtt/test_roundtrip.py",
    "tests/mqtt/test_topics.py",
    "tests/mqtt/test_vectors.py",
    "tests/session/test_acks.py",
    "tests/session/test_connect.py",
    "tests/session/test_ends.py",
    "tests/session/test_hold.py",
    "tests/session/test_publish.py",
    "tests/session/test_vectors.py",
    "tests/session/test_vectors_live.py",
)


@pytest.mark.install
def test_the_compiled_rooms_pass_the_tests_of_their_source() -> None:
    assert list(COMPILED.glob("proxy/mqtt/decode.*.so")), f"nothing compiled in {COMPILED}; `make compiled` does it"
    pytest_with_compiled = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-o", f"pythonpath={COMPILED} {ROOT}", *TESTS),
    ]
    ran = subprocess.run(pytest_with_compiled, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    which = (
        "from proxy.mqtt import decode; from proxy.session import protocol; print(decode.__file__, protocol.__file__)"
    )
    files = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(COMPILED)!r}]; {which}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert all(file.startswith(str(COMPILED)) and file.endswith(".so") for file in files), files
