"""Documentation that fails the build: what is printed from the code and what lies in docs/ are the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import Row, describe

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("row", describe(), ids=lambda row: row.key)
def test_every_setting_says_what_it_means(row: Row) -> None:
    assert row.meaning.endswith(".")
    assert row.type
    assert row.default
    # A number in seconds or bytes says so in its name, and its unit is read off it.
    assert bool(row.unit) == row.key.endswith(("_seconds", "_bytes_max", "_per_second_max"))


def test_settings_page_is_what_the_models_say() -> None:
    command = [sys.executable, "-m", "proxy", "config", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (DOCS / "settings.md").read_text() == printed, "run: python -m proxy config --markdown > docs/settings.md"
